package memmapfs

import (
	"errors"
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sysHoleUnit is the number of bytes of which the offset and the length of a hole are multiples:
// the block size of APFS, and of HFS+ unless it was made with another.
const sysHoleUnit = 4096

const sysReadsAhead = true

// sysReadAhead starts reading a range into the cache (F_RDADVISE). x/sys has one fcntl(2) with a pointer,
// for another command; the system takes the pointer for what this command wants.
func sysReadAhead(fd uintptr, offset, length int64) error {
	for end := offset + length; offset < end; {
		area := struct {
			offset int64
			count  int32
			_      [20]byte // so that it is as long as a Fstore_t
		}{offset: offset, count: int32(min(end-offset, math.MaxInt32))}
		if err := unix.FcntlFstore(fd, unix.F_RDADVISE, (*unix.Fstore_t)(unsafe.Pointer(&area))); err != nil {
			return err
		}
		offset += int64(area.count)
	}
	return nil
}

// sysPunchHole frees the blocks of a range, which then reads as zeros. An fpunchhole_t is a Fstore_t
// without its end.
func sysPunchHole(fd uintptr, offset, length int64) error {
	return unix.FcntlFstore(fd, unix.F_PUNCHHOLE, &unix.Fstore_t{Offset: offset, Length: length})
}

// sysNoCache keeps what is read and written through fd out of the cache.
func sysNoCache(fd uintptr) error {
	_, err := unix.FcntlInt(fd, unix.F_NOCACHE, 1)
	return err
}

// sysFilesystem tells local filesystems from those of a network (MNT_LOCAL of statfs(2)).
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	var status unix.Statfs_t
	if err := unix.Fstatfs(int(fd), &status); err != nil {
		return filesystemUnknown, "", err
	}
	if status.Flags&unix.MNT_LOCAL == 0 {
		return filesystemUnknown, "a filesystem that is not local", nil
	}
	return filesystemOnePage, "a local filesystem", nil
}

// What there is to sleep on a word is undocumented here, or not to be had without a C library.

const sysSleepsOnWords = false

func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	return errors.ErrUnsupported
}

func sysWakeWord(word *uint32, n int32) (woken int, err error) { return 0, errors.ErrUnsupported }
