package memmapfs

import "golang.org/x/sys/unix"

const (
	sysAdviseNormal     = unix.MADV_NORMAL
	sysAdviseRandom     = unix.MADV_RANDOM
	sysAdviseSequential = unix.MADV_SEQUENTIAL
	sysAdviseWillNeed   = unix.MADV_WILLNEED
	sysAdviseDontNeed   = unix.MADV_DONTNEED
	sysAdviseCold       = unix.MADV_COLD
	sysAdvisePageOut    = unix.MADV_PAGEOUT
	sysAdviseHugePage   = unix.MADV_HUGEPAGE
	sysAdviseNoHugePage = unix.MADV_NOHUGEPAGE
)

// sysDestroysData reports whether an advice may do more than hint. What later kernels add is taken to.
func sysDestroysData(advice int) bool {
	switch advice {
	case unix.MADV_REMOVE, unix.MADV_FREE, unix.MADV_WIPEONFORK, unix.MADV_DONTNEED_LOCKED:
		return true
	}
	return advice > unix.MADV_COLLAPSE
}

// sysChangesPrivate reports whether an advice drops private pages or makes some.
func sysChangesPrivate(advice int) bool {
	return advice == unix.MADV_DONTNEED || advice == unix.MADV_POPULATE_WRITE
}

// sysLastingKind returns which property of a map an advice sets, or 0 if it sets none.
func sysLastingKind(advice int) int {
	switch advice {
	case unix.MADV_NORMAL, unix.MADV_RANDOM, unix.MADV_SEQUENTIAL:
		return 1
	case unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE:
		return 2
	case unix.MADV_DONTFORK, unix.MADV_DOFORK:
		return 3
	case unix.MADV_DONTDUMP, unix.MADV_DODUMP:
		return 4
	}
	return 0
}
