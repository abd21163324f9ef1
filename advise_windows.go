package memmapfs

// Windows has one hint for views, PrefetchVirtualMemory, and it has no number. Here it has the
// one of MADV_WILLNEED.
const (
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

func sysReplaces(advice, old int) bool { return true }
