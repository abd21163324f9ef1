package testkit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// PatternAt is the byte that the files of these tests have at an offset: never zero, so that it differs
// from a hole, and repeating at no page or window size.
func PatternAt(off int64) byte { return byte(off%patternPeriod) + 1 }

const patternPeriod = 251

// PatternFrom returns the n bytes of the pattern from off on.
func PatternFrom(off int64, n int) []byte {
	p := make([]byte, n)
	first := min(n, patternPeriod)
	for i := range p[:first] {
		p[i] = PatternAt(off + int64(i))
	}
	for filled := first; filled < n; filled *= 2 {
		copy(p[filled:], p[:filled])
	}
	return p
}

// NotPattern returns the index of the first byte of p, which was read at off, that is not the pattern's.
// From the offset holesFrom on zeros are allowed. It returns -1 if there is none.
func NotPattern(p []byte, off, holesFrom int64) int {
	for i, b := range p {
		if at := off + int64(i); b != PatternAt(at) && (b != 0 || at < holesFrom) {
			return i
		}
	}
	return -1
}

// CountFaults has the handler count the faults caught in files, from now on and for good: callbacks
// cannot be taken out again. It fails the test for a callback that breaks the contract.
func CountFaults(t *testing.T, files ...*memmapfs.MappedFile) *atomic.Int64 {
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

// FaultsWhenRead reports whether a load of the first byte of b faults, which only a child process may
// find out.
func FaultsWhenRead(b []byte) (faulted bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recovered := recover(); recovered != nil {
			faulted = true
		}
	}()
	Loaded.Store(uint32(b[0]))
	return false
}

// Loaded keeps loads of mapped bytes from being optimized away.
var Loaded atomic.Uint32

// PatternWriter takes the bytes of a file from its start on.
type PatternWriter struct {
	Off   int64
	Check func(p []byte, off int64)
}

// Write checks the bytes against the pattern.
func (w *PatternWriter) Write(p []byte) (int, error) {
	w.Check(p, w.Off)
	w.Off += int64(len(p))
	return len(p), nil
}

// Shrinkable is a mapped file of eight pages with the pattern, all of them known to be in memory and, in
// ModeReadWrite, ready to be stored to: an access after shrink is a fault.
type Shrinkable struct {
	*memmapfs.MappedFile
	t      *testing.T
	Native string
}

// ShrinkableSize is the size that a Shrinkable has at first.
var ShrinkableSize = 8 * PageSize

// NewShrinkable makes and opens a file full of the pattern.
func NewShrinkable(t *testing.T, dir string, config *memmapfs.Config) *Shrinkable {
	t.Helper()
	native := filepath.Join(dir, fmt.Sprintf("shrinkable %d", rand.Uint64()))
	pattern := PatternFrom(0, int(ShrinkableSize))
	if err := os.WriteFile(native, pattern, 0o644); err != nil {
		t.Fatal(err)
	}
	file := MustOpenMapped(t, memmapfs.New(PlainFileSystem(t), config), osfs.FromNative(native), os.O_RDWR)
	s := &Shrinkable{file, t, native}
	s.Warm()
	return s
}

// Warm maps the file and makes its pages known.
func (s *Shrinkable) Warm() {
	s.t.Helper()
	info, err := s.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	ForceMap(s.MappedFile)
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

// Resize changes the size of the file around the filesystem under test, as another process would.
func (s *Shrinkable) Resize(size int64) {
	s.t.Helper()
	ResizeAround(s.t, s.Native, size)
}
