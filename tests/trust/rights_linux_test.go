package trust_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// Catches a process that has given up its rights since it opened its files (as a server does after its
// start) and gets wrong bytes, a View without a reason, or none of what was mapped before.
func TestRightsGivenUp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	dir := os.Getenv(rightsVariable)
	if dir == "" {
		dir = testkit.DirForAll(t)
	}
	testkit.InChild(t, func(t *testing.T) {
		checkRightsGivenUp(t, dir, func() {
			if err := testkit.First(func() error { return syscall.Setgroups(nil) },
				func() error { return syscall.Setgid(testkit.Nobody) },
				func() error { return syscall.Setuid(testkit.Nobody) }); err != nil {
				t.Fatal(err)
			}
		})
	}, func(child *exec.Cmd) { child.Env = append(child.Env, rightsVariable+"="+dir) })
}

const rightsVariable = "MEMMAPFS_TRUST_RIGHTS"

// checkRightsGivenUp runs in a process of its own.
func checkRightsGivenUp(t *testing.T, dir string, giveUp func()) {
	data := testkit.Content(3*int(testkit.PageSize) + 100)
	var late, early, offering []*pair
	modes := testkit.Modes[1:]
	for i, m := range modes {
		open := func(kind string, fileSystem fs.FileMode) string {
			native := filepath.Join(dir, kind+string(rune('a'+i)))
			if err := os.WriteFile(native, data, fileSystem); err != nil {
				t.Fatal(err)
			}
			return osfs.FromNative(native)
		}
		late = append(late, openPair(t, m.OverOS(t), open("late", 0o600), os.O_RDONLY))
		early = append(early, openPair(t, m.OverOS(t), open("early", 0o600), os.O_RDONLY))
		if _, err := viewAll(early[i].mapped, len(data)); err != nil {
			t.Fatal(err)
		}
		offering = append(offering, openPair(t, m.Over(t, openingFiles{testkit.PlainFileSystem(t), asItIs}), open("offering", 0o600), os.O_RDONLY))
	}
	giveUp()
	for i, m := range modes {
		late[i].warm()
		late[i].same(m.Name + ": opened before")
		_, err := viewAll(late[i].mapped, len(data))
		if !errors.Is(err, memmapfs.ErrNotMapped) || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: View after the rights were given up: %v, want ErrNotMapped and fs.ErrPermission", m.Name, err)
		}
		if err := late[i].mapped.MappingError(); !errors.Is(err, fs.ErrPermission) || !strings.Contains(fmt.Sprint(err), "given up rights") {
			t.Errorf("%s: MappingError: %v, want fs.ErrPermission", m.Name, err)
		}
		early[i].same(m.Name + ": mapped before")
		if seen, err := viewAll(early[i].mapped, int(testkit.PageSize)); m.CopyOnWrite() && testkit.PrivateMapsStray() {
			// Each View has a map of its own there.
		} else if err != nil {
			t.Errorf("%s: View of what was mapped before: %v", m.Name, err)
		} else {
			testkit.MustEqual(t, m.Name+": View of what was mapped before", seen, data[:testkit.PageSize])
		}
		offering[i].same(m.Name + ": offers its descriptor")
		if seen, err := viewAll(offering[i].mapped, len(data)); err != nil {
			t.Errorf("%s: View of a file that offers its descriptor: %v", m.Name, err)
		} else {
			testkit.MustEqual(t, m.Name+": View of a file that offers its descriptor", seen, data)
		}
	}
	testkit.Report(t, "%d modes", len(modes))
}
