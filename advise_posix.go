//go:build darwin || dragonfly || freebsd || netbsd || solaris

package memmapfs

import "golang.org/x/sys/unix"

const (
	sysAdviseNormal     = unix.MADV_NORMAL
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

// sysChangesPrivate reports whether an advice drops private pages or makes some.
func sysChangesPrivate(advice int) bool { return advice == unix.MADV_DONTNEED }

// sysLastingKind returns which property of a map an advice sets, or 0 if it sets none.
func sysLastingKind(advice int) int {
	switch advice {
	case unix.MADV_NORMAL, unix.MADV_RANDOM, unix.MADV_SEQUENTIAL:
		return 1
	}
	return 0
}
