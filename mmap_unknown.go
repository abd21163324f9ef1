//go:build netbsd || solaris

package memmapfs

import "errors"

// sysFilesystem says nothing: no manual page of these systems promises that maps and calls agree, and
// msync(2) of NetBSD warns that they may not.
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	return filesystemUnknown, "a system that does not promise that maps and calls agree", nil
}

const sysHoleUnit = 1

const sysReadsAhead = false

func sysReadAhead(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysPunchHole(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysNoCache(fd uintptr) error { return errors.ErrUnsupported }
