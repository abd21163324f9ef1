//go:build darwin || dragonfly || freebsd || netbsd || solaris

package memmapfs

import "golang.org/x/sys/unix"

const (
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

// sysReplaces reports whether an advice takes the place of an older one.
func sysReplaces(advice, old int) bool { return true }
