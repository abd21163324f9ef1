package memmapfs

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"
)

// The guard. A load or store in mapped memory raises SIGBUS or SIGSEGV when the file was
// truncated or its disk fails. os/signal cannot see a signal raised by a Go instruction;
// debug.SetPanicOnFault turns it into a panic, for one goroutine and for as long as a call
// of this package touches the map.

// faultAddress returns the address of the fault that r, a recovered value, stands for: 0 for one in the
// first 4096 bytes, as through a nil pointer. It need not be right: see tellsFaultAddress.
func faultAddress(r any) (address uintptr, isFault bool) {
	err, ok := r.(runtime.Error)
	if !ok {
		return 0, false
	}
	if err, ok := err.(interface{ Addr() uintptr }); ok {
		return err.Addr(), true
	}
	return 0, err.Error() == "runtime error: invalid memory address or nil pointer dereference"
}

// tellsFaultAddress reports whether the address of a fault past the end of a file is the right one. With
// qemu's user emulation it is 0 or that of an earlier fault. It is found out once, by such a fault.
var tellsFaultAddress = sync.OnceValue(func() bool {
	data, err := system.mapPastEnd()
	if err != nil {
		return true // on no other system than Linux is there an emulation that does so
	}
	defer system.unmap(data)
	at := unsafe.Pointer(unsafe.SliceData(data))
	var probe byte
	fault := copyGuarded(unsafe.Pointer(&probe), at, 1)
	if fault == nil {
		return true
	}
	address, _ := faultAddress(fault.value)
	return address == uintptr(at)
})

// copyFaulted takes note of r, the panic of a copy of n bytes from or to the map's start, if the
// fault was in the map, and reports that the copy failed.
func (f *MappedFile) copyFaulted(r any, m *mapping, start int64, n int) (ok bool) {
	address, _ := faultAddress(r)
	if !m.contains(address) && (tellsFaultAddress() || m.firstLost(start, int64(n)) < 0) {
		return false // the caller's own slice, of which the wrapped file will complain
	}
	first, last := pageSpan(start, n)
	m.resident.remove(first, last)
	if !m.private {
		m.written.remove(first, last)
	}
	f.noteFault(m, fmt.Errorf("%w (in %d bytes at offset %d)", ErrSIGBUS, n, m.offset+start))
	return false
}

// contains reports whether an address is in the map.
func (m *mapping) contains(address uintptr) bool {
	return address-m.address() < uintptr(len(m.data)) || m.stores != nil && m.stores.contains(address)
}

func (m *mapping) address() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(m.data))) }

// View calls fn with the n bytes of the file from off on, without copying them, and returns
// what fn returns. It is the safe form of Data: the bytes stay in place until fn returns,
// and a fault in fn's access to them (the file was truncated, its disk failed or is full)
// makes View return an error wrapping ErrSIGBUS. One guard serves the whole call, so a
// loop over many small values inside one View costs what it costs over a slice.
//
// The bytes must not be used after fn returns. They may be stored to in ModeReadWrite on a
// handle opened with O_RDWR, where the store reaches the file, and in ModeCopyOnWrite with
// MapFullFile, where it stays in the handle (but not in a range past the size that the file
// had when it was mapped); elsewhere a store is a fault. Cold pages are
// read in by page faults, which the Go scheduler does not see: call Prefetch first where
// that matters.
//
// A range that reaches past the end of the file gives io.EOF, a negative one
// ErrInvalidOffset, a file that cannot be mapped ErrNotMapped, and fn is not called. A
// panic in fn that is not a fault in the bytes goes through.
//
// View may be called from many goroutines and from inside fn. Close and Truncate do not
// wait for it: after Close the bytes of a running View stay valid until it ends; after
// Truncate those past the new end fault. On Windows Truncate fails while a View is running.
func (f *MappedFile) View(off, n int64, fn func(b []byte) error) error {
	fnErr, err := f.view(off, n, fn)
	f.deliverFaults()
	if err != nil {
		return f.wrap("view", err)
	}
	return fnErr
}

func (f *MappedFile) view(off, n int64, fn func(b []byte) error) (fnErr, err error) {
	if f.isClosed() {
		return nil, fs.ErrClosed
	}
	if off < 0 || n < 0 {
		return nil, ErrInvalidOffset
	}
	if n == 0 {
		return fn([]byte{}), nil
	}
	m, start, err := f.pinRange(off, n)
	if err != nil {
		return nil, err
	}
	defer m.unpin()
	if m.lendsStores() {
		f.beginView()
		defer f.endView()
	}
	return f.guard(m, start, n, fn)
}

// pinRange returns a pinned mapping that holds the bytes [off, off+n), and where they start
// in it: a live window, or a map made for this call.
func (f *MappedFile) pinRange(off, n int64) (m *mapping, start int64, err error) {
	if int64(int(n)) == n {
		if m, start := f.pinLive(off, int(n)); m != nil {
			return m, start, nil
		}
	}
	size, _, err := f.mappableSize()
	if err != nil {
		return nil, 0, err
	}
	if off > size || n > size-off {
		return nil, 0, io.EOF
	}
	if int64(int(n)) != n {
		return nil, 0, fmt.Errorf("%w: %d bytes do not fit the address space", ErrNotMapped, n)
	}
	if f.windows.fits(off, n) {
		f.mapWindow(off, f.writesStay && f.windows.mapsWhole())
		if m, start := f.pinLive(off, int(n)); m != nil {
			return m, start, nil
		}
	}
	m, err = f.mapRange(off, n)
	if err != nil {
		return nil, 0, err
	}
	return m, off - m.offset, nil
}

// pinLive pins the live mapping that holds [off, off+n), if there is one. In a private map
// the caller may store without telling, so from then on its bytes are read from it alone.
func (f *MappedFile) pinLive(off int64, n int) (*mapping, int64) {
	m := f.windows.at(off)
	if m == nil || f.writesStay && !m.private {
		return nil, 0
	}
	start, ok := m.span(off, n)
	if !ok || !m.pin() {
		return nil, 0
	}
	if m.private && !f.ungate(m) {
		m.unpin()
		return nil, 0
	}
	return m, start
}

// guard calls fn with m's bytes [start, start+n) and turns a fault in them into an error.
func (f *MappedFile) guard(m *mapping, start, n int64, fn func(b []byte) error) (fnErr, err error) {
	before := debug.SetPanicOnFault(true)
	done := false
	defer func() {
		debug.SetPanicOnFault(before)
		if done {
			return
		}
		r := recover()
		if r == nil { // runtime.Goexit in fn
			return
		}
		offset, ours := m.faultIn(r, start, n)
		if !ours {
			panic(r)
		}
		fnErr, err = nil, fmt.Errorf("%w (at offset %d)", ErrSIGBUS, offset)
		f.noteFault(m, err)
	}()
	fnErr = fn(m.data[start : start+n : start+n])
	done = true
	return fnErr, nil
}

// faultIn reports whether r is a fault in the map's bytes [start, start+n), and at which
// offset of the file. Where the address of a fault cannot be trusted it is one if some of the bytes cannot be
// read any more or, where they may be stored to, not be stored to: in a hole of a full disk.
func (m *mapping) faultIn(r any, start, n int64) (offset int64, ours bool) {
	address, isFault := faultAddress(r)
	if !isFault {
		return 0, false
	}
	if at := int64(address - m.address()); address >= m.address() && at >= start && at < start+n {
		return m.offset + at, true
	}
	if tellsFaultAddress() {
		return 0, false
	}
	if at := m.firstLost(start, n); at >= 0 {
		return m.offset + at, true
	}
	return 0, false
}

// firstLost returns where the first of the map's bytes [start, start+n) is that cannot be accessed, or -1.
func (m *mapping) firstLost(start, n int64) int64 {
	for at := start; at < start+n; at = at - at%pageBytes + pageBytes {
		if !readable(&m.data[at]) || m.writable && !storable(&m.data[at-at%pageBytes]) {
			return at
		}
	}
	return -1
}

// readable reports whether a byte can be read without a fault.
func readable(b *byte) bool {
	var probe byte
	return copyGuarded(unsafe.Pointer(&probe), unsafe.Pointer(b), 1) == nil
}

// storable reports whether the page that starts at b can be stored to without a fault. It changes
// nothing.
func storable(b *byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { ok = recover() == nil }()
	atomic.OrUint32((*uint32)(unsafe.Pointer(b)), 0)
	return true
}

// noteFault records a fault for the SIGBUS handler, and stops the map from being used where
// the file has ended. That the map was taken away during an access is no fault of the file.
func (f *MappedFile) noteFault(m *mapping, fault error) {
	if m.isRevoked() {
		return
	}
	f.mfs.counters.faults.Add(1)
	if info, err := f.stat(); err == nil {
		m.lower(info.Size())
	}
	if !globalSIGBUSHandler.watches(f) {
		return
	}
	log := f.faults.Load()
	log.mu.Lock()
	defer log.mu.Unlock()
	log.pending = append(log.pending, fault)
}

// faultLog holds the faults of a file that the handler's callbacks have not seen yet.
type faultLog struct {
	mu      sync.Mutex // guards pending; no lock is taken under it
	pending []error
}

// deliverFaults runs the handler's callbacks for the faults noted; the caller holds no lock.
func (f *MappedFile) deliverFaults() {
	log := f.faults.Load()
	if log == nil {
		return
	}
	log.mu.Lock()
	faults := log.pending
	log.pending = nil
	log.mu.Unlock()
	for _, fault := range faults {
		globalSIGBUSHandler.run(f, f.wrap("fault", fault))
	}
}

// EnableSIGBUSProtection registers the file with the global SIGBUSHandler and enables the
// handler. The file's methods are safe without it: see SIGBUSHandler.
func (f *MappedFile) EnableSIGBUSProtection() {
	globalSIGBUSHandler.Register(f)
	globalSIGBUSHandler.Enable()
}

// DisableSIGBUSProtection takes the file out of the global SIGBUSHandler. Close does so too.
func (f *MappedFile) DisableSIGBUSProtection() { globalSIGBUSHandler.Unregister(f) }

// RemapAfterTruncation takes up the file's present size, smaller or larger: the map is taken
// away and made again when it is next needed. Slices from Data fault afterwards. In
// ModeCopyOnWrite, where a new map would lose the private pages, the map stays. Errors
// come from asking the wrapped file for its size.
func (f *MappedFile) RemapAfterTruncation() error {
	err := f.remap()
	return f.wrap("remap", err)
}

func (f *MappedFile) remap() error {
	if f.isClosed() {
		return fs.ErrClosed
	}
	info, err := f.stat()
	if err != nil {
		return err
	}
	if f.writesStay {
		f.windows.each(func(m *mapping) { m.lower(info.Size()); m.raise(info.Size()) })
		return nil
	}
	f.unmap()
	return nil
}

// SIGBUSHandler tells a program of faults in mapped memory that this package has caught.
//
// What is always on, with or without it: no method of MappedFile lets a fault end the
// process; a copy that faults is repeated through the file, whose result is the result, and
// View returns an error wrapping ErrSIGBUS. What the handler adds is a call for each such
// fault in a registered file, so that a program can log it, remap, or close the file. What
// nothing can catch is a fault in the program's own access to a slice from Data: use View.
//
// Its methods may be called at any time, from any goroutine.
type SIGBUSHandler struct {
	mu        sync.Mutex // guards the fields below; no lock is taken under it
	enabled   bool
	files     map[*MappedFile]struct{}
	callbacks []func(*MappedFile, error)
}

var globalSIGBUSHandler = &SIGBUSHandler{files: make(map[*MappedFile]struct{})}

// GetSIGBUSHandler returns the one handler of the process.
func GetSIGBUSHandler() *SIGBUSHandler { return globalSIGBUSHandler }

// Enable has the callbacks run from now on.
func (h *SIGBUSHandler) Enable() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enabled = true
}

// Disable stops the callbacks. Files and callbacks stay registered.
func (h *SIGBUSHandler) Disable() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enabled = false
}

// Register adds a file to those whose faults are reported, until Unregister or its Close.
func (h *SIGBUSHandler) Register(mf *MappedFile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	mf.faults.CompareAndSwap(nil, new(faultLog))
	if !mf.isClosed() {
		h.files[mf] = struct{}{}
	}
}

// Unregister takes a file out again.
func (h *SIGBUSHandler) Unregister(mf *MappedFile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.files, mf)
}

// OnSIGBUS adds a callback. For each fault caught in a registered file it gets the file and
// an *fs.PathError wrapping ErrSIGBUS. It runs in the goroutine whose call met the fault, just
// before that call returns and with no lock held, so it may call any method of the file,
// RemapAfterTruncation and Close included. A callback cannot be taken out again; Disable
// stops all of them.
func (h *SIGBUSHandler) OnSIGBUS(handler func(*MappedFile, error)) {
	if handler == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.callbacks = append(h.callbacks, handler)
}

func (h *SIGBUSHandler) watches(f *MappedFile) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.files[f]
	return ok && h.enabled
}

func (h *SIGBUSHandler) run(f *MappedFile, err error) {
	h.mu.Lock()
	callbacks := h.callbacks
	h.mu.Unlock()
	for _, callback := range callbacks {
		callback(f, err)
	}
}
