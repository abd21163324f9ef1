package memmapfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
)

// opening makes a file of that many pages, filled with ones, and opens it through base.
func opening(t *testing.T, base *watched.FS, config Config, pages int, flag int) (mfs *MemMapFS, f *MappedFile, native string) {
	t.Helper()
	native = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(native, bytes.Repeat([]byte{1}, pages*int(pageBytes)), 0o600); err != nil {
		t.Fatal(err)
	}
	mfs = New(base, &config)
	t.Cleanup(func() { mfs.Close() })
	file, err := mfs.OpenFile(osfs.FromNative(native), flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return mfs, file.(*MappedFile), native
}

func mustWriteAt(t *testing.T, f *MappedFile, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("WriteAt of %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

func mustReadAt(t *testing.T, f *MappedFile, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if got, err := f.ReadAt(p, off); got != n || err != nil && err != io.EOF {
		t.Fatalf("ReadAt of %d bytes at %d: %d, %v", n, off, got, err)
	}
	return p
}

// Catches private bytes that a View has stored and that are lost when another View of the page begins,
// after a call has made other bytes of it private.
func TestViewsStoreBesideWrites(t *testing.T) {
	skipWithoutMaps(t)
	for _, told := range []bool{true, false} {
		if !told {
			t.Cleanup(hook(&system.privatePages, func(func([]byte, []bool) error) func([]byte, []bool) error {
				return func([]byte, []bool) error { return errors.ErrUnsupported }
			}))
		}
		for _, before := range []byte{1, 9} { // what the file has, and a private byte
			_, f, _ := opening(t, watched.New(), Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 4, os.O_RDWR)
			if before != 1 {
				mustWriteAt(t, f, []byte{before}, 8)
			}
			check := func(when string, p []byte) {
				t.Helper()
				if p[0] != 2 || p[1] != 1 || p[8] != before || p[100] != 3 {
					t.Errorf("pages told %t, %s: %d, %d, %d and %d, want 2, 1, %d and 3", told, when, p[0], p[1], p[8], p[100], before)
				}
			}
			err := f.View(0, 1, func(b []byte) error {
				b[0] = 2
				mustWriteAt(t, f, []byte{3}, 100)
				return f.View(0, 200, func(b []byte) error {
					check("in the second View", b)
					b[50] = 4
					return nil
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			p := mustReadAt(t, f, 0, 200)
			check("after both", p)
			if p[50] != 4 {
				t.Errorf("pages told %t: what the second View has stored reads as %d", told, p[50])
			}
		}
	}
}

// Catches private bytes that are lost where a page of a lent map was taken away by a truncation and a
// call then writes other bytes of the page, and a map that is lent without them.
func TestPrivateBytesOutliveTheFile(t *testing.T) {
	skipWithoutMaps(t)
	for _, lent := range []bool{false, true} {
		if lent && sysPrivatePages(nil, nil) != nil {
			continue // nothing tells that a truncation has taken a page away
		}
		for _, config := range []Config{{Mode: ModeCopyOnWrite, MapFullFile: true}, {Mode: ModeCopyOnWrite, WindowSize: 2 * pageBytes}} {
			mfs, f, native := opening(t, watched.New(), config, 4, os.O_RDWR)
			mustWriteAt(t, f, []byte{2}, 3*pageBytes)
			if lent {
				if _, err := f.Seek(3*pageBytes, io.SeekStart); err != nil || f.Data() == nil {
					t.Fatal(err)
				}
			}
			for _, size := range []int64{pageBytes, 4 * pageBytes} {
				if err := mfs.Truncate(osfs.FromNative(native), size); err != nil {
					t.Fatal(err)
				}
			}
			check := func(when string) {
				p := mustReadAt(t, f, 3*pageBytes, 200)
				if p[0] != 2 || p[1] != 0 {
					t.Errorf("%+v, lent %t, %s: private byte %d and the file's %d, want 2 and 0", config, lent, when, p[0], p[1])
				}
			}
			check("after the file has shrunk and grown")
			mustWriteAt(t, f, []byte{3}, 3*pageBytes+100)
			check("after a write to the page")
			err := f.View(3*pageBytes, 200, func(b []byte) error {
				if b[0] != 2 || b[1] != 0 || b[100] != 3 {
					t.Errorf("%+v, lent %t: View: %d, %d and %d", config, lent, b[0], b[1], b[100])
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			check("after View")
		}
	}
}

// limits returns the limits of the mappings of a file.
func limits(f *MappedFile) (limits []int64) {
	f.maps.windows.each(func(m *mapping) { limits = append(limits, m.limit.Load()) })
	return limits
}

// Catches a write that takes note of the size which it has given the file after another call has made
// the file smaller: reads past the end give zeros, and stores there are gone.
func TestTruncateBesideGrowth(t *testing.T) {
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		t.Skip("nobody shrinks a file that is mapped")
	}
	base := watched.New()
	var mfs *MemMapFS
	var native string
	base.WriteAt = func(_ string, write func() (int, error)) (int, error) {
		n, err := write()
		if mfs != nil {
			if err := mfs.Truncate(osfs.FromNative(native), pageBytes); err != nil {
				t.Error(err)
			}
		}
		return n, err
	}
	opened, f, name := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
	if _, err := f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	mfs, native = opened, name
	mustWriteAt(t, f, bytes.Repeat([]byte{2}, int(2*pageBytes)), 2*pageBytes)
	for _, limit := range limits(f) {
		if limit > pageBytes {
			t.Errorf("a map of a file of one page has a limit of %d bytes", limit)
		}
	}
	if n, err := f.ReadAt(make([]byte, 10), 3*pageBytes); n != 0 || err != io.EOF {
		t.Errorf("ReadAt past the end: %d, %v", n, err)
	}
}

// Catches a size that was asked for before a truncation and is noted after the one asked for then.
func TestTruncateBesideMeasuring(t *testing.T) {
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		t.Skip("nobody shrinks a file that is mapped")
	}
	base := watched.New()
	mfs, f, native := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
	if _, err := f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	var truncated <-chan result
	var asked atomic.Int32
	base.StatFile = func(stat func() (os.FileInfo, error)) (os.FileInfo, error) {
		info, err := stat()
		if asked.Add(1) == 1 {
			truncated = asynchronously(func() (int, error) { return 0, mfs.Truncate(osfs.FromNative(native), pageBytes) })
			mustWait(t, "Truncate beside a question for the size", truncated)
		}
		return info, err
	}
	if err := f.maps.measure(); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		return
	}
	if r := mustEnd(t, "Truncate", truncated); r.err != nil {
		t.Fatal(r.err)
	}
	for _, limit := range limits(f) {
		if limit != pageBytes {
			t.Errorf("the map has a limit of %d bytes, want a page", limit)
		}
	}
}

// Catches a first map that takes a size which was asked for before the file is known to be mapped: a
// Truncate by name or by another handle in between does not find it.
func TestTruncateBesideTheFirstMap(t *testing.T) {
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		t.Skip("nobody shrinks a file that is mapped")
	}
	for _, moment := range []string{"before the map", "before it is found"} {
		for _, how := range []string{"by name", "by handle"} {
			mfs, f, native := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
			other, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			truncate := func() {
				if how == "by name" {
					err = mfs.Truncate(osfs.FromNative(native), pageBytes)
				} else {
					err = other.Truncate(pageBytes)
				}
				if err != nil {
					t.Error(err)
				}
			}
			var restore func()
			if moment == "before the map" {
				restore = HookMap(func(bool, bool, bool) error { truncate(); return nil })
			} else {
				restore = hook(&system.cachedPages, func(func(uintptr, int64, int64) (int64, error)) func(uintptr, int64, int64) (int64, error) {
					return func(uintptr, int64, int64) (int64, error) { truncate(); return 0, errors.ErrUnsupported }
				})
			}
			data := f.Data()
			restore()
			if int64(len(data)) != pageBytes {
				t.Errorf("truncated %s %s: Data has %d bytes, want a page", how, moment, len(data))
			}
			other.Close()
		}
	}
}

// Catches a write of a copy-on-write file that takes the size twice: a panic that leaves its lock held.
func TestPrivateWriteBesideTruncate(t *testing.T) {
	base := watched.New()
	_, f, native := opening(t, base, Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 4, os.O_RDWR)
	var asked atomic.Int32
	base.StatFile = func(stat func() (os.FileInfo, error)) (os.FileInfo, error) {
		info, err := stat()
		if asked.Add(1) == 1 {
			if err := os.Truncate(native, pageBytes); err != nil {
				t.Error(err)
			}
		}
		return info, err
	}
	mustWriteAt(t, f, []byte("private"), 3*pageBytes)
	if err := os.Truncate(native, 4*pageBytes); err != nil {
		t.Fatal(err)
	}
	if p := mustReadAt(t, f, 3*pageBytes, 7); string(p) != "private" {
		t.Errorf("what was written reads as %q", p)
	}
}

// Catches a private byte that calls do not see, because the page counts as one in memory by a read of the
// file that was under way when it was written.
func TestPrivateWriteBesideRead(t *testing.T) {
	skipWithoutMaps(t)
	base := watched.New()
	_, f, _ := opening(t, base, Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 2, os.O_RDWR)
	if _, err := f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	wrote := false
	base.ReadAt = func(int, int64) {
		if !wrote {
			wrote = true
			mustWriteAt(t, f, []byte{2}, 0)
		}
	}
	for range 3 {
		if p := mustReadAt(t, f, 0, 10); p[0] != 2 {
			t.Errorf("the private byte reads as %d", p[0])
		}
	}
}
