package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"syscall"
	"time"
)

// How a map comes to be: found worth it, or asked for by name; its descriptor found; made, and
// looked at before a call is served from it.

// tryMap maps the window in which off lies unless that is busy or fails, and reports success.
// Each try makes the next one wait, so that a map that does not come, or does not help, costs
// little.
func (f *fileMaps) tryMap(off int64) bool {
	w := &f.windows
	if !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	if !f.demand.callsDue() && !w.any() {
		info, err := f.mappable()
		if err != nil {
			return false
		}
		if size := info.Size(); f.demand.bytes.Load() < size+bytesBeforeSize { // one pass, or growth
			f.demand.bytesDue.Store(size)
			return false
		}
	}
	w.clock.Add(1)
	if !w.pays(off, f.demand.callsDue()) {
		f.demand.postponeWindow()
		return false
	}
	had, began := w.at(off), time.Now()
	m, err := f.mapWindowLocked(off, false)
	if err == nil && m != had { // a file that has grown in its last page needs no other map
		costs.make.note(time.Since(began))
	}
	if w.size == wholeFile || err != nil {
		f.demand.postponeTwice()
	} else {
		f.demand.postponeWindow()
	}
	return err == nil && f.trusted.Load()
}

// mapWindow is mapWindowLocked for those who ask for a map by name.
func (f *fileMaps) mapWindow(off int64) (*mapping, error) {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	return f.mapWindowLocked(off, true)
}

// mapWindowLocked returns the mapping of the window in which off lies, as far as the file
// reaches now; of a file mapped as a whole that is the one mapping, wherever off lies. It
// makes it if need be. Who asks by name gets it also where calls are not served from it, and
// what can be had again is given back where there is no room for it. The caller holds windows.mu.
func (f *fileMaps) mapWindowLocked(off int64, byName bool) (*mapping, error) {
	info, err := f.mappable()
	if err == nil && f.isClosed() {
		err = fs.ErrClosed
	}
	if err != nil {
		return nil, err
	}
	w := &f.windows
	if !w.narrowed.IsZero() && time.Since(w.narrowed) >= narrowTerm {
		w.narrowed = time.Now()
		f.widenLocked(info)
	}
	m, err := f.mapIndexLocked(off, info, byName)
	if w.size == wholeFile && !w.any() && !errors.Is(err, errNotLocked) && (errors.Is(err, syscall.ENOMEM) || errors.Is(err, errTooLarge)) {
		w.size, w.narrowed = windowBytes(min(f.host.config.WindowSize, narrowWindow)), time.Now()
		m, err = f.mapIndexLocked(off, info, byName)
	}
	return m, err
}

// widenLocked maps a file as a whole, in place of its windows, if there is room for that by now. The
// caller holds windows.mu.
func (f *fileMaps) widenLocked(info os.FileInfo) {
	if f.setUnitLocked(info) != nil || f.needDescriptorLocked(info, false) != nil {
		return
	}
	m, err := f.newMapping(0, info.Size(), f.mapFlags(), false)
	if err != nil {
		return
	}
	if err := f.settleLocked(m, info); err != nil {
		f.keepLostLocked(m.release())
		return
	}
	f.keepLostLocked(f.windows.widen(m))
	if f.showLocked(m) == nil {
		f.loadLocked(m) // pages that cannot be locked now are as those of a window made anew
	}
}

func (f *fileMaps) mapIndexLocked(off int64, info os.FileInfo, byName bool) (*mapping, error) {
	w := &f.windows
	size := info.Size()
	if err := f.setUnitLocked(info); err != nil {
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
	stale := f.isStale(info)
	if old := w.at(off); old != nil && int64(len(old.data)) >= length && !stale {
		return old, f.measure()
	}
	if !w.hasRoom(index) {
		return nil, errOutOfWindows
	}
	// All that can fail does so before a window is dropped for the new one.
	if err := f.needDescriptorLocked(info, stale); err != nil {
		return nil, err
	}
	if r := f.refuseFilesystem(f.filesystem); !byName && r != nil {
		f.refuse(r)
		f.dropDescriptorLocked(true)
		return nil, r.err
	}
	m, err := f.newMapping(offset, length, f.mapFlags(), byName)
	if errors.Is(err, errOverBudget) && byName && len(w.live) > 0 && w.leastUsed() >= 0 {
		f.keepLostLocked(w.drop(w.leastUsed()))
		m, err = f.newMapping(offset, length, f.mapFlags(), byName)
	}
	if err != nil {
		return nil, err
	}
	m.index = index
	if err := f.settleLocked(m, info); err != nil {
		f.keepLostLocked(m.release())
		f.dropDescriptorLocked(true)
		return nil, err
	}
	f.replaceLocked(m, stale)
	if err := f.showLocked(m); err != nil {
		return nil, err
	}
	if err := f.loadLocked(m); err != nil {
		f.keepLostLocked(w.drop(w.indexLive(index)))
		return nil, err
	}
	return m, nil
}

// replaceLocked makes m the mapping of its window, in place of one that has to go for it, or of all where
// they are stale. The caller holds windows.mu and knows that there is room.
func (f *fileMaps) replaceLocked(m *mapping, stale bool) {
	w := &f.windows
	before := len(w.live)
	if stale {
		f.dropAllLocked()
	}
	f.keepLostLocked(w.makeRoom(m.index))
	f.host.counters.windowsDropped.Add(int64(before - len(w.live)))
	w.insert(m)
}

// isStale reports whether a map of the file may show other bytes than the file has now: on
// overlayfs the file behind a read-only descriptor becomes another one when somebody opens it
// for writing, and a map stays one of the old file.
func (f *fileMaps) isStale(info os.FileInfo) bool {
	identity := f.identity.Load()
	return identity != nil && f.copiedUp.Load() && hasChanged(*identity, info)
}

// dropAllLocked drops the live windows, of a file that has become another one. Those whose bytes Data
// has handed out stay mapped. The caller holds windows.mu.
func (f *fileMaps) dropAllLocked() {
	for len(f.windows.live) > 0 {
		f.keepLostLocked(f.windows.drop(len(f.windows.live) - 1))
	}
}

// mapRange maps [off, off+n) for one View, all of it: if the file has shrunk meanwhile, the access
// faults. The mapping is pinned and ends with the unpin.
func (f *fileMaps) mapRange(off, n int64, flags int) (*mapping, error) {
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	if f.isClosed() {
		return nil, fs.ErrClosed
	}
	info, err := f.mappable()
	if err == nil {
		err = f.setUnitLocked(info)
	}
	if err == nil {
		err = f.needDescriptorLocked(info, f.copiedUp.Load())
	}
	if err != nil {
		return nil, err
	}
	stale := f.isStale(info)
	offset := off - off%max(f.windows.unit, mapAlignment)
	m, err := f.newMapping(offset, off+n-offset, flags, true)
	if err != nil {
		return nil, err
	}
	if err := f.announceLocked(m, info); err != nil {
		f.keepLostLocked(m.release())
		f.dropDescriptorLocked(true)
		return nil, err
	}
	if stale {
		f.dropAllLocked()
	}
	m.limit.Store(off + n - offset)
	f.readIn(m)
	m.pin()
	f.windows.addOther(m)
	f.dropDescriptorLocked(false)
	return m, nil
}

// mapFlags returns how the file's maps are made.
func (f *fileMaps) mapFlags() int {
	switch {
	case f.writable:
		return mapWrite
	case f.host.config.Mode == ModeExecute:
		return mapExecute | mapPrivate
	}
	return 0
}

var errTooLarge = errors.New("too large for the address space")

// errOutOfWindows reports that there is no window that could be dropped for another one.
var errOutOfWindows = fmt.Errorf("%w: all windows are in use by Data or LockMemory, see Config.MaxWindows", ErrNotMapped)

// newMapping maps [offset, offset+length) of the file, for which a descriptor is there. What the
// budget lacks is given back for who asks by name. The caller holds windows.mu.
func (f *fileMaps) newMapping(offset, length int64, flags int, byName bool) (*mapping, error) {
	unit := f.windows.unit
	if length > math.MaxInt-unit {
		return nil, notMapped(errTooLarge)
	}
	pages := (length + unit - 1) / unit * unit
	data, err := f.mapBytes(offset, pages, flags)
	if sysIsShortage(err) {
		if byName {
			budget.reclaim()
			data, err = f.mapBytes(offset, pages, flags)
		} else if errors.Is(err, syscall.ENOMEM) {
			budget.reclaimBehind()
		}
	}
	if errors.Is(err, syscall.EACCES) && flags == mapWrite { // the descriptor is read-only
		flags = 0
		data, err = f.mapBytes(offset, pages, flags)
	}
	if err != nil {
		if !sysIsShortage(err) {
			f.refuse(refuse(refusedBySystem, err, true))
		}
		f.dropDescriptorLocked(true)
		if unit > pageBytes && errors.Is(err, syscall.ENOMEM) && !errors.Is(err, errOverBudget) {
			err = fmt.Errorf("%w: %w", errEmptyPool, err)
		}
		return nil, notMapped(err)
	}
	m := manage(data, offset)
	m.private = flags&mapPrivate != 0
	m.writable = flags&mapWrite != 0
	if !byName && f.learns() {
		m.ration()
	}
	m.probeCost.Store(firstProbeCost)
	if m.writable && !m.private {
		m.written = newPageSet(pagesIn(pages))
		if !f.learns() {
			m.written.add(0, pagesIn(pages)-1)
		}
	}
	if f.host.config.UseHugePages && sysAdviseHugePage != unsupportedAdvice {
		system.advise(data, sysAdviseHugePage)
	}
	f.renewHintsLocked(m)
	return m, nil
}

// mapBytes makes the system's map, within the budget.
func (f *fileMaps) mapBytes(offset, length int64, flags int) (data []byte, err error) {
	if f.host.config.UseHugePages {
		flags |= mapAligned
	}
	if err := budget.take(length); err != nil {
		return nil, err
	}
	err = f.onDescriptorLocked(func(fd uintptr) (err error) {
		if flags&mapPrivate != 0 {
			if err := checkCoherent(fd, offset, int(f.windows.unit)); err != nil {
				return err
			}
		}
		if f.host.config.MapSync && flags&(mapWrite|mapPrivate) == mapWrite {
			if data, err = system.mapFile(fd, offset, int(length), flags|mapSync); err == nil {
				return nil
			}
		}
		data, err = system.mapFile(fd, offset, int(length), flags)
		return err
	})
	if err != nil {
		budget.give(length)
		return nil, err
	}
	if shorter := length - int64(len(data)); shorter > 0 { // Windows ends a map where the file ends
		budget.bytes.Add(-shorter)
	}
	return data, nil
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

// settleLocked decides what a new map is good for, before anybody sees it: whether calls may be
// served from it, and whether the descriptor is needed any longer. The caller holds windows.mu.
func (f *fileMaps) settleLocked(m *mapping, info os.FileInfo) error {
	if err := f.announceLocked(m, info); err != nil {
		return err
	}
	m.cold = f.host.config.ColdReads && f.hidden == nil && f.trusted.Load() && !f.fillsHoles.Load() && !f.compares
	_, err := f.descriptor.Load().cachedPages(m.offset, pageBytes)
	f.tellsResidency.Store(err == nil)
	keep := err == nil || f.windows.size != wholeFile || f.writable
	f.dropDescriptorLocked(!keep)
	return nil
}

// announceLocked has the file known to the registry, and looks at a new map as compareLocked does. The
// caller holds windows.mu.
func (f *fileMaps) announceLocked(m *mapping, info os.FileInfo) error {
	if err := f.compareLocked(m, info); err != nil {
		return err
	}
	if !f.registry.register() {
		return fs.ErrClosed
	}
	if f.identity.Swap(&info) == nil {
		f.host.mapped.Add(1)
	}
	return nil
}

// compareLocked asks once whether calls may be served from maps of the file, and for a file whose
// type is not known whether the map shows what the file reads. The caller holds windows.mu.
func (f *fileMaps) compareLocked(m *mapping, info os.FileInfo) error {
	if f.compares {
		same, err := f.showsSame(m, min(info.Size()-m.offset, int64(len(m.data))))
		if err != nil {
			return notMapped(err)
		}
		if !same {
			r := refuse(refusedTransformed, errTransformed, true)
			f.refuse(r)
			return r.err
		}
	}
	if f.refused.Load() != nil {
		return nil
	}
	if r := f.refuseFilesystem(f.filesystem); r != nil {
		f.refuse(r)
		return nil
	}
	f.trusted.Store(true)
	return nil
}

// loadLocked reads a new map in and locks it, as far as that was asked for. The caller holds
// windows.mu.
func (f *fileMaps) loadLocked(m *mapping) error {
	f.readIn(m)
	return f.lockPagesLocked(m)
}

// needDescriptorLocked finds the file's descriptor, and with it the kind of filesystem, unless it is
// there; with anew it finds another one, which shows the file of now. The caller holds windows.mu.
func (f *fileMaps) needDescriptorLocked(info os.FileInfo, anew bool) error {
	if d := f.descriptor.Load(); d != nil && !d.isClosed() && !anew {
		return nil
	}
	found, err := f.findDescriptor(info, f.writable)
	if err != nil {
		err = notMapped(err)
		if !sysIsShortage(err) && f.identity.Load() == nil {
			f.refuse(&refusal{refusedNoDescriptor, err, true})
		}
		return err
	}
	f.filesystem = found.filesystem()
	f.copiedUp.Store(f.filesystem.kind == filesystemOverlay && f.access() == os.O_RDONLY)
	f.fillsHoles.Store(f.filesystem.kind == filesystemFillsHole)
	if f.copiedUp.Load() {
		found = found.reopened(info)
	}
	f.dropDescriptorLocked(true)
	seconds.add(found)
	f.descriptor.Store(found)
	if f.isClosed() { // Close may have looked for a descriptor before
		f.dropDescriptorLocked(true)
		return fs.ErrClosed
	}
	return nil
}

// dropDescriptorLocked closes a second descriptor if it is not wanted any longer or there are too
// many in the process; what needs one again gets it again. The caller holds windows.mu.
func (f *fileMaps) dropDescriptorLocked(unwanted bool) {
	d := f.descriptor.Load()
	if d == nil || d.owned == nil || !unwanted && !seconds.full() {
		return
	}
	f.descriptor.Store(nil)
	f.keepLostLocked(d.close())
}

// setUnitLocked finds out, before the first map, of what the offset and the length of a map are
// multiples. The pages of hugetlbfs have 64 KiB at least, and its files end where a page does. The
// caller holds windows.mu.
func (f *fileMaps) setUnitLocked(info os.FileInfo) error {
	w := &f.windows
	if w.unit != 0 {
		return nil
	}
	if info.Size() == 0 {
		return io.EOF
	}
	if info.Size()%(64<<10) != 0 {
		w.unit = pageBytes
		return nil
	}
	if err := f.needDescriptorLocked(info, false); err != nil {
		return err
	}
	unit := pageBytes
	f.onDescriptorLocked(func(fd uintptr) error {
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

// refusalNow returns why no call is served from a map of the file, or nil. It finds out if nobody
// has asked yet.
func (f *fileMaps) refusalNow() error {
	if f.refused.Load() == nil && f.identity.Load() == nil {
		f.windows.mu.Lock()
		defer f.windows.mu.Unlock()
		info, err := f.mappable()
		if err == nil {
			err = f.needDescriptorLocked(info, false)
		}
		if err != nil {
			return err
		}
		if r := f.refuseFilesystem(f.filesystem); f.refused.Load() == nil && r != nil {
			f.refuse(r)
		}
		f.dropDescriptorLocked(f.windows.size == wholeFile)
	}
	if r := f.refused.Load(); r != nil {
		return r.err
	}
	return nil
}
