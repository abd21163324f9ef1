package memmapfs

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// sysFilesystem tells local filesystems from those of a network (MNT_LOCAL of statfs(2)).
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	var status unix.Statfs_t
	if err := unix.Fstatfs(int(fd), &status); err != nil {
		return filesystemUnknown, "", err
	}
	if status.Flags&unix.MNT_LOCAL == 0 {
		return filesystemUnknown, "a filesystem that is not local", nil
	}
	return filesystemOnePage, "a local filesystem", nil
}

const sysHoleUnit = 1

const sysReadsAhead = false

func sysReadAhead(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysPunchHole(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysNoCache(fd uintptr) error { return errors.ErrUnsupported }

// What there is to sleep on a word is undocumented here, or not to be had without a C library.

const sysSleepsOnWords = false

func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	return errors.ErrUnsupported
}

func sysWakeWord(word *uint32, n int32) (woken int, err error) { return 0, errors.ErrUnsupported }
