package memmapfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"
)

// On some systems the first store into a private map ends the sharing not of one page but of many:
// gVisor copies what is around it, up to 2 MiB, and does not tell which pages a map has of its own
// (/proc/self/pagemap). Others tell that of wrong pages: qemu, emulating another processor, hands through
// what the kernel says, of the kernel's addresses and in its order of bytes. There a lent map shares nothing
// with the file from the start. It is kept what every page was made of, its base: a page is the map's own
// where it differs from that, and all others are brought up to date whenever the map is lent.

// standApart reports whether this is such a system.
var standApart = sync.OnceValue(triedApart)

// triedApart tries it on a file in memory, by a store into every other page. Where there are no such files
// it is taken for granted that this is none of these systems.
func triedApart() bool {
	if filtered() {
		return false
	}
	fd, path, err := sysAnonymousFile()
	if err != nil {
		return false
	}
	file := os.NewFile(fd, path)
	defer file.Close()
	const pages = 16
	if file.Truncate(pages*pageBytes) != nil {
		return false
	}
	data, err := system.mapFile(fd, 0, int(pages*pageBytes), mapWrite|mapPrivate)
	if err != nil {
		return false
	}
	defer system.unmap(data)
	stored, seen := byte(1), byte(0)
	for at := int64(0); at < pages*pageBytes; at += 2 * pageBytes {
		if copyGuarded(unsafe.Pointer(&data[at]), unsafe.Pointer(&stored), 1) != nil ||
			copyGuarded(unsafe.Pointer(&seen), unsafe.Pointer(&data[at+pageBytes]), 1) != nil {
			return false
		}
	}
	own := make([]bool, pages)
	if system.privatePages(data, own) == nil {
		return !slices.Equal(own, slices.Repeat([]bool{true, false}, pages/2))
	}
	if _, err := file.WriteAt([]byte{stored}, pageBytes); err != nil {
		return false
	}
	return copyGuarded(unsafe.Pointer(&seen), unsafe.Pointer(&data[pageBytes]), 1) == nil && seen != stored
}

// maxApart is how many bytes a map may have that stands apart: all of them are copied twice when it
// is made, and compared whenever it is lent.
const maxApart = 64 << 20

var errTooLargeApart = fmt.Errorf("%w: this system does not tell which pages of a private map were stored to, so that "+
	"at most 64 MiB of it are lent (use View with a shorter range, or windows)", ErrNotMapped)

// isStored reports whether the page at an offset, of a map that stands apart, was stored to.
func (b *privateBytes) isStored(l *lentMap, at int64) bool {
	base := l.base[at/pageBytes]
	if base == nil {
		return false
	}
	now := make([]byte, pageBytes)
	return l.copyOut(now, at-at%pageBytes-l.offset) == nil && !bytes.Equal(now, base) && !b.wasCut(l, now, at/pageBytes)
}

// wasCut reports whether a page, which shows the bytes of now, was taken away by a truncation: it shows what the
// file has, and somebody has changed the file, or may have where its times are in whole seconds (qemu).
func (b *privateBytes) wasCut(l *lentMap, now []byte, index int64) bool {
	info, err := b.maps.stat()
	if err != nil || l.seen == nil {
		return false
	}
	changed := sysChangeTime(info.Sys())
	if changed == sysChangeTime(l.seen.Sys()) && changed%int64(time.Second) != 0 {
		return false
	}
	page := make([]byte, pageBytes)
	if _, err := b.maps.file.ReadAt(page, index*pageBytes); err != nil && err != io.EOF {
		return false
	}
	return bytes.Equal(page, now)
}

// refreshLocked has the pages of a map that stands apart, those that were not stored to, show what
// calls show. Of a page that was made before, only bytes that have changed are stored: somebody may be
// storing beside them.
func (b *privateBytes) refreshLocked(l *lentMap, check func(index int64, fault *caughtPanic)) {
	page := make([]byte, pageBytes)
	seen, err := b.maps.stat()
	if err == nil {
		defer func() { l.seen = seen }()
	}
	for s := l.byteRange(); s.from < s.to; s.from += pageBytes {
		index, at := s.from/pageBytes, s.from-l.offset
		base := l.base[index]
		if fault := l.copyOut(page, at); fault != nil {
			delete(l.base, index) // past the end of the file, or a hole for which there is no room
			if b.hasPrivate(index, l) {
				check(index, fault)
			}
			continue
		}
		if base != nil && !bytes.Equal(page, base) {
			if !b.wasCut(l, page, index) {
				continue
			}
			base = nil
		}
		clear(page)
		n, err := b.readLocked(page, s.from)
		if err != nil {
			check(index, &faultGone)
			continue
		}
		for _, other := range b.lent {
			if other != l && other.isLent() {
				b.overlayLent(other, page[:n], s.from)
			}
		}
		switch {
		case n == 0:
		case base == nil:
			check(index, l.setPage(bytes.Clone(page), index))
		case !bytes.Equal(page, base):
			eachChange(page, base, func(from, to int) {
				fault := l.copyIn(at+int64(from), page[from:to])
				if fault == nil {
					copy(base[from:to], page[from:to])
				}
				check(index, fault)
			})
		}
	}
}

// refreshOldLocked is refreshLocked if the file has changed since that was last done. It comes before a store of
// our own: a page that a truncation has taken away shows the file, until a store copies it along with others. From
// then on it shows what the file was, which nothing tells from what somebody has stored there.
func (b *privateBytes) refreshOldLocked(l *lentMap) {
	info, err := b.maps.stat()
	if err == nil && (l.seen == nil || hasChanged(l.seen, info)) {
		b.refreshLocked(l, func(int64, *caughtPanic) {})
	}
}

// hasPrivate reports whether a page has bytes that are not the file's, but for those stored in one map.
func (b *privateBytes) hasPrivate(index int64, but *lentMap) bool {
	return b.pages[index] != nil || slices.ContainsFunc(b.lent, func(l *lentMap) bool {
		return l != but && l.isLent() && b.isStored(l, index*pageBytes)
	})
}

// eachChange calls fn for each run of bytes in which two pages differ.
func eachChange(page, base []byte, fn func(from, to int)) {
	for from := 0; from < len(page); from++ {
		if page[from] == base[from] {
			continue
		}
		to := from + 1
		for to < len(page) && page[to] != base[to] {
			to++
		}
		fn(from, to)
		from = to
	}
}
