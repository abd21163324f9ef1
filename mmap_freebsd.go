package memmapfs

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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

const sysHoleUnit = 1

const sysReadsAhead = false

func sysReadAhead(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysPunchHole(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

func sysNoCache(fd uintptr) error { return errors.ErrUnsupported }

// The operations of _umtx_op(2). Without _PRIVATE in their names they are between processes.
const (
	umtxWake     = 3  // UMTX_OP_WAKE
	umtxWaitUint = 11 // UMTX_OP_WAIT_UINT
)

const sysSleepsOnWords = true

// sysSleepOnWord sleeps while the word has the value, until sysWakeWord or for the time given. It
// may end without either. Go's scheduler knows that the thread waits.
func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	timeout := unix.NsecToTimespec(int64(longest))
	_, _, err := unix.Syscall6(unix.SYS__UMTX_OP, uintptr(unsafe.Pointer(word)), umtxWaitUint, uintptr(value),
		unsafe.Sizeof(timeout), uintptr(unsafe.Pointer(&timeout)), 0)
	switch err {
	case 0, unix.EAGAIN, unix.EINTR, unix.ETIMEDOUT:
		return nil
	}
	return err
}

// sysWakeWord wakes up to n of those who sleep on the word, in whatever process. The system does not
// tell how many there were.
func sysWakeWord(word *uint32, n int32) (woken int, err error) {
	_, _, failed := unix.Syscall6(unix.SYS__UMTX_OP, uintptr(unsafe.Pointer(word)), umtxWake, uintptr(n), 0, 0, 0)
	if failed != 0 {
		return 0, failed
	}
	return 0, nil
}
