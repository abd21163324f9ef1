package testkit

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// NeedPopulate skips a test of the call that brings pages in (MADV_POPULATE_READ of madvise(2)), which
// the package does not make under a filter of system calls, and not for a file of a tmpfs.
func NeedPopulate(t testing.TB, dir string) {
	t.Helper()
	NotFiltered(t)
	if InMemory(dir) {
		t.Skip("the files are in memory")
	}
}

// InMemory reports whether a directory is on a tmpfs, whose pages are always in memory and whose holes
// are not read through a map.
func InMemory(dir string) bool {
	var filesystem unix.Statfs_t
	return unix.Statfs(dir, &filesystem) == nil && filesystem.Type == unix.TMPFS_MAGIC
}

// MakesHoles reports whether the filesystem of a directory has holes that are made in a file's midst.
func MakesHoles(t testing.TB, dir string) bool {
	t.Helper()
	file, err := os.CreateTemp(dir, "hole")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	err = file.Truncate(4 * PageSize)
	if err == nil {
		err = unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, PageSize, PageSize)
	}
	if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatal(err)
	}
	return err == nil
}

// NeedMounts skips a test that mounts a small disk where the process may not.
func NeedMounts(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
}

// NotEmulated skips a test that asks of the system or the processor what its emulation by wine or
// qemu does not have, for the reason given.
func NotEmulated(t testing.TB, reason string) {
	t.Helper()
	if Emulated {
		t.Skip("emulated: " + reason)
	}
}

// QemuSwallowsAdvice is why there is nothing to see of a hint, of pages that are brought in, and of large
// pages.
const QemuSwallowsAdvice = "qemu does not pass madvise(2) on"
