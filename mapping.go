package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// mapping is one live map of a range of a file. It does not change once it is published,
// but for what it learns about its pages and for limit.
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

	limit atomic.Int64 // bytes of data known to lie inside the file

	ungated  atomic.Bool // all pages may be touched, resident or not
	resident pageSet     // pages known to be in memory
	written  pageSet     // pages that may be stored to; of a private map: its private pages
	probed   pageSet     // chunks that the kernel has been asked about

	writable       bool
	private        bool
	stores         *mapping     // where to store if not in data: see MappedFile.storesApart
	descriptor     *descriptor  // for questions about residency; nil when it is gone
	tellsResidency bool         // the kernel answers them truly for this process
	probeCost      atomic.Int64 // of a chunk, in nanoseconds, as last seen
	probeSpent     atomic.Int64 // on all chunks, in nanoseconds

	longReads longReads

	index    int64         // of the window
	nextKept *mapping      // see windows.kept
	lastUse  atomic.Uint64 // the windows' clock when it was last used
	mapped   *addressRange

	mu       sync.Mutex // guards pins and released; only copying is taken under it
	pins     int        // Views that are running
	released bool

	// copying is held for reading by each copy, unless sysRevokesInPlace, and for writing to revoke.
	// It guards gone.
	copying sync.RWMutex
	gone    bool // data is not to be touched any more
}

// addressRange is what remains of a mapping when the mapping itself is garbage.
type addressRange struct {
	data     []byte
	exposed  atomic.Bool // a slice of it was handed out by Data
	released atomic.Bool // that slice is no longer valid
	lost     atomic.Bool // the addresses belong to something else by now
}

// demand tells when a map will pay, from the calls that went to the wrapped file so far.
//
// What a map saves is a system call, for each call. What it costs is to make it, and a page
// fault for each 64 KiB or so that is touched the first time. So it pays after some short
// calls; for long ones, only when the file is read or written over and over.
type demand struct {
	calls      atomic.Int64 // short ones
	bytes      atomic.Int64 // of long ones
	callsToAdd atomic.Int64 // to callsBeforeMap: so many calls have a map tried
	bytesToAdd atomic.Int64 // to bytesBeforeSize
}

const (
	longCall          = 8 << 10 // bytes, from which on a call is long
	callsBeforeMap    = 16
	callsBeforeWindow = 8
	bytesBeforeSize   = 1 << 20 // of long calls, before the file is asked for its size
)

// note counts a call of n bytes.
func (d *demand) note(n int) {
	if n < longCall {
		d.calls.Add(1)
	} else {
		d.bytes.Add(int64(n))
	}
}

func (d *demand) due() bool {
	return d.callsDue() || d.bytes.Load() >= d.bytesToAdd.Load()+bytesBeforeSize
}

func (d *demand) callsDue() bool { return d.calls.Load() >= d.callsToAdd.Load()+callsBeforeMap }

// postpone has the next map tried after so many more calls, or after size more bytes.
func (d *demand) postpone(calls, size int64) {
	d.callsToAdd.Store(d.calls.Load() + calls - callsBeforeMap)
	d.bytesToAdd.Store(d.bytes.Load() + size - bytesBeforeSize)
}

// longReads chooses for reads of timedRead bytes and more. There a map saves no system calls worth
// mentioning, and which way is faster depends on the processor (its misses of page translations) and
// on how large the pages in the cache are. So now and then both are timed.
type longReads struct {
	calls   atomic.Uint32
	viaMap  atomic.Int64 // nanoseconds per MiB, moving averages; 0 is not known
	viaFile atomic.Int64
}

const (
	timedRead      = 128 << 10 // bytes
	callsPerTiming = 16        // in so many, one each way is timed
	weightOfNewest = 4         // one part in so many of a moving average
)

// choose says whether to read through the map, and whether to time it and note that.
func (l *longReads) choose() (viaMap, timed bool) {
	mapTime, fileTime := l.viaMap.Load(), l.viaFile.Load()
	switch {
	case mapTime == 0:
		return true, true
	case fileTime == 0:
		return false, true
	}
	faster := mapTime <= fileTime
	switch l.calls.Add(1) % callsPerTiming {
	case 0:
		return !faster, true
	case callsPerTiming / 2:
		return faster, true
	}
	return faster, false
}

// note takes note that reading n bytes through the map, or else through the file, took so long.
func (l *longReads) note(viaMap bool, n int, took time.Duration) {
	average := &l.viaFile
	if viaMap {
		average = &l.viaMap
	}
	newest := max(int64(took)<<20/int64(n), 1)
	if old := average.Load(); old != 0 {
		newest = old + (min(newest, 2*old)-old)/weightOfNewest // at most twice: the thread may have waited
	}
	average.Store(max(newest, 1))
}

// mapDue reports whether enough calls went to the file to try a map.
func (f *MappedFile) mapDue() bool {
	return f.demand.due() && !f.unmappable.Load()
}

// tryMap maps the window in which off lies unless that is busy or fails, and reports success.
// Each try makes the next one wait, so that a map that does not come, or does not help, costs
// little.
func (f *MappedFile) tryMap(off int64) bool {
	w := &f.windows
	if !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	if !f.demand.callsDue() && !w.any() {
		size, _, err := f.mappableSize()
		if err != nil {
			return false
		}
		if f.demand.bytes.Load() < size+bytesBeforeSize { // one pass, or growth
			f.demand.bytesToAdd.Store(size)
			return false
		}
	}
	w.clock.Add(1)
	if !w.pays(off, f.demand.callsDue()) {
		f.demand.postpone(callsBeforeWindow, callsBeforeWindow*longCall)
		return false
	}
	_, err := f.mapWindowLocked(off, f.writesStay && w.size == wholeFile)
	if w.size == wholeFile || err != nil {
		f.demand.postpone(max(f.demand.calls.Load(), callsBeforeMap), max(f.demand.bytes.Load(), bytesBeforeSize))
	} else {
		f.demand.postpone(callsBeforeWindow, callsBeforeWindow*longCall)
	}
	return err == nil
}

func (f *MappedFile) mapWindow(off int64, private bool) (*mapping, error) {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	return f.mapWindowLocked(off, private)
}

// mapWindowLocked returns the mapping of the window in which off lies, as far as the file
// reaches now; of a file mapped as a whole that is the one mapping, wherever off lies. It
// makes it if need be. The caller holds f.windows.mu.
func (f *MappedFile) mapWindowLocked(off int64, private bool) (*mapping, error) {
	if f.isClosed() {
		return nil, fs.ErrClosed
	}
	size, info, err := f.mappableSize()
	if err != nil {
		return nil, err
	}
	w := &f.windows
	m, err := f.mapIndexLocked(off, size, info, private)
	if w.size == wholeFile && !w.any() && !errors.Is(err, errNotLocked) && (errors.Is(err, syscall.ENOMEM) || errors.Is(err, errTooLarge)) {
		w.size = windowBytes(min(f.mfs.config.WindowSize, narrowWindow))
		m, err = f.mapIndexLocked(off, size, info, private && !f.writesStay)
	}
	return m, err
}

func (f *MappedFile) mapIndexLocked(off, size int64, info os.FileInfo, private bool) (*mapping, error) {
	w := &f.windows
	if err := f.setMapUnit(size, info); err != nil {
		return nil, err
	}
	if w.size == wholeFile {
		off = 0
	}
	if off >= size {
		return nil, io.EOF
	}
	index := off / w.size
	offset := index * w.size
	length := min(w.size, size-offset)
	if old := w.at(off); old != nil && (old.private || !private) {
		if old.private || int64(len(old.data)) >= length {
			old.lower(size)
			old.raise(size)
			return old, nil
		}
	}
	before := len(w.live)
	if !w.makeRoom(index) {
		return nil, errOutOfWindows
	}
	f.mfs.counters.windowsDropped.Add(int64(before - len(w.live)))
	m, err := f.newMapping(offset, length, info, private)
	if err != nil {
		return nil, err
	}
	f.readIn(m)
	if err := f.lockPages(m); err != nil {
		m.release()
		f.dropDescriptor()
		return nil, err
	}
	m.index = index
	f.settleDescriptor(m)
	if private {
		if err := f.insertPrivate(m); err != nil {
			return nil, err
		}
	} else {
		w.insert(m)
	}
	if !sysMapsAgreeWithIO {
		f.addResident(m, 0, pagesIn(m.limit.Load())-1)
	}
	if f.identity == nil {
		f.identity = info
		f.mfs.mapped.Add(1)
		f.mfs.startAgeing()
	}
	return m, nil
}

// mapRange maps [off, off+n) for one View, all of it: if the file has shrunk meanwhile, the access
// faults.
func (f *MappedFile) mapRange(off, n int64) (*mapping, error) {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	if f.isClosed() {
		return nil, fs.ErrClosed
	}
	size, info, err := f.mappableSize()
	if err != nil {
		return nil, err
	}
	if err := f.setMapUnit(size, info); err != nil {
		return nil, err
	}
	offset := off - off%max(f.windows.unit, mapAlignment)
	m, err := f.newMapping(offset, off+n-offset, info, f.writesStay)
	if err != nil {
		return nil, err
	}
	if f.writesStay {
		if !f.copyPrivate(m) {
			err = ErrSIGBUS
		} else if err = system.protect(m.data); err != nil {
			err = notMapped(err)
		}
		if err != nil {
			m.release()
			return nil, err
		}
	}
	f.readIn(m)
	m.pin()
	m.release() // with the unpin
	return m, nil
}

// mappableSize returns the size of a regular file that can be mapped.
func (f *MappedFile) mappableSize() (size int64, info os.FileInfo, err error) {
	if f.unmappable.Load() {
		return 0, nil, ErrNotMapped
	}
	info, err = f.stat()
	if err != nil {
		return 0, nil, err
	}
	if !info.Mode().IsRegular() || f.flag&^understoodFlags != 0 || f.flag&accessMode == os.O_WRONLY {
		f.unmappable.Store(true)
		return 0, nil, ErrNotMapped
	}
	return info.Size(), info, nil
}

// errTooLarge reports a range that the address space cannot hold.
var errTooLarge = errors.New("too large for the address space")

// errOutOfWindows reports that there is no window that could be dropped for another one.
var errOutOfWindows = fmt.Errorf("%w: all windows are in use by Data or LockMemory, see Config.MaxWindows", ErrNotMapped)

// newMapping maps [offset, offset+length) of the file. The caller holds f.windows.mu.
func (f *MappedFile) newMapping(offset, length int64, info os.FileInfo, private bool) (*mapping, error) {
	unit := f.windows.unit
	if length > math.MaxInt-unit {
		return nil, notMapped(errTooLarge)
	}
	if !f.mfs.remember(f) {
		return nil, fs.ErrClosed
	}
	pages := (length + unit - 1) / unit * unit
	flags := 0
	switch {
	case private:
		flags = mapWrite | mapPrivate
	case f.mapsWritable && !f.storesApart:
		flags = mapWrite
	case f.mfs.config.Mode == ModeExecute:
		flags = mapExecute | mapPrivate
	}
	if f.mfs.config.UseHugePages {
		flags |= mapAligned
	}
	if err := f.needDescriptor(info); err != nil {
		return nil, err
	}
	var data []byte
	mapFile := func(fd uintptr) (err error) {
		if flags&mapPrivate != 0 && !f.coherent {
			if err := checkCoherent(fd, offset, int(unit)); err != nil {
				return err
			}
			f.coherent = true
		}
		if f.mfs.config.MapSync && flags&(mapWrite|mapPrivate) == mapWrite {
			if data, err = system.mapFile(fd, offset, int(pages), flags|mapSync); err == nil {
				return nil
			}
		}
		data, err = system.mapFile(fd, offset, int(pages), flags)
		return err
	}
	err := f.descriptor.do(mapFile)
	if err != nil && sysIsShortage(err) {
		reclaim() // addresses may be waiting to be given back
		err = f.descriptor.do(mapFile)
	}
	if err != nil {
		if !sysIsShortage(err) {
			f.unmappable.Store(true)
		}
		f.dropDescriptor()
		return nil, notMapped(err)
	}
	m := manage(data, offset, length)
	m.private = private
	if f.storesApart {
		flags = mapWrite
		if err := f.descriptor.do(mapFile); err != nil {
			m.release()
			return nil, notMapped(err)
		}
		m.stores = manage(data, offset, length)
		m.stores.writable = true
	}
	m.writable = flags&mapWrite != 0
	m.ungated.Store(f.mfs.config.ColdReads && !f.writesStay)
	if m.writable {
		m.written = newPageSet(pagesIn(pages))
		if !sysMapsAgreeWithIO && !private {
			m.written.add(0, pagesIn(pages)-1) // what is mapped is written through the map alone
		}
	}
	if f.mfs.config.UseHugePages && sysAdviseHugePage != unsupportedAdvice {
		system.advise(data, sysAdviseHugePage)
	}
	f.renewHints(m)
	return m, nil
}

// needDescriptor finds the file's descriptor unless it is there. The caller holds f.windows.mu.
func (f *MappedFile) needDescriptor(info os.FileInfo) error {
	if f.descriptor != nil {
		return nil
	}
	if !f.mfs.remember(f) {
		return fs.ErrClosed
	}
	found, err := findDescriptor(f.file, info, f.mapsWritable)
	if err != nil {
		f.unmappable.Store(!sysIsShortage(err))
		return notMapped(err)
	}
	f.descriptor = found
	return nil
}

// setMapUnit finds out, before the first map, of what the offset and the length of a map are multiples.
// The pages of hugetlbfs have 64 KiB at least, and its files end where a page does. The caller holds
// f.windows.mu.
func (f *MappedFile) setMapUnit(size int64, info os.FileInfo) error {
	w := &f.windows
	if w.unit != 0 {
		return nil
	}
	if size == 0 {
		return io.EOF
	}
	if size%(64<<10) != 0 {
		w.unit = pageBytes
		return nil
	}
	if err := f.needDescriptor(info); err != nil {
		return err
	}
	unit := pageBytes
	f.descriptor.do(func(fd uintptr) error {
		found, err := system.mapUnit(fd)
		if err == nil {
			unit = max(unit, found)
		}
		return err
	})
	w.unit = unit
	if w.size != wholeFile && w.size%unit != 0 {
		w.size = max(w.size-w.size%unit, unit)
	}
	return nil
}

// checkCoherent fails if the file refuses a shared map. A private one it may grant all the same,
// but that shows a page cache which read(2) does not use (FUSE with direct I/O).
func checkCoherent(fd uintptr, offset int64, length int) error {
	data, err := system.mapFile(fd, offset, length, 0)
	if err == nil {
		system.unmap(data)
	}
	return err
}

// settleDescriptor decides whether the descriptor is needed any longer: for other windows, for
// the modification time of a map that is stored to, or because it costs nothing. If it is
// not, it may stay to tell which pages are in memory, but of those only a few in the process:
// descriptors run out sooner than other things.
func (f *MappedFile) settleDescriptor(m *mapping) {
	_, err := f.descriptor.cachedPages(m.offset, pageBytes)
	m.tellsResidency = err == nil
	if f.descriptor.owned == nil || f.windows.size != wholeFile || f.mapsWritable {
		m.descriptor = f.descriptor
		return
	}
	if err == nil && probeDescriptors.Add(1) <= maxProbeDescriptors {
		f.keptForProbes = true
		m.descriptor = f.descriptor
		return
	}
	if err == nil {
		probeDescriptors.Add(-1)
	}
	f.dropDescriptor()
}

const maxProbeDescriptors = 64

var probeDescriptors atomic.Int64 // those kept for nothing else

func (f *MappedFile) dropDescriptor() { f.keepSyncError(f.closeDescriptor()) }

// closeDescriptor closes the descriptor; the caller holds f.windows.mu.
func (f *MappedFile) closeDescriptor() error {
	if f.keptForProbes {
		f.keptForProbes = false
		probeDescriptors.Add(-1)
	}
	err := f.descriptor.close()
	f.descriptor = nil
	return err
}

// manage takes charge of data, which maps length bytes of the file from offset on.
func manage(data []byte, offset, length int64) *mapping {
	pages := pagesIn(int64(len(data)))
	m := &mapping{
		offset:   offset,
		data:     data,
		resident: newPageSet(pages),
		probed:   newPageSet((pages + chunkPages - 1) / chunkPages),
		mapped:   &addressRange{data: data},
	}
	m.limit.Store(min(length, int64(len(data))))
	m.probeCost.Store(firstProbeCost)
	runtime.AddCleanup(m, giveBack, m.mapped)
	return m
}

// span returns where the bytes [off, off+n) of the file lie in m.data, and whether all of
// them lie inside both the map and the file.
func (m *mapping) span(off int64, n int) (start int64, ok bool) {
	start = off - m.offset
	limit := m.limit.Load()
	return start, start >= 0 && start < limit && int64(n) <= limit-start
}

// knows reports whether the map's pages from first to last may be read.
func (m *mapping) knows(first, last int) bool {
	return m.ungated.Load() || m.resident.has(first, last)
}

// raise tells the mapping that the file reaches at least to size.
func (m *mapping) raise(size int64) {
	inside := min(size-m.offset, int64(len(m.data)))
	for {
		limit := m.limit.Load()
		if inside <= limit || m.limit.CompareAndSwap(limit, inside) {
			return
		}
	}
}

// lower tells the mapping that the file has shrunk to size.
func (m *mapping) lower(size int64) {
	inside := max(size-m.offset, 0)
	for {
		limit := m.limit.Load()
		if inside >= limit || m.limit.CompareAndSwap(limit, inside) {
			return
		}
	}
}

// pin keeps the mapping in place until unpin, or reports that it is released already.
func (m *mapping) pin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.released {
		return false
	}
	m.pins++
	return true
}

func (m *mapping) unpin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pins--
	if m.released && m.pins == 0 {
		m.revoke()
	}
}

// seal is the first half of release: from here on no View uses the mapping, but it is still there
// for copies. It reports false if a View is using it. revokeSealed is the second half.
func (m *mapping) seal() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pins > 0 {
		return false
	}
	m.released = true
	m.mapped.released.Store(true)
	return true
}

func (m *mapping) revokeSealed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revoke()
}

// lendsStores reports whether the bytes that Data and View hand out can be stored to, and the stores
// reach the file.
func (m *mapping) lendsStores() bool { return m.writable && !m.private && m.stores == nil }

// release takes the mapping away, as soon as no View uses it.
func (m *mapping) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.released {
		return
	}
	m.released = true
	m.mapped.released.Store(true)
	if m.pins == 0 {
		m.revoke()
	}
}

// isRevoked reports whether every access faults because the mapping was taken away.
func (m *mapping) isRevoked() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.released && m.pins == 0
}

// enter lets a copy begin, until leave, or reports that the map is gone.
func (m *mapping) enter() bool {
	if sysRevokesInPlace {
		return true
	}
	m.copying.RLock()
	if m.gone {
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

// revoke makes every access to the mapping fault; the caller holds m.mu.
func (m *mapping) revoke() {
	if m.stores != nil {
		m.stores.release()
	} else if m.writable && !m.private && !sysFileSyncCoversMaps {
		system.syncMap(m.data) // the file's own Sync, which reports errors, would not find it
	}
	if !sysRevokesInPlace {
		m.copying.Lock()
		defer m.copying.Unlock()
		m.gone = true
	}
	held, err := system.revoke(m.data)
	if err != nil {
		m.limit.Store(0) // the file stays mapped for a while, but no call uses it
	}
	m.mapped.lost.Store(!held && err == nil)
	retire(int64(len(m.data)))
}

// Revoked addresses wait for the garbage collector. So that a program that makes little
// garbage does not fill its address space, or its table of maps, a collection is started
// each time this much has been retired.
const (
	maxRetiredBytes  = 1 << (27 + 13*(^uint(0)>>63)) // 1 TiB, or 128 MiB where addresses have 32 bits
	maxRetiredRanges = 4096
)

var retired struct {
	bytes  atomic.Int64
	ranges atomic.Int64
}

func retire(bytes int64) {
	total, ranges := retired.bytes.Add(bytes), retired.ranges.Add(1)
	if total > maxRetiredBytes || ranges > maxRetiredRanges {
		reclaim()
	}
}

// reclaim has the garbage collector give back what it can.
func reclaim() {
	retired.bytes.Store(0)
	if retired.ranges.Swap(0) > 0 {
		runtime.GC()
	}
}

// giveBack runs when a mapping has become garbage. A range that Data has handed out stays
// while its slices may be valid (the handle was dropped without Close), and for long after
// Close, so that a slice kept too long faults. Revoking it again lets go of the file where
// that failed at first.
func giveBack(r *addressRange) {
	switch {
	case r.lost.Load():
	case !r.exposed.Load():
		system.unmap(r.data)
	case r.released.Load():
		system.revoke(r.data)
		quarantine.add(r.data)
	}
}

// quarantine keeps the addresses of closed maps whose bytes were handed out by Data, the
// last maxQuarantined bytes of them.
var quarantine addressQuarantine

const (
	maxQuarantined       = 1 << (27 + 17*(^uint(0)>>63)) // 16 TiB, or 128 MiB where addresses have 32 bits
	maxQuarantinedRanges = 8192
)

type addressQuarantine struct {
	mu     sync.Mutex // guards the fields below; no lock is taken under it
	ranges [][]byte
	bytes  int64
}

func (q *addressQuarantine) add(data []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ranges = append(q.ranges, data)
	q.bytes += int64(len(data))
	for q.bytes > maxQuarantined || len(q.ranges) > maxQuarantinedRanges {
		oldest := q.ranges[0]
		q.ranges = q.ranges[1:]
		q.bytes -= int64(len(oldest))
		system.unmap(oldest)
	}
}
