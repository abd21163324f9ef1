package limits_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// Catches an allocation on the way that most calls take.
func TestReadsDoNotAllocate(t *testing.T) {
	testkit.NeedMaps(t)
	const size = 4 * testkit.Mebibyte
	dir := testkit.TestDir(t)
	data := testkit.Content(size)
	name := testkit.WriteFile(t, dir, "file", data)
	for _, test := range []struct {
		name   string
		config *memmapfs.Config
		flags  int
	}{
		{"read-only", memmapfs.DefaultConfig(), os.O_RDONLY},
		{"read-write", testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever), os.O_RDWR},
		{"copy-on-write", testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever), os.O_RDONLY},
		{"windows", testkit.Windowed(memmapfs.ModeReadOnly, testkit.Mebibyte), os.O_RDONLY},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := testkit.MustOpen(t, testkit.Mode{Name: test.name, Config: test.config}.OverOS(t), name, test.flags)
			testkit.MapNow(file)
			buffer := make([]byte, 64)
			offset := int64(0)
			next := func() int64 {
				offset = (offset + 1_000_003) % (size - 64)
				return offset
			}
			calls := map[string]func() error{
				"ReadAt": func() error { _, err := file.ReadAt(buffer, next()); return err },
				"Read":   func() error { _, err := file.Read(buffer); return err },
			}
			if test.config.Mode == memmapfs.ModeReadWrite {
				calls["WriteAt"] = func() error { at := next(); _, err := file.WriteAt(data[at:at+64], at); return err }
			}
			for name, call := range calls {
				for range 4 * size / testkit.PageSize { // every page is known by then
					if err := call(); err != nil {
						t.Fatal(name, err)
					}
					if name == "Read" {
						file.Seek(next(), io.SeekStart)
					}
				}
				file.Seek(0, io.SeekStart)
				if allocations := testing.AllocsPerRun(1000, func() {
					if err := call(); err != nil {
						t.Fatal(name, err)
					}
				}); allocations != 0 {
					t.Errorf("%s of a mapped file: %v allocations", name, allocations)
				}
			}
		})
	}
}

// residentBytes returns the memory of this process that is resident, pages of mapped files included.
func residentBytes(t testing.TB) int64 {
	debug.FreeOSMemory() // what other tests have left in the heap is not this one's
	t.Helper()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("the system does not tell how much memory is resident:", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kibibytes, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kibibytes * testkit.Kibibyte
		}
	}
	t.Skip("the system does not tell how much memory is resident")
	return 0
}

// touchPages touches each page of a range through the map.
func touchPages(t *testing.T, file *memmapfs.MappedFile, off, n int64) {
	t.Helper()
	if err := file.View(off, n, func(b []byte) error {
		for at := int64(0); at < n; at += testkit.PageSize {
			if b[at] != 0 {
				return fmt.Errorf("byte %d of a hole is %d", off+at, b[at])
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// Catches bookkeeping whose size goes with the size of a file and not with what is used of it.
func TestSparseTiB(t *testing.T) {
	testkit.NeedMaps(t)
	const (
		size    = int64(1) << 40
		touched = 100 * testkit.Mebibyte
		allowed = 130 * testkit.Mebibyte
	)
	native := filepath.Join(testkit.TestDir(t), "sparse")
	if err := os.WriteFile(native, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(native, size); err != nil {
		t.Skip("no file of 1 TiB here:", err)
	}
	for _, test := range []struct {
		name  string
		areas int64 // of the same size, spread over the file; each costs what the kernel reads ahead
	}{{"one area", 1}, {"10 areas", 10}} {
		t.Run(test.name, func(t *testing.T) {
			before := residentBytes(t)
			start := time.Now()
			file := testkit.MustOpenMapped(t, testkit.Mode{Name: "default", Config: memmapfs.DefaultConfig()}.OverOS(t), osfs.FromNative(native), os.O_RDONLY)
			opened := time.Since(start)
			buffer := make([]byte, 4096) // on larger pages, too: a long read alone is no reason for a map
			for range 3 {
				for area := range test.areas {
					for offset := int64(0); offset < touched/test.areas; offset += int64(len(buffer)) {
						if _, err := file.ReadAt(buffer, area*(size/16)+offset); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			touchesAll := runtime.GOOS == "linux" && strconv.IntSize == 64 && !testkit.InMemory(native)
			if touchesAll {
				if !file.Mapped() {
					t.Error("the file is not mapped")
				}
				for area := range test.areas { // calls do so where it is cheap
					touchPages(t, file, area*(size/16), touched/test.areas)
				}
			}
			grown := residentBytes(t) - before
			t.Logf("opened in %v; resident memory grew by %d KiB for %d KiB touched", opened, grown/testkit.Kibibyte, touched/testkit.Kibibyte)
			if opened > 100*time.Millisecond {
				t.Errorf("opening took %v", opened)
			}
			if touchesAll && grown < touched/2 {
				t.Errorf("resident memory grew by %d KiB: the map was not used", grown/testkit.Kibibyte)
			}
			if grown > allowed && !testkit.RaceDetector { // which keeps a record of each word of the bookkeeping
				t.Errorf("resident memory grew by %d KiB, want at most %d", grown/testkit.Kibibyte, int64(allowed)/testkit.Kibibyte)
			}
		})
	}
}

// Catches a table that grows faster than the files in it, and descriptors kept for each map.
func TestTenThousandFiles(t *testing.T) {
	files := 10_000
	if testing.Short() {
		t.Skip("makes 10,000 files")
	}
	if testkit.OnWine {
		files = 1000 // it looks through all views to make one
	}
	testkit.NeedDescriptors(t, files)
	dir := testkit.TestDir(t)
	plain := testkit.PlainFileSystem(t)
	fileSystem := testkit.Mode{Name: "default", Config: memmapfs.DefaultConfig()}.OverOS(t)
	names := make([]string, files)
	for i := range names {
		names[i] = testkit.WriteFile(t, dir, strconv.Itoa(i), []byte("file "+strconv.Itoa(i)))
	}

	// heapAfter opens every file and returns what that took per file.
	heapAfter := func(open func(name string) absfs.File) (heap int64, spent time.Duration) {
		var before, after runtime.MemStats
		opened := make([]absfs.File, 0, files)
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		for _, name := range names {
			opened = append(opened, open(name))
		}
		spent = time.Since(start)
		runtime.GC()
		runtime.ReadMemStats(&after)
		buffer := make([]byte, 100)
		for i, file := range opened {
			n, err := file.ReadAt(buffer, 0)
			if want := "file " + strconv.Itoa(i); string(buffer[:n]) != want || err != io.EOF {
				t.Fatalf("read %q, %v; want %q, io.EOF", buffer[:n], err, want)
			}
		}
		for _, file := range opened {
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return int64(after.HeapAlloc-before.HeapAlloc) / int64(files), spent / time.Duration(files)
	}

	for _, way := range []struct {
		name string
		open func(name string) absfs.File
	}{
		{"osfs", func(name string) absfs.File { return mustOpenOnly(t, plain, name) }},
		{"memmapfs, not mapped", func(name string) absfs.File { return mustOpenOnly(t, fileSystem, name) }},
		{"memmapfs, mapped", func(name string) absfs.File {
			file := mustOpenOnly(t, fileSystem, name)
			testkit.MapNow(file)
			if runtime.GOOS == "linux" && !testkit.AsMapped(t, file).Mapped() {
				t.Fatal("not mapped")
			}
			return file
		}},
	} {
		heap, spent := heapAfter(way.open)
		t.Logf("%-20s  %5d bytes of heap per open file, %v per open", way.name, heap, spent)
		if heap > 4*testkit.Kibibyte {
			t.Errorf("%s: %d bytes of heap per open file", way.name, heap)
		}
	}
}

func mustOpenOnly(t testing.TB, fileSystem absfs.FileSystem, name string) absfs.File {
	t.Helper()
	file, err := fileSystem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
