package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// The pages of a file that are in memory: bringing them in, counting them, keeping them there.

const (
	prefetchBytes = 4 << 20   // brought in by one system call, and so the time that Close may wait
	readInBytes   = 256 << 10 // read by one system call where the map cannot do it
)

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
	if f.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil {
		err = f.prefetch(s)
	}
	return f.wrap("prefetch", err)
}

func (f *MappedFile) prefetch(s byteRange) error {
	info, err := f.stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		s.to = min(s.to, info.Size())
	}
	for s.from < s.to {
		if f.isClosed() {
			return fs.ErrClosed
		}
		next := s.from + min(s.to-s.from, prefetchBytes-s.from%prefetchBytes)
		if m := f.pinForPrefetch(s.from); m != nil {
			next = min(next, m.offset+m.limit.Load())
			err = f.populate(m, byteRange{s.from, next})
			m.unpin()
		} else {
			err = f.readThrough(byteRange{s.from, next})
		}
		if err != nil {
			if err == io.EOF && info.Mode().IsRegular() {
				err = nil // somebody has shrunk the file
			}
			return err
		}
		s.from = next
	}
	return nil
}

// pinForPrefetch returns the mapping that holds off, pinned; it makes it unless another one had to be
// dropped for it.
func (f *MappedFile) pinForPrefetch(off int64) *mapping {
	w := &f.windows
	m := w.at(off)
	if m == nil || !m.holds(off) {
		w.mu.Lock()
		if len(w.live) < w.budget || w.size == wholeFile {
			m, _ = f.mapWindowLocked(off, f.writesStay && w.size == wholeFile)
		}
		w.mu.Unlock()
	}
	if m == nil || !m.holds(off) || !m.pin() {
		return nil
	}
	return m
}

// populate brings the pages of a range, which lies in m, into memory.
func (f *MappedFile) populate(m *mapping, s byteRange) error {
	part := m.part(s)
	if len(part) == 0 {
		return nil
	}
	if system.populate(part) != nil {
		return f.readThrough(s) // which knows what is wrong, if anything is
	}
	first, last := pageSpan(s.from-m.offset, int(s.to-s.from))
	f.addResident(m, first, last)
	return nil
}

// readThrough brings a range into memory by reading it through the file.
func (f *MappedFile) readThrough(s byteRange) error {
	buffer := make([]byte, min(readInBytes, s.to-s.from))
	for s.from < s.to && !f.isClosed() {
		n, err := f.file.ReadAt(buffer[:min(int64(len(buffer)), s.to-s.from)], s.from)
		if n > 0 {
			f.learnRead(s.from, n)
		}
		if err != nil {
			return err
		}
		s.from += int64(n)
	}
	return nil
}

// readIn brings all of a new map into memory if the Config says so. The caller holds f.windows.mu.
func (f *MappedFile) readIn(m *mapping) {
	if !f.mfs.config.PopulatePages {
		return
	}
	end := m.offset + m.limit.Load()
	for at := m.offset; at < end && !f.isClosed(); at += prefetchBytes {
		if f.populate(m, byteRange{at, min(at+prefetchBytes, end)}) != nil {
			return // whoever needs these bytes will see the error
		}
	}
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
	if f.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil {
		resident, total, trusted, err = f.residency(s)
	}
	return resident, total, trusted, f.wrap("residency", err)
}

func (f *MappedFile) residency(s byteRange) (resident, total int64, trusted bool, err error) {
	info, err := f.stat()
	if err != nil {
		return 0, 0, false, err
	}
	if !info.Mode().IsRegular() {
		return 0, 0, false, errors.ErrUnsupported
	}
	s.to = min(s.to, info.Size())
	if s.from >= s.to {
		return 0, 0, true, nil
	}
	s = s.pages()
	total = s.to - s.from
	err = f.withDescriptor(info, false, func(d *descriptor) error {
		cached, err := d.cachedPages(s.from, total)
		if err == nil {
			resident, trusted = min(cached*pageBytes, total), true
			return nil
		}
		return d.do(func(fd uintptr) error {
			trusted = system.mayWrite(fd) == nil
			resident, err = countResident(fd, s)
			return err
		})
	})
	return resident, total, trusted && err == nil, err
}

// countResident counts the bytes that are in memory of whole pages of a file, by maps of their own. Of a
// file in hugetlbfs such a map tells only what was touched through it.
func countResident(fd uintptr, s byteRange) (resident int64, err error) {
	if _, err := system.mapUnit(fd); err == nil {
		return 0, errors.ErrUnsupported
	}
	pages := make([]byte, 64<<10)
	for s.from < s.to {
		count := min(int64(len(pages)), (s.to-s.from)/pageBytes)
		data, err := system.mapFile(fd, s.from, int(count*pageBytes), 0)
		if err != nil {
			return 0, err
		}
		err = system.residentMap(data, pages)
		system.unmap(data)
		if err != nil {
			return 0, err
		}
		for _, page := range pages[:count] {
			resident += int64(page&1) * pageBytes
		}
		s.from += count * pageBytes
	}
	return resident, nil
}

// withDescriptor calls fn with the file's descriptor: the one that is there, or one found for this call.
// With write it is one that may write.
func (f *MappedFile) withDescriptor(info os.FileInfo, write bool, fn func(d *descriptor) error) error {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	if f.isClosed() {
		return fs.ErrClosed
	}
	if d := f.descriptor; d != nil && (d.owned == nil || f.mapsWritable || !write) {
		return fn(d)
	}
	d, err := findDescriptor(f.file, info, write)
	if err != nil {
		return err
	}
	return join(fn(d), d.close())
}

// errNotLocked reports that the system does not keep pages in memory.
var errNotLocked = errors.New("cannot keep the pages in memory")

// notLocked says what to try where a limit was reached.
func notLocked(reason error) error {
	switch {
	case sysIsShortage(reason), errors.Is(reason, syscall.EPERM):
		return fmt.Errorf("%w: %w (raise RLIMIT_MEMLOCK, see ulimit -l, or on Windows the minimum working set of "+
			"the process, or lock fewer bytes with LockMemory)", errNotLocked, reason)
	}
	return fmt.Errorf("%w: %w", errNotLocked, reason)
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
// In ModeCopyOnWrite elsewhere than on Linux the system makes private copies of the locked pages, which no
// longer follow the file.
func (f *MappedFile) LockMemory(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil && n > 0 {
		err = f.lockMemory(s)
	}
	return f.wrap("lock", err)
}

func (f *MappedFile) lockMemory(s byteRange) error {
	size, _, err := f.mappableSize()
	if err != nil {
		return err
	}
	if s.to > size {
		return io.EOF
	}
	if err := f.prefetch(s); err != nil {
		return err
	}
	w := &f.windows
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.locked()
	w.setLocked(append(without(before, s.pages()), s.pages())) // so that no window is dropped for the next
	var done []*mapping
	for at := s.from; at < s.to && err == nil; {
		var m *mapping
		if m, err = f.mapWindowLocked(at, f.writesStay && w.size == wholeFile); err != nil {
			break
		}
		if !m.holds(at) { // a private map does not grow with the file
			err = ErrNotMapped
			break
		}
		if err = system.lockPages(m.part(s)); err != nil {
			err = notLocked(err)
			break
		}
		done = append(done, m)
		at = m.offset + m.limit.Load()
	}
	if err == nil {
		return nil
	}
	w.setLocked(before)
	if !f.mfs.config.LockPages {
		rest := []byteRange{s.pages()}
		for _, old := range before {
			rest = without(rest, old)
		}
		for _, m := range done {
			m.unlock(rest)
		}
	}
	return err
}

func (m *mapping) unlock(ranges []byteRange) (err error) {
	for _, s := range ranges {
		if part := m.part(s); part != nil {
			err = join(err, system.unlockPages(part))
		}
	}
	return err
}

// UnlockMemory undoes LockMemory, or Config.LockPages, for the pages that the n bytes from off on touch.
// Pages that are not locked are none the worse. A negative argument gives ErrInvalidOffset.
func (f *MappedFile) UnlockMemory(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil && n > 0 {
		s = s.pages()
		f.windows.mu.Lock()
		f.windows.setLocked(without(f.windows.locked(), s))
		for _, m := range f.windows.live {
			err = join(err, m.unlock([]byteRange{s}))
		}
		f.windows.mu.Unlock()
	}
	return f.wrap("unlock", err)
}

// holdsLock reports whether LockMemory keeps the mapping. The caller holds w.mu.
func (w *windows) holdsLock(m *mapping) bool {
	return slices.ContainsFunc(w.locked(), func(s byteRange) bool { return s.overlaps(m.byteRange()) })
}

// lockPages locks what is to be locked of a new map, and fails if that is all of it and cannot be. The
// caller holds f.windows.mu.
func (f *MappedFile) lockPages(m *mapping) error {
	if f.mfs.config.LockPages {
		if err := system.lockPages(m.part(byteRange{m.offset, m.offset + m.limit.Load()})); err != nil {
			return notLocked(err)
		}
		return nil
	}
	for _, s := range f.windows.locked() {
		s.to = min(s.to, m.offset+m.limit.Load())
		if part := m.part(s); part != nil {
			system.lockPages(part)
		}
	}
	return nil
}
