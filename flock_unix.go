//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris

package memmapfs

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sysOpenNofollow keeps an open from following a link at the end of the path.
const sysOpenNofollow = unix.O_NOFOLLOW

// sysOpenLock returns a descriptor for sysLock and the calls below. It shares the open file
// description of fd, to which a lock of flock(2) belongs.
func sysOpenLock(fd uintptr, path string) (uintptr, error) {
	return sysDuplicate(fd)
}

// sysDuplicate returns another descriptor of the same open file description.
func sysDuplicate(fd uintptr) (uintptr, error) {
	duplicate, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	return uintptr(duplicate), err
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

// sysStat describes what is at the path, a link by itself.
func sysStat(path string) (os.FileInfo, error) { return os.Lstat(path) }

// sysOwner returns the number of the user who owns the file.
func sysOwner(info os.FileInfo) (user int, known bool) {
	stat, known := info.Sys().(*syscall.Stat_t)
	if !known {
		return 0, false
	}
	return int(stat.Uid), true
}

// sysAccessMode returns how a descriptor was opened: os.O_RDONLY, os.O_WRONLY or os.O_RDWR.
func sysAccessMode(fd uintptr) (int, error) {
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	return flags & unix.O_ACCMODE, err
}
