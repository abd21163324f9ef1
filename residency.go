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

// hasOne is has for one page of the mapping, short enough to be part of the fast path.
func (s *pageSet) hasOne(page int) bool {
	return s.words[uint(page)>>6].Load()&(1<<(uint(page)&63)) != 0
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

// probe learns from the kernel which pages around those from first to last are in memory, and
// reports whether all of these are. It asks about a chunk once between two ageings; pages that
// were cold then become known when they are read through the file.
//
// An answer costs as much as one to 80 reads through the file, and whether it will save as many
// is not known. So no more time goes into questions than half of what went into calls of the
// file: at worst, these calls become half as expensive again. Where answers are cheap, one
// question covers many chunks.
func (f *MappedFile) probe(m *mapping, first, last int) bool {
	chunk := first / chunkPages
	if !m.tellsResidency || m.probed.has(chunk, chunk) {
		return false
	}
	budget := f.demand.calls.Load()*fileCallCost/2 - m.probeSpent.Load()
	chunks := budget / max(m.probeCost.Load(), 1)
	if chunks < 1 {
		return false
	}
	pages := pagesIn(m.limit.Load())
	start := chunk * chunkPages
	asked := time.Now()
	end := int(min(int64(start)+chunks*chunkPages, int64(pages)))
	if chunks == 1 || !f.probeRange(m, start, end) {
		end = min(start+chunkPages, pages)
		if !f.probeRange(m, start, end) {
			f.probePages(m, start, end)
		}
	}
	covered := max((end-start+chunkPages-1)/chunkPages, 1)
	m.probed.add(chunk, chunk+covered-1)
	spent := int64(time.Since(asked))
	m.probeSpent.Add(spent)
	m.probeCost.Store(spent / int64(covered))
	return m.resident.has(first, last)
}

const (
	fileCallCost   = 500    // nanoseconds, of a short pread(2)
	firstProbeCost = 18_000 // nanoseconds, of cachestat(2) for a chunk of single pages
)

// probeRange asks whether the pages of [start, end) are all in memory, and notes it if they are.
// That is the cheap question, but it needs a descriptor.
func (f *MappedFile) probeRange(m *mapping, start, end int) bool {
	if start >= end {
		return false
	}
	cached, err := m.descriptor.cachedPages(m.offset+int64(start)*pageBytes, int64(end-start)*pageBytes)
	if err != nil || cached < int64(end-start) {
		return false
	}
	f.addResident(m, start, end-1)
	return true
}

// probePages asks about each page of [start, end), of a map whose descriptor is gone.
func (f *MappedFile) probePages(m *mapping, start, end int) {
	if m.descriptor != nil || start >= end {
		return
	}
	var vec [chunkPages]byte
	if system.residentMap(m.data[int64(start)*pageBytes:int64(end)*pageBytes], vec[:end-start]) != nil {
		return
	}
	for page := start; page < end; page++ {
		run := page
		for run < end && vec[run-start]&1 != 0 {
			run++
		}
		if run > page {
			f.addResident(m, page, run-1)
			page = run
		}
	}
}

// forget makes the mapping's knowledge of its pages start anew. Where map and file need not agree,
// what is mapped is read and written through the map alone, and all pages stay known.
func (m *mapping) forget() {
	if !sysMapsAgreeWithIO {
		return
	}
	m.resident.clear()
	m.probed.clear()
	if !m.private {
		m.written.clear()
	}
}
