package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleFS is a vfs.FS of pebble whose files are those of an absfs.FileSystem. What absfs has no
// words for (hard links, the lock of a directory, the space on the disk) is pebble's own.
type pebbleFS struct {
	vfs.FS
	files absfs.FileSystem
}

// newPebbleFS returns the vfs.FS for a database on files, which are those of the system.
func newPebbleFS(files absfs.FileSystem) vfs.FS { return pebbleFS{vfs.Default, files} }

func (f pebbleFS) open(name string, flag int, options ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.files.OpenFile(osfs.FromNative(name), flag, 0o666)
	if err != nil {
		return nil, err
	}
	opened := pebbleFile{file}
	for _, option := range options {
		option.Apply(opened)
	}
	return opened, nil
}

// Create gives each file an inode of its own: the old one may have other names.
func (f pebbleFS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	for {
		file, err := f.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		if !errors.Is(err, fs.ErrExist) {
			return file, err
		}
		if err := f.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func (f pebbleFS) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	return f.open(name, os.O_RDONLY, options...)
}

func (f pebbleFS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, options ...vfs.OpenOption) (vfs.File, error) {
	return f.open(name, os.O_RDWR|os.O_CREATE, options...)
}

func (f pebbleFS) OpenDir(name string) (vfs.File, error) { return f.open(name, os.O_RDONLY) }

func (f pebbleFS) ReuseForWrite(oldName, newName string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Rename(oldName, newName); err != nil {
		return nil, err
	}
	return f.OpenReadWrite(newName, category)
}

func (f pebbleFS) Remove(name string) error    { return f.files.Remove(osfs.FromNative(name)) }
func (f pebbleFS) RemoveAll(name string) error { return f.files.RemoveAll(osfs.FromNative(name)) }

func (f pebbleFS) Rename(oldName, newName string) error {
	return f.files.Rename(osfs.FromNative(oldName), osfs.FromNative(newName))
}

func (f pebbleFS) MkdirAll(name string, perm os.FileMode) error {
	return f.files.MkdirAll(osfs.FromNative(name), perm)
}

func (f pebbleFS) List(name string) ([]string, error) {
	entries, err := f.files.ReadDir(osfs.FromNative(name))
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, err
}

func (f pebbleFS) Stat(name string) (vfs.FileInfo, error) {
	return pebbleInfo(f.files.Stat(osfs.FromNative(name)))
}

// pebbleFile is an open file, or a directory to be synced.
type pebbleFile struct{ absfs.File }

func (f pebbleFile) Stat() (vfs.FileInfo, error) { return pebbleInfo(f.File.Stat()) }

// Fd keeps pebble from asking the system for things behind the file's back.
func (pebbleFile) Fd() uintptr { return vfs.InvalidFd }

func (pebbleFile) Preallocate(int64, int64) error { return nil }

func (f pebbleFile) SyncData() error { return f.Sync() }

func (f pebbleFile) SyncTo(int64) (fullSync bool, err error) {
	err = f.Sync()
	return err == nil, err
}

// Prefetch asks for the bytes without waiting for them.
func (f pebbleFile) Prefetch(off, length int64) error {
	if mapped, ok := f.File.(*memmapfs.MappedFile); ok && mapped.Mapped() {
		return mapped.AdviseRange(off, length, memmapfs.AdviceWillNeed)
	}
	return nil
}

type fileInfo struct{ os.FileInfo }

// DeviceID is the same for all: pebble uses it to tell the disks of several stores apart.
func (fileInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

func pebbleInfo(info os.FileInfo, err error) (vfs.FileInfo, error) {
	if err != nil {
		return nil, err
	}
	return fileInfo{info}, nil
}
