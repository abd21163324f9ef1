//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !solaris && !windows

package memmapfs

import (
	"errors"
	"os"
	"time"
)

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
