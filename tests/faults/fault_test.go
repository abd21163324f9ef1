package faults_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// A fault that is not caught ends the process, so every test here runs its body in a process of its own.

// truncatorVariable names the file that a process is to truncate, over and over.
const truncatorVariable = "MEMMAPFS_TEST_TRUNCATOR"

func TestMain(m *testing.M) {
	if name := os.Getenv(truncatorVariable); name != "" {
		truncateOverAndOver(name)
		return
	}
	os.Exit(m.Run())
}

// Sizes of the file that the truncator works on. It never touches the stable part, where every call has
// to give complete and right results throughout.
var (
	stormSize  = 64 * testkit.PageSize
	stableSize = 8 * testkit.PageSize
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
	pattern := testkit.PatternFrom(0, int(stormSize))
	truncations := 0
	for ; !stopped.Load(); truncations++ {
		size := stableSize + rand.Int64N(stormSize-stableSize)
		if rand.IntN(2) == 0 {
			size -= size % testkit.PageSize
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
	process := testkit.ThisProgram(t)
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
	testkit.NeedShrinking(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) { newStorm(t, m).run() })
	}, func(m testkit.Mode) bool { return rows[m.Name] })
}

// storm is eight goroutines that use a file which another process truncates.
type storm struct {
	t       *testing.T
	m       testkit.Mode
	native  string
	file    absfs.File // used by seven of them, one of which has the position
	copied  absfs.File // used by WriteTo
	stopped atomic.Bool
	calls   atomic.Int64
	views   atomic.Int64 // that ended in a fault
	faults  *atomic.Int64
}

func newStorm(t *testing.T, m testkit.Mode) *storm {
	dir := testkit.TestDir(t)
	testkit.WriteFile(t, dir, "file", testkit.PatternFrom(0, int(stormSize)))
	s := &storm{t: t, m: m, native: filepath.Join(dir, "file"), faults: new(atomic.Int64)}
	fileSystem := m.OverOS(t)
	s.file = testkit.MustOpen(t, fileSystem, osfs.FromNative(s.native), os.O_RDWR)
	s.copied = testkit.MustOpen(t, fileSystem, osfs.FromNative(s.native), os.O_RDONLY)
	if !m.Plain() {
		s.faults = testkit.CountFaults(t, testkit.AsMapped(t, s.file), testkit.AsMapped(t, s.copied))
	}
	return s
}

func (s *storm) run() {
	stop := startTruncator(s.t, s.native)
	work := []func(){s.readAt, s.readAt, s.read, s.writeAt, s.writeAt, s.sync, s.view, s.writeTo}
	if s.m.Plain() || testkit.Emulated { // qemu tells no address, so a View cannot know a fault in bytes that are back
		work[6] = s.readAt
	}
	var goroutines testkit.Workers
	for _, call := range work {
		goroutines.Start(func() {
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
	for deadline := time.Now().Add(20 * time.Second); !s.m.Plain() && s.faults.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(duration) // a machine with much else to do
	}
	s.stopped.Store(true)
	testkit.MustFinish(s.t, "a call on a truncated file", goroutines.Wait)
	truncations := stop()
	testkit.Report(s.t, "%d truncations by another process; %d calls, %d faults caught, %d of them in View",
		truncations, s.calls.Load(), s.faults.Load(), s.views.Load())
	if !s.m.Plain() && s.faults.Load() == 0 {
		s.t.Error("no call met a fault: the test tests nothing")
	}
	s.checkAgreement()
	s.file.Close()
	s.copied.Close()
}

// somewhere returns a random range of the file.
func (s *storm) somewhere() (off int64, n int) {
	n = 1 + rand.IntN(int(3*testkit.PageSize))
	if rand.IntN(2) == 0 {
		n = 8
	}
	return rand.Int64N(stormSize - int64(n)), n
}

// checkBytes fails the test if p, read at off, has bytes that were never in the file.
func (s *storm) checkBytes(what string, p []byte, off int64) {
	if i := testkit.NotPattern(p, off, stableSize); i >= 0 {
		s.t.Errorf("%s: byte %d is %#x, want %#x, or 0 from %d on", what, off+int64(i), p[i], testkit.PatternAt(off+int64(i)), stableSize)
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
	p := testkit.PatternFrom(off, n)
	n, err := s.file.WriteAt(p, off)
	if s.m.CopyOnWrite() && errors.Is(err, errors.ErrUnsupported) && off+int64(len(p)) > stableSize && n < len(p) {
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
		if s.m.ReadWrite() && rand.IntN(2) == 0 {
			for i := range b {
				b[i] = testkit.PatternAt(off + int64(i))
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
	w := &testkit.PatternWriter{Check: func(p []byte, off int64) { s.checkBytes("WriteTo", p, off) }}
	n, err := io.Copy(w, s.copied)
	if n != w.Off || err != nil || n < stableSize {
		s.t.Errorf("WriteTo: %d bytes and error %v, %d written, want all and at least %d", n, err, w.Off, stableSize)
	}
}

// checkAgreement compares, after the truncator has gone, all ways to read the file with the file.
func (s *storm) checkAgreement() {
	t := s.t
	check := func(what string, got, want []byte) {
		t.Helper()
		if s.m.CopyOnWrite() { // private pages hold what the file held when they were written to
			if i := testkit.NotPattern(got, 0, stableSize); len(got) != len(want) || i >= 0 {
				t.Errorf("%s: %d bytes, want %d; byte %d is wrong", what, len(got), len(want), i)
			}
			return
		}
		testkit.MustEqual(t, what, got, want)
	}
	want := testkit.ReadNative(t, osfs.FromNative(s.native))
	testkit.MustEqual(t, "the file after the storm", want, testkit.PatternFrom(0, int(stormSize)))
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
	end := stableSize + testkit.PageSize
	testkit.ResizeAround(t, s.native, end)
	for range 2 {
		n, err := s.file.ReadAt(got[:2*testkit.PageSize], end-testkit.PageSize)
		if n != int(testkit.PageSize) || err != io.EOF {
			t.Errorf("ReadAt over the end: %d bytes and error %v", n, err)
		}
		if n, err := s.file.ReadAt(got[:1], end+testkit.PageSize); n != 0 || err != io.EOF {
			t.Errorf("ReadAt behind the end: %d bytes and error %v", n, err)
		}
	}
}

// TestCopyToPipeWhileTruncated catches a crash, a hang or invented bytes when the mapped file is the
// source of write(2): in io.Copy, and with the bytes of a View, where the system call meets the fault.
func TestCopyToPipeWhileTruncated(t *testing.T) {
	testkit.NeedShrinking(t)
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		name := testkit.WriteFile(t, dir, "file", testkit.PatternFrom(0, int(stormSize)))
		file := testkit.MustOpenMapped(t, memmapfs.New(testkit.PlainFileSystem(t), nil), name, os.O_RDONLY)
		defer file.Close()
		faults := testkit.CountFaults(t, file)
		stop := startTruncator(t, osfs.ToNative(name))
		check := func(p []byte, off int64) {
			if i := testkit.NotPattern(p, off, stableSize); i >= 0 {
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
		testkit.Report(t, "%d truncations; %d copies with %d faults caught; %d writes out of a View, %d with EFAULT",
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
	sink := &testkit.PatternWriter{Check: check}
	var receiver testkit.Workers
	receiver.Start(func() { io.Copy(sink, reader) })
	if err := write(writer); err != nil {
		t.Error("writing to the pipe:", err)
	}
	writer.Close()
	testkit.MustFinish(t, "a pipe", receiver.Wait)
	reader.Close()
	return sink.Off
}

// TestBadBuffer catches a crash, or blame for the file, when it is the caller's own buffer that faults:
// the error is that of a plain file.
func TestBadBuffer(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			dir := testkit.TestDir(t)
			donor := testkit.NewShrinkable(t, dir, nil)
			readOnly := testkit.NewShrinkable(t, dir, nil)
			stale := donor.Data()
			donor.Close()
			name := testkit.WriteFile(t, dir, "file", testkit.PatternFrom(0, int(testkit.ShrinkableSize)))
			faults := 0
			for _, mapped := range []bool{false, true} {
				file := testkit.MustOpen(t, m.OverOS(t), name, os.O_RDWR)
				var blamed *atomic.Int64
				if !m.Plain() {
					blamed = testkit.CountFaults(t, testkit.AsMapped(t, file))
				}
				if mapped {
					testkit.ForceMap(file)
					p := testkit.PatternFrom(0, int(testkit.ShrinkableSize))
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
					"ReadAt":  func(p []byte) (int, error) { return file.ReadAt(p, 3*testkit.PageSize) },
					"Read":    file.Read,
					"WriteAt": func(p []byte) (int, error) { return file.WriteAt(p, 3*testkit.PageSize) },
					"Write":   file.Write,
				}
				for what, call := range calls {
					type buffer struct {
						kind string
						p    []byte
					}
					buffers := []buffer{{"stale pages", stale[:2*testkit.PageSize]}, {"stale", stale[:100]}}
					if strings.HasPrefix(what, "Read") {
						buffers = append(buffers, buffer{"read-only", readOnly.Data()[:100]})
					}
					for _, buffer := range buffers {
						kind, p := buffer.kind, buffer.p
						if _, err := file.Seek(0, io.SeekStart); err != nil {
							t.Fatal(err)
						}
						testkit.MustFinish(t, what, func() {
							n, err := call(p)
							var path *fs.PathError
							if n != 0 || !testkit.IsBadBuffer(err) || !errors.As(err, &path) {
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
				testkit.MustFinish(t, "the file after a bad buffer", func() {
					p := make([]byte, testkit.ShrinkableSize)
					if n, err := file.ReadAt(p, 0); n != len(p) || err != nil {
						t.Errorf("ReadAt after a bad buffer: %d bytes and error %v", n, err)
					}
					testkit.MustEqual(t, "the bytes after a bad buffer", p, testkit.PatternFrom(0, int(testkit.ShrinkableSize)))
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
			testkit.Report(t, "%d calls with a buffer that faults", faults)
		})
	})
}
