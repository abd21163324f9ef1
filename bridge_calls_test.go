package memmapfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
)

// Catches a number that destroys data and gets through, under any name and in any mode; and an error that
// does not say what to use instead. The destructive numbers of Linux are FREE, REMOVE, WIPEONFORK,
// DONTNEED_LOCKED, and behind COLLAPSE HWPOISON, SOFT_OFFLINE and GUARD_INSTALL.
func TestRawAdviceDestroysNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the numbers are those of Linux")
	}
	passed := make(map[int]bool)
	restore := memmapfs.HookAdvise(func(advise func(data []byte, advice int) error) func(data []byte, advice int) error {
		return func(data []byte, advice int) error {
			passed[advice] = true
			if advice >= 100 {
				return nil // they damage the machine's memory
			}
			return advise(data, advice)
		}
	})
	defer restore()
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(8*testkit.PageSize) + 100)
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		testkit.ForceMap(file)
		want := append([]byte(nil), data...)
		for i := range 2 { // the second is a store
			at := int(testkit.PageSize)*3 + i
			if _, err := file.WriteAt([]byte("written"), int64(at)); err != nil {
				t.Fatal(err)
			}
			copy(want[at:], "written")
		}
		clear(passed)
		for advice := -3; advice < 200; advice++ {
			err := file.Advise(advice)
			refused := errors.Is(err, fs.ErrInvalid) && strings.Contains(fmt.Sprint(err), "PunchHole")
			destroys := slices.Contains([]int{8, 9, 18, 24}, advice) || advice < 0 || advice > 25
			if refused != destroys || refused && passed[advice] {
				t.Errorf("advice %d: %v, passed on: %v", advice, err, passed[advice])
			}
			testkit.MustEqual(t, fmt.Sprint("after advice ", advice), testkit.ReadAll(t, file), want)
			file.Seek(0, 0)
			inFile := want
			if m.CopyOnWrite() {
				inFile = data
			}
			testkit.MustEqual(t, fmt.Sprint("the file after advice ", advice), testkit.ReadNative(t, name), inFile)
		}
		for _, advice := range []int{0, 1, 2, 20, 21} {
			if !passed[advice] {
				t.Errorf("advice %d was not passed on", advice)
			}
		}
	}, testkit.Wrapped)
}

// strayFault is the panic of a fault whose address is wrong.
type strayFault struct{}

func (strayFault) Error() string { return "a fault" }

func (strayFault) RuntimeError() {}

func (strayFault) Addr() uintptr { return 1 << 20 }

// TestViewFaultAddress catches a View that believes the address of a fault where it can be wrong, and one
// that does not where it is right: then a fault elsewhere would pass for one in the file that has shrunk.
func TestViewFaultAddress(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		var pointer *int
		faults := map[string]func(){
			"a nil pointer": func() { testkit.Loaded.Store(uint32(*pointer)) },
			"a stray fault": func() { panic(strayFault{}) },
		}
		for what, fault := range faults {
			for _, shrunk := range []bool{false, true} {
				for _, hidden := range []bool{false, true} {
					if testkit.Emulated && !testkit.OnWine && !hidden {
						continue
					}
					restore := func() {}
					if hidden {
						restore = memmapfs.HideFaultAddresses()
					}
					file := testkit.NewShrinkable(t, dir, testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
					var err error
					value := testkit.Recovered(func() {
						err = file.View(0, testkit.ShrinkableSize, func([]byte) error {
							if shrunk {
								file.Resize(testkit.PageSize)
							}
							fault()
							return nil
						})
					})
					restore()
					if caught := errors.Is(err, memmapfs.ErrSIGBUS); caught != (shrunk && hidden) || caught == (value != nil) {
						t.Errorf("%s, the file shrunk: %v, addresses hidden: %v: View gives %v, and panics with %v",
							what, shrunk, hidden, err, value)
					}
					file.Close()
				}
			}
		}
		testkit.Report(t, "faults elsewhere are told from those in a View by their address, where it is right")
	})
}

// needHoles skips a test where the system has no holes that PunchHole can make. For wine, which has none,
// zeros are written in their place.
func needHoles(t *testing.T) {
	t.Helper()
	switch {
	case testkit.OnWine:
		t.Cleanup(memmapfs.HookPunchHole(func(func(uintptr, int64, int64) error) func(uintptr, int64, int64) error {
			return testkit.ZeroByWriting
		}))
	case !testkit.MakesHoles(t, t.TempDir()):
		t.Skip("no holes are made here")
	}
}

// Catches bytes that stay, or go with the hole, in any map or through any handle; a size that changes; and
// a hole in a file that the handle may not write.
func TestPunchHole(t *testing.T) {
	needHoles(t)
	const pages = 16
	size := pages*testkit.PageSize + 100
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		for i, hole := range []struct{ off, n int64 }{
			{0, testkit.PageSize}, {100, 5*testkit.PageSize + 7}, {3 * testkit.PageSize, 8 * testkit.PageSize}, {2*testkit.PageSize + 5, 90},
			{14 * testkit.PageSize, 10 * testkit.PageSize}, {0, math.MaxInt64}, {size, 100}, {size + testkit.PageSize, 1}, {5, 0},
		} {
			for j, flags := range []int{os.O_RDWR, os.O_WRONLY, os.O_RDONLY, os.O_RDWR | os.O_APPEND} {
				if testing.Short() && (i+j+len(m.Name))%4 != 0 { // a quarter in each mode
					continue
				}
				data := testkit.Content(int(size))
				dir := testkit.TestDir(t)
				name := testkit.WriteFile(t, dir, "file", data)
				fileSystem := m.OverOS(t)
				file := testkit.MustOpenMapped(t, fileSystem, name, flags)
				reader := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
				handles := []*memmapfs.MappedFile{reader}
				if !testkit.MapsHoldFiles {
					handles = append(handles, testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), name, os.O_RDONLY))
				}
				if flags&os.O_WRONLY == 0 {
					handles = append(handles, file)
				}
				want := slices.Clone(data)
				for _, handle := range handles { // mapped, and hot
					testkit.ForceMap(handle)
					handle.ReadAt(make([]byte, size), 0)
				}
				if m.ReadWrite() && flags&os.O_APPEND == 0 && flags != os.O_RDONLY {
					for range 2 {
						if _, err := file.WriteAt([]byte("stored"), 4*testkit.PageSize-3); err != nil {
							t.Fatal(err)
						}
					}
					copy(want[4*testkit.PageSize-3:], "stored")
				}

				err := file.PunchHole(hole.off, hole.n)
				class := testkit.ErrorClass(err)
				switch {
				case m.CopyOnWrite():
					if !errors.Is(err, errors.ErrUnsupported) {
						t.Errorf("PunchHole(%d, %d) in a copy-on-write file: %v", hole.off, hole.n, err)
					}
				case m.ReadOnly() && flags == os.O_RDONLY:
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
					testkit.CheckPathError(t, "PunchHole", err, name)
				}
				testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), want)
				for _, handle := range handles {
					testkit.MustEqual(t, "a handle", testkit.ReadAll(t, handle), want)
					err := handle.View(0, size, func(b []byte) error { testkit.MustEqual(t, "View", b, want); return nil })
					if err != nil {
						t.Error("View:", err)
					}
					if data := handle.Data(); int64(len(data)) == size {
						testkit.MustEqual(t, "Data", data, want)
					}
				}
			}
		}
	}, testkit.Wrapped)
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
		observed := watched.New()
		flushes := 0
		observed.Sync = func(_ string, sync func() error) error {
			flushes++
			return sync()
		}
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(8*testkit.PageSize)))
		fileSystem := memmapfs.New(observed, testkit.Full(memmapfs.ModeReadWrite, test.mode))
		file := testkit.MustOpenMapped(t, fileSystem, name, test.flags)
		testkit.ForceMap(file)
		if err := file.RemapAfterTruncation(); err != nil { // Data is to be flushed, too
			t.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		flushes = 0
		if err := file.PunchHole(testkit.PageSize, 3*testkit.PageSize); err != nil {
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
	hidden := watched.New()
	hidden.Hidden = true
	noHoles := syscall.EOPNOTSUPP // as of a filesystem without holes
	if runtime.GOOS == "wasip1" {
		noHoles = syscall.ENOSYS // the one that package syscall takes for errors.ErrUnsupported there
	}
	for _, base := range []absfs.FileSystem{hidden, testkit.PlainFileSystem(t)} {
		data := testkit.Content(int(4 * testkit.PageSize))
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
		fileSystem := testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.Over(t, base)
		file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
		if base != hidden {
			restore := memmapfs.HookPunchHole(func(func(uintptr, int64, int64) error) func(uintptr, int64, int64) error {
				return func(uintptr, int64, int64) error { return noHoles }
			})
			defer restore()
		}
		err := file.PunchHole(100, 3*testkit.PageSize)
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("PunchHole: %v", err)
		}
		testkit.CheckPathError(t, "PunchHole", err, name)
		testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), data)
		if err := file.PunchHole(-1, 1); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("PunchHole at -1: %v", err)
		}
	}
	directory := testkit.MustOpenMapped(t, testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t), osfs.FromNative(testkit.TestDir(t)), os.O_RDONLY)
	if err := directory.PunchHole(0, 1); err == nil {
		t.Error("a hole in a directory")
	}
}

// A cold read is one of a mapped page that is not known to be in memory.
func TestStatsOfColdReads(t *testing.T) {
	testkit.NeedKnownPages(t)
	restore := memmapfs.FailCachedPages(errors.ErrUnsupported)
	defer restore()
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(16*testkit.PageSize)))
	fileSystem := testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t).(*memmapfs.MemMapFS)
	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
	testkit.ForceMap(file)
	for range 3 { // the first is cold
		if _, err := file.ReadAt(make([]byte, 10), 7*testkit.PageSize); err != nil {
			t.Fatal(err)
		}
	}
	if stats := fileSystem.Stats(); stats.ReadsCold != 1 || stats.ReadsUnmapped != 0 {
		t.Errorf("%+v", stats)
	}
}

// Published numbers must not wait for a disk.
func TestStatsDoNotWait(t *testing.T) {
	testkit.NeedPopulate(t, t.TempDir())
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(16*testkit.PageSize)))
	began, goOn := make(chan bool), make(chan bool)
	restore := memmapfs.HookPopulate(func(populate func([]byte) error) func([]byte) error {
		return func(data []byte) error {
			began <- true
			<-goOn
			return populate(data)
		}
	})
	defer restore()
	config := memmapfs.DefaultConfig()
	config.PopulatePages = true
	fileSystem := testkit.Mode{Config: config}.OverOS(t).(*memmapfs.MemMapFS)
	var opening testkit.Workers
	opening.Start(func() { testkit.MustOpen(t, fileSystem, name, os.O_RDONLY) })
	<-began
	testkit.MustFinish(t, "Stats", func() { fileSystem.Stats() })
	close(goOn)
	opening.Wait()
}

// Catches a failed flush of a mapped range that is taken for a success.
func TestRangeSyncError(t *testing.T) {
	if !testkit.Mappable() {
		return
	}
	var failing atomic.Bool
	defer memmapfs.HookSyncMap(func(data []byte, flush func([]byte) error) error {
		if failing.Load() {
			return syscall.EIO
		}
		return flush(data)
	})()
	base, syncFails := testkit.FailingSync(false)
	fileSystem := memmapfs.New(base, testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate))
	defer fileSystem.Close()
	file := testkit.MustOpenMapped(t, fileSystem, testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(100)), os.O_RDWR)
	testkit.ForceMap(file)
	if _, err := file.WriteAt([]byte("bytes"), 0); err != nil {
		t.Fatal(err)
	}
	failing.Store(true)
	syncFails.Store(true) // where a range is flushed with the file
	for what, flush := range map[string]func() error{
		"SyncRange": func() error { return file.SyncRange(0, 10) },
		"WriteAt": func() error {
			n, err := file.WriteAt([]byte("bytes"), 0)
			if n != 5 {
				t.Errorf("WriteAt returned %d, want 5", n)
			}
			return err
		},
		"Write": func() error {
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				return err
			}
			_, err := file.Write([]byte("bytes"))
			return err
		},
	} {
		testkit.CheckSyncError(t, what, flush(), file.Name())
	}
	failing.Store(false)
	syncFails.Store(false)
	if err := file.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
