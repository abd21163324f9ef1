//go:build !darwin && !dragonfly && !freebsd && !linux && !netbsd && !solaris && !windows

package memmapfs

const (
	sysAdviseNormal     = unsupportedAdvice
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

func sysChangesPrivate(advice int) bool { return false }

func sysLastingKind(advice int) int { return 0 }
