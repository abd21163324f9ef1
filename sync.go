package memmapfs

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// unsyncedBytes is what a file knows of writes that are not durable yet.
type unsyncedBytes struct {
	maps    *fileMaps
	flusher *flusher
	stays   bool // nothing that the handle writes reaches the file: ModeCopyOnWrite

	dirty  atomic.Bool // written since the last flush began
	stored atomic.Bool // stored through a map since the modification time was last moved
	queued atomic.Bool // for a flush in the background, at some time
	writes atomic.Bool // something was written through the file, at some time

	exposed atomic.Bool  // Data has handed out bytes that may be stored to unseen
	views   atomic.Int32 // Views that are running and may store unseen
	viewed  atomic.Int64 // when the first View began since it was last asked what they stored; 0 is none

	// settling is held by settleViews: who finds nothing to settle is not ahead of who settles it. The
	// locks of descriptors are taken under it.
	settling sync.Mutex

	// timeBefore is the file's modification time when stored was set, and storedSince when that was, both
	// in nanoseconds since 1970; timeBeforeView is what it was when the last View began. They tell
	// whether somebody has set the time since.
	timeBefore, storedSince, timeBeforeView atomic.Int64

	writing writesUnderWay // those through the file, for which Close waits

	// flushing is held for reading by Sync and SyncRange, and for writing by a flush in the
	// background and by Close, so that Sync finds the error of a flush before it, and Close waits
	// for one under way. All locks of maps are taken under it.
	flushing sync.RWMutex

	mu  sync.Mutex // guards err; no lock is taken under it
	err error      // of a background flush, not reported yet

	// cleanAt is the file's modification time at a moment when no page was dirty and the next store was
	// to move it, in nanoseconds since 1970; 0 if there was no such moment.
	cleanAt atomic.Int64
}

// noteStore takes note that bytes were stored through the map. The bytes are stored first and
// the note is taken after, so a flush that misses the note has seen the bytes.
func (u *unsyncedBytes) noteStore() {
	if !u.stored.Load() || !u.dirty.Load() {
		u.noteFirstStore()
	}
}

func (u *unsyncedBytes) noteFirstStore() {
	if !u.stored.Load() {
		u.timeBefore.Store(u.modTime())
		u.storedSince.Store(time.Now().UnixNano())
		u.stored.Store(true)
	}
	u.noteDirty()
}

// modTime returns the file's modification time, in nanoseconds since 1970.
func (u *unsyncedBytes) modTime() int64 {
	info, err := u.maps.stat()
	if err != nil {
		return 0
	}
	return info.ModTime().UnixNano()
}

func (u *unsyncedBytes) noteDirty() {
	if u.dirty.Load() || u.dirty.Swap(true) || u.mode() == SyncNever {
		return
	}
	u.maps.registry.register()
	if u.mode() == SyncPeriodic {
		u.flusher.add(u, u.maps.host.config.SyncInterval)
	}
}

func (u *unsyncedBytes) mode() SyncMode { return u.maps.host.config.SyncMode }

// expose takes note that from here on bytes may be stored without notice.
func (u *unsyncedBytes) expose() {
	u.exposed.Store(true)
	u.noteDirty()
}

// endExposure takes note that slices from Data are gone, through which bytes may have been stored.
func (u *unsyncedBytes) endExposure() {
	if u.exposed.Load() {
		u.exposed.Store(false)
		u.noteDirty()
	}
}

// beginView takes note that a View may store unseen, until endView.
func (u *unsyncedBytes) beginView() {
	u.views.Add(1)
	u.timeBeforeView.Store(u.modTime())
	if u.viewed.Load() == 0 && u.viewed.CompareAndSwap(0, time.Now().UnixNano()) {
		if u.mode() != SyncNever {
			u.maps.registry.register()
		}
		if u.mode() == SyncPeriodic {
			u.flusher.add(u, u.maps.host.config.SyncInterval)
		}
	}
}

func (u *unsyncedBytes) endView() { u.views.Add(-1) }

// viewTerm is for how long the pages that a View has stored to can be told by their being dirty: the
// kernel writes pages back half a minute after a store (vm.dirty_expire_centisecs).
const viewTerm = 20 * time.Second

// settleViews takes note of what Views have stored since it was last called: nothing if none is running
// and no page of the file is dirty.
func (u *unsyncedBytes) settleViews() {
	u.settling.Lock()
	defer u.settling.Unlock()
	began := u.viewed.Swap(0)
	if began == 0 {
		return
	}
	running := u.views.Load() > 0
	if running {
		u.viewed.CompareAndSwap(0, time.Now().UnixNano()) // they may store after this, too
	}
	if !running && u.tellsDirty(time.Unix(0, began)) {
		dirty := int64(-1)
		u.maps.withDescriptor(false, func(d *descriptor) error {
			return d.do(func(fd uintptr) error {
				pages, err := system.dirtyPages(fd)
				if err == nil {
					dirty = pages
				}
				return err
			})
		})
		if dirty == 0 {
			u.dirty.CompareAndSwap(false, u.mayBeWrittenBack())
			return
		}
	}
	if !u.stored.Load() {
		u.timeBefore.Store(u.timeBeforeView.Load())
		u.storedSince.Store(began)
		u.stored.Store(true)
	}
	u.dirty.Store(true)
}

// timeWasSet takes note that the file's times were set through its filesystem: what was stored before
// does not move them again.
func (u *unsyncedBytes) timeWasSet() {
	u.settleViews()
	u.stored.Store(false)
}

// writesUnderWay counts the writes through a file from before they look whether it is closed until
// they have taken note. So Close, which waits for them, knows of all that have succeeded.
type writesUnderWay struct {
	mu    sync.Mutex // guards the fields below; no lock is taken under it
	count int
	ended chan struct{} // closed with the last one; nil unless Close waits
}

// tellsDirty reports whether pages stored to since a View began are dirty now. Those of filesystems in
// memory never are.
func (u *unsyncedBytes) tellsDirty(began time.Time) bool {
	return time.Since(began) < viewTerm && !u.maps.fillsHoles.Load() && !filtered()
}

// beginWrite lets a write through the file begin, unless it is closed. endWrite ends it.
func (u *unsyncedBytes) beginWrite() error {
	u.writing.mu.Lock()
	u.writing.count++
	u.writing.mu.Unlock()
	if !u.writes.Load() {
		u.writes.Store(true) // before it looks whether the file is closed; Close does it the other way round
	}
	if u.maps.isClosed() {
		u.endWrite()
		return fs.ErrClosed
	}
	return nil
}

func (u *unsyncedBytes) endWrite() {
	u.writing.mu.Lock()
	defer u.writing.mu.Unlock()
	u.writing.count--
	if u.writing.count == 0 && u.writing.ended != nil {
		close(u.writing.ended)
		u.writing.ended = nil
	}
}

// wait waits for the writes that are under way.
func (w *writesUnderWay) wait() {
	w.mu.Lock()
	if w.count == 0 {
		w.mu.Unlock()
		return
	}
	ended := make(chan struct{})
	w.ended = ended
	w.mu.Unlock()
	<-ended
}

// wrote does what the SyncMode asks for after n bytes at off were written; with n of 0 it is
// not known where.
func (u *unsyncedBytes) wrote(off int64, n int) error {
	switch u.mode() {
	case SyncImmediate:
		if n > 0 && u.maps.writable && u.maps.callsPay() {
			u.maps.tryMap(off) // for the ranged flush
		}
		return u.unlessUnsyncable(u.flushRange(off, int64(n)))
	case SyncPeriodic, SyncLazy:
		u.noteDirty()
	}
	return nil
}

// sync is Sync: a flush of everything, and the error of one before it.
func (u *unsyncedBytes) sync() error {
	u.flushing.RLock()
	defer u.flushing.RUnlock()
	return join(u.takeError(), u.flush())
}

// syncRange is SyncRange.
func (u *unsyncedBytes) syncRange(off, n int64) error {
	u.flushing.RLock()
	defer u.flushing.RUnlock()
	if err := u.pendingError(); err != nil {
		return err
	}
	return u.flushRange(off, n)
}

// flush makes the file durable and moves its modification time if stores have not.
func (u *unsyncedBytes) flush() (err error) {
	u.settleViews()
	u.dirty.Store(false)
	u.maps.endTerm()
	done := false
	defer func() {
		if !done || err != nil {
			u.maps.endTerm() // writes meanwhile have begun a new one
			u.noteDirty()
		}
	}()
	err = u.moveModTime()
	err = join(err, u.maps.syncMaps())
	syncErr := u.maps.file.Sync()
	if u.stays && errors.Is(syncErr, fs.ErrPermission) {
		syncErr = nil // Windows wants the right to write; but nothing of this handle is to be flushed
	}
	done = true // and not ended by a panic
	return u.maps.host.counters.flushed(join(err, syncErr))
}

// flushRange flushes just the range if a ranged flush is durable here and writable maps hold
// all of it, and otherwise the file.
func (u *unsyncedBytes) flushRange(off, n int64) error {
	u.maps.endTerm()
	done, err := u.maps.syncRange(off, n)
	if !done {
		return u.flush()
	}
	if err != nil {
		u.maps.endTerm()
		u.noteDirty()
	}
	return err
}

// moveModTime moves the modification time if bytes were stored through the map: the kernel
// does so only for the first store into a clean page. That it may not be set is no error,
// unless the filesystem has become one that cannot be written to: then the bytes are lost. Where it
// can be tried again the next flush does.
func (u *unsyncedBytes) moveModTime() error {
	if !u.stored.Load() || !u.stored.Swap(false) {
		return nil
	}
	if u.wasTimeSet() {
		return nil
	}
	err := u.maps.withDescriptor(true, func(d *descriptor) error { return d.do(system.touchModTime) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errors.ErrUnsupported), errors.Is(err, errOtherFile):
		return nil
	}
	u.stored.Store(true)
	if sysIsDescriptorShortage(err) {
		return nil
	}
	return err
}

// wasTimeSet reports whether somebody has set the file's modification time since the first store: it is
// neither the one of before nor one that a write or store may have given it since. Where all that is
// mapped is written by stores there are no calls between them to tell their order from the time's, and
// the time is moved.
func (u *unsyncedBytes) wasTimeSet() bool {
	if !sysMapsAgreeWithIO {
		return false
	}
	const clockTick = 20 * time.Millisecond // by which the kernel's clock for files may be behind
	now, before := u.modTime(), u.timeBefore.Load()
	return now != 0 && before != 0 && now != before && // 0: the file could not be described
		(now < u.storedSince.Load()-int64(clockTick) || now > time.Now().UnixNano())
}

// flushAtClose makes durable what the SyncMode promises by the time of Close. The file counts as
// closed, and its maps are gone: nothing can be written or stored any more but by a write through
// the file that has begun before.
//
// A store that was under way is in the page cache before its map was revoked, but its note may come
// later: then the write that made it fails.
func (u *unsyncedBytes) flushAtClose() error {
	if mode := u.mode(); (mode == SyncLazy || mode == SyncPeriodic) && u.isRegular() {
		u.writing.wait()
	}
	u.flushing.Lock()
	defer u.flushing.Unlock()
	err := u.takeError()
	u.settleViews()
	if u.mode() != SyncNever && u.awaitsFlush() {
		return join(err, u.unlessUnsyncable(u.flush()))
	}
	return join(err, u.moveModTime())
}

// needsEnd reports whether flushAtClose has anything to do.
func (u *unsyncedBytes) needsEnd() bool {
	return u.queued.Load() || u.awaitsFlush() || u.stored.Load() || u.writes.Load() || u.viewed.Load() != 0
}

// isRegular reports whether writes end by themselves: not those to a pipe.
func (u *unsyncedBytes) isRegular() bool {
	info, err := u.maps.stat()
	return err != nil || info.Mode().IsRegular()
}

// flushBehind is a flush in the background. It leaves its error to the next Sync or Close.
func (u *unsyncedBytes) flushBehind() error {
	u.flushing.Lock()
	defer u.flushing.Unlock()
	u.settleViews()
	if u.maps.isClosed() || !u.awaitsFlush() {
		return nil
	}
	err := u.unlessUnsyncable(u.flush())
	u.keepError(err)
	return err
}

// unlessUnsyncable drops the error of a flush that nobody waits for if there is nothing to flush:
// pipes and devices refuse to, and Windows does for a handle that was not opened for writing.
func (u *unsyncedBytes) unlessUnsyncable(err error) error {
	if u.maps.access() == os.O_RDONLY && errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		if info, statErr := u.maps.stat(); statErr == nil && !info.Mode().IsRegular() {
			return nil
		}
	}
	return err
}

// keepError leaves err to the next Sync or Close.
func (u *unsyncedBytes) keepError(err error) {
	if err != nil {
		u.queued.Store(true)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.err = err
	}
}

// awaitsFlush reports whether there may be bytes that no flush has covered.
func (u *unsyncedBytes) awaitsFlush() bool {
	return u.dirty.Load() || u.exposed.Load() || u.viewed.Load() != 0 || u.views.Load() > 0
}

func (u *unsyncedBytes) pendingError() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// takeError returns the error of a background flush, once, and what was lost when maps were taken
// away.
func (u *unsyncedBytes) takeError() error {
	u.mu.Lock()
	err := u.err
	u.err = nil
	u.mu.Unlock()
	return join(err, u.maps.takeLost())
}

const (
	// timeStep is the coarsest step of modification times (FAT), and a bit.
	timeStep = 3 * time.Second
	// mostAsked is up to how many bytes a file is asked whether pages are dirty when a View begins: the
	// answer takes a nanosecond or two for each KiB.
	mostAsked = 256 << 20
)

// noteClean has a View that begins remember whether no page is dirty.
func (u *unsyncedBytes) noteClean() {
	if u.viewed.Load() != 0 {
		return
	}
	info, err := u.maps.stat()
	if err != nil || info.ModTime().UnixNano() == u.cleanAt.Load() {
		return
	}
	if info.Size() > mostAsked || time.Since(info.ModTime()) < timeStep || u.maps.dirtyPages() != 0 {
		u.cleanAt.Store(0)
		return
	}
	u.cleanAt.Store(info.ModTime().UnixNano())
}

// mayBeWrittenBack reports whether no page may be dirty because the kernel has begun to write back what
// Views have stored, which flushes no disk. The first store into a clean page moves the file's time.
func (u *unsyncedBytes) mayBeWrittenBack() bool {
	cleanAt := u.cleanAt.Load()
	return cleanAt == 0 || u.modTime() != cleanAt
}

// dirtyPages returns how many pages of the file are dirty, or -1 where that cannot be told: those of
// filesystems in memory never are.
func (f *fileMaps) dirtyPages() (dirty int64) {
	if f.fillsHoles.Load() || filtered() {
		return -1
	}
	err := f.descriptor.Load().do(func(fd uintptr) (err error) {
		dirty, err = system.dirtyPages(fd)
		return err
	})
	if err != nil {
		return -1
	}
	return dirty
}
