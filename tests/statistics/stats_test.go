package statistics_test

import (
	"errors"
	"os"
	"reflect"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
)

// Every number is right after every step. Catches one that is counted twice, not at all, or for another
// reason.
//
// Calls are so long that a map would save next to nothing of any of them, and too long for the package to time:
// so no machine is so slow, or so fast, that a map is made, or the kernel asked, unless a step says so.
func TestStats(t *testing.T) {
	testkit.NeedKnownPages(t)
	observed := watched.New()
	failing := false
	observed.Sync = func(_ string, sync func() error) error {
		if failing {
			return errors.New("the disk is gone")
		}
		return sync()
	}
	unit := max(64<<10, testkit.PageSize)
	p := make([]byte, 63<<10)
	config := testkit.Windowed(memmapfs.ModeReadWrite, 4*unit)
	config.MaxWindows = 2
	fileSystem := memmapfs.New(observed, config)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(16*unit)))
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

	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
	other := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR|os.O_APPEND)
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
		if err := file.View(index*4*unit, 1, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	window(0)
	window(1)
	want.FilesMapped, want.WindowsMapped, want.BytesMapped = 1, 2, 8*unit
	check("two windows")
	window(2)
	want.WindowsDropped = 1
	check("a third one")
	must(file.ReadAt(p, 0))
	want.ReadsUnmapped++
	check("a read of the dropped one")
	must(file.ReadAt(p, 6*unit)) // the page whose presence proves that the one before is the file's
	want.ReadsCold++
	must(file.WriteAt(p, 5*unit))
	want.WritesCold++
	must(file.WriteAt(p, 5*unit))
	must(file.ReadAt(p, 5*unit))
	check("the first write to a page, then through the map")
	window(4) // of the appended bytes
	want.WindowsDropped++
	want.BytesMapped = 5 * unit
	check("a short window")
	must(file.WriteAt(p, 16*unit+int64(len(p))))
	want.WritesPastEnd++
	check("growth")
	file.ReadAt(p, 18*unit)
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

	file.ReadAt(p, 9*unit) // in the window that is left
	must(file.ReadAt(p, 9*unit))
	want.ReadsCold = fileSystem.Stats().ReadsCold // if the kernel does not tell that it is in memory
	if err := os.Truncate(osfs.ToNative(name), 0); err != nil {
		t.Fatal(err)
	}
	file.ReadAt(p, 9*unit) // faults
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
	flushing := testkit.Mode{Config: config}.OverOS(t).(*memmapfs.MemMapFS)
	flushed := testkit.MustOpenMapped(t, flushing, name, os.O_RDWR)
	must(flushed.WriteAt(p, 0))
	if stats := flushing.Stats(); stats.WritesFlushed != 1 || stats.Flushes != 1 || stats.WritesUnmapped != 0 {
		t.Errorf("a write that is flushed: %+v", stats)
	}
}
