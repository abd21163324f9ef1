package memmapfs

import "golang.org/x/sys/unix"

const (
	sysAdviseRandom     = unix.MADV_RANDOM
	sysAdviseSequential = unix.MADV_SEQUENTIAL
	sysAdviseWillNeed   = unix.MADV_WILLNEED
	sysAdviseDontNeed   = unix.MADV_DONTNEED
	sysAdviseCold       = unix.MADV_COLD
	sysAdvisePageOut    = unix.MADV_PAGEOUT
	sysAdviseHugePage   = unix.MADV_HUGEPAGE
	sysAdviseNoHugePage = unix.MADV_NOHUGEPAGE
)

// sysDestroysData reports whether an advice does more than hint.
func sysDestroysData(advice int) bool {
	switch advice {
	case unix.MADV_REMOVE, unix.MADV_FREE, unix.MADV_WIPEONFORK, unix.MADV_HWPOISON,
		madviseSoftOffline, madviseGuardInstall:
		return true
	}
	return false
}

const (
	madviseSoftOffline  = 101 // MADV_SOFT_OFFLINE
	madviseGuardInstall = 102 // MADV_GUARD_INSTALL, Linux 6.13
)

// sysReplaces reports whether an advice takes the place of an older one.
func sysReplaces(advice, old int) bool {
	return (advice >= unix.MADV_HUGEPAGE) == (old >= unix.MADV_HUGEPAGE)
}
