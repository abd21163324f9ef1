package memmapfs_test

import (
	"errors"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
)

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
				file, fileSystem, _ := open(t, func(c *memmapfs.Config) { c.Mapping = policy })
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
					if runtime.GOOS == "windows" { // in ModeReadOnly, too, there is a map to store in
						want = mapSync && mappingMode != memmapfs.ModeCopyOnWrite
					}
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
