package memmapfs

import (
	"io"

	"golang.org/x/sys/unix"
)

// growthLock is where creators lock the file, far from its contents, because some network
// filesystems refuse access to locked bytes.
const growthLock = 1 << 62

// sysLockGrowth waits until no other process changes the size of the file. The lock outlives fd.
// It is one of the open file description (fcntl(2)), which is independent of flock(2) on local
// filesystems.
func sysLockGrowth(fd uintptr, directory string) (lock uintptr, err error) {
	duplicate, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	for {
		switch err := lockGrowthByte(duplicate, unix.F_OFD_SETLKW, unix.F_WRLCK); err {
		case nil:
			return uintptr(duplicate), nil
		case unix.EINTR:
		default:
			unix.Close(duplicate)
			return 0, err
		}
	}
}

func lockGrowthByte(fd, command int, kind int16) error {
	return unix.FcntlFlock(uintptr(fd), command,
		&unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: growthLock, Len: 1})
}

// sysUnlockGrowth does not leave it to the close: fd and the file's map have the same open file
// description.
func sysUnlockGrowth(lock uintptr) error {
	err := lockGrowthByte(int(lock), unix.F_OFD_SETLK, unix.F_UNLCK)
	return join(err, unix.Close(int(lock)))
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
