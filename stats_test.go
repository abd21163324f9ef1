package memmapfs_test

import (
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// Numbers of a filesystem can be published beside a program's own, and read at /debug/vars.
func ExampleMemMapFS_Stats() {
	path, remove := temporaryFile([]byte("Hello"))
	defer remove()
	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	expvar.Publish("files", expvar.Func(func() any { return filesystem.Stats() }))

	file, err := filesystem.Open(path)
	check(err)
	_, err = file.ReadAt(make([]byte, 5), 0)
	check(err)

	var published struct{ FilesOpen, ReadsUnmapped int }
	check(json.Unmarshal([]byte(expvar.Get("files").String()), &published))
	fmt.Printf("%+v\n", published)
	check(file.Close())
	// Output: {FilesOpen:1 ReadsUnmapped:1}
}

// skipUnlessGated skips a test of pages that are read through the file until they are known to be in
// memory, where no page is.
func skipUnlessGated(t testing.TB) {
	t.Helper()
	if !mappable() || runtime.GOOS == "windows" {
		t.Skip("this system maps in another way, or not at all")
	}
}

// Every number is right after every step. Catches one that is counted twice, not at all, or for another
// reason.
func TestStats(t *testing.T) {
	skipUnlessGated(t)
	watched := memmapfs.NewWatchedFS()
	failing := false
	watched.Sync = func(_ string, sync func() error) error {
		if failing {
			return errors.New("the disk is gone")
		}
		return sync()
	}
	config := windowed(memmapfs.ModeReadWrite, 4*pageSize)
	config.MaxWindows = 2
	fileSystem := memmapfs.New(watched, config)
	name := writeFile(t, testDir(t), "file", content(int(16*pageSize)))
	var want memmapfs.Stats
	check := func(step string) {
		t.Helper()
		got, wanted := reflect.ValueOf(fileSystem.Stats()), reflect.ValueOf(want)
		for i := range got.NumField() {
			if got.Field(i).Int() != wanted.Field(i).Int() {
				t.Errorf("%s: %s is %d, want %d", step, got.Type().Field(i).Name, got.Field(i).Int(), wanted.Field(i).Int())
			}
		}
	}
	must := func(_ int, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 10)

	file := mustOpenMapped(t, fileSystem, name, os.O_RDWR)
	other := mustOpenMapped(t, fileSystem, name, os.O_RDWR|os.O_APPEND)
	want.FilesOpen = 2
	check("open")
	must(file.ReadAt(p, 0))
	must(file.Read(p))
	want.ReadsUnmapped += 2
	check("reads without a map")
	must(file.WriteAt(p, 0))
	must(file.Write(p))
	want.WritesUnmapped += 2
	check("writes without a map")
	must(other.Write(p))
	want.WritesUnmapped++
	check("an append without a map")

	window := func(index int64) {
		if err := file.View(index*4*pageSize, 1, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	window(0)
	window(1)
	want.FilesMapped, want.WindowsMapped, want.BytesMapped = 1, 2, 8*pageSize
	check("two windows")
	window(2)
	want.WindowsDropped = 1
	check("a third one")
	must(file.ReadAt(p, 0))
	want.ReadsUnmapped++
	check("a read of the dropped one")
	must(file.WriteAt(p, 5*pageSize))
	want.WritesCold++
	must(file.WriteAt(p, 5*pageSize))
	must(file.ReadAt(p, 5*pageSize))
	check("the first write to a page, then through the map")
	window(4) // of the appended bytes
	want.WindowsDropped++
	want.BytesMapped = 5 * pageSize
	check("a short window")
	must(file.WriteAt(p, 16*pageSize+10))
	want.WritesPastEnd++
	check("growth")
	file.ReadAt(p, 17*pageSize)
	want.ReadsPastEnd++
	check("a read past the end")

	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
	want.Flushes++
	failing = true
	if err := file.Sync(); err == nil {
		t.Fatal("Sync succeeds")
	}
	failing = false
	want.Flushes++
	want.FlushErrors++
	check("flushes")

	file.ReadAt(p, 9*pageSize) // in the window that is left
	must(file.ReadAt(p, 9*pageSize))
	want.ReadsCold += fileSystem.Stats().ReadsCold // if the kernel does not tell that it is in memory
	if err := os.Truncate(osfs.ToNative(name), 0); err != nil {
		t.Fatal(err)
	}
	file.ReadAt(p, 9*pageSize) // faults
	want.Faults++
	want.ReadsPastEnd++
	check("a fault")

	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	want.FilesOpen, want.FilesMapped, want.WindowsMapped, want.BytesMapped = 1, 0, 0, 0
	check("one is closed")
	if err := errors.Join(other.Close(), fileSystem.Close()); err != nil {
		t.Fatal(err)
	}
	want.FilesOpen = 0
	check("all is closed")

	config.SyncMode = memmapfs.SyncImmediate
	flushing := mode{"", config}.overOS(t).(*memmapfs.MemMapFS)
	flushed := mustOpenMapped(t, flushing, name, os.O_RDWR)
	must(flushed.WriteAt(p, 0))
	if stats := flushing.Stats(); stats.WritesFlushed != 1 || stats.Flushes != 1 || stats.WritesUnmapped != 0 {
		t.Errorf("a write that is flushed: %+v", stats)
	}
}

// A cold read is one of a mapped page that is not known to be in memory.
func TestStatsOfColdReads(t *testing.T) {
	skipUnlessGated(t)
	restore := memmapfs.FailCachedPages(errors.ErrUnsupported)
	defer restore()
	name := writeFile(t, testDir(t), "file", content(int(16*pageSize)))
	fileSystem := mode{"", memmapfs.DefaultConfig()}.overOS(t).(*memmapfs.MemMapFS)
	file := mustOpenMapped(t, fileSystem, name, os.O_RDONLY)
	forceMap(file)
	for range 3 { // the first is cold
		if _, err := file.ReadAt(make([]byte, 10), 7*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	if stats := fileSystem.Stats(); stats.ReadsCold != 1 || stats.ReadsUnmapped != 0 {
		t.Errorf("%+v", stats)
	}
}

// Published numbers must not wait for a disk.
func TestStatsDoNotWait(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("pages are brought in by a call of their own on Linux only")
	}
	name := writeFile(t, testDir(t), "file", content(int(16*pageSize)))
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
	fileSystem := mode{"", config}.overOS(t).(*memmapfs.MemMapFS)
	var opening workers
	opening.start(func() { mustOpen(t, fileSystem, name, os.O_RDONLY) })
	<-began
	mustFinish(t, "Stats", func() { fileSystem.Stats() })
	close(goOn)
	opening.Wait()
}
