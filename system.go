package memmapfs

import "time"

// The flags of sysMap.
const (
	mapWrite   = 1 << iota // writable
	mapPrivate             // stores stay in this mapping
	mapExecute             // executable
	mapAligned             // at an address where large pages can back it, if there is one
	mapSync                // faults wait until the filesystem could find the page after a power cut
)

// system is the one way from the package to the system calls of the mmap_*.go and flock_*.go
// files, so that a test can record a call or let it fail.
var system = struct {
	mapFile      func(fd uintptr, offset int64, length, flags int) ([]byte, error)
	revoke       func(data []byte) (held bool, err error)
	unmap        func(data []byte) error
	protect      func(data []byte) error
	syncMap      func(data []byte) error
	advise       func(data []byte, advice int) error
	cachedPages  func(fd uintptr, offset, length int64) (int64, error)
	residentMap  func(data []byte, vec []byte) error
	touchModTime func(fd uintptr) error
	populate     func(data []byte) error
	lockPages    func(data []byte) error
	unlockPages  func(data []byte) error
	mapUnit      func(fd uintptr) (int64, error)
	readAhead    func(fd uintptr, offset, length int64) error
	mayWrite     func(fd uintptr) error
	punchHole    func(fd uintptr, offset, length int64) error
	noCache      func(fd uintptr) error
	openLock     func(fd uintptr, path string) (uintptr, error)
	lock         func(lock uintptr, exclusive, wait bool) (bool, error)
	unlock       func(lock uintptr) error
	lockGrowth   func(fd uintptr, directory string) (uintptr, error)
	reserve      func(fd uintptr, size int64) error
	mapPastEnd   func() ([]byte, error)
	growthHeld   func(fd uintptr, directory string) (bool, error)
	extend       func(fd uintptr, size int64) error
	sleepOnWord  func(word *uint32, value uint32, longest time.Duration) error
	wakeWord     func(word *uint32, n int32) (woken int, err error)
}{
	mapFile:      sysMap,
	revoke:       sysRevoke,
	unmap:        sysUnmap,
	protect:      sysProtect,
	syncMap:      sysSyncMap,
	advise:       sysAdvise,
	cachedPages:  sysCachedPages,
	residentMap:  sysResidentMap,
	touchModTime: sysTouchModTime,
	populate:     sysPopulate,
	lockPages:    sysLockPages,
	unlockPages:  sysUnlockPages,
	mapUnit:      sysMapUnit,
	readAhead:    sysReadAhead,
	mayWrite:     sysMayWrite,
	punchHole:    sysPunchHole,
	noCache:      sysNoCache,
	openLock:     sysOpenLock,
	lock:         sysLock,
	unlock:       sysUnlock,
	lockGrowth:   sysLockGrowth,
	reserve:      sysReserve,
	mapPastEnd:   sysMapPastEnd,
	growthHeld:   sysGrowthHeld,
	extend:       sysExtend,
	sleepOnWord:  sysSleepOnWord,
	wakeWord:     sysWakeWord,
}
