package memmapfs

import (
	"io"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// growthLock is where creators lock the file, far from its contents, because some network
// filesystems refuse access to locked bytes.
const growthLock = 1 << 62

// sysLockGrowth takes the lock of those who change the size of the file, by which nobody waits:
// if another creator has it the error is EAGAIN. It is EBUSY if somebody else's lock covers the
// place, which lockf(3) of a whole file does and a lock for reading may do: then no creator can
// have it. The lock outlives fd. It is one of the open file description (fcntl(2)), for which
// the file has to be open for writing, and is independent of flock(2) on local filesystems.
func sysLockGrowth(fd uintptr, directory string) (lock uintptr, err error) {
	duplicate, err := sysDuplicate(fd)
	if err != nil {
		return 0, err
	}
	wanted := growthByte(unix.F_WRLCK)
	err = unix.FcntlFlock(duplicate, unix.F_OFD_SETLK, &wanted)
	if err == nil {
		return duplicate, nil
	}
	unix.Close(int(duplicate))
	if err != unix.EAGAIN && err != unix.EACCES {
		return 0, err
	}
	held, err := sysGrowthHeld(fd, directory)
	switch {
	case err != nil:
		return 0, err
	case held:
		return 0, syscall.EAGAIN
	}
	return 0, syscall.EBUSY
}

func growthByte(kind int16) unix.Flock_t {
	return unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: growthLock, Len: 1}
}

// sysGrowthHeld reports whether a creator has the lock. Who may only read cannot look like one,
// nor can who locks the whole file.
func sysGrowthHeld(fd uintptr, directory string) (bool, error) {
	found := growthByte(unix.F_WRLCK)
	if err := unix.FcntlFlock(fd, unix.F_OFD_GETLK, &found); err != nil {
		return false, err
	}
	return found.Type == unix.F_WRLCK && found.Start == growthLock && found.Len == 1, nil
}

// sysUnlockGrowth does not leave it to the close: fd and the file's map have the same open file
// description.
func sysUnlockGrowth(lock uintptr) error {
	free := growthByte(unix.F_UNLCK)
	err := unix.FcntlFlock(lock, unix.F_OFD_SETLK, &free)
	return join(err, unix.Close(int(lock)))
}

// sysGrowsFirst reports whether a file is to get its size before its blocks. What is sealed against
// shrinking could not be cut again.
func sysGrowsFirst(fd uintptr) bool {
	seals, err := unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
	return err != nil || seals&unix.F_SEAL_SHRINK == 0
}

// sysReserve gives the first size bytes of the file their blocks and leaves its size alone.
func sysReserve(fd uintptr, size int64) error {
	const least = 1 << 20
	for off, length := int64(0), size; off < size; {
		length = min(length, size-off)
		switch err := unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, off, length); err {
		case nil:
			off += length
		case unix.EINTR: // tmpfs has then given all of it back
			length = max(length/2, least)
		default:
			return err
		}
	}
	return nil
}

// sysExtend makes the file size bytes long unless it is longer already. Unlike ftruncate(2) it
// cannot take away what another process adds at the same time.
func sysExtend(fd uintptr, size int64) error {
	for {
		if err := unix.Fallocate(int(fd), 0, size-1, 1); err != unix.EINTR {
			return err
		}
	}
}

// sysAnonymousFile makes a file in memory that has no name in any directory.
func sysAnonymousFile() (fd uintptr, path string, err error) {
	const name = "memmapfs"
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	opened, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		opened, err = unix.MemfdCreate(name, flags)
	}
	return uintptr(opened), "/memfd:" + name, err
}

// sysSealSize keeps everybody from making the file of sysAnonymousFile shorter.
func sysSealSize(fd uintptr) error {
	_, err := unix.FcntlInt(fd, unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return err
}

// sysReopenRegion opens the file of a descriptor once more, so that its locks are of its own.
func sysReopenRegion(fd uintptr, flag int) (uintptr, error) {
	path := "/proc/self/fd/" + strconv.Itoa(int(fd))
	opened, err := unix.Open(path, flag|unix.O_CLOEXEC|sysOpenNonblock, 0)
	return uintptr(opened), err
}

// sysReplacesMapped reports whether the file that was opened for reading may get another place on
// the disk when somebody opens it for writing, so that maps made before show the old one for
// good. A file of the lower layer of overlayfs is copied up then. Where it lies is told by the
// handle that the filesystem has for it (its first byte is 0, its fifth 0xfb, the bit 4 in its
// seventh the upper layer), from Linux 6.6 on; before that every file there may be replaced.
func sysReplacesMapped(fd uintptr) (bool, error) {
	var info unix.Statfs_t
	for {
		err := unix.Fstatfs(int(fd), &info)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return false, err
		}
	}
	if info.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return false, nil
	}
	const handleToCompare = 0x200 // AT_HANDLE_FID
	handle, _, err := unix.NameToHandleAt(int(fd), "", unix.AT_EMPTY_PATH|handleToCompare)
	if err != nil {
		return true, nil
	}
	bytes := handle.Bytes()
	const overlayHandle, magic, upper = 0xf8, 0xfb, 4
	return !(handle.Type() == overlayHandle && len(bytes) > 6 && bytes[4] == magic && bytes[6]&upper != 0), nil
}

// The operations of futex(2). Without FUTEX_PRIVATE_FLAG they are between processes.
const (
	futexWait = 0
	futexWake = 1
)

const sysSleepsOnWords = true

// sysSleepOnWord sleeps while the word has the value, until sysWakeWord or for the time given. It
// may end without either. Go's scheduler knows that the thread waits.
func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	timeout := unix.NsecToTimespec(int64(longest))
	_, _, err := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(value),
		uintptr(unsafe.Pointer(&timeout)), 0, 0)
	switch err {
	case 0, unix.EAGAIN, unix.EINTR, unix.ETIMEDOUT:
		return nil
	}
	return err
}

// sysWakeWord wakes up to n of those who sleep on the word, in whatever process.
func sysWakeWord(word *uint32, n int32) (woken int, err error) {
	number, _, failed := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, uintptr(n), 0, 0, 0)
	if failed != 0 {
		return 0, failed
	}
	return int(number), nil
}
