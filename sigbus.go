package memmapfs

import (
	"io/fs"
	"sync"
)

// deliverFaults runs the handler's callbacks for the faults noted; the caller holds no lock.
func (f *MappedFile) deliverFaults() {
	log := f.maps.faults.Load()
	if log == nil {
		return
	}
	log.mu.Lock()
	faults := log.pending
	log.pending = nil
	log.mu.Unlock()
	if len(faults) == 0 || !globalSIGBUSHandler.watches(f) {
		return
	}
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
// ModeCopyOnWrite the maps stay, because what was stored through Data is in them. Errors come
// from asking the wrapped file for its size.
func (f *MappedFile) RemapAfterTruncation() error {
	if f.maps.isClosed() {
		return f.wrap("remap", fs.ErrClosed)
	}
	err := f.maps.measure()
	if err == nil && f.private == nil {
		f.unmap()
	}
	return f.wrap("remap", err)
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
	mf.maps.faults.CompareAndSwap(nil, new(faultLog))
	if !mf.maps.isClosed() {
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
