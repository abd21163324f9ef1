package memmapfs

import (
	"errors"
	"os"

	winapi "golang.org/x/sys/windows"
)

// The locked bytes are far from the contents: nobody but the holder may read or write a locked
// byte, except through a view.
const (
	userLock   = 1 << 62
	growthLock = userLock + 1
)

// sysOpenLock opens the file a second time. A call that waits for a lock keeps all other calls
// on its handle waiting, and a lock belongs to the handle.
func sysOpenLock(fd uintptr, path string) (uintptr, error) {
	name, err := winapi.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	handle, err := winapi.CreateFile(name, winapi.GENERIC_READ,
		winapi.FILE_SHARE_READ|winapi.FILE_SHARE_WRITE|winapi.FILE_SHARE_DELETE,
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

// sysLockGrowth waits until no other process changes the size of the file. The lock outlives fd.
func sysLockGrowth(fd uintptr, directory string) (lock uintptr, err error) {
	self := winapi.CurrentProcess()
	var handle winapi.Handle
	err = winapi.DuplicateHandle(self, winapi.Handle(fd), self, &handle, 0, false, winapi.DUPLICATE_SAME_ACCESS)
	if err != nil {
		return 0, err
	}
	if _, err := lockByte(uintptr(handle), growthLock, true, true); err != nil {
		winapi.CloseHandle(handle)
		return 0, err
	}
	return uintptr(handle), nil
}

func sysUnlockGrowth(lock uintptr) error {
	err := winapi.UnlockFileEx(winapi.Handle(lock), 0, 1, 0, byteAt(growthLock))
	return join(err, winapi.CloseHandle(winapi.Handle(lock)))
}

// sysReserve is not needed: written bytes have their clusters.
func sysReserve(fd uintptr, size int64) error { return errors.ErrUnsupported }

// sysStat describes the file at path by a handle of its own. What os.Stat returns finds the
// file's identity only when it is compared, and not if the file is open in some other way.
func sysStat(path string) (os.FileInfo, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Stat()
}
