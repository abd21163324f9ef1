package memmapfs

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A page is read and stored to through the map only while it is known to be in memory,
// because a fault on a cold page stops a scheduler thread for the time of the disk.
// What is known is forgotten after residencyAge: pages are evicted without notice.
const residencyAge = time.Minute

// chunkPages is the number of pages that one question to the kernel asks about:
// 2 MiB of 4 KiB pages.
const chunkPages = 512

const chunkWords = chunkPages / 64

// pageSet is a set of the pages of one mapping, one bit each. All methods may be called
// at the same time. Memory that no page of the set has touched stays untouched, and so
// not resident, however large the mapping is.
type pageSet struct {
	words  []atomic.Uint64
	chunks []atomic.Uint64 // a bit for each chunk that may have pages in the set
}

func newPageSet(pages int) pageSet {
	chunks := (pages + chunkPages - 1) / chunkPages
	return pageSet{
		words:  make([]atomic.Uint64, chunks*chunkWords),
		chunks: make([]atomic.Uint64, (chunks+63)/64),
	}
}

// has reports whether all pages from first to last are in the set.
func (s *pageSet) has(first, last int) bool {
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
//
// The chunk's bit is set after its pages' bits, and clear takes the chunk's bit away
// before it looks at the pages: a page added meanwhile leaves the chunk marked for the
// next clear.
func (s *pageSet) add(first, last int) {
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

// remove takes the pages from first to last out of the set.
func (s *pageSet) remove(first, last int) {
	s.eachWord(first, last, func(word *atomic.Uint64, mask uint64) { word.And(^mask) })
}

func (s *pageSet) eachWord(first, last int, do func(word *atomic.Uint64, mask uint64)) {
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

// count returns the number of pages in the chunk that are in the set.
func (s *pageSet) count(chunk int) int {
	n := 0
	for word := chunk * chunkWords; word < (chunk+1)*chunkWords && word < len(s.words); word++ {
		n += bits.OnesCount64(s.words[word].Load())
	}
	return n
}

// probe learns from the kernel which of the map's pages from first to last are in memory,
// and passes them to found. It asks about a chunk once between two ageings, and only after
// enough of its pages were read through the file: the answer costs as much as many reads.
func (m *mapping) probe(first, last int, found func(first, last int)) {
	for chunk := first / chunkPages; chunk <= last/chunkPages; chunk++ {
		if m.probed.has(chunk, chunk) || m.resident.count(chunk) < readsBeforeProbe {
			continue
		}
		m.probed.add(chunk, chunk)
		start := chunk * chunkPages
		end := min(start+chunkPages, pagesIn(m.limit.Load()))
		if start < end {
			m.probeChunk(start, end, found)
		}
	}
}

// readsBeforeProbe is the number of pages of a chunk that are read through the file before the
// kernel is asked about the others.
const readsBeforeProbe = 8

// probeChunk passes on the pages of [start, end) that the kernel reports to be in memory. The
// count of cached pages is the cheap question and decides where it is all or nothing; the
// answer for each page is asked of a map whose descriptor is gone.
func (m *mapping) probeChunk(start, end int, found func(first, last int)) {
	offset, length := int64(start)*pageBytes, int64(end-start)*pageBytes
	if m.descriptor != nil {
		cached, err := m.descriptor.cachedPages(m.offset+offset, length)
		if err == nil && cached >= int64(end-start) {
			found(start, end-1)
		}
		return
	}
	if !m.tellsResidency {
		return
	}
	var vec [chunkPages]byte
	if system.residentMap(m.data[offset:offset+length], vec[:end-start]) != nil {
		return
	}
	for page := start; page < end; page++ {
		run := page
		for run < end && vec[run-start]&1 != 0 {
			run++
		}
		if run > page {
			found(page, run-1)
			page = run
		}
	}
}

// forget makes the mapping's knowledge of its pages start anew.
func (m *mapping) forget() {
	m.resident.clear()
	m.probed.clear()
	if !m.private {
		m.written.clear()
	}
}
