package memmapfs

import (
	"math"
	"math/bits"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// hugePageBytes is the alignment at which a kernel can map 2 MiB at once.
	hugePageBytes = 2 << 20
	// wholeFile is the window size with which one window holds every file.
	wholeFile = math.MaxInt64
	// narrowWindow is the window size for files that do not fit the address space.
	narrowWindow = 16 << 20
)

// pageBytes is the size of a page.
var pageBytes = int64(os.Getpagesize())

// mapAlignment is the number of bytes, whole pages, of which the offset of a map is a multiple.
var mapAlignment = max(int64(sysMapAlignment()), pageBytes)

// pageShift is the number of bits in which offsets inside a page differ.
var pageShift = bits.TrailingZeros64(uint64(pageBytes))

// windowBytes rounds a window size to what can be mapped: multiples of mapAlignment, and from 2 MiB
// on of 2 MiB, so that windows start where large pages start.
func windowBytes(size int64) int64 {
	if size >= hugePageBytes {
		return size - size%hugePageBytes
	}
	return (size + mapAlignment - 1) &^ (mapAlignment - 1)
}

// roundUp rounds n, which is not near the largest int64, up to whole pages.
func roundUp(n int64) int64 { return (n + pageBytes - 1) &^ (pageBytes - 1) }

// pagesIn returns the number of pages that n bytes touch.
func pagesIn(n int64) int { return int((n + pageBytes - 1) / pageBytes) }

// pageSpan returns the first and the last page of n > 0 bytes of a map from start on.
func pageSpan(start int64, n int) (first, last int) {
	return int(start >> (pageShift & 63)), int((start + int64(n) - 1) >> (pageShift & 63))
}

// windows are the live mappings of one file: one of the whole file, or some windows of it.
// Looking a mapping up takes no lock.
type windows struct {
	whole   atomic.Pointer[mapping]        // the only one, if size is wholeFile
	buckets atomic.Pointer[[]windowBucket] // the others, by index
	clock   atomic.Uint64                  // moves with every look for a missing window to map

	mu     sync.Mutex // guards the fields below and all changes; mapping.mu is taken under it
	size   int64      // bytes of the file per window; fixed once a window is mapped
	budget int        // windows mapped at a time
	live   []*mapping
	kept   *mapping          // the first of those no longer looked up, but Data has handed out their bytes
	wanted *[16]wantedWindow // by index
	unit   int64             // of what offsets and lengths of maps are multiples; 0 before the first map
	lasts  *lasting          // what holds for later maps, too; nil if nothing does
}

// wantedWindow counts the looks that lately found the window of an index missing.
type wantedWindow struct {
	index int64
	looks int
}

// any reports whether something is mapped.
func (w *windows) any() bool { return w.whole.Load() != nil || w.buckets.Load() != nil }

// mapsWhole reports whether the file is mapped as a whole.
func (w *windows) mapsWhole() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size == wholeFile
}

// fits reports whether one window can hold [off, off+n).
func (w *windows) fits(off, n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size == wholeFile || off/w.size == (off+n-1)/w.size
}

const maxBuckets = 1024

// windowBucket holds the windows whose indexes have the same remainder.
type windowBucket = atomic.Pointer[[]*mapping]

// at returns the mapping in whose window off lies, or nil.
func (w *windows) at(off int64) *mapping {
	if m := w.whole.Load(); m != nil {
		return m
	}
	return w.search(off)
}

func (w *windows) search(off int64) *mapping {
	buckets := w.buckets.Load()
	if buckets == nil || off < 0 {
		return nil
	}
	index := off / w.size
	list := (*buckets)[index%int64(len(*buckets))].Load()
	if list == nil {
		return nil
	}
	for _, m := range *list {
		if m.index == index {
			if now := w.clock.Load(); m.lastUse.Load() != now {
				m.lastUse.Store(now)
			}
			return m
		}
	}
	return nil
}

// pays reports whether mapping the window of off, which a call has just missed, will pay. As
// long as there is room in the budget it does. After that a window has to be missed again and
// again, and the one to be dropped for it unused for long: otherwise, with more windows in
// use than the budget holds, every call would map and unmap, which costs more than the file.
// Long calls never save what that costs. The caller holds w.mu.
func (w *windows) pays(off int64, calledShort bool) bool {
	if w.size == wholeFile || len(w.live) < w.budget {
		return true
	}
	if !calledShort {
		return false
	}
	index := off / w.size
	if w.wanted == nil {
		w.wanted = new([16]wantedWindow)
	}
	wanted := &w.wanted[index%int64(len(w.wanted))]
	if wanted.index != index {
		*wanted = wantedWindow{index: index}
	}
	if wanted.looks++; wanted.looks < looksBeforeSwap {
		return false
	}
	victim := w.leastUsed()
	return victim >= 0 && w.clock.Load()-w.live[victim].lastUse.Load() > idleLooks*uint64(w.budget)
}

// One call in callsBeforeWindow that misses a window looks for what to do about it. A window is
// mapped in another one's place when it was missed in looksBeforeSwap of these looks, and the
// other was not used during idleLooks of them for each window in the budget.
const (
	looksBeforeSwap = 2
	idleLooks       = 16
)

// leastUsed returns the index in w.live of the mapping that was not used for longest, or -1 if
// Data or LockMemory have pinned them all. The caller holds w.mu.
func (w *windows) leastUsed() int {
	victim := -1
	for i, m := range w.live {
		if !m.mapped.exposed.Load() && !w.holdsLock(m) && (victim < 0 || m.lastUse.Load() < w.live[victim].lastUse.Load()) {
			victim = i
		}
	}
	return victim
}

// makeRoom drops the mapping that stands at index already, or the one not used for longest if
// the budget is used up, and reports whether there is room now. The caller holds w.mu.
func (w *windows) makeRoom(index int64) bool {
	if i := slices.IndexFunc(w.live, func(m *mapping) bool { return m.index == index }); i >= 0 {
		w.drop(i)
	}
	if len(w.live) >= w.budget {
		victim := w.leastUsed()
		if victim < 0 {
			return false
		}
		w.drop(victim)
	}
	return true
}

// insert makes m the mapping of its window. The caller holds w.mu and has made room.
func (w *windows) insert(m *mapping) {
	w.live = append(w.live, m)
	m.lastUse.Store(w.clock.Load())
	w.publish(m.index)
}

// drop takes the mapping w.live[i] out. The caller holds w.mu.
func (w *windows) drop(i int) {
	old := w.live[i]
	w.live = slices.Delete(w.live, i, i+1)
	w.publish(old.index)
	if old.mapped.exposed.Load() {
		old.nextKept, w.kept = w.kept, old
	} else {
		old.release()
	}
}

// publish makes lookups of index see w.live. The caller holds w.mu.
func (w *windows) publish(index int64) {
	if w.size == wholeFile {
		if len(w.live) == 0 {
			w.whole.Store(nil)
		} else {
			w.whole.Store(w.live[0])
		}
		return
	}
	buckets := w.buckets.Load()
	if buckets == nil {
		made := make([]windowBucket, min(w.budget, maxBuckets))
		buckets = &made
		w.buckets.Store(buckets)
	}
	bucket := index % int64(len(*buckets))
	var list []*mapping
	for _, m := range w.live {
		if m.index%int64(len(*buckets)) == bucket {
			list = append(list, m)
		}
	}
	(*buckets)[bucket].Store(&list)
}

// releaseAll takes every mapping away. Slices from Data fault from here on. The caller holds
// w.mu.
func (w *windows) releaseAll() {
	for len(w.live) > 0 {
		w.drop(len(w.live) - 1)
	}
	for ; w.kept != nil; w.kept = w.kept.nextKept {
		w.kept.release()
	}
}

// each calls fn for every live mapping.
func (w *windows) each(fn func(m *mapping)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.live {
		fn(m)
	}
}

// over calls fn for every mapping that holds bytes of [off, off+n), with the part of the
// range, counted from the start of the mapping, that lies in the map and in the file.
func (w *windows) over(off int64, n int, fn func(m *mapping, start int64, n int)) {
	for end := off + int64(n); off < end; {
		m := w.at(off)
		next := end
		if m == nil || w.whole.Load() == nil {
			size := w.windowSize()
			if size == 0 {
				return
			}
			next = off + min(end-off, size-off%size)
		}
		if m != nil {
			start := off - m.offset
			if stop := min(next-m.offset, m.limit.Load()); start < stop {
				fn(m, start, int(stop-start))
			}
		}
		off = next
	}
}

// windowSize returns the bytes per window, or 0 if there are no windows to look up.
func (w *windows) windowSize() int64 {
	if w.buckets.Load() == nil {
		return 0
	}
	return w.size
}

// copyOut copies the map's bytes from start on into p. It and copyIn report false after a fault,
// whoever caused it, and if the map is gone. The caller then repeats the whole call through the
// file, which gives the right bytes or the right error, EFAULT for a bad p included.
func (f *MappedFile) copyOut(p []byte, m *mapping, start int64) bool {
	if !m.enter() {
		return false
	}
	fault := copyGuarded(unsafe.Pointer(unsafe.SliceData(p)), m.pointer(start), len(p))
	m.leave()
	return fault == nil || f.copyFaulted(fault.value, m, start, len(p))
}

// copyIn copies p into the map from start on.
func (f *MappedFile) copyIn(m *mapping, start int64, p []byte) bool {
	to := m
	if m.stores != nil {
		to = m.stores
	}
	if !to.enter() {
		return false
	}
	fault := copyGuarded(to.pointer(start), unsafe.Pointer(unsafe.SliceData(p)), len(p))
	to.leave()
	return fault == nil || f.copyFaulted(fault.value, m, start, len(p))
}

// pointer returns the address of m.data[start].
func (m *mapping) pointer(start int64) unsafe.Pointer {
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.data)), start)
}

// From 1 MiB on a copy by Go's runtime bypasses the processor's caches: what was read is not in them
// when it is used. So it is done in pieces, unless it is longer than any cache.
const (
	pieceOfCopy = 256 << 10
	longestCopy = 8 << 20
)

// copyGuarded copies n bytes and returns nil, or the panic that a fault has raised. But for storable
// it is the only code of this package that touches mapped bytes.
// After a fault nothing may be believed of what was copied: a copy does not go byte by byte.
//
// It is the innermost part of the fast path. The deferred function shares just one variable with
// the rest, because each one more is kept in memory instead of a register and costs a nanosecond;
// so fault says, while the copy is under way, what the guard has to be set back to.
func copyGuarded(to, from unsafe.Pointer, n int) (fault *caughtPanic) {
	defer func() {
		if fault != nil {
			before := fault == &guardWasOn
			fault = &caughtPanic{recover()}
			debug.SetPanicOnFault(before)
		}
	}()
	fault = &guardWasOff
	if debug.SetPanicOnFault(true) {
		fault = &guardWasOn
	}
	for ; n > pieceOfCopy && n < longestCopy; n -= pieceOfCopy {
		copy(unsafe.Slice((*byte)(to), pieceOfCopy), unsafe.Slice((*byte)(from), pieceOfCopy))
		to, from = unsafe.Add(to, pieceOfCopy), unsafe.Add(from, pieceOfCopy)
	}
	copy(unsafe.Slice((*byte)(to), n), unsafe.Slice((*byte)(from), n))
	debug.SetPanicOnFault(fault == &guardWasOn)
	return nil
}

// caughtPanic is the value of a panic.
type caughtPanic struct{ value any }

var guardWasOn, guardWasOff caughtPanic
