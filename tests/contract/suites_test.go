package contract_test

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/absfs/absfs"
	"github.com/absfs/fstesting"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// Catches reads that stop short or fail at the edges that mapping brings in: the empty file, which
// cannot be mapped, and ends of files just before, on and after a page. Once as opened, where calls go
// to the file until a map pays, and once with the map made before the first read.
func TestReader(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		sizes := []int{0, 1, 4095, 4096, 4097, 100_000}
		check := func(t *testing.T, fileSystem absfs.FileSystem, name func(size int) string) {
			for _, size := range sizes {
				for _, forced := range []bool{false, true} {
					t.Run(fmt.Sprintf("%d bytes, map forced %v", size, forced), func(t *testing.T) {
						file := testkit.MustOpen(t, fileSystem, name(size), os.O_RDONLY)
						if forced {
							testkit.ForceMap(file)
						}
						if err := iotest.TestReader(file, testkit.Content(size)); err != nil {
							t.Error(err)
						}
					})
				}
			}
		}
		t.Run("over osfs", func(t *testing.T) {
			dir := testkit.TestDir(t)
			check(t, m.OverOS(t), func(size int) string { return testkit.WriteFile(t, dir, fmt.Sprint(size), testkit.Content(size)) })
		})
		t.Run("over memfs", func(t *testing.T) {
			memory := m.OverMemory(t)
			check(t, memory, func(size int) string {
				return testkit.CreateFile(t, memory, fmt.Sprintf("/%d", size), testkit.Content(size))
			})
		})
	})
}

// Catches a Sub whose files bypass the mapping layer, and directories and files that break the rules of
// io/fs when they come wrapped.
func TestSub(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		dir := testkit.TestDir(t)
		files := map[string][]byte{
			"empty":            nil,
			"page":             testkit.Content(int(testkit.PageSize)),
			"directory/odd":    testkit.Content(int(3*testkit.PageSize + 7)),
			"directory/a/deep": testkit.Content(10),
		}
		var names []string
		for name, data := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			testkit.WriteFile(t, dir, name, data)
			names = append(names, name)
		}
		sub, err := m.OverOS(t).Sub(osfs.FromNative(dir))
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" { // where osfs takes a backslash too, and TestFS wants it refused
			if err := fstest.TestFS(sub, names...); err != nil {
				t.Error(err)
			}
		}
		if m.Plain() {
			return
		}
		nested, err := fs.Sub(sub, "directory")
		if err != nil {
			t.Fatal(err)
		}
		file, err := nested.Open("odd")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		mapped := testkit.AsMapped(t, file)
		if data := mapped.Data(); !m.Windowed() {
			testkit.MustEqual(t, "mapped through Sub", data, files["directory/odd"])
		}
		data, err := io.ReadAll(file)
		if err != nil {
			t.Fatal(err)
		}
		testkit.MustEqual(t, "read through Sub", data, files["directory/odd"])
	})
}

// osFeatures is what plain osfs passes: all that the operating system has.
func osFeatures() fstesting.Features {
	features := fstesting.OSFeatures()
	if runtime.GOOS == "darwin" {
		features.CaseSensitive = false // as in the tests of osfs: the default there folds case
	}
	if runtime.GOOS == "wasip1" {
		features.Symlinks = false // it refuses links to absolute names
	}
	return features
}

// memoryFeatures is what memfs declares in its own tests.
var memoryFeatures = fstesting.Features{
	Symlinks:      true,
	Permissions:   true,
	Timestamps:    true,
	CaseSensitive: true,
	AtomicRename:  true,
	LargeFiles:    true,
}

// Catches every difference between a wrapped filesystem and its base that the suite of the absfs family
// looks for. The plain row shows that the base passes all of it.
func TestSuite(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		t.Run("over osfs", func(t *testing.T) {
			suite := fstesting.Suite{
				TestDir:  osfs.FromNative(testkit.TestDir(t)),
				FS:       m.OverOS(t),
				Features: osFeatures(),
			}
			suite.Run(t)
		})
		t.Run("over memfs", func(t *testing.T) {
			suite := fstesting.Suite{FS: m.OverMemory(t), Features: memoryFeatures}
			suite.Run(t)
		})
	})
}

// Catches a wrapper that changes, loses or delays what is written through it.
func TestWrapperSuite(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		wrap := func(base absfs.FileSystem) (absfs.FileSystem, error) { return m.Over(t, base), nil }
		t.Run("over osfs", func(t *testing.T) {
			suite := fstesting.WrapperSuite{
				Name:    "memmapfs " + m.Name,
				TestDir: osfs.FromNative(testkit.TestDir(t)),
				BaseFS:  testkit.PlainFileSystem(t),
				Factory: wrap,
			}
			suite.Run(t)
		})
		t.Run("over memfs", func(t *testing.T) {
			suite := fstesting.WrapperSuite{Name: "memmapfs " + m.Name, BaseFS: testkit.MemoryFileSystem(t), Factory: wrap}
			suite.Run(t)
		})
	})
}

// The interfaces that callers look for by type assertion.
var (
	_ absfs.SymlinkFileSystem = (*memmapfs.MemMapFS)(nil)
	_ io.Closer               = (*memmapfs.MemMapFS)(nil)
	_ absfs.File              = (*memmapfs.MappedFile)(nil)
	_ fs.ReadDirFile          = (*memmapfs.MappedFile)(nil)
	_ io.WriterTo             = (*memmapfs.MappedFile)(nil)
	_ io.ReaderFrom           = (*memmapfs.MappedFile)(nil)
)
