// Package memmapfs wraps an absfs.FileSystem so that its files are read and written through
// memory maps.
//
//	mfs := memmapfs.New(base, memmapfs.DefaultConfig())
//
// The map is an accelerator; the file is the truth. Every operation has the result that the
// wrapped file would have given. Where the map can serve a call it does, without a system call;
// everything else goes to the file: ranges past the end of the map, pages not known to be in
// memory, accesses that fault because the file was truncated or its disk is full, and files
// that cannot be mapped at all, or of which a map may show other bytes than the file.
//
// # What is mapped
//
// Regular files that are not empty and offer a descriptor by SyscallConn or Fd, and files of
// osfs, on filesystems where maps and calls are known to show the same bytes: local ones, but not
// FUSE or those of a network, nor read-only handles on overlayfs (see [MappingPolicy]). Opening
// maps nothing unless an option of the [Config] asks for it: a map is made by [MappedFile.Data],
// [MappedFile.View], [MappedFile.Prefetch], [MappedFile.LockMemory] or a hint, or when the reads
// and writes so far show that it will pay. One pass over a file by long calls never maps it.
//
// Whatever is opened is a *[MappedFile]. [MappedFile.Mapped] says whether it has a map at present,
// [MappedFile.MappingError] why calls get none, and Config.RequireMapping makes the lack of one an
// error of the open.
//
// # Modes
//
// [MappingMode] says how files are mapped and where writes go; what a handle may do is decided
// by its open flags. [ModeReadOnly], the default, sends writes to the file. [ModeReadWrite]
// stores into pages that were written a moment ago. [ModeCopyOnWrite] keeps writes in the handle.
// [ModeExecute] maps files executable.
//
// # Ways to the bytes
//
// Read, ReadAt, Write, WriteAt and the like copy, and give the wrapped file's result whatever
// happens to the file. [MappedFile.ReadBatch] is many reads in one call. [MappedFile.View] lends
// the bytes to a function without a copy, and a fault in them is an error; [ViewSlice] lends them
// as values of a type. [MappedFile.Data] gives the mapped bytes themselves; a fault in the
// caller's access to them ends the program. View, ViewSlice and Data show what the map shows.
//
// # Durability
//
// [MappedFile.Sync] makes everything written durable, in every mode and whichever way it was
// written, and [MappedFile.SyncRange] a range. [SyncMode] says when writes are durable without
// it. A flush in the background that fails is reported by the next Sync or Close, and at once
// to Config.OnSyncError.
//
// # Times
//
// After a write by a method the modification time has moved by the next Sync or Close, unless
// somebody has set it meanwhile. The access time is what maps make of it (mmap(2)): the system
// moves it when a file is mapped and with reads that go to the file, as the mount allows it, and
// not with reads that a map serves.
//
// # Concurrency
//
// All functions and methods may be called from many goroutines at the same time, Close
// included, as far as the wrapped filesystem and its files allow it. ReadAt of bytes that are
// mapped and in memory takes no lock (elsewhere than on Windows). Read, Write and Seek share
// the position of the handle. Goroutines that store to the same bytes have to agree on an
// order, as they do with a plain file.
//
// # Lifetime of results
//
// A slice from [MappedFile.Data] is valid until Truncate, RemapAfterTruncation or Close, the
// bytes that [MappedFile.View] lends until its function returns, the region of a [SharedMemory]
// until Close, Remove or Truncate of its file. On Windows [MemMapFS.Truncate] names what else
// ends a slice. After that an access faults, for as long as the comment of Data says.
//
// # Errors
//
// The methods of a file give *fs.PathError values, and io.EOF bare; [MappedFile.View] also
// returns what its function returned. The errors made here match, by errors.Is, the variables
// of this package and the errors of io/fs that have the same meaning. Errors of the wrapped
// filesystem are passed on. After Close every method of a file that returns an error reports
// fs.ErrClosed.
//
// # Systems
//
// Files are mapped on Linux, Android, macOS, iOS, FreeBSD, DragonFly BSD and Windows; on NetBSD,
// Solaris and illumos, which do not promise that maps and calls agree, for those who ask by name
// or with [MapAlways]. Elsewhere (OpenBSD, AIX, js/wasm, wasip1) everything works through the
// wrapped file, Data gives nil and View fails with [ErrNotMapped]. The comments of methods say
// where systems differ.
package memmapfs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/absfs/absfs"
)

// MemMapFS is an absfs.FileSystem, and an absfs.SymLinker, whose files are *MappedFile values
// over the files of the wrapped filesystem. All else is the wrapped filesystem's, errors and
// the meaning of names included. Its methods may be called at the same time as far as the
// wrapped filesystem allows it.
type MemMapFS struct {
	base    absfs.FileSystem
	invalid error // why every open fails
	handles handles
}

var (
	_ absfs.FileSystem = (*MemMapFS)(nil)
	_ absfs.SymLinker  = (*MemMapFS)(nil)
)

// New returns a filesystem that maps the files of underlying as config says. A nil config
// means DefaultConfig. New copies the config and does not fail: with an invalid one every
// open fails with an *fs.PathError that names the field and the value. A nil underlying
// panics.
func New(underlying absfs.FileSystem, config *Config) *MemMapFS {
	if underlying == nil {
		panic("memmapfs: New needs a filesystem to wrap, and got nil")
	}
	valid, err := config.validated()
	valid.WindowSize = windowBytes(valid.WindowSize)
	mfs := &MemMapFS{base: underlying, invalid: err}
	mfs.handles.config = valid
	mfs.handles.flusher.failed = func(u *unsyncedBytes, err error) {
		if valid.OnSyncError != nil {
			name := u.maps.file.Name()
			valid.OnSyncError(name, wrapError("sync", name, err))
		}
	}
	return mfs
}

// Open opens a file for reading. The file is a *MappedFile. Errors are the wrapped
// filesystem's. After Close they match fs.ErrClosed, with a Config that New found invalid
// fs.ErrInvalid; and Config.RequireMapping and LockPages can let an open fail. The same holds
// for OpenFile and Create.
func (mfs *MemMapFS) Open(name string) (absfs.File, error) {
	return mfs.opened(name, os.O_RDONLY, func() (absfs.File, error) { return mfs.base.Open(name) })
}

// OpenFile opens a file with the flags and, if it is created, the permissions that the wrapped
// filesystem takes. The file is a *MappedFile. With flags whose effect on reads and writes this
// package does not know (O_DIRECT, O_PATH) it is not mapped.
func (mfs *MemMapFS) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	return mfs.opened(name, flag, func() (absfs.File, error) { return mfs.base.OpenFile(name, flag, perm) })
}

// Create creates or truncates a file and opens it for reading and writing. The file is a
// *MappedFile.
func (mfs *MemMapFS) Create(name string) (absfs.File, error) {
	return mfs.opened(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, func() (absfs.File, error) { return mfs.base.Create(name) })
}

// opened returns the MappedFile of the file that open opens.
func (mfs *MemMapFS) opened(name string, flag int, open func() (absfs.File, error)) (absfs.File, error) {
	if mfs.invalid != nil {
		return nil, wrapError("open", name, mfs.invalid)
	}
	if mfs.handles.closed.Load() {
		return nil, wrapError("open", name, fs.ErrClosed)
	}
	var file absfs.File
	err := withoutShortage(func() (err error) {
		file, err = mfs.openBase(name, flag, open)
		return err
	})
	if err != nil {
		return nil, err
	}
	f, err := mfs.handles.openFile(file, flag)
	if err != nil {
		file.Close()
		return nil, wrapError("open", name, err)
	}
	return f, nil
}

// openBase calls open, which opens the file at name with flag.
func (mfs *MemMapFS) openBase(name string, flag int, open func() (absfs.File, error)) (file absfs.File, err error) {
	if flag&os.O_TRUNC == 0 {
		return open()
	}
	err = mfs.handles.withoutMaps(func() (err error) {
		file, err = open()
		return err
	}, mfs.at(name))
	return file, err
}

// at returns a function that describes the file at name.
func (mfs *MemMapFS) at(name string) func() (os.FileInfo, error) {
	return func() (os.FileInfo, error) { return mfs.describe(name) }
}

// describe is Stat for a comparison with os.SameFile. On Windows what Stat returns looks for the
// file's identity when it is compared, by the name; what an open file's returns knows it.
func (mfs *MemMapFS) describe(name string) (os.FileInfo, error) {
	if sysMapsHoldFiles {
		if file, err := mfs.base.Open(name); err == nil {
			defer file.Close()
			return file.Stat()
		}
	}
	return mfs.base.Stat(name)
}

// below returns such functions for the file at name and all that a directory of that name has in
// it. It looks only where withoutMaps has something to do.
func (mfs *MemMapFS) below(name string) (infos []func() (os.FileInfo, error)) {
	if !sysMapsHoldFiles || mfs.handles.mapped.Load() == 0 {
		return nil
	}
	info, err := mfs.Lstat(name)
	if err != nil {
		return nil
	}
	if !info.IsDir() {
		return append(infos, mfs.at(name))
	}
	entries, _ := mfs.base.ReadDir(name)
	for _, entry := range entries {
		infos = append(infos, mfs.below(path.Join(name, entry.Name()))...)
	}
	return infos
}

// Close closes the files that are mapped or have writes to flush, waits for flushes in the
// background, and lets all later opens, and all methods of files still open, fail with
// fs.ErrClosed. (The Close of a file that was neither still has its wrapped file to close.) It
// returns what the files' Close returned. The wrapped filesystem stays as it is. The second Close
// gives fs.ErrClosed.
func (mfs *MemMapFS) Close() error { return mfs.handles.close() }

// Sub returns an fs.FS of the tree below dir. Its files are *MappedFile values.
func (mfs *MemMapFS) Sub(dir string) (fs.FS, error) { return absfs.FilerToFS(mfs, dir) }

// Truncate changes the size of a file. A map that this filesystem has of it is not used past
// a smaller size.
//
// On Windows a file that is mapped can be neither truncated nor removed nor replaced. There
// Truncate, Remove, RemoveAll, Rename, opening with O_TRUNC and MappedFile.PunchHole first take
// away the maps that this filesystem has of the file, which ends slices from Data as
// MappedFile.Truncate does; the file is mapped again on need. A View that is running, or a map of
// another process or MemMapFS, keeps them from it: then they fail with an *fs.PathError wrapping
// the system's error (1224, ERROR_USER_MAPPED_FILE, of truncating), and nothing is changed. As
// with any file there, one that is open can be removed and renamed only if the wrapped filesystem
// opens files with FILE_SHARE_DELETE.
func (mfs *MemMapFS) Truncate(name string, size int64) error {
	err := mfs.handles.withoutMaps(func() error { return mfs.base.Truncate(name, size) }, mfs.at(name))
	if err != nil {
		return err
	}
	mfs.handles.resized(mfs.at(name))
	return nil
}

// ReadFile returns the contents of a file. One pass over a file gains nothing from a map, so it
// is the wrapped filesystem's.
func (mfs *MemMapFS) ReadFile(name string) (data []byte, err error) {
	err = withoutShortage(func() (err error) {
		data, err = mfs.base.ReadFile(name)
		return err
	})
	return data, err
}

// Chdir changes the directory to which relative names refer.
func (mfs *MemMapFS) Chdir(dir string) error { return mfs.base.Chdir(dir) }

// Getwd returns the directory to which relative names refer.
func (mfs *MemMapFS) Getwd() (string, error) { return mfs.base.Getwd() }

// TempDir returns the directory for temporary files.
func (mfs *MemMapFS) TempDir() string { return mfs.base.TempDir() }

// Mkdir makes a directory.
func (mfs *MemMapFS) Mkdir(name string, perm os.FileMode) error { return mfs.base.Mkdir(name, perm) }

// MkdirAll makes a directory and those above it that are missing.
func (mfs *MemMapFS) MkdirAll(name string, perm os.FileMode) error {
	return mfs.base.MkdirAll(name, perm)
}

// Remove removes a file or an empty directory. Open files stay readable where the wrapped
// filesystem has it so. For Windows see Truncate.
func (mfs *MemMapFS) Remove(name string) error {
	return mfs.handles.withoutMaps(func() error { return mfs.base.Remove(name) }, mfs.at(name))
}

// RemoveAll removes a file or a directory with all in it. For Windows see Truncate.
func (mfs *MemMapFS) RemoveAll(name string) error {
	return mfs.handles.withoutMaps(func() error { return mfs.base.RemoveAll(name) }, mfs.below(name)...)
}

// Rename renames a file or directory. Open files go on with the file they were opened on. For
// Windows see Truncate.
func (mfs *MemMapFS) Rename(oldname, newname string) error {
	return mfs.handles.withoutMaps(func() error { return mfs.base.Rename(oldname, newname) },
		append(mfs.below(oldname), mfs.at(newname))...)
}

// Stat describes the file at name.
func (mfs *MemMapFS) Stat(name string) (os.FileInfo, error) { return mfs.base.Stat(name) }

// Chmod changes the permissions of a file.
func (mfs *MemMapFS) Chmod(name string, mode os.FileMode) error {
	if err := mfs.base.Chmod(name, mode); err != nil {
		return err
	}
	// The next write takes setuid and setgid away, as write(2) does; a store would not.
	mfs.handles.each(mfs.at(name), func(f *MappedFile) { f.maps.endTerm() })
	return nil
}

// Chown changes the owner and group of a file.
func (mfs *MemMapFS) Chown(name string, uid, gid int) error { return mfs.base.Chown(name, uid, gid) }

// Chtimes changes the access and modification times of a file. Bytes that were stored through a
// map before do not change them again at the next Sync or Close.
func (mfs *MemMapFS) Chtimes(name string, atime, mtime time.Time) error {
	if err := mfs.base.Chtimes(name, atime, mtime); err != nil {
		return err
	}
	mfs.handles.each(mfs.at(name), func(f *MappedFile) { f.unsynced.timeWasSet() })
	return nil
}

// ReadDir returns the entries of a directory.
func (mfs *MemMapFS) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = withoutShortage(func() (err error) {
		entries, err = mfs.base.ReadDir(name)
		return err
	})
	return entries, err
}

// Lstat is Stat of a symbolic link itself. On a filesystem without links it is Stat.
func (mfs *MemMapFS) Lstat(name string) (os.FileInfo, error) {
	if linker, ok := mfs.base.(absfs.SymLinker); ok {
		return linker.Lstat(name)
	}
	return mfs.base.Stat(name)
}

// Lchown is Chown of a symbolic link itself. On a filesystem without links it fails with
// errors.ErrUnsupported.
func (mfs *MemMapFS) Lchown(name string, uid, gid int) error {
	if linker, ok := mfs.base.(absfs.SymLinker); ok {
		return linker.Lchown(name, uid, gid)
	}
	return wrapError("lchown", name, errors.ErrUnsupported)
}

// Readlink returns where a symbolic link points. On a filesystem without links it fails with
// errors.ErrUnsupported.
func (mfs *MemMapFS) Readlink(name string) (string, error) {
	if linker, ok := mfs.base.(absfs.SymLinker); ok {
		return linker.Readlink(name)
	}
	return "", wrapError("readlink", name, errors.ErrUnsupported)
}

// Symlink makes newname a symbolic link to oldname. On a filesystem without links it fails
// with an *os.LinkError wrapping errors.ErrUnsupported.
func (mfs *MemMapFS) Symlink(oldname, newname string) error {
	if linker, ok := mfs.base.(absfs.SymLinker); ok {
		return linker.Symlink(oldname, newname)
	}
	return &os.LinkError{Op: "symlink", Old: oldname, New: newname, Err: errors.ErrUnsupported}
}

// Stats are the numbers of a MemMapFS at one moment. Those of one field are exact, unless its
// comment says otherwise; two fields may be of moments that lie a little apart. It marshals to
// JSON, so that expvar.Func can publish it.
//
// Calls that a map served are not counted: counting would cost a good part of their time.
type Stats struct {
	// FilesOpen is the number of files opened and not closed. A handle that the program dropped
	// without Close stays counted.
	FilesOpen int64 `json:"filesOpen"`
	// FilesMapped is how many of them are mapped.
	FilesMapped int64 `json:"filesMapped"`
	// WindowsMapped is the number of maps in use: one for each file that is mapped as a whole, and one
	// for each window. A map made for one View, or kept only because Data has handed out its bytes,
	// is not counted.
	WindowsMapped int64 `json:"windowsMapped"`
	// BytesMapped is the size of these maps, in memory or not.
	BytesMapped int64 `json:"bytesMapped"`
	// WindowsDropped is the number of windows taken away for others since New: because
	// Config.MaxWindows was reached, or because the file had grown.
	WindowsDropped int64 `json:"windowsDropped"`

	// Files opened since New whose calls are not served from a map, by the reason (see
	// MappedFile.MappingError). The policy, a type that offers no descriptor and the open flags are
	// looked at by the open, all else when a map would pay or somebody asks.
	NotMappedPolicy       int64 `json:"notMappedPolicy"`       // Config.Mapping is MapNever; on Windows also O_RDWR in other modes than ModeReadWrite
	NotMappedNoDescriptor int64 `json:"notMappedNoDescriptor"` // the wrapped file offers none, or it cannot be had
	NotMappedKind         int64 `json:"notMappedKind"`         // not a regular file, or opened in a way that maps cannot serve
	NotMappedFilesystem   int64 `json:"notMappedFilesystem"`   // on a filesystem of which a map may show other bytes
	NotMappedTransformed  int64 `json:"notMappedTransformed"`  // the wrapped file shows other bytes than the map
	NotMappedRefused      int64 `json:"notMappedRefused"`      // the system refuses the map

	// Reads that went to the wrapped file since New, in calls of its Read and ReadAt, by the reason.
	// That is the one for the first byte of the call, as it was just before.
	ReadsCold     int64 `json:"readsCold"`     // mapped, but not known to be in memory, or so long that the file is faster
	ReadsPastEnd  int64 `json:"readsPastEnd"`  // past the end of the file as the map knows it
	ReadsUnmapped int64 `json:"readsUnmapped"` // not mapped: the file cannot be, or no map has paid yet

	// Writes that went to the wrapped file since New, in calls of its Write and WriteAt, by the reason.
	WritesCold     int64 `json:"writesCold"`     // the first ones to a page since it was mapped, flushed or punched out, and after 5 seconds
	WritesPastEnd  int64 `json:"writesPastEnd"`  // growth, and all of O_APPEND
	WritesUnmapped int64 `json:"writesUnmapped"` // not mapped, or not so that it can be stored to
	WritesFlushed  int64 `json:"writesFlushed"`  // a flush follows each: SyncImmediate, O_SYNC

	// Faults is the number of faults in mapped memory caught since New. One that Close caused is none.
	Faults int64 `json:"faults"`
	// Flushes is the number of flushes begun since New, of a file or a mapped range of it: asked for,
	// after a write, in the background and at Close.
	Flushes int64 `json:"flushes"`
	// FlushErrors is how many of them have failed.
	FlushErrors int64 `json:"flushErrors"`
}

// Stats returns the numbers of this moment. It waits for nothing and may be called at any time,
// also after Close.
func (mfs *MemMapFS) Stats() Stats {
	c := &mfs.handles.counters
	s := Stats{
		FilesOpen:      c.open.Load(),
		WindowsDropped: c.windowsDropped.Load(),
		ReadsCold:      c.readsCold.Load(),
		ReadsPastEnd:   c.readsPastEnd.Load(),
		ReadsUnmapped:  c.readsUnmapped.Load(),
		WritesCold:     c.writesCold.Load(),
		WritesPastEnd:  c.writesPastEnd.Load(),
		WritesUnmapped: c.writesUnmapped.Load(),
		WritesFlushed:  c.writesFlush.Load(),
		Faults:         c.faults.Load(),
		Flushes:        c.flushes.Load(),
		FlushErrors:    c.flushErrors.Load(),

		NotMappedPolicy:       c.notMapped[refusedByPolicy].Load(),
		NotMappedNoDescriptor: c.notMapped[refusedNoDescriptor].Load(),
		NotMappedKind:         c.notMapped[refusedKind].Load(),
		NotMappedFilesystem:   c.notMapped[refusedByFilesystem].Load(),
		NotMappedTransformed:  c.notMapped[refusedTransformed].Load(),
		NotMappedRefused:      c.notMapped[refusedBySystem].Load(),
	}
	for _, f := range mfs.handles.files() {
		before := s.WindowsMapped
		f.maps.windows.each(func(m *mapping) { // without a lock: one may be held for as long as the disk takes
			s.WindowsMapped++
			s.BytesMapped += int64(len(m.data))
		})
		if s.WindowsMapped > before {
			s.FilesMapped++
		}
	}
	return s
}
