// Package testkit is what the suites below tests and the tests of the root share: the table of modes,
// files to compare, child processes, disks, and the rights that a test needs. No program imports it.
package testkit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// ReadAll reads from the position to the end, which must go well.
func ReadAll(t *testing.T, file absfs.File) []byte {
	t.Helper()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, info.Size())
	if _, err := file.ReadAt(data, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return data
}

// FlagNames writes the flags of OpenFile as a program does.
func FlagNames(flags int) string {
	name := map[int]string{os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}[flags&(os.O_WRONLY|os.O_RDWR)]
	for _, option := range []struct {
		flag int
		name string
	}{
		{os.O_CREATE, "O_CREATE"}, {os.O_APPEND, "O_APPEND"}, {os.O_TRUNC, "O_TRUNC"}, {os.O_EXCL, "O_EXCL"}, {os.O_SYNC, "O_SYNC"},
	} {
		if flags&option.flag != 0 {
			name += "|" + option.name
		}
	}
	return name
}

// Workers are goroutines that a test waits for.
type Workers struct{ sync.WaitGroup }

// Start starts one more.
func (w *Workers) Start(work func()) {
	w.Add(1)
	go func() {
		defer w.Done()
		work()
	}()
}

// Recovered returns what work panics with.
func Recovered(work func()) (value any) {
	defer func() { value = recover() }()
	work()
	return nil
}

var (
	SeedFlag  = flag.Uint64("seed", 0, "seed of the random operation sequences; 0 takes a new one and prints it")
	DirFlag   = flag.String("dir", "", "where the differential test makes its files; empty is the directory for temporary files")
	StepsFlag = flag.Int("steps", 0, "steps of each random operation sequence; 0 is 10,000, fewer with -short and -race")
)

// PageSize is the size of a page of memory.
var PageSize = int64(os.Getpagesize())

// RaceDetector tells whether the tests were built with -race, under which system calls and copies
// cost several times as much.
var RaceDetector = func() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, setting := range info.Settings {
		if setting.Key == "-race" {
			return setting.Value == "true"
		}
	}
	return false
}()

// Content returns size bytes that repeat at no page or window size, so that bytes read from a wrong
// page or window differ from the right ones.
func Content(size int) []byte {
	data := make([]byte, size)
	random := rand.New(rand.NewPCG(uint64(size), 0))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return data
}

// PlainFileSystem returns the filesystem that every result is compared with.
func PlainFileSystem(t testing.TB) absfs.FileSystem {
	t.Helper()
	plain, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// TestDir returns a new directory. When the test ends, nothing in the directory may be mapped or open
// any more and no goroutine may have been left behind.
func TestDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	goroutines := runtime.NumGoroutine()
	t.Cleanup(func() {
		if t.Failed() {
			return // a test that stopped half-way leaves files open
		}
		var left []string
		clean := Eventually(func() bool {
			left = append(MappedUnder(t, dir), OpenUnder(t, dir)...)
			if n := runtime.NumGoroutine(); n > goroutines {
				left = append(left, fmt.Sprintf("%d goroutines more than before", n-goroutines))
			}
			return len(left) == 0
		})
		if !clean {
			stacks := make([]byte, 1<<20)
			t.Errorf("left behind:\n%s\n%s", strings.Join(left, "\n"), stacks[:runtime.Stack(stacks, true)])
		}
	})
	return dir
}

// Eventually polls done, with a garbage collection before each call, for at most ten seconds. Mappings
// that the garbage collector gives back and goroutines that were told to stop need a moment.
func Eventually(done func() bool) bool {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		runtime.GC()
	}
}

// MappedUnder returns the lines of /proc/self/maps for files in dir; elsewhere than on Linux, none.
func MappedUnder(t testing.TB, dir string) []string {
	if runtime.GOOS != "linux" {
		return nil
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, dir+"/") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// OpenUnder returns this process's open files in dir; elsewhere than on Linux, none.
func OpenUnder(t testing.TB, dir string) []string {
	if runtime.GOOS != "linux" {
		return nil
	}
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, descriptor := range descriptors {
		name, err := os.Readlink("/proc/self/fd/" + descriptor.Name())
		if err == nil && strings.HasPrefix(name, dir+"/") {
			found = append(found, "descriptor "+descriptor.Name()+" of "+name)
		}
	}
	return found
}

// WriteFile makes a file of that content, around the filesystem under test, and returns its absfs name.
func WriteFile(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	native := filepath.Join(dir, name)
	if err := os.WriteFile(native, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return osfs.FromNative(native)
}

// ReadNative reads a file around the filesystem under test.
func ReadNative(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(osfs.ToNative(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// MustOpen opens name, and closes it when the test ends unless the test did.
func MustOpen(t testing.TB, fileSystem absfs.FileSystem, name string, flags int) absfs.File {
	t.Helper()
	file, err := fileSystem.OpenFile(name, flags, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// MustOpenMapped is mustOpen for a filesystem that is not the plain one.
func MustOpenMapped(t testing.TB, fileSystem absfs.FileSystem, name string, flags int) *memmapfs.MappedFile {
	t.Helper()
	return AsMapped(t, MustOpen(t, fileSystem, name, flags))
}

// AsMapped fails the test unless file is a MappedFile.
func AsMapped(t testing.TB, file fs.File) *memmapfs.MappedFile {
	t.Helper()
	mapped, ok := file.(*memmapfs.MappedFile)
	if !ok {
		t.Fatalf("opened a %T, want *memmapfs.MappedFile", file)
	}
	return mapped
}

// ForceMap makes the map now that otherwise the first need would make. A plain file is left alone.
func ForceMap(file fs.File) {
	if mapped, ok := file.(*memmapfs.MappedFile); ok {
		mapped.Data()
	}
}

// MustFinish fails the test when work takes longer than half a minute: a hung call shows as its own
// failure and not as the time limit of the whole run.
func MustFinish(t testing.TB, what string, work func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s hangs:\n%s", what, stacks[:runtime.Stack(stacks, true)])
	}
}

// MustEqual compares long contents without printing them.
func MustEqual(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if diff := FirstDifference(got, want); diff != "" {
		t.Fatalf("%s: %s", what, diff)
	}
}

// FirstDifference describes how got differs from want; empty when it does not.
func FirstDifference(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("%d bytes, want %d; first difference at %d (page %d + %d): % x, want % x", len(got), len(want),
		at, int64(at)/PageSize, int64(at)%PageSize, got[at:min(at+16, len(got))], want[at:min(at+16, len(want))])
}

// windowsNegativeSeek is ERROR_NEGATIVE_SEEK.
const windowsNegativeSeek = syscall.Errno(131)

// ErrorClass reduces an error to what a caller can act on, so that a plain file and a mapped one can be
// compared. It joins what the two may say differently by contract and nothing else:
//
//   - "invalid": EINVAL, on Windows ERROR_NEGATIVE_SEEK, fs.ErrInvalid, and package os's unnamed error for negative offsets;
//   - "append": package os's unnamed error for WriteAt on a file opened with O_APPEND.
//
// An io.EOF that is wrapped, and an error of a call on an open file that is no *fs.PathError, have
// classes of their own, which no plain file has.
func ErrorClass(err error) string {
	var path *fs.PathError
	var number syscall.Errno
	switch {
	case err == nil:
		return "nil"
	case err == io.EOF:
		return "EOF"
	case errors.Is(err, io.EOF):
		return "wrapped EOF"
	case strings.Contains(err.Error(), "O_APPEND"):
		return "append" // package os returns this one bare
	case !errors.As(err, &path):
		return "not a PathError: " + err.Error()
	case errors.Is(err, fs.ErrClosed):
		return "closed"
	case errors.Is(err, memmapfs.ErrWriteToReadOnlyMap):
		return "read-only map"
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.EINVAL), strings.HasSuffix(err.Error(), "negative offset"),
		errors.As(err, &number) && number == windowsNegativeSeek && runtime.GOOS == "windows":
		return "invalid"
	case errors.As(err, &number):
		return number.Error()
	}
	return path.Err.Error()
}

// CheckPathError fails the test unless err is a *fs.PathError about the file that was named.
func CheckPathError(t testing.TB, what string, err error, name string) {
	t.Helper()
	var path *fs.PathError
	if !errors.As(err, &path) {
		t.Errorf("%s: %T %v, want a *fs.PathError", what, err, err)
		return
	}
	if path.Op == "" || path.Path != name && path.Path != osfs.ToNative(name) { // osfs says the native one
		t.Errorf("%s: op %q path %q, want a name for the operation and path %q", what, path.Op, path.Path, name)
	}
}

// CreateFile makes a file through the filesystem itself, and returns its name.
func CreateFile(t testing.TB, fileSystem absfs.FileSystem, name string, data []byte) string {
	t.Helper()
	file, err := fileSystem.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// SparseFile makes a file of size bytes whose only content is each mark's own offset, in eight bytes.
func SparseFile(t testing.TB, dir string, size int64, marks ...int64) string {
	t.Helper()
	native := filepath.Join(dir, "sparse")
	file, err := os.Create(native)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, mark := range marks {
		if _, err := file.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(mark)), mark); err != nil {
			t.Fatal(err)
		}
	}
	return osfs.FromNative(native)
}
