// Package watched has a filesystem that tells a test which calls reach a file. It does not import
// memmapfs, so that the tests inside that package can use it too.
package watched

import (
	"os"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
)

// FS is the operating system's filesystem with a place for a test to stand: it is told of the
// calls that reach a file, and may delay them, fail them or leave them out. Its files offer their
// descriptor, so they are mapped like any others.
type FS struct {
	absfs.FileSystem

	// Hidden keeps the descriptor from being offered: then nothing is mapped.
	Hidden bool

	// ReadAt, unless nil, is called ahead of the file's.
	ReadAt func(n int, off int64)

	// ReadInstead, unless nil, is called in place of the file's ReadAt, which it is given.
	ReadInstead func(p []byte, read func() (int, error)) (int, error)

	// Sync, WriteAt and StatFile, which is in place of Stat, unless nil, are called in place of the file's method, which they are given.
	// They are set before the first file is opened.
	StatFile func(stat func() (os.FileInfo, error)) (os.FileInfo, error)
	Sync     func(name string, sync func() error) error
	WriteAt  func(name string, write func() (int, error)) (int, error)
}

// New returns an FS that passes every call on.
func New() *FS {
	plain, err := osfs.NewFS()
	if err != nil {
		panic(err)
	}
	return &FS{FileSystem: plain}
}

// Open is OpenFile for reading.
func (w *FS) Open(name string) (absfs.File, error) {
	return w.OpenFile(name, os.O_RDONLY, 0)
}

// Create is OpenFile for a new or emptied file.
func (w *FS) Create(name string) (absfs.File, error) {
	return w.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// OpenFile opens a file of the operating system, to be watched.
func (w *FS) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	opened, err := os.OpenFile(osfs.ToNative(name), flag, perm)
	if err != nil {
		return nil, err
	}
	if w.Hidden {
		return struct{ absfs.File }{&file{opened, w}}, nil
	}
	return &file{opened, w}, nil
}

type file struct {
	*os.File
	watch *FS
}

func (f *file) Sync() error {
	if f.watch.Sync == nil {
		return f.File.Sync()
	}
	return f.watch.Sync(f.Name(), f.File.Sync)
}

func (f *file) Stat() (os.FileInfo, error) {
	if f.watch.StatFile == nil {
		return f.File.Stat()
	}
	return f.watch.StatFile(f.File.Stat)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if f.watch.ReadAt != nil {
		f.watch.ReadAt(len(p), off)
	}
	read := func() (int, error) { return f.File.ReadAt(p, off) }
	if f.watch.ReadInstead == nil {
		return read()
	}
	return f.watch.ReadInstead(p, read)
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	write := func() (int, error) { return f.File.WriteAt(p, off) }
	if f.watch.WriteAt == nil {
		return write()
	}
	return f.watch.WriteAt(f.Name(), write)
}
