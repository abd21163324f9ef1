package memmapfs

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// msync(MS_SYNC) is a ranged fdatasync on Linux: it waits for the disk's cache, and
	// covers the bytes of the range whichever way they were written.
	sysSyncMapIsDurable = true
	// fsync(2) writes the pages changed through a map, too.
	sysFileSyncCoversMaps = true
	// The flags in place of MAP_SHARED for stores that are durable without a change of the file's
	// metadata. Only files on DAX have it; elsewhere the kernel refuses them (EOPNOTSUPP).
	sysSyncFlags = unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC

	sysHoleUnit = 1
)

// sysMapPastEnd maps a page behind the end of a file: an access to it is a SIGBUS.
func sysMapPastEnd() ([]byte, error) {
	fd, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return sysMap(uintptr(fd), 0, sysMapAlignment(), 0)
}

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

// sysPopulate brings a map's pages into memory and into the page table, private ones without making
// copies. It needs Linux 5.14. What would be a fault is the error EFAULT.
func sysPopulate(data []byte) error { return unix.Madvise(data, unix.MADV_POPULATE_READ) }

// sysLockPages keeps the pages of a map in memory and brings in those that are not. mlock(2) would make a
// copy of each private page, which then no longer shows the file.
func sysLockPages(data []byte) error {
	const onFault = 1 // MLOCK_ONFAULT
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)), onFault)
	if errno == unix.ENOSYS {
		return unix.Mlock(data)
	}
	if errno != 0 {
		return errno
	}
	err := sysPopulate(data)
	if err == unix.EINVAL {
		err = unix.Mlock(data)
	}
	if err != nil {
		unix.Munlock(data)
	}
	return err
}

// sysMapUnit returns the number of bytes of which the offset and the length of a map of the file are
// multiples: in hugetlbfs the size of its pages.
func sysMapUnit(fd uintptr) (int64, error) {
	var status unix.Statfs_t
	if err := unix.Fstatfs(int(fd), &status); err != nil {
		return 0, err
	}
	if uint32(status.Type) != unix.HUGETLBFS_MAGIC {
		return 0, errors.ErrUnsupported
	}
	return int64(status.Bsize), nil
}

// sysReadAhead starts reading a range into the page cache.
func sysReadAhead(fd uintptr, offset, length int64) error {
	return unix.Fadvise(int(fd), offset, length, unix.FADV_WILLNEED)
}

// sysMayWrite fails unless this process owns the file or may write it, whatever fd was opened for.
func sysMayWrite(fd uintptr) error {
	var status unix.Stat_t
	if err := unix.Fstat(int(fd), &status); err != nil {
		return err
	}
	if int(status.Uid) == unix.Geteuid() {
		return nil
	}
	return unix.Faccessat(int(fd), "", unix.W_OK, unix.AT_EMPTY_PATH|unix.AT_EACCESS)
}

// sysPunchHole frees the blocks of a range, which then reads as zeros.
func sysPunchHole(fd uintptr, offset, length int64) error {
	return unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
}

func sysNoCache(fd uintptr) error { return errors.ErrUnsupported }
