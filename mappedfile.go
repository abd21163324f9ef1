package memmapfs

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"sync"
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
// be mapped at all, and those of which a map may show other bytes (see Config.Mapping).
//
// All methods may be called at the same time from many goroutines, as far as the wrapped
// file allows it. Errors are *fs.PathError, io.EOF excepted, and fs.ErrClosed after Close.
type MappedFile struct {
	maps     fileMaps
	handles  *handles
	place    *int // in handles.open; guarded by handles.mu
	position position
	unsynced unsyncedBytes
	private  *privateBytes // in place of the file's bytes; nil unless writes stay in the handle

	mayStore   bool            // a write may be no more than a store into a map
	preloading *sync.WaitGroup // nil unless the open has the file loaded in the background
}

var (
	_ absfs.File      = (*MappedFile)(nil)
	_ io.WriterTo     = (*MappedFile)(nil)
	_ io.ReaderFrom   = (*MappedFile)(nil)
	_ syscall.Conn    = (*MappedFile)(nil)
	_ fs.ReadDirFile  = (*MappedFile)(nil)
	_ io.StringWriter = (*MappedFile)(nil)
	_ registry        = (*MappedFile)(nil)
)

// wrap gives err the operation and the file's name. Errors of the wrapped file keep their own.
func (f *MappedFile) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return wrapError(op, f.maps.file.Name(), err)
}

// register enters the file where its MemMapFS finds it: see registry.
func (f *MappedFile) register() bool { return f.handles.register(f) }

// showsItsDescriptor tells another MemMapFS, which wraps this one, that the file's bytes are those
// of the descriptor that it offers.
func (f *MappedFile) showsItsDescriptor() {}

// Name returns the name that the wrapped file has.
func (f *MappedFile) Name() string { return f.maps.file.Name() }

// Mapped reports whether the file has a map at present. A file that can be mapped has none
// before the first need, nor directly after Truncate, nor after Close.
func (f *MappedFile) Mapped() bool {
	return f.maps.windows.hasLive() || f.private != nil && f.private.isLent()
}

// MappingError says why the file has no map and will get none for its calls, or nil: the policy
// (Config.Mapping), a filesystem of which a map may show other bytes than the file, a wrapped file
// that offers no descriptor or transforms what it reads, flags of the open, or what the system
// said when it refused. It matches ErrNotMapped, and the system's error where there is one. A file
// that was never mapped is looked at for the answer, which takes some system calls.
//
// View and Data, which ask for a map by name, may get one all the same: what it shows is then
// the map's.
func (f *MappedFile) MappingError() error {
	if f.maps.isClosed() {
		return f.wrap("map", fs.ErrClosed)
	}
	return f.wrap("map", f.maps.refusalNow())
}

// ReadAt reads len(p) bytes from offset off on. With fewer bytes before the end of the file it
// returns their number and io.EOF. A negative offset gives ErrInvalidOffset. The position
// stays.
func (f *MappedFile) ReadAt(p []byte, off int64) (int, error) {
	// This is readHot for what lies in one page of a file mapped as a whole. It is written out
	// because each call less, and each value less to keep over a call, lets the processor work on
	// more cache misses at a time. What was copied was inside the file if its last byte is not
	// zero: see mapping.reaches.
	m := f.maps.windows.whole.Load()
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
	if fault != nil || p[len(p)-1] == 0 && !m.reaches(start+int64(len(p))) {
		return f.readAtAny(p, off)
	}
	return len(p), nil
}

// readAtAny is ReadAt, whatever the range is and wherever it lies.
func (f *MappedFile) readAtAny(p []byte, off int64) (int, error) {
	if f.maps.readHot(p, off) {
		return len(p), nil
	}
	n, err := f.readAt(p, off)
	if f.maps.faults.Load() != nil {
		f.deliverFaults()
	}
	if err != nil {
		err = f.wrap("read", err)
	}
	return n, err
}

// readAt is the slow path: the head of p from what is mapped and in memory, the rest from
// the wrapped file, over it the private bytes.
func (f *MappedFile) readAt(p []byte, off int64) (n int, err error) {
	if f.maps.isClosed() {
		return 0, fs.ErrClosed
	}
	if off < 0 {
		return 0, ErrInvalidOffset
	}
	if len(p) == 0 || off > math.MaxInt64-int64(len(p)) {
		return f.maps.file.ReadAt(p, off)
	}
	if f.private == nil && !f.maps.mayServe() {
		return f.maps.readThroughFile(p, off)
	}
	if f.private == nil && f.maps.readsLong(len(p)) {
		head, began := f.maps.readLong(p, off)
		n, err = f.readRest(p, off, head)
		if err == nil && !began.IsZero() {
			f.maps.longReads.note(head == len(p), len(p), time.Since(began))
		}
		return n, err
	}
	return f.readRest(p, off, f.maps.readHead(p, off))
}

// readRest reads from the wrapped file what follows the head of p, and puts private bytes over it.
func (f *MappedFile) readRest(p []byte, off int64, head int) (int, error) {
	if head == len(p) {
		return head, nil
	}
	rest, at := p[head:], off+int64(head)
	n, err := f.maps.readThroughFile(rest, at)
	if n > 0 {
		f.maps.learnRead(rest[:n], at)
		if f.private != nil {
			if ended := f.private.overlay(rest[:n], at); ended != nil {
				return 0, ended
			}
		}
	}
	return head + n, err
}

// WriteAt writes p at offset off, as Write does at the position, which stays. A negative offset
// gives ErrInvalidOffset. On a handle opened with O_APPEND it does what the wrapped file does,
// which is to refuse.
func (f *MappedFile) WriteAt(p []byte, off int64) (int, error) {
	// As in ReadAt; that the bytes were stored inside the file is always to be proved.
	m := f.maps.windows.whole.Load()
	if m == nil || len(p) == 0 || !sysRevokesInPlace || !f.mayStore {
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
	if fault != nil || !m.reaches(start+int64(len(p))) {
		return f.writeAtAny(p, off)
	}
	f.unsynced.noteStore()
	if f.maps.closed.Load() {
		return 0, f.wrap("write", fs.ErrClosed) // Close may have looked for the note before
	}
	return len(p), nil
}

// writeAtAny is WriteAt, whatever the range is and wherever it lies.
func (f *MappedFile) writeAtAny(p []byte, off int64) (int, error) {
	if f.mayStore && len(p) > 0 {
		if m := f.maps.windows.at(off); m != nil && f.maps.storeIn(m, p, off) {
			f.unsynced.noteStore()
			if f.maps.closed.Load() {
				return 0, f.wrap("write", fs.ErrClosed)
			}
			return len(p), nil
		}
	}
	n, err := f.writeAt(p, off)
	f.deliverFaults()
	return n, f.wrap("write", err)
}

// writeAt is the slow path of WriteAt.
func (f *MappedFile) writeAt(p []byte, off int64) (n int, err error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	if f.private != nil {
		return f.private.write(p, off)
	}
	if err := f.unsynced.beginWrite(); err != nil {
		return 0, err
	}
	defer f.unsynced.endWrite()
	if f.maps.flag&os.O_APPEND != 0 {
		return f.maps.file.WriteAt(p, off)
	}
	if off < 0 {
		return 0, ErrInvalidOffset
	}
	if len(p) == 0 || off > math.MaxInt64-int64(len(p)) {
		return f.maps.file.WriteAt(p, off)
	}
	head := 0
	// Where a flush follows, writing through the file is faster: a store into a page that was
	// flushed faults, and makes the whole large page dirty that it lies in.
	flushed := f.maps.flag&os.O_SYNC != 0 || f.maps.host.config.SyncMode == SyncImmediate
	if f.maps.writable && (!flushed || !f.maps.learns()) {
		head = f.maps.writeHead(p, off)
	}
	if head < len(p) {
		n, err = f.maps.writeThrough(p[head:], off+int64(head))
	}
	if head+n == 0 {
		return 0, err
	}
	if head > 0 {
		f.unsynced.noteStore()
		if f.maps.flag&os.O_SYNC != 0 {
			err = join(err, f.unsynced.flushRange(off, int64(head)))
		}
	}
	return head + n, join(err, f.unsynced.wrote(off, head+n))
}

// writable returns the error with which a write is refused whatever its range is. The wrapped
// file refuses what its own flags do not allow.
func (f *MappedFile) writable() error {
	if f.maps.isClosed() {
		return fs.ErrClosed
	}
	switch f.maps.host.config.Mode {
	case ModeReadOnly, ModeExecute:
		if f.maps.access() == os.O_RDONLY {
			return ErrWriteToReadOnlyMap
		}
	}
	return nil
}

// Close takes the map away, flushes what the SyncMode promises to be durable and closes the
// wrapped file. Calls under way end with a complete result or fs.ErrClosed; with SyncPeriodic and
// SyncLazy it waits for writes under way through the wrapped file, so that the flush covers them.
// Slices from Data fault from here on. A background flush that failed and was not yet reported is
// reported here. The second Close gives fs.ErrClosed.
func (f *MappedFile) Close() error {
	return f.close(f.handles.closed.Load())
}

// close is Close. After that of the filesystem it is late: what is left to do is done, and the
// error is fs.ErrClosed.
//
// The order is: nothing new begins; private bytes end; the maps are taken away, so that no store
// can come any more; what was stored and written is flushed; the descriptors are closed.
func (f *MappedFile) close(late bool) error {
	if !f.maps.closed.CompareAndSwap(false, true) {
		return f.wrap("close", fs.ErrClosed)
	}
	if f.maps.faults.Load() != nil {
		globalSIGBUSHandler.Unregister(f)
	}
	f.maps.host.counters.open.Add(-1)
	if f.preloading != nil {
		f.preloading.Wait()
	}
	if f.private != nil {
		f.private.end()
	}
	var err error
	if f.maps.known.Load() || f.unsynced.needsEnd() {
		f.handles.forget(f)
		exposed := f.unsynced.exposed.Load()
		err = f.maps.end()
		if exposed {
			f.unsynced.endExposure()
		}
		err = join(err, f.unsynced.flushAtClose())
	}
	if f.maps.descriptor.Load() != nil {
		err = join(err, f.maps.closeDescriptor())
	}
	if err = join(err, f.maps.finish()); err == nil && late {
		err = fs.ErrClosed
	}
	return f.wrap("close", err)
}

// Stat returns what the wrapped file's Stat returns.
func (f *MappedFile) Stat() (fs.FileInfo, error) {
	if f.maps.isClosed() {
		return nil, f.wrap("stat", fs.ErrClosed)
	}
	info, err := f.maps.stat()
	return info, f.wrap("stat", err)
}

// Truncate changes the size of the file and leaves the position alone. The map is taken away,
// and made again when it is next needed: slices from Data fault afterwards. In ModeCopyOnWrite
// it is refused with an error wrapping errors.ErrUnsupported, and on a handle opened with O_RDONLY
// as Write is. On Windows it fails while a View of the file is running, or others have the file
// mapped: see MemMapFS.Truncate.
func (f *MappedFile) Truncate(size int64) error {
	return f.wrap("truncate", f.truncate(size))
}

func (f *MappedFile) truncate(size int64) error {
	if err := f.writable(); err != nil {
		return err
	}
	if f.private != nil {
		return errCopyOnWriteSize
	}
	if err := f.unsynced.beginWrite(); err != nil {
		return err
	}
	defer f.unsynced.endWrite()
	f.unmap()
	err := f.handles.withoutMaps(func() error { return f.maps.file.Truncate(size) }, f.maps.stat)
	if err != nil {
		return err
	}
	f.handles.resized(f.maps.stat)
	return f.unsynced.wrote(0, 0)
}

// unmap takes the map away until it is next needed. Data waits until all of that is done.
func (f *MappedFile) unmap() {
	f.maps.windows.mu.Lock()
	defer f.maps.windows.mu.Unlock()
	f.maps.unmapLocked()
	f.unsynced.endExposure()
}

// Readdir reads the directory as the wrapped file does.
func (f *MappedFile) Readdir(n int) (infos []os.FileInfo, err error) {
	err = f.readDirectory(func() (err error) {
		infos, err = f.maps.file.Readdir(n)
		return err
	})
	return infos, err
}

// Readdirnames reads the directory as the wrapped file does.
func (f *MappedFile) Readdirnames(n int) (names []string, err error) {
	err = f.readDirectory(func() (err error) {
		names, err = f.maps.file.Readdirnames(n)
		return err
	})
	return names, err
}

// ReadDir reads the directory as the wrapped file does.
func (f *MappedFile) ReadDir(n int) (entries []fs.DirEntry, err error) {
	err = f.readDirectory(func() (err error) {
		entries, err = f.maps.file.ReadDir(n)
		return err
	})
	return entries, err
}

// readDirectory calls read while the wrapped file is kept from being closed: package os crashes
// when a directory is closed while it is read.
func (f *MappedFile) readDirectory(read func() error) error {
	err := f.maps.hold(func() error {
		if f.maps.isClosed() {
			return fs.ErrClosed
		}
		return read()
	})
	return f.wrap("readdir", err)
}

// SyscallConn gives access to the wrapped file's descriptor, if it offers one; otherwise the
// error wraps errors.ErrUnsupported. A copy-on-write file has none that shows its contents. The
// descriptor is the wrapped file's, and ends with Close.
func (f *MappedFile) SyscallConn() (syscall.RawConn, error) {
	if f.maps.isClosed() {
		return nil, f.wrap("SyscallConn", fs.ErrClosed)
	}
	if file, ok := f.maps.file.(syscall.Conn); ok && f.private == nil {
		conn, err := file.SyscallConn()
		return conn, f.wrap("SyscallConn", err)
	}
	return nil, f.wrap("SyscallConn", errors.ErrUnsupported)
}

// Sync makes everything written to the file durable, in every mode and whichever way it was
// written: through this handle, through Data or View, or by others. It returns the error of
// an earlier background flush that failed and was not yet reported. After one that failed the next
// write of each page goes through the wrapped file, which refuses what cannot be kept. On Windows
// a handle that is not open for writing cannot flush a file: there the error is the wrapped
// file's, which matches fs.ErrPermission, but in ModeCopyOnWrite, where nothing that the handle
// has written is to be flushed, it is nil.
func (f *MappedFile) Sync() error {
	if f.maps.isClosed() {
		return f.wrap("sync", fs.ErrClosed)
	}
	return f.wrap("sync", f.unsynced.sync())
}

// SyncRange makes the n bytes from off on durable, with the size of the file as far as they
// need it. Where it can it flushes nothing else. A negative argument gives ErrInvalidOffset. While
// a flush in the background has failed and neither Sync nor Close has reported it, it fails with
// that error, because the bytes of the range may be among those that were lost.
func (f *MappedFile) SyncRange(off, n int64) error {
	switch {
	case f.maps.isClosed():
		return f.wrap("sync", fs.ErrClosed)
	case off < 0 || n < 0:
		return f.wrap("sync", ErrInvalidOffset)
	case n == 0:
		return nil
	}
	return f.wrap("sync", f.unsynced.syncRange(off, n))
}

// SyncAsync starts a flush of the file in the background and promises no more than that. Its
// error is returned by the next Sync or Close, and given to Config.OnSyncError at once.
func (f *MappedFile) SyncAsync() error {
	if f.maps.isClosed() {
		return f.wrap("sync", fs.ErrClosed)
	}
	f.unsynced.dirty.Store(true)
	f.unsynced.flusher.add(&f.unsynced, 0)
	return nil
}
