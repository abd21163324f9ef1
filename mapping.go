package memmapfs

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// mapping is one live map of a range of a file. It does not change once it is published, but
// for what is learnt about its pages and for limit.
//
// Readers use it without a lock, so it may be taken away while they copy. That is safe
// because release does not give its addresses back: it puts inaccessible memory in their
// place, a copy under way faults, is caught, and asks the file. The addresses are given
// back when the garbage collector has proved that nobody holds the mapping any more, so
// no late copy can ever read another file's bytes. Where the system cannot put it there in one
// step (sysRevokesInPlace), release waits for the copies under way.
type mapping struct {
	offset int64  // of data[0] in the file, a multiple of the page size
	data   []byte // whole pages; the last ones may lie past the end of the file

	// limit is how many bytes of data lie inside the file, as it was when it was last asked
	// for its size (fileMaps.measure). Others may have shrunk the file since: what a copy
	// says is proved by reaches.
	limit atomic.Int64

	resident pageSet // pages known to be in memory
	written  pageSet // pages that may be stored to: see fileMaps.learnWritten
	probed   pageSet // chunks that the kernel has been asked about

	// Where touches are dear, a map made by demand is touched only where that was found worth it: see
	// fileMaps.ration. The first two are sets of pages, the others of parts of touchPages.
	rationed bool
	seen     pageSet // known to be in memory, touched or not
	dirtied  pageSet // written through the file once since the term began
	reread   pageSet // of which a page was read again
	touched  pageSet // that may be touched

	writable bool
	private  bool
	cold     bool // pages may be touched, known to be in memory or not: Config.ColdReads

	probeCost  atomic.Int64 // of a question about a chunk, in nanoseconds, as last seen
	probeSpent atomic.Int64 // on all questions, in nanoseconds

	oldCuts int64         // by hints that are forgotten; guarded by windows.mu
	index   int64         // of the window
	lastUse atomic.Uint64 // the windows' clock when it was last used

	life *mapLife

	mu   sync.Mutex // guards pins, lone and changes of life.state; only copying is taken under it
	pins int        // Views that are running
	lone bool       // see readAlone

	// copying is held for reading by each copy, unless sysRevokesInPlace, and for writing to
	// revoke.
	copying sync.RWMutex
}

// mapLife is what remains of a mapping when the mapping itself is garbage.
type mapLife struct {
	addresses
	state   atomic.Int32
	cuts    atomic.Int64 // places where hints and locks cut the map: the pieces are maps, too
	exposed atomic.Bool  // Data has handed out a slice of it
}

// The states of a mapping's life, in their order.
const (
	mapLive    = int32(iota)
	mapEnding  // nothing new may begin; it is revoked with the last View
	mapRevoked // every access faults
	mapLost    // revoked, and the addresses belong to something else by now
)

// manage takes charge of data, which maps bytes of a file from offset on and is counted in the
// budget.
func manage(data []byte, offset int64) *mapping {
	pages := pagesIn(int64(len(data)))
	m := &mapping{
		offset:   offset,
		data:     data,
		resident: newPageSet(pages),
		probed:   newPageSet((pages + chunkPages - 1) / chunkPages),
		life:     &mapLife{addresses: addresses{addressOf(data), uintptr(len(data))}},
	}
	runtime.AddCleanup(m, giveBack, m.life)
	return m
}

// ration has the map touched only where that was found worth it.
func (m *mapping) ration() {
	pages := pagesIn(int64(len(m.data)))
	parts := (pages + touchPages - 1) / touchPages
	m.seen, m.dirtied = newPageSet(pages), newPageSet(pages)
	m.reread, m.touched = newPageSet(parts), newPageSet(parts)
	m.rationed = true
}

// touchPages is the number of pages that one page fault maps, as a rule: fault_around_bytes of Linux.
var touchPages = max(touchBytes/int(pageBytes), 1)

const touchBytes = 64 << 10

// span returns where the bytes [off, off+n) of the file lie in m.data, and whether all of
// them lie inside both the map and the file.
func (m *mapping) span(off int64, n int) (start int64, ok bool) {
	start = off - m.offset
	limit := m.limit.Load()
	return start, start >= 0 && start < limit && int64(n) <= limit-start
}

// holds reports whether the byte at off is in the map and in the file.
func (m *mapping) holds(off int64) bool {
	_, ok := m.span(off, 1)
	return ok
}

// knows reports whether the map's pages from first to last may be read.
func (m *mapping) knows(first, last int) bool {
	return m.cold || m.resident.has(first, last)
}

// setLimit tells the mapping the size of the file.
func (m *mapping) setLimit(size int64) {
	m.limit.Store(min(max(size-m.offset, 0), int64(len(m.data))))
}

// pointer returns the address of m.data[start].
func (m *mapping) pointer(start int64) unsafe.Pointer {
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.data)), start)
}

// contains reports whether an address is in the map.
func (m *mapping) contains(address uintptr) bool {
	return address-addressOf(m.data) < uintptr(len(m.data))
}

// reaches proves that the file has all bytes of the map before end, whoever has shrunk it: the
// page behind the one that holds the last of them can be touched, and pages behind a file's
// last one fault. The proof is only tried where that page is known to be in memory; false says
// nothing. It is needed for bytes read that end in a zero, and for all bytes stored: the
// system zeroes what a truncation leaves of a file's last page, so that a byte that is not
// zero was inside the file.
func (m *mapping) reaches(end int64) bool {
	if sysMapsHoldFiles {
		return true // nobody shrinks a file that is mapped
	}
	next := int((end-1)>>(pageShift&63)) + 1
	at := int64(next) << (pageShift & 63)
	if at >= int64(len(m.data)) || !m.resident.has(next, next) {
		return false
	}
	return m.touch(at)
}

// touch reads the byte at a place of the map, and reports whether it could.
func (m *mapping) touch(at int64) bool {
	if !m.enter() {
		return false
	}
	defer m.leave()
	return readable(&m.data[at])
}

// proves reports whether the bytes p, which were copied from the map up to end, lay inside the
// file.
func (m *mapping) proves(p []byte, end int64) bool {
	return p[len(p)-1] != 0 || m.reaches(end)
}

// copyOut copies the map's bytes from start on into p. It and copyIn return a fault, whoever
// caused it, and faultGone if the map is gone. The caller then repeats the whole call through
// the file, which gives the right bytes or the right error, EFAULT for a bad p included.
func (m *mapping) copyOut(p []byte, start int64) *caughtPanic {
	if !m.enter() {
		return &faultGone
	}
	fault := copyGuarded(unsafe.Pointer(unsafe.SliceData(p)), m.pointer(start), len(p))
	m.leave()
	return fault
}

// copyIn copies p into the map from start on.
func (m *mapping) copyIn(start int64, p []byte) *caughtPanic {
	if !m.enter() {
		return &faultGone
	}
	fault := copyGuarded(m.pointer(start), unsafe.Pointer(unsafe.SliceData(p)), len(p))
	m.leave()
	return fault
}

var faultGone caughtPanic

// faultIn reports whether r is a fault in the map's bytes [start, start+n), and where. Where
// the address of a fault cannot be trusted it is one if some of the bytes cannot be read any
// more or, where they may be stored to, not be stored to: in a hole of a full disk.
func (m *mapping) faultIn(r any, start, n int64) (at int64, ours bool) {
	address, isFault := faultAddress(r)
	if !isFault {
		return 0, false
	}
	if at := int64(address - addressOf(m.data)); m.contains(address) && at >= start && at < start+n {
		return at, true
	}
	if tellsFaultAddress() {
		return 0, false
	}
	at = firstLost(m.data, start, n, m.writable)
	return at, at >= 0
}

// enter lets a copy begin, until leave, or reports that the map is gone.
func (m *mapping) enter() bool {
	if sysRevokesInPlace {
		return true
	}
	m.copying.RLock()
	if m.life.state.Load() >= mapRevoked {
		m.copying.RUnlock()
		return false
	}
	return true
}

func (m *mapping) leave() {
	if !sysRevokesInPlace {
		m.copying.RUnlock()
	}
	runtime.KeepAlive(m) // its addresses are not given back before
}

// pin keeps the mapping in place until unpin, or reports that its end has begun.
func (m *mapping) pin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life.state.Load() != mapLive {
		return false
	}
	m.pins++
	m.readAloneLocked(false)
	return true
}

// readAlone says whether a page fault that reads a page reads none of those around it. What Data or a View
// lends, and what is pinned to be read in, is read through faults on purpose: there they read around.
func (m *mapping) readAlone(alone bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life.state.Load() == mapLive && (!alone || m.pins == 0 && !m.life.exposed.Load()) {
		m.readAloneLocked(alone)
	}
}

// readAloneLocked is readAlone; the caller holds m.mu.
func (m *mapping) readAloneLocked(alone bool) {
	if m.lone == alone {
		return
	}
	m.lone = alone
	advice := sysAdviseNormal
	if alone {
		advice = sysAdviseRandom
	}
	system.advise(m.data, advice)
}

// unpin undoes pin. Its error is that of revokeLocked.
func (m *mapping) unpin() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pins--
	if m.life.state.Load() == mapEnding && m.pins == 0 {
		return m.revokeLocked()
	}
	return nil
}

// release takes the mapping away, as soon as no View uses it. Its error is that of
// revokeLocked.
func (m *mapping) release() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life.state.Load() != mapLive {
		return nil
	}
	m.life.state.Store(mapEnding)
	if m.pins > 0 {
		return nil
	}
	return m.revokeLocked()
}

// isRevoked reports whether every access faults because the mapping was taken away.
func (m *mapping) isRevoked() bool { return m.life.state.Load() >= mapRevoked }

// revokeLocked makes every access to the mapping fault. Its error is that of flushing it, where
// the file's own Sync does not find what was stored in a map that is gone. The caller holds
// m.mu.
func (m *mapping) revokeLocked() error {
	err := m.sync()
	if !sysRevokesInPlace {
		m.copying.Lock()
		defer m.copying.Unlock()
	}
	began := time.Now()
	held, revokeErr := system.revoke(m.data)
	if len(m.data) <= longestTimedMap {
		costs.revoke.note(time.Since(began))
	}
	if revokeErr != nil {
		m.limit.Store(0) // the file stays mapped for a while, but no call uses it
	}
	state := mapRevoked
	if !held && revokeErr == nil {
		state = mapLost
	}
	m.life.state.Store(state)
	m.life.heal()
	budget.wait(int64(len(m.data)))
	return err
}

// cutAt takes note that hints and locks cut the map at so many places. It fails if the process
// would have too many maps by that.
func (m *mapping) cutAt(places int64) error {
	more := places - m.life.cuts.Load()
	if err := budget.cut(more); err != nil {
		return err
	}
	m.life.cuts.Add(more)
	return nil
}

// heal takes note that the map is in one piece again.
func (r *mapLife) heal() { budget.cut(-r.cuts.Swap(0)) }

// sync flushes what was stored in the map where the file's own Sync does not do that.
func (m *mapping) sync() error {
	if sysFileSyncCoversMaps || !m.writable || m.private {
		return nil
	}
	return system.syncMap(m.data)
}

// syncUnlessRevoked is sync of a map that may be at its end, and keeps it in place meanwhile.
func (m *mapping) syncUnlessRevoked() error {
	m.mu.Lock()
	if m.isRevoked() {
		m.mu.Unlock()
		return nil
	}
	m.pins++
	m.mu.Unlock()
	err := m.sync()
	return join(err, m.unpin())
}

// giveBack runs when a mapping has become garbage. A range that Data has handed out stays
// while its slices may be valid (the handle was dropped without Close), and for long after
// Close, so that a slice kept too long faults. Revoking it again lets go of the file where
// that failed at first.
func giveBack(r *mapLife) {
	state := r.state.Load()
	if state >= mapRevoked {
		defer budget.waited(int64(r.length)) // reclaim goes on at once, and then they have to be there
	}
	r.heal()
	switch {
	case state == mapLost:
		budget.give(int64(r.length))
	case !r.exposed.Load():
		began := time.Now()
		system.unmap(bytesAt(r.start, r.length))
		if r.length <= longestTimedMap {
			costs.unmap.note(time.Since(began))
		}
		budget.give(int64(r.length))
	case state == mapRevoked:
		system.revoke(bytesAt(r.start, r.length))
		quarantine.add(r.addresses)
	}
}

// byteRange is a range of a file.
type byteRange struct{ from, to int64 }

// wholeRange is all of a file, whatever its size.
var wholeRange = byteRange{0, math.MaxInt64}

// rangeOf returns the range of n bytes from off on.
func rangeOf(off, n int64) (byteRange, error) {
	if off < 0 || n < 0 {
		return byteRange{}, ErrInvalidOffset
	}
	return byteRange{off, off + min(n, math.MaxInt64-off)}, nil
}

// pages returns the whole pages that the range touches.
func (s byteRange) pages() byteRange {
	s.from -= s.from % pageBytes
	if s.to < math.MaxInt64-pageBytes {
		s.to = roundUp(s.to)
	}
	return s
}

func (s byteRange) overlaps(other byteRange) bool { return s.from < other.to && other.from < s.to }

// with returns the ranges with added, joined to those that it touches.
func with(ranges []byteRange, added byteRange) (all []byteRange) {
	for _, s := range ranges {
		if s.from <= added.to && added.from <= s.to {
			added = byteRange{min(s.from, added.from), max(s.to, added.to)}
			continue
		}
		all = append(all, s)
	}
	return append(all, added)
}

// without returns what is left of the ranges when cut is taken out.
func without(ranges []byteRange, cut byteRange) (rest []byteRange) {
	for _, s := range ranges {
		if !s.overlaps(cut) {
			rest = append(rest, s)
			continue
		}
		if s.from < cut.from {
			rest = append(rest, byteRange{s.from, cut.from})
		}
		if cut.to < s.to {
			rest = append(rest, byteRange{cut.to, s.to})
		}
	}
	return rest
}

// part returns the bytes of the map that lie in the range, in whole pages.
func (m *mapping) part(s byteRange) []byte {
	s = s.pages()
	from, to := max(s.from-m.offset, 0), min(s.to-m.offset, int64(len(m.data)))
	if from >= to {
		return nil
	}
	return m.data[from:to]
}

func (m *mapping) byteRange() byteRange { return byteRange{m.offset, m.offset + int64(len(m.data))} }
