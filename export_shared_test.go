package memmapfs

import "syscall"

// HookGrowthHeld has hook called before it is asked whether a creator is at work, until restore
// is called.
func HookGrowthHeld(hook func()) (restore func()) {
	held := system.growthHeld
	system.growthHeld = func(fd uintptr, directory string) (bool, error) {
		hook()
		return held(fd, directory)
	}
	return func() { system.growthHeld = held }
}

// CoverGrowthLock has every creator find a lock of somebody else that covers theirs, until
// restore is called.
func CoverGrowthLock() (restore func()) {
	lock := system.lockGrowth
	system.lockGrowth = func(uintptr, string) (uintptr, error) { return 0, syscall.EBUSY }
	return func() { system.lockGrowth = lock }
}
