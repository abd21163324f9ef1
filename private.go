package memmapfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"unsafe"
)

// pageStore holds the private pages of a copy-on-write file that no private map holds: those
// of a file mapped by windows, which come and go, and of one that cannot be mapped. Its
// memory is that of the pages written to.
type pageStore struct {
	mu    sync.RWMutex // guards pages and their bytes; a mapping's locks are taken under it
	pages map[int64][]byte
}

func (s *pageStore) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages = nil
}

// writePrivate writes p at off without touching the file. What would
// change the file's size is refused as a whole.
func (f *MappedFile) writePrivate(p []byte, off int64) (int, error) {
	if f.flag&os.O_APPEND != 0 {
		return 0, errCopyOnWriteSize
	}
	if off < 0 {
		return 0, ErrInvalidOffset
	}
	if len(p) == 0 {
		return 0, nil
	}
	info, err := f.stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	if off > size || int64(len(p)) > size-off {
		return 0, errCopyOnWriteSize
	}
	if f.flag&accessMode == os.O_WRONLY {
		return len(p), nil // nobody can read it
	}
	done := 0
	for done < len(p) {
		n, err := f.writePrivateHead(p[done:], off+int64(done), size)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// writePrivateHead writes the head of p to where its first byte lives.
func (f *MappedFile) writePrivateHead(p []byte, off, size int64) (int, error) {
	for attempt := 0; ; attempt++ {
		m := f.windows.at(off)
		if m == nil && !f.unmappable.Load() && f.windows.mapsWhole() {
			f.mapWindow(off, true)
			m = f.windows.at(off)
		}
		if m != nil && m.private {
			m.raise(size)
			if m.holds(off) {
				n := int(min(int64(len(p)), m.limit.Load()-(off-m.offset)))
				n, err := f.storePrivate(m, p[:n], off)
				if err != errMapDecides {
					return n, err
				}
				if attempt == maxAttempts {
					return 0, ErrSIGBUS
				}
				continue // the file may have shrunk and grown meanwhile
			}
		}
		n, err := f.storePage(p[:min(int64(len(p)), pageBytes-off%pageBytes)], off)
		if err != errMapDecides {
			return n, err
		}
		if f.isClosed() {
			return 0, fs.ErrClosed
		}
	}
}

const maxAttempts = 10

// errMapDecides refuses a page for the store because Data or View show the map's.
var errMapDecides = errors.New("the private map decides")

// storePrivate stores p into a private map. What the map does not take goes to the page store:
// a map of a file in tmpfs needs space on the disk for a hole that is only read.
func (f *MappedFile) storePrivate(m *mapping, p []byte, off int64) (int, error) {
	start := off - m.offset
	first, last := pageSpan(start, len(p))
	var readErr error
	for page := first; page <= last; page++ {
		if !m.resident.has(page, page) && !m.written.has(page, page) {
			var b [1]byte // a read in a system call brings the page in
			if _, err := f.file.ReadAt(b[:], m.offset+int64(page)*pageBytes); err != nil && err != io.EOF {
				readErr = err
			}
		}
	}
	if f.storeInMap(m, start, p, first, last) {
		return len(p), nil
	}
	switch {
	case f.isClosed():
		return 0, fs.ErrClosed
	case !m.holds(off + int64(len(p)) - 1):
		return 0, errCopyOnWriteSize
	case m.ungated.Load() && readErr != nil:
		return 0, readErr
	}
	return f.storePage(p[:min(int64(len(p)), pageBytes-off%pageBytes)], off)
}

// storeInMap stores p into the pages from first to last of a private map, unless one of them is in the
// store. It holds the store's lock, so that none moves there meanwhile.
func (f *MappedFile) storeInMap(m *mapping, start int64, p []byte, first, last int) bool {
	f.store.mu.RLock()
	defer f.store.mu.RUnlock()
	offset := m.offset / pageBytes
	if f.store.has(offset+int64(first), offset+int64(last)) || !f.copyIn(m, start, p) {
		return false
	}
	m.written.add(first, last)
	m.resident.add(first, last)
	return true
}

// has reports whether any page from first to last is in the store. The caller holds s.mu.
func (s *pageStore) has(first, last int64) bool {
	for index := first; index <= last && len(s.pages) > 0; index++ {
		if _, ok := s.pages[index]; ok {
			return true
		}
	}
	return false
}

// storePage writes p, which lies in one page, to the page store.
func (f *MappedFile) storePage(p []byte, off int64) (int, error) {
	readable := make([]byte, len(p))
	if copyGuarded(unsafe.Pointer(unsafe.SliceData(readable)), unsafe.Pointer(unsafe.SliceData(p)), len(p)) != nil {
		return 0, errBadBuffer
	}
	index := off / pageBytes
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	m := f.windows.at(off)
	if m != nil && off-m.offset >= int64(len(m.data)) {
		m = nil // the file has grown past its map
	}
	at := 0 // the page in the map
	if m != nil {
		at = int((off - m.offset) / pageBytes)
		if m.ungated.Load() {
			return 0, errMapDecides
		}
	}
	page, ok := f.store.pages[index]
	if !ok {
		page = make([]byte, pageBytes)
		// A store that does not take the lock looks again after it whether the page is still the map's.
		// So the page leaves the map first and is copied after.
		inMap := m != nil && m.private && m.written.has(at, at)
		if inMap {
			m.written.remove(at, at)
		}
		if (!inMap || !f.copyOut(page, m, int64(at)*pageBytes)) && int64(len(p)) < pageBytes {
			if _, err := f.file.ReadAt(page, index*pageBytes); err != nil && err != io.EOF {
				return 0, err
			}
		}
		if f.store.pages == nil {
			f.store.pages = make(map[int64][]byte)
		}
		f.store.pages[index] = page
	}
	copy(page[off%pageBytes:], readable)
	// Whoever marks a page looks at the store under its lock first: from here on no map serves
	// this page.
	if m != nil {
		m.resident.remove(at, at)
		m.written.remove(at, at)
	}
	return len(p), nil
}

// insertPrivate publishes a private map, with the store's pages that lie in it. The caller holds
// f.windows.mu.
func (f *MappedFile) insertPrivate(m *mapping) error {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	copied, ok := f.copyStored(m)
	if !ok {
		m.release()
		return ErrSIGBUS
	}
	f.windows.insert(m)
	f.forgetStored(copied)
	return nil
}

// ungate makes a private map the only truth about its range, because its bytes are handed out. It
// reports whether the map takes the store's pages that lie in it.
func (f *MappedFile) ungate(m *mapping) bool {
	if m.ungated.Load() {
		return true
	}
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	copied, ok := f.copyStored(m)
	if ok {
		m.ungated.Store(true)
		f.forgetStored(copied)
	}
	return ok
}

func (f *MappedFile) forgetStored(indexes []int64) {
	for _, index := range indexes {
		delete(f.store.pages, index)
	}
}

// storeMapped moves the private pages of all private maps to the store, so that the maps can be
// taken away. It moves none and reports false if a View uses one. The caller holds f.windows.mu.
func (f *MappedFile) storeMapped() bool {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	for _, m := range f.windows.live { // just one, if any: see pageStore
		if !m.private {
			continue
		}
		if !m.seal() {
			return false
		}
		f.storeMap(m)
		m.revokeSealed()
	}
	return true
}

// storeMap copies m's private pages to the store. If the map's bytes were handed out, any page may
// have been stored to. The caller holds f.store.mu.
func (f *MappedFile) storeMap(m *mapping) {
	if f.store.pages == nil {
		f.store.pages = make(map[int64][]byte)
	}
	handedOut := m.ungated.Swap(false)
	for at := range pagesIn(m.limit.Load()) {
		stored := m.written.has(at, at)
		m.resident.remove(at, at)
		m.written.remove(at, at) // before the page is copied: see storePage
		page := make([]byte, pageBytes)
		offset := int64(at) * pageBytes
		if (stored || handedOut) && f.copyOut(page, m, offset) && (stored || f.differs(page, m.offset+offset)) {
			f.store.pages[(m.offset+offset)/pageBytes] = page
		}
	}
}

// differs reports whether the file has other bytes at off than page.
func (f *MappedFile) differs(page []byte, off int64) bool {
	b := make([]byte, len(page))
	n, err := f.file.ReadAt(b, off)
	return err != nil && err != io.EOF || !bytes.Equal(b[:n], page[:n])
}

// overlay puts the private bytes of [off, off+len(p)) over p, which holds the file's. It
// holds the store's lock throughout, so pages that move from the store into a private map
// are found in one of them.
func (f *MappedFile) overlay(p []byte, off int64) {
	f.store.mu.RLock()
	defer f.store.mu.RUnlock()
	f.windows.over(off, len(p), func(m *mapping, start int64, n int) {
		if m.private {
			f.overlayMapped(p, off, m, start, n)
		}
	})
	for at := off - off%pageBytes; at < off+int64(len(p)) && len(f.store.pages) > 0; at += pageBytes {
		if page, ok := f.store.pages[at/pageBytes]; ok {
			from := max(at, off)
			copy(p[from-off:], page[from-at:])
		}
	}
}

// overlayMapped is overlay for m's bytes [start, start+n). It copies by way of a buffer,
// because a fault must leave the file's bytes in p.
func (f *MappedFile) overlayMapped(p []byte, off int64, m *mapping, start int64, n int) {
	buffer := make([]byte, min(int64(n), pageBytes))
	for end := start + int64(n); start < end; {
		next := min(end, start-start%pageBytes+pageBytes)
		if page := int(start / pageBytes); m.ungated.Load() || m.written.has(page, page) {
			b := buffer[:next-start]
			if f.copyOut(b, m, start) {
				copy(p[m.offset+start-off:], b)
			}
		}
		start = next
	}
}

// copyStored copies the store's pages that lie in m into it and returns their indexes. The caller
// holds f.store.mu.
func (f *MappedFile) copyStored(m *mapping) (copied []int64, ok bool) {
	first := m.offset / pageBytes
	for index, page := range f.store.pages {
		at := index - first
		if at < 0 || at >= int64(pagesIn(int64(len(m.data)))) {
			continue
		}
		if !f.copyIn(m, at*pageBytes, page) {
			return nil, false
		}
		copied = append(copied, index)
	}
	for _, index := range copied { // not before all are: until then the store has the truth
		at := int(index - first)
		m.written.add(at, at)
		m.resident.add(at, at)
	}
	return copied, true
}

// copyPrivate copies into m, which nobody uses yet, all private pages that lie in its range: those of
// private maps, and over them those of the store, as overlay does.
func (f *MappedFile) copyPrivate(m *mapping) bool {
	f.store.mu.RLock()
	defer f.store.mu.RUnlock()
	ok := true
	buffer := make([]byte, pageBytes)
	f.windows.over(m.offset, len(m.data), func(old *mapping, start int64, n int) {
		for end := start + int64(n); start < end && old.private; start += pageBytes {
			page, b := int(start/pageBytes), buffer[:min(pageBytes, end-start)]
			if old.ungated.Load() || old.written.has(page, page) {
				ok = ok && f.copyOut(b, old, start) && f.copyIn(m, old.offset+start-m.offset, b)
			}
		}
	})
	_, copied := f.copyStored(m)
	return ok && copied
}
