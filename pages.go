package memmapfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// The pages of a file that are in memory, and those that it does without.

// Prefetch reads the n bytes from off on into memory and waits for them. Reads of them then need no disk,
// and no system call where the file is mapped, until the system needs the memory for something else. It
// maps the file if it can: the whole file, or as many windows as Config.MaxWindows leaves room for, and
// drops none. A file that cannot be mapped is read through the wrapped file.
//
// The waiting is done in system calls, so other goroutines run meanwhile; a bad disk is an error and never
// a fault. What lies past the end of the file is left out. Close, which may be called meanwhile, ends it
// with fs.ErrClosed. A negative argument gives ErrInvalidOffset.
func (f *MappedFile) Prefetch(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil {
		err = f.maps.prefetch(s)
	}
	return f.wrap("prefetch", err)
}

// Residency returns how many bytes of the n from off on are in memory, in the page cache, and how many
// there are; both count whole pages, and end where the file ends. It maps nothing and brings nothing in.
// The answer may be old when it is there. Private pages of a copy-on-write file are not counted: they
// are always in memory, beside the file's.
//
// The answer is trusted if the system is known to give it truly. That takes the right to write the file,
// or its ownership, whatever the handle was opened for: to others Linux says of every page that it is in
// memory, or nothing. Where the system gives no answer (all but Linux; hugetlbfs; a file without a
// descriptor) the error wraps errors.ErrUnsupported. A negative argument gives ErrInvalidOffset.
func (f *MappedFile) Residency(off, n int64) (resident, total int64, trusted bool, err error) {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil {
		resident, total, trusted, err = f.maps.residency(s)
	}
	return resident, total, trusted, f.wrap("residency", err)
}

// LockMemory keeps the n bytes from off on in memory (mlock(2)), in whole pages, until UnlockMemory or
// Close. It brings them in first. It maps the file, with ErrNotMapped if it cannot be mapped; windows that hold
// locked pages stay mapped, and ErrNotMapped also says that Config.MaxWindows leaves no room for them.
// After Truncate and RemapAfterTruncation the pages are locked again when the file is mapped again, if
// the system allows it then.
//
// Locking a page twice is no more than once. A range that reaches past the end of the file gives io.EOF,
// a negative one ErrInvalidOffset. What the system allows a process to lock is limited, often to 8 MiB;
// the error at the limit says what to try. After an error nothing more is locked than before.
//
// In ModeCopyOnWrite elsewhere than on Linux, and there under a filter of system calls, the system makes private copies of the locked pages, which no
// longer follow the file.
func (f *MappedFile) LockMemory(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil && n > 0 {
		err = f.maps.lock(s)
	}
	return f.wrap("lock", err)
}

// UnlockMemory undoes LockMemory, or Config.LockPages, for the pages that the n bytes from off on touch.
// Pages that are not locked are none the worse. A negative argument gives ErrInvalidOffset.
func (f *MappedFile) UnlockMemory(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil && n > 0 {
		err = f.maps.unlock(s)
	}
	return f.wrap("unlock", err)
}

// errCopyOnWriteHole refuses to free blocks that the handle does not own.
var errCopyOnWriteHole = fmt.Errorf("a copy-on-write handle has no blocks to free, write zeros instead: %w", errors.ErrUnsupported)

// PunchHole gives the disk space of the n bytes from off on back to the filesystem, as far as whole
// blocks lie in the range. The bytes read as zeros afterwards, all n of them and through every handle and
// map of the file but for private pages of copy-on-write handles. The file's size stays; what lies past the
// end of the file is left out. It is a write: what SyncMode promises holds for it, and a handle that may
// not write refuses it as Write does.
//
// In ModeCopyOnWrite it is refused as Truncate is: the blocks are the file's, which stays as it is, and
// zeros in the handle would cost memory and free nothing. A file whose filesystem has no holes, or that
// offers no descriptor, gives an error wrapping errors.ErrUnsupported, and is not changed. A negative
// argument gives ErrInvalidOffset. It works on Linux (fallocate(2)), macOS
// and Windows, where it takes maps away and can fail as MemMapFS.Truncate does.
func (f *MappedFile) PunchHole(off, n int64) error {
	return f.wrap("punch", f.punchHole(off, n))
}

func (f *MappedFile) punchHole(off, n int64) error {
	if err := f.writable(); err != nil {
		return err
	}
	s, err := rangeOf(off, n)
	if err != nil {
		return err
	}
	info, err := f.maps.stat()
	switch {
	case err != nil:
		return err
	case f.private != nil:
		return errCopyOnWriteHole
	case f.maps.access() == os.O_RDONLY:
		return syscall.EBADF
	case !info.Mode().IsRegular():
		return errors.ErrUnsupported
	}
	s.to = min(s.to, info.Size())
	if s.from >= s.to {
		return nil
	}
	hole := byteRange{(s.from + sysHoleUnit - 1) / sysHoleUnit * sysHoleUnit, s.to / sysHoleUnit * sysHoleUnit}
	if hole.from >= hole.to {
		return f.writeZeros(s)
	}
	if err := f.unsynced.beginWrite(); err != nil {
		return err
	}
	defer f.unsynced.endWrite()
	if err = f.freeBlocks(info, hole); err != nil {
		return err
	}
	f.handles.each(f.maps.stat, func(other *MappedFile) { other.maps.forgetPages(hole) })
	err = join(f.writeZeros(byteRange{s.from, hole.from}), f.writeZeros(byteRange{hole.to, s.to}))
	if f.maps.flag&os.O_SYNC != 0 { // the descriptor may be another one
		return join(err, f.unsynced.flush())
	}
	return join(err, f.unsynced.wrote(0, 0))
}

// freeBlocks is PunchHole for whole blocks.
func (f *MappedFile) freeBlocks(info os.FileInfo, hole byteRange) error {
	punch := func(d *descriptor) error {
		return d.do(func(fd uintptr) error { return system.punchHole(fd, hole.from, hole.to-hole.from) })
	}
	if !sysMapsHoldFiles {
		return f.maps.withDescriptor(true, punch)
	}
	return f.handles.withoutMaps(func() error {
		d, err := f.maps.findDescriptor(info, true)
		if err != nil {
			return err
		}
		return join(punch(d), d.close())
	}, f.maps.stat)
}

// writeZeros is PunchHole for the part of a block.
func (f *MappedFile) writeZeros(s byteRange) error {
	if s.from >= s.to {
		return nil
	}
	if f.maps.flag&os.O_APPEND != 0 {
		return fmt.Errorf("part of a block cannot be freed by a handle that appends: %w", errors.ErrUnsupported)
	}
	_, err := f.writeAt(make([]byte, s.to-s.from), s.from)
	return err
}
