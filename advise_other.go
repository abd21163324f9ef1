//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !solaris && !windows

package memmapfs

const (
	sysAdviseRandom     = unsupportedAdvice
	sysAdviseSequential = unsupportedAdvice
	sysAdviseWillNeed   = unsupportedAdvice
	sysAdviseDontNeed   = unsupportedAdvice
	sysAdviseCold       = unsupportedAdvice
	sysAdvisePageOut    = unsupportedAdvice
	sysAdviseHugePage   = unsupportedAdvice
	sysAdviseNoHugePage = unsupportedAdvice
)

func sysDestroysData(advice int) bool { return false }

func sysReplaces(advice, old int) bool { return true }
