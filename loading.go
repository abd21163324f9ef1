package memmapfs

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"time"
)

// The pages of a file that are in memory: bringing them in, and counting them.

const (
	prefetchBytes = 4 << 20   // brought in by one system call, and so the time that Close may wait
	readInBytes   = 256 << 10 // read by one system call where the map cannot do it
)

// prefetch reads a range into memory and waits for it. What of it is gone again at the end, because
// it was more than the memory holds, is not taken to be there.
func (f *fileMaps) prefetch(s byteRange) error {
	info, err := f.stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		s.to = min(s.to, info.Size())
	}
	whole := s
	for s.from < s.to {
		if f.isClosed() {
			return fs.ErrClosed
		}
		next := s.from + min(s.to-s.from, prefetchBytes-s.from%prefetchBytes)
		if m := f.pinForPrefetch(s.from); m != nil {
			next = min(next, m.offset+m.limit.Load())
			err = f.populatePinned(m, byteRange{s.from, next})
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
	f.forgetEvicted(whole)
	return nil
}

// forgetEvicted takes back what is known of a range of which pages are gone again.
func (f *fileMaps) forgetEvicted(s byteRange) {
	s = s.pages()
	if s.to-s.from <= prefetchBytes {
		return
	}
	d := f.descriptor.Load()
	for _, m := range f.mapsOf(s) {
		from, to := max(s.from, m.offset), min(s.to, m.offset+m.limit.Load())
		if from >= to {
			continue
		}
		first, last := pageSpan(from-m.offset, int(to-from))
		cached, err := d.cachedPages(m.offset+int64(first)*pageBytes, int64(last-first+1)*pageBytes)
		if err != nil {
			cached, err = countCached(m.data[int64(first)*pageBytes : int64(last+1)*pageBytes])
		}
		if err == nil && cached < int64(last-first+1) {
			m.resident.remove(first, last)
			m.probed.remove(first/chunkPages, last/chunkPages)
		}
	}
}

// hasLost reports whether pages are gone that are known to be in memory, and whether a look at some of them has
// proved it. Where that is not to be told it says that some are gone.
func (f *fileMaps) hasLost() (lost, proved bool) {
	const chunksPerMap, chunksPerFile = 8, 32
	asked := 0
	f.windows.each(func(m *mapping) {
		switch {
		case proved || m.resident.empty() || asked > chunksPerFile:
		case m.resident.groups != nil || !f.tellsResidency.Load() || filtered():
			lost = true
		default:
			m.resident.sample(rand.Int(), chunksPerMap, func(first int) bool {
				asked++
				proved = m.hasLost(first)
				return !proved
			})
		}
	})
	return lost || proved, proved
}

// hasLost is fileMaps.hasLost for the chunk that begins with a page.
func (m *mapping) hasLost(first int) bool {
	var vec [chunkPages]byte
	end := min(first+chunkPages, pagesIn(int64(len(m.data))))
	if system.residentMap(m.data[int64(first)*pageBytes:int64(end)*pageBytes], vec[:end-first]) != nil {
		return true
	}
	for page := first; page < end; page++ {
		if vec[page-first]&1 == 0 && m.resident.hasOne(page) {
			return true
		}
	}
	return false
}

// countCached counts the pages of a map that are in memory.
func countCached(data []byte) (cached int64, err error) {
	if filtered() {
		return 0, errors.ErrUnsupported
	}
	pages := make([]byte, 64<<10)
	for len(data) > 0 && err == nil {
		n := min(int64(len(data)), int64(len(pages))*pageBytes)
		err = system.residentMap(data[:n], pages[:pagesIn(n)])
		for _, page := range pages[:pagesIn(n)] {
			cached += int64(page & 1)
		}
		data = data[n:]
	}
	return cached, err
}

// mapsOf returns the mappings that lookups find and that have bytes of a range.
func (f *fileMaps) mapsOf(s byteRange) (maps []*mapping) {
	f.windows.each(func(m *mapping) {
		if m.byteRange().overlaps(s) {
			maps = append(maps, m)
		}
	})
	return maps
}

// pinForPrefetch returns the mapping that holds off, pinned; it makes it unless another one had to be
// dropped for it.
func (f *fileMaps) pinForPrefetch(off int64) *mapping {
	m := f.windows.at(off)
	if m == nil || !m.holds(off) {
		m = f.mapForPrefetch(off)
	}
	if m == nil || !m.holds(off) || !m.pin() {
		return nil
	}
	return m
}

// mapForPrefetch maps the window that holds off, if there is room for it.
func (f *fileMaps) mapForPrefetch(off int64) (m *mapping) {
	w := &f.windows
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.live) < w.budget || w.size == wholeFile {
		m, _ = f.mapWindowLocked(off, true)
	}
	return m
}

// populatePinned is populate of a map that is pinned for it.
func (f *fileMaps) populatePinned(m *mapping, s byteRange) error {
	defer f.unpin(m)
	return f.populate(m, s)
}

// populate brings the pages of a range, which lies in m, into memory and into the page table. A map
// that is advised to be read in no order would have them read one by one, so they are read through
// the file first; and holes of a filesystem that fills them are not touched.
func (f *fileMaps) populate(m *mapping, s byteRange) error {
	part := m.part(s)
	if len(part) == 0 {
		return nil
	}
	if f.fillsHoles.Load() || f.compares || f.advisedRandom(s) || filtered() {
		return f.readThrough(s)
	}
	if system.populate(part) != nil {
		return f.readThrough(s) // which knows what is wrong, if anything is
	}
	if f.trusted.Load() {
		first, last := pageSpan(s.from-m.offset, int(s.to-s.from))
		f.addResident(m, first, last)
	}
	return nil
}

// advisedRandom reports whether AdviseRandom holds for some of a range.
func (f *fileMaps) advisedRandom(s byteRange) bool {
	for _, hint := range f.lastingHints() {
		if hint.advice == sysAdviseRandom && sysLastingKind(hint.advice) != 0 && hint.overlaps(s) {
			return true
		}
	}
	return false
}

var readBuffers = sync.Pool{New: func() any {
	buffer := make([]byte, readInBytes)
	return &buffer
}}

// readAround is probe where the system cannot be asked: the pages from first to last are read through the
// file, and as long as no read took so long that a disk may have been waited for, ever more around
// them, once for each chunk. What was read is in memory. As with questions, no more time goes into
// that than half of what goes into the calls of the file.
func (f *fileMaps) readAround(m *mapping, first, last int) bool {
	if f.demand.forQuestions(m.probeSpent.Load()) < 0 {
		return false
	}
	began := time.Now()
	for pages := 1; int64(pages)*pageBytes <= mostReadAround; pages *= 8 {
		from, to := first-first%pages, last-last%pages+pages
		begin := time.Now()
		err := f.readThrough(byteRange{m.offset + int64(from)*pageBytes, m.offset + min(int64(to)*pageBytes, m.limit.Load())})
		if err != nil || time.Since(begin) > warmCall+time.Duration(to-from)*warmPage*time.Duration(pageBytes)/(4<<10) {
			break
		}
	}
	m.probed.add(first/chunkPages, first/chunkPages)
	m.probeSpent.Add(int64(time.Since(began)))
	return m.resident.has(first, last)
}

// A read takes no longer where nothing waits for a disk, on a machine that is not an emulator's.
const (
	warmCall = 20 * time.Microsecond
	warmPage = time.Microsecond // for each 4 KiB
)

const mostReadAround = 256 << 10 // bytes

// readThrough brings a range into memory by reading it through the file.
func (f *fileMaps) readThrough(s byteRange) error {
	reused := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(reused)
	buffer := *reused
	for s.from < s.to && !f.isClosed() {
		p := buffer[:min(int64(len(buffer)), s.to-s.from)]
		n, err := f.file.ReadAt(p, s.from)
		n = countIn(p, n)
		if n > 0 {
			f.learnRead(p[:n], s.from)
		}
		switch {
		case err != nil:
			return err
		case n == 0:
			return io.ErrNoProgress
		}
		s.from += int64(n)
	}
	return nil
}

// readIn brings all of a new map into memory if the Config says so. The caller holds windows.mu.
func (f *fileMaps) readIn(m *mapping) {
	if !f.host.config.PopulatePages {
		return
	}
	end := m.offset + m.limit.Load()
	for at := m.offset; at < end && !f.isClosed(); at += prefetchBytes {
		if f.populate(m, byteRange{at, min(at+prefetchBytes, end)}) != nil {
			return // whoever needs these bytes will see the error
		}
	}
	f.forgetEvicted(byteRange{m.offset, end})
}

// residency counts what of a range is in memory, in whole pages.
func (f *fileMaps) residency(s byteRange) (resident, total int64, trusted bool, err error) {
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
	if filtered() {
		return 0, total, false, errors.ErrUnsupported
	}
	err = f.withDescriptor(false, func(d *descriptor) error {
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
	const pagesAtATime = 64 << 10
	for s.from < s.to {
		count := min(pagesAtATime, (s.to-s.from)/pageBytes)
		if err := budget.take(count * pageBytes); err != nil {
			return 0, err
		}
		data, err := system.mapFile(fd, s.from, int(count*pageBytes), 0)
		if err == nil {
			var cached int64
			cached, err = countCached(data)
			resident += cached * pageBytes
			system.unmap(data)
		}
		budget.give(count * pageBytes)
		if err != nil {
			return 0, err
		}
		s.from += count * pageBytes
	}
	return resident, nil
}

// withDescriptor calls fn with a descriptor of the file, under no lock. With write it is one that may
// write.
func (f *fileMaps) withDescriptor(write bool, fn func(d *descriptor) error) error {
	if d := f.descriptor.Load(); d != nil && (d.owned == nil || f.writable || !write) {
		err := fn(d)
		if d.owned == nil || !errors.Is(err, fs.ErrClosed) || f.finished.Load() {
			return err
		}
		// It was given back meanwhile.
	}
	info, err := f.stat()
	if err != nil {
		return err
	}
	d, err := f.findDescriptor(info, write)
	if err != nil {
		return err
	}
	return join(fn(d), d.close())
}

// onDescriptorLocked calls fn with the number of the descriptor, which is found again if it was dropped, or
// given back for somebody else's open, since it was found. The caller holds windows.mu.
func (f *fileMaps) onDescriptorLocked(fn func(fd uintptr) error) error {
	for {
		d := f.descriptor.Load()
		err := d.do(fn)
		if d != nil && (!errors.Is(err, fs.ErrClosed) || !d.isClosed() || f.isClosed()) {
			return err
		}
		info, err := f.stat()
		if err == nil {
			err = f.needDescriptorLocked(info, false)
		}
		if err != nil {
			return err
		}
	}
}
