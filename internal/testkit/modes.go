package testkit

import (
	"strconv"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memfs"
	"github.com/absfs/memmapfs"
)

// Mode is one way to run a test: through a configuration, or through the plain filesystem.
type Mode struct {
	Name   string
	Config *memmapfs.Config // nil: the plain filesystem itself, not wrapped
}

// Modes is every configuration that changes how a call is served. The plain row comes first: what a
// test demands of the others it has to demand of the plain file too.
var Modes = []Mode{
	{"plain", nil},
	{"read-only", memmapfs.DefaultConfig()},
	{"read-write", Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)},
	{"copy-on-write", Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)},
	{"execute", Full(memmapfs.ModeExecute, memmapfs.SyncNever)},

	{"read-only windows of one page", Windowed(memmapfs.ModeReadOnly, PageSize)},
	{"read-only windows of 64 KiB", Windowed(memmapfs.ModeReadOnly, 64<<10)},
	{"read-only windows of 10000 bytes", Windowed(memmapfs.ModeReadOnly, 10_000)},
	{"read-write windows of one page", Windowed(memmapfs.ModeReadWrite, PageSize)},
	{"read-write windows of 64 KiB", Windowed(memmapfs.ModeReadWrite, 64<<10)},
	{"read-write windows of 10000 bytes", Windowed(memmapfs.ModeReadWrite, 10_000)},
	{"copy-on-write windows of one page", Windowed(memmapfs.ModeCopyOnWrite, PageSize)},
	{"copy-on-write windows of 64 KiB", Windowed(memmapfs.ModeCopyOnWrite, 64<<10)},
	{"copy-on-write windows of 10000 bytes", Windowed(memmapfs.ModeCopyOnWrite, 10_000)},

	{"read-write sync immediate", Full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate)},
	{"read-write sync periodic", Full(memmapfs.ModeReadWrite, memmapfs.SyncPeriodic)},
	{"read-write sync lazy", Full(memmapfs.ModeReadWrite, memmapfs.SyncLazy)},
	{"read-write sync never", Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)},
}

// Full maps files as a whole.
func Full(mappingMode memmapfs.MappingMode, syncMode memmapfs.SyncMode) *memmapfs.Config {
	return &memmapfs.Config{
		Mode:         mappingMode,
		SyncMode:     syncMode,
		SyncInterval: 5 * time.Millisecond, // short: the flusher has to run beside the calls
		MapFullFile:  true,
	}
}

// Windowed maps windows of that size, and flushes nothing by itself.
func Windowed(mappingMode memmapfs.MappingMode, windowSize int64) *memmapfs.Config {
	return &memmapfs.Config{Mode: mappingMode, SyncMode: memmapfs.SyncNever, WindowSize: windowSize}
}

// Plain reports whether nothing is wrapped.
func (m Mode) Plain() bool { return m.Config == nil }

// ReadOnly reports whether maps are never stored to.
func (m Mode) ReadOnly() bool {
	return !m.Plain() && (m.Config.Mode == memmapfs.ModeReadOnly || m.Config.Mode == memmapfs.ModeExecute)
}

// ReadWrite reports whether stores into maps reach the file.
func (m Mode) ReadWrite() bool { return !m.Plain() && m.Config.Mode == memmapfs.ModeReadWrite }

// CopyOnWrite reports whether writes stay in the handle.
func (m Mode) CopyOnWrite() bool { return !m.Plain() && m.Config.Mode == memmapfs.ModeCopyOnWrite }

// Windowed reports whether files are mapped in windows.
func (m Mode) Windowed() bool { return !m.Plain() && !m.Config.MapFullFile }

// OverOS is this row's filesystem over the operating system's files.
func (m Mode) OverOS(t testing.TB) absfs.FileSystem {
	t.Helper()
	return m.Over(t, PlainFileSystem(t))
}

// OverMemory is this row's filesystem over memfs, whose files cannot be mapped.
func (m Mode) OverMemory(t testing.TB) absfs.FileSystem {
	t.Helper()
	return m.Over(t, MemoryFileSystem(t))
}

// MemoryFileSystem returns a new memfs, or skips the test where there is none.
func MemoryFileSystem(t testing.TB) absfs.FileSystem {
	t.Helper()
	if strconv.IntSize == 32 {
		t.Skip("memfs cannot be used with 32-bit addresses: its inodes have unaligned 64-bit counters")
	}
	memory, err := memfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	return memory
}

// Over closes the filesystem when the test ends, and with it the files that the test left open.
func (m Mode) Over(t testing.TB, base absfs.FileSystem) absfs.FileSystem {
	t.Helper()
	if m.Plain() {
		return base
	}
	fileSystem := memmapfs.New(base, m.Config)
	t.Cleanup(func() {
		if err := fileSystem.Close(); err != nil {
			t.Errorf("closing the filesystem: %v", err)
		}
	})
	return fileSystem
}

// EachMode runs a subtest for every row that the filters let through.
func EachMode(t *testing.T, test func(t *testing.T, m Mode), filters ...func(Mode) bool) {
	t.Helper()
	for _, m := range Modes {
		wanted := true
		for _, filter := range filters {
			wanted = wanted && filter(m)
		}
		if wanted {
			t.Run(m.Name, func(t *testing.T) { test(t, m) })
		}
	}
}

// Wrapped is a filter for EachMode: all rows but the plain one.
func Wrapped(m Mode) bool { return !m.Plain() }

// NotCopyOnWrite is a filter for EachMode: the rows whose writes reach the file.
func NotCopyOnWrite(m Mode) bool { return !m.CopyOnWrite() }
