package memmapfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/absfs/absfs"
)

// SharedMemoryConfig says what CreateSharedMemory creates.
type SharedMemoryConfig struct {
	// Path of the file, in the system's own form. It must be set; directories that are
	// missing are made.
	Path string

	// Size of the region in bytes. It must be positive. A smaller file grows to it; a larger
	// one keeps its size, and its first Size bytes are the region.
	Size int64

	// Mode is ModeCopyOnWrite for a region whose stores stay in this process; with every
	// other mode stores reach all processes that have the region.
	Mode MappingMode

	// SyncMode says when stores are made durable. They are visible to other processes at
	// once in every mode. SyncImmediate cannot see stores: it acts as SyncLazy for them.
	SyncMode SyncMode

	// SyncInterval is the time between two flushes in seconds. Default (0): 5. It has no
	// effect in other modes than SyncPeriodic; a negative one is an error.
	SyncInterval int

	// Permissions that the file gets if it is created, whatever the umask; of existing files
	// they are left alone. Default (0): 0644, less what the umask takes away. Other bits than
	// fs.ModePerm are an error. On Windows only the owner's right to write has an effect.
	Permissions os.FileMode

	// PopulatePages reads the region in before CreateSharedMemory returns. Linux only.
	PopulatePages bool
}

// SharedMemory is a handle on a region of memory that several processes share: a file, mapped.
// The processes have to agree on who stores where and when, by Lock, by the atomic values that
// Uint32 and Uint64 give, or by means of their own.
//
// All methods may be called at the same time from many goroutines. Errors are *fs.PathError.
type SharedMemory struct {
	mfs  *MemMapFS
	file *MappedFile
	path string
	info os.FileInfo
	data []byte
	anew bool // the file may become another one, so that its map has to be asked for each time
	lock regionLock
}

// CreateSharedMemory maps the file at config.Path as shared memory, and creates it if it does
// not exist. An existing file is grown to config.Size, with zeros, and never shrunk. Processes
// that do so at the same time all get the one region: nobody has to be first.
//
// The region has its blocks on the disk when CreateSharedMemory returns, so that a full disk
// is an error here and not a fault at some later store. Filesystems that cannot reserve blocks
// (and all on other systems than Linux) get zeros written where the file grows; holes in what
// the file had before stay holes there. What a filesystem gives back (by compression, by
// writing copies of blocks that a snapshot shares) it may miss later.
//
// After an error a file or a directory that was not there before is gone again, and an existing
// file has its size. An empty path, a size that is not positive or does not fit the address
// space, and other values that cannot be match fs.ErrInvalid; what is at the path and no
// regular file, and systems and filesystems without maps, ErrNotMapped, but a directory is
// syscall.EISDIR.
func CreateSharedMemory(config *SharedMemoryConfig) (*SharedMemory, error) {
	if config == nil {
		config = new(SharedMemoryConfig)
	}
	mapping, err := config.mapping()
	if err != nil {
		return nil, wrapError("create", config.Path, err)
	}
	var shared *SharedMemory
	for range createAttempts {
		shared, err = createRegion(config, mapping)
		if !errors.Is(err, errOvertaken) {
			break
		}
	}
	return shared, wrapError("create", config.Path, err)
}

// createAttempts bounds how often a creator begins anew because others remove what it works on.
const createAttempts = 100

// maxRegion is more than any processor can address. It keeps an absurd size from filling a disk.
const maxRegion = 1 << 56

// errOvertaken reports that another process has created or removed the file meanwhile.
var errOvertaken = errors.New("the file was created and removed again and again")

// mapping checks c and returns how its file is to be mapped as a whole.
func (c *SharedMemoryConfig) mapping() (*Config, error) {
	switch {
	case c.Path == "":
		return nil, fmt.Errorf("shared memory needs a path: %w", fs.ErrInvalid)
	case c.Size <= 0 || c.Size > maxRegion || int64(int(c.Size)) != c.Size:
		return nil, fmt.Errorf("shared memory cannot have a size of %d bytes: %w", c.Size, fs.ErrInvalid)
	case c.Permissions&^fs.ModePerm != 0:
		return nil, fmt.Errorf("shared memory cannot have the permissions %v: %w", c.Permissions, fs.ErrInvalid)
	case int64(c.SyncInterval) > math.MaxInt64/int64(time.Second) || c.SyncInterval < 0:
		return nil, fmt.Errorf("shared memory cannot be flushed every %d seconds: %w", c.SyncInterval, fs.ErrInvalid)
	}
	mapping := &Config{
		Mode:          c.Mode,
		SyncMode:      c.SyncMode,
		SyncInterval:  time.Duration(c.SyncInterval) * time.Second,
		MapFullFile:   true,
		PopulatePages: c.PopulatePages,
	}
	if _, err := mapping.validated(); err != nil {
		return nil, err
	}
	if c.Mode != ModeCopyOnWrite {
		mapping.Mode = ModeReadWrite
	}
	return mapping, nil
}

// createRegion is one attempt of CreateSharedMemory.
func createRegion(config *SharedMemoryConfig, mapping *Config) (shared *SharedMemory, err error) {
	made, err := makeDirectories(filepath.Dir(config.Path))
	defer func() {
		if err != nil {
			for _, directory := range made {
				os.Remove(directory) // fails if somebody has put something there
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	file, created, err := openOrCreate(config)
	if err != nil {
		return nil, err
	}
	lock, err := system.lockGrowth(file.Fd(), filepath.Dir(config.Path))
	if err != nil {
		abandon(file, config.Path, created)
		if errors.Is(err, errors.ErrUnsupported) {
			err = notMapped(err)
		}
		return nil, err
	}
	// From here on no other creator changes the size of the file or removes it.
	info, err := file.Stat()
	if err == nil {
		shared, err = growRegion(file, info, config, mapping)
	}
	if info == nil || info.Size() > 0 {
		created = nil // another creator has made use of it
	}
	if err != nil && created != nil && removeSame(config.Path, created) == nil {
		created = nil
	}
	if unlockErr := sysUnlockGrowth(lock); err == nil && unlockErr != nil {
		shared.Close()
		return nil, unlockErr
	}
	if err != nil {
		abandon(file, config.Path, created)
	}
	return shared, err
}

// abandon closes a file and removes it unless created is nil. Windows removes no file that is
// open.
func abandon(file *os.File, path string, created os.FileInfo) {
	file.Close()
	if created != nil {
		removeSame(path, created)
	}
}

// removeSame removes the file at path if it is the one that info describes.
func removeSame(path string, info os.FileInfo) error {
	found, err := sysStat(path)
	if err == nil && !os.SameFile(found, info) {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	return os.Remove(path)
}

// makeDirectories makes a directory and those above it that are missing. It returns what was
// missing, the deepest first.
func makeDirectories(directory string) (missing []string, err error) {
	for at := directory; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return missing, os.MkdirAll(directory, 0o755)
		}
		missing = append(missing, at)
	}
}

// openOrCreate opens the file for reading and writing, or creates it with its permissions and
// returns what describes it then.
func openOrCreate(config *SharedMemoryConfig) (file *os.File, created os.FileInfo, err error) {
	file, err = os.OpenFile(config.Path, os.O_RDWR|sysOpenNonblock, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, nil, err
	}
	permissions := config.Permissions
	if permissions == 0 {
		permissions = 0o644
	}
	file, err = os.OpenFile(config.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, permissions)
	switch {
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("%w: %w", errOvertaken, err)
	case err != nil:
		return nil, nil, err
	}
	created, err = file.Stat()
	if err == nil && config.Permissions != 0 {
		err = file.Chmod(permissions)
	}
	if err != nil {
		abandon(file, config.Path, created)
		return nil, nil, err
	}
	return file, created, nil
}

// growRegion gives the file, which info describes, its size and its blocks, and maps it. The
// caller holds the lock of growth.
func growRegion(file *os.File, info os.FileInfo, config *SharedMemoryConfig, mapping *Config) (*SharedMemory, error) {
	if err := checkRegular(info); err != nil {
		return nil, err
	}
	if found, err := sysStat(config.Path); err != nil || !os.SameFile(found, info) {
		return nil, errOvertaken // by a creator that has failed, or by Remove
	}
	if err := reserve(file, info.Size(), config.Size); err != nil {
		return nil, err
	}
	if info.Size() > config.Size && mapping.Mode != ModeCopyOnWrite {
		limited := *mapping
		limited.MapFullFile = false
		limited.WindowSize = config.Size
		if config.Size > hugePageBytes { // see windowBytes
			limited.WindowSize = (config.Size + hugePageBytes - 1) / hugePageBytes * hugePageBytes
		}
		mapping = &limited
	}
	return mapRegion(file, info, os.O_RDWR, config.Path, config.Size, mapping)
}

// reserve grows the file, which has a size of old, to size if that is more, with blocks for all
// of it. After an error the file has its old size.
func reserve(file *os.File, old, size int64) error {
	err := system.reserve(file.Fd(), size)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		err = writeZeros(file, old, size)
	case err == nil && old < size:
		err = file.Truncate(size)
	}
	if err != nil && old < size {
		file.Truncate(old) // gives back the blocks behind the end, too
	}
	return err
}

// writeZeros writes zeros to [off, end) of the file.
func writeZeros(file *os.File, off, end int64) error {
	zeros := make([]byte, 1<<20)
	for off < end {
		n, err := file.WriteAt(zeros[:min(end-off, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func checkRegular(info os.FileInfo) error {
	switch {
	case info.IsDir():
		return syscall.EISDIR
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: not a regular file", ErrNotMapped)
	}
	return nil
}

// OpenSharedMemory maps the existing file at path, all of it, as shared memory; the path is in
// the system's own form. Without writable every store into the region is a fault, and methods
// of MappedFile that write fail with ErrWriteToReadOnlyMap; Lock works. Stores are made durable
// by Sync and by Close (SyncLazy).
//
// A missing file matches fs.ErrNotExist, an empty one, such as there is for a moment when
// another process creates the region, ErrNotMapped. For other errors see CreateSharedMemory.
func OpenSharedMemory(path string, writable bool) (*SharedMemory, error) {
	shared, err := openRegion(path, writable)
	return shared, wrapError("open", path, err)
}

func openRegion(path string, writable bool) (*SharedMemory, error) {
	if path == "" {
		return nil, fmt.Errorf("shared memory needs a path: %w", fs.ErrInvalid)
	}
	flag, mode := os.O_RDONLY, ModeReadOnly
	if writable {
		flag, mode = os.O_RDWR, ModeReadWrite
	}
	file, err := os.OpenFile(path, flag|sysOpenNonblock, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		err = checkRegular(info)
	}
	if err == nil && info.Size() == 0 {
		err = fmt.Errorf("%w: the file is empty", ErrNotMapped)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return mapRegion(file, info, flag, path, info.Size(), &Config{Mode: mode, SyncMode: SyncLazy, MapFullFile: true})
}

// mapRegion maps the first size bytes of the file, which is closed if that fails.
func mapRegion(file *os.File, info os.FileInfo, flag int, path string, size int64, config *Config) (*SharedMemory, error) {
	mfs := New(oneFile{file: file}, config)
	opened, err := mfs.OpenFile(path, flag, 0)
	if err != nil {
		file.Close()
		return nil, err
	}
	mapped := opened.(*MappedFile)
	data := mapped.Data()
	if int64(len(data)) < size {
		mapped.Close()
		mfs.Close()
		return nil, ErrNotMapped
	}
	shared := &SharedMemory{mfs: mfs, file: mapped, path: path, info: info, data: data[:size:size]}
	shared.anew = flag&os.O_RDWR == 0 && mapped.MappingError() != nil
	shared.lock.init(func() (uintptr, error) { return system.openLock(file.Fd(), path) })
	return shared, nil
}

// oneFile is a filesystem that opens one file, which is open already. A MappedFile asks nothing
// else of it.
type oneFile struct {
	absfs.FileSystem
	file *os.File
}

func (o oneFile) OpenFile(string, int, os.FileMode) (absfs.File, error) { return o.file, nil }

// Data returns the region. Stores are visible to other processes at once, without Sync. The
// slice stays valid until Close, Remove, or Truncate of the MappedFile; after that an access
// faults, for as long as the comment of MappedFile.Data says, and Data returns nil. A region opened
// without writable on overlayfs is today's file at the time of each call: what others store there
// after they were the first to open it for writing is in the slice of the next call.
//
// An access to the slice is the caller's own: if the file is truncated or its disk fails, the
// program dies. View of the MappedFile is the safe form.
func (sm *SharedMemory) Data() []byte {
	switch {
	case !sm.file.Mapped():
		return nil
	case sm.anew:
		data := sm.file.Data()
		n := min(len(data), len(sm.data))
		return data[:n:n]
	}
	return sm.data
}

// Size returns the size of the region in bytes.
func (sm *SharedMemory) Size() int64 { return int64(len(sm.data)) }

// Path returns the path that the region was created or opened with.
func (sm *SharedMemory) Path() string { return sm.path }

// MappedFile returns the file behind the region, for hints, View, and access by calls. What its
// calls write and what is stored through Data is the same. Truncate on it ends the region.
func (sm *SharedMemory) MappedFile() *MappedFile { return sm.file }

// Uint32 returns the four bytes at offset off as an atomic value that all processes share, in
// the byte order of the processor. It is valid as long as the slice from Data; in a region
// opened without writable it can be loaded, and a store is a fault. An offset that is not a
// multiple of 4, or outside the region, gives ErrInvalidOffset.
func (sm *SharedMemory) Uint32(off int64) (*atomic.Uint32, error) {
	address, err := sm.at(off, 4)
	return (*atomic.Uint32)(address), sm.wrap("uint32", err)
}

// Uint64 is Uint32 for the eight bytes at offset off, which is a multiple of 8 on every system.
// Processors that can change only 32 bits at a time have no such value to share: on 32-bit
// MIPS it fails with errors.ErrUnsupported, and on ARM before version 7 it is not atomic
// between processes.
func (sm *SharedMemory) Uint64(off int64) (*atomic.Uint64, error) {
	if runtime.GOARCH == "mips" || runtime.GOARCH == "mipsle" {
		return nil, sm.wrap("uint64", errors.ErrUnsupported)
	}
	address, err := sm.at(off, 8)
	return (*atomic.Uint64)(address), sm.wrap("uint64", err)
}

// at returns the address of n bytes at off, which is a multiple of n.
func (sm *SharedMemory) at(off, n int64) (unsafe.Pointer, error) {
	data := sm.Data()
	switch {
	case data == nil:
		return nil, fs.ErrClosed
	case off < 0 || off > int64(len(data))-n:
		return nil, fmt.Errorf("%w: %d bytes at %d of %d", ErrInvalidOffset, n, off, len(data))
	case off%n != 0:
		return nil, fmt.Errorf("%w: %d is not a multiple of %d", ErrInvalidOffset, off, n)
	}
	return unsafe.Pointer(&data[off]), nil
}

func (sm *SharedMemory) wrap(op string, err error) error { return wrapError(op, sm.path, err) }

// Lock takes the region's lock for this handle alone and waits until it is to be had. The lock
// is between all handles on the file, of this process and of others on the same machine, and
// between the goroutines that use one handle. It is advisory: it keeps nobody from Data who does
// not ask for it. It does not depend on the contents, and is given back by Unlock, by Close, and
// by the system when the process ends, however that happens; the region is then as the process
// has left it.
//
// It is the lock of flock(2), and of LockFileEx on Windows. A network filesystem may keep
// processes of several machines apart by it, or nobody, or refuse it; NFS on Linux takes it as
// a lock of fcntl(2), and Lock on a region opened without writable fails there.
//
// A lock is not reentrant and cannot be converted: Lock waits while this handle holds it, by
// Lock or RLock, so that a goroutine that holds it and locks again waits for itself. No order
// is promised: while others come and go with RLock, Lock may wait for long.
//
// Close ends the waiting with fs.ErrClosed. The system's own wait cannot be broken off: one
// thread and one descriptor stay behind until the holder gives the lock back.
func (sm *SharedMemory) Lock() error {
	_, err := sm.lock.take(true, true)
	return sm.wrap("lock", err)
}

// RLock is Lock for reading: any number of handles and goroutines may hold it so at a time, and
// nobody then by Lock. Each RLock has its own Unlock.
func (sm *SharedMemory) RLock() error {
	_, err := sm.lock.take(false, true)
	return sm.wrap("lock", err)
}

// TryLock is Lock without waiting: it reports false if somebody, this handle included, holds
// the lock, or a Lock or RLock of this handle is waiting.
func (sm *SharedMemory) TryLock() (bool, error) {
	locked, err := sm.lock.take(true, false)
	return locked, sm.wrap("lock", err)
}

// TryRLock is RLock without waiting: see TryLock.
func (sm *SharedMemory) TryRLock() (bool, error) {
	locked, err := sm.lock.take(false, false)
	return locked, sm.wrap("lock", err)
}

// Unlock undoes one Lock or RLock, also from another goroutine than the one that locked. If
// this handle does not hold the lock the error matches fs.ErrInvalid.
func (sm *SharedMemory) Unlock() error { return sm.wrap("unlock", sm.lock.giveBack()) }

// Sync makes the stores so far, of all processes, durable. They are visible without it. Windows
// allows it only to a region opened with writable.
func (sm *SharedMemory) Sync() error { return sm.file.Sync() }

// Close takes the region, and the lock if it has it, away from this handle. The file stays, with
// its contents, and other handles and processes go on. A SyncMode other than SyncNever makes
// the contents durable first. The second Close gives fs.ErrClosed.
func (sm *SharedMemory) Close() error {
	lockErr := sm.lock.close()
	err := sm.file.Close()
	sm.mfs.Close()
	return join(err, sm.wrap("close", lockErr))
}

// Remove closes the handle if it is open and deletes the file, with whatever error of that.
// Processes that have the region go on undisturbed; who creates it at the same path gets
// another one. If the path has another file by now it stays, and the error matches
// fs.ErrNotExist. Windows deletes no file that is open somewhere: the error says so, and the
// last process to call Remove deletes it.
func (sm *SharedMemory) Remove() error {
	err := sm.Close()
	if errors.Is(err, fs.ErrClosed) {
		err = nil
	}
	return join(err, removeSame(sm.path, sm.info))
}
