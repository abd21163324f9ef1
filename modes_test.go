package memmapfs_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memfs"
	"github.com/absfs/memmapfs"
)

// mode is one way to run a test: through a configuration, or through the plain filesystem.
type mode struct {
	name   string
	config *memmapfs.Config // nil: the plain filesystem itself, not wrapped
}

// modes is every configuration that changes how a call is served. The plain row comes first: what a
// test demands of the others it has to demand of the plain file too.
var modes = []mode{
	{"plain", nil},
	{"read-only", memmapfs.DefaultConfig()},
	{"read-write", full(memmapfs.ModeReadWrite, memmapfs.SyncNever)},
	{"copy-on-write", full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)},
	{"execute", full(memmapfs.ModeExecute, memmapfs.SyncNever)},

	{"read-only windows of one page", windowed(memmapfs.ModeReadOnly, pageSize)},
	{"read-only windows of 64 KiB", windowed(memmapfs.ModeReadOnly, 64<<10)},
	{"read-only windows of 10000 bytes", windowed(memmapfs.ModeReadOnly, 10_000)},
	{"read-write windows of one page", windowed(memmapfs.ModeReadWrite, pageSize)},
	{"read-write windows of 64 KiB", windowed(memmapfs.ModeReadWrite, 64<<10)},
	{"read-write windows of 10000 bytes", windowed(memmapfs.ModeReadWrite, 10_000)},
	{"copy-on-write windows of one page", windowed(memmapfs.ModeCopyOnWrite, pageSize)},
	{"copy-on-write windows of 64 KiB", windowed(memmapfs.ModeCopyOnWrite, 64<<10)},
	{"copy-on-write windows of 10000 bytes", windowed(memmapfs.ModeCopyOnWrite, 10_000)},

	{"read-write sync immediate", full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate)},
	{"read-write sync periodic", full(memmapfs.ModeReadWrite, memmapfs.SyncPeriodic)},
	{"read-write sync lazy", full(memmapfs.ModeReadWrite, memmapfs.SyncLazy)},
	{"read-write sync never", full(memmapfs.ModeReadWrite, memmapfs.SyncNever)},
}

func full(mappingMode memmapfs.MappingMode, syncMode memmapfs.SyncMode) *memmapfs.Config {
	return &memmapfs.Config{
		Mode:         mappingMode,
		SyncMode:     syncMode,
		SyncInterval: 5 * time.Millisecond, // short: the flusher has to run beside the calls
		MapFullFile:  true,
	}
}

func windowed(mappingMode memmapfs.MappingMode, windowSize int64) *memmapfs.Config {
	return &memmapfs.Config{Mode: mappingMode, SyncMode: memmapfs.SyncNever, WindowSize: windowSize}
}

func (m mode) plain() bool { return m.config == nil }

func (m mode) readOnly() bool {
	return !m.plain() && (m.config.Mode == memmapfs.ModeReadOnly || m.config.Mode == memmapfs.ModeExecute)
}

func (m mode) readWrite() bool { return !m.plain() && m.config.Mode == memmapfs.ModeReadWrite }

func (m mode) copyOnWrite() bool { return !m.plain() && m.config.Mode == memmapfs.ModeCopyOnWrite }

func (m mode) windowed() bool { return !m.plain() && !m.config.MapFullFile }

// overOS is this row's filesystem over the operating system's files.
func (m mode) overOS(t testing.TB) absfs.FileSystem {
	t.Helper()
	return m.over(t, plainFileSystem(t))
}

// overMemory is this row's filesystem over memfs, whose files cannot be mapped.
func (m mode) overMemory(t testing.TB) absfs.FileSystem {
	t.Helper()
	return m.over(t, memoryFileSystem(t))
}

func memoryFileSystem(t testing.TB) absfs.FileSystem {
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

// over closes the filesystem when the test ends, and with it the files that the test left open.
func (m mode) over(t testing.TB, base absfs.FileSystem) absfs.FileSystem {
	t.Helper()
	if m.plain() {
		return base
	}
	fileSystem := memmapfs.New(base, m.config)
	t.Cleanup(func() {
		if err := fileSystem.Close(); err != nil {
			t.Errorf("closing the filesystem: %v", err)
		}
	})
	return fileSystem
}

// eachMode runs a subtest for every row that the filters let through.
func eachMode(t *testing.T, test func(t *testing.T, m mode), filters ...func(mode) bool) {
	t.Helper()
	for _, m := range modes {
		wanted := true
		for _, filter := range filters {
			wanted = wanted && filter(m)
		}
		if wanted {
			t.Run(m.name, func(t *testing.T) { test(t, m) })
		}
	}
}

func wrapped(m mode) bool { return !m.plain() }

func notCopyOnWrite(m mode) bool { return !m.copyOnWrite() }
