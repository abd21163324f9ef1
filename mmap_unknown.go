//go:build netbsd || solaris

package memmapfs

import (
	"errors"
	"time"
)

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

// What there is to sleep on a word is undocumented here, or not to be had without a C library.

const sysSleepsOnWords = false

func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	return errors.ErrUnsupported
}

func sysWakeWord(word *uint32, n int32) (woken int, err error) { return 0, errors.ErrUnsupported }
