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
	config := testkit.Windowed(memmapfs.ModeReadWrite, 4*testkit.PageSize)
	config.MaxWindows = 2
	fileSystem := memmapfs.New(observed, config)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(16*testkit.PageSize)))
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
	if file.Mapped() {
		t.Skip("calls take so long here that a map is made at once")
	}
	want.WritesUnmapped += 2
	check("writes without a map")
	must(other.Write(p))
	want.WritesUnmapped++
	check("an append without a map")

	window := func(index int64) {
		if err := file.View(index*4*testkit.PageSize, 1, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	window(0)
	window(1)
	want.FilesMapped, want.WindowsMapped, want.BytesMapped = 1, 2, 8*testkit.PageSize
	check("two windows")
	window(2)
	want.WindowsDropped = 1
	check("a third one")
	must(file.ReadAt(p, 0))
	want.ReadsUnmapped++
	check("a read of the dropped one")
	must(file.ReadAt(p, 6*testkit.PageSize)) // the page whose presence proves that the one before is the file's
	want.ReadsCold++
	must(file.WriteAt(p, 5*testkit.PageSize))
	want.WritesCold++
	must(file.WriteAt(p, 5*testkit.PageSize))
	must(file.ReadAt(p, 5*testkit.PageSize))
	check("the first write to a page, then through the map")
	window(4) // of the appended bytes
	want.WindowsDropped++
	want.BytesMapped = 5 * testkit.PageSize
	check("a short window")
	must(file.WriteAt(p, 16*testkit.PageSize+10))
	want.WritesPastEnd++
	check("growth")
	file.ReadAt(p, 17*testkit.PageSize)
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

	file.ReadAt(p, 9*testkit.PageSize) // in the window that is left
	must(file.ReadAt(p, 9*testkit.PageSize))
	want.ReadsCold = fileSystem.Stats().ReadsCold // if the kernel does not tell that it is in memory
	if err := os.Truncate(osfs.ToNative(name), 0); err != nil {
		t.Fatal(err)
	}
	file.ReadAt(p, 9*testkit.PageSize) // faults
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
