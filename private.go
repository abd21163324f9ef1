package memmapfs

import (
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"
	"unsafe"
)

// privateBytes are the bytes that a copy-on-write handle has instead of the file's. What was
// written by calls lies in memory of our own, byte by byte, whatever happens to the file; all other
// bytes are the file's, as its own calls show them. Bytes that Data and View lend lie in private
// maps of the file, into which the written ones are copied first; what is stored there is found by
// asking the system which pages of the map are its own, and taken over when a View ends.
type privateBytes struct {
	maps *fileMaps

	mu    sync.RWMutex // guards the fields below and the pages; the locks of fileMaps are taken under it
	pages map[int64]*privatePage
	lent  []*lentMap
	ended bool
}

// privatePage is a page of which some bytes are private.
type privatePage struct {
	data   []byte
	marked []uint64 // a bit for each private byte; nil if all are
}

// write writes p at off without touching the file. What would change the file's size is refused as
// a whole.
func (b *privateBytes) write(p []byte, off int64) (int, error) {
	switch {
	case b.maps.flag&os.O_APPEND != 0:
		return 0, errCopyOnWriteSize
	case off < 0:
		return 0, ErrInvalidOffset
	case len(p) == 0:
		return 0, nil
	case int64(len(p)) > math.MaxInt64-off:
		return 0, errCopyOnWriteSize
	}
	info, err := b.maps.stat()
	if err != nil {
		return 0, err
	}
	if off+int64(len(p)) > info.Size() {
		return 0, errCopyOnWriteSize
	}
	given := p
	p = make([]byte, len(given))
	if copyGuarded(unsafe.Pointer(&p[0]), unsafe.Pointer(&given[0]), len(p)) != nil {
		return 0, errBadBuffer
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, fs.ErrClosed
	}
	b.maps.hide(byteRange{off, off + int64(len(p))}, true)
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := min(len(p)-done, int(pageBytes-at%pageBytes))
		b.pageLocked(at/pageBytes).write(p[done:done+n], int(at%pageBytes))
		done += n
	}
	for _, l := range slices.Clone(b.lent) {
		b.mirrorLocked(l, p, off)
	}
	return len(p), nil
}

func (b *privateBytes) pageLocked(index int64) *privatePage {
	page := b.pages[index]
	if page == nil {
		page = &privatePage{data: make([]byte, pageBytes), marked: make([]uint64, (pageBytes+63)/64)}
		if b.pages == nil {
			b.pages = make(map[int64]*privatePage)
		}
		b.pages[index] = page
	}
	return page
}

// write makes bytes of the page private.
func (page *privatePage) write(p []byte, at int) {
	copy(page.data[at:], p)
	if page.marked == nil {
		return
	}
	if len(p) == len(page.data) {
		page.marked = nil
		return
	}
	for i := at; i < at+len(p); i++ {
		page.marked[i>>6] |= 1 << (i & 63)
	}
}

// overlay copies the private bytes of the page from at on over p.
func (page *privatePage) overlay(p []byte, at int) {
	if page.marked == nil {
		copy(p, page.data[at:])
		return
	}
	for i := range p {
		if page.marked[(at+i)>>6]&(1<<((at+i)&63)) != 0 {
			p[i] = page.data[at+i]
		}
	}
}

// overlay puts the private bytes of [off, off+len(p)) over p, which holds the file's.
func (b *privateBytes) overlay(p []byte, off int64) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.ended {
		return fs.ErrClosed
	}
	b.eachPage(p, off, func(p []byte, at int64) {
		if page := b.pages[at/pageBytes]; page != nil {
			page.overlay(p, int(at%pageBytes))
		}
	})
	for _, l := range b.lent {
		if l.isLent() {
			b.overlayLent(l, p, off)
		}
	}
	return nil
}

// eachPage calls fn for the parts of p, which lies at off, that lie in one page each.
func (b *privateBytes) eachPage(p []byte, off int64, fn func(p []byte, at int64)) {
	for len(p) > 0 {
		n := min(int64(len(p)), pageBytes-off%pageBytes)
		fn(p[:n], off)
		p, off = p[n:], off+n
	}
}

// data returns the bytes of the private map of the window that holds pos, for good.
func (b *privateBytes) data(pos int64) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.windowOf(pos)
	if err != nil {
		return nil, err
	}
	l, err := b.lentMapLocked(s, pos, true)
	if err != nil {
		return nil, err
	}
	if err := b.lendLocked(l, l.byteRange()); err != nil {
		b.dropLocked(l)
		return nil, err
	}
	if !l.exposed {
		b.maps.hide(l.byteRange(), false)
		l.exposed = true
		l.life.exposed.Store(true)
	}
	from, to := max(s.from-l.offset, 0), min(s.to-l.offset, int64(len(l.data)))
	return l.data[from:to:to], nil
}

// windowOf returns the range of the window that holds pos, as far as the file reaches.
func (b *privateBytes) windowOf(pos int64) (byteRange, error) {
	info, err := b.maps.mappable()
	if err != nil {
		return byteRange{}, err
	}
	size := info.Size()
	w := &b.maps.windows
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case size == 0 || w.size != wholeFile && pos >= size:
		return byteRange{}, io.EOF
	case w.size == wholeFile:
		return byteRange{0, size}, nil
	}
	from := pos - pos%w.size
	return byteRange{from, min(from+w.size, size)}, nil
}

// lentMapLocked returns a private map that has the range, or with exposed the one that Data has
// handed out for pos, although it may end before the range does. It makes it if need be.
func (b *privateBytes) lentMapLocked(s byteRange, pos int64, exposed bool) (*lentMap, error) {
	if b.ended {
		return nil, fs.ErrClosed
	}
	info, err := b.maps.stat()
	if err != nil {
		return nil, err
	}
	for _, l := range b.lent {
		l.stale = l.stale || b.maps.copiedUp.Load() && hasChanged(l.info, info)
	}
	found := b.findLocked(s, pos, exposed)
	for _, l := range slices.Clone(b.lent) {
		if l != found && l.isLent() && l.byteRange().overlaps(s) {
			b.takeLocked(l, s) // what was stored there is to be seen in the others; it drops those not lent
		}
	}
	if found = b.findLocked(s, pos, exposed); found != nil {
		return found, nil
	}
	return b.newLentLocked(s, info)
}

// findLocked is lentMapLocked for a map that is there. Of several it takes one that Data has handed out.
func (b *privateBytes) findLocked(s byteRange, pos int64, exposed bool) (found *lentMap) {
	for _, l := range b.lent {
		r := l.byteRange()
		covers := r.from <= s.from && s.to <= r.to || exposed && l.exposed && r.from <= pos && pos < r.to
		if covers && !l.stale && (found == nil || !found.exposed) {
			found = l
		}
	}
	return found
}

// view lends the bytes [off, off+n) of a file that has them, until endView.
func (b *privateBytes) view(off, n int64) (*lentMap, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := byteRange{off, off + n}
	l, err := b.viewMapLocked(s)
	if err != nil {
		return nil, err
	}
	if err := b.lendLocked(l, s); err != nil {
		b.dropLocked(l)
		return nil, err
	}
	if !l.pin() {
		return nil, fs.ErrClosed
	}
	b.maps.hide(s, false)
	l.views++
	return l, nil
}

// endView takes over what a View has stored. A map of which no page is its own stays for the next View.
func (b *privateBytes) endView(l *lentMap, off, n int64) {
	s := byteRange{off, off + n}
	b.mu.Lock()
	defer b.mu.Unlock()
	l.views--
	b.maps.show(s)
	defer b.maps.unpin(l.mapping)
	if b.ended || l.exposed && len(b.lent) == 1 {
		return
	}
	l.owns = !b.takeLocked(l, s) || l.owns
	if l.views == 0 && (l.owns || b.maps.copiedUp.Load()) {
		b.dropLocked(l)
	}
}

// viewMapLocked returns a map to view a range in: the whole file's, if it is mapped as a whole.
func (b *privateBytes) viewMapLocked(s byteRange) (*lentMap, error) {
	if whole, err := b.windowOf(s.from); err == nil && whole.from == 0 && s.to <= whole.to {
		if l, err := b.lentMapLocked(whole, s.from, false); err == nil {
			return l, nil
		}
	}
	return b.lentMapLocked(s, s.from, false)
}

// letGo takes the lent maps away, for a change of the file that they would prevent, with what was
// stored there kept. It does nothing and reports false if a View is running.
func (b *privateBytes) letGo() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lent {
		if l.views > 0 {
			return false
		}
	}
	b.releaseLocked()
	return true
}

func (b *privateBytes) releaseLocked() {
	for _, l := range b.lent {
		b.takeLocked(l, l.byteRange())
		if l.exposed {
			b.maps.show(l.byteRange())
		}
		l.release()
		b.maps.unpin(l.mapping)
	}
	b.lent = nil
}

// isLent reports whether there is a private map.
func (b *privateBytes) isLent() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.lent) > 0
}

// end gives all private bytes up. Reads that are under way and have not looked at them fail.
func (b *privateBytes) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.pages = nil
	for _, l := range b.lent {
		l.release()
		b.maps.unpin(l.mapping)
	}
	b.lent = nil
}
