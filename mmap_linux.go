package memmapfs

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// msync(MS_SYNC) is a ranged fdatasync on Linux: it waits for the disk's cache, and
	// covers the bytes of the range whichever way they were written.
	sysSyncMapIsDurable = true
	// fsync(2) writes the pages changed through a map, too.
	sysFileSyncCoversMaps = true
	sysPopulateFlag       = unix.MAP_POPULATE
)

// sysCachedPages counts the pages of the range that are in the page cache. It needs
// Linux 6.5 and the right to write the file or its ownership (EPERM).
func sysCachedPages(fd uintptr, offset, length int64) (int64, error) {
	area := unix.CachestatRange{Off: uint64(offset), Len: uint64(length)}
	var result unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &area, &result, 0); err != nil {
		return 0, err
	}
	return int64(result.Cache), nil
}

// sysResidentMap sets bit 0 of vec[i] if the map's page i is in memory. To a process that
// neither owns the file nor may write it, mincore(2) says of every page that it is.
func sysResidentMap(data []byte, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(data))),
		uintptr(len(data)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		return errno
	}
	return nil
}

// sysTouchModTime sets the modification time of fd to now. Only the owner may do so
// alone; who may just write the file has to set the access time with it (utimensat(2)).
func sysTouchModTime(fd uintptr) error {
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, fd, 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno == unix.EPERM {
		_, _, errno = unix.Syscall6(unix.SYS_UTIMENSAT, fd, 0, 0, 0, 0, 0)
	}
	if errno != 0 {
		return errno
	}
	return nil
}
