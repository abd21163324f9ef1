//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris

package memmapfs

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sysRevokesInPlace  = true
	sysMapsHoldFiles   = false
	sysMapsAgreeWithIO = true // one page cache

	sysAppendsAtPosition = false

	// sysOpenNonblock keeps an open from waiting for the other end of a pipe.
	sysOpenNonblock = unix.O_NONBLOCK
)

// sysMapAlignment returns the number of bytes of which the offset of a map is a multiple.
func sysMapAlignment() int { return unix.Getpagesize() }

// sysMap maps length bytes of the file fd from offset on.
func sysMap(fd uintptr, offset int64, length, flags int) ([]byte, error) {
	protection, kind := unix.PROT_READ, unix.MAP_SHARED
	if flags&mapWrite != 0 {
		protection |= unix.PROT_WRITE
	}
	if flags&mapExecute != 0 {
		protection |= unix.PROT_EXEC
	}
	if flags&mapPrivate != 0 {
		kind = unix.MAP_PRIVATE
	}
	if flags&mapSync != 0 && kind == unix.MAP_SHARED {
		kind |= sysSyncFlags
	}
	address, err := unix.MmapPtr(int(fd), offset, nil, uintptr(length), protection, kind)
	if err != nil {
		return nil, err
	}
	misplaced := (int64(uintptr(address)) - offset) % hugePageBytes
	if flags&mapAligned != 0 && length >= hugePageBytes && misplaced != 0 {
		if aligned := sysMapAligned(fd, offset, length, protection, kind); aligned != nil {
			unix.MunmapPtr(address, uintptr(length))
			return aligned, nil
		}
	}
	return unsafe.Slice((*byte)(address), length), nil
}

// sysMapAligned maps to an address with the same place in a large page as offset has. It reserves
// enough addresses that there is one, and gives the others back.
func sysMapAligned(fd uintptr, offset int64, length, protection, kind int) []byte {
	start, err := unix.MmapPtr(-1, 0, nil, uintptr(length)+hugePageBytes, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil
	}
	head := uintptr(offset-int64(uintptr(start))) % hugePageBytes
	address := unsafe.Add(start, head)
	if _, err := unix.MmapPtr(int(fd), offset, address, uintptr(length), protection, kind|unix.MAP_FIXED); err != nil {
		unix.MunmapPtr(start, uintptr(length)+hugePageBytes)
		return nil
	}
	if head > 0 {
		unix.MunmapPtr(start, head)
	}
	unix.MunmapPtr(unsafe.Add(address, length), hugePageBytes-head)
	return unsafe.Slice((*byte)(address), length)
}

// sysRevoke replaces the map by memory that cannot be accessed, at the same addresses and in
// one step, so that nothing else can be mapped there in between. Where the limit of maps does
// not allow that, the map itself becomes inaccessible.
func sysRevoke(data []byte) (held bool, err error) {
	_, err = unix.MmapPtr(-1, 0, unsafe.Pointer(unsafe.SliceData(data)), uintptr(len(data)),
		unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED)
	if err != nil {
		err = unix.Mprotect(data, unix.PROT_NONE)
	}
	return true, err
}

// sysUnmap gives the addresses back.
func sysUnmap(data []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(data)), uintptr(len(data)))
}

// sysSyncMap writes the changed pages of a shared map to the file and waits for the
// disk as far as msync(2) does: see sysSyncMapIsDurable.
func sysSyncMap(data []byte) error { return unix.Msync(data, unix.MS_SYNC) }

// sysAdvise passes a hint on.
func sysAdvise(data []byte, advice int) error { return unix.Madvise(data, advice) }

// sysUnlockPages undoes sysLockPages.
func sysUnlockPages(data []byte) error { return unix.Munlock(data) }

// sysIsShortage reports whether err says that something has run out, or an offset was too large,
// which may change.
func sysIsShortage(err error) bool {
	for _, shortage := range []error{unix.ENOMEM, unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.EOVERFLOW} {
		if errors.Is(err, shortage) {
			return true
		}
	}
	return false
}

func sysIsHeldByMap(err error) bool { return false }

// sysIsDescriptorShortage reports whether err says that the process, or the system, has no descriptor left.
func sysIsDescriptorShortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// sysDescriptorLimit returns how many descriptors the process may have (RLIMIT_NOFILE).
func sysDescriptorLimit() (int64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return int64(min(uint64(limit.Cur), 1<<62)), nil
}

// sysOpenNofollow keeps an open from following a link at the end of the path.
const sysOpenNofollow = unix.O_NOFOLLOW

// sysOpenLock returns a descriptor for sysLock and the calls below. It shares the open file
// description of fd, to which a lock of flock(2) belongs.
func sysOpenLock(fd uintptr, path string) (uintptr, error) {
	return sysDuplicate(fd)
}

// sysDuplicate returns another descriptor of the same open file description.
func sysDuplicate(fd uintptr) (uintptr, error) {
	duplicate, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	return uintptr(duplicate), err
}

// sysLock takes the lock, or with wait unset reports false if somebody else has it.
func sysLock(lock uintptr, exclusive, wait bool) (bool, error) {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		switch err := unix.Flock(int(lock), how); err {
		case nil:
			return true, nil
		case unix.EWOULDBLOCK:
			return false, nil
		case unix.EINTR:
		default:
			return false, err
		}
	}
}

// sysUnlock gives the lock back. Closing the descriptor does not: a map of the file keeps the
// open file description, and with it the lock.
func sysUnlock(lock uintptr) error { return unix.Flock(int(lock), unix.LOCK_UN) }

func sysCloseLock(lock uintptr) error { return unix.Close(int(lock)) }

// sysStat describes what is at the path, a link by itself.
func sysStat(path string) (os.FileInfo, error) { return os.Lstat(path) }

// sysOwner returns the number of the user who owns the file.
func sysOwner(info os.FileInfo) (user int, known bool) {
	stat, known := info.Sys().(*syscall.Stat_t)
	if !known {
		return 0, false
	}
	return int(stat.Uid), true
}

// sysAccessMode returns how a descriptor was opened: os.O_RDONLY, os.O_WRONLY or os.O_RDWR.
func sysAccessMode(fd uintptr) (int, error) {
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	return flags & unix.O_ACCMODE, err
}
