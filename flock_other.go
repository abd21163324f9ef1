//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !solaris && !windows

package memmapfs

import (
	"errors"
	"os"
)

// Nothing is mapped here, so that there is no region to lock.

func sysOpenLock(fd uintptr, path string) (uintptr, error) { return 0, errors.ErrUnsupported }

func sysLock(lock uintptr, exclusive, wait bool) (bool, error) { return false, errors.ErrUnsupported }

func sysUnlock(lock uintptr) error { return errors.ErrUnsupported }

func sysCloseLock(lock uintptr) error { return errors.ErrUnsupported }

func sysLockGrowth(fd uintptr, directory string) (uintptr, error) { return 0, errors.ErrUnsupported }

func sysUnlockGrowth(lock uintptr) error { return errors.ErrUnsupported }

func sysReserve(fd uintptr, size int64) error { return errors.ErrUnsupported }

func sysStat(path string) (os.FileInfo, error) { return os.Stat(path) }
