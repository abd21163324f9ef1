package limits_test

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// mustSay fails the test unless err is a *fs.PathError that matches a reason and says each word.
func mustSay(t *testing.T, err, reason error, words ...string) {
	t.Helper()
	var path *fs.PathError
	if !errors.As(err, &path) || !errors.Is(err, memmapfs.ErrNotMapped) || !errors.Is(err, reason) {
		t.Fatalf("%T %v, want a *fs.PathError that is ErrNotMapped and %v", err, err, reason)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

// TestErrorOfAnEmptyPool catches an error that sends people to the limits of maps when it is the pool of
// huge pages that is empty.
func TestErrorOfAnEmptyPool(t *testing.T) {
	testkit.NotEmulated(t, "qemu knows no huge pages")
	testkit.NeedMounts(t)
	testkit.InChild(t, func(t *testing.T) {
		pool, err := os.ReadFile("/proc/sys/vm/nr_hugepages")
		if err != nil {
			t.Log(testkit.CannotRunMark+"huge pages:", err)
			return
		}
		pages, err := strconv.ParseInt(strings.TrimSpace(string(pool)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		size := (pages + 100) * 2 * testkit.Mebibyte
		dir := t.TempDir()
		if err := syscall.Mount("none", dir, "hugetlbfs", 0, "pagesize=2M"); err != nil {
			t.Log(testkit.CannotRunMark+"mounting hugetlbfs:", err)
			return
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		made, err := os.Create(dir + "/file")
		if err == nil {
			err = errors.Join(made.Truncate(size), made.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		name := osfs.FromNative(dir + "/file")
		file := testkit.MustOpenMapped(t, testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t), name, os.O_RDWR)
		err = file.View(0, size, func(b []byte) error { return nil })
		mustSay(t, err, syscall.ENOMEM, "hugetlbfs", "vm.nr_hugepages")
		if strings.Contains(err.Error(), "vm.max_map_count") {
			t.Errorf("the error speaks of another limit: %v", err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		testkit.Report(t, "%v; no fault injected", err)
	}, testkit.InOwnMounts)
}

// TestErrorAfterSetuid catches an error that does not say why a file cannot be mapped that was opened with
// rights which the process has given up.
func TestErrorAfterSetuid(t *testing.T) {
	testkit.NeedMounts(t)
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.DirForAll(t)
		name := testkit.WriteFile(t, dir, "file", testkit.Content(3*int(testkit.PageSize)))
		if err := os.Chmod(dir+"/file", 0o600); err != nil {
			t.Fatal(err)
		}
		file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), name, os.O_RDONLY)
		if err := syscall.Setresuid(-1, testkit.Nobody, 0); err != nil {
			t.Fatal(err)
		}
		defer syscall.Setresuid(-1, 0, 0)
		err := file.View(0, 1, func([]byte) error { return nil })
		if err != nil {
			mustSay(t, err, fs.ErrPermission, "given up rights")
		} else {
			t.Error("mapped by a user without the right to open it")
		}
		if n, err := file.ReadAt(make([]byte, 10), 0); n != 10 || err != nil {
			t.Errorf("the plain file can be read: %d bytes, %v", n, err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		testkit.Report(t, "%v; no fault injected", err)
	})
}

// TestErrorOfTheBudget catches an error that does not name the limit that was reached.
func TestErrorOfTheBudget(t *testing.T) {
	testkit.NotEmulated(t, "qemu does not limit the address space")
	testkit.InChild(t, func(t *testing.T) {
		names := sparseFiles(t, testkit.TestDir(t), 1, 2<<30, 0)
		file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), names[0], os.O_RDONLY)
		err := file.View(0, 15<<27, func([]byte) error { return nil })
		mustSay(t, err, syscall.ENOMEM, "a quarter of the address space", "RLIMIT_AS", "Config.MaxWindows")
		if n, err := file.ReadAt(make([]byte, 10), 0); n != 10 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		file.Close()
		runtime.GC()
		testkit.Report(t, "%v; no fault injected", err)
	}, withAddressSpace(3<<30))
}
