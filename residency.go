package memmapfs

import (
	"bytes"
	"sync"
	"time"
)

// A page is read and stored to through the map only while it is known to be in memory,
// because a fault on a cold page stops a scheduler thread for the time of the disk.
// What is known is forgotten after residencyAge, and at once when the process has waited for
// the disk in a fault: pages are evicted without notice.
const residencyAge = time.Minute

// storeTerm is how long a write may be a store: see endTerm.
const storeTerm = 5 * time.Second

// hiddenPages are pages whose truth is elsewhere, so that no mapping may count them as known.
type hiddenPages struct {
	mu     sync.RWMutex // guards the fields below; no lock is taken under it
	pages  map[int64]struct{}
	ranges []byteRange
}

// learns reports whether a call is served from a page of a map only after the wrapped file has read or
// written it. Where maps and calls are not promised to agree, what is mapped is read and written through
// the map alone. But of a file whose type is not known only its own calls can tell what it reads and
// writes, and each page is compared.
func (f *fileMaps) learns() bool { return sysMapsAgreeWithIO || f.compares }

// showLocked lets calls be served from a new map that lookups find. The file is registered once more: what lets
// beliefs end may have stopped while there was no map. The caller holds windows.mu.
func (f *fileMaps) showLocked(m *mapping) error {
	f.registry.register()
	err := f.measure()
	if err == nil && !f.learns() && f.trusted.Load() {
		f.addResident(m, 0, pagesIn(m.limit.Load())-1)
	}
	return err
}

// addResident marks pages of m as being in memory, unless the file is refused.
func (f *fileMaps) addResident(m *mapping, first, last int) {
	f.addVisible(m, first, last)
	if f.refused.Load() != nil { // refuse, which sets that first, may have made all forgotten before
		m.resident.remove(first, last)
	}
}

// addVisible is addResident for a file that is not refused. It leaves out pages whose truth is elsewhere.
func (f *fileMaps) addVisible(m *mapping, first, last int) {
	if f.hidden == nil {
		m.resident.add(first, last)
		return
	}
	f.hidden.mu.RLock()
	defer f.hidden.mu.RUnlock()
	if len(f.hidden.pages) == 0 && len(f.hidden.ranges) == 0 {
		m.resident.add(first, last)
		return
	}
	for page := first; page <= last; page++ {
		if !f.hidden.hasLocked(m.offset/pageBytes + int64(page)) {
			m.resident.add(page, page)
		}
	}
}

func (h *hiddenPages) hasLocked(page int64) bool {
	if _, ok := h.pages[page]; ok {
		return true
	}
	at := byteRange{page * pageBytes, (page + 1) * pageBytes}
	for _, s := range h.ranges {
		if s.overlaps(at) {
			return true
		}
	}
	return false
}

// hide has no call served from the pages of a range, with forGood as long as the handle is open,
// otherwise until show.
func (f *fileMaps) hide(s byteRange, forGood bool) {
	s = s.pages()
	f.hidden.mu.Lock()
	if forGood {
		if f.hidden.pages == nil {
			f.hidden.pages = make(map[int64]struct{})
		}
		for page := s.from / pageBytes; page < s.to/pageBytes; page++ {
			f.hidden.pages[page] = struct{}{}
		}
	} else {
		f.hidden.ranges = append(f.hidden.ranges, s)
	}
	f.hidden.mu.Unlock()
	// Whoever marks a page looks at hidden first, under its lock.
	f.windows.each(func(m *mapping) {
		if part := m.part(s); part != nil {
			first, last := pageSpan(max(s.from-m.offset, 0), len(part))
			m.resident.remove(first, last)
		}
	})
}

// show undoes one hide of the range that was not for good.
func (f *fileMaps) show(s byteRange) {
	s = s.pages()
	f.hidden.mu.Lock()
	defer f.hidden.mu.Unlock()
	for i, old := range f.hidden.ranges {
		if old == s {
			f.hidden.ranges = append(f.hidden.ranges[:i:i], f.hidden.ranges[i+1:]...)
			return
		}
	}
}

// learnRead takes note that the wrapped file has just read p at off: its pages are in memory now,
// and the file reaches at least that far.
func (f *fileMaps) learnRead(p []byte, off int64) {
	if !f.trusted.Load() {
		return
	}
	if m := f.windows.at(off + int64(len(p)) - 1); m != nil && !m.holds(off+int64(len(p))-1) &&
		off+int64(len(p))-m.offset <= int64(len(m.data)) {
		f.measure()
	}
	if f.host.mute.Load() {
		return
	}
	f.windows.over(off, len(p), func(m *mapping, start int64, n int) {
		f.learnPages(m, start, p[m.offset+start-off:][:n])
	})
}

// learnPages is learnRead for the part of one map.
func (f *fileMaps) learnPages(m *mapping, start int64, p []byte) {
	first, last := pageSpan(start, len(p))
	if f.compares && !m.resident.has(first, last) && !f.agrees(m, start, p) {
		return
	}
	if !f.fillsHoles.Load() {
		f.addKnown(m, first, last)
		return
	}
	for page := first; page <= last; page++ {
		from, to := max(int64(page)*pageBytes-start, 0), min(int64(page+1)*pageBytes-start, int64(len(p)))
		if !isZero(p[from:to]) { // zeros may be those of a hole
			f.addKnown(m, page, page)
		}
	}
}

// addKnown takes note that pages of m are in memory. It marks them as resident, for the map to serve
// them, unless that was not found worth a first touch yet.
func (f *fileMaps) addKnown(m *mapping, first, last int) {
	if !m.rationed {
		f.addResident(m, first, last)
		return
	}
	again := m.seen.has(first, last)
	m.seen.add(first, last)
	dear := costs.touchesAreDear()
	for part := first / touchPages; part <= last/touchPages; part++ {
		if m.touched.has(part, part) {
			f.addSeen(m, max(first, part*touchPages), min(last, (part+1)*touchPages-1))
			continue
		}
		if !dear || f.touchPays(m, part, last-first+1, again) {
			f.touchPart(m, part, first, dear)
		}
	}
}

// touchPays decides on a part of a map whose first touch is dear, after a read of so many pages, and lets
// the calls pay for it. It pays if pages were read again and again; if a pass over pages that are in memory
// would pay (passPays); and now and then to find out what a touch costs by now.
func (f *fileMaps) touchPays(m *mapping, part, pages int, again bool) bool {
	pays := again && m.reread.has(part, part)
	if again {
		m.reread.add(part, part)
	}
	return (pays || f.passPays(m, part, pages) || costs.touch.wantsTrial()) && f.demand.affordsTouch()
}

// passPays reports whether as many reads as a touch costs have gone to different pages of a part, and as
// many may yet come, even if none is read twice. It must be possible to ask which pages are in memory:
// otherwise each has to be read first.
func (f *fileMaps) passPays(m *mapping, part, pages int) bool {
	start := part * touchPages
	end := min(start+touchPages, pagesIn(m.limit.Load()))
	seen := m.seen.count(start, end-1)
	return int64(min(seen, end-start-seen)/pages) >= costs.touchInCalls() &&
		f.tellsResidency.Load() && !f.compares && !filtered()
}

// touchPart has a part of the map served from here on, as far as its pages are known to be in memory.
func (f *fileMaps) touchPart(m *mapping, part, first int, dear bool) {
	m.touched.add(part, part)
	if dear || costs.touch.wantsSample() {
		at := max(first, part*touchPages)
		began := time.Now()
		if at*int(pageBytes) < len(m.data) && m.touch(int64(at)*pageBytes) {
			costs.touch.note(time.Since(began))
		}
	}
	f.addSeen(m, part*touchPages, (part+1)*touchPages-1)
}

// addSeen marks pages as resident that were seen.
func (f *fileMaps) addSeen(m *mapping, first, last int) {
	for page := first; page <= last; page++ {
		if m.seen.has(page, page) {
			f.addResident(m, page, page)
		}
	}
}

// addFound is addKnown for what the kernel has told of pages that no call has read: it marks those of
// parts that are touched already, and where touches are not dear all.
func (f *fileMaps) addFound(m *mapping, first, last int) {
	if !m.rationed {
		f.addResident(m, first, last)
		return
	}
	m.seen.add(first, last)
	if !costs.touchesAreDear() {
		m.touched.add(first/touchPages, last/touchPages) // what is read there is no first touch any more
		f.addResident(m, first, last)
		return
	}
	for part := first / touchPages; part <= last/touchPages; part++ {
		if m.touched.has(part, part) {
			f.addResident(m, max(first, part*touchPages), min(last, (part+1)*touchPages-1))
		}
	}
}

// isZero reports whether p has nothing but zeros.
func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

var zeros [4096]byte

// agrees reports whether the map has the bytes p, which the wrapped file of a type that is not
// known has read, and the rest of their pages, which it is asked for. If it has others, again and
// again, the file is not mapped any more.
func (f *fileMaps) agrees(m *mapping, start int64, p []byte) bool {
	end := start + int64(len(p))
	b := make([]byte, len(p))
	agrees := m.copyOut(b, start) == nil && bytes.Equal(b, p) || f.mustShowSame(m, start, end)
	return agrees && f.mustShowSame(m, start-start%pageBytes, start) && f.mustShowSame(m, end, min(roundUp(end), m.limit.Load()))
}

// agreesWritten is agrees for bytes that the wrapped file has written and not read. If it has written others,
// the map is never stored to, although it may have what the file reads.
func (f *fileMaps) agreesWritten(m *mapping, start int64, p []byte) bool {
	b := make([]byte, len(p))
	if m.copyOut(b, start) != nil {
		return false
	}
	if !bytes.Equal(b, p) && !f.altersWrites.Swap(true) {
		f.endTerm()
	}
	end := start + int64(len(p))
	return f.mustShowSame(m, start-start%pageBytes, max(end, min(roundUp(end), m.limit.Load())))
}

// mustShowSame compares the bytes [start, end) of the map with those of the wrapped file, which is not
// mapped any more if they differ.
func (f *fileMaps) mustShowSame(m *mapping, start, end int64) bool {
	if start >= end {
		return true
	}
	same, err := f.showsSameAt(m, start, int(end-start))
	if !same && err == nil {
		f.refuse(refuse(refusedTransformed, errTransformed, true))
	}
	return same
}

// probe learns from the kernel which pages around those from first to last are in memory, and
// reports whether all of these are. It asks about a chunk once between two ageings; pages that
// were cold then become known when they are read through the file.
//
// An answer costs as much as one to 80 reads through the file, and whether it will save as many
// is not known. So no more time goes into questions than half of what went into calls of the
// file: at worst, these calls become half as expensive again. Where answers are cheap, one
// question covers many chunks, and where they tell of nothing again and again, few are asked.
func (f *fileMaps) probe(m *mapping, first, last int) bool {
	chunk := first / chunkPages
	pages := pagesIn(m.limit.Load())
	if !f.trusted.Load() || f.host.trial.Load() || f.compares || last >= pages || m.probed.has(chunk, chunk) {
		return false
	}
	if part := first / touchPages; m.rationed && costs.touchesAreDear() && !m.touched.has(part, part) && !filterSet.Load() {
		return false // it would not be touched anyway
	}
	if filtered() {
		return f.readAround(m, first, last) // the question might be the end of the process
	}
	spent := m.probeSpent.Load()
	credit := f.demand.forQuestions(spent)
	chunks := credit / max(m.probeCost.Load(), 1)
	if chunks < 1 || !m.probeSpent.CompareAndSwap(spent, spent+credit) { // nobody else spends it meanwhile
		return false
	}
	start := chunk * chunkPages
	asked := time.Now()
	end := int(min(int64(start)+chunks*chunkPages, int64(pages)))
	told := chunks > 1 && f.probeRange(m, start, end)
	if !told {
		end = min(start+chunkPages, pages)
		told = f.probeRange(m, start, end) || f.probePages(m, start, end)
	}
	covered := max((end-start+chunkPages-1)/chunkPages, 1)
	m.probed.add(chunk, chunk+covered-1)
	took := time.Since(asked)
	m.probeSpent.Add(f.demand.priceQuestion(took, told) - credit)
	m.probeCost.Store(int64(took) / int64(covered))
	return m.resident.has(first, last)
}

// askAnew has questions paid for by calls from now on only.
func (f *fileMaps) askAnew(m *mapping) {
	m.probeSpent.Add(max(f.demand.forQuestions(m.probeSpent.Load()), 0))
}

// firstProbeCost is what a question about a chunk of single pages is taken to cost before one was
// asked, in nanoseconds: what cachestat(2) took where it was measured.
const firstProbeCost = 18_000

// probeRange asks whether the pages of [start, end) are all in memory, and notes it if they are.
// That is the cheap question, but it needs a descriptor.
func (f *fileMaps) probeRange(m *mapping, start, end int) bool {
	if start >= end {
		return false
	}
	d := f.descriptor.Load()
	if d == nil {
		return false
	}
	cached, err := d.cachedPages(m.offset+int64(start)*pageBytes, int64(end-start)*pageBytes)
	if err != nil || cached < int64(end-start) {
		return false
	}
	f.addFound(m, start, end-1)
	return true
}

// probePages asks about each page of [start, end), of a file whose descriptor is gone, and reports whether any
// is in memory.
func (f *fileMaps) probePages(m *mapping, start, end int) (found bool) {
	if d := f.descriptor.Load(); d != nil && !d.isClosed() || start >= end || !f.tellsResidency.Load() {
		return false
	}
	var vec [chunkPages]byte
	if system.residentMap(m.data[int64(start)*pageBytes:int64(end)*pageBytes], vec[:end-start]) != nil {
		return false
	}
	for page := start; page < end; page++ {
		run := page
		for run < end && vec[run-start]&1 != 0 {
			run++
		}
		if run > page {
			f.addFound(m, page, run-1)
			page, found = run, true
		}
	}
	return found
}

// forget makes what is known of the pages of all maps start anew, unless all pages are known for good.
func (f *fileMaps) forget() {
	if f.learns() {
		f.windows.each((*mapping).forget)
	}
}

func (m *mapping) forget() {
	m.resident.clear()
	m.probed.clear()
	m.seen.clear()
}

// forgetPages has the next access to a range go through the file: its pages are no longer in memory,
// and a store into one of them needs a block. Where all pages stay known the map was taken away.
func (f *fileMaps) forgetPages(s byteRange) {
	if !f.learns() {
		return
	}
	f.terms.Lock()
	defer f.terms.Unlock()
	f.term++
	f.windows.each(func(m *mapping) {
		if part := m.part(s); part != nil {
			first, last := pageSpan(max(s.pages().from-m.offset, 0), len(part))
			m.resident.remove(first, last)
			m.written.remove(first, last)
		}
	})
}

// beginWrite returns the term in which a write through the wrapped file begins, for learnWritten.
func (f *fileMaps) beginWrite() uint64 {
	f.terms.Lock()
	defer f.terms.Unlock()
	return f.term
}

// learnWritten takes note that p was written at off through the wrapped file, by a write that began in
// a term: the pages are in memory and, if nothing has ended the term, may be stored to.
func (f *fileMaps) learnWritten(off int64, p []byte, term uint64) {
	if !f.trusted.Load() || f.host.mute.Load() {
		return
	}
	f.windows.over(off, len(p), func(m *mapping, start int64, n int) {
		if f.compares && !f.agreesWritten(m, start, p[m.offset+start-off:][:n]) {
			return
		}
		first, last := pageSpan(start, n)
		f.addKnown(m, first, last)
		if !m.writable || f.altersWrites.Load() {
			return
		}
		f.terms.Lock()
		defer f.terms.Unlock()
		if f.term == term && f.refused.Load() == nil && f.storesPay(m, first, last) {
			m.written.add(first, last)
		}
	})
}

// storesPay reports whether pages that were written through the file are to be stored to from here on.
// The first store to a clean page is a first touch, for which see addKnown; the second write tells
// that there will be more.
func (f *fileMaps) storesPay(m *mapping, first, last int) bool {
	if !m.rationed || !costs.touchesAreDear() {
		return true
	}
	if !m.dirtied.has(first, last) {
		m.dirtied.add(first, last)
		return false
	}
	return f.demand.affordsTouch()
}

// endTerm ends the permission to store: the next write to each page goes through the wrapped
// file. What it rests on ends with each flush, which makes pages clean: a store into a clean
// page waits in a fault for a filesystem that is frozen or a disk that is behind, and succeeds
// where a write is refused, on a filesystem that has failed. It also ends after storeTerm,
// because the kernel flushes, too.
func (f *fileMaps) endTerm() {
	if !f.learns() {
		return // what is mapped is written through the map alone
	}
	f.terms.Lock()
	defer f.terms.Unlock()
	f.term++
	f.windows.each(func(m *mapping) {
		m.written.clear()
		m.dirtied.clear()
	})
}
