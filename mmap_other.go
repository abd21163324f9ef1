//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !solaris && !windows

package memmapfs

import (
	"errors"
	"os"
	"time"
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
	sysHarmlessFlags      = 0
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

func sysLockPages(data []byte, ordinary bool) error { return errors.ErrUnsupported }

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

const (
	sysAdviseNormal     = unsupportedAdvice
	sysAdviseRandom     = unsupportedAdvice
	sysAdviseSequential = unsupportedAdvice
	sysAdviseWillNeed   = unsupportedAdvice
	sysAdviseDontNeed   = unsupportedAdvice
	sysAdviseCold       = unsupportedAdvice
	sysAdvisePageOut    = unsupportedAdvice
	sysAdviseHugePage   = unsupportedAdvice
	sysAdviseNoHugePage = unsupportedAdvice
)

func sysDestroysData(advice int) bool { return false }

func sysChangesPrivate(advice int) bool { return false }

func sysLastingKind(advice int) int { return 0 }

// Nothing is mapped here, so that there is no region to lock.

const (
	sysOpenNofollow  = 0
	sysSleepsOnWords = false
)

func sysOpenLock(fd uintptr, path string) (uintptr, error) { return 0, errors.ErrUnsupported }

func sysDuplicate(fd uintptr) (uintptr, error) { return 0, errors.ErrUnsupported }

func sysLock(lock uintptr, exclusive, wait bool) (bool, error) { return false, errors.ErrUnsupported }

func sysUnlock(lock uintptr) error { return errors.ErrUnsupported }

func sysCloseLock(lock uintptr) error { return errors.ErrUnsupported }

func sysLockGrowth(fd uintptr, directory string) (uintptr, error) { return 0, errors.ErrUnsupported }

func sysGrowthHeld(fd uintptr, directory string) (bool, error) { return false, nil }

func sysUnlockGrowth(lock uintptr) error { return errors.ErrUnsupported }

func sysReserve(fd uintptr, size int64) error { return errors.ErrUnsupported }

func sysGrowsFirst(fd uintptr) bool { return false }

func sysExtend(fd uintptr, size int64) error { return errors.ErrUnsupported }

func sysStat(path string) (os.FileInfo, error) { return os.Lstat(path) }

func sysOwner(info os.FileInfo) (user int, known bool) { return 0, false }

func sysAccessMode(fd uintptr) (int, error) { return 0, errors.ErrUnsupported }

func sysAnonymousFile() (fd uintptr, path string, err error) { return 0, "", errors.ErrUnsupported }

func sysSealSize(fd uintptr) error { return errors.ErrUnsupported }

func sysReopenRegion(fd uintptr, flag int) (uintptr, error) { return 0, errors.ErrUnsupported }

func sysReplacesMapped(fd uintptr) (bool, error) { return false, nil }

func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	return errors.ErrUnsupported
}

func sysWakeWord(word *uint32, n int32) (woken int, err error) { return 0, errors.ErrUnsupported }
