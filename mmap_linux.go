package memmapfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
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

	// sysHarmlessFlags are flags of open(2) that say nothing of how bytes are read and written. The
	// kernel hands a FUSE server O_LARGEFILE as 0x8000, whatever its own name for it is; where that
	// number means O_DIRECT (MIPS), it is none of them.
	sysHarmlessFlags = (unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NOATIME | unix.O_NONBLOCK |
		unix.O_LARGEFILE | 0x8000) &^ unix.O_DIRECT
	// sysReadAhead starts reading.
	sysReadsAhead = true
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

// sysLockPages keeps the pages of a map in memory, those that are not there from when they are touched
// on. mlock(2) would bring them in, and make a copy of each private page, which then no longer shows
// the file; with ordinary it is called all the same.
func sysLockPages(data []byte, ordinary bool) error {
	if ordinary {
		return unix.Mlock(data)
	}
	const onFault = 1 // MLOCK_ONFAULT
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)), onFault)
	if errno == unix.ENOSYS {
		return unix.Mlock(data)
	}
	if errno != 0 {
		return errno
	}
	return nil
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

// sysFilesystem returns what kind of filesystem a file is on, and its name. The kinds that keep one
// page cache for maps and calls are those whose files are mapped and read by the kernel's generic
// code (mm/filemap.c: filemap_fault, filemap_read) on a device of this machine. The numbers are those
// of statfs(2) and of the kernel's include/uapi/linux/magic.h. ZFS keeps a cache of its own beside
// the kernel's, and is left out.
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	var status unix.Statfs_t
	if err := unix.Fstatfs(int(fd), &status); err != nil {
		return filesystemUnknown, "", err
	}
	const ntfs3, bcachefs, jfs, ubifs, hfsPlus = 0x7366746e, 0xca451a4e, 0x3153464a, 0x24051905, 0x482b
	switch uint32(status.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC,
		unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, unix.ISOFS_SUPER_MAGIC, unix.CRAMFS_MAGIC,
		unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC, unix.UDF_SUPER_MAGIC, unix.REISERFS_SUPER_MAGIC,
		unix.NILFS_SUPER_MAGIC, unix.MINIX_SUPER_MAGIC, unix.MINIX2_SUPER_MAGIC, unix.MINIX3_SUPER_MAGIC,
		ntfs3, bcachefs, jfs, ubifs, hfsPlus:
		return filesystemOnePage, "a local filesystem", nil
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.HUGETLBFS_MAGIC:
		return filesystemFillsHole, "a filesystem in memory", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return filesystemOverlay, "overlayfs", nil
	case unix.FUSE_SUPER_MAGIC:
		return filesystemUnknown, "FUSE", nil
	case unix.NFS_SUPER_MAGIC:
		return filesystemUnknown, "NFS", nil
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return filesystemUnknown, "SMB", nil
	case unix.V9FS_MAGIC:
		return filesystemUnknown, "9p", nil
	case unix.CEPH_SUPER_MAGIC:
		return filesystemUnknown, "Ceph", nil
	case unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC:
		return filesystemUnknown, "AFS", nil
	}
	return filesystemUnknown, "a filesystem of the unknown type 0x" + strconv.FormatUint(uint64(uint32(status.Type)), 16), nil
}

// sysChangeTime returns the time, in nanoseconds, at which the inode was last changed, from what
// os.FileInfo has of the system. Nobody can set it (inode(7)).
func sysChangeTime(description any) int64 {
	if status, ok := description.(*syscall.Stat_t); ok {
		return status.Ctim.Nano()
	}
	return 0
}

// sysDirtyPages counts the pages of a file that are to be written to the disk, or are being written. It
// needs what sysCachedPages needs.
func sysDirtyPages(fd uintptr) (int64, error) {
	var area unix.CachestatRange // all of the file
	var result unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &area, &result, 0); err != nil {
		return 0, err
	}
	return int64(result.Dirty + result.Writeback), nil
}

// sysPrivatePages tells which pages of a private map are its own: those that were stored to, in memory
// or in swap (proc_pid_pagemap(5)).
func sysPrivatePages(data []byte, own []bool) error {
	const present, swapped, ofFile = 1 << 63, 1 << 62, 1 << 61
	file, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	defer file.Close()
	first := int64(uintptr(unsafe.Pointer(unsafe.SliceData(data)))) / int64(sysMapAlignment())
	entries := make([]uint64, min(len(own), 8<<10))
	for done := 0; done < len(own); {
		entries = entries[:min(len(entries), len(own)-done)]
		b := unsafe.Slice((*byte)(unsafe.Pointer(&entries[0])), 8*len(entries))
		if _, err := file.ReadAt(b, (first+int64(done))*8); err != nil {
			return err
		}
		for i, entry := range entries {
			own[done+i] = entry&(present|swapped) != 0 && entry&ofFile == 0
		}
		done += len(entries)
	}
	return nil
}

// sysMapLimit returns how many maps the process may have (vm.max_map_count).
func sysMapLimit() (int64, error) {
	text, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// sysAddressLimit returns how many bytes of addresses the process may have (RLIMIT_AS).
func sysAddressLimit() (int64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &limit); err != nil {
		return 0, err
	}
	if limit.Cur >= 1<<62 {
		return 0, errors.ErrUnsupported // there is none
	}
	return int64(limit.Cur), nil
}

// sysMajorFaults returns how often the process has waited for a disk in a page fault: majflt of
// proc_pid_stat(5). getrusage(2) is a call that a filter may not know.
func sysMajorFaults() (int64, error) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	// The fields that follow the name, which may have anything in it, begin with the third.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 10 {
		return 0, errors.ErrUnsupported
	}
	return strconv.ParseInt(fields[12-3], 10, 64)
}

// sysFiltered reports whether a filter of system calls is set (proc_pid_status(5)). It does not ask by
// prctl(2), which a filter may not know. Programs on Android always have one.
func sysFiltered() (bool, error) {
	if runtime.GOOS == "android" {
		return true, nil
	}
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, err
	}
	_, after, found := strings.Cut(string(text), "\nSeccomp:")
	return found && !strings.HasPrefix(strings.TrimSpace(after), "0"), nil
}

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
