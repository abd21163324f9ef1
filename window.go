package memmapfs

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// wholeFile is the window size with which one window holds every file.
	wholeFile = math.MaxInt64
	// narrowWindow is the window size for files that do not fit the address space.
	narrowWindow = 16 << 20
)

// mapAlignment is the number of bytes, whole pages, of which the offset of a map is a multiple.
var mapAlignment = max(int64(sysMapAlignment()), pageBytes)

// windowBytes rounds a window size to what can be mapped: multiples of mapAlignment, and from 2 MiB
// on of 2 MiB, so that windows start where large pages start.
func windowBytes(size int64) int64 {
	if size >= hugePageBytes {
		return size - size%hugePageBytes
	}
	return (size + mapAlignment - 1) &^ (mapAlignment - 1)
}

// windows are the live mappings of one file: one of the whole file, or some windows of it.
// Looking a mapping up takes no lock.
type windows struct {
	whole atomic.Pointer[mapping]     // the only one, if size is wholeFile
	table atomic.Pointer[windowTable] // the others, by index
	clock atomic.Uint64               // moves with every look for a missing window to map

	mu     sync.Mutex // guards the fields below and all changes; mapping.mu is taken under it
	size   int64      // bytes of the file per window; as long as a window is mapped it can but become wholeFile
	budget int        // windows mapped at a time
	live   []*mapping
	others []*mapping        // not looked up, and not revoked when last seen: of Data and View
	wanted *[16]wantedWindow // by index
	unit   int64             // of what offsets and lengths of maps are multiples; 0 before the first map
	locked []byteRange       // by LockMemory: windows that hold them are not dropped

	// narrowed is when the whole file last had no room in the address space, so that it is mapped by
	// windows until it has; zero if it is mapped as the Config says.
	narrowed time.Time
}

// narrowTerm is how long a file is mapped by windows before it is tried again whether it fits as a whole.
const narrowTerm = 10 * time.Second

// windowTable finds windows by their index.
type windowTable struct {
	size    int64 // bytes per window
	buckets []windowBucket
}

// wantedWindow counts the looks that lately found the window of an index missing.
type wantedWindow struct {
	index int64
	looks int
}

// any reports whether something is mapped.
func (w *windows) any() bool { return w.whole.Load() != nil || w.table.Load() != nil }

// hasLive reports whether there is a mapping that lookups find.
func (w *windows) hasLive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.live) > 0
}

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
	table := w.table.Load()
	if table == nil || off < 0 {
		return nil
	}
	index := off / table.size
	list := table.buckets[index%int64(len(table.buckets))].Load()
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
		if !m.life.exposed.Load() && !w.holdsLock(m) && (victim < 0 || m.lastUse.Load() < w.live[victim].lastUse.Load()) {
			victim = i
		}
	}
	return victim
}

// holdsLock reports whether LockMemory keeps the mapping. The caller holds w.mu.
func (w *windows) holdsLock(m *mapping) bool {
	return slices.ContainsFunc(w.locked, func(s byteRange) bool { return s.overlaps(m.byteRange()) })
}

// hasRoom reports whether makeRoom will make it. The caller holds w.mu.
func (w *windows) hasRoom(index int64) bool {
	return len(w.live) < w.budget || w.indexLive(index) >= 0 || w.leastUsed() >= 0
}

func (w *windows) indexLive(index int64) int {
	return slices.IndexFunc(w.live, func(m *mapping) bool { return m.index == index })
}

// makeRoom drops the mapping that stands at index already, or the one not used for longest if
// the budget is used up. The caller holds w.mu and knows that there is one.
func (w *windows) makeRoom(index int64) (err error) {
	if i := w.indexLive(index); i >= 0 {
		err = w.drop(i)
	}
	if len(w.live) >= w.budget {
		err = join(err, w.drop(w.leastUsed()))
	}
	return err
}

// insert makes m the mapping of its window. The caller holds w.mu and has made room.
func (w *windows) insert(m *mapping) {
	w.live = append(w.live, m)
	m.lastUse.Store(w.clock.Load())
	w.publish(m.index)
}

// drop takes the mapping w.live[i] out. One whose bytes Data has handed out stays mapped. The
// caller holds w.mu.
func (w *windows) drop(i int) error {
	old := w.live[i]
	w.live = slices.Delete(w.live, i, i+1)
	w.publish(old.index)
	if old.life.exposed.Load() {
		w.addOther(old)
		return nil
	}
	err := old.release()
	if !old.isRevoked() {
		w.addOther(old) // a View uses it
	}
	return err
}

// addOther enters a mapping that is not looked up. The caller holds w.mu.
func (w *windows) addOther(m *mapping) {
	w.others = slices.DeleteFunc(w.others, (*mapping).isRevoked)
	w.others = append(w.others, m)
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
	table := w.table.Load()
	if table == nil {
		table = &windowTable{w.size, make([]windowBucket, min(w.budget, maxBuckets))}
		w.table.Store(table)
	}
	bucket := index % int64(len(table.buckets))
	var list []*mapping
	for _, m := range w.live {
		if m.index%int64(len(table.buckets)) == bucket {
			list = append(list, m)
		}
	}
	table.buckets[bucket].Store(&list)
}

// widen makes m, which has the whole file, the only mapping that lookups find. The caller holds w.mu.
func (w *windows) widen(m *mapping) (err error) {
	for len(w.live) > 0 {
		err = join(err, w.drop(len(w.live)-1))
	}
	w.size, w.narrowed = wholeFile, time.Time{}
	w.table.Store(nil)
	w.insert(m)
	return err
}

// releaseAll takes every mapping away. Slices from Data fault from here on. The caller holds
// w.mu.
func (w *windows) releaseAll() (err error) {
	for len(w.live) > 0 {
		err = join(err, w.drop(len(w.live)-1))
	}
	for _, m := range w.others {
		err = join(err, m.release())
	}
	w.others = slices.DeleteFunc(w.others, (*mapping).isRevoked)
	return err
}

// each calls fn for every mapping that lookups find, without a lock.
func (w *windows) each(fn func(m *mapping)) {
	if m := w.whole.Load(); m != nil {
		fn(m)
		return
	}
	table := w.table.Load()
	if table == nil {
		return
	}
	for i := range table.buckets {
		if list := table.buckets[i].Load(); list != nil {
			for _, m := range *list {
				fn(m)
			}
		}
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
	if table := w.table.Load(); table != nil {
		return table.size
	}
	return 0
}
