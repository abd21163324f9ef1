package memmapfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// injector lets one of the package's system calls fail, or all from one on.
type injector struct {
	mu       sync.Mutex // guards the fields below
	err      error
	failAt   int // the call that fails, counted from 0; -1: none
	onward   bool
	unmaps   bool // only the calls that give addresses back fail, and all of them
	calls    int
	injected []string              // the calls that failed
	mapped   map[uintptr]*interval // what is mapped now
}

// interval is what became of one map.
type interval struct {
	handedOut bool // by Data: kept, unreadable, after its end
	revoked   bool
}

// before fails the calls. Those that give addresses back are not counted: they are made at any time.
func (in *injector) before(name string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	fail := in.unmaps && name == "unmap"
	if name != "unmap" && !(name == "revoke" && testkit.MapsHoldFiles) { // a file stays mapped then, and is not truncated
		fail = in.failAt >= 0 && !in.unmaps && (in.calls == in.failAt || in.onward && in.calls > in.failAt)
		in.calls++
	}
	if !fail {
		return nil
	}
	in.injected = append(in.injected, name)
	return in.err
}

func (in *injector) done(name string, data []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	address := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	switch name {
	case "mapFile":
		in.mapped[address] = new(interval)
	case "revoke":
		if interval := in.mapped[address]; interval != nil {
			interval.revoked = true
		}
	case "unmap":
		delete(in.mapped, address)
	}
}

// arm starts a run.
func (in *injector) arm(failAt int, onward bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.failAt, in.onward, in.err = failAt, onward, err
	in.calls, in.injected = 0, nil
}

// disarm ends it, and returns the calls that failed.
func (in *injector) disarm() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.failAt = -1
	return in.injected
}

// handedOut takes note of bytes that Data has returned.
func (in *injector) handedOut(data []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mapped[uintptr(unsafe.Pointer(unsafe.SliceData(data)))].handedOut = true
}

// notGivenBack counts the maps that are still there, but for those that Data has handed out, which stay
// unreadable for long.
func (in *injector) notGivenBack() (count int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, interval := range in.mapped {
		if !interval.revoked || !interval.handedOut {
			count++
		}
	}
	return count
}

// letOff forgets the maps that Data has handed out and that nothing could take away.
func (in *injector) letOff() {
	in.mu.Lock()
	defer in.mu.Unlock()
	maps.DeleteFunc(in.mapped, func(_ uintptr, interval *interval) bool { return interval.handedOut && !interval.revoked })
}

// TestSystemCallsFail lets the first system call fail, then the second, and so on until there is none
// left, in a fixed scenario of all operations. It catches every place that takes a call's success for
// granted: a wrong byte, an error where the file could have given the result, an error that is no
// *fs.PathError or hides its reason, a call that works no more after the failure, and a map or
// descriptor that is left behind.
func TestSystemCallsFail(t *testing.T) {
	small := func(mappingMode memmapfs.MappingMode) *memmapfs.Config {
		config := testkit.Windowed(mappingMode, testkit.PageSize)
		config.MaxWindows = 3
		return config
	}
	hinted := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)
	hinted.Preload, hinted.UseHugePages, hinted.PopulatePages, hinted.MapSync = true, true, true, true
	for _, test := range []struct {
		name   string
		config *memmapfs.Config
	}{
		{"read-only", memmapfs.DefaultConfig()},
		{"read-write sync immediate", testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate)},
		{"read-write sync lazy", testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncLazy)},
		{"copy-on-write", testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)},
		{"read-only windows", small(memmapfs.ModeReadOnly)},
		{"read-write windows", small(memmapfs.ModeReadWrite)},
		{"copy-on-write windows", small(memmapfs.ModeCopyOnWrite)},
		{"read-write with hints", hinted},
	} {
		t.Run(test.name, func(t *testing.T) {
			testkit.InChild(t, func(t *testing.T) { testSystemCallsFail(t, test.config) })
		})
	}
}

func testSystemCallsFail(t *testing.T, config *memmapfs.Config) {
	in := &injector{failAt: -1, mapped: make(map[uintptr]*interval)}
	memmapfs.InterceptSystemCalls(in.before, in.done)
	dir := t.TempDir() // every run looks for what it has left behind
	runs, failures := 0, 0
	names := make(map[string]int)
	run := func(failAt int, onward bool, err error) (failed []string) {
		in.arm(failAt, onward, err)
		s := &failureScenario{t: t, in: in, dir: dir, config: config, run: runs}
		s.what = fmt.Sprintf("call %d fails with %v", failAt, err)
		if onward {
			s.what = fmt.Sprintf("call %d and all later ones fail with %v", failAt, err)
		}
		s.play()
		failed = in.disarm()
		s.checkLeaks(failed, onward)
		runs++
		failures += len(failed)
		for _, name := range failed {
			names[name]++
		}
		return failed
	}

	// The scenario itself is right, and makes calls of every kind that the mode has.
	if failed := run(-1, false, nil); len(failed) > 0 || t.Failed() {
		t.Fatal("the scenario fails by itself")
	}
	for _, round := range []struct {
		err    error
		onward bool
	}{
		{syscall.ENOMEM, false}, {syscall.ENOMEM, true}, // a shortage, which may pass
		{syscall.EIO, false}, {syscall.EINVAL, true}, // a refusal
	} {
		for failAt := 0; ; failAt++ {
			if skipped := failAt > 5 && failAt%7 != 0; skipped && (testing.Short() || testkit.RaceDetector) || failAt%5 != 0 && round.onward {
				continue
			}
			if len(run(failAt, round.onward, round.err)) == 0 {
				break
			}
			if t.Failed() {
				return // what was left behind now would be found again and again
			}
		}
	}

	// Addresses that cannot be given back are lost, and nothing else is. On Windows the file could not
	// be removed either.
	if !testkit.MapsHoldFiles {
		in.mu.Lock()
		in.unmaps, in.err = true, syscall.ENOMEM
		in.mu.Unlock()
		s := &failureScenario{t: t, in: in, dir: dir, config: config, run: runs, what: "no unmapping"}
		s.play()
		for range 3 {
			runtime.GC()
		}
		failures += len(in.disarm())
	}
	var kinds []string
	for name, count := range names {
		kinds = append(kinds, fmt.Sprintf("%d %s", count, name))
	}
	slices.Sort(kinds)
	testkit.Report(t, "%d runs, %d failed system calls survived: %s", runs, failures, strings.Join(kinds, ", "))
}

// failureScenario is every operation once, with the content that it has to show.
type failureScenario struct {
	t      *testing.T
	in     *injector
	dir    string
	config *memmapfs.Config
	run    int
	what   string // which calls fail

	name string
	file *memmapfs.MappedFile
	want []byte // what the file shows through file
}

func (s *failureScenario) fail(format string, args ...any) {
	s.t.Helper()
	s.in.mu.Lock()
	failed := slices.Clone(s.in.injected)
	s.in.mu.Unlock()
	s.t.Errorf("%s, so far %v: %s", s.what, failed, fmt.Sprintf(format, args...))
}

// must is for what the file can do without a map, whatever fails.
func (s *failureScenario) must(call string, err error) {
	s.t.Helper()
	if err != nil {
		s.fail("%s: %v", call, err)
	}
}

// may is for what needs the call that fails. It reports whether it went well all the same.
func (s *failureScenario) may(call string, err error) bool {
	s.t.Helper()
	if err == nil {
		return true
	}
	var path *fs.PathError
	if !errors.As(err, &path) {
		s.fail("%s: %T %v, want a *fs.PathError", call, err, err)
	}
	s.in.mu.Lock()
	failed := len(s.in.injected)
	s.in.mu.Unlock()
	if failed == 0 {
		s.fail("%s, with no call that failed: %v", call, err)
	}
	if !errors.Is(err, s.in.err) && !errors.Is(err, memmapfs.ErrNotMapped) {
		s.fail("%s: %v, want %v or ErrNotMapped", call, err, s.in.err)
	}
	return false
}

func (s *failureScenario) private() bool { return s.config.Mode == memmapfs.ModeCopyOnWrite }

// write is a WriteAt, of which the bytes count that it says to have written. Only a flush may fail.
func (s *failureScenario) write(text string, off int64) {
	s.t.Helper()
	n, err := s.file.WriteAt([]byte(text), off)
	s.wrote("WriteAt", text, off, n, err)
}

func (s *failureScenario) wrote(call, text string, off int64, n int, err error) {
	s.t.Helper()
	if s.config.SyncMode == memmapfs.SyncImmediate {
		s.may(call, err)
	} else {
		s.must(call, err)
	}
	if n != len(text) {
		s.fail("%s at %d: %d bytes of %d", call, off, n, len(text))
	}
	if missing := off + int64(n) - int64(len(s.want)); missing > 0 {
		s.want = append(s.want, make([]byte, missing)...)
	}
	copy(s.want[off:], text[:n])
}

// read compares a range.
func (s *failureScenario) read(off int64, n int) {
	s.t.Helper()
	p := make([]byte, n)
	read, err := s.file.ReadAt(p, off)
	want := s.want[min(off, int64(len(s.want))):min(off+int64(n), int64(len(s.want)))]
	if err == io.EOF && len(want) < n {
		err = nil
	}
	s.must("ReadAt", err)
	if diff := testkit.FirstDifference(p[:read], want); diff != "" {
		s.fail("ReadAt at %d: %s", off, diff)
	}
}

// readAll compares the whole content, in pieces that cross pages and windows, and by WriteTo.
func (s *failureScenario) readAll() {
	s.t.Helper()
	for off := int64(0); off < int64(len(s.want)); off += testkit.PageSize {
		s.read(off, int(testkit.PageSize)+8)
	}
	_, err := s.file.Seek(0, io.SeekStart)
	s.must("Seek", err)
	var copied bytes.Buffer
	_, err = s.file.WriteTo(&copied)
	s.must("WriteTo", err)
	if diff := testkit.FirstDifference(copied.Bytes(), s.want); diff != "" {
		s.fail("WriteTo: %s", diff)
	}
}

// view compares a range in a View, and stores where that reaches the handle's content.
func (s *failureScenario) view(off, n int64) {
	s.t.Helper()
	stores := s.config.Mode == memmapfs.ModeReadWrite || s.private() && s.config.MapFullFile
	called := false
	err := s.file.View(off, n, func(b []byte) error {
		called = true
		if diff := testkit.FirstDifference(b, s.want[off:off+n]); diff != "" {
			s.fail("View at %d: %s", off, diff)
		}
		if stores {
			copy(b, "view")
			copy(s.want[off:], "view")
		}
		return nil
	})
	if ok := s.may("View", err); ok != called {
		s.fail("View calls the function: %v, and gives %v", called, err)
	}
}

// data compares what Data has, and stores.
func (s *failureScenario) data() {
	s.t.Helper()
	pos := 2 * testkit.PageSize
	_, err := s.file.Seek(pos, io.SeekStart)
	s.must("Seek", err)
	data := s.file.Data()
	if data == nil {
		return
	}
	s.in.handedOut(data)
	start := int64(0)
	if len(data) < len(s.want) {
		start = pos // the window that holds it is one page
	}
	if diff := testkit.FirstDifference(data, s.want[start:start+int64(len(data))]); diff != "" {
		s.fail("Data: %s", diff)
	}
	if s.config.Mode == memmapfs.ModeReadWrite || s.private() {
		s.store(data, "data")
		copy(s.want[start:], "data")
	}
}

// holed reports whether a hole is there although PunchHole gave an error: that of the flush after it.
func (s *failureScenario) holed() bool {
	p := make([]byte, 100)
	_, err := s.file.ReadAt(p, 7*testkit.PageSize+10)
	s.must("ReadAt", err)
	return s.config.SyncMode == memmapfs.SyncImmediate && bytes.Equal(p, make([]byte, 100))
}

// store stores text in bytes that must be there to be stored to.
func (s *failureScenario) store(data []byte, text string) {
	s.t.Helper()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if fault := testkit.Recovered(func() { copy(data, text) }); fault != nil {
		s.fail("a store into Data: %v", fault)
	}
}

func (s *failureScenario) play() {
	t := s.t
	original := testkit.PatternFrom(0, int(9*testkit.PageSize)+100)
	s.want = slices.Clone(original)
	s.name = testkit.WriteFile(t, s.dir, fmt.Sprintf("run %d", s.run), original)
	defer os.Remove(osfs.ToNative(s.name))
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), s.config)
	opened, err := fileSystem.OpenFile(s.name, os.O_RDWR, 0)
	if err != nil {
		s.fail("OpenFile: %v", err)
		return
	}
	s.file = opened.(*memmapfs.MappedFile)
	reader, err := fileSystem.Open(s.name)
	if err != nil {
		s.fail("Open: %v", err)
		return
	}

	// Reads until a map pays, and over every window.
	for i := range int64(25) {
		s.read(i*100, 8)
	}
	s.readAll()
	buffer := make([]byte, 10)
	_, err = io.ReadFull(reader, buffer)
	s.must("Read of another handle", err)
	if diff := testkit.FirstDifference(buffer, original[:10]); diff != "" {
		s.fail("Read of another handle: %s", diff)
	}

	// Writes: the first touch of a page, hot ones, over the edge of a page, at the position.
	for _, off := range []int64{0, 0, 5, testkit.PageSize - 3, testkit.PageSize - 3, 3*testkit.PageSize + 7, 3*testkit.PageSize + 7} {
		s.write(fmt.Sprintf("write at %d", off), off)
		s.read(off, 20)
	}
	_, err = s.file.Seek(4*testkit.PageSize, io.SeekStart)
	s.must("Seek", err)
	n, err := s.file.WriteString("at the position")
	s.wrote("WriteString", "at the position", 4*testkit.PageSize, n, err)
	copied, err := s.file.ReadFrom(strings.NewReader("from a reader"))
	s.wrote("ReadFrom", "from a reader", 4*testkit.PageSize+int64(n), int(copied), err)

	// Bytes of the map.
	s.view(6*testkit.PageSize, 100)
	s.view(6*testkit.PageSize-10, 3*testkit.PageSize)
	s.data()
	s.may("Sync", s.file.Sync())
	s.may("SyncRange", s.file.SyncRange(testkit.PageSize-3, 2*testkit.PageSize))
	s.readAll()
	for _, advise := range []func() error{
		s.file.AdviseSequential, s.file.AdviseRandom, s.file.AdviseWillNeed, s.file.AdviseDontNeed,
		s.file.AdviseFree, s.file.AdviseRemove,
	} {
		if err := advise(); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, memmapfs.ErrNotMapped) {
			s.may("a hint", err)
		}
		s.read(0, 30)
	}
	s.must("Prefetch", s.file.Prefetch(100, 4*testkit.PageSize))
	if err := s.file.LockMemory(testkit.PageSize, 2*testkit.PageSize); !errors.Is(err, memmapfs.ErrNotMapped) {
		s.may("LockMemory", err)
	}
	s.readAll()
	s.may("UnlockMemory", s.file.UnlockMemory(testkit.PageSize, 2*testkit.PageSize))
	if resident, total, _, err := s.file.Residency(0, 2*testkit.PageSize); !errors.Is(err, errors.ErrUnsupported) {
		if s.may("Residency", err) && resident > total {
			s.fail("Residency: %d of %d", resident, total)
		}
	}
	if !s.private() {
		err := s.file.PunchHole(7*testkit.PageSize+10, 100)
		if !errors.Is(err, errors.ErrUnsupported) && (s.may("PunchHole", err) || s.holed()) {
			clear(s.want[7*testkit.PageSize+10 : 7*testkit.PageSize+110])
		}
		s.readAll()
	}
	s.must("RemapAfterTruncation", s.file.RemapAfterTruncation())
	s.readAll()
	s.view(testkit.PageSize, 50)
	s.data()

	// Other sizes.
	if !s.private() {
		for _, size := range []int64{5*testkit.PageSize + 9, 12 * testkit.PageSize} {
			err := s.file.Truncate(size)
			if s.config.SyncMode == memmapfs.SyncImmediate {
				s.may("Truncate", err)
			} else {
				s.must("Truncate", err)
			}
			s.want = append(s.want[:min(int64(len(s.want)), size)], make([]byte, max(0, size-int64(len(s.want))))...)
			s.readAll()
			s.view(testkit.PageSize, 50)
		}
		s.must("Truncate by name", fileSystem.Truncate(s.name, 11*testkit.PageSize))
		s.want = s.want[:11*testkit.PageSize]
		s.write("growth", int64(len(s.want))+50)
		s.write("growth again", int64(len(s.want))-3)
		s.readAll()
	}

	// Once a call fails for want of memory, and then no more, the file can be mapped.
	if s.in.err == syscall.ENOMEM && !s.in.onward && !s.in.unmaps {
		_, err := s.file.Seek(0, io.SeekStart)
		s.must("Seek", err)
		if data := s.file.Data(); data != nil {
			s.in.handedOut(data)
		} else if data = s.file.Data(); data != nil {
			s.in.handedOut(data)
		} else {
			s.fail("the file can no longer be mapped")
		}
	}
	s.data()
	s.may("Close", s.file.Close())
	if _, err := s.file.ReadAt(buffer, 0); !errors.Is(err, fs.ErrClosed) {
		s.fail("ReadAt after Close: %v", err)
	}
	s.must("Close of another handle", reader.Close())
	s.must("Close of the filesystem", fileSystem.Close())
	want := s.want
	if s.private() {
		want = original
	}
	if diff := testkit.FirstDifference(testkit.ReadNative(t, s.name), want); diff != "" {
		s.fail("the file in the end: %s", diff)
	}
	s.share()
}

// share is the life of a shared memory.
func (s *failureScenario) share() {
	path := filepath.Join(s.dir, fmt.Sprintf("shared %d", s.run))
	defer os.Remove(path)
	shared, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: path, Size: 2 * testkit.PageSize, Mode: s.config.Mode, SyncMode: s.config.SyncMode,
	})
	if !s.may("CreateSharedMemory", err) {
		return
	}
	s.in.handedOut(shared.Data())
	s.store(shared.Data(), "shared")
	if s.may("Lock of a shared memory", shared.Lock()) {
		s.may("Unlock of a shared memory", shared.Unlock())
	}
	s.may("Sync of a shared memory", shared.Sync())
	s.may("Close of a shared memory", shared.Close())
	content, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if !s.private() && !bytes.HasPrefix(content, []byte("shared")) {
		s.fail("the shared memory's file begins with %q", content[:10])
	}
	s.must("Remove", shared.Remove())
}

// checkLeaks fails the test if anything of this run is left mapped or open. When the calls go on failing,
// those fail too that take a map away which Data has handed out, and such a map is let off.
func (s *failureScenario) checkLeaks(failed []string, onward bool) {
	s.t.Helper()
	s.file = nil
	if onward && slices.Contains(failed, "revoke") {
		s.in.letOff()
		return
	}
	var left []string
	clean := testkit.Eventually(func() bool {
		left = nil
		for _, found := range append(testkit.MappedUnder(s.t, s.dir), testkit.OpenUnder(s.t, s.dir)...) {
			if strings.Contains(found+" ", fmt.Sprintf(" %d ", s.run)) { // the end of the file's name
				left = append(left, found)
			}
		}
		if count := s.in.notGivenBack(); count > 0 {
			left = append(left, fmt.Sprintf("%d maps not given back", count))
		}
		return len(left) == 0
	})
	if !clean {
		s.t.Errorf("%s, %v failed, left behind:\n%s", s.what, failed, strings.Join(left, "\n"))
	}
}
