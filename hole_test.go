package memmapfs_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// needHoles skips a test where the system has no holes that PunchHole can make. For wine, which has none,
// zeros are written in their place.
func needHoles(t *testing.T) {
	t.Helper()
	switch {
	case onWine:
		t.Cleanup(memmapfs.HookPunchHole(func(func(uintptr, int64, int64) error) func(uintptr, int64, int64) error { return zeroByWriting }))
	case runtime.GOOS != "linux" && runtime.GOOS != "darwin" && runtime.GOOS != "windows":
		t.Skip("no holes are made on this system")
	}
}

// Catches bytes that stay, or go with the hole, in any map or through any handle; a size that changes; and
// a hole in a file that the handle may not write.
func TestPunchHole(t *testing.T) {
	needHoles(t)
	const pages = 16
	size := pages*pageSize + 100
	eachMode(t, func(t *testing.T, m mode) {
		for i, hole := range []struct{ off, n int64 }{
			{0, pageSize}, {100, 5*pageSize + 7}, {3 * pageSize, 8 * pageSize}, {2*pageSize + 5, 90},
			{14 * pageSize, 10 * pageSize}, {0, math.MaxInt64}, {size, 100}, {size + pageSize, 1}, {5, 0},
		} {
			for j, flags := range []int{os.O_RDWR, os.O_WRONLY, os.O_RDONLY, os.O_RDWR | os.O_APPEND} {
				if testing.Short() && (i+j+len(m.name))%4 != 0 { // a quarter in each mode
					continue
				}
				data := content(int(size))
				dir := testDir(t)
				name := writeFile(t, dir, "file", data)
				fileSystem := m.overOS(t)
				file := mustOpenMapped(t, fileSystem, name, flags)
				reader := mustOpenMapped(t, fileSystem, name, os.O_RDWR)
				handles := []*memmapfs.MappedFile{reader}
				if !mapsHoldFiles {
					handles = append(handles, mustOpenMapped(t, mode{"", memmapfs.DefaultConfig()}.overOS(t), name, os.O_RDONLY))
				}
				if flags&os.O_WRONLY == 0 {
					handles = append(handles, file)
				}
				want := slices.Clone(data)
				for _, handle := range handles { // mapped, and hot
					forceMap(handle)
					handle.ReadAt(make([]byte, size), 0)
				}
				if m.readWrite() && flags&os.O_APPEND == 0 && flags != os.O_RDONLY {
					for range 2 {
						if _, err := file.WriteAt([]byte("stored"), 4*pageSize-3); err != nil {
							t.Fatal(err)
						}
					}
					copy(want[4*pageSize-3:], "stored")
				}

				err := file.PunchHole(hole.off, hole.n)
				class := errorClass(err)
				switch {
				case m.copyOnWrite():
					if !errors.Is(err, errors.ErrUnsupported) {
						t.Errorf("PunchHole(%d, %d) in a copy-on-write file: %v", hole.off, hole.n, err)
					}
				case m.readOnly() && flags == os.O_RDONLY:
					if !errors.Is(err, memmapfs.ErrWriteToReadOnlyMap) {
						t.Errorf("PunchHole of a read-only handle: %v", err)
					}
				case flags == os.O_RDONLY:
					if class != syscall.EBADF.Error() {
						t.Errorf("PunchHole of a read-only handle: %v", err)
					}
				case err != nil:
					t.Errorf("PunchHole(%d, %d) with flags %x: %v", hole.off, hole.n, flags, err)
				case hole.off < size:
					clear(want[hole.off : hole.off+min(hole.n, size-hole.off)])
				}
				if err != nil {
					checkPathError(t, "PunchHole", err, name)
				}
				mustEqual(t, "the file", readNative(t, name), want)
				for _, handle := range handles {
					mustEqual(t, "a handle", readAll(t, handle), want)
					err := handle.View(0, size, func(b []byte) error { mustEqual(t, "View", b, want); return nil })
					if err != nil {
						t.Error("View:", err)
					}
					if data := handle.Data(); int64(len(data)) == size {
						mustEqual(t, "Data", data, want)
					}
				}
			}
		}
	}, wrapped)
}

// A hole is a write: it is as durable as one.
func TestPunchHoleIsFlushedAsAWrite(t *testing.T) {
	needHoles(t)
	for _, test := range []struct {
		mode  memmapfs.SyncMode
		flags int
		now   bool // flushed when the call has returned
		late  bool // flushed when Close has
	}{
		{memmapfs.SyncImmediate, os.O_RDWR, true, false},
		{memmapfs.SyncLazy, os.O_RDWR, false, true},
		{memmapfs.SyncNever, os.O_RDWR, false, false},
		{memmapfs.SyncNever, os.O_RDWR | os.O_SYNC, true, false},
	} {
		watched := memmapfs.NewWatchedFS()
		flushes := 0
		watched.Sync = func(_ string, sync func() error) error {
			flushes++
			return sync()
		}
		name := writeFile(t, testDir(t), "file", content(int(8*pageSize)))
		fileSystem := memmapfs.New(watched, full(memmapfs.ModeReadWrite, test.mode))
		file := mustOpenMapped(t, fileSystem, name, test.flags)
		forceMap(file)
		if err := file.RemapAfterTruncation(); err != nil { // Data is to be flushed, too
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		flushes = 0
		if err := file.PunchHole(pageSize, 3*pageSize); err != nil {
			t.Fatal(err)
		}
		if now := flushes > 0; now != test.now {
			t.Errorf("%v, flags %x: flushed when PunchHole returns: %v", test.mode, test.flags, now)
		}
		flushes = 0
		if err := fileSystem.Close(); err != nil {
			t.Fatal(err)
		}
		if late := flushes > 0; late != test.late {
			t.Errorf("%v, flags %x: flushed when Close returns: %v", test.mode, test.flags, late)
		}
	}
}

// A filesystem that stores other bytes than it shows must not be bypassed: a hole in its file would be
// something else than zeros.
func TestPunchHoleUnsupported(t *testing.T) {
	hidden := memmapfs.NewWatchedFS()
	hidden.Hidden = true
	noHoles := syscall.EOPNOTSUPP // as of a filesystem without holes
	if runtime.GOOS == "wasip1" {
		noHoles = syscall.ENOSYS // the one that package syscall takes for errors.ErrUnsupported there
	}
	for _, base := range []absfs.FileSystem{hidden, plainFileSystem(t)} {
		data := content(int(4 * pageSize))
		name := writeFile(t, testDir(t), "file", data)
		fileSystem := mode{"", full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.over(t, base)
		file := mustOpenMapped(t, fileSystem, name, os.O_RDWR)
		if base != hidden {
			restore := memmapfs.HookPunchHole(func(func(uintptr, int64, int64) error) func(uintptr, int64, int64) error {
				return func(uintptr, int64, int64) error { return noHoles }
			})
			defer restore()
		}
		err := file.PunchHole(100, 3*pageSize)
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("PunchHole: %v", err)
		}
		checkPathError(t, "PunchHole", err, name)
		mustEqual(t, "the file", readNative(t, name), data)
		if err := file.PunchHole(-1, 1); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("PunchHole at -1: %v", err)
		}
	}
	directory := mustOpenMapped(t, mode{"", full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.overOS(t), osfs.FromNative(testDir(t)), os.O_RDONLY)
	if err := directory.PunchHole(0, 1); err == nil {
		t.Error("a hole in a directory")
	}
}
