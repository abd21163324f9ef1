package memmapfs

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// unsyncedBytes is what a file knows of writes that are not durable yet.
type unsyncedBytes struct {
	dirty  atomic.Bool // written since the last flush began
	stored atomic.Bool // stored through the map since the modification time was last moved
	queued atomic.Bool // for a flush in the background, at some time

	exposed atomic.Bool  // Data has handed out bytes that may be stored to unseen
	views   atomic.Int32 // Views that are running and may store unseen

	// flushing is held for reading by Sync, and for writing by a flush in the background and by
	// Close, so that Sync finds the error of a flush before it. It comes before all other locks.
	flushing sync.RWMutex

	mu  sync.Mutex // guards err; no lock is taken under it
	err error      // of a background flush, not reported yet
}

// noteStore takes note that bytes were stored through the map. The bytes are stored first and
// the note is taken after, so a flush that misses the note has seen the bytes.
func (f *MappedFile) noteStore() {
	if !f.unsynced.stored.Load() || !f.unsynced.dirty.Load() {
		f.noteFirstStore()
	}
}

func (f *MappedFile) noteFirstStore() {
	f.unsynced.stored.Store(true)
	f.noteDirty()
}

func (f *MappedFile) noteDirty() {
	if f.unsynced.dirty.Load() || f.unsynced.dirty.Swap(true) || f.mfs.config.SyncMode == SyncNever {
		return
	}
	f.mfs.remember(f)
	if f.mfs.config.SyncMode == SyncPeriodic {
		f.mfs.flusher.add(f, f.mfs.config.SyncInterval)
	}
}

// beginView takes note that from here on bytes may be stored without notice.
func (f *MappedFile) beginView() {
	f.unsynced.views.Add(1)
	f.noteDirty()
}

func (f *MappedFile) endView() {
	f.unsynced.views.Add(-1)
	f.noteStore()
}

// endExposure takes note that slices from Data are gone, through which bytes may have been stored.
func (f *MappedFile) endExposure() {
	if f.unsynced.exposed.Load() {
		f.unsynced.exposed.Store(false)
		f.noteDirty()
	}
}

// wrote does what the SyncMode asks for after n bytes at off were written; with n of 0 it is
// not known where.
func (f *MappedFile) wrote(off int64, n int) error {
	switch f.mfs.config.SyncMode {
	case SyncImmediate:
		if n > 0 && f.mapsWritable && f.mapDue() {
			f.tryMap(off) // for the ranged flush
		}
		return f.unlessUnsyncable(f.flushRange(off, int64(n)))
	case SyncPeriodic, SyncLazy:
		f.noteDirty()
	}
	return nil
}

// Sync makes everything written to the file durable, in every mode and whichever way it was
// written: through this handle, through Data or View, or by others. It returns the error of
// an earlier background flush that failed and was not yet reported. On Windows a handle that is not
// open for writing cannot flush a file: there the error is the wrapped file's, which matches fs.ErrPermission, but
// in ModeCopyOnWrite, where nothing that the handle has written is to be flushed, it is nil.
func (f *MappedFile) Sync() error {
	if f.isClosed() {
		return f.wrap("sync", fs.ErrClosed)
	}
	f.unsynced.flushing.RLock()
	defer f.unsynced.flushing.RUnlock()
	return f.wrap("sync", join(f.takeSyncError(), f.flush()))
}

// SyncRange makes the n bytes from off on durable, with the size of the file as far as they
// need it. Where it can it flushes nothing else. A negative argument gives ErrInvalidOffset. While a
// flush in the background has failed and neither Sync nor Close has reported it, it fails with that
// error, because the bytes of the range may be among those that were lost.
func (f *MappedFile) SyncRange(off, n int64) error {
	switch {
	case f.isClosed():
		return f.wrap("sync", fs.ErrClosed)
	case off < 0 || n < 0:
		return f.wrap("sync", ErrInvalidOffset)
	case n == 0:
		return nil
	}
	f.unsynced.flushing.RLock()
	defer f.unsynced.flushing.RUnlock()
	if err := f.pendingSyncError(); err != nil {
		return f.wrap("sync", err)
	}
	return f.wrap("sync", f.flushRange(off, n))
}

// SyncAsync starts a flush of the file in the background and promises no more than that. Its
// error is returned by the next Sync or Close, and given to Config.OnSyncError at once.
func (f *MappedFile) SyncAsync() error {
	if f.isClosed() {
		return f.wrap("sync", fs.ErrClosed)
	}
	f.unsynced.dirty.Store(true)
	f.mfs.flusher.add(f, 0)
	return nil
}

// flush makes the file durable and moves its modification time if stores have not.
func (f *MappedFile) flush() error {
	f.unsynced.dirty.Store(false)
	err := f.moveModTime()
	if !sysFileSyncCoversMaps {
		f.windows.each(func(m *mapping) {
			if m.stores != nil {
				m = m.stores
			}
			if m.writable && !m.private {
				err = join(err, system.syncMap(m.data))
			}
		})
	}
	syncErr := f.file.Sync()
	if f.writesStay && errors.Is(syncErr, fs.ErrPermission) {
		syncErr = nil // Windows wants the right to write; but nothing of this handle is to be flushed
	}
	if err = join(err, syncErr); err != nil {
		f.noteDirty()
	}
	return f.mfs.counters.flushed(err)
}

// moveModTime moves the modification time if bytes were stored through the map: the kernel
// does so only for the first store into a clean page. That it may not be set is no error.
func (f *MappedFile) moveModTime() error {
	if !f.unsynced.stored.Load() || !f.unsynced.stored.Swap(false) {
		return nil
	}
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	err := f.descriptor.do(system.touchModTime)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// flushRange flushes just the range if a ranged flush is durable here and writable maps hold
// all of it, and otherwise the file. A map made from a descriptor that was opened read-only
// will not do: msync(2) ignores it on Linux, as it ignores private maps.
func (f *MappedFile) flushRange(off, n int64) error {
	if !sysSyncMapIsDurable || n == 0 || n > math.MaxInt64-off {
		return f.flush()
	}
	for end := off + n; off < end; {
		m := f.windows.at(off)
		if m == nil || !m.writable || m.private || !m.pin() {
			return f.flush()
		}
		start := off - m.offset
		stop := min(end-m.offset, m.limit.Load())
		if stop <= start {
			m.unpin()
			return f.flush()
		}
		first := start - start%pageBytes
		err := f.mfs.counters.flushed(system.syncMap(m.data[first:stop]))
		m.unpin()
		if err != nil {
			return err
		}
		off = m.offset + stop
	}
	return nil
}

// flushAtClose makes durable what the SyncMode promises by the time of Close; f.closed is set.
func (f *MappedFile) flushAtClose() error {
	if !f.unsynced.queued.Load() && !f.awaitsFlush() && !f.unsynced.stored.Load() {
		return nil
	}
	f.unsynced.flushing.Lock()
	defer f.unsynced.flushing.Unlock()
	err := f.takeSyncError()
	if f.mfs.config.SyncMode != SyncNever && f.awaitsFlush() {
		return join(err, f.unlessUnsyncable(f.flush()))
	}
	return join(err, f.moveModTime())
}

// flushBehind is a flush in the background. It leaves its error to the next Sync or Close.
func (f *MappedFile) flushBehind() error {
	f.unsynced.flushing.Lock()
	defer f.unsynced.flushing.Unlock()
	if f.isClosed() || !f.awaitsFlush() {
		return nil
	}
	err := f.unlessUnsyncable(f.flush())
	f.keepSyncError(err)
	return err
}

// unlessUnsyncable drops the error of a flush that nobody waits for if there is nothing to flush:
// pipes and devices refuse to, and Windows does for a handle that was not opened for writing.
func (f *MappedFile) unlessUnsyncable(err error) error {
	if f.flag&accessMode == os.O_RDONLY && errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		if info, statErr := f.stat(); statErr == nil && !info.Mode().IsRegular() {
			return nil
		}
	}
	return err
}

// keepSyncError leaves err to the next Sync or Close.
func (f *MappedFile) keepSyncError(err error) {
	if err != nil {
		f.unsynced.queued.Store(true)
		f.unsynced.mu.Lock()
		defer f.unsynced.mu.Unlock()
		f.unsynced.err = err
	}
}

// awaitsFlush reports whether there may be bytes that no flush has covered.
func (f *MappedFile) awaitsFlush() bool {
	return f.unsynced.dirty.Load() || f.unsynced.exposed.Load() || f.unsynced.views.Load() > 0
}

func (f *MappedFile) pendingSyncError() error {
	f.unsynced.mu.Lock()
	defer f.unsynced.mu.Unlock()
	return f.unsynced.err
}

// takeSyncError returns the error of a background flush, once.
func (f *MappedFile) takeSyncError() error {
	f.unsynced.mu.Lock()
	defer f.unsynced.mu.Unlock()
	err := f.unsynced.err
	f.unsynced.err = nil
	return err
}

// flusher flushes the files of one MemMapFS in the background. It has a goroutine only while
// it flushes, and a timer only while a file waits for it. When a flush takes longer than the
// interval the next one starts beside it, so that files on other disks do not wait.
type flusher struct {
	mu      sync.Mutex // guards the fields below; no lock is taken under it
	waiting map[*MappedFile]struct{}
	timer   *time.Timer
	round   int // of the timer; one that fires in a later round was stopped too late
	due     time.Time
	closed  bool
	running sync.WaitGroup // one for each timer and the flush it starts
}

// add has f flushed after delay.
func (b *flusher) add(f *MappedFile, delay time.Duration) {
	f.mfs.remember(f)
	f.unsynced.queued.Store(true)
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	if b.waiting == nil {
		b.waiting = make(map[*MappedFile]struct{})
	}
	b.waiting[f] = struct{}{}
	if due := time.Now().Add(delay); b.timer == nil || due.Before(b.due) {
		b.stop()
		b.due = due
		b.running.Add(1)
		round := b.round
		b.timer = time.AfterFunc(delay, func() { b.flush(round) })
	}
	b.mu.Unlock()
	if f.isClosed() {
		b.remove(f) // Close may have done so before f was added
	}
}

// close ends the flusher, and waits for what it is doing.
func (b *flusher) close() {
	b.mu.Lock()
	b.closed = true
	b.waiting = nil
	b.stop()
	b.mu.Unlock()
	b.running.Wait()
}

// stop ends the timer; the caller holds b.mu.
func (b *flusher) stop() {
	if b.timer != nil && b.timer.Stop() {
		b.running.Done()
	}
	b.timer = nil
	b.round++
}

// remove takes f out, and the timer away with the last file.
func (b *flusher) remove(f *MappedFile) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, f)
	if len(b.waiting) == 0 {
		b.stop()
	}
}

func (b *flusher) flush(round int) {
	defer b.running.Done()
	b.mu.Lock()
	if round != b.round {
		b.mu.Unlock()
		return
	}
	files := b.waiting
	b.waiting = nil
	b.timer = nil
	b.mu.Unlock()
	for f := range files {
		if err := f.flushBehind(); err != nil && f.mfs.config.OnSyncError != nil {
			f.mfs.config.OnSyncError(f.Name(), f.wrap("sync", err))
		}
		if f.mfs.config.SyncMode == SyncPeriodic && f.awaitsFlush() {
			b.add(f, f.mfs.config.SyncInterval)
		}
	}
}
