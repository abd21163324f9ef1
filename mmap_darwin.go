package memmapfs

import (
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sysHoleUnit is the number of bytes of which the offset and the length of a hole are multiples:
// the block size of APFS, and of HFS+ unless it was made with another.
const sysHoleUnit = 4096

// sysReadAhead starts reading a range into the cache (F_RDADVISE).
func sysReadAhead(fd uintptr, offset, length int64) error {
	for end := offset + length; offset < end; {
		area := struct {
			offset int64
			count  int32
			_      int32
		}{offset: offset, count: int32(min(end-offset, math.MaxInt32))}
		_, _, errno := unix.Syscall(unix.SYS_FCNTL, fd, unix.F_RDADVISE, uintptr(unsafe.Pointer(&area)))
		if errno != 0 {
			return errno
		}
		offset += int64(area.count)
	}
	return nil
}

// sysPunchHole frees the blocks of a range, which then reads as zeros.
func sysPunchHole(fd uintptr, offset, length int64) error {
	hole := struct {
		flags, reserved uint32
		offset, length  int64
	}{offset: offset, length: length}
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, fd, unix.F_PUNCHHOLE, uintptr(unsafe.Pointer(&hole)))
	if errno != 0 {
		return errno
	}
	return nil
}

// sysNoCache keeps what is read and written through fd out of the cache.
func sysNoCache(fd uintptr) error {
	_, err := unix.FcntlInt(fd, unix.F_NOCACHE, 1)
	return err
}
