// Long: what calls write and what Data and View lend are one truth, under one lock.

package memmapfs

import (
	"bytes"
	"fmt"
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

// lentMap is a private map whose bytes are lent. It is pinned once for itself, and by each View.
type lentMap struct {
	*mapping
	views   int              // that are running
	exposed bool             // Data has handed out its bytes, for good
	filled  bool             // the private bytes were copied into it once; later ones are mirrored
	info    os.FileInfo      // of the file, before it was made
	stale   bool             // nobody else gets it: private bytes may be missing there, or see fileMaps.isStale
	base    map[int64][]byte // what was copied into its pages, by page of the file
	stored  bool             // a View that has ended has stored there
	seen    os.FileInfo      // of the file, when all was brought up to date last, of a map that stands apart
}

// isLent reports whether anybody may store into the map.
func (l *lentMap) isLent() bool { return l.exposed || l.views > 0 }

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

// overlayLent copies what the map's own pages hold over p. It copies by way of a buffer, because a
// fault must leave the other bytes in p.
func (b *privateBytes) overlayLent(l *lentMap, p []byte, off int64) {
	from, to := max(off, l.offset), min(off+int64(len(p)), l.offset+int64(len(l.data)))
	if from >= to {
		return
	}
	var buffer []byte
	own := b.ownPages(l, byteRange{from, to})
	b.eachPage(p[from-off:to-off], from, func(p []byte, at int64) {
		if !own(at) {
			return
		}
		if buffer == nil {
			buffer = make([]byte, pageBytes)
		}
		if l.copyOut(buffer[:len(p)], at-l.offset) != nil {
			return
		}
		base := l.base[at/pageBytes]
		if base == nil {
			copy(p, buffer)
			return
		}
		for i, b := range base[at%pageBytes:][:len(p)] {
			if buffer[i] != b { // stored there; what was only copied there is the file's, or private
				p[i] = buffer[i]
			}
		}
	})
}

// ownPages asks which pages of a lent map are its own, those that were stored to and that no
// truncation of the file has taken away since, and returns a function that tells it of the page at an
// offset. Where the system does not say so, all are taken to be, or those that differ from their base.
func (b *privateBytes) ownPages(l *lentMap, s byteRange) func(at int64) bool {
	if standApart() {
		return func(at int64) bool { return b.isStored(l, at) }
	}
	s = s.pages()
	part := l.part(s)
	own := make([]bool, pagesIn(int64(len(part))))
	if withoutShortage(func() error { return system.privatePages(part, own) }) != nil {
		return func(int64) bool { return true }
	}
	return func(at int64) bool { return own[(at-s.from)/pageBytes] }
}

// mirrorLocked stores written bytes in a lent map, too, or takes it away if nobody has its bytes: a page
// of its own would not follow the file. What the map cannot take, past the end of a file that has
// shrunk, is copied when it is lent again.
func (b *privateBytes) mirrorLocked(l *lentMap, p []byte, off int64) {
	from, to := max(off, l.offset), min(off+int64(len(p)), l.offset+int64(len(l.data)))
	if from >= to {
		return
	}
	if !l.isLent() {
		b.dropLocked(l)
		return
	}
	if standApart() {
		b.refreshOldLocked(l)
	}
	own := b.ownPages(l, byteRange{from, to})
	b.eachPage(p[from-off:to-off], from, func(p []byte, at int64) {
		index := at / pageBytes
		if !own(at) { // it never was, or a truncation has taken it away: it gets all its private bytes
			page, start := make([]byte, pageBytes), index*pageBytes-l.offset
			if l.copyOut(page, start) != nil {
				return
			}
			b.pages[index].overlay(page, 0)
			if l.copyIn(start, page) == nil {
				l.setBase(index, page)
			}
			return
		}
		base := l.base[index]
		l.copyIn(at-l.offset, p)
		if base != nil {
			copy(base[at%pageBytes:], p)
		}
	})
}

func (l *lentMap) setBase(index int64, base []byte) {
	if l.base == nil {
		l.base = make(map[int64][]byte)
	}
	l.base[index] = base
}

// lendLocked copies the private bytes of the map's range into it, in pages that are not its own, for somebody
// who is to have the bytes of want. A page that cannot be copied lies past the end of the file, or has no
// room on its disk. It is left out, and nobody gets it: touching it would be a fault, but no more once
// there is room, and then it would show the file's bytes for private ones. All is copied once: what somebody has
// stored there since is newer.
func (b *privateBytes) lendLocked(l *lentMap, want byteRange) error {
	var missing error
	all := true
	check := func(index int64, fault *caughtPanic) {
		all = all && fault == nil
		if at := index * pageBytes; fault != nil && want.overlaps(byteRange{at, at + pageBytes}) {
			missing = fmt.Errorf("%w (at offset %d)", ErrSIGBUS, max(at, want.from))
		}
	}
	if standApart() {
		b.refreshLocked(l, check)
		for _, other := range b.lent {
			if other != l && other.exposed && other.byteRange().overlaps(want) {
				b.refreshOldLocked(other)
			}
		}
		return missing
	}
	s := l.byteRange()
	if len(b.pages) > 0 {
		own := b.ownPages(l, s)
		for index, private := range b.pages {
			at := index * pageBytes
			if at < s.from || at >= s.to || l.filled && own(at) {
				continue
			}
			page := make([]byte, pageBytes)
			fault := l.copyOut(page, at-l.offset)
			if fault == nil {
				private.overlay(page, 0)
				fault = l.setPage(page, index)
			}
			check(index, fault)
		}
	}
	for _, other := range b.lent {
		if !l.filled && other != l && other.isLent() && other.byteRange().overlaps(s) {
			b.lendFromLocked(other, l, check)
		}
	}
	if !l.filled {
		l.filled, l.stale = all, l.stale || !all
	}
	return missing
}

// lendFromLocked copies what was stored in one lent map into another one.
func (b *privateBytes) lendFromLocked(from, to *lentMap, check func(index int64, fault *caughtPanic)) {
	s := byteRange{max(from.offset, to.offset), min(from.byteRange().to, to.byteRange().to)}
	own := b.ownPages(from, s)
	for at := s.from; at < s.to; at += pageBytes {
		page, result := make([]byte, pageBytes), make([]byte, pageBytes)
		if !own(at) {
			continue
		}
		fault := from.copyOut(page, at-from.offset)
		if fault == nil {
			fault = to.copyOut(result, at-to.offset)
		}
		if fault != nil {
			check(at/pageBytes, fault)
			continue
		}
		if base := from.base[at/pageBytes]; base != nil {
			eachChange(page[:len(base)], base, func(from, to int) { copy(result[from:to], page[from:to]) })
		} else {
			result = page
		}
		check(at/pageBytes, to.setPage(result, at/pageBytes))
	}
}

// setPage copies a page into the map.
func (l *lentMap) setPage(page []byte, index int64) *caughtPanic {
	fault := l.copyIn(index*pageBytes-l.offset, page)
	if fault == nil {
		l.setBase(index, page)
	}
	return fault
}

// data returns the bytes of the private map of the window that holds pos, for good.
func (b *privateBytes) data(pos int64) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, size, err := b.windowOf(pos)
	if err != nil {
		return nil, err
	}
	l, err := b.dataMapLocked(s, pos)
	if err != nil {
		return nil, err
	}
	limit := min(size-l.offset, int64(len(l.data)))
	if err := b.lendLocked(l, byteRange{l.offset, l.offset + limit}); err != nil {
		b.dropLocked(l)
		return nil, err
	}
	if !l.exposed {
		b.maps.hide(l.byteRange(), false)
		l.exposed = true
		l.life.exposed.Store(true)
	}
	return l.data[:limit:limit], nil
}

// windowOf returns the range of the window that holds pos, as far as the file reaches.
func (b *privateBytes) windowOf(pos int64) (s byteRange, size int64, err error) {
	info, err := b.maps.mappable()
	if err != nil {
		return byteRange{}, 0, err
	}
	size = info.Size()
	w := &b.maps.windows
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case size == 0 || w.size != wholeFile && pos >= size:
		return byteRange{}, size, io.EOF
	case w.size == wholeFile:
		return byteRange{0, size}, size, nil
	}
	from := pos - pos%w.size
	return byteRange{from, min(from+w.size, size)}, size, nil
}

// dataMapLocked returns the private map for Data: the one that it has handed out for pos before, although
// it may end before the window does now, or one that has just the window.
func (b *privateBytes) dataMapLocked(window byteRange, pos int64) (*lentMap, error) {
	b.ageLocked()
	for _, l := range b.lent {
		r := l.byteRange()
		if l.exposed && !l.stale && r.from == window.from && (r.to > pos || b.maps.windows.mapsWhole()) {
			return l, nil
		}
	}
	for _, l := range b.lent {
		if !l.stale && l.byteRange() == (byteRange{window.from, roundUp(window.to)}) {
			return l, nil
		}
	}
	return b.newLentLocked(window)
}

// ageLocked finds the lent maps that are stale.
func (b *privateBytes) ageLocked() {
	if !b.maps.copiedUp.Load() {
		return
	}
	info, err := b.maps.stat()
	for _, l := range b.lent {
		l.stale = l.stale || err == nil && hasChanged(l.info, info)
	}
}

// newLentLocked makes a private map that has the range.
func (b *privateBytes) newLentLocked(s byteRange) (*lentMap, error) {
	if b.ended {
		return nil, fs.ErrClosed
	}
	if s.to-s.from > maxApart && standApart() {
		return nil, errTooLargeApart
	}
	info, err := b.maps.stat()
	if err != nil {
		return nil, err
	}
	b.makeRoomLocked()
	m, err := b.maps.mapRange(s.from, s.to-s.from, mapWrite|mapPrivate)
	if err != nil {
		return nil, err
	}
	l := &lentMap{mapping: m, info: info}
	b.lent = append(b.lent, l)
	return l, nil
}

// makeRoomLocked drops lent maps that nobody has, the oldest first, so that with one more there are no more of
// them than a file may have windows.
func (b *privateBytes) makeRoomLocked() {
	most := 1
	if !b.maps.windows.mapsWhole() {
		most = b.maps.host.config.MaxWindows
	}
	kept := 0
	for _, l := range slices.Backward(slices.Clone(b.lent)) {
		if l.isLent() {
			continue
		}
		if kept++; kept >= most {
			b.dropLocked(l)
		}
	}
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

// endView takes over what a View has stored. A map of which no page is its own stays for the next one to be lent
// it: pages that are would not follow the file.
func (b *privateBytes) endView(l *lentMap, off, n int64) {
	s := byteRange{off, off + n}
	b.mu.Lock()
	defer b.mu.Unlock()
	l.views--
	defer b.maps.unpin(l.mapping)
	defer b.maps.show(s) // after the pages that were stored to are hidden for good
	if b.ended || l.exposed {
		return
	}
	l.stored = !b.takeLocked(l, s) || l.stored
	if l.views == 0 && (l.stored || len(l.base) > 0 || l.stale || b.maps.copiedUp.Load()) {
		b.dropLocked(l)
	}
}

// viewMapLocked returns a map to view a range in: the one that Data has handed out, if that has all of it;
// else the whole file's, if the file is mapped as a whole.
func (b *privateBytes) viewMapLocked(s byteRange) (*lentMap, error) {
	b.ageLocked()
	exposed := false
	for _, l := range b.lent {
		if r := l.byteRange(); l.exposed && r.overlaps(s) {
			if r.from <= s.from && s.to <= r.to && !l.stale {
				return l, nil
			}
			exposed = true
		}
	}
	if exposed {
		l, err := b.newLentLocked(s)
		if err == nil {
			l.stale = true // what is stored in the other one later does not show here
		}
		return l, err
	}
	for _, l := range b.lent {
		if r := l.byteRange(); r.from <= s.from && s.to <= r.to && !l.stale {
			return l, nil
		}
	}
	if standApart() {
		return b.newLentLocked(s)
	}
	if whole, _, err := b.windowOf(s.from); err == nil && whole.from <= s.from && s.to <= whole.to {
		if l, err := b.newLentLocked(whole); err == nil {
			return l, nil
		}
	}
	return b.newLentLocked(s)
}

// dropLocked takes away a lent map that nobody uses.
func (b *privateBytes) dropLocked(l *lentMap) {
	if l.isLent() {
		return
	}
	for i, other := range b.lent {
		if other == l {
			b.lent = append(b.lent[:i:i], b.lent[i+1:]...)
		}
	}
	l.release()
	b.maps.unpin(l.mapping)
}

// dropUnused takes away the lent maps that have bytes of a range and that nobody uses.
func (b *privateBytes) dropUnused(s byteRange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range slices.Clone(b.lent) {
		if l.byteRange().overlaps(s) {
			b.dropLocked(l)
		}
	}
}

// takeLocked takes over what was stored in a range of a lent map, and reports whether no page is its own. It
// looks at the pages that are the map's own, for bytes that are others than those copied there or, if
// none were, than calls give. Where the file cannot be read all of such a page is taken over.
func (b *privateBytes) takeLocked(l *lentMap, s byteRange) (clean bool) {
	s = s.pages()
	s.to = min(s.to, l.offset+int64(len(l.data)))
	own := b.ownPages(l, s)
	clean = true
	page, now := make([]byte, pageBytes), make([]byte, pageBytes)
	for at := s.from; at < s.to; at += pageBytes {
		if !own(at) || l.copyOut(page, at-l.offset) != nil {
			continue
		}
		clean = false // it does not follow the file any more
		base := l.base[at/pageBytes]
		if base == nil {
			n, err := b.readLocked(now, at)
			if err != nil {
				b.takePageLocked(l, page[:max(min(pageBytes, l.offset+l.limit.Load()-at), 0)], nil, at)
				continue
			}
			base = now[:n]
		}
		if !bytes.Equal(page[:len(base)], base) {
			b.takePageLocked(l, page[:len(base)], base, at)
			copy(l.base[at/pageBytes], page) // what a View stores next differs from that, or is no change
		}
	}
	return clean
}

// readLocked reads the page at off as calls show it, and returns how much of it there is.
func (b *privateBytes) readLocked(page []byte, off int64) (int, error) {
	n, err := b.maps.file.ReadAt(page, off)
	if err != nil && err != io.EOF {
		return 0, err
	}
	n = countIn(page, n)
	if private := b.pages[off/pageBytes]; private != nil {
		private.overlay(page[:n], 0)
	}
	return n, nil
}

// takePageLocked makes private what a page of a lent map, at off, has other than base, or all of it if that is
// nil.
func (b *privateBytes) takePageLocked(l *lentMap, page, base []byte, off int64) {
	b.maps.hide(byteRange{off, off + pageBytes}, true)
	private := b.pageLocked(off / pageBytes)
	take := func(from, to int) {
		private.write(page[from:to], from)
		for _, other := range slices.Clone(b.lent) {
			if other != l {
				b.mirrorLocked(other, page[from:to], off+int64(from))
			}
		}
	}
	if base == nil {
		take(0, len(page))
		return
	}
	eachChange(page, base, take)
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
