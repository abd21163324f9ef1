//go:build darwin || dragonfly || freebsd || netbsd || solaris

package memmapfs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// sysLockGrowth waits until no other process changes the size of a file in the directory.
// The file itself cannot be locked a second time: here locks of flock(2) and fcntl(2)
// conflict. A directory that cannot be locked keeps nobody apart.
func sysLockGrowth(fd uintptr, directory string) (lock uintptr, err error) {
	opened, err := unix.Open(directory, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) {
		return noGrowthLock, nil
	}
	if err != nil {
		return noGrowthLock, err
	}
	for {
		switch err := unix.Flock(opened, unix.LOCK_EX); err {
		case nil:
			return uintptr(opened), nil
		case unix.EINTR:
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

// sysReserve is not to be had: what there is (posix_fallocate, F_PREALLOCATE) is missing on
// some of these systems, and leaves holes as they are on others.
func sysReserve(fd uintptr, size int64) error { return errors.ErrUnsupported }
