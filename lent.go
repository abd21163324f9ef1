package memmapfs

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"slices"
)

// The private maps whose bytes Data and View of a copy-on-write handle lend.

// lentMap is a private map whose bytes are lent. It is pinned once for itself, and by each View.
type lentMap struct {
	*mapping
	info    os.FileInfo      // of the file, when it was made
	views   int              // that are running
	exposed bool             // Data has handed out its bytes, for good
	has     map[int64]bool   // pages of the file into which private bytes were copied
	owns    bool             // some of its pages are its own, and do not follow the file
	stale   bool             // it is of a file that has become another one: see fileMaps.isStale
	base    map[int64][]byte // what was copied into its pages, by page of the file
}

// isLent reports whether anybody may store into the map.
func (l *lentMap) isLent() bool { return l.exposed || l.views > 0 }

// overlayLent copies what the map's own pages hold over p. It copies by way of a buffer, because a
// fault must leave the other bytes in p.
func (b *privateBytes) overlayLent(l *lentMap, p []byte, off int64) {
	from, to := max(off, l.offset), min(off+int64(len(p)), l.offset+int64(len(l.data)))
	if from >= to {
		return
	}
	var buffer []byte
	own, _ := b.ownPages(l, byteRange{from, to})
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
		base = base[at%pageBytes:]
		for i := range p {
			if buffer[i] != base[i] { // stored there; what was only copied there is the file's, or private
				p[i] = buffer[i]
			}
		}
	})
}

// ownPages asks which pages of a lent map are its own, those that were stored to and that no
// truncation of the file has taken away since, and returns a function that tells it of the page at an
// offset. Where the system does not say so, all are taken to be, and told is false.
func (b *privateBytes) ownPages(l *lentMap, s byteRange) (isOwn func(at int64) bool, told bool) {
	s = s.pages()
	part := l.part(s)
	own := make([]bool, pagesIn(int64(len(part))))
	if system.privatePages(part, own) != nil {
		return func(int64) bool { return true }, false
	}
	return func(at int64) bool { return own[(at-s.from)/pageBytes] }, true
}

// mirrorLocked stores written bytes in a lent map, too, or takes it away if nobody has its bytes: a
// page of its own would not follow the file. What the map cannot take, past the end of a file that
// has shrunk, is copied when it is lent again.
func (b *privateBytes) mirrorLocked(l *lentMap, p []byte, off int64) {
	from, to := max(off, l.offset), min(off+int64(len(p)), l.offset+int64(len(l.data)))
	if from >= to {
		return
	}
	if !l.isLent() {
		b.dropLocked(l)
		return
	}
	own, _ := b.ownPages(l, byteRange{from, to})
	b.eachPage(p[from-off:to-off], from, func(p []byte, at int64) {
		index := at / pageBytes
		base := l.base[index]
		if !own(at) {
			base = make([]byte, pageBytes)
			if l.copyOut(base, index*pageBytes-l.offset) != nil {
				return
			}
			l.setBase(index, base)
		}
		if l.copyIn(at-l.offset, p) == nil {
			l.noteHas(index)
		}
		if base != nil {
			copy(base[at%pageBytes:], p)
		}
	})
}

func (l *lentMap) noteHas(index int64) {
	if l.has == nil {
		l.has = make(map[int64]bool)
	}
	l.has[index] = true
}

func (l *lentMap) setBase(index int64, base []byte) {
	if l.base == nil {
		l.base = make(map[int64][]byte)
	}
	l.base[index] = base
}

// lendLocked copies the private bytes of a range into the map, in pages that are not its own.
func (b *privateBytes) lendLocked(l *lentMap, s byteRange) error {
	if len(b.pages) == 0 {
		return nil
	}
	s = s.pages()
	s = byteRange{max(s.from, l.offset), min(s.to, l.offset+int64(len(l.data)))}
	own, told := b.ownPages(l, s)
	for index, private := range b.pages {
		at := index * pageBytes
		if at < s.from || at >= s.to || own(at) && (told || l.has[index]) {
			continue // it has them, and what was stored there since
		}
		page := make([]byte, pageBytes)
		if l.copyOut(page, at-l.offset) != nil {
			continue // past the end of the file
		}
		private.overlay(page, 0)
		if l.copyIn(at-l.offset, page) != nil {
			return ErrSIGBUS
		}
		l.setBase(index, page)
		l.noteHas(index)
	}
	return nil
}

func (b *privateBytes) newLentLocked(s byteRange, info os.FileInfo) (*lentMap, error) {
	if b.ended {
		return nil, fs.ErrClosed
	}
	m, err := b.maps.mapRange(s.from, s.to-s.from, mapWrite|mapPrivate)
	if err != nil {
		return nil, err
	}
	l := &lentMap{mapping: m, info: info}
	b.lent = append(b.lent, l)
	return l, nil
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

// takeLocked takes over what was stored in a range of a lent map, and reports whether no page is its
// own. It looks at the pages that are the map's own, for bytes that are others than those copied
// there or, if none were, than calls give.
func (b *privateBytes) takeLocked(l *lentMap, s byteRange) (clean bool) {
	s = s.pages()
	s = byteRange{max(s.from, l.offset), min(s.to, l.offset+int64(len(l.data)))}
	own, _ := b.ownPages(l, s)
	clean = true
	page, now := make([]byte, pageBytes), make([]byte, pageBytes)
	for at := s.from; at < s.to; at += pageBytes {
		if !own(at) || l.copyOut(page, at-l.offset) != nil {
			continue
		}
		clean = false // it does not follow the file any more
		base := l.base[at/pageBytes]
		if base == nil {
			base = now[:b.readLocked(now, at)]
		}
		if !bytes.Equal(page[:len(base)], base) {
			b.takePageLocked(l, page[:len(base)], base, at)
			l.setBase(at/pageBytes, bytes.Clone(page))
		}
	}
	return clean
}

// readLocked reads the page at off as calls show it, and returns how much of it there is.
func (b *privateBytes) readLocked(page []byte, off int64) int {
	n, err := b.maps.file.ReadAt(page, off)
	if err != nil && err != io.EOF {
		return 0
	}
	if private := b.pages[off/pageBytes]; private != nil {
		private.overlay(page[:n], 0)
	}
	return n
}

// takePageLocked makes private what a page of l, at off, has other than base.
func (b *privateBytes) takePageLocked(l *lentMap, page, base []byte, off int64) {
	b.maps.hide(byteRange{off, off + pageBytes}, true)
	private := b.pageLocked(off / pageBytes)
	for from := 0; from < len(page); from++ {
		if page[from] == base[from] {
			continue
		}
		to := from + 1
		for to < len(page) && page[to] != base[to] {
			to++
		}
		private.write(page[from:to], from)
		for _, other := range slices.Clone(b.lent) {
			if other != l {
				b.mirrorLocked(other, page[from:to], off+int64(from))
			}
		}
		from = to
	}
}
