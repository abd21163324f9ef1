package memmapfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/absfs/absfs"
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

// Catches what a View stores being lost where the system tells of other pages than the map's, as it does
// under qemu's emulation of some processors.
func TestWrongPagesAreNotBelieved(t *testing.T) {
	fd, _, err := sysAnonymousFile()
	canTry := err == nil && !filtered()
	if err == nil {
		os.NewFile(fd, "").Close()
	}
	for _, right := range []bool{true, false} {
		restore := hook(&system.privatePages, func(func([]byte, []bool) error) func([]byte, []bool) error {
			return func(data []byte, own []bool) error {
				for page := range own {
					own[page] = data[int64(page)*pageBytes] != 0 == right
				}
				return nil
			}
		})
		if apart := triedApart(); apart != (canTry && !right) {
			t.Errorf("pages told right %t: maps stand apart %t", right, apart)
		}
		restore()
	}
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

// Catches a page of the file of a while ago that is taken for one that somebody has stored to: on a system where a
// store copies other pages, too, a truncation had taken that one away.
func TestPagesCopiedAlongAreNotStored(t *testing.T) {
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		return // nobody truncates a file there that is mapped
	}
	defer hook(&standApart, func(func() bool) func() bool { return func() bool { return true } })()
	_, f, native := opening(t, watched.New(), Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 4, os.O_RDWR)
	lent := f.Data()
	if lent == nil {
		t.Fatal("no map")
	}
	refill := func(with byte, flag int) {
		file, err := os.OpenFile(native, os.O_WRONLY|flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(bytes.Repeat([]byte{with}, 4*int(pageBytes))); err != nil {
			t.Fatal(err)
		}
		for seen := f.private.lent[0].seen; ; { // the clock of some filesystems moves every few milliseconds
			info, err := os.Stat(native)
			if err != nil {
				t.Fatal(err)
			}
			if now := sysChangeTime(info.Sys()); now == 0 || now != sysChangeTime(seen.Sys()) {
				return
			}
			os.Chmod(native, 0o600)
		}
	}
	refill(2, os.O_TRUNC)
	mustWriteAt(t, f, []byte{9}, 0)
	atomic.AddUint32((*uint32)(unsafe.Pointer(&lent[2*pageBytes])), 0) // copies the page as a store beside it may
	refill(3, 0)
	if p := mustReadAt(t, f, 2*pageBytes, 1); p[0] != 3 {
		t.Errorf("a file of 3 reads as %d, which it was before", p[0])
	}
	if p := mustReadAt(t, f, 0, 2); p[0] != 9 || p[1] != 3 {
		t.Errorf("a private 9 before a 3 of the file reads as %d", p)
	}
}

// Catches a slice of Data that is not brought up to date because there is an older one of the same range, of the
// file when it was shorter.
func TestEverySliceIsBroughtUpToDate(t *testing.T) {
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		return // the system does not stand apart, and files are not changed beside their maps
	}
	defer hook(&standApart, func(func() bool) func() bool { return func() bool { return true } })()
	_, f, native := opening(t, watched.New(), Config{Mode: ModeCopyOnWrite, WindowSize: 4 * mapAlignment}, 2, os.O_RDWR)
	if f.Data() == nil {
		t.Fatal("no map")
	}
	store := func(with byte) {
		file, err := os.OpenFile(native, os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteAt([]byte{with}, 3*pageBytes)
			err = join(err, file.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	store(2)
	if _, err := f.Seek(3*pageBytes, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	longer := f.Data()
	if int64(len(longer)) != 3*pageBytes+1 {
		t.Fatalf("a slice of a file that has grown to %d bytes has %d", 3*pageBytes+1, len(longer))
	}
	store(3)
	now := time.Now() // no clock of a filesystem may hide the change
	if err := os.Chtimes(native, now, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := f.View(0, 1, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := longer[3*pageBytes]; got != 3 {
		t.Errorf("a slice shows %d of a file of 3", got)
	}
}

// Catches bytes that a View has stored and that are gone because the file could not be read when it ended.
func TestViewStoresOutliveReadErrors(t *testing.T) {
	skipWithoutMaps(t)
	for _, apart := range []bool{false, true} {
		t.Cleanup(hook(&standApart, func(func() bool) func() bool { return func() bool { return apart } }))
		base := watched.New()
		failing := false
		base.ReadInstead = func(p []byte, read func() (int, error)) (int, error) {
			if failing && int64(len(p)) == pageBytes { // no comparison
				return 0, syscall.EIO
			}
			return read()
		}
		_, f, _ := opening(t, base, Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 4, os.O_RDWR)
		mustWriteAt(t, f, []byte{2}, pageBytes)
		err := f.View(pageBytes-10, 20, func(b []byte) error {
			b[3] = 3
			failing = true
			return nil
		})
		failing = false
		if err != nil {
			t.Fatal(err)
		}
		p := mustReadAt(t, f, pageBytes-10, 20)
		if p[3] != 3 || p[10] != 2 || p[2] != 1 || p[11] != 1 {
			t.Errorf("apart %t: after a View that has stored 3 beside a private 2 in a file of ones: %d", apart, p)
		}
		failing = true
		err = f.View(pageBytes, 1, func(b []byte) error {
			if b[0] != 2 {
				t.Errorf("apart %t: View of a private byte shows %d", apart, b[0])
			}
			return nil
		})
		if apart != errors.Is(err, ErrSIGBUS) || !apart && err != nil {
			t.Errorf("apart %t: View of a file that cannot be read: %v", apart, err)
		}
	}
}

// Catches a read that is served the file's bytes at the end of a View that has stored others, which reads have
// been given before.
func TestViewStoresStayVisibleAtItsEnd(t *testing.T) {
	skipWithoutMaps(t)
	base := watched.New()
	var f *MappedFile
	ending, looks := false, 0
	base.ReadInstead = func(p []byte, read func() (int, error)) (int, error) {
		n, err := read()
		if ending && int64(len(p)) == pageBytes { // endView looks what the file has
			ending = false
			looks++
			f.maps.learnRead(p[:n], 0) // as by a read beside
			if p := make([]byte, 10); f.maps.readHot(p, 0) {
				t.Errorf("a read at the end of a View is served %d from the file's map", p)
			}
		}
		return n, err
	}
	_, f, _ = opening(t, base, Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 2, os.O_RDWR)
	if _, err := f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	err := f.View(0, 10, func(b []byte) error { b[3], ending = 3, true; return nil })
	if p := mustReadAt(t, f, 0, 10); err != nil || p[3] != 3 {
		t.Errorf("View: %v, then %d", err, p)
	}
	if looks == 0 && sysPrivatePages(nil, nil) == nil {
		t.Error("the end of the View has not looked at the file")
	}
}

// Catches private maps that are kept for the next View, one for each range that was ever viewed.
func TestPrivateMapsAreFew(t *testing.T) {
	skipWithoutMaps(t)
	for _, test := range []struct {
		name   string
		config Config
		data   bool
		most   int
	}{
		{"whole", Config{Mode: ModeCopyOnWrite, MapFullFile: true}, false, 1},
		{"windows", Config{Mode: ModeCopyOnWrite, WindowSize: 4 * pageBytes, MaxWindows: 3}, false, 3},
		{"windows beside Data", Config{Mode: ModeCopyOnWrite, WindowSize: 4 * pageBytes, MaxWindows: 3}, true, 4},
	} {
		_, f, native := opening(t, watched.New(), test.config, 4, os.O_RDWR)
		if test.data && f.Data() == nil {
			t.Fatal("no map")
		}
		for i := range int64(20) {
			pages := 8 + 2*i
			if err := os.Truncate(native, pages*pageBytes); err != nil {
				t.Fatal(err)
			}
			for _, off := range []int64{2 * pageBytes, (pages - 3) * pageBytes} {
				if err := f.View(off, 3*pageBytes, func([]byte) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := len(f.private.lent); n > test.most {
			t.Errorf("%s: %d private maps are left", test.name, n)
		}
		if n := len(slices.DeleteFunc(slices.Clone(f.maps.windows.others), (*mapping).isRevoked)); n > test.most {
			t.Errorf("%s: %d maps are left", test.name, n)
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
	skipWhereNobodyShrinksMaps(t)
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
	skipWhereNobodyShrinksMaps(t)
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
	skipWhereNobodyShrinksMaps(t)
	moments := []string{"before the map", "before it is found"}
	if filtered() {
		moments = moments[:1] // the call that is waited for below is not made then
	}
	for _, moment := range moments {
		for _, how := range []string{"by name", "by handle"} {
			mfs, f, native := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
			other, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { other.Close() })
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

// countSyncs has the Sync of base counted.
func countSyncs(base *watched.FS) *atomic.Int32 {
	syncs := new(atomic.Int32)
	base.Sync = func(string, func() error) error { syncs.Add(1); return nil }
	return syncs
}

// result is what a call has returned in a goroutine of its own.
type result struct {
	n   int
	err error
}

// asynchronously calls fn in a goroutine.
func asynchronously(fn func() (int, error)) <-chan result {
	done := make(chan result, 1)
	go func() {
		n, err := fn()
		done <- result{n, err}
	}()
	return done
}

// mustEnd waits for a call that has to end by itself.
func mustEnd(t *testing.T, what string, done <-chan result) result {
	t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(30 * time.Second):
		t.Fatalf("%s waits", what)
	}
	return result{}
}

// mustWait fails the test if a call ends that has to wait.
func mustWait(t *testing.T, what string, done <-chan result) {
	t.Helper()
	select {
	case r := <-done:
		t.Errorf("%s has not waited: %d, %v", what, r.n, r.err)
	case <-time.After(20 * time.Millisecond):
	}
}

// Catches a Close beside a Sync that has taken the bytes to be flushed for its own and then fails: what
// Close promises would hang on a flush that has not ended.
func TestCloseWaitsForSync(t *testing.T) {
	for _, mode := range []SyncMode{SyncLazy, SyncPeriodic} {
		base := watched.New()
		begun, goOn := make(chan struct{}), make(chan struct{})
		var syncs atomic.Int32
		failure := errors.New("the disk has failed")
		base.Sync = func(string, func() error) error {
			if syncs.Add(1) > 1 {
				return nil
			}
			close(begun)
			<-goOn
			return failure
		}
		_, f, _ := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: mode, SyncInterval: time.Hour}, 1, os.O_RDWR)
		mustWriteAt(t, f, []byte("bytes"), 0)
		synced := asynchronously(func() (int, error) { return 0, f.Sync() })
		<-begun
		closed := asynchronously(func() (int, error) { return 0, f.Close() })
		mustWait(t, "Close", closed)
		close(goOn)
		if r := mustEnd(t, "Sync", synced); !errors.Is(r.err, failure) {
			t.Errorf("%v: Sync: %v", mode, r.err)
		}
		if r := mustEnd(t, "Close", closed); r.err != nil {
			t.Errorf("%v: Close: %v", mode, r.err)
		}
		if syncs.Load() != 2 {
			t.Errorf("%v: %d flushes, want another one by Close, because the first has failed", mode, syncs.Load())
		}
	}
}

// Catches a flush at Close that comes before the maps are taken away: what is stored in between is
// covered by none.
func TestCloseTakesMapsAwayFirst(t *testing.T) {
	skipWithoutMaps(t)
	for _, mode := range []SyncMode{SyncLazy, SyncPeriodic} {
		base := watched.New()
		var f *MappedFile
		flushed, late := false, 0
		base.Sync = func(string, func() error) error {
			if !f.maps.closed.Load() {
				return nil
			}
			flushed = true
			if f.maps.windows.hasLive() {
				late++
			}
			return nil
		}
		_, f, _ = opening(t, base, Config{Mode: ModeReadWrite, SyncMode: mode, SyncInterval: time.Hour, MapFullFile: true}, 2, os.O_RDWR)
		if f.Data() == nil {
			t.Fatal("no map")
		}
		mustWriteAt(t, f, []byte("bytes"), 0)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if !flushed || late > 0 {
			t.Errorf("%v: flushed at Close %t, and %d times with a map that can be stored to", mode, flushed, late)
		}
	}
}

// Catches a write through the file, begun before Close, that ends with success and is covered by no flush.
func TestCloseWaitsForWrites(t *testing.T) {
	for _, mode := range []SyncMode{SyncLazy, SyncPeriodic} {
		base := watched.New()
		syncs := countSyncs(base)
		begun, goOn := make(chan struct{}), make(chan struct{})
		var writing atomic.Bool
		base.WriteAt = func(_ string, write func() (int, error)) (int, error) {
			writing.Store(true)
			close(begun)
			<-goOn
			return write()
		}
		base.StatFile = func(stat func() (os.FileInfo, error)) (os.FileInfo, error) {
			if writing.Load() && mode == SyncLazy {
				return nil, syscall.EIO // then it may be a file as well
			}
			return stat()
		}
		_, f, _ := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: mode, SyncInterval: time.Hour}, 1, os.O_RDWR)
		written := asynchronously(func() (int, error) { return f.WriteAt([]byte("bytes"), 0) })
		<-begun
		closed := asynchronously(func() (int, error) { return 0, f.Close() })
		mustWait(t, "Close", closed)
		close(goOn)
		if r := mustEnd(t, "WriteAt", written); r.n != 5 || r.err != nil {
			t.Errorf("%v: WriteAt: %d, %v", mode, r.n, r.err)
		}
		if r := mustEnd(t, "Close", closed); r.err != nil || syncs.Load() == 0 {
			t.Errorf("%v: Close: %v after %d flushes", mode, r.err, syncs.Load())
		}
	}
}

// Catches a Close, or a Sync, beside a Chtimes that has begun to ask what a View has stored: it finds nothing to
// ask, and flushes nothing.
func TestCloseBesideChtimes(t *testing.T) {
	skipWithoutMaps(t)
	if filtered() {
		return // the question that the test holds up is not asked there
	}
	for _, way := range []string{"Close", "Sync"} {
		base := watched.New()
		syncs := countSyncs(base)
		mfs, f, native := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncLazy, MapFullFile: true}, 2, os.O_RDWR)
		asked, goOn := make(chan struct{}), make(chan struct{})
		var armed atomic.Bool
		restore := hook(&system.dirtyPages, func(func(uintptr) (int64, error)) func(uintptr) (int64, error) {
			return func(uintptr) (int64, error) {
				if armed.Swap(false) {
					close(asked)
					<-goOn
				}
				return 1, nil
			}
		})
		if err := f.View(0, 10, func(b []byte) error { b[0] = 9; return nil }); err != nil {
			t.Fatal(err)
		}
		f.maps.fillsHoles.Store(false) // where pages are never dirty the question is not asked
		armed.Store(true)
		now := time.Now()
		changed := asynchronously(func() (int, error) { return 0, mfs.Chtimes(osfs.FromNative(native), now, now) })
		waitFor(t, asked)
		ended := asynchronously(func() (int, error) {
			if way == "Close" {
				return 0, f.Close()
			}
			return 0, f.Sync()
		})
		mustWait(t, way, ended)
		close(goOn)
		if r := mustEnd(t, way, ended); r.err != nil || syncs.Load() == 0 {
			t.Errorf("%s: %v after %d flushes", way, r.err, syncs.Load())
		}
		if r := mustEnd(t, "Chtimes", changed); r.err != nil {
			t.Error(r.err)
		}
		restore()
	}
}

// Catches a Read that takes a file for a pipe because it was closed meanwhile: a View beside Close then says so.
func TestReadOfClosedIsNoPipe(t *testing.T) {
	mfs, f, _ := opening(t, watched.New(), Config{SyncMode: SyncNever, MapFullFile: true}, 1, os.O_RDONLY)
	for !f.maps.callsPay() {
		f.maps.demand.note(1)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if r := f.maps.refused.Load(); r != nil || mfs.Stats().NotMappedKind > 0 {
		t.Errorf("the file is refused: %v", r.err)
	}
}

// registryFunc is called in place of the handle's register.
type registryFunc func() bool

func (register registryFunc) register() bool { return register() }

// Catches a slice that Data hands out between the end of the ones before and the note of that: its stores
// would be flushed by nobody.
func TestDataBesideUnmapping(t *testing.T) {
	skipWithoutMaps(t)
	_, f, _ := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncLazy, MapFullFile: true}, 2, os.O_RDWR)
	for name, unmap := range map[string]func() error{
		"Truncate":             func() error { return f.Truncate(pageBytes) },
		"RemapAfterTruncation": f.RemapAfterTruncation,
	} {
		if f.Data() == nil {
			t.Fatal("no map")
		}
		f.unsynced.dirty.Store(false)
		noted := false
		f.maps.registry = registryFunc(func() bool { // with the note
			if !noted && f.maps.windows.mu.TryLock() {
				f.maps.windows.mu.Unlock()
				t.Errorf("%s: Data could hand out a slice before the note", name)
			}
			noted = true
			return f.register()
		})
		if err := unmap(); err != nil || !noted || f.unsynced.exposed.Load() {
			t.Errorf("%s: %v; noted %t", name, err, noted)
		}
		f.maps.registry = f
	}
}

// Catches a store that is acknowledged although Close has flushed nothing: a flush before it has taken
// the note of the write before, and its own note comes after Close.
func TestStoreNotedAfterClose(t *testing.T) {
	skipWithoutMaps(t)
	if !sysMapsAgreeWithIO {
		t.Skip("the store is made durable when the map is taken away")
	}
	base := watched.New()
	syncs := countSyncs(base)
	_, f, _ := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncLazy, MapFullFile: true}, 3, os.O_RDWR)
	if f.Data() == nil {
		t.Fatal("no map")
	}
	mustReadAt(t, f, 0, 3*int(pageBytes))
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.unsynced.exposed.Store(false)
	f.unsynced.dirty.Store(false)
	page := make([]byte, pageBytes)
	if _, err := f.ReadAt(page, 0); err != nil {
		t.Fatal(err)
	}
	f.maps.learnWritten(0, page, f.maps.beginWrite()) // as by a write beside Sync

	stored, goOn := make(chan struct{}), make(chan struct{})
	var asked atomic.Int32
	base.StatFile = func(stat func() (os.FileInfo, error)) (os.FileInfo, error) {
		if asked.Add(1) == 1 { // for the note
			close(stored)
			<-goOn
		}
		return stat()
	}
	syncs.Store(0)
	written := asynchronously(func() (int, error) { return f.WriteAt([]byte("bytes"), 0) })
	<-stored
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if r := mustEnd(t, "WriteAt", written); syncs.Load() == 0 && !errors.Is(r.err, fs.ErrClosed) {
		t.Errorf("WriteAt: %d, %v, and nothing was flushed", r.n, r.err)
	}
}

// Catches bytes that a View has stored and that no flush covers, because the system has begun to write
// the page back by itself before Close: that flushes no disk.
func TestViewStoresAreFlushedAfterWriteback(t *testing.T) {
	skipWithoutMaps(t)
	dirty := func() error { _, err := sysDirtyPages(0); return err }
	if filtered() || errors.Is(dirty(), errors.ErrUnsupported) {
		t.Skip("every View counts as one that has stored: nothing tells which pages are dirty")
	}
	for _, stores := range []bool{false, true} {
		base := watched.New()
		syncs := countSyncs(base)
		_, f, native := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncLazy, MapFullFile: true}, 2, os.O_RDWR)
		if err := f.maps.file.(interface{ Sync() error }).Sync(); err != nil {
			t.Fatal(err)
		}
		syncs.Store(0)
		restore := hook(&system.dirtyPages, func(func(uintptr) (int64, error)) func(uintptr) (int64, error) {
			return func(uintptr) (int64, error) { return 0, nil }
		})
		long := time.Now().Add(-time.Hour)
		if file, err := os.OpenFile(native, os.O_RDWR, 0); err != nil || file.Sync() != nil || os.Chtimes(native, long, long) != nil {
			t.Fatal("the file cannot be made clean:", err)
		} else {
			file.Close()
		}
		err := f.View(0, 10, func(b []byte) error {
			if stores {
				b[0]++
			}
			return nil
		})
		if err == nil {
			err = f.Close()
		}
		restore()
		if err != nil {
			t.Fatal(err)
		}
		if flushed := syncs.Load() > 0; flushed != stores {
			t.Errorf("a View that stores %t is flushed %t", stores, flushed)
		}
		if info, err := os.Stat(native); err != nil || info.ModTime().Equal(long) == stores {
			t.Errorf("a View that stores %t: the modification time is %v (%v)", stores, info.ModTime(), err)
		}
	}
}

// Catches a time that a program has set after a View has stored, and that Close moves.
func TestTimeSetAfterView(t *testing.T) {
	skipWithoutMaps(t)
	mfs, f, native := opening(t, watched.New(), Config{Mode: ModeReadWrite, MapFullFile: true, SyncMode: SyncLazy}, 2, os.O_RDWR)
	if err := f.View(0, 10, func(b []byte) error { b[0] = 2; return nil }); err != nil {
		t.Fatal(err)
	}
	want := time.Unix(1_000_000_000, 0)
	if err := mfs.Chtimes(osfs.FromNative(native), want, want); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(native)
	if err != nil {
		t.Fatal(err)
	}
	if !info.ModTime().Equal(want) {
		t.Errorf("modification time %v, want the one that was set", info.ModTime())
	}
}

// Catches a modification time that is never moved after a store, because it could not be at the first flush, or
// because the file could not be described when the store was noted.
func TestTimeIsMovedAtLast(t *testing.T) {
	skipWithoutMaps(t)
	for _, failure := range []error{syscall.EMFILE, syscall.EIO, errors.ErrUnsupported} {
		base := watched.New()
		undescribed := false
		base.StatFile = func(stat func() (os.FileInfo, error)) (os.FileInfo, error) {
			if undescribed {
				return nil, syscall.EIO
			}
			return stat()
		}
		_, f, native := opening(t, base, Config{Mode: ModeReadWrite, MapFullFile: true, SyncMode: SyncNever}, 3, os.O_RDWR)
		if _, err := f.maps.mapWindow(0); err != nil {
			t.Fatal(err)
		}
		mustReadAt(t, f, 0, 3*int(pageBytes))
		store := func() {
			t.Helper()
			mustWriteAt(t, f, []byte{2}, 0) // and so it may be stored to
			if !f.maps.storeIn(f.maps.windows.at(0), []byte{3}, 0) {
				t.Fatal("not stored")
			}
			f.unsynced.stored.Store(false)
			undescribed = true
			mustWriteAt(t, f, []byte{4}, 0)
			undescribed = false
			if !f.unsynced.stored.Load() {
				t.Fatal("the store is not noted")
			}
		}
		store()
		moves := 0
		restore := hook(&system.touchModTime, func(move func(uintptr) error) func(uintptr) error {
			return func(fd uintptr) error {
				if moves++; moves == 1 {
					return failure
				}
				return move(fd)
			}
		})
		syncErr := f.Sync()
		again := f.Sync()
		restore()
		hopeless := failure == errors.ErrUnsupported
		if (moves == 2) == hopeless || (syncErr == nil) != (hopeless || sysIsDescriptorShortage(failure)) || again != nil {
			t.Errorf("Sync while the time cannot be moved (%v): %v, then %v; tried %d times", failure, syncErr, again, moves)
		}

		store()
		long := time.Now().Add(-time.Hour)
		if err := os.Chtimes(native, long, long); err != nil { // as if the store had been made then
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(native); err != nil || time.Since(info.ModTime()) > time.Minute {
			t.Errorf("after Close the time is %v, %v", info.ModTime(), err)
		}
	}
}

// Catches a read of a copy-on-write file that looks at the file before Close and at the private bytes
// after it, and so gives the file's bytes as if nothing had been written.
func TestPrivateReadBesideClose(t *testing.T) {
	skipWithoutMaps(t)
	base := watched.New()
	_, f, _ := opening(t, base, Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 2, os.O_RDWR)
	mustWriteAt(t, f, []byte{2}, 0)
	if _, err := f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	revoking, goOn := make(chan struct{}), make(chan struct{})
	restore := hook(&system.revoke, func(revoke func([]byte) (bool, error)) func([]byte) (bool, error) {
		return func(data []byte) (bool, error) {
			close(revoking)
			<-goOn // the wrapped file is still open
			return revoke(data)
		}
	})
	defer restore()
	var closed <-chan result
	base.ReadAt = func(int, int64) {
		closed = asynchronously(func() (int, error) { return 0, f.Close() })
		<-revoking
	}
	p := make([]byte, 1)
	n, err := f.ReadAt(p, 0)
	if n != 0 || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("ReadAt beside Close: %d, %v, byte %d; want fs.ErrClosed", n, err, p[0])
	}
	close(goOn)
	if r := mustEnd(t, "Close", closed); r.err != nil {
		t.Error(r.err)
	}
}

// numbered is a file that offers nothing but the number of its descriptor.
type numbered struct {
	absfs.File
	file *os.File
}

func (f numbered) Fd() uintptr { return f.file.Fd() }

// numberedFS opens numbered files.
type numberedFS struct{ absfs.FileSystem }

func (s numberedFS) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := os.OpenFile(osfs.ToNative(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return numbered{struct{ absfs.File }{file}, file}, nil
}

// Catches the number of a descriptor that is used while Close gives it back: by then it may be another
// file's, and its blocks are freed. A hole is punched with the maps' lock held, a question is asked without.
func TestNumberOfDescriptorBesideClose(t *testing.T) {
	skipWithoutMaps(t)
	uses := map[string]func(f *MappedFile) error{
		"PunchHole": func(f *MappedFile) error { return f.PunchHole(0, 2*pageBytes) },
		"a question": func(f *MappedFile) error {
			return f.maps.descriptor.Load().do(func(fd uintptr) error { return system.punchHole(fd, 0, 0) })
		},
	}
	for what, use := range uses {
		native := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(native, make([]byte, 4*pageBytes), 0o600); err != nil {
			t.Fatal(err)
		}
		mfs := New(numberedFS{watched.New()}, &Config{Mode: ModeReadWrite, Mapping: MapAlways, SyncMode: SyncNever})
		file, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := file.(*MappedFile)
		if f.Data() == nil {
			t.Fatal("no map:", f.MappingError())
		}
		var closed <-chan result
		restore := HookPunchHole(func(func(uintptr, int64, int64) error) func(uintptr, int64, int64) error {
			return func(uintptr, int64, int64) error {
				closed = asynchronously(func() (int, error) { return 0, f.Close() })
				mustWait(t, "Close beside "+what, closed)
				return nil
			}
		})
		err = use(f)
		restore()
		if err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
		if r := mustEnd(t, "Close", closed); r.err != nil {
			t.Error(r.err)
		}
	}
}

// Catches a mapping that a View holds past its end, or one that is taken away under a View.
func TestMapEndsWithItsView(t *testing.T) {
	skipWithoutMaps(t)
	_, f, _ := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 2, os.O_RDWR)
	var m *mapping
	err := f.View(0, 10, func(b []byte) error {
		m = f.maps.windows.at(0)
		f.maps.unmap()
		if state := m.life.state.Load(); state != mapEnding || m.pin() || b[0] != 1 {
			t.Errorf("taken away under a View: state %d, and it can be used anew: %t", state, m.pin())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !m.isRevoked() {
		t.Errorf("after the View: state %d", m.life.state.Load())
	}
	f.maps.unmap()
	if n := len(f.maps.windows.others); n > 0 {
		t.Errorf("%d mappings are kept in the list of those that are not revoked", n)
	}
}

// Catches stores that are lost where the file's Sync does not find what was stored in maps: in maps that
// Data and running Views keep, and with an error of the flush when a map is taken away.
func TestMapsAreFlushedWhereSyncDoesNot(t *testing.T) {
	skipWithoutMaps(t)
	if sysFileSyncCoversMaps {
		t.Skip("the file's Sync finds what was stored in maps")
	}
	config := Config{Mode: ModeReadWrite, SyncMode: SyncNever, WindowSize: 1, MaxWindows: 1}
	base := watched.New()
	_, f, _ := opening(t, base, config, 64, os.O_RDWR)
	data := f.Data()
	if data == nil {
		t.Fatal("no map")
	}
	flushed := make(map[uintptr]int)
	var failure error
	restore := HookSyncMap(func(data []byte, flush func([]byte) error) error {
		flushed[addressOf(data)]++
		return failure
	})
	defer restore()
	f.maps.unmap() // and it is the first of others
	if flushed[addressOf(data)] != 1 {
		t.Errorf("a map that is taken away was flushed %d times", flushed[addressOf(data)])
	}
	err := f.View(0, 10, func(b []byte) error {
		b[0]++
		f.maps.unmap()
		clear(flushed)
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
		if len(flushed) != 1 {
			t.Errorf("Sync has flushed %d maps, want that of the View", len(flushed))
		}
		failure = errors.New("the disk has failed")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wanted := failure
	failure = nil
	if err := f.Close(); !errors.Is(err, wanted) {
		t.Errorf("Close: %v, want the error of the flush with which the View's map was taken away", err)
	}
}

// flushCalls records the flushes that would reach the system: none of them can be seen by reading back.
type flushCalls struct {
	observed *watched.FS

	mu     sync.Mutex
	ranges [][]byte // given to syncMap
	files  int      // Sync of the wrapped file
}

// recordFlushes records until the test ends.
func recordFlushes(t *testing.T) *flushCalls {
	calls := &flushCalls{observed: watched.New()}
	calls.observed.Sync = func(string, func() error) error {
		calls.mu.Lock()
		defer calls.mu.Unlock()
		calls.files++
		return nil
	}
	t.Cleanup(HookSyncMap(func(data []byte, _ func([]byte) error) error {
		calls.mu.Lock()
		defer calls.mu.Unlock()
		calls.ranges = append(calls.ranges, data)
		return nil
	}))
	return calls
}

func (calls *flushCalls) reset() {
	calls.mu.Lock()
	defer calls.mu.Unlock()
	calls.ranges, calls.files = nil, 0
}

// syncs returns the number of calls of the file's Sync.
func (calls *flushCalls) syncs() int {
	calls.mu.Lock()
	defer calls.mu.Unlock()
	return calls.files
}

// pages returns the pages of the file that were flushed on their own.
func (calls *flushCalls) pages(t *testing.T, f *MappedFile) []int64 {
	t.Helper()
	calls.mu.Lock()
	defer calls.mu.Unlock()
	var pages []int64
	for _, data := range calls.ranges {
		found := false
		f.maps.windows.each(func(m *mapping) {
			start := int64(uintptr(unsafe.Pointer(unsafe.SliceData(data)))) - int64(uintptr(unsafe.Pointer(unsafe.SliceData(m.data))))
			if start < 0 || start >= int64(len(m.data)) {
				return
			}
			found = true
			if start%pageBytes != 0 {
				t.Errorf("a flush starts in the middle of a page, at %d", m.offset+start)
			}
			first, last := pageSpan(start, len(data))
			for page := first; page <= last; page++ {
				pages = append(pages, m.offset/pageBytes+int64(page))
			}
		})
		if !found {
			t.Error("what was flushed is not mapped")
		}
	}
	slices.Sort(pages)
	return pages
}

// openFilled opens a file of that many pages and some bytes, every page of which may be stored to, in
// windows of windowSize or, if that is 0, as a whole. Nothing is dirty, and nothing recorded.
func (calls *flushCalls) openFilled(t *testing.T, config Config, pages int) *MappedFile {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	data := make([]byte, int64(pages)*pageBytes+100)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	fileSystem := New(calls.observed, &config)
	t.Cleanup(func() { fileSystem.Close() })
	file, err := fileSystem.OpenFile(osfs.FromNative(name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	f := file.(*MappedFile)
	for off := int64(0); off < int64(len(data)); off += pageBytes {
		if err := f.View(off, 1, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(data[off:min(off+pageBytes, int64(len(data)))], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	calls.reset()
	return f
}

var layouts = map[string]Config{
	"as a whole":         {Mode: ModeReadWrite, MapFullFile: true},
	"windows of 2 pages": {Mode: ModeReadWrite, WindowSize: 2 * pageBytes},
}

// Catches a flush of more than was written, which is what makes SyncImmediate affordable, and one of
// less.
func TestOnlyTheTouchedRangeIsFlushed(t *testing.T) {
	skipWithoutMaps(t)
	ranges := []struct {
		off, n int64
		pages  []int64
	}{
		{0, 1, []int64{0}},
		{100, 10, []int64{0}},
		{pageBytes - 1, 1, []int64{0}},
		{pageBytes - 1, 2, []int64{0, 1}},
		{pageBytes, pageBytes, []int64{1}},
		{3*pageBytes + 7, pageBytes, []int64{3, 4}},
		{pageBytes, 6 * pageBytes, []int64{1, 2, 3, 4, 5, 6}},
		{pageBytes + 1, 6*pageBytes - 1, []int64{1, 2, 3, 4, 5, 6}},
		{8 * pageBytes, 100, []int64{8}},
		{7*pageBytes + 50, pageBytes + 50, []int64{7, 8}},
	}
	writes := map[string]struct {
		mode  SyncMode
		write func(f *MappedFile, p []byte, off int64) error
	}{
		"WriteAt in SyncImmediate": {SyncImmediate, func(f *MappedFile, p []byte, off int64) error {
			_, err := f.WriteAt(p, off)
			return err
		}},
		"Write in SyncImmediate": {SyncImmediate, func(f *MappedFile, p []byte, off int64) error {
			if _, err := f.Seek(off, io.SeekStart); err != nil {
				return err
			}
			_, err := f.Write(p)
			return err
		}},
		"WriteString in SyncImmediate": {SyncImmediate, func(f *MappedFile, p []byte, off int64) error {
			if _, err := f.Seek(off, io.SeekStart); err != nil {
				return err
			}
			_, err := f.WriteString(string(p))
			return err
		}},
		"SyncRange": {SyncNever, func(f *MappedFile, p []byte, off int64) error {
			return f.SyncRange(off, int64(len(p)))
		}},
		"SyncRange in SyncLazy": {SyncLazy, func(f *MappedFile, p []byte, off int64) error {
			if _, err := f.WriteAt(p, off); err != nil {
				return err
			}
			return f.SyncRange(off, int64(len(p)))
		}},
	}
	for layout, config := range layouts {
		for name, w := range writes {
			t.Run(name+"/"+layout, func(t *testing.T) {
				calls := recordFlushes(t)
				config.SyncMode = w.mode
				f := calls.openFilled(t, config, 8)
				for _, r := range ranges {
					calls.reset()
					if err := w.write(f, make([]byte, r.n), r.off); err != nil {
						t.Fatal(err)
					}
					pages, syncs := calls.pages(t, f), calls.syncs()
					if !sysSyncMapIsDurable {
						if syncs != 1 {
							t.Errorf("%d bytes at %d: %d calls of Sync, want 1", r.n, r.off, syncs)
						}
						continue
					}
					if !reflect.DeepEqual(pages, r.pages) || syncs != 0 {
						t.Errorf("%d bytes at %d: flushed pages %v and %d times the whole file, want pages %v alone",
							r.n, r.off, pages, syncs, r.pages)
					}
				}
			})
		}
	}
}

// Catches a flush through maps that do not hold the range, which would leave bytes behind: what lies
// outside them needs the file's own Sync.
func TestRangeOutsideTheMapsIsFlushed(t *testing.T) {
	skipWithoutMaps(t)
	calls := recordFlushes(t)
	f := calls.openFilled(t, Config{Mode: ModeReadWrite, WindowSize: pageBytes, MaxWindows: 2}, 8)
	size := 8*pageBytes + 100
	for _, r := range []struct{ off, n int64 }{
		{0, 1}, // a window that had to make room
		{0, size},
		{size - 1, 2},             // past the end
		{size + 5*pageBytes, 10},  // far past the end
		{0, math.MaxInt64},        // "all of it"
		{1, math.MaxInt64},        // the same, and the end of the range is no offset any more
		{math.MaxInt64 - 1, 1000}, // the same
	} {
		calls.reset()
		if err := f.SyncRange(r.off, r.n); err != nil {
			t.Errorf("SyncRange(%d, %d): %v", r.off, r.n, err)
		}
		if calls.syncs() != 1 {
			t.Errorf("SyncRange(%d, %d): %d calls of Sync, want 1", r.off, r.n, calls.syncs())
		}
	}
	calls.reset()
	if err := f.SyncRange(5, 0); err != nil {
		t.Error(err)
	}
	for _, r := range []struct{ off, n int64 }{{-1, 1}, {1, -1}} {
		if err := f.SyncRange(r.off, r.n); !errors.Is(err, ErrInvalidOffset) {
			t.Errorf("SyncRange(%d, %d): %v, want ErrInvalidOffset", r.off, r.n, err)
		}
	}
	if calls.syncs() != 0 || len(calls.ranges) != 0 {
		t.Error("an empty or impossible range was flushed")
	}
}

// Catches a flush of a map that the system does not flush: on Linux msync(2) does nothing for a map of
// a descriptor that was opened read-only, and for a private one.
func TestRangeOfUnwritableMapsIsFlushed(t *testing.T) {
	name := osfs.FromNative(filepath.Join(t.TempDir(), "file"))
	if err := os.WriteFile(osfs.ToNative(name), make([]byte, 3*pageBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []MappingMode{ModeReadOnly, ModeReadWrite, ModeCopyOnWrite, ModeExecute} {
		calls := recordFlushes(t)
		fileSystem := New(calls.observed, &Config{Mode: mode, SyncMode: SyncNever, MapFullFile: true})
		t.Cleanup(func() { fileSystem.Close() })
		file, err := fileSystem.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() }) // a handle that is garbage before its filesystem is closed stays mapped
		f := file.(*MappedFile)
		f.Data()
		if err := f.SyncRange(0, 10); err != nil {
			t.Errorf("%v: %v", mode, err)
		}
		if calls.syncs() != 1 {
			t.Errorf("%v: %d calls of Sync, want 1", mode, calls.syncs())
		}
	}
}

// Catches a range computed from two looks at a size that another handle changes in between: the slice
// of the map then ends before it starts, and the program dies.
func TestRangeFlushedWhileTheFileShrinks(t *testing.T) {
	skipWithoutMaps(t)
	for _, n := range []int64{1, pageBytes, 8 * pageBytes} {
		calls := recordFlushes(t)
		f := calls.openFilled(t, layouts["as a whole"], 8)
		m := f.maps.windows.at(0)
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					m.setLimit(pageBytes)
					m.setLimit(8 * pageBytes)
				}
			}
		}()
		for range 20_000 {
			if err := f.SyncRange(7*pageBytes, n); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		<-done
	}
}

// Catches a Sync that knows only of the writes it has seen: bytes stored through Data and by others
// have left no trace.
func TestSyncFlushesWhatNobodyNoted(t *testing.T) {
	skipWithoutMaps(t)
	for layout, config := range layouts {
		for _, mode := range []SyncMode{SyncImmediate, SyncPeriodic, SyncLazy, SyncNever} {
			t.Run(fmt.Sprint(mode, "/", layout), func(t *testing.T) {
				calls := recordFlushes(t)
				config.SyncMode, config.SyncInterval = mode, time.Hour
				f := calls.openFilled(t, config, 8)
				f.Data()[0]++
				for range 2 {
					calls.reset()
					if err := f.Sync(); err != nil {
						t.Fatal(err)
					}
					if calls.syncs() != 1 {
						t.Errorf("%d calls of the file's Sync, want 1", calls.syncs())
					}
					if flushed := calls.pages(t, f); !sysFileSyncCoversMaps && !slices.Contains(flushed, 0) {
						t.Errorf("mapped pages %v were flushed, want page 0 with them", flushed)
					}
				}
			})
		}
	}
}

// Catches flushes that nothing asked for. They cost as much as the needed ones.
func TestNoFlushWithoutNeed(t *testing.T) {
	skipWithoutMaps(t)
	read := func(f *MappedFile) error {
		_, err := f.ReadAt(make([]byte, 10), 0)
		return err
	}
	view := func(f *MappedFile) error { return f.View(0, 10, func([]byte) error { return nil }) }
	data := func(f *MappedFile) error { f.Data(); return nil }
	write := func(f *MappedFile) error {
		_, err := f.WriteAt([]byte("bytes"), 0)
		return err
	}
	both := func(first, second func(f *MappedFile) error) func(f *MappedFile) error {
		return func(f *MappedFile) error { return join(first(f), second(f)) }
	}
	readOnly, readWrite := Config{MapFullFile: true}, layouts["as a whole"]
	for _, test := range []struct {
		name   string
		config Config
		mode   SyncMode
		do     func(f *MappedFile) error
		want   int // calls of the file's Sync up to Close
	}{
		{"read", readWrite, SyncLazy, read, 0},
		{"read", readWrite, SyncPeriodic, read, 0},
		{"view", readOnly, SyncLazy, view, 0},
		{"view", readOnly, SyncPeriodic, view, 0},
		{"Data, read-only", readOnly, SyncLazy, data, 0},
		{"Data, read-only", readOnly, SyncPeriodic, data, 0},
		{"write", readWrite, SyncNever, write, 0},
		{"Data", readWrite, SyncNever, data, 0},
		{"write", readWrite, SyncLazy, write, 1},
		{"Data", readWrite, SyncLazy, data, 1},
		{"view", readWrite, SyncLazy, view, 1},
		{"write", readWrite, SyncPeriodic, write, 1},
		{"Data", readWrite, SyncPeriodic, data, 1},
		{"write, Sync", readWrite, SyncLazy, both(write, (*MappedFile).Sync), 1},
		{"write, Sync", readWrite, SyncPeriodic, both(write, (*MappedFile).Sync), 1},
	} {
		t.Run(fmt.Sprint(test.name, "/", test.config.Mode, "/", test.mode), func(t *testing.T) {
			calls := recordFlushes(t)
			config := test.config
			config.SyncMode, config.SyncInterval = test.mode, time.Hour
			f := calls.openFilled(t, config, 3)
			if err := test.do(f); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if calls.syncs() != test.want {
				t.Errorf("%d calls of the file's Sync, want %d", calls.syncs(), test.want)
			}
		})
	}
}

// Catches bytes stored in a View that SyncLazy forgets because the View still runs when the file is
// closed.
func TestCloseInsideViewFlushes(t *testing.T) {
	skipWithoutMaps(t)
	calls := recordFlushes(t)
	config := layouts["as a whole"]
	config.SyncMode = SyncLazy
	f := calls.openFilled(t, config, 3)
	err := f.View(0, 10, func(b []byte) error {
		b[0]++
		return f.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls.syncs() != 1 {
		t.Errorf("%d calls of the file's Sync at Close, want 1", calls.syncs())
	}
}

// Catches a Sync that returns while a background flush of the same bytes is failing: the system tells
// only one of the two of the error, and if that is the background flush, Sync reports success for
// bytes that are lost.
func TestSyncWaitsForBackgroundFlush(t *testing.T) {
	failure := errors.New("the disk has failed")
	begun := make(chan struct{})
	observed := watched.New()
	var once sync.Once
	observed.Sync = func(_ string, sync func() error) (err error) {
		once.Do(func() {
			close(begun)
			time.Sleep(50 * time.Millisecond) // time enough for a Sync that does not wait
			err = failure
		})
		return err
	}
	name := osfs.FromNative(filepath.Join(t.TempDir(), "file"))
	fileSystem := New(observed, &Config{Mode: ModeReadWrite, SyncMode: SyncNever})
	file, err := fileSystem.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("bytes"); err != nil {
		t.Fatal(err)
	}
	if err := file.(*MappedFile).SyncAsync(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, begun)
	if err := file.Sync(); !errors.Is(err, failure) {
		t.Errorf("Sync returned %v, want the error of the flush that ran beside it", err)
	}
	if err := fileSystem.Close(); err != nil {
		t.Errorf("the error was reported again: %v", err)
	}
}

// waitFor waits for a background flush to begin.
func waitFor(t *testing.T, begun <-chan struct{}) {
	t.Helper()
	select {
	case <-begun:
	case <-time.After(10 * time.Second):
		t.Fatal("no background flush begins")
	}
}

// Catches a background flush that outlives the filesystem: after Close the program may unmount the
// disk, or exit.
func TestCloseWaitsForBackgroundFlush(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	observed := watched.New()
	var once sync.Once
	observed.Sync = func(string, func() error) error {
		once.Do(func() {
			close(begun)
			<-release
		})
		return nil
	}
	name := osfs.FromNative(filepath.Join(t.TempDir(), "file"))
	fileSystem := New(observed, &Config{Mode: ModeReadWrite, SyncMode: SyncNever})
	file, err := fileSystem.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("bytes"); err != nil {
		t.Fatal(err)
	}
	if err := file.(*MappedFile).SyncAsync(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, begun)
	closed := make(chan error)
	go func() { closed <- fileSystem.Close() }()
	select {
	case <-closed:
		t.Error("Close did not wait for the flush")
		close(release)
	case <-time.After(20 * time.Millisecond):
		close(release)
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
}

// Catches writes that end while the filesystem is being closed and wake a flusher that is being waited
// for, which package sync answers with a panic.
func TestWritesEndAsTheFileSystemCloses(t *testing.T) {
	if runtime.GOARCH == "wasm" {
		t.Skip("a goroutine that does not wait is not interrupted there")
	}
	name := osfs.FromNative(filepath.Join(t.TempDir(), "file"))
	for range 100 {
		observed := watched.New()
		observed.Sync = func(string, func() error) error { return nil }
		fileSystem := New(observed, &Config{Mode: ModeReadWrite, SyncMode: SyncPeriodic, SyncInterval: 1})
		file, err := fileSystem.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		f := file.(*MappedFile)
		f.Close()
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					f.unsynced.noteStore() // the end of a write
					f.unsynced.dirty.Store(false)
				}
			}
		}()
		runtime.Gosched()
		if err := fileSystem.Close(); err != nil {
			t.Error(err)
		}
		close(stop)
		<-done
		if b := &fileSystem.handles.flusher; b.timer != nil || len(b.due) > 0 {
			t.Fatal("the flusher does not rest after Close")
		}
	}
}
