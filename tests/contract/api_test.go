package contract_test

import (
	"io/fs"
	"os"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
)

// This file is the exported API of v1.0.0, as published: each name with its exact type. It has no test
// function: a program written against v1.0.0 compiles if this file does. Names that came later are
// not in it. A line may be changed only together with the module's major version.

// Functions.
var (
	_ func(*memmapfs.SharedMemoryConfig) (*memmapfs.SharedMemory, error) = memmapfs.CreateSharedMemory
	_ func() *memmapfs.Config                                            = memmapfs.DefaultConfig
	_ func() *memmapfs.SIGBUSHandler                                     = memmapfs.GetSIGBUSHandler
	_ func(absfs.FileSystem, *memmapfs.Config) *memmapfs.MemMapFS        = memmapfs.New
	_ func(string, bool) (*memmapfs.SharedMemory, error)                 = memmapfs.OpenSharedMemory
)

// What the types are used as.
var (
	_ absfs.FileSystem = (*memmapfs.MemMapFS)(nil)
	_ absfs.File       = (*memmapfs.MappedFile)(nil)
)

// Methods of MemMapFS.
var (
	_ func(*memmapfs.MemMapFS, string) error                                 = (*memmapfs.MemMapFS).Chdir
	_ func(*memmapfs.MemMapFS, string, os.FileMode) error                    = (*memmapfs.MemMapFS).Chmod
	_ func(*memmapfs.MemMapFS, string, int, int) error                       = (*memmapfs.MemMapFS).Chown
	_ func(*memmapfs.MemMapFS, string, time.Time, time.Time) error           = (*memmapfs.MemMapFS).Chtimes
	_ func(*memmapfs.MemMapFS, string) (absfs.File, error)                   = (*memmapfs.MemMapFS).Create
	_ func(*memmapfs.MemMapFS) (string, error)                               = (*memmapfs.MemMapFS).Getwd
	_ func(*memmapfs.MemMapFS, string, os.FileMode) error                    = (*memmapfs.MemMapFS).Mkdir
	_ func(*memmapfs.MemMapFS, string, os.FileMode) error                    = (*memmapfs.MemMapFS).MkdirAll
	_ func(*memmapfs.MemMapFS, string) (absfs.File, error)                   = (*memmapfs.MemMapFS).Open
	_ func(*memmapfs.MemMapFS, string, int, os.FileMode) (absfs.File, error) = (*memmapfs.MemMapFS).OpenFile
	_ func(*memmapfs.MemMapFS, string) ([]fs.DirEntry, error)                = (*memmapfs.MemMapFS).ReadDir
	_ func(*memmapfs.MemMapFS, string) ([]byte, error)                       = (*memmapfs.MemMapFS).ReadFile
	_ func(*memmapfs.MemMapFS, string) error                                 = (*memmapfs.MemMapFS).Remove
	_ func(*memmapfs.MemMapFS, string) error                                 = (*memmapfs.MemMapFS).RemoveAll
	_ func(*memmapfs.MemMapFS, string, string) error                         = (*memmapfs.MemMapFS).Rename
	_ func(*memmapfs.MemMapFS, string) (os.FileInfo, error)                  = (*memmapfs.MemMapFS).Stat
	_ func(*memmapfs.MemMapFS, string) (fs.FS, error)                        = (*memmapfs.MemMapFS).Sub
	_ func(*memmapfs.MemMapFS) string                                        = (*memmapfs.MemMapFS).TempDir
	_ func(*memmapfs.MemMapFS, string, int64) error                          = (*memmapfs.MemMapFS).Truncate
)

// Methods of MappedFile.
var (
	_ func(*memmapfs.MappedFile, int) error                  = (*memmapfs.MappedFile).Advise
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseDontNeed
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseFree
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseHugePage
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseNoHugePage
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseRandom
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseRemove
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseSequential
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).AdviseWillNeed
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).Close
	_ func(*memmapfs.MappedFile) []byte                      = (*memmapfs.MappedFile).Data
	_ func(*memmapfs.MappedFile)                             = (*memmapfs.MappedFile).DisableSIGBUSProtection
	_ func(*memmapfs.MappedFile)                             = (*memmapfs.MappedFile).EnableSIGBUSProtection
	_ func(*memmapfs.MappedFile) string                      = (*memmapfs.MappedFile).Name
	_ func(*memmapfs.MappedFile, []byte) (int, error)        = (*memmapfs.MappedFile).Read
	_ func(*memmapfs.MappedFile, []byte, int64) (int, error) = (*memmapfs.MappedFile).ReadAt
	_ func(*memmapfs.MappedFile, int) ([]fs.DirEntry, error) = (*memmapfs.MappedFile).ReadDir
	_ func(*memmapfs.MappedFile, int) ([]os.FileInfo, error) = (*memmapfs.MappedFile).Readdir
	_ func(*memmapfs.MappedFile, int) ([]string, error)      = (*memmapfs.MappedFile).Readdirnames
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).RemapAfterTruncation
	_ func(*memmapfs.MappedFile, int64, int) (int64, error)  = (*memmapfs.MappedFile).Seek
	_ func(*memmapfs.MappedFile) (fs.FileInfo, error)        = (*memmapfs.MappedFile).Stat
	_ func(*memmapfs.MappedFile) error                       = (*memmapfs.MappedFile).Sync
	_ func(*memmapfs.MappedFile, int64) error                = (*memmapfs.MappedFile).Truncate
	_ func(*memmapfs.MappedFile, []byte) (int, error)        = (*memmapfs.MappedFile).Write
	_ func(*memmapfs.MappedFile, []byte, int64) (int, error) = (*memmapfs.MappedFile).WriteAt
	_ func(*memmapfs.MappedFile, string) (int, error)        = (*memmapfs.MappedFile).WriteString
)

// Methods of SIGBUSHandler.
var (
	_ func(*memmapfs.SIGBUSHandler)                                    = (*memmapfs.SIGBUSHandler).Disable
	_ func(*memmapfs.SIGBUSHandler)                                    = (*memmapfs.SIGBUSHandler).Enable
	_ func(*memmapfs.SIGBUSHandler, func(*memmapfs.MappedFile, error)) = (*memmapfs.SIGBUSHandler).OnSIGBUS
	_ func(*memmapfs.SIGBUSHandler, *memmapfs.MappedFile)              = (*memmapfs.SIGBUSHandler).Register
	_ func(*memmapfs.SIGBUSHandler, *memmapfs.MappedFile)              = (*memmapfs.SIGBUSHandler).Unregister
)

// Methods of SharedMemory.
var (
	_ func(*memmapfs.SharedMemory) error                = (*memmapfs.SharedMemory).Close
	_ func(*memmapfs.SharedMemory) []byte               = (*memmapfs.SharedMemory).Data
	_ func(*memmapfs.SharedMemory) *memmapfs.MappedFile = (*memmapfs.SharedMemory).MappedFile
	_ func(*memmapfs.SharedMemory) string               = (*memmapfs.SharedMemory).Path
	_ func(*memmapfs.SharedMemory) error                = (*memmapfs.SharedMemory).Remove
	_ func(*memmapfs.SharedMemory) int64                = (*memmapfs.SharedMemory).Size
	_ func(*memmapfs.SharedMemory) error                = (*memmapfs.SharedMemory).Sync
)

// Fields. Pointers to them must have exactly these types.
func _(config *memmapfs.Config, shared *memmapfs.SharedMemoryConfig) {
	var (
		_ *memmapfs.MappingMode = &config.Mode
		_ *memmapfs.SyncMode    = &config.SyncMode
		_ *time.Duration        = &config.SyncInterval
		_ *bool                 = &config.MapFullFile
		_ *int64                = &config.WindowSize
		_ *bool                 = &config.Preload
		_ *bool                 = &config.PreloadAsync
		_ *bool                 = &config.PopulatePages
		_ *bool                 = &config.UseHugePages

		_ *string               = &shared.Path
		_ *int64                = &shared.Size
		_ *memmapfs.MappingMode = &shared.Mode
		_ *memmapfs.SyncMode    = &shared.SyncMode
		_ *int                  = &shared.SyncInterval
		_ *os.FileMode          = &shared.Permissions
		_ *bool                 = &shared.PopulatePages
	)
}

// Variables. Pointers to them must have exactly this type.
var (
	_ *error = &memmapfs.ErrNotMapped
	_ *error = &memmapfs.ErrInvalidOffset
	_ *error = &memmapfs.ErrInvalidWhence
	_ *error = &memmapfs.ErrWriteToReadOnlyMap
	_ *error = &memmapfs.ErrSIGBUS
)

// Constants. An index is out of range unless the constant has its published value, and a subtraction
// mixes types unless it has its published type. DefaultWindowSize is untyped.
func _(only [1]struct{}) {
	_ = only[memmapfs.DefaultWindowSize-1<<30]
	var _ float64 = memmapfs.DefaultWindowSize

	_ = only[memmapfs.ModeReadOnly-memmapfs.MappingMode(0)]
	_ = only[memmapfs.ModeReadWrite-memmapfs.MappingMode(1)]
	_ = only[memmapfs.ModeCopyOnWrite-memmapfs.MappingMode(2)]
	_ = only[memmapfs.SyncImmediate-memmapfs.SyncMode(0)]
	_ = only[memmapfs.SyncPeriodic-memmapfs.SyncMode(1)]
	_ = only[memmapfs.SyncLazy-memmapfs.SyncMode(2)]
	_ = only[memmapfs.SyncNever-memmapfs.SyncMode(3)]
}
