package memmapfs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	winapi "golang.org/x/sys/windows"
)

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

const sharedWithAll = winapi.FILE_SHARE_READ | winapi.FILE_SHARE_WRITE | winapi.FILE_SHARE_DELETE

// sysOpenLock opens the file a second time. A call that waits for a lock keeps all other calls
// on its handle waiting, and a lock belongs to the handle.
func sysOpenLock(fd uintptr, path string) (uintptr, error) {
	handle, err := sysReopen(fd, winapi.GENERIC_READ)
	if err == nil {
		return uintptr(handle), nil
	}
	name, err := winapi.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	handle, err = winapi.CreateFile(name, winapi.GENERIC_READ, sharedWithAll,
		nil, winapi.OPEN_EXISTING, winapi.FILE_ATTRIBUTE_NORMAL, 0)
	return uintptr(handle), err
}

// sysLock takes the lock, or with wait unset reports false if somebody else has it.
func sysLock(lock uintptr, exclusive, wait bool) (bool, error) {
	return lockByte(lock, userLock, exclusive, wait)
}

func lockByte(handle uintptr, at uint64, exclusive, wait bool) (bool, error) {
	var flags uint32
	if exclusive {
		flags |= winapi.LOCKFILE_EXCLUSIVE_LOCK
	}
	if !wait {
		flags |= winapi.LOCKFILE_FAIL_IMMEDIATELY
	}
	err := winapi.LockFileEx(winapi.Handle(handle), flags, 0, 1, 0, byteAt(at))
	if !wait && (err == winapi.ERROR_LOCK_VIOLATION || err == winapi.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

func byteAt(at uint64) *winapi.Overlapped {
	return &winapi.Overlapped{Offset: uint32(at), OffsetHigh: uint32(at >> 32)}
}

// sysUnlock gives the lock back.
func sysUnlock(lock uintptr) error {
	return winapi.UnlockFileEx(winapi.Handle(lock), 0, 1, 0, byteAt(userLock))
}

func sysCloseLock(lock uintptr) error { return winapi.CloseHandle(winapi.Handle(lock)) }

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
	winapi.CloseHandle(winapi.Handle(handle))
	if err == nil {
		err = syscall.EAGAIN
	}
	return 0, err
}

// sysDuplicate returns another handle on the same open file.
func sysDuplicate(fd uintptr) (uintptr, error) {
	self := winapi.CurrentProcess()
	var handle winapi.Handle
	err := winapi.DuplicateHandle(self, winapi.Handle(fd), self, &handle, 0, false, winapi.DUPLICATE_SAME_ACCESS)
	return uintptr(handle), err
}

// sysGrowthHeld reports whether somebody changes the size of the file. It locks for a moment, by
// which a creator may have to try again.
func sysGrowthHeld(fd uintptr, directory string) (bool, error) {
	locked, err := lockByte(fd, growthLock, false, false)
	if err != nil || !locked {
		return err == nil, err
	}
	return false, winapi.UnlockFileEx(winapi.Handle(fd), 0, 1, 0, byteAt(growthLock))
}

func sysUnlockGrowth(lock uintptr) error {
	err := winapi.UnlockFileEx(winapi.Handle(lock), 0, 1, 0, byteAt(growthLock))
	return join(err, winapi.CloseHandle(winapi.Handle(lock)))
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
	name, err := winapi.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	handle, err := winapi.CreateFile(name, winapi.FILE_READ_ATTRIBUTES, sharedWithAll, nil, winapi.OPEN_EXISTING,
		winapi.FILE_FLAG_OPEN_REPARSE_POINT|winapi.FILE_FLAG_BACKUP_SEMANTICS, 0)
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
	handle, err := sysReopen(fd, winapi.GENERIC_READ|winapi.GENERIC_WRITE)
	if err != nil {
		return os.O_RDONLY, nil
	}
	return os.O_RDWR, winapi.CloseHandle(handle)
}

// sysAnonymousFile makes a file that is gone with the last handle on it.
func sysAnonymousFile() (fd uintptr, path string, err error) {
	for attempt := range int64(100) {
		path = filepath.Join(os.TempDir(), "memmapfs-"+strconv.FormatInt(time.Now().UnixNano()+attempt, 36))
		name, err := winapi.UTF16PtrFromString(path)
		if err != nil {
			return 0, path, err
		}
		handle, err := winapi.CreateFile(name, winapi.GENERIC_READ|winapi.GENERIC_WRITE, sharedWithAll, nil,
			winapi.CREATE_NEW, winapi.FILE_ATTRIBUTE_TEMPORARY|winapi.FILE_FLAG_DELETE_ON_CLOSE, 0)
		if err != winapi.ERROR_FILE_EXISTS {
			return uintptr(handle), path, err
		}
	}
	return 0, path, winapi.ERROR_FILE_EXISTS
}

func sysSealSize(fd uintptr) error { return nil }

// sysReopenRegion opens the file of a handle once more.
func sysReopenRegion(fd uintptr, flag int) (uintptr, error) {
	access := uint32(winapi.GENERIC_READ)
	if flag == os.O_RDWR {
		access |= winapi.GENERIC_WRITE
	}
	handle, err := sysReopen(fd, access)
	return uintptr(handle), err
}

func sysReplacesMapped(fd uintptr) (bool, error) { return false, nil }

func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	return errors.ErrUnsupported
}

func sysWakeWord(word *uint32, n int32) (woken int, err error) { return 0, errors.ErrUnsupported }
