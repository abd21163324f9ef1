package hints_test

import (
	"errors"
	"io"
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

// lockedBytes returns what this process keeps in memory (VmLck).
func lockedBytes(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmLck:"); found {
			kilobytes, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Skip(testkit.CannotRunMark + "the system does not tell what is locked: /proc/self/status has no VmLck")
	return 0
}

// Catches pages that are not locked, or not all, or stay so; and a lock that ends with a map.
func TestLockMemory(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(32*testkit.PageSize) + 10)
		size := int64(len(data))
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		before := lockedBytes(t)
		check := func(when string, want int64) {
			t.Helper()
			if locked := lockedBytes(t) - before; locked != want*testkit.PageSize {
				t.Errorf("%s: %d bytes are locked, want %d pages", when, locked, want)
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(file.LockMemory(testkit.PageSize-1, 6*testkit.PageSize)) // touches 7
		check("a range", 7)
		must(file.LockMemory(testkit.PageSize, testkit.PageSize))
		check("part of it again", 7)
		must(file.LockMemory(size-1, 1))
		check("the last page, too", 8)
		must(file.UnlockMemory(3*testkit.PageSize, 1))
		check("one less", 7)
		if m.CopyOnWrite() {
			if _, err := file.WriteAt([]byte("private"), testkit.PageSize); err != nil {
				t.Fatal(err)
			}
		} else {
			must(file.RemapAfterTruncation())
			check("without a map", 0)
			for at := int64(0); at < size; at += testkit.PageSize {
				must(file.View(at, 1, func([]byte) error { return nil }))
			}
			check("mapped again", 7)
		}
		if err := file.LockMemory(0, size+1); err != io.EOF {
			t.Errorf("a range past the end: %v", err)
		}
		if err := file.LockMemory(-1, 1); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("a negative range: %v", err)
		}
		check("after refusals", 7)
		must(file.UnlockMemory(0, 1<<62))
		check("unlocked", 0)
		must(file.LockMemory(0, size))
		must(file.Close())
		check("closed", 0)
	}, testkit.Wrapped)
}

// Catches a window that is dropped with its locked pages, one that stays when they are unlocked, and a
// lock of more windows than there may be that leaves some of them locked.
func TestLockedWindowsStay(t *testing.T) {
	config := testkit.Windowed(memmapfs.ModeReadOnly, testkit.PageSize)
	config.MaxWindows = 3
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(20*testkit.PageSize)))
	file := testkit.MustOpenMapped(t, testkit.Mode{Config: config}.OverOS(t), name, os.O_RDONLY)
	visit := func() {
		for page := range int64(20) {
			if err := file.View(page*testkit.PageSize, 1, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := lockedBytes(t)
	locked := func() int64 { return (lockedBytes(t) - before) / testkit.PageSize }
	if err := file.LockMemory(5*testkit.PageSize, 2*testkit.PageSize); err != nil {
		t.Fatal(err)
	}
	visit()
	if n := locked(); n != 2 {
		t.Errorf("%d pages are locked after other windows were used", n)
	}
	err := file.LockMemory(10*testkit.PageSize, 2*testkit.PageSize)
	if !errors.Is(err, memmapfs.ErrNotMapped) || !strings.Contains(err.Error(), "MaxWindows") {
		t.Errorf("more windows than the budget: %v", err)
	}
	if n := locked(); n != 2 {
		t.Errorf("%d pages are locked after a lock that failed", n)
	}
	if err := file.UnlockMemory(5*testkit.PageSize, 2*testkit.PageSize); err != nil {
		t.Fatal(err)
	}
	visit()
	if err := file.LockMemory(10*testkit.PageSize, 3*testkit.PageSize); err != nil {
		t.Errorf("as many windows as the budget: %v", err)
	}
}

// A copy-on-write file grows as others have it grow, beside the private map that Data has handed out.
// Catches a lock that looks for the rest of it for ever, or that leaves it out.
func TestLockMemoryPastPrivateMap(t *testing.T) {
	for _, config := range []*memmapfs.Config{
		testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever), testkit.Windowed(memmapfs.ModeCopyOnWrite, 8*testkit.PageSize),
	} {
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(3*testkit.PageSize)))
		file := testkit.MustOpenMapped(t, testkit.Mode{Config: config}.OverOS(t), name, os.O_RDWR)
		if file.Data() == nil {
			t.Fatal("not mapped")
		}
		if err := os.Truncate(osfs.ToNative(name), 6*testkit.PageSize); err != nil {
			t.Fatal(err)
		}
		before := lockedBytes(t)
		testkit.MustFinish(t, "LockMemory", func() {
			if err := file.LockMemory(0, 6*testkit.PageSize); err != nil {
				t.Errorf("LockMemory past a private map: %v", err)
			}
		})
		if locked := lockedBytes(t) - before; locked != 6*testkit.PageSize {
			t.Errorf("%d bytes are locked, want six pages", locked)
		}
		if err := file.UnlockMemory(0, 6*testkit.PageSize); err != nil {
			t.Error("UnlockMemory:", err)
		}
		if left := lockedBytes(t) - before; left != 0 {
			t.Errorf("%d bytes stay locked", left)
		}
	}
}

// Catches a limit that is an unexplained number, and pages that stay locked after a lock that failed.
func TestLockLimit(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		const limit = 64 << 10
		runtime.LockOSThread() // the capability is this thread's, and gone with the child
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var capabilities [2]unix.CapUserData
		if err := unix.Capget(&header, &capabilities[0]); err != nil {
			t.Fatal(err)
		}
		capabilities[0].Effective &^= 1 << unix.CAP_IPC_LOCK
		if err := unix.Capset(&header, &capabilities[0]); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			t.Fatal(err)
		}
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(2*limit))
		check := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, syscall.ENOMEM) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EAGAIN) ||
				!strings.Contains(err.Error(), "RLIMIT_MEMLOCK") {
				t.Errorf("%s: %v", what, err)
				return
			}
			testkit.CheckPathError(t, what, err, name)
		}
		before := lockedBytes(t)
		file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), name, os.O_RDONLY)
		check("LockMemory", file.LockMemory(0, 2*limit))
		windows := testkit.MustOpenMapped(t, testkit.Mode{Config: testkit.Windowed(memmapfs.ModeReadOnly, testkit.PageSize)}.OverOS(t), name, os.O_RDONLY)
		check("LockMemory of windows", windows.LockMemory(0, 2*limit))
		if left := lockedBytes(t) - before; left != 0 {
			t.Errorf("%d bytes stay locked", left)
		}
		if err := file.LockMemory(0, testkit.PageSize); err != nil {
			t.Errorf("within the limit: %v", err)
		}

		for _, required := range []bool{false, true} {
			config := testkit.Full(memmapfs.ModeReadOnly, memmapfs.SyncNever)
			config.LockPages, config.RequireMapping = true, required
			fileSystem := memmapfs.New(testkit.PlainFileSystem(t), config)
			opened, err := fileSystem.Open(name)
			if err == nil {
				opened.Close()
			}
			check("an open with LockPages", err)
			if stats := fileSystem.Stats(); stats.FilesOpen != 0 || stats.FilesMapped != 0 {
				t.Errorf("after an open that failed: %+v", stats)
			}
			if err := fileSystem.Close(); err != nil {
				t.Error(err)
			}
		}
		testkit.Report(t, "three locks were refused")
	})
}
