package memmapfs

import (
	"errors"
	"io/fs"
	"sync/atomic"
	"time"
)

// unsupportedAdvice stands for a hint that the system does not have.
const unsupportedAdvice = -1

// hugePageBytes is the alignment at which a kernel can map 2 MiB at once.
const hugePageBytes = 2 << 20

// The flags of sysMap.
const (
	mapWrite   = 1 << iota // writable
	mapPrivate             // stores stay in this mapping
	mapExecute             // executable
	mapAligned             // at an address where large pages can back it, if there is one
	mapSync                // faults wait until the filesystem could find the page after a power cut
)

// The kinds of filesystem, as sysFilesystem tells them.
const (
	filesystemUnknown   = iota // maps and calls may show different bytes
	filesystemOnePage          // maps and calls use one page cache
	filesystemFillsHole        // that too, but a hole that is read through a map takes a block: tmpfs
	filesystemOverlay          // files of overlayfs are copied when they are first opened for writing
)

// system is the one way from the package to the system calls of the mmap_*.go
// files, so that a test can record a call or let it fail.
var system = struct {
	mapFile      func(fd uintptr, offset int64, length, flags int) ([]byte, error)
	revoke       func(data []byte) (held bool, err error)
	unmap        func(data []byte) error
	syncMap      func(data []byte) error
	advise       func(data []byte, advice int) error
	cachedPages  func(fd uintptr, offset, length int64) (int64, error)
	residentMap  func(data []byte, vec []byte) error
	touchModTime func(fd uintptr) error
	populate     func(data []byte) error
	lockPages    func(data []byte, ordinary bool) error
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

	filesystem      func(fd uintptr) (kind int, name string, err error)
	dirtyPages      func(fd uintptr) (int64, error)
	privatePages    func(data []byte, own []bool) error
	mapLimit        func() (int64, error)
	addressLimit    func() (int64, error)
	descriptorLimit func() (int64, error)
	majorFaults     func() (int64, error)
	filtered        func() (bool, error)
	growthHeld      func(fd uintptr, directory string) (bool, error)
	extend          func(fd uintptr, size int64) error
	sleepOnWord     func(word *uint32, value uint32, longest time.Duration) error
	wakeWord        func(word *uint32, n int32) (woken int, err error)
}{
	mapFile:      sysMap,
	revoke:       sysRevoke,
	unmap:        sysUnmap,
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

	filesystem:      sysFilesystem,
	dirtyPages:      sysDirtyPages,
	privatePages:    sysPrivatePages,
	mapLimit:        sysMapLimit,
	addressLimit:    sysAddressLimit,
	descriptorLimit: sysDescriptorLimit,
	majorFaults:     sysMajorFaults,
	filtered:        sysFiltered,
	growthHeld:      sysGrowthHeld,
	extend:          sysExtend,
	sleepOnWord:     sysSleepOnWord,
	wakeWord:        sysWakeWord,
}

// filtered reports whether a filter of system calls is set for the process (seccomp(2)). It may end
// the process for a call that it does not know, and nothing says what it knows: then the calls that an
// ordinary program does not make are not made, unless somebody asks for what only they do.
func filtered() bool {
	now := int64(time.Since(processStart))
	if last := filterAsked.Load(); last == 0 || now-last > int64(time.Second) {
		set, err := system.filtered()
		switch {
		case err == nil:
			filterSet.Store(set)
		case last == 0 && !errors.Is(err, fs.ErrNotExist): // there is no descriptor left to ask with
			filterSet.Store(true)
		}
		filterAsked.Store(max(now, 1))
	}
	return filterSet.Load()
}

var (
	processStart = time.Now()
	filterAsked  atomic.Int64 // when, since processStart
	filterSet    atomic.Bool
)
