//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris

package memmapfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// sysOpenLock returns a descriptor for sysLock and the calls below. It shares the open file
// description of fd, to which a lock of flock(2) belongs.
func sysOpenLock(fd uintptr, path string) (uintptr, error) {
	lock, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	return uintptr(lock), err
}

// sysLock takes the lock, or with wait unset reports false if somebody else has it.
func sysLock(lock uintptr, exclusive, wait bool) (bool, error) {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		switch err := unix.Flock(int(lock), how); err {
		case nil:
			return true, nil
		case unix.EWOULDBLOCK:
			return false, nil
		case unix.EINTR:
		default:
			return false, err
		}
	}
}

// sysUnlock gives the lock back. Closing the descriptor does not: a map of the file keeps the
// open file description, and with it the lock.
func sysUnlock(lock uintptr) error { return unix.Flock(int(lock), unix.LOCK_UN) }

func sysCloseLock(lock uintptr) error { return unix.Close(int(lock)) }

func sysStat(path string) (os.FileInfo, error) { return os.Stat(path) }
