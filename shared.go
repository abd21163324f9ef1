package memmapfs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/absfs/osfs"
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
	// once in every mode.
	SyncMode SyncMode

	// SyncInterval is the time between two flushes in seconds. Default (0): 5. It has no
	// effect in other modes than SyncPeriodic.
	SyncInterval int

	// Permissions that the file gets if it is created. Default (0): 0644.
	Permissions os.FileMode

	// PopulatePages reads the region in before CreateSharedMemory returns. Linux only.
	PopulatePages bool
}

// SharedMemory is a file mapped as a region of memory that several processes share. The
// processes have to agree on who stores where and when.
type SharedMemory struct {
	mfs  *MemMapFS
	file *MappedFile
	path string
	data []byte
}

// CreateSharedMemory maps the file at config.Path as shared memory and creates it if it does
// not exist. Errors are *fs.PathError.
func CreateSharedMemory(config *SharedMemoryConfig) (*SharedMemory, error) {
	if config == nil || config.Path == "" {
		return nil, wrapError("create", "", errors.New("shared memory needs a path"))
	}
	if config.Size <= 0 || int64(int(config.Size)) != config.Size {
		return nil, wrapError("create", config.Path, errors.New("shared memory needs a size above zero that fits the address space"))
	}
	mode := ModeReadWrite
	if config.Mode == ModeCopyOnWrite {
		mode = ModeCopyOnWrite
	}
	permissions := config.Permissions
	if permissions == 0 {
		permissions = 0o644
	}
	name := osfs.FromNative(config.Path)
	base, err := osfs.NewFS()
	if err != nil {
		return nil, wrapError("create", config.Path, err)
	}
	if err := base.MkdirAll(path.Dir(name), 0o755); err != nil {
		return nil, err
	}
	// The file gets its size before it is mapped, so that a copy-on-write map finds it there.
	file, err := base.OpenFile(name, os.O_RDWR|os.O_CREATE, permissions)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Size() < config.Size {
		err = file.Truncate(config.Size)
	}
	if err = join(err, file.Close()); err != nil {
		return nil, err
	}
	return openShared(config.Path, os.O_RDWR, config.Size, &Config{
		Mode:          mode,
		SyncMode:      config.SyncMode,
		SyncInterval:  time.Duration(config.SyncInterval) * time.Second,
		MapFullFile:   true,
		PopulatePages: config.PopulatePages,
	})
}

// OpenSharedMemory maps the existing file at path, all of it, as shared memory. Without
// writable every store into it is a fault.
func OpenSharedMemory(path string, writable bool) (*SharedMemory, error) {
	flag, mode := os.O_RDONLY, ModeReadOnly
	if writable {
		flag, mode = os.O_RDWR, ModeReadWrite
	}
	return openShared(path, flag, 0, &Config{Mode: mode, SyncMode: SyncLazy, MapFullFile: true})
}

// openShared maps the first size bytes of the file at path, or all of it with a size of 0.
func openShared(path string, flag int, size int64, config *Config) (*SharedMemory, error) {
	base, err := osfs.NewFS()
	if err != nil {
		return nil, wrapError("open", path, err)
	}
	mfs := New(base, config)
	opened, err := mfs.OpenFile(osfs.FromNative(path), flag, 0)
	if err != nil {
		return nil, err
	}
	file := opened.(*MappedFile)
	data := file.Data()
	if int64(len(data)) < size || len(data) == 0 {
		mfs.Close()
		return nil, wrapError("open", path, ErrNotMapped)
	}
	if size > 0 {
		data = data[:size:size]
	}
	return &SharedMemory{mfs: mfs, file: file, path: path, data: data}, nil
}

// Data returns the region. The slice stays valid until Close or Remove; after that every
// access to it faults. Stores are visible to other processes at once, without Sync.
func (sm *SharedMemory) Data() []byte {
	if sm.file.isClosed() {
		return nil
	}
	return sm.data
}

// Size returns the size of the region in bytes.
func (sm *SharedMemory) Size() int64 { return int64(len(sm.data)) }

// Path returns the path that the region was created or opened with.
func (sm *SharedMemory) Path() string { return sm.path }

// MappedFile returns the file behind the region. Truncate on it ends the region's Data.
func (sm *SharedMemory) MappedFile() *MappedFile { return sm.file }

// Sync makes the stores so far durable. They are visible to other processes without it.
func (sm *SharedMemory) Sync() error { return sm.file.Sync() }

// Close takes the region away from this process. The file stays, with its contents, and other
// processes go on. The second Close gives fs.ErrClosed.
func (sm *SharedMemory) Close() error {
	err := sm.file.Close()
	sm.mfs.Close()
	return err
}

// Remove closes the region if it is open and deletes the file. Other processes that have the
// region go on undisturbed; on Windows they keep the file from being deleted.
func (sm *SharedMemory) Remove() error {
	if err := sm.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return sm.mfs.Remove(osfs.FromNative(sm.path))
}
