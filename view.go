package memmapfs

import (
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"runtime"
	"sync"
	"unsafe"
)

// Data returns the mapped bytes of the file: all of it or, where it is mapped by windows, the
// window that holds the position. It maps the file if it is not mapped; it returns nil when the
// file cannot be mapped, is empty, or has nothing at the position, and after Close.
//
// The slice is capped at the file's size and stays valid until Truncate, RemapAfterTruncation or
// Close, on Windows also until one of the changes that MemMapFS.Truncate names. A window stays
// pinned until then. After that an access faults: the addresses are kept from other use until
// 8,192 more such ranges have come to their end, or 16 TiB of them (128 MiB on 32-bit systems; an
// eighth of the process's share if that is less), or until the process is short of addresses; on
// Windows something else may get them in the moment between taking the map away and reserving
// them. An access to a slice kept longer may reach anything.
//
// The bytes are the map's: what others change in the file shows at once on filesystems that keep
// one page cache, and may never show where MapAuto would not serve calls from a map. After
// somebody else has shrunk the file the rest of its last page reads as zeros, and may read as
// something else when the file grows again. In ModeCopyOnWrite the slice is of a private map: a
// page that was stored to through it is lost when somebody shrinks the file below it, and what was
// written by calls comes back there with the next Data or View.
//
// The bytes may be stored to as in View. An access to the slice is the caller's own: if the
// file is truncated, its disk fails or is full, the program dies, and on a frozen filesystem a
// store waits in a page fault, and with it in time the whole program. View is the form in which a
// fault is an error.
func (f *MappedFile) Data() []byte {
	if r := f.maps.refused.Load(); r != nil && r.byName {
		return nil
	}
	pos, err := f.seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	if f.private != nil {
		data, err := f.private.data(pos)
		if err != nil {
			return nil
		}
		return data
	}
	f.maps.windows.mu.Lock()
	defer f.maps.windows.mu.Unlock()
	m, err := f.maps.mapWindowLocked(pos, true)
	limit := int64(0)
	if err == nil {
		limit = m.limit.Load()
	}
	if limit == 0 {
		return nil
	}
	m.life.exposed.Store(true)
	m.readAlone(false)
	if m.lendsStores() {
		f.unsynced.expose()
	}
	return m.data[:limit:limit]
}

// lendsStores reports whether the bytes that Data and View hand out can be stored to, and the stores
// reach the file.
func (m *mapping) lendsStores() bool { return m.writable && !m.private }

// View calls fn with the n bytes of the file from off on, without copying them, and returns
// what fn returns. It is the safe form of Data: the bytes stay in place until fn returns,
// and a fault in fn's access to them (the file was truncated, its disk failed or is full)
// makes View return an error wrapping ErrSIGBUS. One guard serves the whole call, so a
// loop over many small values inside one View costs what it costs over a slice.
//
// The bytes must not be used after fn returns. They may be stored to in ModeReadWrite on a
// handle opened with O_RDWR, where the store reaches the file, and in ModeCopyOnWrite, where it
// stays in the handle; elsewhere a store is a fault. Cold pages are read in by page faults, which
// the Go scheduler does not see: call Prefetch first where that matters. The same is true of
// stores, which can wait for a filesystem that is frozen or a disk that is behind.
//
// A range that reaches past the end of the file gives io.EOF, a negative one
// ErrInvalidOffset, a file that cannot be mapped ErrNotMapped and the reason, and fn is not
// called. A panic in fn that is not a fault in the bytes goes through.
//
// View may be called from many goroutines and from inside fn. Close and Truncate do not wait for
// it: after Close the bytes of a running View stay valid until it ends, and what is stored there
// then is not flushed; after Truncate those in pages past the new end fault, and those in the last
// page read as zeros and may become bytes of the file when it grows again. The bytes are the
// map's: the comment of Data says what that means. On Windows Truncate fails while a View is
// running.
func (f *MappedFile) View(off, n int64, fn func(b []byte) error) error {
	fnErr, err := f.view(off, n, fn)
	f.deliverFaults()
	if err != nil {
		return f.wrap("view", err)
	}
	return fnErr
}

func (f *MappedFile) view(off, n int64, fn func(b []byte) error) (fnErr, err error) {
	if f.maps.isClosed() {
		return nil, fs.ErrClosed
	}
	if off < 0 || n < 0 {
		return nil, ErrInvalidOffset
	}
	if n == 0 {
		return fn([]byte{}), nil
	}
	m, private, err := f.lend(off, n)
	if err != nil {
		return nil, err
	}
	defer f.endLent(m, private, off, n)
	start := off - m.offset
	at := int64(0)
	fault, fnErr := callGuarded(
		func() error { return fn(m.data[start : start+n : start+n]) },
		func(r any) (ours bool) { at, ours = m.faultIn(r, start, n); return ours })
	if fault != nil {
		err = fmt.Errorf("%w (at offset %d)", ErrSIGBUS, m.offset+at)
		f.maps.tellFault(err)
		return nil, err
	}
	return fnErr, nil
}

// lend returns a map that holds the bytes [off, off+n), until endLent: a live window, or a map made for
// this call. In ModeCopyOnWrite it is a private one.
func (f *MappedFile) lend(off, n int64) (m *mapping, private *lentMap, err error) {
	if f.private == nil {
		if m := f.pinLive(off, n); m != nil {
			return m, nil, nil
		}
	}
	info, err := f.maps.mappable()
	switch {
	case err != nil:
		return nil, nil, err
	case off > info.Size() || n > info.Size()-off:
		return nil, nil, io.EOF
	case int64(int(n)) != n:
		return nil, nil, fmt.Errorf("%w: %d bytes do not fit the address space", ErrNotMapped, n)
	case f.private != nil:
		if private, err = f.private.view(off, n); err != nil {
			return nil, nil, err
		}
		return private.mapping, private, nil
	}
	if f.maps.windows.fits(off, n) {
		f.maps.mapWindow(off)
		if m := f.pinLive(off, n); m != nil {
			return m, nil, nil
		}
	}
	if m, err = f.maps.mapRange(off, n, f.maps.mapFlags()); err != nil {
		return nil, nil, err
	}
	f.maps.release(m) // with the unpin
	f.noteLent(m)
	return m, nil, nil
}

// pinLive pins the live mapping that holds [off, off+n), if there is one that shows the file of today.
func (f *MappedFile) pinLive(off, n int64) *mapping {
	m := f.maps.windows.at(off)
	if m == nil || int64(int(n)) != n || f.maps.copiedUp.Load() {
		return nil
	}
	if r := f.maps.refused.Load(); r != nil && r.byName {
		return nil
	}
	if _, ok := m.span(off, int(n)); !ok || !m.pin() {
		return nil
	}
	f.noteLent(m)
	return m
}

// noteLent takes note of a View that may store.
func (f *MappedFile) noteLent(m *mapping) {
	if m.lendsStores() {
		f.unsynced.noteClean()
		f.unsynced.beginView()
	}
}

// endLent ends what lend has begun.
func (f *MappedFile) endLent(m *mapping, private *lentMap, off, n int64) {
	if private != nil {
		f.private.endView(private, off, n)
		return
	}
	f.maps.unpin(m)
	if m.lendsStores() {
		f.unsynced.endView()
	}
}

// ViewSlice is View of n values of type T from byte off on, without a copy, in the byte order of
// the processor. T is of a kind without pointers in it (numbers, arrays and structs of numbers; a
// bool counts as a number whose bytes have to be 0 or 1), and off a multiple of T's alignment;
// another T or off gives an error wrapping fs.ErrInvalid, and a range that is negative, or longer
// than an int64 can tell, ErrInvalidOffset. The fields of a struct lie where Go puts them, padding
// included. For all else, errors, stores and the lifetime of values, see View.
func ViewSlice[T any](f *MappedFile, off int64, n int, fn func(values []T) error) error {
	var value T
	size, alignment := int64(unsafe.Sizeof(value)), int64(unsafe.Alignof(value))
	kind := reflect.TypeFor[T]()
	switch {
	case !isPointerFree(kind):
		return f.wrap("view", fmt.Errorf("values of type %v have pointers in them, and cannot lie in a file: %w", kind, fs.ErrInvalid))
	case n < 0 || off < 0 || size > 0 && int64(n) > (1<<63-1)/size:
		return f.wrap("view", ErrInvalidOffset)
	case off%alignment != 0:
		return f.wrap("view", fmt.Errorf("offset %d is not a multiple of %d, the alignment of %v: %w", off, alignment, kind, fs.ErrInvalid))
	}
	return f.View(off, int64(n)*size, func(b []byte) error {
		if len(b) == 0 {
			return fn(make([]T, n))
		}
		return fn(unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n))
	})
}

// isPointerFree reports whether values of a type have no pointers in them. It looks once at each type.
func isPointerFree(t reflect.Type) bool {
	if known, ok := pointerFree.Load(t); ok {
		return known.(bool)
	}
	free := !hasPointers(t)
	pointerFree.Store(t, free)
	return free
}

var pointerFree sync.Map // of reflect.Type to bool

// hasPointers reports whether values of a type have pointers in them.
func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return t.Len() > 0 && hasPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return false
	}
	return true
}

// ReadRequest is one read of a batch: P is filled from Off; N and Err are what ReadAt would have
// returned.
type ReadRequest struct {
	P   []byte
	Off int64
	N   int
	Err error
}

// batchPart is how many reads of a batch are looked up and copied at a time. They are kept on the
// stack.
const batchPart = 64

// ReadBatch does all reads of the batch, each with ReadAt's result in its N and Err, and returns the
// first Err other than io.EOF. It is ReadAt for each, one after the other, but cheaper: what is mapped
// and in memory is copied under one guard, and of what is not the system is asked to begin reading all
// at once, before the first is waited for.
//
// No order is promised between the reads: buffers that overlap hold one or the other. It allocates
// nothing and may be called from many goroutines, with batches of their own.
func (f *MappedFile) ReadBatch(batch []ReadRequest) error {
	if f.maps.isClosed() {
		for i := range batch {
			batch[i].N, batch[i].Err = f.ReadAt(batch[i].P, batch[i].Off)
		}
		return f.wrap("read", fs.ErrClosed)
	}
	for rest := batch; len(rest) > 0; {
		part := rest[:min(len(rest), batchPart)]
		rest = rest[len(part):]
		f.readBatchPart(part)
	}
	for i := range batch {
		if err := batch[i].Err; err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// readBatchPart is ReadBatch for few reads.
func (f *MappedFile) readBatchPart(part []ReadRequest) {
	var hot [batchPart]bool
	f.maps.readBatchHot(part, &hot)
	if sysReadsAhead {
		f.maps.readBatchAhead(part, &hot)
	}
	for i := range part {
		if r := &part[i]; !hot[i] {
			r.N, r.Err = f.ReadAt(r.P, r.Off)
		}
	}
}

// readBatchHot does the reads that one mapping each can serve, and marks them.
func (f *fileMaps) readBatchHot(part []ReadRequest, hot *[batchPart]bool) {
	if !sysRevokesInPlace {
		return
	}
	var copies [batchPart]guardedCopy
	var reads [batchPart]hotRead // their maps' addresses are not given back before all are copied
	n := 0
	for i := range part {
		r := &part[i]
		if m, start := f.hotRange(r.P, r.Off); m != nil {
			copies[n] = guardedCopy{to: unsafe.Pointer(unsafe.SliceData(r.P)), from: m.pointer(start), n: len(r.P)}
			reads[n] = hotRead{m, start + int64(len(r.P)), i}
			n++
		}
	}
	if n == 0 {
		return
	}
	done, _ := copyAllGuarded(copies[:n]) // what a fault has left is read one by one
	for k := range done {
		if r := &part[reads[k].of]; !copies[k].endsInZero || reads[k].from.reaches(reads[k].end) { // as mapping.proves
			r.N, r.Err, hot[reads[k].of] = len(r.P), nil, true
		}
	}
	runtime.KeepAlive(&reads)
}

// hotRead is a read of a batch that a mapping serves, and where it ends there.
type hotRead struct {
	from *mapping
	end  int64
	of   int // in the batch
}

// hotRange returns the mapping that can serve a read, and where its bytes start there, or nil.
func (f *fileMaps) hotRange(p []byte, off int64) (m *mapping, start int64) {
	m = f.windows.at(off)
	if m == nil || len(p) == 0 || len(p) >= timedRead {
		return nil, 0
	}
	start, ok := m.span(off, len(p))
	if !ok {
		return nil, 0
	}
	if first, last := pageSpan(start, len(p)); !m.knows(first, last) {
		return nil, 0
	}
	return m, start
}

// readBatchAhead has the system begin to read what the other reads will want, if that is more than one.
func (f *fileMaps) readBatchAhead(part []ReadRequest, hot *[batchPart]bool) {
	d := f.descriptor.Load()
	if d == nil {
		return
	}
	a := batchAheads.Get().(*batchAhead)
	defer batchAheads.Put(a)
	a.cold = 0
	for i := range part {
		if r := &part[i]; !hot[i] && len(r.P) > 0 && r.Off >= 0 {
			a.offs[a.cold], a.lengths[a.cold] = r.Off, int64(len(r.P))
			a.cold++
		}
	}
	if a.cold > 1 {
		d.conn.Control(a.ask)
	}
}

// batchAhead are the ranges that readBatchAhead asks for. They and the function that asks are used again
// and again, because what a descriptor is given is on the heap.
type batchAhead struct {
	cold          int
	offs, lengths [batchPart]int64
	ask           func(fd uintptr)
}

var batchAheads = sync.Pool{New: func() any {
	a := new(batchAhead)
	a.ask = a.askAll
	return a
}}

// askAll stops at the first error: it is a hint, and the reads will say what is wrong.
func (a *batchAhead) askAll(fd uintptr) {
	for i := range a.cold {
		if system.readAhead(fd, a.offs[i], a.lengths[i]) != nil {
			return
		}
	}
}
