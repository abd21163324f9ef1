// Package memmapfs wraps an absfs.FileSystem so that its files are read and written through
// memory maps.
//
//	mfs := memmapfs.New(base, memmapfs.DefaultConfig())
//
// The map is an accelerator; the file is the truth. Every operation has the result that the
// wrapped file would have given. Where the map can serve a call it does, without a system call;
// everything else goes to the file: ranges past the end of the map, pages not known to be in
// memory, accesses that fault because the file was truncated or its disk is full, and files
// that cannot be mapped at all.
//
// # What is mapped
//
// Regular files that are not empty and offer a descriptor by SyscallConn or Fd, and files of
// osfs. Opening maps nothing unless an option of the [Config] asks for it: a map is made by
// [MappedFile.Data], [MappedFile.View], [MappedFile.Prefetch], [MappedFile.LockMemory] or a
// hint, or when the reads and writes so far show that it will pay. One pass over a file by
// calls of 8 KiB and more never maps it. Whatever is opened is a *[MappedFile];
// [MappedFile.Mapped] says whether it has a map at present, and Config.RequireMapping makes the
// lack of one an error of the open.
//
// # Modes
//
// [MappingMode] says how files are mapped and where writes go; what a handle may do is decided
// by its open flags. [ModeReadOnly], the default, sends writes to the file. [ModeReadWrite]
// stores into pages that were written before. [ModeCopyOnWrite] keeps writes in the handle.
// [ModeExecute] maps files executable.
//
// # Ways to the bytes
//
// Read, ReadAt, Write, WriteAt and the like copy, and give the wrapped file's result whatever
// happens to the file. [MappedFile.View] lends the bytes to a function without a copy, and a
// fault in them is an error. [MappedFile.Data] gives the mapped bytes themselves; a fault in
// the caller's access to them ends the program.
//
// # Durability
//
// [MappedFile.Sync] makes everything written durable, in every mode and whichever way it was
// written, and [MappedFile.SyncRange] a range. [SyncMode] says when writes are durable without
// it. A flush in the background that fails is reported by the next Sync or Close, and at once
// to Config.OnSyncError.
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
// Files are mapped on Linux, Android, macOS, iOS, FreeBSD, NetBSD, DragonFly BSD, Solaris,
// illumos and Windows. Elsewhere (OpenBSD, AIX, js/wasm, wasip1) everything works through the
// wrapped file, Data gives nil and View fails with [ErrNotMapped]. The comments of methods say
// where systems differ.
package memmapfs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/absfs/absfs"
)

// MemMapFS is an absfs.FileSystem, and an absfs.SymLinker, whose files are *MappedFile values
// over the files of the wrapped filesystem. All else is the wrapped filesystem's, errors and
// the meaning of names included. Its methods may be called at the same time as far as the
// wrapped filesystem allows it.
type MemMapFS struct {
	base    absfs.FileSystem
	config  Config
	invalid error // why every open fails

	closed  atomic.Bool
	flusher flusher
	mapped  atomic.Int64 // open files that were ever mapped

	changing sync.Mutex // held while several files' windows.mu are: see withoutMaps
	counters *counters

	mu     sync.Mutex                 // guards the fields below; no lock is taken under it
	open   []weak.Pointer[MappedFile] // see remember
	swept  int                        // len(open) at which the entries of lost handles are taken out next
	ageing *time.Timer
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
	return &MemMapFS{base: underlying, config: valid, invalid: err, counters: new(counters)}
}

// Open opens a file for reading. The file is a *MappedFile. Errors are the wrapped
// filesystem's. After Close they match fs.ErrClosed, with a Config that New found invalid
// fs.ErrInvalid; and Config.RequireMapping and LockPages can let an open fail. The same holds
// for OpenFile and Create.
func (mfs *MemMapFS) Open(name string) (absfs.File, error) {
	return mfs.opened(name, os.O_RDONLY, func() (absfs.File, error) { return mfs.base.Open(name) })
}

// OpenFile opens a file with the flags and, if it is created, the permissions that the wrapped
// filesystem takes. The file is a *MappedFile. With other flags than those of package os
// (O_DIRECT, O_PATH) it is not mapped.
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
	if mfs.closed.Load() {
		return nil, wrapError("open", name, fs.ErrClosed)
	}
	file, err := mfs.openBase(name, flag, open)
	if err != nil && sysIsShortage(err) && mfs.dropDescriptors() {
		file, err = mfs.openBase(name, flag, open)
	}
	if err != nil {
		return nil, err
	}
	f, err := mfs.newFile(file, flag)
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
	err = mfs.withoutMaps(func() (err error) {
		file, err = open()
		return err
	}, mfs.at(name))
	return file, err
}

// newFile makes a MappedFile of file, which was opened with flag.
func (mfs *MemMapFS) newFile(file absfs.File, flag int) (*MappedFile, error) {
	f := &MappedFile{file: file, mfs: mfs, flag: flag}
	if !offersDescriptor(file) {
		f.unmappable.Store(true)
	}
	f.windows.size = wholeFile
	f.windows.budget = mfs.config.MaxWindows
	if !mfs.config.MapFullFile {
		f.windows.size = mfs.config.WindowSize
	}
	mode := mfs.config.Mode
	if mode == ModeCopyOnWrite {
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() && info.Size() > 0 {
			f.writesStay = true
			f.store = new(pageStore)
			f.ownsPos.Store(true)
		} else {
			mode = ModeReadWrite
		}
	}
	// Where read and write calls need not agree with maps, a mapped range is read and written
	// through maps alone, also by a handle whose map is read-only. A store into the bytes that Data
	// and View lend has to be a fault there, so such a handle has a second map to store in.
	f.storesApart = !sysMapsAgreeWithIO && flag&accessMode == os.O_RDWR && (mode == ModeReadOnly || mode == ModeExecute)
	f.mapsWritable = flag&accessMode == os.O_RDWR && mode == ModeReadWrite || f.storesApart
	f.mayStore = flag&(os.O_APPEND|os.O_SYNC) == 0 &&
		(f.writesStay || f.mapsWritable && mfs.config.SyncMode != SyncImmediate)
	if flag&os.O_TRUNC != 0 {
		mfs.shrunk(f.stat)
	}
	if mfs.config.NoCache {
		f.bypassCache()
	}
	if err := f.mapAtOpen(); err != nil {
		f.closed.Store(true)
		mfs.forget(f)
		return nil, err
	}
	mfs.counters.open.Add(1)
	return f, nil
}

// remember adds f to the files that MemMapFS has to know: those that were ever mapped, and those
// with writes to flush. It reports false if the filesystem is closed. It holds f weakly, so that a
// handle dropped without Close is collected, as an os.File is.
func (mfs *MemMapFS) remember(f *MappedFile) bool {
	f.known.Store(true) // before closed is looked at: Close does it the other way round
	mfs.mu.Lock()
	defer mfs.mu.Unlock()
	if mfs.closed.Load() || f.closed.Load() {
		return false
	}
	if f.slot > 0 {
		return true
	}
	if len(mfs.open) >= max(mfs.swept, 64) {
		live := mfs.open[:0]
		for _, entry := range mfs.open {
			if other := entry.Value(); other != nil {
				live = append(live, entry)
				other.slot = len(live)
			}
		}
		clear(mfs.open[len(live):])
		mfs.open = live
		mfs.swept = 2 * len(live)
	}
	mfs.open = append(mfs.open, weak.Make(f))
	f.slot = len(mfs.open)
	return true
}

// forget takes f, which is being closed, out again.
func (mfs *MemMapFS) forget(f *MappedFile) {
	mfs.flusher.remove(f)
	mfs.mu.Lock()
	defer mfs.mu.Unlock()
	if f.slot == 0 {
		return
	}
	last := mfs.open[len(mfs.open)-1]
	mfs.open[f.slot-1] = last
	if other := last.Value(); other != nil {
		other.slot = f.slot
	}
	mfs.open[len(mfs.open)-1] = weak.Pointer[MappedFile]{}
	mfs.open = mfs.open[:len(mfs.open)-1]
	f.slot = 0
}

// files returns the files that MemMapFS has to know.
func (mfs *MemMapFS) files() []*MappedFile {
	mfs.mu.Lock()
	defer mfs.mu.Unlock()
	var files []*MappedFile
	for _, entry := range mfs.open {
		if f := entry.Value(); f != nil {
			files = append(files, f)
		}
	}
	return files
}

// eachMap calls fn for every open file that was ever mapped and is the one at name, with what
// describes it now. The caller of fn holds the file's windows.mu.
func (mfs *MemMapFS) eachMap(name string, fn func(f *MappedFile, info os.FileInfo)) {
	if mfs.mapped.Load() > 0 {
		if info, err := mfs.describe(name); err == nil {
			mfs.eachMapOf(info, fn)
		}
	}
}

func (mfs *MemMapFS) eachMapOf(info os.FileInfo, fn func(f *MappedFile, info os.FileInfo)) {
	for _, f := range mfs.files() {
		f.windows.mu.Lock()
		if f.identity != nil && os.SameFile(f.identity, info) {
			fn(f, info)
		}
		f.windows.mu.Unlock()
	}
}

// shrunk tells the maps of the file that stat describes, by all its handles, that it may have become
// smaller.
func (mfs *MemMapFS) shrunk(stat func() (os.FileInfo, error)) {
	if mfs.mapped.Load() > 0 {
		if info, err := stat(); err == nil {
			mfs.eachMapOf(info, lowerLimits)
		}
	}
}

// lowerLimits keeps a file's maps from being used past the end of the file.
func lowerLimits(f *MappedFile, info os.FileInfo) {
	for _, m := range f.windows.live {
		m.lower(info.Size())
	}
}

// withoutMaps calls change, which makes the file that each of infos describes smaller, or takes it
// away from its name. Where a map keeps the system from doing that, these files have no map of this
// filesystem meanwhile, but for those that a View uses; they are mapped again on need.
func (mfs *MemMapFS) withoutMaps(change func() error, infos ...func() (os.FileInfo, error)) error {
	if !sysMapsHoldFiles || mfs.mapped.Load() == 0 {
		return heldByMap(change())
	}
	var targets []os.FileInfo
	for _, info := range infos {
		if target, err := info(); err == nil {
			targets = append(targets, target)
		}
	}
	mfs.changing.Lock()
	defer mfs.changing.Unlock()
	for _, f := range mfs.files() {
		f.windows.mu.Lock()
		if !f.isOneOf(targets) {
			f.windows.mu.Unlock()
			continue
		}
		defer f.windows.mu.Unlock() // after change
		f.letGo()
	}
	return heldByMap(change())
}

// isOneOf reports whether a file that was ever mapped is among targets. The caller holds
// f.windows.mu.
func (f *MappedFile) isOneOf(targets []os.FileInfo) bool {
	return f.identity != nil && slices.ContainsFunc(targets, func(target os.FileInfo) bool {
		return os.SameFile(f.identity, target)
	})
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

// below returns such functions for the file at name and all that a directory of that name has in it.
// It looks only where withoutMaps has something to do.
func (mfs *MemMapFS) below(name string) (infos []func() (os.FileInfo, error)) {
	if !sysMapsHoldFiles || mfs.mapped.Load() == 0 {
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

// dropDescriptors closes the descriptors that the files can do without, and reports whether there
// were any.
func (mfs *MemMapFS) dropDescriptors() (dropped bool) {
	if mfs.mapped.Load() == 0 {
		return false
	}
	for _, f := range mfs.files() {
		f.windows.mu.Lock()
		if f.keptForProbes {
			f.dropDescriptor()
			dropped = true
		}
		f.windows.mu.Unlock()
	}
	return dropped
}

// startAgeing has the maps forget from time to time which pages are in memory.
func (mfs *MemMapFS) startAgeing() {
	mfs.mu.Lock()
	defer mfs.mu.Unlock()
	if mfs.ageing == nil && !mfs.closed.Load() {
		mfs.ageing = time.AfterFunc(residencyAge, mfs.age)
	}
}

func (mfs *MemMapFS) age() {
	mapped := false
	for _, f := range mfs.files() {
		if f.windows.any() {
			mapped = true
			f.windows.each((*mapping).forget)
		}
	}
	mfs.mu.Lock()
	defer mfs.mu.Unlock()
	if mfs.closed.Load() {
		return
	}
	if mapped {
		mfs.ageing.Reset(residencyAge)
	} else {
		mfs.ageing = nil
	}
}

// Close closes the files that are mapped or have writes to flush, waits for flushes in the
// background, and lets all later opens, and all methods of files still open, fail with fs.ErrClosed.
// (The Close of a file that was neither still has its wrapped file to close.) It returns what the
// files' Close returned. The wrapped filesystem stays as it is. The second Close gives fs.ErrClosed.
func (mfs *MemMapFS) Close() error {
	mfs.mu.Lock()
	if mfs.closed.Load() {
		mfs.mu.Unlock()
		return fs.ErrClosed
	}
	mfs.closed.Store(true)
	if mfs.ageing != nil {
		mfs.ageing.Stop()
	}
	mfs.mu.Unlock()
	var err error
	for _, f := range mfs.files() {
		if closeErr := f.close(false); !errors.Is(closeErr, fs.ErrClosed) {
			err = join(err, closeErr)
		}
	}
	mfs.flusher.close()
	return err
}

// Sub returns an fs.FS of the tree below dir. Its files are *MappedFile values.
func (mfs *MemMapFS) Sub(dir string) (fs.FS, error) { return absfs.FilerToFS(mfs, dir) }

// Truncate changes the size of a file. A map that this filesystem has of it is not used past
// a smaller size.
//
// On Windows a file that is mapped can be neither truncated nor removed nor replaced. There Truncate,
// Remove, RemoveAll, Rename, opening with O_TRUNC and MappedFile.PunchHole first take away the maps that this filesystem
// has of the file, which ends slices from Data as MappedFile.Truncate does; the file is mapped again
// on need. A View that is running, or a map of another process or MemMapFS, keeps them from it: then
// they fail with an *fs.PathError wrapping the system's error (1224, ERROR_USER_MAPPED_FILE, of
// truncating), and nothing is changed. As with any file there, one that is open can be removed
// and renamed only if the wrapped filesystem opens files with FILE_SHARE_DELETE.
func (mfs *MemMapFS) Truncate(name string, size int64) error {
	err := mfs.withoutMaps(func() error { return mfs.base.Truncate(name, size) }, mfs.at(name))
	if err != nil {
		return err
	}
	mfs.eachMap(name, lowerLimits)
	return nil
}

// ReadFile returns the contents of a file. One pass over a file gains nothing from a map, so it
// is the wrapped filesystem's.
func (mfs *MemMapFS) ReadFile(name string) ([]byte, error) { return mfs.base.ReadFile(name) }

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
	return mfs.withoutMaps(func() error { return mfs.base.Remove(name) }, mfs.at(name))
}

// RemoveAll removes a file or a directory with all in it. For Windows see Truncate.
func (mfs *MemMapFS) RemoveAll(name string) error {
	return mfs.withoutMaps(func() error { return mfs.base.RemoveAll(name) }, mfs.below(name)...)
}

// Rename renames a file or directory. Open files go on with the file they were opened on. For Windows
// see Truncate.
func (mfs *MemMapFS) Rename(oldname, newname string) error {
	return mfs.withoutMaps(func() error { return mfs.base.Rename(oldname, newname) },
		append(mfs.below(oldname), mfs.at(newname))...)
}

// Stat describes the file at name.
func (mfs *MemMapFS) Stat(name string) (os.FileInfo, error) { return mfs.base.Stat(name) }

// Chmod changes the permissions of a file.
func (mfs *MemMapFS) Chmod(name string, mode os.FileMode) error { return mfs.base.Chmod(name, mode) }

// Chown changes the owner and group of a file.
func (mfs *MemMapFS) Chown(name string, uid, gid int) error { return mfs.base.Chown(name, uid, gid) }

// Chtimes changes the access and modification times of a file. Bytes that were stored through a
// map before do not change them again.
func (mfs *MemMapFS) Chtimes(name string, atime, mtime time.Time) error {
	if err := mfs.base.Chtimes(name, atime, mtime); err != nil {
		return err
	}
	mfs.eachMap(name, func(f *MappedFile, _ os.FileInfo) { f.unsynced.stored.Store(false) })
	return nil
}

// ReadDir returns the entries of a directory.
func (mfs *MemMapFS) ReadDir(name string) ([]fs.DirEntry, error) { return mfs.base.ReadDir(name) }

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
