package memmapfs

import (
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// fileMaps are the maps of one open file: they are made here, read, written, learnt about and
// dropped. It has openFile inside, and knows nothing of the handle: what the handle has to know
// comes back as a result, or waits in faults and lost until it looks.
type fileMaps struct {
	openFile
	windows windows

	demand    demand
	longReads longReads

	writable bool // its maps can be stored to, and the stores reach the file
	compares bool // the wrapped file's type is not known: each page is compared

	refused      atomic.Pointer[refusal]
	trusted      atomic.Bool // calls may be served from maps; set with the first map
	altersWrites atomic.Bool // a file that compares has written other bytes than it was given: nothing is stored
	fillsHoles   atomic.Bool // reading a hole through a map takes a block of the disk

	descriptor     atomic.Pointer[descriptor]  // changed under windows.mu
	identity       atomic.Pointer[os.FileInfo] // when it was last mapped
	filesystem     filesystem                  // guarded by windows.mu
	copiedUp       atomic.Bool                 // the file may become another one: see isStale
	tellsResidency atomic.Bool                 // the kernel says truly which pages are in memory

	sizing sync.Mutex // held by measure; no lock but openFile.closing is taken under it
	terms  sync.Mutex // guards term, and what is added to mappings' written; no lock is taken under it
	term   uint64     // of the permission to store: see endTerm

	hidden *hiddenPages           // pages that no call is served from; nil if there can be none
	hints  atomic.Pointer[[]hint] // that hold for later maps; changed under windows.mu
	lone   atomic.Bool            // page faults were told to read one page each; changed under windows.mu
	lost   error                  // of a flush when a map was taken away; guarded by windows.mu

	faults atomic.Pointer[faultLog] // nil unless somebody wants to hear of them
}

// faultLog holds the faults of a file that the handle has not told anybody yet.
type faultLog struct {
	mu      sync.Mutex // guards pending; no lock is taken under it
	pending []error
}

// callsPays reports whether enough calls went to the file to try a map, and calls may be
// served from one.
func (f *fileMaps) callsPay() bool { return f.refused.Load() == nil && f.demand.due() }

// mayServe reports whether a call that readHot has not served may be served from a map, of one that is there
// or will be. While nothing is learnt, it is not worth a look.
func (f *fileMaps) mayServe() bool {
	return (f.trusted.Load() || f.refused.Load() == nil) && !(sysMapsAgreeWithIO && f.host.mute.Load())
}

// measure asks for the size of the file and tells it to all maps that lookups find. It is the
// only place that sets a mapping's limit, and nothing is ever set from a number learnt before:
// it is called wherever the size may have become another, after that, and whoever makes a map
// is known to the registry first, publishes the map, which then serves nothing, and measures.
// So a change of the file through its MemMapFS either finds the map or is found by it.
func (f *fileMaps) measure() error {
	f.sizing.Lock()
	defer f.sizing.Unlock()
	info, err := f.stat()
	if err != nil {
		f.windows.each(func(m *mapping) { m.limit.Store(0) })
		return err
	}
	size := info.Size()
	f.windows.each(func(m *mapping) { m.setLimit(size) })
	return nil
}

// readHot reads p from one mapping if all of it is mapped, inside the file and in memory. It
// is the fast path: no lock, no shared counter, no allocation, and few calls.
func (f *fileMaps) readHot(p []byte, off int64) bool {
	m := f.windows.at(off)
	if m == nil || len(p) == 0 || len(p) >= timedRead {
		return false
	}
	start, ok := m.span(off, len(p))
	if !ok {
		return false
	}
	first, last := pageSpan(start, len(p))
	if (first != last || !m.resident.hasOne(first)) && !m.knows(first, last) {
		return false
	}
	return f.copyOut(p, m, start)
}

// copyOut copies the map's bytes from start on into p, and reports whether they are the file's.
func (f *fileMaps) copyOut(p []byte, m *mapping, start int64) bool {
	if fault := m.copyOut(p, start); fault != nil {
		f.noteFault(m, fault, start, len(p))
		return false
	}
	end := start + int64(len(p))
	return m.proves(p, end) || f.nextReaches(m, end)
}

// copyIn stores p into the map from start on, and reports whether the file has taken it.
func (f *fileMaps) copyIn(m *mapping, start int64, p []byte) bool {
	if fault := m.copyIn(start, p); fault != nil {
		f.noteFault(m, fault, start, len(p))
		return false
	}
	end := start + int64(len(p))
	return m.reaches(end) || f.nextReaches(m, end)
}

// nextReaches is mapping.reaches for bytes in the last page of a window: the next window has the page
// that proves it.
func (f *fileMaps) nextReaches(m *mapping, end int64) bool {
	if f.windows.whole.Load() != nil || end <= int64(len(m.data))-pageBytes {
		return false
	}
	next := f.windows.at(m.offset + int64(len(m.data)))
	return next != nil && next.offset == m.offset+int64(len(m.data)) && next.resident.has(0, 0) && next.touch(0)
}

// readHead reads the head of p from the maps, one window after the other, and returns its
// length. It maps windows where that pays.
func (f *fileMaps) readHead(p []byte, off int64) int {
	for head := 0; ; {
		at := off + int64(head)
		m := f.mappingFor(at)
		if m == nil {
			return head
		}
		start := at - m.offset
		n := int(min(int64(len(p)-head), m.limit.Load()-start))
		if n <= 0 {
			return head
		}
		if first, last := pageSpan(start, n); !m.knows(first, last) && !f.probe(m, first, last) {
			return head
		}
		if !f.copyOut(p[head:head+n], m, start) {
			if first, last := pageSpan(start, n); m.knows(first, last) {
				f.probe(m, last+1, last+1) // whose presence would have proved the end
			}
			return head
		}
		if head += n; head == len(p) {
			return head
		}
	}
}

// mappingFor returns the mapping that holds the byte at off. It makes it if that pays.
func (f *fileMaps) mappingFor(off int64) *mapping {
	m := f.windows.at(off)
	if m == nil || !m.holds(off) {
		if !f.callsPay() || !f.tryMap(off) {
			return nil
		}
		if m = f.windows.at(off); m == nil || !m.holds(off) {
			return nil
		}
	}
	return m
}

// readsLong reports whether a read of n bytes is one that a map may serve no faster than the
// file.
func (f *fileMaps) readsLong(n int) bool {
	return n >= timedRead && sysMapsAgreeWithIO && f.windows.whole.Load() != nil
}

// readLong reads the head of p if longReads wants it done through the map, and returns its
// length and, if all of the read is to be timed for longReads, when it began.
func (f *fileMaps) readLong(p []byte, off int64) (head int, began time.Time) {
	viaMap, timed := f.longReads.choose()
	if timed {
		began = time.Now()
	}
	if viaMap {
		head = f.readHead(p, off)
	}
	return head, began
}

// refuse has the file not mapped any more for calls, and as the refusal says not at all.
func (f *fileMaps) refuse(r *refusal) {
	if old := f.refused.Swap(r); old == nil || old.reason != r.reason {
		f.host.counters.notMapped[r.reason].Add(1)
	}
	f.trusted.Store(false)
	f.forget()
	f.endTerm()
}

// readThroughFile reads from the wrapped file.
func (f *fileMaps) readThroughFile(p []byte, off int64) (int, error) {
	timed := f.demand.note(len(p))
	f.countRead(off)
	began := time.Time{}
	if timed {
		began = time.Now()
	}
	n, err := f.file.ReadAt(p, off)
	if timed && err == nil {
		costs.call.note(time.Since(began))
	}
	return countIn(p, n), err
}

// countIn returns how much of p a wrapped file has read or written that says n: as unix.Pread does, it may give
// -1 with an error.
func countIn(p []byte, n int) int { return min(max(n, 0), len(p)) }

// storeIn copies p into m at off if all of it lies in pages that may be stored to.
func (f *fileMaps) storeIn(m *mapping, p []byte, off int64) bool {
	start, ok := m.span(off, len(p))
	if !ok || !m.writable {
		return false
	}
	first, last := pageSpan(start, len(p))
	if (first != last || !m.written.hasOne(first)) && !m.written.has(first, last) {
		return false
	}
	return f.copyIn(m, start, p)
}

// writeHead stores the head of p into the maps, one window after the other, and returns its
// length.
func (f *fileMaps) writeHead(p []byte, off int64) (head int) {
	for head < len(p) {
		at := off + int64(head)
		m := f.mappingFor(at)
		if m == nil {
			return head
		}
		start := at - m.offset
		n := int(min(int64(len(p)-head), m.limit.Load()-start))
		if n <= 0 {
			return head
		}
		if !f.storeIn(m, p[head:head+n], at) {
			if _, last := pageSpan(start, n); m.written.has(last, last) {
				f.probe(m, last+1, last+1)
			}
			return head
		}
		head += n
	}
	return head
}

// writeThrough writes through the wrapped file.
func (f *fileMaps) writeThrough(p []byte, off int64) (int, error) {
	timed := f.demand.note(len(p))
	f.countWrite(off)
	term := f.beginWrite()
	began := time.Time{}
	if timed {
		began = time.Now()
	}
	n, err := f.file.WriteAt(p, off)
	if timed && err == nil {
		costs.call.note(time.Since(began))
	}
	if n = countIn(p, n); n > 0 {
		f.learnWritten(off, p[:n], term)
	}
	return n, err
}

// noteFault takes note of the panic of a copy of n bytes from or to the map's start, if the fault
// was in the map: the size of the file is asked for anew, so that the next call does not fault.
// That the map was taken away during an access is no fault of the file.
func (f *fileMaps) noteFault(m *mapping, fault *caughtPanic, start int64, n int) {
	address, _ := faultAddress(fault.value)
	if fault == &faultGone || m.isRevoked() ||
		!m.contains(address) && (tellsFaultAddress() || firstLost(m.data, start, int64(n), m.writable) < 0) {
		return // gone, or the caller's own slice, of which the wrapped file will complain
	}
	first, last := pageSpan(start, n)
	m.resident.remove(first, last)
	m.written.remove(first, last)
	f.tellFault(fmt.Errorf("%w (in %d bytes at offset %d)", ErrSIGBUS, n, m.offset+start))
}

// tellFault counts a fault and keeps it for whoever wants to hear of it.
func (f *fileMaps) tellFault(fault error) {
	f.host.counters.faults.Add(1)
	f.measure()
	if log := f.faults.Load(); log != nil {
		log.mu.Lock()
		defer log.mu.Unlock()
		log.pending = append(log.pending, fault)
	}
}

// unmap takes the maps away until they are next needed.
func (f *fileMaps) unmap() {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	f.unmapLocked()
}

// unmapLocked is unmap; the caller holds windows.mu.
func (f *fileMaps) unmapLocked() { f.keepLostLocked(f.windows.releaseAll()) }

// keepLostLocked keeps the error of a flush that nobody waits for; the caller holds windows.mu.
func (f *fileMaps) keepLostLocked(err error) {
	if err != nil {
		f.lost = join(f.lost, err)
	}
}

// takeLost returns the errors that keepLostLocked kept, once.
func (f *fileMaps) takeLost() error {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	err := f.lost
	f.lost = nil
	return err
}

// release takes away a mapping that lookups do not find.
func (f *fileMaps) release(m *mapping) {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	f.keepLostLocked(m.release())
}

// unpin ends the use of a mapping by a View.
func (f *fileMaps) unpin(m *mapping) {
	if err := m.unpin(); err != nil {
		f.windows.mu.Lock()
		defer f.windows.mu.Unlock()
		f.keepLostLocked(err)
	}
}

// syncMaps flushes what was stored in maps that are not revoked, where the file's own Sync does
// not do that, and returns what was lost when others were.
func (f *fileMaps) syncMaps() error {
	if sysFileSyncCoversMaps {
		return nil
	}
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	var err error
	for _, list := range [][]*mapping{f.windows.live, f.windows.others} {
		for _, m := range list {
			err = join(err, m.syncUnlessRevoked())
		}
	}
	return err
}

// syncRange flushes a range through writable maps that hold all of it, and reports whether it
// could. A map made from a descriptor that was opened read-only will not do: msync(2) ignores it
// on Linux, as it ignores private maps.
func (f *fileMaps) syncRange(off, n int64) (done bool, err error) {
	if !sysSyncMapIsDurable || n == 0 || n > math.MaxInt64-off {
		return false, nil
	}
	for end := off + n; off < end; {
		m := f.windows.at(off)
		if m == nil || !m.writable || m.private || !m.pin() {
			return false, nil
		}
		start := off - m.offset
		stop := min(end-m.offset, m.limit.Load())
		if stop <= start {
			f.unpin(m)
			return false, nil
		}
		err := f.host.counters.flushed(system.syncMap(m.data[start-start%pageBytes : stop]))
		f.unpin(m)
		if err != nil {
			return true, err
		}
		off = m.offset + stop
	}
	return true, nil
}

// isFileOf reports whether info describes the file, if it was ever mapped.
func (f *fileMaps) isFileOf(info os.FileInfo) bool {
	identity := f.identity.Load()
	return identity != nil && os.SameFile(*identity, info)
}

// end takes the maps away for good. It returns what was lost.
func (f *fileMaps) end() error {
	f.unmap()
	if f.identity.Load() != nil {
		f.host.mapped.Add(-1)
	}
	return f.takeLost()
}

// closeDescriptor releases a second descriptor for good.
func (f *fileMaps) closeDescriptor() error {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	return f.descriptor.Swap(nil).close()
}

// countRead counts a read at off that goes to the file.
func (f *fileMaps) countRead(off int64) {
	c := &f.host.counters
	switch m := f.windows.at(off); {
	case m == nil || !f.trusted.Load():
		c.readsUnmapped.Add(1)
	case !m.holds(off):
		c.readsPastEnd.Add(1)
	default:
		c.readsCold.Add(1)
	}
}

// countWrite counts a write at off that goes to the file.
func (f *fileMaps) countWrite(off int64) {
	c := &f.host.counters
	m := f.windows.at(off)
	switch {
	case f.flag&os.O_SYNC != 0 || f.host.config.SyncMode == SyncImmediate:
		c.writesFlush.Add(1)
	case m == nil || !m.writable || !f.trusted.Load():
		c.writesUnmapped.Add(1)
	case !m.holds(off):
		c.writesPastEnd.Add(1)
	default:
		c.writesCold.Add(1)
	}
}

// mappable returns what describes a regular file that can be mapped by whoever asks by name.
func (f *fileMaps) mappable() (os.FileInfo, error) {
	if r := f.refused.Load(); r != nil && r.byName {
		return nil, r.err
	}
	info, err := f.stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		r := refuse(refusedKind, errNotRegular, true)
		f.refuse(r)
		return nil, r.err
	}
	return info, nil
}
