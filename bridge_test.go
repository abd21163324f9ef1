package memmapfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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
