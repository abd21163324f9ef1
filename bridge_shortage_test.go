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
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
)

// Catches a flush, or an OnSyncError, that hangs for ever and keeps other files from being flushed.
func TestHungFlushHoldsUpNoOther(t *testing.T) {
	for _, where := range []string{"Sync", "OnSyncError"} {
		const hung = fewFlushes
		goOn := make(chan struct{})
		flushed := make(chan struct{})
		base := watched.New()
		var hanging atomic.Int32
		hang := func() {
			if hanging.Add(1) <= hung {
				<-goOn
			}
		}
		base.Sync = func(name string, _ func() error) error {
			switch {
			case filepath.Base(name) == "last":
				close(flushed)
				return nil
			case where == "Sync":
				hang()
			}
			return errors.New("the disk has failed")
		}
		config := &Config{Mode: ModeReadWrite, SyncMode: SyncNever}
		if where == "OnSyncError" {
			config.OnSyncError = func(string, error) { hang() }
		}
		mfs := New(base, config)
		dir := t.TempDir()
		flush := func(name string) {
			file, err := mfs.Create(osfs.FromNative(filepath.Join(dir, name)))
			if err != nil {
				t.Fatal(err)
			}
			if err := file.(*MappedFile).SyncAsync(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range hung {
			flush(fmt.Sprint("hung", i))
		}
		for hanging.Load() < hung {
			time.Sleep(time.Millisecond)
		}
		flush("last")
		waitFor(t, flushed)
		close(goOn)
		mfs.Close() // with the error of the flushes
	}
}

// Catches a hang on one file, in a system call under the lock of its maps, that stops what concerns
// others only.
func TestHungFileHoldsUpNoOther(t *testing.T) {
	skipWithoutMaps(t)
	mfs, f, native := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
	if f.Data() == nil {
		t.Fatal("no map")
	}
	other := filepath.Join(filepath.Dir(native), "other")
	if err := os.WriteFile(other, make([]byte, 4*pageBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	f.maps.windows.mu.Lock() // as a system call does that hangs
	defer f.maps.windows.mu.Unlock()
	name := osfs.FromNative(other)
	for what, call := range map[string]func() error{
		"Truncate": func() error { return mfs.Truncate(name, pageBytes) },
		"Chtimes":  func() error { return mfs.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)) },
		"Chmod":    func() error { return mfs.Chmod(name, 0o600) },
		"O_TRUNC": func() error {
			file, err := mfs.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0)
			if err != nil {
				return err
			}
			return file.Close()
		},
		"tick": func() error { mfs.handles.tick(); return nil },
	} {
		if r := mustEnd(t, what, asynchronously(func() (int, error) { return 0, call() })); r.err != nil {
			t.Errorf("%s: %v", what, r.err)
		}
	}
}

// Catches addresses kept as pointers, which the collector follows into whatever is there by now.
func TestQuarantineKeepsNumbers(t *testing.T) {
	if hasPointers(reflect.TypeOf(quarantine.ranges).Elem()) {
		t.Errorf("%v has pointers", reflect.TypeOf(quarantine.ranges))
	}
	if hasPointers(reflect.TypeFor[addresses]()) {
		t.Error("what remains of a mapping has pointers to its memory")
	}
}

// failMaps has maps fail for want of memory as long as scarce says so.
func failMaps(scarce func() bool) (restore func()) {
	return HookMap(func(bool, bool, bool) error {
		if scarce() {
			return syscall.ENOMEM
		}
		return nil
	})
}

// Catches a process that has no limit of maps because it was out of descriptors when it asked for it.
func TestLimitThatCannotBeAskedFor(t *testing.T) {
	for err, want := range map[error]int64{syscall.EMFILE: usualMapLimit / 2, errors.ErrUnsupported: math.MaxInt64} {
		restore := hook(&system.mapLimit, func(func() (int64, error)) func() (int64, error) {
			return func() (int64, error) { return 0, err }
		})
		if ranges, _ := budgetLimits(); ranges != want {
			t.Errorf("%v: a limit of %d maps, want %d", err, ranges, want)
		}
		restore()
	}
}

// Catches a shortage of addresses that is not met by giving back those that wait for the collector.
func TestShortageGivesAddressesBack(t *testing.T) {
	skipWithoutMaps(t)
	for range 20 {
		_, f, _ := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 1, os.O_RDWR)
		f.maps.mapWindow(0)
		f.Close()
	}
	_, f, _ := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 1, os.O_RDWR)
	budget.reclaiming.Lock()
	budget.vain = 0
	budget.reclaiming.Unlock()
	before := budget.ranges.Load()
	defer failMaps(func() bool { return budget.ranges.Load() > before })() // the new one is counted, too
	if err := f.View(0, 1, func([]byte) error { return nil }); err != nil {
		t.Errorf("View beside 20 maps that nobody uses any more: %v", err)
	}
	if !f.maps.windows.mapsWhole() {
		t.Error("the file is mapped by windows")
	}
}

// Catches a file that is mapped by windows for life because there was once no room for all of it.
func TestShortageEnds(t *testing.T) {
	skipWithoutMaps(t)
	var scarce atomic.Bool
	scarce.Store(true)
	pages := int(narrowWindow/pageBytes) * 2
	restore := hook(&system.mapFile, func(call func(uintptr, int64, int, int) ([]byte, error)) func(uintptr, int64, int, int) ([]byte, error) {
		return func(fd uintptr, offset int64, length, flags int) ([]byte, error) {
			if scarce.Load() && length > narrowWindow {
				return nil, syscall.ENOMEM
			}
			return call(fd, offset, length, flags)
		}
	})
	defer restore()
	_, f, _ := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, pages, os.O_RDWR)
	f.maps.compares = false // as of a file of osfs
	data := f.Data()
	if int64(len(data)) != narrowWindow || f.maps.windows.mapsWhole() {
		t.Fatalf("with no room for all of it %d bytes are mapped", len(data))
	}
	data[0] = 2
	retry := func() {
		f.maps.windows.narrowed = time.Now().Add(-narrowTerm)
		if _, err := f.maps.mapWindow(narrowWindow); err != nil {
			t.Fatal(err)
		}
	}
	retry()
	if f.maps.windows.mapsWhole() || len(f.maps.windows.live) != 2 {
		t.Error("there is no room yet, and the windows are gone")
	}
	scarce.Store(false)
	retry()
	if !f.maps.windows.mapsWhole() || len(f.maps.windows.live) != 1 || f.maps.windows.table.Load() != nil {
		t.Error("with room again the file is not mapped as a whole")
	}
	if m := f.maps.windows.whole.Load(); !f.maps.learns() && m != nil && !m.resident.has(0, pages-1) {
		t.Error("what is mapped as a whole is not read through the map alone")
	}
	if data[0] != 2 {
		t.Error("the slice that Data has handed out has other bytes")
	}
	whole := mustReadAt(t, f, 0, pages*int(pageBytes))
	if whole[0] != 2 || !bytes.Equal(whole[1:], bytes.Repeat([]byte{1}, len(whole)-1)) {
		t.Error("the file has other bytes")
	}
}

// Catches a copy that is not done in pieces: the collector, and all goroutines with it, would wait for
// all of it.
func TestLongCopiesCanBeStopped(t *testing.T) {
	skipWithoutMaps(t)
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("nobody can look how far the copy is")
	}
	const length = 32 << 20
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(length); err != nil {
		t.Fatal(err)
	}
	from := bytes.Repeat([]byte{1}, length)
	var shares []float64 // of a copy for which all goroutines wait
	for range 9 {
		to, err := system.mapFile(file.Fd(), 0, length, mapWrite|mapPrivate)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan time.Duration)
		var ready, begin atomic.Bool // both goroutines run, each on a thread of its own
		go func() {
			for ready.Store(true); !begin.Load(); {
			}
			start := time.Now()
			copyGuarded(unsafe.Pointer(&to[0]), unsafe.Pointer(&from[0]), length)
			done <- time.Since(start)
		}()
		for !ready.Load() {
		}
		for begin.Store(true); atomic.LoadUint32((*uint32)(unsafe.Pointer(&to[pageBytes]))) == 0; {
		}
		var stats runtime.MemStats
		start := time.Now()
		runtime.ReadMemStats(&stats) // stops all goroutines
		waited := time.Since(start)
		shares = append(shares, float64(waited)/float64(<-done))
		system.unmap(to)
	}
	slices.Sort(shares)
	if shares[len(shares)/2] > 0.5 {
		t.Errorf("beside a copy all goroutines wait for these parts of it: %.2f", shares)
	}
}

// Catches second descriptors that count for ever though the handles were dropped without Close.
func TestDroppedHandlesGiveSecondsBack(t *testing.T) {
	skipWithoutMaps(t)
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	mfs := New(base, &Config{Mode: ModeReadWrite, SyncMode: SyncNever, WindowSize: pageBytes})
	defer mfs.Close()
	dir := t.TempDir()
	open := func(i int) {
		native := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(native, make([]byte, 2*pageBytes), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.(*MappedFile).maps.mapWindow(0); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		return len(seconds.open.values(&seconds.mu))
	}
	before := count()
	for i := range 20 {
		open(i)
	}
	if n := count(); n < before+20 {
		t.Fatalf("20 files have %d second descriptors", n-before)
	}
	for range 100 {
		runtime.GC()
		if count() <= before+1 { // the last one may be on the stack
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d second descriptors of dropped handles are still counted", count()-before)
}

// Catches a file that is never mapped again because a window had to be dropped for the next one, and its second
// descriptor with it.
func TestWindowIsDroppedForTheBudget(t *testing.T) {
	skipWithoutMaps(t)
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	native := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(native, make([]byte, 16*mapAlignment), 0o600); err != nil {
		t.Fatal(err)
	}
	mfs := New(base, &Config{Mode: ModeReadWrite, SyncMode: SyncNever, WindowSize: mapAlignment})
	defer mfs.Close()
	file, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	f := file.(*MappedFile)
	reclaim := func() {
		budget.reclaiming.Lock()
		budget.vain = 0
		budget.reclaiming.Unlock()
		budget.reclaim()
	}
	reclaim()
	defer hook(&budget.limits, func(limits func() (int64, int64)) func() (int64, int64) {
		most := budget.ranges.Load() + 1
		return func() (int64, int64) { return most, math.MaxInt64 }
	})()
	for i := range int64(4) {
		if err := f.View(i*mapAlignment, 1, func([]byte) error { return nil }); err != nil {
			t.Errorf("View of window %d, with room for one: %v", i, err)
		}
		reclaim()
	}
	if r := f.maps.refused.Load(); r != nil && sysMapsAgreeWithIO {
		t.Errorf("the file is not mapped any more: %v", r.err)
	}
}

// Catches addresses that are taken to be back before they are: who waits for them goes on, and finds none.
func TestAddressesWaitUntilTheyAreBack(t *testing.T) {
	skipWithoutMaps(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(mapAlignment); err != nil {
		t.Fatal(err)
	}
	data, err := system.mapFile(file.Fd(), 0, int(mapAlignment), 0)
	if err != nil {
		t.Fatal(err)
	}
	budget.reclaim() // so that no others wait
	budget.take(mapAlignment)
	life := &mapLife{addresses: addresses{addressOf(data), uintptr(len(data))}}
	life.exposed.Store(true)
	system.revoke(data)
	life.state.Store(mapRevoked)
	budget.wait(mapAlignment)
	var waiting atomic.Int64 // when the quarantine takes the addresses
	waiting.Store(-1)
	restore := hook(&budget.limits, func(limits func() (int64, int64)) func() (int64, int64) {
		return func() (int64, int64) {
			waiting.CompareAndSwap(-1, budget.waitingRanges.Load())
			return limits()
		}
	})
	giveBack(life)
	restore()
	if n := waiting.Load(); n < 1 {
		t.Errorf("before the addresses are in quarantine, so many maps wait: %d", n)
	}
	quarantine.empty()
}

// Catches pages of private maps that are all taken for stored to because no descriptor was left to ask with.
func TestPrivatePagesAreToldInAShortage(t *testing.T) {
	skipWithoutMaps(t)
	if sysPrivatePages(nil, nil) != nil {
		return
	}
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	native := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(native, make([]byte, 4*pageBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	mfs := New(base, &Config{Mode: ModeCopyOnWrite, SyncMode: SyncNever, MapFullFile: true})
	defer mfs.Close()
	file, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	f := file.(*MappedFile)
	short := false
	defer hook(&system.privatePages, func(call func([]byte, []bool) error) func([]byte, []bool) error {
		return func(data []byte, own []bool) error {
			if d := f.maps.descriptor.Load(); short && d != nil && !d.isClosed() {
				return &os.PathError{Op: "open", Err: syscall.EMFILE}
			}
			return call(data, own)
		}
	})()
	if err := f.View(0, 1, func([]byte) error { short = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(f.private.lent) == 0 {
		t.Error("a View that has stored nothing is taken for one that has")
	}
}

// Catches a file that is never mapped again because its second descriptor was given back, for somebody else's
// open, between its being found and its being used.
func TestSecondGivenBackWhileMapping(t *testing.T) {
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		return // on Windows a file cannot be closed from inside a call that uses its handle, as this test does
	}
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []MappingMode{ModeReadOnly, ModeReadWrite, ModeCopyOnWrite} {
		native := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(native, make([]byte, 2*pageBytes), 0o600); err != nil {
			t.Fatal(err)
		}
		mfs := New(base, &Config{Mode: mode, SyncMode: SyncNever, MapFullFile: true})
		file, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		givenBack := false
		restore := HookMap(func(bool, bool, bool) error {
			if givenBack {
				return nil
			}
			givenBack = seconds.giveBack()
			return syscall.ENOMEM // so that it is tried once more
		})
		err = file.(*MappedFile).View(0, 1, func([]byte) error { return nil })
		restore()
		if err != nil || !givenBack {
			t.Errorf("%v: View, with the descriptor given back %t: %v", mode, givenBack, err)
		}
		if err := file.(*MappedFile).MappingError(); err != nil && sysMapsAgreeWithIO {
			t.Errorf("%v: calls are not served from a map any more: %v", mode, err)
		}
		if err := mfs.Close(); err != nil {
			t.Errorf("%v: Close: %v", mode, err)
		}
	}
}

// readOnlyFS opens read-only whatever is asked for.
type readOnlyFS struct{ absfs.FileSystem }

func (s readOnlyFS) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	return s.FileSystem.OpenFile(name, flag&^accessMode, perm)
}

// Catches stores that reach a file through a map although the wrapped filesystem has opened it read-only.
func TestFilesOpenedReadOnlyAreNotStoredTo(t *testing.T) {
	skipWithoutMaps(t)
	plain, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	for what, base := range map[string]absfs.FileSystem{"osfs.File": plain, "a file that offers its descriptor": watched.New()} {
		native := filepath.Join(t.TempDir(), "file")
		content := make([]byte, 2*pageBytes)
		if err := os.WriteFile(native, content, 0o600); err != nil {
			t.Fatal(err)
		}
		mfs := New(readOnlyFS{base}, &Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true})
		defer mfs.Close()
		file, err := mfs.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		f := file.(*MappedFile)
		if err := f.View(0, 10, func(b []byte) error { b[0] = 1; return nil }); !errors.Is(err, ErrSIGBUS) {
			t.Errorf("%s: a store by View: %v, want a fault", what, err)
		}
		for range 3 {
			if _, err := f.WriteAt([]byte{1}, 0); err == nil {
				t.Errorf("%s: WriteAt goes through", what)
			}
		}
		if now, err := os.ReadFile(native); err != nil || !bytes.Equal(now, content) {
			t.Errorf("%s: the file was changed (%v)", what, err)
		}
	}
}

// Catches a store after a change of mode, which leaves setuid and setgid alone where write(2) clears them;
// and stores into the map of a file that has turned out to transform what it reads.
func TestStoresEnd(t *testing.T) {
	skipWithoutMaps(t)
	for what, end := range map[string]func(mfs *MemMapFS, f *MappedFile, native string) error{
		"Chmod": func(mfs *MemMapFS, _ *MappedFile, native string) error {
			return mfs.Chmod(osfs.FromNative(native), 0o640)
		},
		"refusal": func(_ *MemMapFS, f *MappedFile, _ string) error {
			f.maps.refuse(refuse(refusedTransformed, errTransformed, true))
			return nil
		},
	} {
		if what == "Chmod" && sysMapsHoldFiles {
			continue // Windows has none that a write takes away, and refuses it for a file that is open
		}
		base := watched.New()
		calls := 0
		refused := errors.New("refused")
		var failure error
		base.WriteAt = func(_ string, write func() (int, error)) (int, error) {
			if calls++; failure != nil {
				return 0, failure
			}
			return write()
		}
		mfs, f, native := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 3, os.O_RDWR)
		if _, err := f.maps.mapWindow(0); err != nil {
			t.Fatal(err)
		}
		mustReadAt(t, f, 0, 3*int(pageBytes))
		mustWriteAt(t, f, []byte{1}, 0)
		mustWriteAt(t, f, []byte{1}, 0)
		if calls != 1 {
			t.Fatalf("%d writes went through the file, want 1: nothing is stored", calls)
		}
		if err := end(mfs, f, native); err != nil {
			t.Fatal(err)
		}
		failure = refused
		if _, err := f.WriteAt([]byte{9}, 0); !errors.Is(err, refused) {
			t.Errorf("after %s: WriteAt: %v, want the file's error", what, err)
		}
		if content, err := os.ReadFile(native); err != nil || content[0] != 1 {
			t.Errorf("after %s: a store has changed the file to %d (%v)", what, content[0], err)
		}
	}
}

// Catches a page of a refused file that is known until that is old, to be read or stored to: one that is
// learnt beside the refusal, and one that is learnt after it, beside a new window that is trusted.
func TestLearntBesideRefusal(t *testing.T) {
	skipWithoutMaps(t)
	for _, c := range []struct {
		what     string
		call     func(t *testing.T, f *MappedFile)
		compared int64 // where the file is asked for what the map is compared with
	}{
		{"read", func(t *testing.T, f *MappedFile) { mustReadAt(t, f, 0, 10) }, 10}, // the rest of the page
		{"write", func(t *testing.T, f *MappedFile) { mustWriteAt(t, f, []byte("ten bytes."), 0) }, 0},
	} {
		what, call := c.what, c.call
		base, comparing := watched.New(), func() {}
		base.ReadAt = func(_ int, off int64) {
			if off == c.compared {
				comparing()
			}
		}
		_, f, _ := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 3, os.O_RDWR)
		m, err := f.maps.mapWindow(0)
		if err != nil {
			t.Fatal(err)
		}
		comparing = func() { f.maps.refuse(refuse(refusedTransformed, errTransformed, true)) }
		call(t, f)
		if f.maps.refused.Load() == nil {
			t.Fatalf("the page is not compared at a %s", what)
		}
		if m.resident.has(0, 0) || m.written.has(0, 0) {
			t.Errorf("a page is known by a %s beside the refusal", what)
		}
		comparing = func() {}
		f.maps.trusted.Store(true)
		call(t, f)
		if m.resident.has(0, 0) || m.written.has(0, 0) {
			t.Errorf("a page is known by a %s beside a new window", what)
		}
	}
}

// Catches a permission to store that a write gives which began before a flush: the flush has made its
// pages clean.
func TestWriteBesideFlush(t *testing.T) {
	skipWithoutMaps(t)
	base := watched.New()
	calls := 0
	var f *MappedFile
	base.WriteAt = func(_ string, write func() (int, error)) (int, error) {
		calls++
		n, err := write()
		if calls == 1 {
			err = f.Sync()
		}
		return n, err
	}
	_, f, _ = opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 3, os.O_RDWR)
	if _, err := f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	mustReadAt(t, f, 0, 3*int(pageBytes))
	for i := range 3 {
		mustWriteAt(t, f, []byte{2}, 0)
		if want := min(i+1, 2); calls != want {
			t.Errorf("%d writes through the file after %d, want %d", calls, i+1, want)
		}
	}
}

// Catches pages that stay locked after LockMemory has failed, because the system had locked some of them.
func TestLockMemoryFailsHalfway(t *testing.T) {
	skipWithoutMaps(t)
	_, f, _ := opening(t, watched.New(), Config{Mode: ModeReadOnly, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
	fails := false
	locked := make(map[uintptr]bool) // by page
	note := func(data []byte, is bool) {
		for at := uintptr(0); at < uintptr(len(data)); at += uintptr(pageBytes) {
			locked[addressOf(data)+at] = is
		}
	}
	defer hook(&system.lockPages, func(func([]byte, bool) error) func([]byte, bool) error {
		return func(data []byte, _ bool) error {
			note(data, true)
			if fails {
				return syscall.EAGAIN
			}
			return nil
		}
	})()
	defer hook(&system.unlockPages, func(func([]byte) error) func([]byte) error {
		return func(data []byte) error { note(data, false); return nil }
	})()
	if err := f.LockMemory(pageBytes, 1); err != nil {
		t.Fatal(err)
	}
	fails = true
	if err := f.LockMemory(0, 4*pageBytes); err == nil {
		t.Fatal("LockMemory has not failed")
	}
	start := addressOf(f.maps.windows.at(0).data)
	for page := range uintptr(4) {
		if is := locked[start+page*uintptr(pageBytes)]; is != (page == 1) {
			t.Errorf("page %d is locked: %t", page, is)
		}
	}
}

// Catches LockMemory that takes a file which shrinks meanwhile for locked.
func TestLockMemoryBesideTruncate(t *testing.T) {
	skipWhereNobodyShrinksMaps(t)
	_, f, native := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
	defer HookMap(func(bool, bool, bool) error { return os.Truncate(native, pageBytes) })()
	if err := f.LockMemory(0, 4*pageBytes); err != io.EOF {
		t.Errorf("LockMemory of a file that has shrunk: %v, want io.EOF", err)
	}
	if n := len(f.maps.windows.locked); n > 0 {
		t.Errorf("%d ranges count as locked", n)
	}
}

// Catches a clock that stops while a map is being made, because there is none yet: what is known of its pages
// would never end.
func TestClockGoesOnBesideTheFirstMap(t *testing.T) {
	skipWithoutMaps(t)
	if filtered() {
		return // the question by which the test stops the making of a map is not asked there
	}
	var mfs *MemMapFS
	rests := func() bool {
		mfs.handles.mu.Lock()
		defer mfs.handles.mu.Unlock()
		return mfs.handles.ageing == nil
	}
	making := false
	defer hook(&system.cachedPages, func(call func(uintptr, int64, int64) (int64, error)) func(uintptr, int64, int64) (int64, error) {
		return func(fd uintptr, offset, length int64) (int64, error) {
			for ; making && !rests(); time.Sleep(time.Millisecond) {
			}
			making = false
			return call(fd, offset, length)
		}
	})()
	for _, narrow := range []bool{false, true} {
		var f *MappedFile
		mfs, f, _ = opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 2, os.O_RDWR)
		if narrow {
			f.maps.windows.size, f.maps.windows.narrowed = pageBytes, time.Now().Add(-narrowTerm)
		}
		making = true
		if _, err := f.maps.mapWindow(0); err != nil {
			t.Fatal(err)
		}
		if making || !f.maps.windows.mapsWhole() {
			t.Fatal("the clock has not stopped meanwhile")
		}
		if rests() {
			t.Errorf("a file is mapped, as a whole after windows %t, and the clock has stopped", narrow)
		}
	}
}

// Catches a clock that stops although a file was registered after it had looked for maps.
func TestClockGoesOnForWhoRegisters(t *testing.T) {
	mfs, f, _ := opening(t, watched.New(), Config{SyncMode: SyncNever}, 1, os.O_RDONLY)
	h := &mfs.handles
	registers := true
	defer hook(&system.majorFaults, func(call func() (int64, error)) func() (int64, error) {
		return func() (int64, error) {
			if registers {
				h.register(f)
			}
			return call()
		}
	})()
	for range 2 {
		h.mu.Lock()
		h.ageing = time.AfterFunc(time.Hour, func() {})
		h.mu.Unlock()
		h.tick()
		h.mu.Lock()
		if (h.ageing != nil) != registers {
			t.Errorf("a file has registered meanwhile %t, and the clock goes on %t", registers, h.ageing != nil)
		}
		if h.ageing != nil {
			h.ageing.Stop()
		}
		h.mu.Unlock()
		registers = false
	}
}

// Catches a lock or a pin that stays, or a flush that is taken for done, after a wrapped file has panicked.
func TestPanicsOfTheFile(t *testing.T) {
	skipWithoutMaps(t)
	base := watched.New()
	panics := false
	may := func() {
		if panics {
			panic("of the wrapped file")
		}
	}
	syncs := 0
	base.Sync = func(string, func() error) error { may(); syncs++; return nil }
	base.WriteAt = func(_ string, write func() (int, error)) (int, error) { may(); return write() }
	base.ReadInstead = func(_ []byte, read func() (int, error)) (int, error) { may(); return read() }
	base.StatFile = func(stat func() (os.FileInfo, error)) (os.FileInfo, error) { may(); return stat() }
	_, f, _ := opening(t, base, Config{Mode: ModeReadWrite, SyncMode: SyncLazy, MapFullFile: true}, 4, os.O_RDWR)
	if _, err := f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	f.Read(p) // at the handle's own position from here on
	for name, call := range map[string]func() error{
		"Read":     func() error { _, err := f.Read(p); return err },
		"ReadAt":   func() error { _, err := f.ReadAt(p, 100); return err },
		"Write":    func() error { _, err := f.Write(p); return err },
		"WriteAt":  func() error { _, err := f.WriteAt(p, 0); return err },
		"Prefetch": func() error { return f.Prefetch(0, pageBytes) },
		"View":     func() error { return f.View(0, 10*pageBytes, nil) },
		"Truncate": func() error { return f.Truncate(4 * pageBytes) },
		"Sync":     f.Sync,
	} {
		panics = true
		f.maps.forget()
		f.maps.endTerm()
		func() {
			defer func() {
				if r := recover(); r == nil && sysMapsAgreeWithIO {
					t.Errorf("%s has not come to the wrapped file", name)
				}
			}()
			call()
		}()
		panics = false
		done := asynchronously(func() (int, error) { return 0, call() })
		if r := mustEnd(t, name, done); r.err != nil && r.err != io.EOF {
			t.Errorf("%s after a panic: %v", name, r.err)
		}
	}
	mustWriteAt(t, f, p, 0)
	panics = true
	func() {
		defer func() { recover() }()
		f.Sync()
	}()
	panics = false
	m := f.maps.windows.at(0)
	syncs = 0
	if err := f.Close(); err != nil || syncs == 0 {
		t.Errorf("Close after a Sync that has panicked: %v after %d flushes", err, syncs)
	}
	if m != nil && !m.isRevoked() {
		t.Error("the map outlives Close")
	}
}

// Catches what wrong counts of a wrapped file may do: a position before the start of the file, a panic, bytes
// behind the caller's slice that are overwritten, and a Prefetch that never ends.
func TestOddCounts(t *testing.T) {
	skipWithoutMaps(t)
	for _, mode := range []MappingMode{ModeReadWrite, ModeCopyOnWrite} {
		base := watched.New()
		odd := 0
		var oddErr error
		isOdd := false
		answer := func(call func() (int, error)) (int, error) {
			if isOdd {
				return odd, oddErr
			}
			return call()
		}
		base.ReadInstead = func(_ []byte, read func() (int, error)) (int, error) { return answer(read) }
		base.WriteAt = func(_ string, write func() (int, error)) (int, error) { return answer(write) }
		_, f, _ := opening(t, base, Config{Mode: mode, SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDWR)
		if _, err := f.maps.mapWindow(0); err != nil {
			t.Fatal(err)
		}
		mustWriteAt(t, f, []byte{7}, pageBytes+10) // private, in ModeCopyOnWrite
		f.Read(make([]byte, 1))                    // at the handle's own position from here on
		for _, count := range []int{-1, 0, 11, math.MaxInt32} {
			isOdd, odd, oddErr = false, count, nil
			if count < 0 {
				oddErr = syscall.EIO
			}
			if _, err := f.Seek(pageBytes, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			f.maps.forget()
			f.maps.endTerm()
			isOdd = sysMapsAgreeWithIO
			p := make([]byte, 20)[:10]
			want := int64(min(max(count, 0), 10))
			n, err := f.Read(p)
			at, _ := f.Seek(0, io.SeekCurrent)
			if int64(n) > 10 || n < 0 || at != pageBytes+int64(n) || isOdd && int64(n) != want || (err != nil) != (oddErr != nil && isOdd) {
				t.Errorf("%v: Read where the file reads %d, %v: %d, %v, position %d", mode, count, oddErr, n, err, at-pageBytes)
			}
			if p := p[:20]; p[10] != 0 {
				t.Errorf("%v: Read where the file reads %d, %v, has written behind the slice: %d", mode, count, oddErr, p)
			}
			if n, err := f.Write(p); n < 0 || n > 10 || isOdd && mode == ModeReadWrite && int64(n) != want {
				t.Errorf("%v: Write where the file writes %d: %d, %v", mode, count, n, err)
			}
			prefetched := asynchronously(func() (int, error) { return 0, f.maps.readThrough(byteRange{0, pageBytes}) })
			if r := mustEnd(t, "reading through the file", prefetched); isOdd && count <= 0 && r.err == nil {
				t.Errorf("%v: reading through a file that reads %d: %v", mode, count, r.err)
			}
		}
		isOdd = false
	}
}

// Catches an access mode that is none, taken for one that may read or write through a map; and private
// writes at the largest offset.
func TestOddOpensAndOffsets(t *testing.T) {
	skipWithoutMaps(t) // where nothing is mapped, on js, a read so far out does not return
	_, f, _ := opening(t, watched.New(), Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}, 1, os.O_RDWR)
	f.maps.flag = accessMode
	if r := f.maps.refuseOpened(); r == nil || !r.byName {
		t.Errorf("access mode %d is mapped", accessMode)
	}
	mfs, f, _ := opening(t, watched.New(), Config{Mode: ModeCopyOnWrite, MapFullFile: true}, 1, os.O_RDWR)
	for _, off := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - pageBytes} {
		if n, err := f.WriteAt(make([]byte, 2*pageBytes), off); n != 0 || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("WriteAt %d: %d, %v", off, n, err)
		}
		if n, err := f.ReadAt(make([]byte, 2*pageBytes), off); n != 0 || err == nil {
			t.Errorf("ReadAt %d: %d, %v", off, n, err)
		}
	}
	if pages := byteRange(wholeRange).pages(); !slices.Equal([]int64{pages.from, pages.to}, []int64{0, math.MaxInt64}) {
		t.Errorf("the pages of all bytes: %v", pages)
	}
	f.position.at = math.MaxInt64 - 1
	mfs.Close() // which does not know the file, and leaves the wrapped one open
	if n, err := f.Read(make([]byte, 10)); n != 0 || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Read at %d after the Close of the filesystem: %d, %v", f.position.at, n, err)
	}
}

// Catches a process that is ended by a filter of system calls because no descriptor was left to ask
// whether there is one.
func TestFilterIsNotForgotten(t *testing.T) {
	before := system.filtered
	t.Cleanup(func() {
		system.filtered = before
		filterAsked.Store(0)
	})
	for _, step := range []struct {
		never bool // asked before
		set   bool
		err   error
		want  bool
	}{
		{true, true, nil, true},
		{false, false, syscall.EMFILE, true},
		{false, false, nil, false},
		{false, false, syscall.EMFILE, false},
		{true, false, syscall.EMFILE, true},
		{true, false, nil, false},
		{true, false, fs.ErrNotExist, false}, // a system without /proc
	} {
		system.filtered = func() (bool, error) { return step.set, step.err }
		filterAsked.Store(-1 << 62)
		if step.never {
			filterAsked.Store(0)
		}
		if got := filtered(); got != step.want {
			t.Errorf("%+v: %v", step, got)
		}
	}
}

// Catches a required map that is not made at once, one that is required where there is nothing to map,
// and an error that leaves the reader alone with an errno.
func TestRequireMapping(t *testing.T) {
	skipWithoutMaps(t)
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig()
	config.RequireMapping = true
	mfs := New(base, config)
	t.Cleanup(func() { mfs.Close() })
	dir := t.TempDir()
	full, empty := filepath.Join(dir, "full"), filepath.Join(dir, "empty")
	for native, data := range map[string]string{full: "content", empty: ""} {
		if err := os.WriteFile(native, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	open := func(native string, flag int) (*MappedFile, error) {
		file, err := mfs.OpenFile(osfs.FromNative(native), flag, 0)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { file.Close() })
		return file.(*MappedFile), nil
	}

	if file, err := open(full, os.O_RDONLY); err != nil || !file.Mapped() {
		t.Errorf("a file that can be mapped: %v, %v", file, err)
	}
	for native, flag := range map[string]int{empty: os.O_RDONLY, dir: os.O_RDONLY, full: os.O_WRONLY} {
		if file, err := open(native, flag); err != nil || file.Mapped() {
			t.Errorf("%s, which has nothing to map: %v, %v", native, file, err)
		}
	}

	mapFile := system.mapFile
	t.Cleanup(func() { system.mapFile = mapFile })
	for reason, advice := range map[syscall.Errno]string{
		syscall.ENOMEM: "vm.max_map_count",
		syscall.EMFILE: "RLIMIT_NOFILE",
		syscall.ENODEV: "",
	} {
		system.mapFile = func(uintptr, int64, int, int) ([]byte, error) { return nil, reason }
		_, err := open(full, os.O_RDONLY)
		var path *fs.PathError
		if !errors.As(err, &path) || path.Op != "open" || !errors.Is(err, ErrNotMapped) || !errors.Is(err, reason) ||
			!strings.Contains(err.Error(), advice) {
			t.Errorf("open when a map fails with %v: %v, want a *fs.PathError that names %q", reason, err, advice)
		}
	}
	if n := len(mfs.handles.files()); n != 1 {
		t.Errorf("%d files are known after failed opens, want the one that is mapped", n)
	}
}

func skipWithoutMaps(t *testing.T) {
	t.Helper()
	if _, err := sysMap(^uintptr(0), 0, 1, 0); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("nothing is mapped on this system")
	}
}

// Catches a reader that waits while a window is being mapped elsewhere in the file: the system call
// that maps is held up, and all other reads have to go on, in windows that are mapped and through the
// file.
func TestReadersDoNotWaitForAMap(t *testing.T) {
	skipWithoutMaps(t)
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	const window = 64 << 10
	native := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(native, make([]byte, 16*window), 0o644); err != nil {
		t.Fatal(err)
	}
	mfs := New(base, &Config{WindowSize: window, SyncMode: SyncNever})
	t.Cleanup(func() { mfs.Close() })
	opened, err := mfs.Open(osfs.FromNative(native))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	file := opened.(*MappedFile)
	if _, err := file.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}

	mapFile := system.mapFile
	mapping, goOn := make(chan struct{}), make(chan struct{})
	system.mapFile = func(fd uintptr, offset int64, length, flags int) ([]byte, error) {
		close(mapping)
		<-goOn
		return mapFile(fd, offset, length, flags)
	}
	t.Cleanup(func() { system.mapFile = mapFile })
	mapped := make(chan error)
	go func() {
		_, err := file.maps.mapWindow(5 * window)
		mapped <- err
	}()
	<-mapping

	read := make(chan error)
	go func() {
		p := make([]byte, 100)
		for i := 0; i < 1000; i++ {
			if _, err := file.ReadAt(p, int64(i%16)*window); err != nil {
				read <- err
				return
			}
		}
		read <- nil
	}()
	select {
	case err := <-read:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("a read waits for a window that is being mapped")
	}
	close(goOn)
	if err := <-mapped; err != nil {
		t.Error(err)
	}
}

// skipWhereNobodyShrinksMaps skips a test of a mapped file that others shrink.
func skipWhereNobodyShrinksMaps(t *testing.T) {
	t.Helper()
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		t.Skip("nobody shrinks a file that is mapped")
	}
}

// Catches a map that is there already, of a file that has grown, and that is taken for one that was cheap to make.
func TestGrowthTellsNotWhatAMapCosts(t *testing.T) {
	skipWithoutMaps(t)
	if sysMapsHoldFiles {
		return // on Windows a map ends with the file as it was, and another one is made
	}
	_, f, native := opening(t, watched.New(), Config{Mode: ModeReadOnly, SyncMode: SyncNever, MapFullFile: true}, 2, os.O_RDWR)
	if err := os.Truncate(native, pageBytes+1); err != nil {
		t.Fatal(err)
	}
	if f.maps.tryMap(0); f.maps.windows.at(0) == nil {
		f.maps.demand.spent.Store(1 << 40)
		if !f.maps.tryMap(0) {
			t.Fatal("not mapped")
		}
	}
	before := costs.make.samples.Load()
	if err := os.Truncate(native, pageBytes+100); err != nil {
		t.Fatal(err)
	}
	f.maps.tryMap(pageBytes + 50)
	if !f.maps.windows.at(0).holds(pageBytes + 50) {
		t.Fatal("the growth is not seen")
	}
	if after := costs.make.samples.Load(); after != before {
		t.Errorf("%d more maps were measured", after-before)
	}
}

// Catches questions about the pages of a cold file that take a share of its calls' time as if they told of
// something, and a file that has become warm and is not asked about any more.
func TestQuestionsInVainAreFew(t *testing.T) {
	var d demand
	defer costs.call.value.Store(costs.call.value.Swap(500)) // whatever calls cost here
	d.calls.Store(100_000)
	questions := func(told bool) (asked int) {
		for spent := int64(0); d.forQuestions(spent) > 0; asked++ {
			spent += d.priceQuestion(10*time.Microsecond, told)
		}
		return asked
	}
	cold, warm := questions(false), questions(true)
	if cold == 0 || warm < 16*cold {
		t.Errorf("%d questions that tell of nothing are asked, and %d that do", cold, warm)
	}
}

// openingPlain opens a file of so many pages of the operating system, read-only, of which pages can be asked about.
func openingPlain(t *testing.T, pages int) (mfs *MemMapFS, f *MappedFile) {
	t.Helper()
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	native := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(native, bytes.Repeat([]byte{1}, pages*int(pageBytes)), 0o600); err != nil {
		t.Fatal(err)
	}
	mfs = New(base, &Config{Mode: ModeReadOnly, SyncMode: SyncNever, MapFullFile: true})
	t.Cleanup(func() { mfs.Close() })
	file, err := mfs.Open(osfs.FromNative(native))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return mfs, file.(*MappedFile)
}

// Catches answers that tell of pages and are taken for answers in vain, or the other way round.
func TestAnswersInVain(t *testing.T) {
	skipWithoutMaps(t)
	if filtered() || !sysMapsAgreeWithIO {
		return // nothing is asked there
	}
	var told bool
	defer hook(&system.cachedPages, func(func(uintptr, int64, int64) (int64, error)) func(uintptr, int64, int64) (int64, error) {
		return func(_ uintptr, _, length int64) (int64, error) {
			if told {
				return length / pageBytes, nil
			}
			return 0, nil
		}
	})()
	_, f := openingPlain(t, 2)
	if err := f.View(0, 1, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	f.maps.demand.calls.Store(1 << 40) // whatever questions cost here
	for _, told = range []bool{false, false, true, false} {
		before := f.maps.demand.inVain.Load()
		f.maps.forget()
		mustReadAt(t, f, 0, 1)
		if inVain := f.maps.demand.inVain.Load(); told && inVain != 0 || !told && inVain != before+1 {
			t.Errorf("after an answer that told of pages: %t: %d in vain, before it %d", told, inVain, before)
		}
	}
}

// Catches long reads that go the slower way again and again to find that it is slower, and ones that stay on
// the way that was faster once.
func TestLongReadsFindTheFasterWay(t *testing.T) {
	var l longReads
	reads := func(viaMap, viaFile time.Duration) (throughMap, timed int) {
		for range 20_000 {
			byMap, isTimed := l.choose()
			if byMap {
				throughMap++
			}
			if isTimed {
				timed++
				l.note(byMap, timedRead, map[bool]time.Duration{true: viaMap, false: viaFile}[byMap])
			}
		}
		return throughMap, timed
	}
	const fast, slow = 1600 * time.Nanosecond, 3000 * time.Nanosecond
	if byMap, timed := reads(fast, slow); byMap < 19_900 || timed > 200 {
		t.Errorf("the map is faster: %d reads of 20,000 went through it, %d were timed", byMap, timed)
	}
	if byMap, _ := reads(slow, fast); byMap > 10_000 {
		t.Errorf("the file is faster by now: %d reads of 20,000 went through the map", byMap)
	}
	if byMap, _ := reads(slow, fast); byMap < 1000 || byMap > 1500 {
		t.Errorf("the file is faster: %d reads of 20,000 went through the map, want one in 16", byMap)
	}
	if byMap, _ := reads(fast, slow); byMap < 19_000 {
		t.Errorf("the map is faster again: %d reads of 20,000 went through it", byMap)
	}
}

// Catches a memory that is too small, in which one page after the other is lost and what is left is believed; a
// mute that a lost page now and then brings about; and one that does not grow when learning leads there again.
func TestPagesLostAgainAndAgain(t *testing.T) {
	var c ageClock
	now := time.Now()
	faults, proved := int64(0), true
	lose := func(pages int64, after time.Duration) (mute time.Duration) {
		now, faults = now.Add(after), faults+pages
		c.tick(now, func() (int64, error) { return faults, nil }, func() (bool, bool) { return true, proved })
		return c.muteEnds.Sub(now)
	}
	for range 100 {
		if mute := lose(1, time.Second); mute > 0 {
			t.Fatalf("a page a second: nothing is learnt for %v", mute)
		}
	}
	proved = false
	for range 100 {
		if mute := lose(1, alarmedTick); mute > 0 {
			t.Fatalf("a page each tick, which may be the program's own: nothing is learnt for %v", mute)
		}
	}
	proved = true
	for want := firstMute; want <= 4*firstMute; want *= 2 {
		now = now.Add(time.Second)
		mute := time.Duration(0)
		for range lossesToMute {
			mute = lose(1, alarmedTick)
		}
		if mute != want {
			t.Fatalf("a page each tick: nothing is learnt for %v, want %v", mute, want)
		}
		now = now.Add(mute)
	}
	if mute := lose(1, alarmedTick); mute != 8*firstMute {
		t.Fatalf("a page right after: nothing is learnt for %v, want %v", mute, 8*firstMute)
	}
	now, proved = now.Add(2*remembersMute), false
	if mute := lose(faultsToMute, alarmedTick); mute != firstMute {
		t.Fatalf("many pages at once, long after: nothing is learnt for %v, want %v", mute, firstMute)
	}
}

// Catches page faults that read megabytes around their page where memory is too small, and ones that read nothing
// around it where somebody reads through them on purpose, or who has given a hint about that.
func TestFaultsReadOnePageEach(t *testing.T) {
	if skipWithoutMaps(t); aboutReading == sysLastingKind(unsupportedAdvice) {
		t.Skip("this system has no hint about that")
	}
	advised := sysAdviseNormal
	defer hook(&system.advise, func(call func([]byte, int) error) func([]byte, int) error {
		return func(data []byte, advice int) error {
			if sysLastingKind(advice) == aboutReading {
				advised = advice
			}
			return call(data, advice)
		}
	})()
	var faults int64
	defer hook(&system.majorFaults, func(func() (int64, error)) func() (int64, error) {
		return func() (int64, error) { return faults, nil }
	})()
	defer hook(&system.cachedPages, func(func(uintptr, int64, int64) (int64, error)) func(uintptr, int64, int64) (int64, error) {
		return func(uintptr, int64, int64) (int64, error) { return 0, nil } // all are lost
	})()
	mfs, f, _ := opening(t, watched.New(), Config{SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDONLY)
	h := &mfs.handles
	m, err := f.maps.mapWindow(0)
	if err != nil {
		t.Fatal(err)
	}
	tick := func(lost int64, muteEnds time.Time) {
		if lost > 0 {
			m.resident.add(0, 1)
		}
		faults += lost
		h.mu.Lock()
		h.startAgeingLocked()
		h.ageing.Stop() // it ticks here only
		h.age.muteEnds = muteEnds
		h.mu.Unlock()
		h.tick()
		h.mu.Lock()
		h.ageing.Stop()
		h.mu.Unlock()
	}
	want := func(advice int, when string) {
		t.Helper()
		if advised != advice {
			t.Errorf("%s the hint is %d, want %d", when, advised, advice)
		}
	}
	shortage := func() {
		t.Helper()
		tick(0, time.Now().Add(time.Hour))
		want(sysAdviseRandom, "where memory is too small")
	}
	tick(0, time.Time{})
	want(sysAdviseNormal, "in peace")
	shortage()
	tick(0, time.Now().Add(-2*trialTime))
	want(sysAdviseNormal, "after it")

	shortage()
	if err := f.View(0, 1, func([]byte) error {
		want(sysAdviseNormal, "in a View")
		tick(0, time.Now().Add(time.Hour))
		want(sysAdviseNormal, "in a View, after a tick")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	shortage()
	if err := f.AdviseSequential(); err != nil {
		t.Fatal(err)
	}
	tick(0, time.Now().Add(time.Hour))
	want(sysAdviseSequential, "after AdviseSequential")
	tick(0, time.Now().Add(-2*trialTime))
	want(sysAdviseSequential, "after it and AdviseSequential")

	mfs, f, _ = opening(t, watched.New(), Config{SyncMode: SyncNever, MapFullFile: true}, 4, os.O_RDONLY)
	h = &mfs.handles
	if m, err = f.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}
	advised = sysAdviseNormal
	shortage()
	if f.Data() == nil {
		t.Fatal("no Data")
	}
	want(sysAdviseNormal, "after Data")
	tick(0, time.Now().Add(time.Hour))
	want(sysAdviseNormal, "after Data and a tick")
}

// Catches questions and maps while nothing is learnt, questions that many ask at once for the time of one, and the
// time of calls without questions that is spent on them all at once later.
func TestQuestionsWhereMemoryIsTooSmall(t *testing.T) {
	skipWithoutMaps(t)
	if filtered() || !sysMapsAgreeWithIO {
		return // nothing is asked there
	}
	asked, asks := 0, func() {}
	defer hook(&system.cachedPages, func(func(uintptr, int64, int64) (int64, error)) func(uintptr, int64, int64) (int64, error) {
		return func(uintptr, int64, int64) (int64, error) {
			asked++
			asks()
			return 0, nil
		}
	})()
	defer costs.call.value.Store(costs.call.value.Swap(500))
	mfs, f := openingPlain(t, 4*chunkPages)
	m, err := f.maps.mapWindow(0)
	if err != nil {
		t.Fatal(err)
	}
	const muchTime = 1 << 30 // calls
	f.maps.demand.calls.Store(muchTime)
	m.probeSpent.Store(0)
	read := func(chunk int) {
		m.forget()
		mustReadAt(t, f, int64(chunk*chunkPages)*pageBytes, 1)
	}
	wantAsked := func(want bool, when string) {
		t.Helper()
		if (asked > 0) != want {
			t.Errorf("%s %d questions are asked", when, asked)
		}
		asked = 0
	}
	asked = 0
	for _, mute := range []bool{true, false} {
		f.maps.host.mute.Store(mute)
		f.maps.host.trial.Store(true)
		read(0)
		wantAsked(false, "where memory is too small, or was just now,")
	}
	h := &mfs.handles
	h.mu.Lock()
	h.startAgeingLocked()
	h.ageing.Stop()
	h.mu.Unlock()
	h.tick() // finds that it is over
	h.stopAgeing()
	read(0)
	wantAsked(false, "without time for them")
	f.maps.demand.calls.Add(muchTime)
	asks = func() {
		asks = func() {}
		before := asked
		read(1)
		if asked > before {
			t.Error("somebody asks for the time that another one spends")
		}
	}
	m.probeCost.Store(muchTime * 500) // for one chunk
	f.maps.demand.calls.Add(2 * muchTime)
	read(0)
	wantAsked(true, "with time for them")

	f.maps.unmap()
	f.maps.demand.spent.Store(1 << 60)
	for _, mute := range []bool{true, false} {
		f.maps.host.mute.Store(mute)
		mustReadAt(t, f, 0, 1)
		if f.Mapped() == mute {
			t.Errorf("where memory is too small %t, a read has the file mapped: %t", mute, f.Mapped())
		}
	}
}

// Catches what costs are taken to be where four of five measurements have waited for a disk.
func TestCostsAmongWaits(t *testing.T) {
	var c movingCost
	for n := range 10_000 {
		took := time.Microsecond
		if n%5 > 0 {
			took = 100 * time.Microsecond
		}
		c.note(took)
	}
	if cost := time.Duration(c.load()); cost < time.Microsecond || cost > 2*time.Microsecond {
		t.Errorf("what takes a microsecond is taken to cost %v", cost)
	}
	for range 200 {
		c.note(100 * time.Microsecond)
	}
	if cost := time.Duration(c.load()); cost < 50*time.Microsecond {
		t.Errorf("what takes 100 µs is taken to cost %v", cost)
	}
}
