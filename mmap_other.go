//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !solaris && !windows

package memmapfs

import (
	"errors"
	"os"
)

// Nothing is mapped here, and every file works through its wrapped file. OpenBSD and AIX
// do not keep a map and read(2)/write(2) coherent without msync; js, wasip1 and plan9
// have no mmap.
const (
	sysRevokesInPlace     = true
	sysMapsHoldFiles      = false
	sysMapsAgreeWithIO    = true
	sysSyncMapIsDurable   = false
	sysFileSyncCoversMaps = false
	sysOpenNonblock       = 0
	sysAppendsAtPosition  = false
	sysHoleUnit           = 1
	sysReadsAhead         = false
)

func sysMapAlignment() int { return os.Getpagesize() }

func sysMap(fd uintptr, offset int64, length, flags int) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

func sysRevoke(data []byte) (held bool, err error) { return true, errors.ErrUnsupported }

func sysUnmap(data []byte) error { return errors.ErrUnsupported }

func sysSyncMap(data []byte) error { return errors.ErrUnsupported }

func sysAdvise(data []byte, advice int) error { return errors.ErrUnsupported }

func sysCachedPages(fd uintptr, offset, length int64) (int64, error) {
	return 0, errors.ErrUnsupported
}

func sysResidentMap(data []byte, vec []byte) error { return errors.ErrUnsupported }

func sysTouchModTime(fd uintptr) error { return errors.ErrUnsupported }

func sysIsShortage(err error) bool { return false }

func sysIsHeldByMap(err error) bool { return false }

func sysPopulate(data []byte) error { return errors.ErrUnsupported }

func sysLockPages(data []byte) error { return errors.ErrUnsupported }

func sysUnlockPages(data []byte) error { return errors.ErrUnsupported }

func sysMapUnit(fd uintptr) (int64, error) { return 0, errors.ErrUnsupported }

func sysReadAhead(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysChangeTime(description any) int64 { return 0 } // only overlayfs needs it

func sysMayWrite(fd uintptr) error { return errors.ErrUnsupported }

func sysPunchHole(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysNoCache(fd uintptr) error { return errors.ErrUnsupported }

func sysMapPastEnd() ([]byte, error) { return nil, errors.ErrUnsupported }

func sysDirtyPages(fd uintptr) (int64, error) { return 0, errors.ErrUnsupported }

func sysPrivatePages(data []byte, own []bool) error { return errors.ErrUnsupported }

func sysMapLimit() (int64, error) { return 0, errors.ErrUnsupported }

func sysAddressLimit() (int64, error) { return 0, errors.ErrUnsupported }

func sysMajorFaults() (int64, error) { return 0, errors.ErrUnsupported }

func sysFiltered() (bool, error) { return false, nil }

func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	return filesystemUnknown, "", errors.ErrUnsupported
}

func sysIsDescriptorShortage(err error) bool { return false }

func sysDescriptorLimit() (int64, error) { return 0, errors.ErrUnsupported }
