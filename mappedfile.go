package memmapfs

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/absfs/absfs"
)

// MappedFile is an open file of a MemMapFS. It does what the wrapped file does, with the same
// results: the file is the truth, and a map of it serves the calls that it can serve.
//
// It is mapped on first need: by Data, View, an advice or a preload option, or when the reads
// and writes so far show that a map will pay. What the map cannot serve goes to the wrapped
// file: ranges past the end of the map, pages not known to be in memory, files that cannot
// be mapped at all.
//
// All methods may be called at the same time from many goroutines, as far as the wrapped
// file allows it. Errors are *fs.PathError, io.EOF excepted, and fs.ErrClosed after Close.
//
// One difference to a plain file is inherent in maps: after somebody else has shrunk the
// file (not this handle, nor another one of the same MemMapFS), the rest of its last page
// may read as zeros instead of io.EOF, and what is written there may be lost.
type MappedFile struct {
	windows windows

	file absfs.File // the wrapped file
	mfs  *MemMapFS
	flag int // that it was opened with
	slot int // in mfs.open, plus 1; guarded by mfs.mu

	writesStay   bool // ModeCopyOnWrite: writes stay in the handle
	mapsWritable bool // its maps reach the file
	storesApart  bool // but by a second map, which Data and View do not lend: see newFile
	mayStore     bool // a write may be no more than a store into a map
	ownsPos      atomic.Bool

	// While ownsPos is unset, the position is the wrapped file's, and calls that use it hold
	// filePos for reading. Taking it over holds filePos for writing; it is never given back.
	filePos sync.RWMutex
	mu      sync.Mutex // guards pos; windows.mu and all below it are taken under it
	pos     int64

	// Package os lets some calls race with Close, and then they fail in odd ways: see hold.
	closing sync.Mutex  // held by such a call, and while the wrapped file is closed; no lock is taken under it
	held    atomic.Bool // closing is needed
	gone    bool        // the wrapped file was closed; guarded by closing, and set where statRacesClose

	known      atomic.Bool // to mfs: see remember
	closed     atomic.Bool
	unmappable atomic.Bool // it cannot be mapped, now or later

	demand demand

	descriptor    *descriptor // guarded by windows.mu
	coherent      bool        // a shared map was not refused; guarded by windows.mu
	keptForProbes bool        // the descriptor is there only to ask about residency; guarded by windows.mu
	identity      os.FileInfo // when it was first mapped; guarded by windows.mu
	store         *pageStore  // private pages that are not in a private map; nil if no write stays

	unsynced   unsyncedBytes
	preloading *sync.WaitGroup // nil unless the open has the file loaded in the background

	faults atomic.Pointer[faultLog] // nil until the SIGBUS handler watches the file
}

var (
	_ absfs.File      = (*MappedFile)(nil)
	_ io.WriterTo     = (*MappedFile)(nil)
	_ io.ReaderFrom   = (*MappedFile)(nil)
	_ syscall.Conn    = (*MappedFile)(nil)
	_ fs.ReadDirFile  = (*MappedFile)(nil)
	_ io.StringWriter = (*MappedFile)(nil)
)

const accessMode = os.O_RDONLY | os.O_WRONLY | os.O_RDWR

// understoodFlags are the open flags under which a file behaves as this package expects. What
// others mean (O_DIRECT, O_PATH) is left to the wrapped file: nothing is mapped then.
const understoodFlags = accessMode | os.O_APPEND | os.O_CREATE | os.O_EXCL | os.O_TRUNC | os.O_SYNC

// isClosed reports whether the file or its filesystem was closed.
func (f *MappedFile) isClosed() bool { return f.closed.Load() || f.mfs.closed.Load() }

// wrap gives err the operation and the file's name. Errors of the wrapped file keep their own.
func (f *MappedFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return f.wrapError(op, err)
}

func (f *MappedFile) wrapError(op string, err error) error {
	if err == io.EOF {
		return err
	}
	return wrapError(op, f.file.Name(), err)
}

// Name returns the name that the wrapped file has.
func (f *MappedFile) Name() string { return f.file.Name() }

// Mapped reports whether the file has a map at present. A file that can be mapped has none
// before the first need, nor directly after Truncate, nor after Close.
func (f *MappedFile) Mapped() bool {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	return len(f.windows.live) > 0
}

// Read reads up to len(p) bytes from the position on and moves it. At the end of the file it
// returns 0 and io.EOF. Calls of Read, Write and Seek on one handle follow one after the other
// once the file is mapped.
func (f *MappedFile) Read(p []byte) (int, error) {
	if !f.ownsPos.Load() {
		if n, err, done := f.readUnmapped(p); done {
			return n, f.wrap("read", err)
		}
	}
	f.mu.Lock()
	n, err := len(p), error(nil)
	if !f.readHot(p, f.pos) {
		n, err = f.readAt(p, f.pos)
		if n > 0 {
			err = nil // the next Read meets it again
		}
	}
	f.pos += int64(n)
	f.mu.Unlock()
	f.deliverFaults()
	return n, f.wrap("read", err)
}

// readUnmapped reads from the wrapped file at its own position. It is not done when this
// handle has the position, or takes it because a map will pay from here on.
func (f *MappedFile) readUnmapped(p []byte) (n int, err error, done bool) {
	if f.servesPosition() {
		return 0, nil, false
	}
	f.filePos.RLock()
	defer f.filePos.RUnlock()
	if f.ownsPos.Load() {
		return 0, nil, false
	}
	if f.isClosed() {
		return 0, fs.ErrClosed, true
	}
	f.demand.note(len(p))
	f.mfs.counters.readsUnmapped.Add(1)
	n, err = f.file.Read(p)
	return n, err, true
}

// servesPosition reports whether the file has a map, or got one because it pays now, and
// the position is this handle's.
func (f *MappedFile) servesPosition() bool {
	if !f.windows.any() {
		if !f.mapDue() {
			return false
		}
		pos, err := f.file.Seek(0, io.SeekCurrent)
		if err != nil {
			f.unmappable.Store(true) // a pipe
			return false
		}
		if !f.tryMap(pos) {
			return false
		}
	}
	return f.takePosition() == nil
}

// takePosition makes this handle the owner of the position. Only regular files can do
// without the wrapped file's, because reading and writing at an offset is the same there.
func (f *MappedFile) takePosition() error {
	if f.ownsPos.Load() {
		return nil
	}
	f.filePos.Lock()
	defer f.filePos.Unlock()
	if f.ownsPos.Load() {
		return nil
	}
	pos, err := f.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	f.pos = pos
	f.ownsPos.Store(true)
	return nil
}

// ReadAt reads len(p) bytes from offset off on. With fewer bytes before the end of the file it
// returns their number and io.EOF. A negative offset gives ErrInvalidOffset. The position
// stays.
func (f *MappedFile) ReadAt(p []byte, off int64) (int, error) {
	// This is readHot for what lies in one page of a file mapped as a whole. It is written out
	// because each call less, and each value less to keep over a call, lets the processor work on
	// more cache misses at a time.
	m := f.windows.whole.Load()
	if m == nil || len(p) == 0 || !sysRevokesInPlace {
		return f.readAtAny(p, off)
	}
	start, ok := m.span(off, len(p))
	if !ok {
		return f.readAtAny(p, off)
	}
	first, last := pageSpan(start, len(p))
	if first != last || !m.resident.hasOne(first) {
		return f.readAtAny(p, off)
	}
	fault := copyGuarded(unsafe.Pointer(unsafe.SliceData(p)), m.pointer(start), len(p))
	runtime.KeepAlive(m) // its addresses are not given back before
	if fault != nil {
		return f.readAtAny(p, off)
	}
	return len(p), nil
}

// readAtAny is ReadAt, whatever the range is and wherever it lies.
func (f *MappedFile) readAtAny(p []byte, off int64) (int, error) {
	if f.readHot(p, off) {
		return len(p), nil
	}
	n, err := f.readAt(p, off)
	f.deliverFaults()
	return n, f.wrap("read", err)
}

// readHot reads p from one mapping if all of it is mapped, inside the file and in memory. It
// is the fast path: no lock, no shared counter, no allocation, and few calls.
func (f *MappedFile) readHot(p []byte, off int64) bool {
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

// readAt is the slow path: the head of p from what is mapped and in memory, the rest from
// the wrapped file, over it the private pages.
func (f *MappedFile) readAt(p []byte, off int64) (int, error) {
	if f.isClosed() {
		return 0, fs.ErrClosed
	}
	if off < 0 {
		return 0, ErrInvalidOffset
	}
	if len(p) == 0 || off > math.MaxInt64-int64(len(p)) {
		return f.file.ReadAt(p, off)
	}
	if len(p) >= timedRead && !f.writesStay && sysMapsAgreeWithIO {
		if m := f.windows.whole.Load(); m != nil {
			return f.readLong(m, p, off)
		}
	}
	head := f.readWindows(p, off)
	if head == len(p) {
		return head, nil
	}
	n, err := f.readFile(p[head:], off+int64(head))
	return head + n, err
}

// readLong is readAt for reads that one map may serve no faster than the file.
func (f *MappedFile) readLong(m *mapping, p []byte, off int64) (head int, err error) {
	viaMap, timed := m.longReads.choose()
	var start time.Time
	if timed {
		start = time.Now()
	}
	if viaMap {
		head = f.readWindows(p, off)
	}
	if n := 0; head < len(p) {
		n, err = f.readFile(p[head:], off+int64(head))
		viaMap, head = false, head+n
	}
	if timed && err == nil {
		m.longReads.note(viaMap, len(p), time.Since(start))
	}
	return head, err
}

// readFile reads p from the wrapped file, and over it the private pages.
func (f *MappedFile) readFile(p []byte, off int64) (int, error) {
	f.demand.note(len(p))
	f.countRead(off)
	n, err := f.file.ReadAt(p, off)
	if n > 0 {
		if f.writesStay {
			f.overlay(p[:n], off)
		}
		f.learnRead(off, n)
	}
	return n, err
}

// readWindows reads the head of p from the maps, one window after the other, and returns its
// length. It maps windows where that pays.
func (f *MappedFile) readWindows(p []byte, off int64) int {
	for head := 0; ; {
		if f.readHot(p[head:], off+int64(head)) {
			return len(p)
		}
		at := off + int64(head)
		m := f.windows.at(at)
		if m == nil || !m.holds(at) {
			if !f.mapDue() || !f.tryMap(at) {
				return head
			}
			if m = f.windows.at(at); m == nil || !m.holds(at) {
				return head
			}
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
			return head
		}
		if head += n; head == len(p) {
			return head
		}
	}
}

// holds reports whether the byte at off is in the map and in the file.
func (m *mapping) holds(off int64) bool {
	_, ok := m.span(off, 1)
	return ok
}

// addResident marks pages of m as being in memory, but for those whose truth is in the page
// store.
func (f *MappedFile) addResident(m *mapping, first, last int) {
	if !f.writesStay {
		m.resident.add(first, last)
		return
	}
	f.store.mu.RLock()
	defer f.store.mu.RUnlock()
	if len(f.store.pages) == 0 {
		m.resident.add(first, last)
		return
	}
	for page := first; page <= last; page++ {
		if _, ok := f.store.pages[m.offset/pageBytes+int64(page)]; !ok {
			m.resident.add(page, page)
		}
	}
}

// learnRead takes note that the wrapped file has just read [off, off+n): its pages are in
// memory now.
func (f *MappedFile) learnRead(off int64, n int) {
	f.windows.over(off, n, func(m *mapping, start int64, n int) {
		first, last := pageSpan(start, n)
		f.addResident(m, first, last)
	})
}

// learnWritten takes note that [off, off+n) was written through the wrapped file: the file
// reaches at least that far, and the pages are in memory and may be stored to.
func (f *MappedFile) learnWritten(off int64, n int) {
	if m := f.windows.at(off + int64(n) - 1); m != nil {
		m.raise(off + int64(n))
	}
	f.windows.over(off, n, func(m *mapping, start int64, n int) {
		first, last := pageSpan(start, n)
		m.resident.add(first, last)
		m.written.add(first, last)
	})
}

// Write writes p at the position, or at the end of the file with O_APPEND, and moves the
// position behind it. Whether the bytes are durable then is up to the SyncMode. In
// ModeCopyOnWrite they stay in the handle, and a write past the end of the file is refused as a
// whole, with an error wrapping errors.ErrUnsupported. In ModeReadOnly and ModeExecute a handle
// opened with O_RDONLY gives ErrWriteToReadOnlyMap.
func (f *MappedFile) Write(p []byte) (int, error) {
	if !f.ownsPos.Load() {
		if n, err, done := f.writeUnmapped(p); done {
			return n, f.wrap("write", err)
		}
	}
	f.mu.Lock()
	n, err := f.write(p)
	f.mu.Unlock()
	f.deliverFaults()
	return n, f.wrap("write", err)
}

// write writes p at the handle's own position; the caller holds f.mu.
func (f *MappedFile) write(p []byte) (int, error) {
	if len(p) > 0 && (f.writesStay || f.flag&os.O_APPEND == 0) {
		n, err := f.writeAt(p, f.pos)
		f.pos += int64(n)
		return n, err
	}
	if err := f.writable(); err != nil || f.writesStay {
		return 0, err
	}
	f.countWrite(math.MaxInt64) // the end, wherever it is
	if sysAppendsAtPosition {
		if _, err := f.file.Seek(f.pos, io.SeekStart); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(p)
	if n > 0 {
		if pos, seekErr := f.file.Seek(0, io.SeekCurrent); seekErr == nil {
			f.pos = pos
			f.learnWritten(pos-int64(n), n)
		}
		err = join(err, f.wrote(f.pos-int64(n), n))
	}
	return n, err
}

// writeUnmapped is readUnmapped for a write.
func (f *MappedFile) writeUnmapped(p []byte) (n int, err error, done bool) {
	if f.mapsWritable && f.servesPosition() {
		return 0, nil, false
	}
	f.filePos.RLock()
	defer f.filePos.RUnlock()
	if f.ownsPos.Load() {
		return 0, nil, false
	}
	if err := f.writable(); err != nil {
		return 0, err, true
	}
	f.demand.note(len(p))
	f.countWrite(0)
	n, err = f.file.Write(p)
	if n > 0 {
		err = join(err, f.wrote(0, 0))
	}
	return n, err, true
}

// WriteAt writes p at offset off, as Write does at the position, which stays. A negative offset
// gives ErrInvalidOffset. On a handle opened with O_APPEND it does what the wrapped file does,
// which is to refuse.
func (f *MappedFile) WriteAt(p []byte, off int64) (int, error) {
	// As in ReadAt.
	m := f.windows.whole.Load()
	if m == nil || len(p) == 0 || !sysRevokesInPlace || !f.mayStore || m.private {
		return f.writeAtAny(p, off)
	}
	start, ok := m.span(off, len(p))
	if !ok {
		return f.writeAtAny(p, off)
	}
	first, last := pageSpan(start, len(p))
	if first != last || !m.written.hasOne(first) {
		return f.writeAtAny(p, off)
	}
	fault := copyGuarded(m.pointer(start), unsafe.Pointer(unsafe.SliceData(p)), len(p))
	runtime.KeepAlive(m)
	if fault != nil {
		return f.writeAtAny(p, off)
	}
	f.noteStore()
	return len(p), nil
}

// writeAtAny is WriteAt, whatever the range is and wherever it lies.
func (f *MappedFile) writeAtAny(p []byte, off int64) (int, error) {
	if f.writeHot(p, off) {
		return len(p), nil
	}
	n, err := f.writeAt(p, off)
	f.deliverFaults()
	return n, f.wrap("write", err)
}

// WriteString is Write for the bytes of s.
func (f *MappedFile) WriteString(s string) (int, error) {
	return f.Write(unsafe.Slice(unsafe.StringData(s), len(s)))
}

// writeHot stores p into one mapping if all of it was written before and no flush has to
// follow: the fast path of WriteAt.
func (f *MappedFile) writeHot(p []byte, off int64) bool {
	if !f.mayStore {
		return false
	}
	m := f.windows.at(off)
	if m == nil || len(p) == 0 || !f.storeIn(m, p, off) {
		return false
	}
	if !f.writesStay {
		f.noteStore()
	}
	return true
}

// storeIn copies p into m if all of it lies in pages that may be stored to.
func (f *MappedFile) storeIn(m *mapping, p []byte, off int64) bool {
	start, ok := m.span(off, len(p))
	if !ok || !m.writable {
		return false
	}
	first, last := pageSpan(start, len(p))
	if (first != last || !m.written.hasOne(first)) && !m.written.has(first, last) {
		return false
	}
	return f.copyIn(m, start, p) && (!m.private || m.written.has(first, last)) // see storePage
}

// writeAt is the slow path of WriteAt.
func (f *MappedFile) writeAt(p []byte, off int64) (int, error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	if f.writesStay {
		return f.writePrivate(p, off)
	}
	if f.flag&os.O_APPEND != 0 {
		return f.file.WriteAt(p, off)
	}
	if off < 0 {
		return 0, ErrInvalidOffset
	}
	if len(p) == 0 || off > math.MaxInt64-int64(len(p)) {
		return f.file.WriteAt(p, off)
	}
	head := 0
	// Where a flush follows, writing through the file is faster: a store into a page that was
	// flushed faults, and makes the whole large page dirty that it lies in.
	flushed := f.flag&os.O_SYNC != 0 || f.mfs.config.SyncMode == SyncImmediate
	if f.mapsWritable && (!flushed || !sysMapsAgreeWithIO) {
		head = f.writeWindows(p, off)
	}
	n := 0
	var err error
	if head < len(p) {
		f.demand.note(len(p) - head)
		f.countWrite(off + int64(head))
		n, err = f.file.WriteAt(p[head:], off+int64(head))
		if n > 0 {
			f.learnWritten(off+int64(head), n)
		}
	}
	if head+n > 0 {
		if head > 0 {
			f.noteStore()
			if f.flag&os.O_SYNC != 0 {
				err = join(err, f.flushRange(off, int64(head)))
			}
		}
		err = join(err, f.wrote(off, head+n))
	}
	return head + n, err
}

// writeWindows stores the head of p into the maps, one window after the other, and returns
// its length.
func (f *MappedFile) writeWindows(p []byte, off int64) (head int) {
	for head < len(p) {
		at := off + int64(head)
		m := f.windows.at(at)
		if m == nil || !m.holds(at) {
			if !f.mapDue() || !f.tryMap(at) {
				return head
			}
			if m = f.windows.at(at); m == nil || !m.holds(at) {
				return head
			}
		}
		n := int(min(int64(len(p)-head), m.limit.Load()-(at-m.offset)))
		if n <= 0 || !f.storeIn(m, p[head:head+n], at) {
			return head
		}
		head += n
	}
	return head
}

// writable returns the error with which a write is refused whatever its range is. The wrapped
// file refuses what its own flags do not allow.
func (f *MappedFile) writable() error {
	if f.isClosed() {
		return fs.ErrClosed
	}
	switch f.mfs.config.Mode {
	case ModeReadOnly, ModeExecute:
		if f.flag&accessMode == os.O_RDONLY {
			return ErrWriteToReadOnlyMap
		}
	}
	return nil
}

// Seek sets the position for the next Read or Write and returns it. It may lie past the end of
// the file. Errors are the wrapped file's. They match ErrInvalidOffset too if offset is
// negative and counts from the start of the file, and ErrInvalidWhence if whence is unknown and
// the file's error is syscall.EINVAL.
func (f *MappedFile) Seek(offset int64, whence int) (int64, error) {
	pos, err := f.seek(offset, whence)
	return pos, f.wrap("seek", err)
}

func (f *MappedFile) seek(offset int64, whence int) (int64, error) {
	if !f.ownsPos.Load() {
		if pos, err, done := f.seekUnmapped(offset, whence); done {
			return pos, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return 0, fs.ErrClosed
	}
	target := offset
	switch whence {
	case io.SeekCurrent:
		target += f.pos
		whence = io.SeekStart
		fallthrough
	case io.SeekStart:
		// Anywhere in the mapped part is a valid position. What lies outside is the wrapped
		// file's to judge.
		if m := f.windows.at(target); m != nil && m.holds(target) {
			f.pos = target
			return target, nil
		}
		if offset > 0 && target < 0 {
			return 0, because(syscall.EINVAL, ErrInvalidOffset) // the sum is past the largest offset
		}
	}
	pos, err := f.file.Seek(target, whence)
	if err != nil {
		return pos, seekError(err, target, whence)
	}
	f.pos = pos
	return pos, nil
}

func (f *MappedFile) seekUnmapped(offset int64, whence int) (pos int64, err error, done bool) {
	f.filePos.RLock()
	defer f.filePos.RUnlock()
	if f.ownsPos.Load() {
		return 0, nil, false
	}
	if f.isClosed() {
		return 0, fs.ErrClosed, true
	}
	pos, err = f.file.Seek(offset, whence)
	return pos, seekError(err, offset, whence), true
}

// Close flushes what the SyncMode promises to be durable, takes the map away and closes the
// wrapped file. Calls under way end with a complete result or fs.ErrClosed; slices from Data
// fault from here on. A background flush that failed and was not yet reported is reported
// here. The second Close gives fs.ErrClosed.
func (f *MappedFile) Close() error {
	return f.close(f.mfs.closed.Load())
}

// close is Close. After that of the filesystem it is late: what is left to do is done, and the error
// is fs.ErrClosed.
func (f *MappedFile) close(late bool) error {
	if !f.closed.CompareAndSwap(false, true) {
		return f.wrap("close", fs.ErrClosed)
	}
	if f.faults.Load() != nil {
		globalSIGBUSHandler.Unregister(f)
	}
	f.mfs.counters.open.Add(-1)
	if f.preloading != nil {
		f.preloading.Wait()
	}
	err := f.closeMaps()
	if f.writesStay {
		f.store.drop()
	}
	if statRacesClose || f.held.Load() {
		f.closing.Lock()
		defer f.closing.Unlock()
		f.gone = true
	}
	if err = join(err, f.file.Close()); err == nil && late {
		err = fs.ErrClosed
	}
	return f.wrap("close", err)
}

// closeMaps flushes what is to be flushed and takes the maps away, of a file that has had any of
// these. It is part of close.
func (f *MappedFile) closeMaps() error {
	if !f.known.Load() && !f.unsynced.queued.Load() {
		return nil
	}
	f.mfs.forget(f)
	err := f.flushAtClose()
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	f.windows.releaseAll()
	err = join(err, f.closeDescriptor())
	if f.identity != nil {
		f.mfs.mapped.Add(-1)
	}
	return err
}

// Stat returns what the wrapped file's Stat returns.
func (f *MappedFile) Stat() (fs.FileInfo, error) {
	if f.isClosed() {
		return nil, f.wrap("stat", fs.ErrClosed)
	}
	info, err := f.stat()
	return info, f.wrap("stat", err)
}

// stat describes the wrapped file.
func (f *MappedFile) stat() (os.FileInfo, error) {
	if statRacesClose {
		f.closing.Lock()
		defer f.closing.Unlock()
		if f.gone {
			return nil, fs.ErrClosed
		}
	}
	return f.file.Stat()
}

// statRacesClose says that Stat beside Close may describe another file.
const statRacesClose = runtime.GOOS == "windows"

// hold keeps the wrapped file from being closed until f.closing.Unlock. Then the caller looks whether
// the file is closed. That comes after held is set, and Close does it the other way round.
func (f *MappedFile) hold() {
	f.held.Store(true)
	f.closing.Lock()
}

// Truncate changes the size of the file and leaves the position alone. The map is taken away,
// and made again when it is next needed: slices from Data fault afterwards. In ModeCopyOnWrite
// it is refused with an error wrapping errors.ErrUnsupported, and on a handle opened with O_RDONLY
// as Write is. On Windows it fails while a View of the file is running, or others have the file mapped:
// see MemMapFS.Truncate.
func (f *MappedFile) Truncate(size int64) error {
	return f.wrap("truncate", f.truncate(size))
}

func (f *MappedFile) truncate(size int64) error {
	if err := f.writable(); err != nil {
		return err
	}
	if f.writesStay {
		return errCopyOnWriteSize
	}
	f.unmap()
	err := f.mfs.withoutMaps(func() error { return f.file.Truncate(size) }, f.stat)
	if err != nil {
		return err
	}
	f.mfs.shrunk(f.stat)
	return f.wrote(0, 0)
}

// unmap takes the map away until it is next needed.
func (f *MappedFile) unmap() {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	f.windows.releaseAll()
	f.endExposure()
}

// letGo is unmap for a change of the file by others in this filesystem: the private pages stay. The
// caller holds f.windows.mu.
func (f *MappedFile) letGo() {
	if f.writesStay && !f.storeMapped() {
		return
	}
	f.windows.releaseAll()
	f.endExposure()
}

// Readdir reads the directory as the wrapped file does.
func (f *MappedFile) Readdir(n int) ([]os.FileInfo, error) {
	f.hold()
	defer f.closing.Unlock()
	if f.isClosed() {
		return nil, f.wrap("readdir", fs.ErrClosed)
	}
	infos, err := f.file.Readdir(n)
	return infos, f.wrap("readdir", err)
}

// Readdirnames reads the directory as the wrapped file does.
func (f *MappedFile) Readdirnames(n int) ([]string, error) {
	f.hold()
	defer f.closing.Unlock()
	if f.isClosed() {
		return nil, f.wrap("readdir", fs.ErrClosed)
	}
	names, err := f.file.Readdirnames(n)
	return names, f.wrap("readdir", err)
}

// ReadDir reads the directory as the wrapped file does.
func (f *MappedFile) ReadDir(n int) ([]fs.DirEntry, error) {
	f.hold()
	defer f.closing.Unlock()
	if f.isClosed() {
		return nil, f.wrap("readdir", fs.ErrClosed)
	}
	entries, err := f.file.ReadDir(n)
	return entries, f.wrap("readdir", err)
}

// Data returns the mapped bytes of the file: all of it or, where it is mapped by windows, the
// window that holds the position. It maps the file if it is not mapped; it returns nil when the
// file cannot be mapped, is empty, or has nothing at the position, and after Close.
//
// The slice is capped at the file's size and stays valid until Truncate, RemapAfterTruncation or
// Close, on Windows also until one of the changes that MemMapFS.Truncate names. A window stays
// pinned until then. After that an access faults: the addresses are kept from other use until 8,192
// more such ranges have come to their end, or 16 TiB of them (128 MiB on 32-bit systems; on Windows
// something else may get them in the moment between taking the map away and reserving them). An
// access to a slice kept longer may reach anything.
//
// The bytes may be stored to as in View. An access to the slice is the caller's own: if the
// file is truncated or its disk fails, the program dies. View is the safe form.
func (f *MappedFile) Data() []byte {
	if f.unmappable.Load() {
		return nil
	}
	pos, err := f.seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	m, err := f.mapWindowLocked(pos, f.writesStay)
	if err == nil && f.writesStay && !m.private { // the whole file did not fit
		m, err = f.mapWindowLocked(pos, true)
	}
	if err != nil || m.private && !f.ungate(m) {
		return nil
	}
	m.mapped.exposed.Store(true)
	if m.lendsStores() {
		f.unsynced.exposed.Store(true)
		f.noteDirty()
	}
	limit := m.limit.Load()
	return m.data[:limit:limit]
}

// WriteTo writes the file from the position to its end to w, and moves the position. The bytes
// are read like any others, so w never sees mapped memory. It returns how many bytes w has
// taken, and the first error of either side; the end of the file is none.
func (f *MappedFile) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, struct{ io.Reader }{f})
	return n, err
}

// ReadFrom writes to the file what r has, until its io.EOF, as Write does. It returns how many
// bytes it has written, and the first error of either side but io.EOF.
func (f *MappedFile) ReadFrom(r io.Reader) (int64, error) {
	if err := f.writable(); err != nil {
		return 0, f.wrap("write", err)
	}
	return io.Copy(struct{ io.Writer }{f}, r)
}

// SyscallConn gives access to the wrapped file's descriptor, if it offers one; otherwise the
// error wraps errors.ErrUnsupported. A copy-on-write file has none that shows its contents. The
// descriptor is the wrapped file's, and ends with Close.
func (f *MappedFile) SyscallConn() (syscall.RawConn, error) {
	if f.isClosed() {
		return nil, f.wrap("SyscallConn", fs.ErrClosed)
	}
	if file, ok := f.file.(syscall.Conn); ok && !f.writesStay {
		conn, err := file.SyscallConn()
		return conn, f.wrap("SyscallConn", err)
	}
	return nil, f.wrap("SyscallConn", errors.ErrUnsupported)
}
