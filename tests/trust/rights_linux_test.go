package trust_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs/internal/testkit"
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
