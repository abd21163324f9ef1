//go:build darwin || dragonfly || freebsd || netbsd || solaris

package memmapfs

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sysSyncMapIsDurable   = false
	sysFileSyncCoversMaps = false
	sysSyncFlags          = 0
	sysHarmlessFlags      = unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NONBLOCK
)

func sysCachedPages(fd uintptr, offset, length int64) (int64, error) {
	return 0, errors.ErrUnsupported
}

func sysResidentMap(data []byte, vec []byte) error { return errors.ErrUnsupported }

// sysTouchModTime sets the modification time of fd to now, and the access time with it:
// futimes(2) cannot leave one out.
func sysTouchModTime(fd uintptr) error {
	now := unix.NsecToTimeval(time.Now().UnixNano())
	return unix.Futimes(int(fd), []unix.Timeval{now, now})
}

func sysPopulate(data []byte) error { return errors.ErrUnsupported }

// sysLockPages keeps the pages of a map in memory and brings in those that are not.
func sysLockPages(data []byte, ordinary bool) error { return unix.Mlock(data) }

func sysMapUnit(fd uintptr) (int64, error) { return 0, errors.ErrUnsupported }

func sysChangeTime(description any) int64 { return 0 } // only overlayfs needs it

func sysMayWrite(fd uintptr) error { return errors.ErrUnsupported }

func sysMapPastEnd() ([]byte, error) { return nil, errors.ErrUnsupported }

func sysDirtyPages(fd uintptr) (int64, error) { return 0, errors.ErrUnsupported }

func sysPrivatePages(data []byte, own []bool) error { return errors.ErrUnsupported }

func sysMapLimit() (int64, error) { return 0, errors.ErrUnsupported }

// sysAddressLimit returns how many bytes of addresses the process may have (RLIMIT_AS of getrlimit(2)).
func sysAddressLimit() (int64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &limit); err != nil {
		return 0, err
	}
	if uint64(limit.Cur) >= 1<<62 {
		return 0, errors.ErrUnsupported // there is none
	}
	return int64(limit.Cur), nil
}

// sysMajorFaults returns how often the process has waited for a disk in a page fault.
func sysMajorFaults() (int64, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return int64(usage.Majflt), nil
}

func sysFiltered() (bool, error) { return false, nil }

const (
	sysAdviseNormal     = unix.MADV_NORMAL
	sysAdviseRandom     = unix.MADV_RANDOM
	sysAdviseSequential = unix.MADV_SEQUENTIAL
	sysAdviseWillNeed   = unix.MADV_WILLNEED
	sysAdviseDontNeed   = unix.MADV_DONTNEED
	sysAdviseCold       = unsupportedAdvice
	sysAdvisePageOut    = unsupportedAdvice
	sysAdviseHugePage   = unsupportedAdvice
	sysAdviseNoHugePage = unsupportedAdvice
)

// sysDestroysData reports whether an advice does more than hint: all numbers above those of
// POSIX are taken to.
func sysDestroysData(advice int) bool { return advice > unix.MADV_DONTNEED }

// sysChangesPrivate reports whether an advice drops private pages or makes some.
func sysChangesPrivate(advice int) bool { return advice == unix.MADV_DONTNEED }

// sysLastingKind returns which property of a map an advice sets, or 0 if it sets none.
func sysLastingKind(advice int) int {
	switch advice {
	case unix.MADV_NORMAL, unix.MADV_RANDOM, unix.MADV_SEQUENTIAL:
		return 1
	}
	return 0
}

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
