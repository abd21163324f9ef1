package memmapfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// A fault that is not caught ends the process, so every test here runs its body in a process of its own:
// this test binary again, told by an environment variable which test it is to be.
const (
	childVariable     = "MEMMAPFS_TEST_CHILD"     // the name of the test to run
	truncatorVariable = "MEMMAPFS_TEST_TRUNCATOR" // the file to truncate, over and over
)

func TestMain(m *testing.M) {
	if name := os.Getenv(truncatorVariable); name != "" {
		truncateOverAndOver(name)
		return
	}
	os.Exit(m.Run())
}

// reportMark starts the lines of a child that its parent shows.
const reportMark = "child: "

// report shows, in the parent's output too, how many faults were injected and survived.
func report(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf(reportMark+format, args...)
}

// inChild runs scenario in a child process, and fails the test unless that ends well and has reported
// what it survived.
func inChild(t *testing.T, scenario func(t *testing.T), configure ...func(*exec.Cmd)) {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		scenario(t)
		return
	}
	if !mappable() {
		t.Skip("files are not mapped on this system, so nothing in them can fault")
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var pattern []string
	for _, element := range strings.Split(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(element)+"$")
	}
	child := exec.Command(executable, "-test.run="+strings.Join(pattern, "/"), "-test.v", "-test.count=1",
		"-test.timeout=2m", fmt.Sprintf("-test.short=%v", testing.Short()))
	child.Env = append(os.Environ(), childVariable+"="+t.Name(),
		"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // the race detector would wait a second in each child
	for _, configure := range configure {
		configure(child)
	}
	output, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("the child process: %v\n%s", err, output)
	}
	if _, reason, skipped := strings.Cut(string(output), skipMark); skipped {
		t.Skip(strings.Split(reason, "\n")[0])
	}
	reported := 0
	for line := range strings.Lines(string(output)) {
		if _, text, found := strings.Cut(line, reportMark); found {
			t.Log(strings.TrimSpace(text))
			reported++
		}
	}
	if reported == 0 {
		t.Fatalf("the child process reported nothing:\n%s", output)
	}
}

// workers are goroutines that a test waits for.
type workers struct{ sync.WaitGroup }

func (w *workers) start(work func()) {
	w.Add(1)
	go func() {
		defer w.Done()
		work()
	}()
}

// skipMark starts the line with which a child tells its parent why it cannot run.
const skipMark = "cannot run here: "

// patternAt is the byte that the files of these tests have at an offset: never zero, so that it differs
// from a hole, and repeating at no page or window size.
func patternAt(off int64) byte { return byte(off%251) + 1 }

// patternFrom returns the n bytes of the pattern from off on.
func patternFrom(off int64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = patternAt(off + int64(i))
	}
	return p
}

// notPattern returns the index of the first byte of p, which was read at off, that is not the pattern's.
// From the offset holesFrom on zeros are allowed. It returns -1 if there is none.
func notPattern(p []byte, off, holesFrom int64) int {
	for i, b := range p {
		if at := off + int64(i); b != patternAt(at) && (b != 0 || at < holesFrom) {
			return i
		}
	}
	return -1
}

// countFaults has the handler count the faults caught in files, from now on and for good: callbacks
// cannot be taken out again. It fails the test for a callback that breaks the contract.
func countFaults(t *testing.T, files ...*memmapfs.MappedFile) *atomic.Int64 {
	t.Helper()
	faults := new(atomic.Int64)
	handler := memmapfs.GetSIGBUSHandler()
	registered := make(map[*memmapfs.MappedFile]bool)
	for _, file := range files {
		handler.Register(file)
		registered[file] = true
	}
	handler.OnSIGBUS(func(file *memmapfs.MappedFile, err error) {
		if !registered[file] {
			return
		}
		faults.Add(1)
		var path *fs.PathError
		if !errors.Is(err, memmapfs.ErrSIGBUS) || !errors.As(err, &path) || path.Path != file.Name() {
			t.Errorf("callback with %T %v, want a *fs.PathError for %s that wraps ErrSIGBUS", err, err, file.Name())
		}
	})
	handler.Enable()
	return faults
}

// faultsWhenRead reports whether a load of the first byte of b faults, which only a child process may
// find out.
func faultsWhenRead(b []byte) (faulted bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recovered := recover(); recovered != nil {
			faulted = true
		}
	}()
	loaded.Store(uint32(b[0]))
	return false
}

// loaded keeps loads of mapped bytes from being optimized away.
var loaded atomic.Uint32

// Sizes of the file that the truncator works on. It never touches the stable part, where every call has
// to give complete and right results throughout.
var (
	stormSize  = 64 * pageSize
	stableSize = 8 * pageSize
)

// truncateOverAndOver is the main function of the process that shrinks and regrows a file until its
// standard input ends. It leaves the file at its full size with the pattern all over, and prints how
// often it has shrunk it.
func truncateOverAndOver(name string) {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "truncator:", err)
			os.Exit(1)
		}
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	must(err)
	var stopped atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stopped.Store(true)
	}()
	pattern := patternFrom(0, int(stormSize))
	truncations := 0
	for ; !stopped.Load(); truncations++ {
		size := stableSize + rand.Int64N(stormSize-stableSize)
		if rand.IntN(2) == 0 {
			size -= size % pageSize
		}
		must(file.Truncate(size))
		time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
		must(file.Truncate(stormSize))
		if rand.IntN(4) > 0 {
			_, err := file.WriteAt(pattern[size:], size)
			must(err)
		}
	}
	_, err = file.WriteAt(pattern, 0)
	must(err)
	fmt.Println(truncations)
}

// startTruncator starts the truncator. The function returned ends it and returns how often it has
// shrunk the file.
func startTruncator(t *testing.T, name string) (stop func() int) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(executable)
	process.Env = append(os.Environ(), truncatorVariable+"="+name)
	process.Stderr = os.Stderr
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	return func() int {
		t.Helper()
		input.Close()
		printed, readErr := io.ReadAll(output)
		if err := process.Wait(); err != nil {
			t.Fatal("the truncator:", err)
		}
		truncations, err := strconv.Atoi(strings.TrimSpace(string(printed)))
		if err != nil {
			t.Fatal(readErr, err)
		}
		return truncations
	}
}

// TestTruncatedByOthers catches a crash, a stall, and every result that a plain file could not give while
// another process shrinks and regrows it. The plain row shows that the checks hold for plain files.
func TestTruncatedByOthers(t *testing.T) {
	rows := map[string]bool{
		"plain": true, "read-only": true, "read-write": true, "copy-on-write": true,
		"read-only windows of 64 KiB": true, "read-write windows of 10000 bytes": true,
		"copy-on-write windows of one page": true,
		"read-write sync immediate":         true, "read-write sync periodic": true,
	}
	eachMode(t, func(t *testing.T, m mode) {
		inChild(t, func(t *testing.T) { newStorm(t, m).run() })
	}, func(m mode) bool { return rows[m.name] })
}

// storm is eight goroutines that use a file which another process truncates.
type storm struct {
	t       *testing.T
	m       mode
	native  string
	file    absfs.File // used by seven of them, one of which has the position
	copied  absfs.File // used by WriteTo
	stopped atomic.Bool
	calls   atomic.Int64
	views   atomic.Int64 // that ended in a fault
	faults  *atomic.Int64
}

func newStorm(t *testing.T, m mode) *storm {
	dir := testDir(t)
	writeFile(t, dir, "file", patternFrom(0, int(stormSize)))
	s := &storm{t: t, m: m, native: filepath.Join(dir, "file"), faults: new(atomic.Int64)}
	fileSystem := m.overOS(t)
	s.file = mustOpen(t, fileSystem, osfs.FromNative(s.native), os.O_RDWR)
	s.copied = mustOpen(t, fileSystem, osfs.FromNative(s.native), os.O_RDONLY)
	if !m.plain() {
		s.faults = countFaults(t, asMapped(t, s.file), asMapped(t, s.copied))
	}
	return s
}

func (s *storm) run() {
	stop := startTruncator(s.t, s.native)
	work := []func(){s.readAt, s.readAt, s.read, s.writeAt, s.writeAt, s.sync, s.view, s.writeTo}
	if s.m.plain() {
		work[6] = s.readAt
	}
	var goroutines workers
	for _, call := range work {
		goroutines.start(func() {
			for !s.stopped.Load() && !s.t.Failed() {
				call()
				s.calls.Add(1)
			}
		})
	}
	duration := time.Second
	if testing.Short() {
		duration = 300 * time.Millisecond
	}
	time.Sleep(duration)
	s.stopped.Store(true)
	mustFinish(s.t, "a call on a truncated file", goroutines.Wait)
	truncations := stop()
	report(s.t, "%d truncations by another process; %d calls, %d faults caught, %d of them in View",
		truncations, s.calls.Load(), s.faults.Load(), s.views.Load())
	if !s.m.plain() && s.faults.Load() == 0 {
		s.t.Error("no call met a fault: the test tests nothing")
	}
	s.checkAgreement()
	s.file.Close()
	s.copied.Close()
}

// somewhere returns a random range of the file.
func (s *storm) somewhere() (off int64, n int) {
	n = 1 + rand.IntN(int(3*pageSize))
	if rand.IntN(2) == 0 {
		n = 8
	}
	return rand.Int64N(stormSize - int64(n)), n
}

// checkBytes fails the test if p, read at off, has bytes that were never in the file.
func (s *storm) checkBytes(what string, p []byte, off int64) {
	if i := notPattern(p, off, stableSize); i >= 0 {
		s.t.Errorf("%s: byte %d is %#x, want %#x, or 0 from %d on", what, off+int64(i), p[i], patternAt(off+int64(i)), stableSize)
	}
}

// checkRead fails the test unless a plain file could have answered so to a read of len(p) bytes at off.
func (s *storm) checkRead(what string, p []byte, off int64, n int, err error) {
	switch {
	case n < 0 || n > len(p):
		s.t.Errorf("%s of %d bytes at %d: %d bytes", what, len(p), off, n)
		return
	case n == len(p) && err != nil, n < len(p) && err != io.EOF:
		s.t.Errorf("%s of %d bytes at %d: %d bytes and error %v", what, len(p), off, n, err)
	case n < len(p) && off+int64(n) < stableSize:
		s.t.Errorf("%s of %d bytes at %d ends after %d, before offset %d that the file always reaches", what, len(p), off, n, stableSize)
	}
	s.checkBytes(what, p[:n], off)
}

func (s *storm) readAt() {
	off, n := s.somewhere()
	p := make([]byte, n)
	n, err := s.file.ReadAt(p, off)
	s.checkRead("ReadAt", p, off, n, err)
}

// read reads from the start until the end that the file happens to have.
func (s *storm) read() {
	if pos, err := s.file.Seek(0, io.SeekStart); pos != 0 || err != nil {
		s.t.Errorf("Seek to the start: %d, %v", pos, err)
	}
	p := make([]byte, 1000+rand.IntN(20_000))
	for off := int64(0); ; {
		n, err := s.file.Read(p)
		if err == io.EOF && n == 0 {
			s.checkRead("Read", p, off, 0, err)
			return
		}
		if err != nil || n == 0 {
			s.t.Errorf("Read at %d: %d bytes and error %v", off, n, err)
			return
		}
		if n < len(p) {
			err = io.EOF // a short count
		}
		s.checkRead("Read", p, off, n, err)
		off += int64(n)
	}
}

func (s *storm) writeAt() {
	off, n := s.somewhere()
	p := patternFrom(off, n)
	n, err := s.file.WriteAt(p, off)
	if s.m.copyOnWrite() && errors.Is(err, errors.ErrUnsupported) && off+int64(len(p)) > stableSize && n < len(p) {
		return // it would have grown the file at that moment
	}
	if n != len(p) || err != nil {
		s.t.Errorf("WriteAt of %d bytes at %d: %d bytes and error %v", len(p), off, n, err)
	}
}

func (s *storm) sync() {
	if err := s.file.Sync(); err != nil {
		s.t.Error("Sync:", err)
	}
	if mapped, ok := s.file.(*memmapfs.MappedFile); ok {
		off, n := s.somewhere()
		if err := mapped.SyncRange(off, int64(n)); err != nil {
			s.t.Error("SyncRange:", err)
		}
	}
	time.Sleep(time.Millisecond) // the disk is not what is tested
}

// view loads, and where the map reaches the file stores too.
func (s *storm) view() {
	off, n := s.somewhere()
	mapped := s.file.(*memmapfs.MappedFile)
	own := errors.New("the caller's own")
	err := mapped.View(off, int64(n), func(b []byte) error {
		if len(b) != n || cap(b) != n {
			s.t.Errorf("View of %d bytes gives %d, capacity %d", n, len(b), cap(b))
		}
		if s.m.readWrite() && rand.IntN(2) == 0 {
			for i := range b {
				b[i] = patternAt(off + int64(i))
			}
		}
		s.checkBytes("View", b, off)
		return own
	})
	var path *fs.PathError
	switch {
	case err == own:
	case off+int64(n) <= stableSize:
		s.t.Errorf("View of %d bytes at %d, which the file always has: %v", n, off, err)
	case err == io.EOF:
	case errors.Is(err, memmapfs.ErrSIGBUS) && errors.As(err, &path):
		s.views.Add(1)
	default:
		s.t.Errorf("View of %d bytes at %d: %T %v", n, off, err, err)
	}
}

func (s *storm) writeTo() {
	if _, err := s.copied.Seek(0, io.SeekStart); err != nil {
		s.t.Error("Seek:", err)
	}
	w := &patternWriter{check: func(p []byte, off int64) { s.checkBytes("WriteTo", p, off) }}
	n, err := io.Copy(w, s.copied)
	if n != w.off || err != nil || n < stableSize {
		s.t.Errorf("WriteTo: %d bytes and error %v, %d written, want all and at least %d", n, err, w.off, stableSize)
	}
}

// patternWriter takes the bytes of a file from its start on.
type patternWriter struct {
	off   int64
	check func(p []byte, off int64)
}

func (w *patternWriter) Write(p []byte) (int, error) {
	w.check(p, w.off)
	w.off += int64(len(p))
	return len(p), nil
}

// checkAgreement compares, after the truncator has gone, all ways to read the file with the file.
func (s *storm) checkAgreement() {
	t := s.t
	check := func(what string, got, want []byte) {
		t.Helper()
		if s.m.copyOnWrite() { // private pages hold what the file held when they were written to
			if i := notPattern(got, 0, stableSize); len(got) != len(want) || i >= 0 {
				t.Errorf("%s: %d bytes, want %d; byte %d is wrong", what, len(got), len(want), i)
			}
			return
		}
		mustEqual(t, what, got, want)
	}
	want := readNative(t, osfs.FromNative(s.native))
	mustEqual(t, "the file after the storm", want, patternFrom(0, int(stormSize)))
	got := make([]byte, stormSize+1)
	for range 3 { // through the file, and through the map that the reads may bring
		n, err := s.file.ReadAt(got, 0)
		if err != io.EOF {
			t.Error("ReadAt to the end:", err)
		}
		check("ReadAt after the storm", got[:n], want)
	}
	if mapped, ok := s.file.(*memmapfs.MappedFile); ok {
		err := mapped.View(0, stormSize, func(b []byte) error {
			check("View after the storm", b, want)
			return nil
		})
		if err != nil {
			t.Error("View after the storm:", err)
		}
		if _, err := mapped.Seek(0, io.SeekStart); err != nil {
			t.Error(err)
		}
		if data := mapped.Data(); data == nil {
			t.Error("no Data after the storm")
		} else {
			check("Data after the storm", data, want[:len(data)])
		}
	}

	// Once more, and to stay: what lies behind the end is gone for every call.
	end := stableSize + pageSize
	if err := os.Truncate(s.native, end); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n, err := s.file.ReadAt(got[:2*pageSize], end-pageSize)
		if n != int(pageSize) || err != io.EOF {
			t.Errorf("ReadAt over the end: %d bytes and error %v", n, err)
		}
		if n, err := s.file.ReadAt(got[:1], end+pageSize); n != 0 || err != io.EOF {
			t.Errorf("ReadAt behind the end: %d bytes and error %v", n, err)
		}
	}
}

// TestCopyToPipeWhileTruncated catches a crash, a hang or invented bytes when the mapped file is the
// source of write(2): in io.Copy, and with the bytes of a View, where the system call meets the fault.
func TestCopyToPipeWhileTruncated(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		name := writeFile(t, dir, "file", patternFrom(0, int(stormSize)))
		file := mustOpenMapped(t, memmapfs.New(plainFileSystem(t), nil), name, os.O_RDONLY)
		defer file.Close()
		faults := countFaults(t, file)
		stop := startTruncator(t, osfs.ToNative(name))
		check := func(p []byte, off int64) {
			if i := notPattern(p, off, stableSize); i >= 0 {
				t.Errorf("byte %d is %#x", off+int64(i), p[i])
			}
		}
		copies, writes, refused := 0, 0, 0
		duration := time.Second
		if testing.Short() {
			duration = 200 * time.Millisecond
		}
		for deadline := time.Now().Add(duration); time.Now().Before(deadline) && !t.Failed(); {
			// The source is the file.
			reached := throughPipe(t, check, func(w *os.File) error {
				if _, err := file.Seek(0, io.SeekStart); err != nil {
					return err
				}
				_, err := io.Copy(w, file)
				return err
			})
			copies++
			if reached < stableSize {
				t.Errorf("io.Copy ends at %d, before offset %d that the file always reaches", reached, stableSize)
			}
			// The source is the map. As the kernel copies, it does not say more than what os.File makes of it.
			throughPipe(t, check, func(w *os.File) error {
				err := file.View(0, stormSize, func(b []byte) error {
					_, err := w.Write(b)
					return err
				})
				writes++
				if errors.Is(err, syscall.EFAULT) {
					refused++
				} else if err != nil && err != io.EOF {
					return err
				}
				return nil
			})
		}
		truncations := stop()
		report(t, "%d truncations; %d copies with %d faults caught; %d writes out of a View, %d with EFAULT",
			truncations, copies, faults.Load(), writes, refused)
	})
}

// throughPipe checks the bytes that write sends into a pipe, and returns their number.
func throughPipe(t *testing.T, check func(p []byte, off int64), write func(w *os.File) error) int64 {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sink := &patternWriter{check: check}
	var receiver workers
	receiver.start(func() { io.Copy(sink, reader) })
	if err := write(writer); err != nil {
		t.Error("writing to the pipe:", err)
	}
	writer.Close()
	mustFinish(t, "a pipe", receiver.Wait)
	reader.Close()
	return sink.off
}

// TestCloseRaces catches a Close that lets another call crash, hang, or end with half a result and no
// error, that loses a completed write, or that leaves a mapping, a descriptor or a goroutine behind.
func TestCloseRaces(t *testing.T) {
	rows := map[string]bool{
		"read-only": true, "read-write": true, "copy-on-write": true, "execute": true,
		"read-only windows of one page": true, "read-write windows of 64 KiB": true,
		"copy-on-write windows of 10000 bytes": true, "read-write sync periodic": true,
	}
	eachMode(t, func(t *testing.T, m mode) {
		inChild(t, func(t *testing.T) {
			rounds := 400
			if testing.Short() || raceDetector {
				rounds = 150
			}
			race := newCloseRace(t, m)
			for round := 0; round < rounds && !t.Failed(); round++ {
				race.run(round)
			}
			report(t, "%d closes beside %d calls, of which %d ended with a result, %d with fs.ErrClosed and %d of these were under way",
				rounds, race.completed.Load()+race.refused.Load(), race.completed.Load(), race.refused.Load(), race.interrupted.Load())
			if race.interrupted.Load() == 0 {
				t.Error("no call was under way at a Close: the test tests nothing")
			}
		})
	}, func(m mode) bool { return rows[m.name] })
}

// The file of a closeRace: a head that nobody writes to, then a page for each way to write.
var (
	raceHead  = 40 * pageSize
	racePages = int64(4)
	raceSize  = raceHead + racePages*pageSize
)

// closeRace lets every method of a file run beside its Close.
type closeRace struct {
	t      *testing.T
	m      mode
	name   string
	base   absfs.FileSystem
	random *rand.Rand

	completed, refused, interrupted atomic.Int64
}

func newCloseRace(t *testing.T, m mode) *closeRace {
	name := writeFile(t, testDir(t), "file", patternFrom(0, int(raceSize)))
	return &closeRace{t: t, m: m, name: name, base: plainFileSystem(t), random: rand.New(rand.NewPCG(1, 2))}
}

// call is one method call. It returns the call's error, and what is wrong with a result without one.
type call func() (err error, wrong string)

// must is a call whose only result is its error.
func must(method func() error) call {
	return func() (error, string) { return method(), "" }
}

// except is a call that may also fail with that error.
func except(allowed error, method func() error) call {
	return func() (error, string) {
		err := method()
		if errors.Is(err, allowed) {
			err = nil
		}
		return err, ""
	}
}

func (r *closeRace) run(round int) {
	t := r.t
	fileSystem := memmapfs.New(r.base, r.m.config)
	opened, err := fileSystem.OpenFile(r.name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := opened.(*memmapfs.MappedFile)
	if round%4 != 0 {
		buffer := make([]byte, pageSize)
		for off := int64(0); off < raceSize; off += pageSize { // brings the windows
			file.ReadAt(buffer, off)
		}
		forceMap(file)
	}

	// What a write that has ended well has written must be in the file afterwards.
	var mu sync.Mutex // guards written
	written := make(map[int64][]byte)
	value := []byte(fmt.Sprintf("round %d.", round))
	wrote := func(off int64) {
		mu.Lock()
		defer mu.Unlock()
		written[off] = value
	}
	count := func(n, want int, err error) (error, string) {
		if err == nil && n != want {
			return nil, fmt.Sprintf("%d of %d bytes", n, want)
		}
		return err, ""
	}
	calls := map[string]call{
		"ReadAt": func() (error, string) {
			p := make([]byte, raceHead)
			n, err := file.ReadAt(p, 0)
			if err == nil && notPattern(p, 0, raceHead) >= 0 {
				return nil, "wrong bytes"
			}
			return count(n, len(p), err)
		},
		"WriteAt": func() (error, string) {
			n, err := file.WriteAt(value, raceHead)
			if err == nil {
				wrote(raceHead)
			}
			return count(n, len(value), err)
		},
		"View": func() (error, string) {
			wrong := "the function was not called"
			err := file.View(0, raceHead, func(b []byte) error {
				wrong = ""
				if notPattern(b, 0, raceHead) >= 0 {
					wrong = "wrong bytes"
				}
				return nil
			})
			return err, wrong
		},
		"View to store": func() (error, string) {
			off := raceHead + pageSize
			err := file.View(off, int64(len(value)), func(b []byte) error {
				if r.m.readWrite() {
					copy(b, value)
				}
				return nil
			})
			if err == nil && r.m.readWrite() {
				wrote(off)
			}
			return err, ""
		},
		"Seek": func() (error, string) {
			_, err := file.Seek(0, io.SeekCurrent)
			return err, ""
		},
		"Stat": func() (error, string) {
			info, err := file.Stat()
			if err == nil && info.Size() != raceSize {
				return nil, fmt.Sprintf("size %d", info.Size())
			}
			return err, ""
		},
		"Data":        must(func() error { file.Data(); return nil }),
		"Mapped":      must(func() error { file.Mapped(); return nil }),
		"Name":        must(func() error { _ = file.Name(); return nil }),
		"Sync":        must(file.Sync),
		"SyncRange":   must(func() error { return file.SyncRange(raceHead, 2*pageSize) }),
		"SyncAsync":   must(file.SyncAsync),
		"Remap":       must(file.RemapAfterTruncation),
		"Truncate":    except(errors.ErrUnsupported, func() error { return file.Truncate(raceSize) }),
		"by name":     must(func() error { return fileSystem.Truncate(r.name, raceSize) }),
		"Sequential":  except(errors.ErrUnsupported, file.AdviseSequential),
		"Random":      except(errors.ErrUnsupported, file.AdviseRandom),
		"WillNeed":    except(errors.ErrUnsupported, file.AdviseWillNeed),
		"DontNeed":    except(errors.ErrUnsupported, file.AdviseDontNeed),
		"SyscallConn": except(errors.ErrUnsupported, func() error { _, err := file.SyscallConn(); return err }),
		"protection": must(func() error {
			file.EnableSIGBUSProtection()
			file.DisableSIGBUSProtection()
			return nil
		}),
	}

	// The position belongs to one call a round, or nobody could tell which bytes are the right ones.
	at := raceHead + 2*pageSize
	switch round % 5 {
	case 0:
		pos := int64(0)
		calls["Read"] = func() (error, string) {
			p := make([]byte, raceHead/8)
			n, err := file.Read(p)
			if err == nil && notPattern(p, pos, raceHead) >= 0 {
				return nil, "wrong bytes"
			}
			pos += int64(n)
			return count(n, len(p), err)
		}
	case 1:
		calls["WriteTo"] = func() (error, string) {
			wrong := ""
			n, err := file.WriteTo(&patternWriter{check: func(p []byte, off int64) {
				if off < raceHead && notPattern(p[:min(int64(len(p)), raceHead-off)], off, raceHead) >= 0 {
					wrong = "wrong bytes"
				}
			}})
			if err == nil && n != raceSize {
				wrong = fmt.Sprintf("%d bytes", n)
			}
			file.Seek(0, io.SeekStart)
			return err, wrong
		}
	default:
		if _, err := file.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		write := []func() (int, error){
			func() (int, error) { return file.Write(value) },
			func() (int, error) { return file.WriteString(string(value)) },
			func() (int, error) {
				n, err := file.ReadFrom(bytes.NewReader(value))
				return int(n), err
			},
		}[round%5-2]
		calls["write at the position"] = func() (error, string) {
			n, err := write()
			if err == nil {
				wrote(at)
				at += int64(len(value))
			}
			return count(n, len(value), err)
		}
	}

	var closing atomic.Bool
	var goroutines workers
	closed := make(chan error, 3)
	start := make(chan struct{})
	closeAfter := time.Duration(r.random.IntN(200)) * time.Microsecond
	for _, closer := range []func() error{file.Close, file.Close, fileSystem.Close} {
		goroutines.start(func() {
			<-start
			for begun := time.Now(); time.Since(begun) < closeAfter; {
				runtime.Gosched()
			}
			closing.Store(true)
			closed <- closer()
		})
	}
	for name, call := range calls {
		goroutines.start(func() {
			<-start
			for range 4 {
				before := closing.Load()
				err, wrong := call()
				var path *fs.PathError
				switch {
				case err == nil && wrong != "":
					t.Errorf("%s beside Close: %s", name, wrong)
				case err == nil:
					r.completed.Add(1)
				case errors.Is(err, fs.ErrClosed) && errors.As(err, &path):
					r.refused.Add(1)
					if !before {
						r.interrupted.Add(1)
					}
					return
				default:
					t.Errorf("%s beside Close: %T %v", name, err, err)
				}
			}
		})
	}
	close(start)
	mustFinish(t, "a call beside Close", goroutines.Wait)

	// Close gives nil once. That of the filesystem gives nil, having found the file closed or closed it.
	succeeded := 0
	for range 3 {
		if err := <-closed; err == nil {
			succeeded++
		} else if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Close: %v", err)
		}
	}
	if succeeded < 1 || succeeded > 2 {
		t.Errorf("%d of three closes gave nil", succeeded)
	}
	// The garbage collector would close and unmap in the end what is left.
	dir := filepath.Dir(osfs.ToNative(r.name))
	if left := append(mappedUnder(t, dir), openUnder(t, dir)...); len(left) > 0 {
		t.Errorf("left after Close: %v", left)
	}
	if !r.m.copyOnWrite() {
		content := readNative(t, r.name)
		for off, value := range written {
			if !bytes.HasPrefix(content[off:], value) {
				t.Errorf("lost what was written at %d before Close: %q, want %q", off, content[off:off+int64(len(value))], value)
			}
		}
	}
}

// TestCloseRacesDirectory is TestCloseRaces for the methods of a directory. (On a file they would make
// its Seek fail: package os remembers that the file was read as a directory.)
func TestCloseRacesDirectory(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		for i := range 20 {
			writeFile(t, dir, fmt.Sprint(i), nil)
		}
		fileSystem := memmapfs.New(plainFileSystem(t), nil)
		rounds := 1000
		if testing.Short() || raceDetector {
			rounds = 200
		}
		var completed, refused atomic.Int64
		for round := 0; round < rounds && !t.Failed(); round++ {
			directory := mustOpenMapped(t, fileSystem, osfs.FromNative(dir), os.O_RDONLY)
			calls := map[string]func() error{
				"Readdir":      func() error { _, err := directory.Readdir(1); return err },
				"Readdirnames": func() error { _, err := directory.Readdirnames(1); return err },
				"ReadDir":      func() error { _, err := directory.ReadDir(1); return err },
				"Stat":         func() error { _, err := directory.Stat(); return err },
				"Sync":         func() error { return directory.Sync() },
			}
			var goroutines workers
			for name, call := range calls {
				goroutines.start(func() {
					for range 4 {
						err := call()
						var path *fs.PathError
						switch {
						case err == nil, err == io.EOF:
							completed.Add(1)
						case errors.Is(err, fs.ErrClosed) && errors.As(err, &path):
							refused.Add(1)
						default:
							t.Errorf("%s of a directory beside Close: %T %v", name, err, err)
						}
					}
				})
			}
			goroutines.start(func() {
				if err := directory.Close(); err != nil {
					t.Error("Close:", err)
				}
			})
			mustFinish(t, "a call beside Close of a directory", goroutines.Wait)
		}
		report(t, "%d closes of a directory beside %d calls that ended with a result and %d with fs.ErrClosed",
			rounds, completed.Load(), refused.Load())
	})
}

// TestStaleSlices catches addresses given back too early: a slice from Data that outlives its map must
// fault for good, and may never show the bytes of a file that was mapped later.
func TestStaleSlices(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		fileSystem := memmapfs.New(plainFileSystem(t), full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
		const sizes = 5
		var secrets [sizes]string // other files, of the sizes of those that end first
		for i := range secrets {
			secrets[i] = writeFile(t, dir, fmt.Sprint("secret ", i), bytes.Repeat([]byte("s"), (i+1)*int(pageSize)))
		}

		// Each way to end the life of a slice.
		endings := map[string]func(file *memmapfs.MappedFile) error{
			"Close":                func(file *memmapfs.MappedFile) error { return file.Close() },
			"Truncate":             func(file *memmapfs.MappedFile) error { return file.Truncate(pageSize) },
			"RemapAfterTruncation": func(file *memmapfs.MappedFile) error { return file.RemapAfterTruncation() },
		}
		type staleSlice struct {
			ending string
			data   []byte
		}
		var stale []staleSlice
		for ending, end := range endings {
			for i := range 60 {
				name := writeFile(t, dir, fmt.Sprint(ending, i), patternFrom(0, (i%sizes+1)*int(pageSize)))
				file := mustOpenMapped(t, fileSystem, name, os.O_RDWR)
				data := file.Data()
				if faultsWhenRead(data) {
					t.Fatal("a slice faults while it is valid")
				}
				if err := end(file); err != nil {
					t.Fatal(err)
				}
				stale = append(stale, staleSlice{ending, data})
				if ending != "Close" {
					forceMap(file) // the new map is somewhere else
					file.Close()
				}
			}
		}

		others, faults := 5000, 0
		if testing.Short() {
			others = 1000
		}
		for other := range others {
			file := mustOpenMapped(t, fileSystem, secrets[other%sizes], os.O_RDONLY)
			if other%2 == 0 {
				forceMap(file)
			} else if err := file.View(0, 1, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
			for _, slice := range stale[other%10*18 : other%10*18+18] {
				if !faultsWhenRead(slice.data) {
					t.Fatalf("after %s and %d other files a slice can be read and begins with %q", slice.ending, other, slice.data[:8])
				}
				faults++
			}
			file.Close()
			if other%50 == 0 {
				runtime.GC()
			}
		}
		report(t, "%d loads from %d stale slices beside %d other files, all faults", faults, len(stale), others)
	})
}

// shrinkable is a mapped file of eight pages with the pattern, all of them known to be in memory and, in
// ModeReadWrite, ready to be stored to: an access after shrink is a fault.
type shrinkable struct {
	*memmapfs.MappedFile
	t      *testing.T
	native string
}

var shrinkableSize = 8 * pageSize

func newShrinkable(t *testing.T, dir string, config *memmapfs.Config) *shrinkable {
	t.Helper()
	native := filepath.Join(dir, fmt.Sprintf("shrinkable %d", rand.Uint64()))
	pattern := patternFrom(0, int(shrinkableSize))
	if err := os.WriteFile(native, pattern, 0o644); err != nil {
		t.Fatal(err)
	}
	file := mustOpenMapped(t, memmapfs.New(plainFileSystem(t), config), osfs.FromNative(native), os.O_RDWR)
	s := &shrinkable{file, t, native}
	s.warm()
	return s
}

// warm maps the file and makes its pages known.
func (s *shrinkable) warm() {
	s.t.Helper()
	info, err := s.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	forceMap(s.MappedFile)
	for range 2 {
		p := make([]byte, info.Size())
		if _, err := s.ReadAt(p, 0); err != nil {
			s.t.Fatal(err)
		}
		if _, err := s.WriteAt(p, 0); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		s.t.Fatal(err)
	}
}

// resize changes the size of the file around the filesystem under test, as another process would.
func (s *shrinkable) resize(size int64) {
	s.t.Helper()
	if err := os.Truncate(s.native, size); err != nil {
		s.t.Fatal(err)
	}
}

// TestViewFault catches a View that hides a fault, or tells nothing about it, or the wrong offset.
func TestViewFault(t *testing.T) {
	rows := map[string]bool{
		"read-only": true, "read-write": true, "copy-on-write": true, "execute": true,
		"read-only windows of 64 KiB": true, "read-write windows of one page": true, "copy-on-write windows of one page": true,
	}
	eachMode(t, func(t *testing.T, m mode) {
		inChild(t, func(t *testing.T) {
			dir := testDir(t)
			faults := 0
			for _, store := range []bool{false, true} {
				if store && !(m.readWrite() || m.copyOnWrite() && !m.windowed()) {
					continue
				}
				for _, wanted := range []int64{3*pageSize + 1, 5 * pageSize, shrinkableSize - 1} {
					file := newShrinkable(t, dir, m.config)
					err := file.View(pageSize, shrinkableSize-pageSize, func(b []byte) error {
						file.resize(3 * pageSize)
						if b[0] != patternAt(pageSize) || b[2*pageSize-1] != patternAt(3*pageSize-1) {
							t.Error("the bytes that remain are not readable, or wrong")
						}
						if store {
							b[wanted-pageSize] = 1
						} else {
							loaded.Store(uint32(b[wanted-pageSize]))
						}
						t.Error("an access past the end of the file goes through")
						return nil
					})
					var path *fs.PathError
					if !errors.Is(err, memmapfs.ErrSIGBUS) || !errors.As(err, &path) || path.Op != "view" || path.Path != file.Name() {
						t.Errorf("View: %T %v, want a *fs.PathError, op view, that wraps ErrSIGBUS", err, err)
					} else if !regexp.MustCompile(fmt.Sprintf(`\b%d\b`, wanted)).MatchString(path.Err.Error()) {
						t.Errorf("View: %v, want the offset %d in the text", err, wanted)
					}
					faults++

					// The handle goes on with what the file is now.
					p := make([]byte, shrinkableSize)
					if n, err := file.ReadAt(p, 0); n != int(3*pageSize) || err != io.EOF {
						t.Errorf("ReadAt after the fault: %d bytes and error %v", n, err)
					}
					mustEqual(t, "the bytes after the fault", p[:3*pageSize], patternFrom(0, int(3*pageSize)))
					if err := file.View(0, shrinkableSize, nil); err != io.EOF {
						t.Errorf("View past the new end: %v, want io.EOF", err)
					}
					file.resize(shrinkableSize)
					err = file.View(pageSize, shrinkableSize-pageSize, func(b []byte) error {
						if i := notPattern(b, pageSize, 3*pageSize); i >= 0 {
							t.Errorf("after growth byte %d is %#x", pageSize+int64(i), b[i])
						}
						return nil
					})
					if err != nil {
						t.Errorf("View after growth: %v", err)
					}
					file.Close()
				}
			}
			report(t, "%d faults in View, all returned as errors", faults)
		})
	}, func(m mode) bool { return rows[m.name] })
}

// recovered returns what work panics with.
func recovered(work func()) (value any) {
	defer func() { value = recover() }()
	work()
	return nil
}

// TestViewPanics catches a View that swallows or changes a panic that is not a fault in its bytes.
func TestViewPanics(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		file := newShrinkable(t, dir, full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
		other := newShrinkable(t, dir, nil)
		stale := other.Data()
		other.Close()
		readOnly := newShrinkable(t, dir, nil)

		own := &struct{ int }{}
		err := errors.New("the caller's own")
		var none map[string]int
		var pointer *int
		index := 1000
		panics := map[string]func(b []byte){
			"a pointer":                 func([]byte) { panic(own) },
			"an error":                  func([]byte) { panic(err) },
			"io.EOF":                    func([]byte) { panic(io.EOF) },
			"ErrSIGBUS":                 func([]byte) { panic(memmapfs.ErrSIGBUS) },
			"nil":                       func([]byte) { panic(nil) },
			"an index out of range":     func(b []byte) { loaded.Store(uint32(b[:10][index])) },
			"a store into a nil map":    func([]byte) { none["a"] = 1 },
			"a nil pointer":             func([]byte) { loaded.Store(uint32(*pointer)) },
			"a fault in another file":   func([]byte) { loaded.Store(uint32(stale[pageSize])) },
			"a division":                func(b []byte) { loaded.Store(uint32(1000 / len(none))) },
			"a store into another file": func([]byte) { readOnly.Data()[0] = 1 },
		}
		faults := 0
		for name, cause := range panics {
			before := debug.SetPanicOnFault(true)
			want := recovered(func() { cause(make([]byte, 10)) })
			got := recovered(func() {
				file.View(0, shrinkableSize, func(b []byte) error {
					cause(b)
					return nil
				})
			})
			nested := recovered(func() {
				file.View(0, pageSize, func([]byte) error {
					return file.View(pageSize, pageSize, func(b []byte) error {
						cause(b)
						return nil
					})
				})
			})
			if debug.SetPanicOnFault(before) != true {
				t.Errorf("%s: View leaves debug.SetPanicOnFault changed", name)
			}
			for _, got := range []any{got, nested} {
				if !samePanic(got, want) {
					t.Errorf("%s: View panics with %T %v, want %T %v", name, got, got, want, want)
				}
			}
			if _, isFault := want.(interface{ Addr() uintptr }); isFault {
				faults += 2
			}
		}
		if faults != 4 {
			t.Errorf("%d panics were faults, want 4", faults)
		}
		// Nothing stays guarded.
		for what, f := range map[string]func([]byte) error{
			"returns": func([]byte) error { return nil },
			"panics":  func([]byte) error { panic(own) },
		} {
			debug.SetPanicOnFault(false)
			recovered(func() { file.View(0, 1, f) })
			if debug.SetPanicOnFault(false) {
				t.Errorf("a View whose function %s leaves debug.SetPanicOnFault on", what)
			}
		}
		file.Close()
		readOnly.Close()
		report(t, "%d panics through View, %d of them faults in other memory, all came out unchanged", 2*len(panics), faults)
	})
}

// samePanic compares panic values: those of the caller for identity, those of the runtime by type, text
// and address.
func samePanic(a, b any) bool {
	first, ok := a.(runtime.Error)
	if !ok {
		return a == b
	}
	second, ok := b.(runtime.Error)
	if !ok || fmt.Sprintf("%T %v", first, first) != fmt.Sprintf("%T %v", second, second) {
		return false
	}
	address, ok := first.(interface{ Addr() uintptr })
	return !ok || address.Addr() == second.(interface{ Addr() uintptr }).Addr()
}

// TestViewNested catches a fault that the wrong View reports, and a guard that ends with an inner View.
func TestViewNested(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		files := []*shrinkable{newShrinkable(t, dir, nil), newShrinkable(t, dir, full(memmapfs.ModeReadWrite, memmapfs.SyncNever))}
		outer, inner := files[0], files[1]
		for _, file := range files {
			file.resize(shrinkableSize)
		}
		own := errors.New("the caller's own")
		isFault := func(err error, file *shrinkable) bool {
			var path *fs.PathError
			return errors.Is(err, memmapfs.ErrSIGBUS) && errors.As(err, &path) && path.Path == file.Name()
		}

		// A fault in the inner bytes ends the inner View only.
		err := outer.View(0, shrinkableSize, func(b []byte) error {
			err := inner.View(0, shrinkableSize, func(b []byte) error {
				inner.resize(pageSize)
				loaded.Store(uint32(b[shrinkableSize-1]))
				return nil
			})
			if !isFault(err, inner) {
				t.Errorf("the inner View: %v", err)
			}
			if notPattern(b, 0, shrinkableSize) >= 0 {
				t.Error("the outer bytes are wrong after the inner fault")
			}
			return own
		})
		if err != own {
			t.Errorf("the outer View: %v, want the function's own error", err)
		}

		// A fault in the outer bytes ends both, also when the inner function causes it, and also after the
		// inner View has ended.
		inner.resize(shrinkableSize)
		for _, inside := range []bool{true, false} {
			innerEnded := false
			err := outer.View(0, shrinkableSize, func(b []byte) error {
				err := inner.View(0, shrinkableSize, func([]byte) error {
					outer.resize(pageSize)
					if inside {
						loaded.Store(uint32(b[shrinkableSize-1]))
					}
					return own
				})
				if err != own {
					t.Errorf("the inner View: %v", err)
				}
				innerEnded = true
				loaded.Store(uint32(b[shrinkableSize-1]))
				return nil
			})
			if !isFault(err, outer) || innerEnded == inside {
				t.Errorf("fault inside %v: the outer View gives %v, the inner ended %v", inside, err, innerEnded)
			}
			outer.resize(shrinkableSize)
		}

		// Of two Views of the same file too it is the one whose bytes faulted.
		err = inner.View(0, pageSize, func([]byte) error {
			err := inner.View(4*pageSize, pageSize, func(b []byte) error {
				inner.resize(pageSize)
				loaded.Store(uint32(b[0]))
				return nil
			})
			if !isFault(err, inner) {
				t.Errorf("the inner View of the same file: %v", err)
			}
			return own
		})
		if err != own {
			t.Errorf("the outer View of the same file: %v", err)
		}
		inner.resize(shrinkableSize)
		err = inner.View(4*pageSize, pageSize, func(b []byte) error {
			inner.View(0, pageSize, func([]byte) error {
				inner.resize(pageSize)
				loaded.Store(uint32(b[0]))
				return nil
			})
			t.Error("the inner View of the same file returns from a fault in the outer one's bytes")
			return nil
		})
		if !isFault(err, inner) {
			t.Errorf("the outer View of the same file: %v", err)
		}
		outer.Close()
		inner.Close()
		report(t, "5 faults in nested Views, each returned by the View that they belong to")
	})
}

// TestViewGoexit catches a View that returns after runtime.Goexit, or keeps its bytes pinned.
func TestViewGoexit(t *testing.T) {
	inChild(t, func(t *testing.T) {
		file := newShrinkable(t, testDir(t), nil)
		const views = 100
		for range views {
			var returned, deferred bool
			var goroutine workers
			goroutine.start(func() {
				defer func() { deferred = true }()
				file.View(0, shrinkableSize, func([]byte) error {
					runtime.Goexit()
					return nil
				})
				returned = true
			})
			goroutine.Wait()
			if returned || !deferred {
				t.Fatalf("after Goexit View returned: %v, deferred functions ran: %v", returned, deferred)
			}
		}
		if err := file.Close(); err != nil { // testDir sees a mapping that stays pinned
			t.Error(err)
		}
		report(t, "%d Views ended by runtime.Goexit, no fault injected", views)
	})
}

// TestViewManyGoroutines catches guards and pins of one View that touch another's.
func TestViewManyGoroutines(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		healthy := newShrinkable(t, dir, nil)
		shrunk := newShrinkable(t, dir, nil)
		var faults atomic.Int64
		var goroutines workers
		rounds := 300
		if testing.Short() {
			rounds = 50
		}
		for range rounds {
			shrunk.resize(shrinkableSize)
			shrunk.warm()
			for goroutine := range 8 {
				goroutines.start(func() {
					if goroutine%2 == 0 {
						err := healthy.View(0, shrinkableSize, func(b []byte) error {
							if notPattern(b, 0, shrinkableSize) >= 0 {
								t.Error("wrong bytes in a file that nobody changes")
							}
							return nil
						})
						if err != nil {
							t.Errorf("View of a file that nobody changes: %v", err)
						}
						return
					}
					err := shrunk.View(0, shrinkableSize, func(b []byte) error {
						shrunk.resize(pageSize)
						loaded.Store(uint32(b[shrinkableSize-1]))
						return nil
					})
					switch {
					case errors.Is(err, memmapfs.ErrSIGBUS):
						faults.Add(1)
					case err != io.EOF:
						t.Errorf("View of a shrunk file: %v", err)
					}
				})
			}
			goroutines.Wait()
		}
		healthy.Close()
		shrunk.Close()
		report(t, "%d faults in %d Views of 8 goroutines", faults.Load(), 8*rounds)
		if faults.Load() < int64(rounds) {
			t.Errorf("only %d faults", faults.Load())
		}
	})
}

// TestViewOutlivesClose catches a Close or RemapAfterTruncation that takes the bytes of a running View
// away, or waits for it, which inside the View's function would be for ever.
func TestViewOutlivesClose(t *testing.T) {
	rows := map[string]bool{
		"read-only": true, "read-write": true, "copy-on-write": true,
		"read-write windows of one page": true, "copy-on-write windows of 64 KiB": true,
	}
	eachMode(t, func(t *testing.T, m mode) {
		inChild(t, func(t *testing.T) {
			endings := map[string]func(file *memmapfs.MappedFile) error{
				"Close":                func(file *memmapfs.MappedFile) error { return file.Close() },
				"RemapAfterTruncation": func(file *memmapfs.MappedFile) error { return file.RemapAfterTruncation() },
			}
			for ending, end := range endings {
				dir := testDir(t)
				file := newShrinkable(t, dir, m.config)
				var kept []byte
				mustFinish(t, ending+" beside View", func() {
					err := file.View(0, shrinkableSize, func(b []byte) error {
						var goroutine workers
						goroutine.start(func() {
							if err := end(file.MappedFile); err != nil {
								t.Errorf("%s beside View: %v", ending, err)
							}
						})
						goroutine.Wait()
						for range 20 {
							runtime.GC()
							if i := notPattern(b, 0, shrinkableSize); i >= 0 {
								t.Errorf("after %s byte %d of a running View is %#x", ending, i, b[i])
							}
						}
						if m.readWrite() {
							b[0] = 0xEE
						}
						kept = b
						return nil
					})
					if err != nil {
						t.Errorf("View beside %s: %v", ending, err)
					}
				})
				if m.readWrite() {
					if content := readNative(t, osfs.FromNative(file.native)); content[0] != 0xEE {
						t.Errorf("a store in a View after %s did not reach the file", ending)
					}
				}
				if !m.copyOnWrite() || ending == "Close" {
					if !faultsWhenRead(kept) {
						t.Errorf("the map is still there after %s and the end of the View", ending)
					}
				}
				if ending == "Close" {
					err := file.View(0, 1, func([]byte) error { return nil })
					if !errors.Is(err, fs.ErrClosed) {
						t.Errorf("View after Close: %v", err)
					}
				} else if err := file.View(0, 1, func([]byte) error { return nil }); err != nil {
					t.Errorf("View after %s: %v", ending, err)
				}
				file.Close()
			}
			report(t, "%d Views outlived the end of their maps without a fault", len(endings))
		})
	}, func(m mode) bool { return rows[m.name] })
}

// TestViewTruncate catches a Truncate of the same handle that waits for a running View, takes away bytes
// that the file still has, or leaves the View's pages where the file has ended.
func TestViewTruncate(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		for _, config := range []*memmapfs.Config{
			nil,
			full(memmapfs.ModeReadWrite, memmapfs.SyncNever),
			windowed(memmapfs.ModeReadWrite, pageSize),
		} {
			file := newShrinkable(t, dir, config)
			mustFinish(t, "Truncate beside View", func() {
				err := file.View(0, shrinkableSize, func(b []byte) error {
					if err := file.Truncate(2 * pageSize); err != nil {
						t.Errorf("Truncate inside View: %v", err)
					}
					if i := notPattern(b[:2*pageSize], 0, shrinkableSize); i >= 0 {
						t.Errorf("byte %d that the file still has is %#x", i, b[i])
					}
					loaded.Store(uint32(b[2*pageSize]))
					t.Error("a byte past the new end can be read")
					return nil
				})
				if !errors.Is(err, memmapfs.ErrSIGBUS) {
					t.Errorf("View over the new end: %v", err)
				}
			})
			p := make([]byte, shrinkableSize)
			if n, err := file.ReadAt(p, 0); n != int(2*pageSize) || err != io.EOF {
				t.Errorf("ReadAt after Truncate: %d bytes and error %v", n, err)
			}
			file.Close()
		}
		report(t, "3 faults past the end that Truncate set, all returned by View")
	})
}

// TestHandler catches callbacks that do not come, come when nobody asked for them, or come with a lock
// held; and a RemapAfterTruncation that does not take up the file's size.
func TestHandler(t *testing.T) {
	inChild(t, func(t *testing.T) {
		dir := testDir(t)
		handler := memmapfs.GetSIGBUSHandler()
		config := full(memmapfs.ModeReadWrite, memmapfs.SyncNever)

		var react func(file *memmapfs.MappedFile, err error) // what the callback does
		calls, total := 0, 0
		handler.OnSIGBUS(nil) // no effect
		handler.OnSIGBUS(func(file *memmapfs.MappedFile, err error) {
			calls++
			var path *fs.PathError
			if !errors.Is(err, memmapfs.ErrSIGBUS) || !errors.As(err, &path) {
				t.Errorf("callback with %T %v, want a *fs.PathError that wraps ErrSIGBUS", err, err)
			}
			if react != nil {
				react(file, err)
			}
		})

		// Every call that meets a fault, with the result that the file gives.
		off := 5 * pageSize
		value := []byte("value")
		faulting := map[string]func(file *shrinkable) string{
			"ReadAt": func(file *shrinkable) string {
				n, err := file.ReadAt(make([]byte, 8), off)
				return fmt.Sprint(n, err)
			},
			"Read": func(file *shrinkable) string {
				n, err := file.Read(make([]byte, 8))
				return fmt.Sprint(n, err)
			},
			"WriteTo": func(file *shrinkable) string {
				n, err := file.WriteTo(io.Discard)
				return fmt.Sprint(n, err)
			},
			"WriteAt": func(file *shrinkable) string {
				n, err := file.WriteAt(value, off)
				return fmt.Sprint(n, err)
			},
			"Write": func(file *shrinkable) string {
				n, err := file.Write(value)
				return fmt.Sprint(n, err)
			},
			"WriteString": func(file *shrinkable) string {
				n, err := file.WriteString(string(value))
				return fmt.Sprint(n, err)
			},
			"ReadFrom": func(file *shrinkable) string {
				n, err := file.ReadFrom(bytes.NewReader(value))
				return fmt.Sprint(n, err)
			},
			"View": func(file *shrinkable) string {
				err := file.View(off, 1, func(b []byte) error {
					loaded.Store(uint32(b[0]))
					return nil
				})
				return fmt.Sprint(errors.Is(err, memmapfs.ErrSIGBUS))
			},
		}
		results := map[string]string{
			"ReadAt": "0 EOF", "Read": "0 EOF", "WriteTo": "0 <nil>", "WriteAt": "5 <nil>", "Write": "5 <nil>",
			"WriteString": "5 <nil>", "ReadFrom": "5 <nil>", "View": "true",
		}
		// fault makes that call on a file that has just been shrunk, and returns how many callbacks came.
		fault := func(name string, file *shrinkable) int {
			t.Helper()
			if _, err := file.Seek(off, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			file.resize(pageSize)
			before := calls
			mustFinish(t, name, func() {
				if got := faulting[name](file); got != results[name] {
					t.Errorf("%s of a shrunk file: %s, want %s", name, got, results[name])
				}
			})
			total += calls - before
			return calls - before
		}
		check := func(what string, got, want int) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %d callbacks, want %d", what, got, want)
			}
		}

		// Only while enabled and registered, and by every call.
		for name := range faulting {
			again := func(file *shrinkable) {
				file.resize(shrinkableSize)
				file.warm()
			}
			file := newShrinkable(t, dir, config)
			check(name+", neither enabled nor registered", fault(name, file), 0)
			again(file)
			handler.Register(file.MappedFile)
			check(name+", registered and not enabled", fault(name, file), 0)
			again(file)
			handler.Enable()
			check(name+", registered and enabled", fault(name, file), 1)
			again(file)
			check(name+", a second time", fault(name, file), 1)
			again(file)
			handler.Unregister(file.MappedFile)
			check(name+", unregistered", fault(name, file), 0)
			again(file)
			handler.Register(file.MappedFile)
			handler.Disable()
			check(name+", disabled", fault(name, file), 0)
			again(file)
			file.EnableSIGBUSProtection()
			check(name+" after EnableSIGBUSProtection", fault(name, file), 1)
			again(file)
			file.DisableSIGBUSProtection()
			check(name+" after DisableSIGBUSProtection", fault(name, file), 0)
			other := newShrinkable(t, dir, config)
			check(name+" of another file", fault(name, other), 0)
			other.Close()
			file.Close()
			handler.Disable()
		}

		// A callback may call any method, and the call that met the fault still gives its result.
		reactions := map[string]func(file *memmapfs.MappedFile, err error){
			"RemapAfterTruncation": func(file *memmapfs.MappedFile, _ error) {
				if err := file.RemapAfterTruncation(); err != nil {
					t.Errorf("RemapAfterTruncation in a callback: %v", err)
				}
			},
			"Close": func(file *memmapfs.MappedFile, _ error) {
				if err := file.Close(); err != nil {
					t.Errorf("Close in a callback: %v", err)
				}
			},
			"everything": func(file *memmapfs.MappedFile, _ error) {
				p := make([]byte, 8)
				pos, err := file.Seek(0, io.SeekCurrent)
				if err != nil {
					t.Error(err)
				}
				file.Read(p)
				file.ReadAt(p, off)
				file.Data()
				file.Mapped()
				file.Sync()
				file.Stat()
				file.AdviseWillNeed()
				file.View(0, 8, func([]byte) error { return nil })
				file.DisableSIGBUSProtection()
				file.EnableSIGBUSProtection()
				handler.Disable()
				handler.Enable()
				handler.OnSIGBUS(func(*memmapfs.MappedFile, error) {})
				file.WriteAt([]byte("reaction"), 0)
				file.SyncRange(0, 8)
				file.Seek(pos, io.SeekStart)
			},
			"Truncate": func(file *memmapfs.MappedFile, _ error) {
				if err := file.Truncate(pageSize); err != nil {
					t.Errorf("Truncate in a callback: %v", err)
				}
			},
		}
		for name, reaction := range reactions {
			for call := range faulting {
				file := newShrinkable(t, dir, config)
				file.EnableSIGBUSProtection()
				react = reaction
				check(call+" with a callback that calls "+name, fault(call, file), 1)
				react = nil
				if name == "Close" {
					if _, err := file.Stat(); !errors.Is(err, fs.ErrClosed) {
						t.Errorf("after Close in a callback Stat gives %v", err)
					}
				}
				file.Close()
			}
		}

		// RemapAfterTruncation takes up the file's size, smaller and larger.
		file := newShrinkable(t, dir, config)
		for _, pages := range []int64{8, 3, 12, 1, 9} {
			before := file.Data()
			size := pages * pageSize
			pattern := patternFrom(0, int(size))
			if err := os.WriteFile(file.native, pattern, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := file.RemapAfterTruncation(); err != nil {
				t.Errorf("RemapAfterTruncation to %d pages: %v", pages, err)
			}
			if !faultsWhenRead(before) {
				t.Error("a slice from before RemapAfterTruncation can be read")
			}
			mustEqual(t, "Data after RemapAfterTruncation", file.Data(), pattern)
			p := make([]byte, size+1)
			if n, err := file.ReadAt(p, 0); n != int(size) || err != io.EOF {
				t.Errorf("ReadAt after RemapAfterTruncation to %d pages: %d bytes and error %v", pages, n, err)
			}
		}
		file.Close()
		report(t, "%d callbacks, %d faults survived with a callback that called methods of the file", total, len(reactions)*len(faulting))
	})
}

// TestBadBuffer catches a crash, or blame for the file, when it is the caller's own buffer that faults:
// the error is that of a plain file.
func TestBadBuffer(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		inChild(t, func(t *testing.T) {
			dir := testDir(t)
			donor := newShrinkable(t, dir, nil)
			readOnly := newShrinkable(t, dir, nil)
			stale := donor.Data()
			donor.Close()
			name := writeFile(t, dir, "file", patternFrom(0, int(shrinkableSize)))
			faults := 0
			for _, mapped := range []bool{false, true} {
				file := mustOpen(t, m.overOS(t), name, os.O_RDWR)
				var blamed *atomic.Int64
				if !m.plain() {
					blamed = countFaults(t, asMapped(t, file))
				}
				if mapped {
					forceMap(file)
					p := patternFrom(0, int(shrinkableSize))
					for range 2 {
						if n, err := file.WriteAt(p, 0); n != len(p) || err != nil {
							t.Fatal(n, err)
						}
						if n, err := file.ReadAt(p, 0); n != len(p) || err != nil {
							t.Fatal(n, err)
						}
					}
				}
				calls := map[string]func(p []byte) (int, error){
					"ReadAt":  func(p []byte) (int, error) { return file.ReadAt(p, 3*pageSize) },
					"Read":    file.Read,
					"WriteAt": func(p []byte) (int, error) { return file.WriteAt(p, 3*pageSize) },
					"Write":   file.Write,
				}
				for what, call := range calls {
					type buffer struct {
						kind string
						p    []byte
					}
					buffers := []buffer{{"stale pages", stale[:2*pageSize]}, {"stale", stale[:100]}}
					if strings.HasPrefix(what, "Read") {
						buffers = append(buffers, buffer{"read-only", readOnly.Data()[:100]})
					}
					for _, buffer := range buffers {
						kind, p := buffer.kind, buffer.p
						if _, err := file.Seek(0, io.SeekStart); err != nil {
							t.Fatal(err)
						}
						mustFinish(t, what, func() {
							n, err := call(p)
							var path *fs.PathError
							if n != 0 || !errors.Is(err, syscall.EFAULT) || !errors.As(err, &path) {
								t.Errorf("%s with a %s buffer, mapped %v: %d bytes and %T %v, want EFAULT in a *fs.PathError",
									what, kind, mapped, n, err, err)
							}
						})
						faults++
						if pos, err := file.Seek(0, io.SeekCurrent); pos != 0 || err != nil {
							t.Errorf("%s with a %s buffer moves the position to %d (%v)", what, kind, pos, err)
						}
					}
				}
				// No lock is left held and no byte changed.
				mustFinish(t, "the file after a bad buffer", func() {
					p := make([]byte, shrinkableSize)
					if n, err := file.ReadAt(p, 0); n != len(p) || err != nil {
						t.Errorf("ReadAt after a bad buffer: %d bytes and error %v", n, err)
					}
					mustEqual(t, "the bytes after a bad buffer", p, patternFrom(0, int(shrinkableSize)))
					if n, err := file.WriteAt(p[:10], 0); n != 10 || err != nil {
						t.Errorf("WriteAt after a bad buffer: %d bytes and error %v", n, err)
					}
				})
				if blamed != nil && blamed.Load() > 0 {
					t.Errorf("mapped %v: the handler was told of %d faults in the file, which had none", mapped, blamed.Load())
				}
				file.Close()
			}
			readOnly.Close()
			report(t, "%d calls with a buffer that faults", faults)
		})
	})
}
