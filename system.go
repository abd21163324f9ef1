package memmapfs

// The flags of sysMap.
const (
	mapWrite    = 1 << iota // writable
	mapPrivate              // stores stay in this mapping
	mapExecute              // executable
	mapPopulate             // read in before returning, where the system can
)

// system is the one way from the package to the system calls of the mmap_*.go and flock_*.go
// files, so that a test can record a call or let it fail.
var system = struct {
	mapFile      func(fd uintptr, offset int64, length, flags int) ([]byte, error)
	revoke       func(data []byte) error
	unmap        func(data []byte) error
	protect      func(data []byte) error
	syncMap      func(data []byte) error
	advise       func(data []byte, advice int) error
	cachedPages  func(fd uintptr, offset, length int64) (int64, error)
	residentMap  func(data []byte, vec []byte) error
	touchModTime func(fd uintptr) error
	openLock     func(fd uintptr, path string) (uintptr, error)
	lock         func(lock uintptr, exclusive, wait bool) (bool, error)
	unlock       func(lock uintptr) error
	lockGrowth   func(fd uintptr, directory string) (uintptr, error)
	reserve      func(fd uintptr, size int64) error
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
	openLock:     sysOpenLock,
	lock:         sysLock,
	unlock:       sysUnlock,
	lockGrowth:   sysLockGrowth,
	reserve:      sysReserve,
}
