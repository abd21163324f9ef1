//go:build darwin || dragonfly || freebsd || netbsd || solaris

package memmapfs

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sysSyncMapIsDurable   = false
	sysFileSyncCoversMaps = false
	sysSyncFlags          = 0
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
func sysLockPages(data []byte) error { return unix.Mlock(data) }

func sysMapUnit(fd uintptr) (int64, error) { return 0, errors.ErrUnsupported }

func sysMayWrite(fd uintptr) error { return errors.ErrUnsupported }

func sysMapPastEnd() ([]byte, error) { return nil, errors.ErrUnsupported }
