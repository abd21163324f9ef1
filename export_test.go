package memmapfs

import (
	"os"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
)

// HookSyncMap has hook called in place of each flush of a mapped range, with the flush as its last
// argument, until restore is called. Nothing may be flushing meanwhile.
func HookSyncMap(hook func(data []byte, flush func(data []byte) error) error) (restore func()) {
	flush := system.syncMap
	system.syncMap = func(data []byte) error { return hook(data, flush) }
	return func() { system.syncMap = flush }
}

// StoredThroughMap reports whether bytes were stored through the map since the last Sync.
func StoredThroughMap(f *MappedFile) bool { return f.unsynced.stored.Load() }

// FlushFailed reports whether a background flush has left an error for the next Sync or Close.
func FlushFailed(f *MappedFile) bool {
	f.unsynced.mu.Lock()
	defer f.unsynced.mu.Unlock()
	return f.unsynced.err != nil
}

// WatchedFS is the operating system's filesystem with a place for a test to stand: it is told of the
// calls that reach a file, and may delay them, fail them or leave them out. Its files offer their
// descriptor, so they are mapped like any others.
type WatchedFS struct {
	absfs.FileSystem

	// Sync and WriteAt, unless nil, are called in place of the file's method, which they are given.
	// They are set before the first file is opened.
	Sync    func(name string, sync func() error) error
	WriteAt func(name string, write func() (int, error)) (int, error)
}

// NewWatchedFS returns a WatchedFS that passes every call on.
func NewWatchedFS() *WatchedFS {
	plain, err := osfs.NewFS()
	if err != nil {
		panic(err)
	}
	return &WatchedFS{FileSystem: plain}
}

func (w *WatchedFS) Open(name string) (absfs.File, error) {
	return w.OpenFile(name, os.O_RDONLY, 0)
}

func (w *WatchedFS) Create(name string) (absfs.File, error) {
	return w.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

func (w *WatchedFS) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := os.OpenFile(osfs.ToNative(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return &watchedFile{file, w}, nil
}

type watchedFile struct {
	*os.File
	watch *WatchedFS
}

func (f *watchedFile) Sync() error {
	if f.watch.Sync == nil {
		return f.File.Sync()
	}
	return f.watch.Sync(f.Name(), f.File.Sync)
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	write := func() (int, error) { return f.File.WriteAt(p, off) }
	if f.watch.WriteAt == nil {
		return write()
	}
	return f.watch.WriteAt(f.Name(), write)
}
