package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
)

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
