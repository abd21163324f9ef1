package memmapfs

import (
	"math/bits"
	"os"
	"sync/atomic"
)

// pageBytes is the size of a page.
var pageBytes = int64(os.Getpagesize())

// pageShift is the number of bits in which offsets inside a page differ.
var pageShift = bits.TrailingZeros64(uint64(pageBytes))

// roundUp rounds n, which is not near the largest int64, up to whole pages.
func roundUp(n int64) int64 { return (n + pageBytes - 1) &^ (pageBytes - 1) }

// pagesIn returns the number of pages that n bytes touch.
func pagesIn(n int64) int { return int((n + pageBytes - 1) / pageBytes) }

// pageSpan returns the first and the last page of n > 0 bytes of a map from start on.
func pageSpan(start int64, n int) (first, last int) {
	return int(start >> (pageShift & 63)), int((start + int64(n) - 1) >> (pageShift & 63))
}

const (
	// chunkPages is the number of pages of a chunk: 2 MiB of 4 KiB pages.
	chunkPages = 512
	chunkWords = chunkPages / 64
	// flatPages is up to how many pages a set is one array: 8 GiB of 4 KiB pages, 256 KiB.
	flatPages = 1 << 21
	// groupPages is the number of pages of a group of a larger set: 1 GiB of 4 KiB pages.
	groupPages = 1 << 18
)

// pageSet is a set of the pages of one mapping, one bit each. All methods may be called at
// the same time. A set of up to flatPages is one array, so that the fast path finds a page's
// bit by one load. A larger one has groups, which are made when a page of them is added, so
// that what is known of a file of many TiB takes memory where its pages are used.
type pageSet struct {
	flat   pageBits
	groups []atomic.Pointer[pageBits] // nil unless the set is large
}

// pageBits are the bits of consecutive pages. Memory that no page of the set has touched
// stays untouched, and so not resident.
type pageBits struct {
	words  []atomic.Uint64
	chunks []atomic.Uint64 // a bit for each chunk that may have pages in the set
}

func newPageSet(pages int) pageSet {
	if pages > flatPages {
		return pageSet{groups: make([]atomic.Pointer[pageBits], (pages+groupPages-1)/groupPages)}
	}
	return pageSet{flat: newPageBits(pages)}
}

func newPageBits(pages int) pageBits {
	chunks := (pages + chunkPages - 1) / chunkPages
	return pageBits{
		words:  make([]atomic.Uint64, chunks*chunkWords),
		chunks: make([]atomic.Uint64, (chunks+63)/64),
	}
}

// hasOne is has for one page of the mapping, short enough to be part of the fast path. Of a
// large set it says no.
func (s *pageSet) hasOne(page int) bool {
	word := uint(page) >> 6
	return word < uint(len(s.flat.words)) && s.flat.words[word].Load()&(1<<(uint(page)&63)) != 0
}

// has reports whether all pages from first to last are in the set.
func (s *pageSet) has(first, last int) bool {
	if s.groups == nil {
		return s.flat.has(first, last)
	}
	for first <= last {
		group := first / groupPages
		if group >= len(s.groups) {
			return false
		}
		bits, start := s.groups[group].Load(), group*groupPages
		end := min(last, start+groupPages-1)
		if bits == nil || !bits.has(first-start, end-start) {
			return false
		}
		first = end + 1
	}
	return true
}

func (s *pageBits) has(first, last int) bool {
	word, end := first>>6, last>>6
	if end >= len(s.words) {
		return false
	}
	mask := ^uint64(0) << (uint(first) & 63)
	for ; word < end; word++ {
		if s.words[word].Load()&mask != mask {
			return false
		}
		mask = ^uint64(0)
	}
	mask &= ^uint64(0) >> (63 - uint(last)&63)
	return s.words[end].Load()&mask == mask
}

// add puts the pages from first to last into the set.
func (s *pageSet) add(first, last int) {
	s.eachGroup(first, last, true, (*pageBits).add)
}

// remove takes the pages from first to last out of the set.
func (s *pageSet) remove(first, last int) {
	s.eachGroup(first, last, false, (*pageBits).remove)
}

// count returns how many of the pages from first to last are in the set.
func (s *pageSet) count(first, last int) (pages int) {
	s.eachGroup(first, last, false, func(b *pageBits, first, last int) {
		b.eachWord(first, last, func(word *atomic.Uint64, mask uint64) { pages += bits.OnesCount64(word.Load() & mask) })
	})
	return pages
}

// eachGroup calls do for each part of the set that has pages from first to last, with these
// pages counted from the start of the part. It makes groups that are missing, or leaves them out.
func (s *pageSet) eachGroup(first, last int, grow bool, do func(b *pageBits, first, last int)) {
	if s.groups == nil {
		do(&s.flat, first, last)
		return
	}
	for first <= last && first/groupPages < len(s.groups) {
		group, start := first/groupPages, first-first%groupPages
		end := min(last, start+groupPages-1)
		bits := s.groups[group].Load()
		if bits == nil && grow {
			made := newPageBits(groupPages)
			s.groups[group].CompareAndSwap(nil, &made)
			bits = s.groups[group].Load()
		}
		if bits != nil {
			do(bits, first-start, end-start)
		}
		first = end + 1
	}
}

// add puts pages into the set. The chunk's bit is set after its pages' bits, and clear takes
// the chunk's bit away before it looks at the pages: a page added meanwhile leaves the chunk
// marked for the next clear.
func (s *pageBits) add(first, last int) {
	s.eachWord(first, last, func(word *atomic.Uint64, mask uint64) {
		if word.Load()&mask != mask {
			word.Or(mask)
		}
	})
	for chunk := first / chunkPages; chunk <= last/chunkPages && chunk>>6 < len(s.chunks); chunk++ {
		if mask := uint64(1) << (uint(chunk) & 63); s.chunks[chunk>>6].Load()&mask == 0 {
			s.chunks[chunk>>6].Or(mask)
		}
	}
}

func (s *pageBits) remove(first, last int) {
	s.eachWord(first, last, func(word *atomic.Uint64, mask uint64) { word.And(^mask) })
}

func (s *pageBits) eachWord(first, last int, do func(word *atomic.Uint64, mask uint64)) {
	for page := first; page <= last && page>>6 < len(s.words); page = (page | 63) + 1 {
		mask := ^uint64(0) << (uint(page) & 63)
		if last>>6 == page>>6 {
			mask &= ^uint64(0) >> (63 - uint(last)&63)
		}
		do(&s.words[page>>6], mask)
	}
}

// clear empties the set, at a cost that grows with the pages in it and not with its range.
func (s *pageSet) clear() {
	s.flat.clear()
	for i := range s.groups {
		if bits := s.groups[i].Load(); bits != nil {
			bits.clear()
		}
	}
}

func (s *pageBits) clear() {
	for i := range s.chunks {
		marked := s.chunks[i].Swap(0)
		for ; marked != 0; marked &= marked - 1 {
			start := (i<<6 + bits.TrailingZeros64(marked)) * chunkWords
			for word := start; word < start+chunkWords; word++ {
				s.words[word].Store(0)
			}
		}
	}
}

// sample calls do with the first page of some chunks that have pages in the set, up to most of them from
// the chunk start on, until it returns false. It knows nothing of large sets.
func (s *pageSet) sample(start, most int, do func(first int) bool) {
	chunks := len(s.flat.words) / chunkWords
	for i := 0; i < chunks && most > 0; i++ {
		chunk := (start%chunks + i) % chunks
		if s.flat.chunks[chunk>>6].Load()&(1<<(uint(chunk)&63)) == 0 {
			continue
		}
		if most--; !do(chunk * chunkPages) {
			return
		}
	}
}

// empty reports whether no page was added since the set was last cleared.
func (s *pageSet) empty() bool {
	for i := range s.flat.chunks {
		if s.flat.chunks[i].Load() != 0 {
			return false
		}
	}
	for i := range s.groups {
		bits := s.groups[i].Load()
		for k := 0; bits != nil && k < len(bits.chunks); k++ {
			if bits.chunks[k].Load() != 0 {
				return false
			}
		}
	}
	return true
}
