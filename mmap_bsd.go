//go:build dragonfly || freebsd

package memmapfs

import (
	"errors"

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
