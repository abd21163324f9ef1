package memmapfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
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
