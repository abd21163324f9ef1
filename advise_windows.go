package memmapfs

// Windows has one hint for views, PrefetchVirtualMemory, and it has no number. Here it has the
// one of MADV_WILLNEED.
const (
	sysAdviseNormal     = unsupportedAdvice
	sysAdviseRandom     = unsupportedAdvice
	sysAdviseSequential = unsupportedAdvice
	sysAdviseWillNeed   = 3
	sysAdviseDontNeed   = unsupportedAdvice
	sysAdviseCold       = unsupportedAdvice
	sysAdvisePageOut    = unsupportedAdvice
	sysAdviseHugePage   = unsupportedAdvice
	sysAdviseNoHugePage = unsupportedAdvice
)

func sysDestroysData(advice int) bool { return false }

func sysChangesPrivate(advice int) bool { return false }

func sysLastingKind(advice int) int { return 0 }
