//go:build darwin || dragonfly || freebsd || netbsd || solaris

package memmapfs

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// sysLockGrowth takes the lock of those who change the size of a file in the directory, by which
// nobody waits: if another one has it the error is EAGAIN. The file itself cannot be locked a
// second time: here locks of flock(2) and fcntl(2) conflict. A directory that cannot be locked
// keeps nobody apart.
func sysLockGrowth(fd uintptr, directory string) (lock uintptr, err error) {
	return lockDirectory(directory, unix.LOCK_EX)
}

func lockDirectory(directory string, how int) (lock uintptr, err error) {
	opened, err := unix.Open(directory, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) {
		return noGrowthLock, nil
	}
	if err != nil {
		return noGrowthLock, err
	}
	for {
		switch err := unix.Flock(opened, how|unix.LOCK_NB); err {
		case nil:
			return uintptr(opened), nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			unix.Close(opened)
			return noGrowthLock, syscall.EAGAIN
		default:
			unix.Close(opened)
			return noGrowthLock, nil
		}
	}
}

const noGrowthLock = ^uintptr(0)

func sysUnlockGrowth(lock uintptr) error {
	if lock == noGrowthLock {
		return nil
	}
	return unix.Close(int(lock))
}

// sysGrowthHeld reports whether somebody changes the size of a file in the directory.
func sysGrowthHeld(fd uintptr, directory string) (bool, error) {
	lock, err := lockDirectory(directory, unix.LOCK_SH)
	if err == syscall.EAGAIN {
		return true, nil
	}
	return false, join(err, sysUnlockGrowth(lock))
}

func sysGrowsFirst(fd uintptr) bool { return false }

// sysReserve is not to be had: what there is (posix_fallocate, F_PREALLOCATE) is missing on
// some of these systems, and leaves holes as they are on others.
func sysReserve(fd uintptr, size int64) error { return errors.ErrUnsupported }

func sysExtend(fd uintptr, size int64) error { return errors.ErrUnsupported }

func sysAnonymousFile() (fd uintptr, path string, err error) { return 0, "", errors.ErrUnsupported }

func sysSealSize(fd uintptr) error { return nil }

// sysReopenRegion is not to be had: what opens in /dev/fd has the old open file description.
func sysReopenRegion(fd uintptr, flag int) (uintptr, error) { return 0, errors.ErrUnsupported }

func sysReplacesMapped(fd uintptr) (bool, error) { return false, nil }
