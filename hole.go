package memmapfs

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

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
	info, err := f.stat()
	switch {
	case err != nil:
		return err
	case f.writesStay:
		return errCopyOnWriteHole
	case f.flag&accessMode == os.O_RDONLY:
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
	if err = f.freeBlocks(info, hole); err != nil {
		return err
	}
	f.mfs.eachMapOf(info, func(other *MappedFile, _ os.FileInfo) { other.forgetPages(hole) })
	err = join(f.writeZeros(byteRange{s.from, hole.from}), f.writeZeros(byteRange{hole.to, s.to}))
	if f.flag&os.O_SYNC != 0 { // the descriptor may be another one
		return join(err, f.flush())
	}
	return join(err, f.wrote(0, 0))
}

// freeBlocks is PunchHole for whole blocks.
func (f *MappedFile) freeBlocks(info os.FileInfo, hole byteRange) error {
	punch := func(d *descriptor) error {
		return d.do(func(fd uintptr) error { return system.punchHole(fd, hole.from, hole.to-hole.from) })
	}
	if !sysMapsHoldFiles {
		return f.withDescriptor(info, true, punch)
	}
	return f.mfs.withoutMaps(func() error {
		d, err := findDescriptor(f.file, info, true)
		if err != nil {
			return err
		}
		return join(punch(d), d.close())
	}, f.stat)
}

// writeZeros is PunchHole for the part of a block.
func (f *MappedFile) writeZeros(s byteRange) error {
	if s.from >= s.to {
		return nil
	}
	if f.flag&os.O_APPEND != 0 {
		return fmt.Errorf("part of a block cannot be freed by a handle that appends: %w", errors.ErrUnsupported)
	}
	_, err := f.writeAt(make([]byte, s.to-s.from), s.from)
	return err
}

// forgetPages has the next access to a range go through the file: its pages are no longer in memory,
// and a store into one of them needs a block. Where map and file need not agree the map was taken away.
// The caller holds f.windows.mu.
func (f *MappedFile) forgetPages(s byteRange) {
	if !sysMapsAgreeWithIO {
		return
	}
	for _, m := range f.windows.live {
		if part := m.part(s); part != nil {
			first, last := pageSpan(max(s.pages().from-m.offset, 0), len(part))
			m.resident.remove(first, last)
			if !m.private {
				m.written.remove(first, last)
			}
		}
	}
}
