package memmapfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

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
	testkit.NotFiltered(t) // under a filter the page is read around first, and is known then
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

// TestKnobs sees the effect of every field of Config, or that there is none where the documentation says
// so. It catches a field without a test.
func TestKnobs(t *testing.T) {
	testkit.NeedMaps(t)
	const linux = "linux"
	size := 64 * testkit.MapAlignment
	data := testkit.Content(int(size))
	// open opens a file with the default Config as change makes it.
	open := func(t *testing.T, change func(c *memmapfs.Config)) (file *memmapfs.MappedFile, fileSystem *memmapfs.MemMapFS, name string) {
		t.Helper()
		config := memmapfs.DefaultConfig()
		change(config)
		name = testkit.WriteFile(t, testkit.TestDir(t), "file", data)
		fileSystem = testkit.Mode{Config: config}.OverOS(t).(*memmapfs.MemMapFS)
		return testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR), fileSystem, name
	}
	write := func(t *testing.T, file *memmapfs.MappedFile) {
		t.Helper()
		if _, err := file.WriteAt([]byte("written"), 0); err != nil {
			t.Fatal(err)
		}
	}
	touch := func(t *testing.T, file *memmapfs.MappedFile) {
		t.Helper()
		for off := int64(0); off < size; off += testkit.MapAlignment {
			if err := file.View(off, 1, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	onlyOn := func(t *testing.T, system string) {
		t.Helper()
		if runtime.GOOS != system {
			t.Skip("it has an effect, or one that can be seen, on " + system + " only")
		}
	}
	knobs := map[string]func(t *testing.T){
		"Mode": func(t *testing.T) {
			for _, mappingMode := range []memmapfs.MappingMode{memmapfs.ModeReadOnly, memmapfs.ModeReadWrite, memmapfs.ModeCopyOnWrite, memmapfs.ModeExecute} {
				file, _, name := open(t, func(c *memmapfs.Config) { c.Mode = mappingMode })
				write(t, file)
				if reached := testkit.ReadNative(t, name)[0] == 'w'; reached != (mappingMode != memmapfs.ModeCopyOnWrite) {
					t.Errorf("%v: the write reached the file: %v", mappingMode, reached)
				}
			}
		},
		"Mapping": func(t *testing.T) {
			for policy, served := range map[memmapfs.MappingPolicy]bool{memmapfs.MapAlways: true, memmapfs.MapNever: false} {
				file, fileSystem, _ := open(t, func(c *memmapfs.Config) { c.Mapping, c.Mode = policy, memmapfs.ModeReadWrite })
				testkit.ForceMap(file)
				for range 2 {
					if _, err := file.ReadAt(make([]byte, 10), 10); err != nil {
						t.Fatal(err)
					}
				}
				stats := fileSystem.Stats()
				if calls := stats.ReadsCold + stats.ReadsUnmapped; (calls < 2) != served || (file.MappingError() == nil) != served {
					t.Errorf("%v: %d of 2 reads went to the file, and MappingError is %v", policy, calls, file.MappingError())
				}
			}
		},
		"SyncMode": func(t *testing.T) {
			for syncMode, flushes := range map[memmapfs.SyncMode][2]int64{
				memmapfs.SyncImmediate: {1, 1}, memmapfs.SyncPeriodic: {0, 1}, memmapfs.SyncLazy: {0, 1}, memmapfs.SyncNever: {0, 0},
			} {
				file, fileSystem, _ := open(t, func(c *memmapfs.Config) { c.SyncMode, c.SyncInterval = syncMode, time.Hour })
				write(t, file)
				written := fileSystem.Stats().Flushes
				if err := file.Close(); err != nil {
					t.Fatal(err)
				}
				if closed := fileSystem.Stats().Flushes; [2]int64{written, closed} != flushes {
					t.Errorf("%v: %d flushes after a write, %d after Close; want %d", syncMode, written, closed, flushes)
				}
			}
		},
		"SyncInterval": func(t *testing.T) {
			for _, interval := range []time.Duration{time.Millisecond, time.Hour} {
				flushed := make(chan bool, 1000)
				observed := watched.New()
				observed.Sync = func(string, func() error) error {
					flushed <- true
					return nil
				}
				config := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncPeriodic)
				config.SyncInterval = interval
				fileSystem := testkit.Mode{Config: config}.Over(t, observed)
				write(t, testkit.MustOpenMapped(t, fileSystem, testkit.WriteFile(t, testkit.TestDir(t), "file", data), os.O_RDWR))
				if interval < time.Second {
					testkit.MustFinish(t, "a flush in the background", func() { <-flushed })
				} else if len(flushed) > 0 {
					t.Errorf("flushed at once, with an interval of %v", interval)
				}
			}
		},
		"OnSyncError": func(t *testing.T) {
			observed := watched.New()
			lost := errors.New("the disk is gone")
			observed.Sync = func(string, func() error) error { return lost }
			heard := make(chan error, 1)
			config := memmapfs.DefaultConfig()
			config.OnSyncError = func(_ string, err error) { heard <- err }
			name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
			fileSystem := memmapfs.New(observed, config)
			file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
			write(t, file)
			if err := file.SyncAsync(); err != nil {
				t.Fatal(err)
			}
			testkit.MustFinish(t, "OnSyncError", func() {
				if err := <-heard; !errors.Is(err, lost) {
					t.Error(err)
				}
			})
			if err := fileSystem.Close(); !errors.Is(err, lost) {
				t.Error("Close:", err)
			}
		},
		"MapFullFile": func(t *testing.T) {
			for _, whole := range []bool{false, true} {
				file, fileSystem, _ := open(t, func(c *memmapfs.Config) { c.MapFullFile, c.WindowSize = whole, 16*testkit.MapAlignment })
				touch(t, file)
				if windows := fileSystem.Stats().WindowsMapped; whole && windows != 1 || !whole && windows != 4 {
					t.Errorf("MapFullFile %v: %d windows", whole, windows)
				}
			}
		},
		"WindowSize": func(t *testing.T) {
			for windowSize, want := range map[int64]int64{1: testkit.MapAlignment, 3 * testkit.MapAlignment: 3 * testkit.MapAlignment, 0: size} {
				file, fileSystem, _ := open(t, func(c *memmapfs.Config) { c.MapFullFile, c.WindowSize = false, windowSize })
				if err := file.View(0, 1, func([]byte) error { return nil }); err != nil {
					t.Fatal(err)
				}
				if bytes := fileSystem.Stats().BytesMapped; bytes != want {
					t.Errorf("WindowSize %d: %d bytes are mapped, want %d", windowSize, bytes, want)
				}
			}
		},
		"MaxWindows": func(t *testing.T) {
			for maxWindows, want := range map[int]int64{1: 1, 5: 5, 0: 64} {
				file, fileSystem, _ := open(t, func(c *memmapfs.Config) { c.MapFullFile, c.WindowSize, c.MaxWindows = false, 1, maxWindows })
				touch(t, file)
				if windows := fileSystem.Stats().WindowsMapped; windows != want {
					t.Errorf("MaxWindows %d: %d windows, want %d", maxWindows, windows, want)
				}
			}
		},
		"RequireMapping": func(t *testing.T) {
			for _, required := range []bool{false, true} {
				config := memmapfs.DefaultConfig()
				config.RequireMapping = required
				hidden := watched.New()
				hidden.Hidden = true
				fileSystem := testkit.Mode{Config: config}.Over(t, hidden)
				file, err := fileSystem.Open(testkit.WriteFile(t, testkit.TestDir(t), "file", data))
				if errors.Is(err, memmapfs.ErrNotMapped) != required {
					t.Errorf("RequireMapping %v: %v", required, err)
				}
				if err == nil {
					file.Close()
				}
			}
		},
		"ColdReads": func(t *testing.T) {
			testkit.NotFiltered(t)                                     // as in TestStatsOfColdReads
			restore := memmapfs.FailCachedPages(errors.ErrUnsupported) // so that no page is known
			defer restore()
			for _, cold := range []bool{false, true} {
				file, fileSystem, _ := open(t, func(c *memmapfs.Config) { c.ColdReads, c.RequireMapping = cold, true })
				if _, err := file.ReadAt(make([]byte, 8), 9*testkit.PageSize); err != nil {
					t.Fatal(err)
				}
				if reads := fileSystem.Stats().ReadsCold; (reads == 0) != (cold && !testkit.InMemory(os.TempDir()) || runtime.GOOS == "windows") {
					t.Errorf("ColdReads %v: %d reads of cold pages went to the file", cold, reads)
				}
			}
		},
		"Preload": func(t *testing.T) {
			onlyOn(t, linux)
			for _, preload := range []bool{false, true} {
				testkit.CheckPreload(t, func(c *memmapfs.Config) { c.Preload = preload }, preload, false)
			}
		},
		"PreloadAsync": func(t *testing.T) {
			onlyOn(t, linux)
			testkit.CheckPreload(t, func(c *memmapfs.Config) { c.PreloadAsync = true }, true, false)
		},
		"PopulatePages": func(t *testing.T) {
			onlyOn(t, linux)
			testkit.CheckPreload(t, func(c *memmapfs.Config) { c.PopulatePages = true }, true, true)
		},
		"UseHugePages": func(t *testing.T) {
			advised := 0
			restore := memmapfs.HookAdvise(func(advise func([]byte, int) error) func([]byte, int) error {
				return func(data []byte, advice int) error {
					advised++
					return errors.New("no large pages here") // which is no error of the open
				}
			})
			defer restore()
			for _, huge := range []bool{false, true} {
				advised = 0
				file, _, _ := open(t, func(c *memmapfs.Config) { c.UseHugePages, c.RequireMapping = huge, true })
				testkit.MustEqual(t, "the file", testkit.ReadAll(t, file), data)
				if want := huge && runtime.GOOS == linux; (advised > 0) != want {
					t.Errorf("UseHugePages %v: %d advices", huge, advised)
				}
			}
		},
		"LockPages": func(t *testing.T) {
			locked := 0
			restore := memmapfs.HookLock(func(lock func([]byte) error) func([]byte) error {
				return func(data []byte) error {
					locked += len(data)
					return nil
				}
			})
			defer restore()
			for _, lock := range []bool{false, true} {
				for _, whole := range []bool{false, true} {
					locked = 0
					file, _, _ := open(t, func(c *memmapfs.Config) {
						c.LockPages, c.MapFullFile, c.WindowSize = lock, whole, 16*testkit.MapAlignment
					})
					if (locked > 0) != lock {
						t.Errorf("LockPages %v: %d bytes are locked by the open", lock, locked)
					}
					touch(t, file)
					if lock && int64(locked) != size || !lock && locked > 0 {
						t.Errorf("LockPages %v: %d bytes are locked", lock, locked)
					}
				}
			}
		},
		"MapSync": func(t *testing.T) {
			for _, mappingMode := range []memmapfs.MappingMode{memmapfs.ModeReadOnly, memmapfs.ModeReadWrite, memmapfs.ModeCopyOnWrite} {
				for _, mapSync := range []bool{false, true} {
					synced, plain := 0, 0
					restore := memmapfs.HookMap(func(write, private, sync bool) error {
						if sync {
							synced++
						} else {
							plain++
						}
						return nil
					})
					file, _, name := open(t, func(c *memmapfs.Config) { c.Mode, c.MapSync = mappingMode, mapSync })
					if data := file.Data(); data == nil {
						t.Errorf("%v, MapSync %v: not mapped", mappingMode, mapSync)
					}
					restore()
					want := mapSync && mappingMode == memmapfs.ModeReadWrite
					if (synced > 0) != want {
						t.Errorf("%v, MapSync %v: %d maps were asked for with it, %d without", mappingMode, mapSync, synced, plain)
					} else if want && plain == 0 && runtime.GOOS == linux {
						t.Errorf("the kernel has granted it for %s: is that on DAX?", name)
					}
					write(t, file)
					testkit.MustEqual(t, "the file", testkit.ReadAll(t, file)[:7], []byte("written"))
				}
			}
		},
		"NoCache": func(t *testing.T) {
			// It reaches the descriptor that the file offers, and no other; elsewhere than on macOS that has
			// no effect, and here its calls have the same results.
			for _, noCache := range []bool{false, true} {
				asked := 0
				restore := memmapfs.HookNoCache(func(call func(uintptr) error) func(uintptr) error {
					return func(fd uintptr) error {
						asked++
						err := call(fd)
						if want := runtime.GOOS == "darwin"; (err == nil) != want {
							t.Errorf("the call: %v", err)
						}
						return err
					}
				})
				config := memmapfs.DefaultConfig()
				config.NoCache = noCache
				name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
				file := testkit.MustOpenMapped(t, testkit.Mode{Config: config}.Over(t, watched.New()), name, os.O_RDWR)
				testkit.MustOpenMapped(t, testkit.Mode{Config: config}.OverOS(t), name, os.O_RDWR)
				restore()
				if noCache && asked != 1 || !noCache && asked != 0 {
					t.Errorf("NoCache %v: asked for %d times", noCache, asked)
				}
				write(t, file)
				testkit.MustEqual(t, "the file", testkit.ReadAll(t, file)[7:], data[7:])
			}
		},
	}
	fields := reflect.TypeFor[memmapfs.Config]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		test, ok := knobs[name]
		if !ok {
			t.Errorf("nothing sees the effect of Config.%s", name)
			continue
		}
		t.Run(name, test)
	}
}

// Catches a knob that is missing in the table that says what each does on which system.
func TestKnobsAreInTheTable(t *testing.T) {
	source, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(source), "//	field ")
	table, _, found := strings.Cut(rest, "\ntype Config struct")
	if !found {
		t.Fatal("the documentation of Config has no table")
	}
	fields := reflect.TypeFor[memmapfs.Config]()
	for i := range fields.NumField() {
		if name := fields.Field(i).Name; !strings.Contains(table, "//	"+name+" ") {
			t.Errorf("Config.%s is not in the table", name)
		}
	}
}

// TestViewEndsWhileItsMapIsFlushed catches a flush of a map that the end of a View takes away meanwhile, where
// the file's own Sync does not cover maps: the flush would fail, or reach what is at the addresses by then.
func TestViewEndsWhileItsMapIsFlushed(t *testing.T) {
	testkit.NeedMaps(t)
	file := testkit.MustOpenMapped(t, testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncLazy)}.OverOS(t),
		testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(4*testkit.PageSize))), os.O_RDWR)
	if _, err := file.WriteAt([]byte("to be flushed"), testkit.PageSize); err != nil {
		t.Fatal(err)
	}
	endView, viewEnded, viewing := make(chan struct{}), make(chan error), make(chan struct{})
	go func() {
		viewEnded <- file.View(0, testkit.PageSize, func(b []byte) error {
			b[0]++
			close(viewing)
			<-endView
			return nil
		})
	}()
	<-viewing
	flushes := 0
	defer memmapfs.HookSyncMap(func(data []byte, flush func([]byte) error) error {
		if flushes++; flushes == 1 {
			close(endView)
			if err := <-viewEnded; err != nil {
				t.Error("View:", err)
			}
			if testkit.FaultsWhenRead(data) {
				t.Error("the map was taken away while it was flushed")
			}
		}
		return flush(data)
	})()
	if err := file.Close(); err != nil {
		t.Error("Close:", err)
	}
	if flushes == 0 { // the file's Sync covers maps
		close(endView)
		if err := <-viewEnded; err != nil {
			t.Error("View:", err)
		}
	}
}

// injector lets one of the package's system calls fail, or all from one on.
type injector struct {
	mu       sync.Mutex // guards the fields below
	err      error
	failAt   int // the call that fails, counted from 0; -1: none
	onward   bool
	unmaps   bool // only the calls that give addresses back fail, and all of them
	calls    int
	injected []string              // the calls that failed
	mapped   map[uintptr]*interval // what is mapped now
}

// interval is what became of one map.
type interval struct {
	handedOut bool // by Data: kept, unreadable, after its end
	revoked   bool
}

// before fails the calls. Those that give addresses back are not counted: they are made at any time.
func (in *injector) before(name string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	fail := in.unmaps && name == "unmap"
	if name != "unmap" && !(name == "revoke" && testkit.MapsHoldFiles) { // a file stays mapped then, and is not truncated
		fail = in.failAt >= 0 && !in.unmaps && (in.calls == in.failAt || in.onward && in.calls > in.failAt)
		in.calls++
	}
	if !fail {
		return nil
	}
	in.injected = append(in.injected, name)
	return in.err
}

func (in *injector) done(name string, data []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	address := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	switch name {
	case "mapFile":
		in.mapped[address] = new(interval)
	case "revoke":
		if interval := in.mapped[address]; interval != nil {
			interval.revoked = true
		}
	case "unmap":
		delete(in.mapped, address)
	}
}

// arm starts a run.
func (in *injector) arm(failAt int, onward bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.failAt, in.onward, in.err = failAt, onward, err
	in.calls, in.injected = 0, nil
}

// disarm ends it, and returns the calls that failed.
func (in *injector) disarm() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.failAt = -1
	return in.injected
}

// handedOut takes note of bytes that Data has returned.
func (in *injector) handedOut(data []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mapped[uintptr(unsafe.Pointer(unsafe.SliceData(data)))].handedOut = true
}

// notGivenBack counts the maps that are still there, but for those that Data has handed out, which stay
// unreadable for long.
func (in *injector) notGivenBack() (count int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, interval := range in.mapped {
		if !interval.revoked || !interval.handedOut {
			count++
		}
	}
	return count
}

// letOff forgets the maps that Data has handed out and that nothing could take away.
func (in *injector) letOff() {
	in.mu.Lock()
	defer in.mu.Unlock()
	maps.DeleteFunc(in.mapped, func(_ uintptr, interval *interval) bool { return interval.handedOut && !interval.revoked })
}

// TestSystemCallsFail lets the first system call fail, then the second, and so on until there is none
// left, in a fixed scenario of all operations. It catches every place that takes a call's success for
// granted: a wrong byte, an error where the file could have given the result, an error that is no
// *fs.PathError or hides its reason, a call that works no more after the failure, and a map or
// descriptor that is left behind.
func TestSystemCallsFail(t *testing.T) {
	small := func(mappingMode memmapfs.MappingMode) *memmapfs.Config {
		config := testkit.Windowed(mappingMode, testkit.PageSize)
		config.MaxWindows = 3
		return config
	}
	hinted := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)
	hinted.Preload, hinted.UseHugePages, hinted.PopulatePages, hinted.MapSync = true, true, true, true
	for _, test := range []struct {
		name   string
		config *memmapfs.Config
	}{
		{"read-only", memmapfs.DefaultConfig()},
		{"read-write sync immediate", testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate)},
		{"read-write sync lazy", testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncLazy)},
		{"copy-on-write", testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)},
		{"read-only windows", small(memmapfs.ModeReadOnly)},
		{"read-write windows", small(memmapfs.ModeReadWrite)},
		{"copy-on-write windows", small(memmapfs.ModeCopyOnWrite)},
		{"read-write with hints", hinted},
	} {
		t.Run(test.name, func(t *testing.T) {
			testkit.InChild(t, func(t *testing.T) { testSystemCallsFail(t, test.config) })
		})
	}
}

func testSystemCallsFail(t *testing.T, config *memmapfs.Config) {
	in := &injector{failAt: -1, mapped: make(map[uintptr]*interval)}
	memmapfs.InterceptSystemCalls(in.before, in.done)
	dir := t.TempDir() // every run looks for what it has left behind
	runs, failures := 0, 0
	names := make(map[string]int)
	run := func(failAt int, onward bool, err error) (failed []string) {
		in.arm(failAt, onward, err)
		s := &failureScenario{t: t, in: in, dir: dir, config: config, run: runs}
		s.what = fmt.Sprintf("call %d fails with %v", failAt, err)
		if onward {
			s.what = fmt.Sprintf("call %d and all later ones fail with %v", failAt, err)
		}
		s.play()
		failed = in.disarm()
		s.checkLeaks(failed, onward)
		runs++
		failures += len(failed)
		for _, name := range failed {
			names[name]++
		}
		return failed
	}

	// The scenario itself is right, and makes calls of every kind that the mode has.
	if failed := run(-1, false, nil); len(failed) > 0 || t.Failed() {
		t.Fatal("the scenario fails by itself")
	}
	for _, round := range []struct {
		err    error
		onward bool
	}{
		{syscall.ENOMEM, false}, {syscall.ENOMEM, true}, // a shortage, which may pass
		{syscall.EIO, false}, {syscall.EINVAL, true}, // a refusal
	} {
		for failAt := 0; ; failAt++ {
			if skipped := failAt > 5 && failAt%7 != 0; skipped && (testing.Short() || testkit.RaceDetector) || failAt%5 != 0 && round.onward {
				continue
			}
			if len(run(failAt, round.onward, round.err)) == 0 {
				break
			}
			if t.Failed() {
				return // what was left behind now would be found again and again
			}
		}
	}

	// Addresses that cannot be given back are lost, and nothing else is. On Windows the file could not
	// be removed either.
	if !testkit.MapsHoldFiles {
		in.mu.Lock()
		in.unmaps, in.err = true, syscall.ENOMEM
		in.mu.Unlock()
		s := &failureScenario{t: t, in: in, dir: dir, config: config, run: runs, what: "no unmapping"}
		s.play()
		for range 3 {
			runtime.GC()
		}
		failures += len(in.disarm())
	}
	var kinds []string
	for name, count := range names {
		kinds = append(kinds, fmt.Sprintf("%d %s", count, name))
	}
	slices.Sort(kinds)
	testkit.Report(t, "%d runs, %d failed system calls survived: %s", runs, failures, strings.Join(kinds, ", "))
}

// failureScenario is every operation once, with the content that it has to show.
type failureScenario struct {
	t      *testing.T
	in     *injector
	dir    string
	config *memmapfs.Config
	run    int
	what   string // which calls fail

	name string
	file *memmapfs.MappedFile
	want []byte // what the file shows through file
}

func (s *failureScenario) fail(format string, args ...any) {
	s.t.Helper()
	s.in.mu.Lock()
	failed := slices.Clone(s.in.injected)
	s.in.mu.Unlock()
	s.t.Errorf("%s, so far %v: %s", s.what, failed, fmt.Sprintf(format, args...))
}

// must is for what the file can do without a map, whatever fails.
func (s *failureScenario) must(call string, err error) {
	s.t.Helper()
	if err != nil {
		s.fail("%s: %v", call, err)
	}
}

// may is for what needs the call that fails. It reports whether it went well all the same.
func (s *failureScenario) may(call string, err error) bool {
	s.t.Helper()
	if err == nil {
		return true
	}
	var path *fs.PathError
	if !errors.As(err, &path) {
		s.fail("%s: %T %v, want a *fs.PathError", call, err, err)
	}
	s.in.mu.Lock()
	failed := len(s.in.injected)
	s.in.mu.Unlock()
	if failed == 0 {
		s.fail("%s, with no call that failed: %v", call, err)
	}
	if !errors.Is(err, s.in.err) && !errors.Is(err, memmapfs.ErrNotMapped) {
		s.fail("%s: %v, want %v or ErrNotMapped", call, err, s.in.err)
	}
	return false
}

func (s *failureScenario) private() bool { return s.config.Mode == memmapfs.ModeCopyOnWrite }

// write is a WriteAt, of which the bytes count that it says to have written. Only a flush may fail.
func (s *failureScenario) write(text string, off int64) {
	s.t.Helper()
	n, err := s.file.WriteAt([]byte(text), off)
	s.wrote("WriteAt", text, off, n, err)
}

func (s *failureScenario) wrote(call, text string, off int64, n int, err error) {
	s.t.Helper()
	if s.config.SyncMode == memmapfs.SyncImmediate {
		s.may(call, err)
	} else {
		s.must(call, err)
	}
	if n != len(text) {
		s.fail("%s at %d: %d bytes of %d", call, off, n, len(text))
	}
	if missing := off + int64(n) - int64(len(s.want)); missing > 0 {
		s.want = append(s.want, make([]byte, missing)...)
	}
	copy(s.want[off:], text[:n])
}

// read compares a range.
func (s *failureScenario) read(off int64, n int) {
	s.t.Helper()
	p := make([]byte, n)
	read, err := s.file.ReadAt(p, off)
	want := s.want[min(off, int64(len(s.want))):min(off+int64(n), int64(len(s.want)))]
	if err == io.EOF && len(want) < n {
		err = nil
	}
	s.must("ReadAt", err)
	if diff := testkit.FirstDifference(p[:read], want); diff != "" {
		s.fail("ReadAt at %d: %s", off, diff)
	}
}

// readAll compares the whole content, in pieces that cross pages and windows, and by WriteTo.
func (s *failureScenario) readAll() {
	s.t.Helper()
	for off := int64(0); off < int64(len(s.want)); off += testkit.PageSize {
		s.read(off, int(testkit.PageSize)+8)
	}
	_, err := s.file.Seek(0, io.SeekStart)
	s.must("Seek", err)
	var copied bytes.Buffer
	_, err = s.file.WriteTo(&copied)
	s.must("WriteTo", err)
	if diff := testkit.FirstDifference(copied.Bytes(), s.want); diff != "" {
		s.fail("WriteTo: %s", diff)
	}
}

// view compares a range in a View, and stores where that reaches the handle's content.
func (s *failureScenario) view(off, n int64) {
	s.t.Helper()
	stores := s.config.Mode == memmapfs.ModeReadWrite || s.private() && s.config.MapFullFile
	called := false
	err := s.file.View(off, n, func(b []byte) error {
		called = true
		if diff := testkit.FirstDifference(b, s.want[off:off+n]); diff != "" {
			s.fail("View at %d: %s", off, diff)
		}
		if stores {
			copy(b, "view")
			copy(s.want[off:], "view")
		}
		return nil
	})
	if ok := s.may("View", err); ok != called {
		s.fail("View calls the function: %v, and gives %v", called, err)
	}
}

// data compares what Data has, and stores.
func (s *failureScenario) data() {
	s.t.Helper()
	pos := 2 * testkit.PageSize
	_, err := s.file.Seek(pos, io.SeekStart)
	s.must("Seek", err)
	data := s.file.Data()
	if data == nil {
		return
	}
	s.in.handedOut(data)
	start := int64(0)
	if len(data) < len(s.want) {
		start = pos // the window that holds it is one page
	}
	if diff := testkit.FirstDifference(data, s.want[start:start+int64(len(data))]); diff != "" {
		s.fail("Data: %s", diff)
	}
	if s.config.Mode == memmapfs.ModeReadWrite || s.private() {
		s.store(data, "data")
		copy(s.want[start:], "data")
	}
}

// holed reports whether a hole is there although PunchHole gave an error: that of the flush after it.
func (s *failureScenario) holed() bool {
	p := make([]byte, 100)
	_, err := s.file.ReadAt(p, 7*testkit.PageSize+10)
	s.must("ReadAt", err)
	return s.config.SyncMode == memmapfs.SyncImmediate && bytes.Equal(p, make([]byte, 100))
}

// store stores text in bytes that must be there to be stored to.
func (s *failureScenario) store(data []byte, text string) {
	s.t.Helper()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if fault := testkit.Recovered(func() { copy(data, text) }); fault != nil {
		s.fail("a store into Data: %v", fault)
	}
}

func (s *failureScenario) play() {
	t := s.t
	original := testkit.PatternFrom(0, int(9*testkit.PageSize)+100)
	s.want = slices.Clone(original)
	s.name = testkit.WriteFile(t, s.dir, fmt.Sprintf("run %d", s.run), original)
	defer os.Remove(osfs.ToNative(s.name))
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), s.config)
	opened, err := fileSystem.OpenFile(s.name, os.O_RDWR, 0)
	if err != nil {
		s.fail("OpenFile: %v", err)
		return
	}
	s.file = opened.(*memmapfs.MappedFile)
	reader, err := fileSystem.Open(s.name)
	if err != nil {
		s.fail("Open: %v", err)
		return
	}

	// Reads until a map pays, and over every window.
	for i := range int64(25) {
		s.read(i*100, 8)
	}
	s.readAll()
	buffer := make([]byte, 10)
	_, err = io.ReadFull(reader, buffer)
	s.must("Read of another handle", err)
	if diff := testkit.FirstDifference(buffer, original[:10]); diff != "" {
		s.fail("Read of another handle: %s", diff)
	}

	// Writes: the first touch of a page, hot ones, over the edge of a page, at the position.
	for _, off := range []int64{0, 0, 5, testkit.PageSize - 3, testkit.PageSize - 3, 3*testkit.PageSize + 7, 3*testkit.PageSize + 7} {
		s.write(fmt.Sprintf("write at %d", off), off)
		s.read(off, 20)
	}
	_, err = s.file.Seek(4*testkit.PageSize, io.SeekStart)
	s.must("Seek", err)
	n, err := s.file.WriteString("at the position")
	s.wrote("WriteString", "at the position", 4*testkit.PageSize, n, err)
	copied, err := s.file.ReadFrom(strings.NewReader("from a reader"))
	s.wrote("ReadFrom", "from a reader", 4*testkit.PageSize+int64(n), int(copied), err)

	// Bytes of the map.
	s.view(6*testkit.PageSize, 100)
	s.view(6*testkit.PageSize-10, 3*testkit.PageSize)
	s.data()
	s.may("Sync", s.file.Sync())
	s.may("SyncRange", s.file.SyncRange(testkit.PageSize-3, 2*testkit.PageSize))
	s.readAll()
	for _, advise := range []func() error{
		s.file.AdviseSequential, s.file.AdviseRandom, s.file.AdviseWillNeed, s.file.AdviseDontNeed,
		s.file.AdviseFree, s.file.AdviseRemove,
	} {
		if err := advise(); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, memmapfs.ErrNotMapped) {
			s.may("a hint", err)
		}
		s.read(0, 30)
	}
	s.must("Prefetch", s.file.Prefetch(100, 4*testkit.PageSize))
	if err := s.file.LockMemory(testkit.PageSize, 2*testkit.PageSize); !errors.Is(err, memmapfs.ErrNotMapped) {
		s.may("LockMemory", err)
	}
	s.readAll()
	s.may("UnlockMemory", s.file.UnlockMemory(testkit.PageSize, 2*testkit.PageSize))
	if resident, total, _, err := s.file.Residency(0, 2*testkit.PageSize); !errors.Is(err, errors.ErrUnsupported) {
		if s.may("Residency", err) && resident > total {
			s.fail("Residency: %d of %d", resident, total)
		}
	}
	if !s.private() {
		err := s.file.PunchHole(7*testkit.PageSize+10, 100)
		if !errors.Is(err, errors.ErrUnsupported) && (s.may("PunchHole", err) || s.holed()) {
			clear(s.want[7*testkit.PageSize+10 : 7*testkit.PageSize+110])
		}
		s.readAll()
	}
	s.must("RemapAfterTruncation", s.file.RemapAfterTruncation())
	s.readAll()
	s.view(testkit.PageSize, 50)
	s.data()

	// Other sizes.
	if !s.private() {
		for _, size := range []int64{5*testkit.PageSize + 9, 12 * testkit.PageSize} {
			err := s.file.Truncate(size)
			if s.config.SyncMode == memmapfs.SyncImmediate {
				s.may("Truncate", err)
			} else {
				s.must("Truncate", err)
			}
			s.want = append(s.want[:min(int64(len(s.want)), size)], make([]byte, max(0, size-int64(len(s.want))))...)
			s.readAll()
			s.view(testkit.PageSize, 50)
		}
		s.must("Truncate by name", fileSystem.Truncate(s.name, 11*testkit.PageSize))
		s.want = s.want[:11*testkit.PageSize]
		s.write("growth", int64(len(s.want))+50)
		s.write("growth again", int64(len(s.want))-3)
		s.readAll()
	}

	// Once a call fails for want of memory, and then no more, the file can be mapped.
	if s.in.err == syscall.ENOMEM && !s.in.onward && !s.in.unmaps {
		_, err := s.file.Seek(0, io.SeekStart)
		s.must("Seek", err)
		if data := s.file.Data(); data != nil {
			s.in.handedOut(data)
		} else if data = s.file.Data(); data != nil {
			s.in.handedOut(data)
		} else {
			s.fail("the file can no longer be mapped")
		}
	}
	s.data()
	s.may("Close", s.file.Close())
	if _, err := s.file.ReadAt(buffer, 0); !errors.Is(err, fs.ErrClosed) {
		s.fail("ReadAt after Close: %v", err)
	}
	s.must("Close of another handle", reader.Close())
	s.must("Close of the filesystem", fileSystem.Close())
	want := s.want
	if s.private() {
		want = original
	}
	if diff := testkit.FirstDifference(testkit.ReadNative(t, s.name), want); diff != "" {
		s.fail("the file in the end: %s", diff)
	}
	s.share()
}

// share is the life of a shared memory.
func (s *failureScenario) share() {
	path := filepath.Join(s.dir, fmt.Sprintf("shared %d", s.run))
	defer os.Remove(path)
	shared, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: path, Size: 2 * testkit.PageSize, Mode: s.config.Mode, SyncMode: s.config.SyncMode,
	})
	if !s.may("CreateSharedMemory", err) {
		return
	}
	s.in.handedOut(shared.Data())
	s.store(shared.Data(), "shared")
	if s.may("Lock of a shared memory", shared.Lock()) {
		s.may("Unlock of a shared memory", shared.Unlock())
	}
	s.may("Sync of a shared memory", shared.Sync())
	s.may("Close of a shared memory", shared.Close())
	content, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if !s.private() && !bytes.HasPrefix(content, []byte("shared")) {
		s.fail("the shared memory's file begins with %q", content[:10])
	}
	s.must("Remove", shared.Remove())
}

// checkLeaks fails the test if anything of this run is left mapped or open. When the calls go on failing,
// those fail too that take a map away which Data has handed out, and such a map is let off.
func (s *failureScenario) checkLeaks(failed []string, onward bool) {
	s.t.Helper()
	s.file = nil
	if onward && slices.Contains(failed, "revoke") {
		s.in.letOff()
		return
	}
	var left []string
	clean := testkit.Eventually(func() bool {
		left = nil
		for _, found := range append(testkit.MappedUnder(s.t, s.dir), testkit.OpenUnder(s.t, s.dir)...) {
			if strings.Contains(found+" ", fmt.Sprintf(" %d ", s.run)) { // the end of the file's name
				left = append(left, found)
			}
		}
		if count := s.in.notGivenBack(); count > 0 {
			left = append(left, fmt.Sprintf("%d maps not given back", count))
		}
		return len(left) == 0
	})
	if !clean {
		s.t.Errorf("%s, %v failed, left behind:\n%s", s.what, failed, strings.Join(left, "\n"))
	}
}
