package memmapfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	win "golang.org/x/sys/windows"
)

const (
	// A file with a view can be neither truncated nor, as a rule, removed or replaced, and a view
	// cannot be replaced by inaccessible memory in one step.
	sysRevokesInPlace = false
	sysMapsHoldFiles  = true
	// Views of one file agree with each other. That ReadFile and WriteFile agree with them is true
	// of local files, but not promised (MapViewOfFile, remarks).
	sysMapsAgreeWithIO = false

	sysSyncMapIsDurable   = false // FlushViewOfFile starts the writing; FlushFileBuffers ends it
	sysFileSyncCoversMaps = false
	sysOpenNonblock       = 0
	sysHoleUnit           = 1
	sysReadsAhead         = false
	sysHarmlessFlags      = 0
	// With Go 1.24 a handle opened with O_APPEND and O_TRUNC writes at its position.
	sysAppendsAtPosition = true
)

var (
	kernel32                  = win.NewLazySystemDLL("kernel32.dll")
	procGetSystemInfo         = kernel32.NewProc("GetSystemInfo")
	procPrefetchVirtualMemory = kernel32.NewProc("PrefetchVirtualMemory")
	procReOpenFile            = kernel32.NewProc("ReOpenFile")
	procNtQueryObject         = win.NewLazySystemDLL("ntdll.dll").NewProc("NtQueryObject")
)

// sysMapAlignment returns the allocation granularity, of which the offset of a view is a multiple.
func sysMapAlignment() int {
	var info struct {
		processor         uint32
		pageSize          uint32
		lowest, highest   uintptr
		processorMask     uintptr
		processors        uint32
		processorType     uint32
		granularity       uint32
		processorLevel    uint16
		processorRevision uint16
	}
	procGetSystemInfo.Call(uintptr(unsafe.Pointer(&info)))
	return int(info.granularity)
}

// sysMap maps length bytes of the file from offset on, or fewer: a view ends with the page in which
// the file ended when it was made.
func sysMap(fd uintptr, offset int64, length, flags int) ([]byte, error) {
	protection, access, right := uint32(win.PAGE_READONLY), uint32(win.FILE_MAP_READ), uint32(0)
	switch {
	case flags&mapWrite != 0 && flags&mapPrivate != 0:
		protection, access = win.PAGE_WRITECOPY, win.FILE_MAP_COPY
	case flags&mapWrite != 0:
		protection, access = win.PAGE_READWRITE, win.FILE_MAP_READ|win.FILE_MAP_WRITE
		right = win.GENERIC_WRITE
	case flags&mapExecute != 0:
		protection, access = win.PAGE_EXECUTE_READ, win.FILE_MAP_READ|win.FILE_MAP_EXECUTE
		right = win.GENERIC_EXECUTE
	}
	// The section has the file's size: a larger one would make the file grow.
	section, err := win.CreateFileMapping(win.Handle(fd), nil, protection, 0, 0, nil)
	if err == win.ERROR_ACCESS_DENIED && (right == win.GENERIC_EXECUTE || right == win.GENERIC_WRITE && sysAppends(fd)) {
		// The handle was opened to append, or without the right to execute.
		var file win.Handle
		if file, err = sysReopen(fd, win.GENERIC_READ|right); err == nil {
			section, err = win.CreateFileMapping(file, nil, protection, 0, 0, nil)
			win.CloseHandle(file)
		}
	}
	if err != nil {
		return nil, sysMapError(err)
	}
	defer win.CloseHandle(section) // the view keeps it
	// While there is a section the file does not shrink.
	var info win.ByHandleFileInformation
	if err := win.GetFileInformationByHandle(win.Handle(fd), &info); err != nil {
		return nil, err
	}
	size := int64(info.FileSizeHigh)<<32 | int64(info.FileSizeLow)
	if offset >= size {
		return nil, win.ERROR_HANDLE_EOF
	}
	viewed := uintptr(length)
	if int64(length) > size-offset {
		viewed = 0 // to the end of the section
	}
	address, err := win.MapViewOfFile(section, access, uint32(offset>>32), uint32(offset), viewed)
	if err != nil {
		return nil, sysMapError(err)
	}
	var region win.MemoryBasicInformation
	if err := win.VirtualQuery(address, &region, unsafe.Sizeof(region)); err != nil {
		win.UnmapViewOfFile(address)
		return nil, err
	}
	start := *(*unsafe.Pointer)(unsafe.Pointer(&address))
	return unsafe.Slice((*byte)(start), min(uintptr(length), region.RegionSize)), nil
}

// sysMapError gives a shortage of memory or addresses, and the lack of a right, the numbers that they
// have on other systems.
func sysMapError(err error) error {
	switch err {
	case win.ERROR_NOT_ENOUGH_MEMORY, win.ERROR_COMMITMENT_LIMIT:
		return syscall.ENOMEM
	case win.ERROR_ACCESS_DENIED:
		return syscall.EACCES
	}
	return err
}

// sysAppends reports whether a handle has the right to append. One that was opened read-only has not:
// what it refuses is not to be had by opening the file once more.
func sysAppends(fd uintptr) bool {
	var object struct { // PUBLIC_OBJECT_BASIC_INFORMATION
		attributes, granted uint32
		others              [12]uint32
	}
	const basicInformation = 0
	status, _, _ := procNtQueryObject.Call(fd, basicInformation, uintptr(unsafe.Pointer(&object)), unsafe.Sizeof(object), 0)
	return status == 0 && object.granted&win.FILE_APPEND_DATA != 0
}

// sysReopen opens the file of a handle once more.
func sysReopen(fd uintptr, access uint32) (win.Handle, error) {
	const shared = win.FILE_SHARE_READ | win.FILE_SHARE_WRITE | win.FILE_SHARE_DELETE
	handle, _, err := procReOpenFile.Call(fd, uintptr(access), shared, 0)
	if win.Handle(handle) == win.InvalidHandle {
		return win.InvalidHandle, err
	}
	return win.Handle(handle), nil
}

// sysRevoke takes the view away and reserves its addresses, so that accesses fault. In between
// something else may get them: then they are no longer held.
func sysRevoke(data []byte) (held bool, err error) {
	address := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	if err := win.UnmapViewOfFile(address); err != nil {
		return true, err
	}
	_, err = win.VirtualAlloc(address, uintptr(len(data)), win.MEM_RESERVE, win.PAGE_NOACCESS)
	return err == nil, nil
}

// sysUnmap gives the addresses back, of a view or of what sysRevoke has reserved.
func sysUnmap(data []byte) error {
	address := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	if win.UnmapViewOfFile(address) == nil {
		return nil
	}
	return win.VirtualFree(address, 0, win.MEM_RELEASE)
}

// sysSyncMap starts writing the changed pages to the file: see sysSyncMapIsDurable.
func sysSyncMap(data []byte) error {
	return win.FlushViewOfFile(uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)))
}

// sysAdvise passes a hint on: there is one.
func sysAdvise(data []byte, advice int) error {
	if advice != sysAdviseWillNeed || procPrefetchVirtualMemory.Find() != nil {
		return errors.ErrUnsupported
	}
	area := struct {
		address unsafe.Pointer
		length  uintptr
	}{unsafe.Pointer(unsafe.SliceData(data)), uintptr(len(data))}
	done, _, err := procPrefetchVirtualMemory.Call(uintptr(win.CurrentProcess()), 1, uintptr(unsafe.Pointer(&area)), 0)
	if done == 0 {
		return err
	}
	return nil
}

func sysCachedPages(fd uintptr, offset, length int64) (int64, error) {
	return 0, errors.ErrUnsupported
}

func sysResidentMap(data []byte, vec []byte) error { return errors.ErrUnsupported }

// sysTouchModTime sets the modification time to now. It does so by a handle of its own: writes by
// one that has set the time do not move it any more.
func sysTouchModTime(fd uintptr) error {
	file, err := sysReopen(fd, win.FILE_WRITE_ATTRIBUTES)
	if err != nil {
		return err
	}
	defer win.CloseHandle(file)
	var now win.Filetime
	win.GetSystemTimeAsFileTime(&now)
	return win.SetFileTime(file, nil, nil, &now)
}

// sysIsShortage reports whether err says that something has run out, or that the file is in use or
// too small, which may change.
func sysIsShortage(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.ENOMEM, win.ERROR_NO_SYSTEM_RESOURCES, win.ERROR_WORKING_SET_QUOTA,
		win.ERROR_TOO_MANY_OPEN_FILES, win.ERROR_SHARING_VIOLATION,
		win.ERROR_HANDLE_EOF, win.ERROR_FILE_INVALID,
	}, func(shortage error) bool { return errors.Is(err, shortage) })
}

// sysIsHeldByMap reports whether err says that a map keeps the file from being changed.
func sysIsHeldByMap(err error) bool { return errors.Is(err, win.ERROR_USER_MAPPED_FILE) }

// sysLockPages keeps pages in memory, as far as the process's minimum working set has room for them.
func sysLockPages(data []byte, ordinary bool) error {
	return win.VirtualLock(uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)))
}

func sysUnlockPages(data []byte) error {
	err := win.VirtualUnlock(uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)))
	if err == win.ERROR_NOT_LOCKED {
		return nil
	}
	return err
}

// sysPunchHole frees what it can of the range, which then reads as zeros.
func sysPunchHole(fd uintptr, offset, length int64) error {
	hole := struct{ start, end int64 }{offset, offset + length}
	var returned uint32
	err := win.DeviceIoControl(win.Handle(fd), win.FSCTL_SET_SPARSE, nil, 0, nil, 0, &returned, nil)
	if err == nil {
		err = win.DeviceIoControl(win.Handle(fd), win.FSCTL_SET_ZERO_DATA,
			(*byte)(unsafe.Pointer(&hole)), uint32(unsafe.Sizeof(hole)), nil, 0, &returned, nil)
	}
	if err == win.ERROR_INVALID_FUNCTION {
		return errors.ErrUnsupported // the filesystem has no holes
	}
	return err
}

func sysPopulate(data []byte) error { return errors.ErrUnsupported }

func sysMapUnit(fd uintptr) (int64, error) { return 0, errors.ErrUnsupported }

func sysReadAhead(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysChangeTime(description any) int64 { return 0 } // only overlayfs needs it

func sysMayWrite(fd uintptr) error { return errors.ErrUnsupported }

func sysNoCache(fd uintptr) error { return errors.ErrUnsupported }

func sysMapPastEnd() ([]byte, error) { return nil, errors.ErrUnsupported }

func sysDirtyPages(fd uintptr) (int64, error) { return 0, errors.ErrUnsupported }

func sysPrivatePages(data []byte, own []bool) error { return errors.ErrUnsupported }

func sysMapLimit() (int64, error) { return 0, errors.ErrUnsupported }

func sysAddressLimit() (int64, error) { return 0, errors.ErrUnsupported }

func sysMajorFaults() (int64, error) { return 0, errors.ErrUnsupported }

func sysFiltered() (bool, error) { return false, nil }

// sysFilesystem tells local volumes from remote ones, of which a view may show old bytes, and files
// behind reparse points (FILE_ATTRIBUTE_REPARSE_POINT), which a filter may transform.
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	var info win.ByHandleFileInformation
	if err := win.GetFileInformationByHandle(win.Handle(fd), &info); err != nil {
		return filesystemUnknown, "", err
	}
	if info.FileAttributes&win.FILE_ATTRIBUTE_REPARSE_POINT != 0 {
		return filesystemUnknown, "a reparse point", nil
	}
	// It fails for a local file (FILE_REMOTE_PROTOCOL_INFO, remarks).
	var protocol [256]byte
	if win.GetFileInformationByHandleEx(win.Handle(fd), win.FileRemoteProtocolInfo, &protocol[0], uint32(len(protocol))) == nil {
		return filesystemUnknown, "a remote volume", nil
	}
	return filesystemOnePage, "a local volume", nil
}

func sysIsDescriptorShortage(err error) bool { return errors.Is(err, win.ERROR_TOO_MANY_OPEN_FILES) }

func sysDescriptorLimit() (int64, error) { return 0, errors.ErrUnsupported }

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

// The locked bytes are far from the contents: nobody but the holder may read or write a locked
// byte, except through a view.
const (
	userLock   = 1 << 62
	growthLock = userLock + 1
)

const (
	// sysOpenNofollow is in sysStat.
	sysOpenNofollow  = 0
	sysSleepsOnWords = false // WaitOnAddress is for the threads of one process
)

const sharedWithAll = win.FILE_SHARE_READ | win.FILE_SHARE_WRITE | win.FILE_SHARE_DELETE

// sysOpenLock opens the file a second time. A call that waits for a lock keeps all other calls
// on its handle waiting, and a lock belongs to the handle.
func sysOpenLock(fd uintptr, path string) (uintptr, error) {
	handle, err := sysReopen(fd, win.GENERIC_READ)
	if err == nil {
		return uintptr(handle), nil
	}
	name, err := win.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	handle, err = win.CreateFile(name, win.GENERIC_READ, sharedWithAll,
		nil, win.OPEN_EXISTING, win.FILE_ATTRIBUTE_NORMAL, 0)
	return uintptr(handle), err
}

// sysLock takes the lock, or with wait unset reports false if somebody else has it.
func sysLock(lock uintptr, exclusive, wait bool) (bool, error) {
	return lockByte(lock, userLock, exclusive, wait)
}

func lockByte(handle uintptr, at uint64, exclusive, wait bool) (bool, error) {
	var flags uint32
	if exclusive {
		flags |= win.LOCKFILE_EXCLUSIVE_LOCK
	}
	if !wait {
		flags |= win.LOCKFILE_FAIL_IMMEDIATELY
	}
	err := win.LockFileEx(win.Handle(handle), flags, 0, 1, 0, byteAt(at))
	if !wait && (err == win.ERROR_LOCK_VIOLATION || err == win.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

func byteAt(at uint64) *win.Overlapped {
	return &win.Overlapped{Offset: uint32(at), OffsetHigh: uint32(at >> 32)}
}

// sysUnlock gives the lock back.
func sysUnlock(lock uintptr) error {
	return win.UnlockFileEx(win.Handle(lock), 0, 1, 0, byteAt(userLock))
}

func sysCloseLock(lock uintptr) error { return win.CloseHandle(win.Handle(lock)) }

// sysLockGrowth takes the lock of those who change the size of the file, by which nobody waits:
// if somebody has it the error is EAGAIN. The lock outlives fd.
func sysLockGrowth(fd uintptr, directory string) (lock uintptr, err error) {
	handle, err := sysDuplicate(fd)
	if err != nil {
		return 0, err
	}
	locked, err := lockByte(handle, growthLock, true, false)
	if locked {
		return handle, nil
	}
	win.CloseHandle(win.Handle(handle))
	if err == nil {
		err = syscall.EAGAIN
	}
	return 0, err
}

// sysDuplicate returns another handle on the same open file.
func sysDuplicate(fd uintptr) (uintptr, error) {
	self := win.CurrentProcess()
	var handle win.Handle
	err := win.DuplicateHandle(self, win.Handle(fd), self, &handle, 0, false, win.DUPLICATE_SAME_ACCESS)
	return uintptr(handle), err
}

// sysGrowthHeld reports whether somebody changes the size of the file. It locks for a moment, by
// which a creator may have to try again.
func sysGrowthHeld(fd uintptr, directory string) (bool, error) {
	locked, err := lockByte(fd, growthLock, false, false)
	if err != nil || !locked {
		return err == nil, err
	}
	return false, win.UnlockFileEx(win.Handle(fd), 0, 1, 0, byteAt(growthLock))
}

func sysUnlockGrowth(lock uintptr) error {
	err := win.UnlockFileEx(win.Handle(lock), 0, 1, 0, byteAt(growthLock))
	return join(err, win.CloseHandle(win.Handle(lock)))
}

// sysGrowsFirst is false because a file that is mapped does not shrink again.
func sysGrowsFirst(fd uintptr) bool { return false }

// sysReserve is not needed: written bytes have their clusters.
func sysReserve(fd uintptr, size int64) error { return errors.ErrUnsupported }

func sysExtend(fd uintptr, size int64) error { return errors.ErrUnsupported }

// sysStat describes what is at path, a link by itself, by a handle of its own. What os.Lstat
// returns finds the file's identity only when it is compared, and not if the file is open in some
// other way.
func sysStat(path string) (os.FileInfo, error) {
	name, err := win.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	handle, err := win.CreateFile(name, win.FILE_READ_ATTRIBUTES, sharedWithAll, nil, win.OPEN_EXISTING,
		win.FILE_FLAG_OPEN_REPARSE_POINT|win.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(handle), path)
	defer file.Close()
	return file.Stat()
}

// sysOwner does not know: an owner is no number here.
func sysOwner(info os.FileInfo) (user int, known bool) { return 0, false }

// sysAccessMode is not told of a handle. Whether it may be written to shows when it is opened
// again.
func sysAccessMode(fd uintptr) (int, error) {
	handle, err := sysReopen(fd, win.GENERIC_READ|win.GENERIC_WRITE)
	if err != nil {
		return os.O_RDONLY, nil
	}
	return os.O_RDWR, win.CloseHandle(handle)
}

// sysAnonymousFile makes a file that is gone with the last handle on it.
func sysAnonymousFile() (fd uintptr, path string, err error) {
	for attempt := range int64(100) {
		path = filepath.Join(os.TempDir(), "memmapfs-"+strconv.FormatInt(time.Now().UnixNano()+attempt, 36))
		name, err := win.UTF16PtrFromString(path)
		if err != nil {
			return 0, path, err
		}
		handle, err := win.CreateFile(name, win.GENERIC_READ|win.GENERIC_WRITE, sharedWithAll, nil,
			win.CREATE_NEW, win.FILE_ATTRIBUTE_TEMPORARY|win.FILE_FLAG_DELETE_ON_CLOSE, 0)
		if err != win.ERROR_FILE_EXISTS {
			return uintptr(handle), path, err
		}
	}
	return 0, path, win.ERROR_FILE_EXISTS
}

func sysSealSize(fd uintptr) error { return nil }

// sysReopenRegion opens the file of a handle once more.
func sysReopenRegion(fd uintptr, flag int) (uintptr, error) {
	access := uint32(win.GENERIC_READ)
	if flag == os.O_RDWR {
		access |= win.GENERIC_WRITE
	}
	handle, err := sysReopen(fd, access)
	return uintptr(handle), err
}

func sysReplacesMapped(fd uintptr) (bool, error) { return false, nil }

func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	return errors.ErrUnsupported
}

func sysWakeWord(word *uint32, n int32) (woken int, err error) { return 0, errors.ErrUnsupported }
