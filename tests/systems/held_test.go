package systems_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// removableFS is the operating system's filesystem, whose open files can be removed and renamed on
// Windows too. Its files offer their descriptor.
type removableFS struct{ absfs.FileSystem }

func (r removableFS) Open(name string) (absfs.File, error) { return r.OpenFile(name, os.O_RDONLY, 0) }

func (r removableFS) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := testkit.OpenRemovable(osfs.ToNative(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// mappedFileChanges are the ways to change a file by its name, and by another handle.
var mappedFileChanges = map[string]func(fileSystem absfs.FileSystem, dir string) error{
	"Truncate": func(fileSystem absfs.FileSystem, dir string) error {
		return fileSystem.Truncate(path.Join(dir, "file"), 100)
	},
	"Truncate by another handle": func(fileSystem absfs.FileSystem, dir string) error {
		file, err := fileSystem.OpenFile(path.Join(dir, "file"), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(file.Truncate(100), file.Close())
	},
	"OpenFile with O_TRUNC": func(fileSystem absfs.FileSystem, dir string) error {
		file, err := fileSystem.OpenFile(path.Join(dir, "file"), os.O_RDWR|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		return file.Close()
	},
	"Remove": func(fileSystem absfs.FileSystem, dir string) error {
		return fileSystem.Remove(path.Join(dir, "file"))
	},
	"RemoveAll": func(fileSystem absfs.FileSystem, dir string) error {
		return fileSystem.RemoveAll(path.Join(dir, "file"))
	},
	"Rename": func(fileSystem absfs.FileSystem, dir string) error {
		return fileSystem.Rename(path.Join(dir, "file"), path.Join(dir, "renamed"))
	},
	"Rename onto it": func(fileSystem absfs.FileSystem, dir string) error {
		return fileSystem.Rename(path.Join(dir, "other"), path.Join(dir, "file"))
	},
}

// TestChangeOfMappedFile catches a map of this filesystem that keeps a file from being truncated, removed
// or replaced where the plain file could be, private pages lost over it, and slices that outlive it.
func TestChangeOfMappedFile(t *testing.T) {
	testkit.NeedMaps(t)
	const size = 100_000
	// prepared makes the directory that a change works on and opens its file.
	prepared := func(t *testing.T, fileSystem absfs.FileSystem) (dir string, file absfs.File) {
		native := testkit.TestDir(t)
		testkit.WriteFile(t, native, "file", testkit.Content(size))
		testkit.WriteFile(t, native, "other", []byte("another file"))
		dir = osfs.FromNative(native)
		return dir, testkit.MustOpen(t, fileSystem, path.Join(dir, "file"), os.O_RDWR)
	}
	// outcome describes what there is afterwards, as the open file and the directory show it.
	outcome := func(t *testing.T, dir string, file absfs.File, err error) string {
		var text strings.Builder
		if err != nil {
			text.WriteString("an error\n")
			t.Log(err)
		}
		entries, _ := os.ReadDir(osfs.ToNative(dir))
		for _, entry := range entries {
			data, err := os.ReadFile(filepath.Join(osfs.ToNative(dir), entry.Name()))
			fmt.Fprintf(&text, "%s: %d bytes, %x, %v\n", entry.Name(), len(data), data[:min(len(data), 20)], err != nil)
		}
		info, err := file.Stat()
		fmt.Fprintf(&text, "open: %v", err != nil)
		if err == nil {
			p := make([]byte, size+1)
			n, err := file.ReadAt(p, 0)
			fmt.Fprintf(&text, ", %d bytes, read %d, %x, %v\n", info.Size(), n, p[:min(n, 20)], err)
		}
		return text.String()
	}
	for what, change := range mappedFileChanges {
		t.Run(what, func(t *testing.T) {
			base := removableFS{testkit.PlainFileSystem(t)}
			dir, file := prepared(t, base)
			want := outcome(t, dir, file, change(base, dir))
			testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
				if m.CopyOnWrite() && what == "Truncate by another handle" {
					return // which refuses that
				}
				fileSystem := m.Over(t, base)
				dir, file := prepared(t, fileSystem)
				mapped := testkit.AsMapped(t, file)
				if mapped.Data() == nil {
					t.Fatal("not mapped")
				}
				got := outcome(t, dir, file, change(fileSystem, dir))
				if got != want {
					t.Errorf("got\n%swant\n%s", got, want)
				}
				info, err := file.Stat()
				if err != nil {
					t.Fatal(err)
				}
				if info.Size() == 0 {
					return
				}
				data := mapped.Data()
				if data == nil {
					t.Fatal("it is not mapped again")
				}
				first := make([]byte, 10)
				if _, err := file.ReadAt(first, 0); err != nil || !bytes.Equal(first, data[:10]) {
					t.Errorf("Data holds % x, ReadAt gives % x, %v", data[:10], first, err)
				}
			}, testkit.Wrapped)
		})
	}
}

// TestPrivatePagesOutliveChange catches private pages that are lost when their map is taken away so that
// the file can be renamed: written by call, in Data, and in View.
func TestPrivatePagesOutliveChange(t *testing.T) {
	testkit.NeedMaps(t)
	const size = 300_001
	stores := map[string]func(file *memmapfs.MappedFile, p []byte, off int64) error{
		"WriteAt": func(file *memmapfs.MappedFile, p []byte, off int64) error {
			_, err := file.WriteAt(p, off)
			return err
		},
		"Data": func(file *memmapfs.MappedFile, p []byte, off int64) error {
			copy(file.Data()[off:], p)
			return nil
		},
		"View": func(file *memmapfs.MappedFile, p []byte, off int64) error {
			return file.View(off, int64(len(p)), func(b []byte) error {
				copy(b, p)
				return nil
			})
		},
	}
	for what, store := range stores {
		testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
			if m.Windowed() && what != "WriteAt" {
				return // by windows, Data and View lend no bytes to store to
			}
			t.Run(what, func(t *testing.T) {
				dir := testkit.TestDir(t)
				fileSystem := m.Over(t, removableFS{testkit.PlainFileSystem(t)})
				name := testkit.WriteFile(t, dir, "file", testkit.Content(size))
				file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
				want := testkit.Content(size)
				for round, off := range []int64{10, 4090, size - 7, 123_456} {
					p := []byte(fmt.Sprint("round", round))
					copy(want[off:], p)
					if err := store(file, p, off); err != nil {
						t.Fatal(err)
					}
					renamed := fmt.Sprint(name, round)
					if err := fileSystem.Rename(name, renamed); err != nil {
						t.Fatal(err)
					}
					name = renamed
					got := make([]byte, size)
					for range 2 {
						if n, err := file.ReadAt(got, 0); n != size || err != nil {
							t.Fatal(n, err)
						}
						testkit.MustEqual(t, fmt.Sprint("after round ", round), got, want)
						testkit.ForceMap(file)
					}
				}
				testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), testkit.Content(size))
			})
		}, testkit.Mode.CopyOnWrite)
	}
}

// TestRemoveTreeOfMappedFiles catches maps below a directory that would keep it from being removed, and
// maps elsewhere that are taken away with them. The base does no more than try whether a file is held.
func TestRemoveTreeOfMappedFiles(t *testing.T) {
	testkit.NeedMaps(t)
	dir := testkit.TestDir(t)
	branch := filepath.Join(dir, "tree", "branch")
	if err := os.MkdirAll(branch, 0o755); err != nil {
		t.Fatal(err)
	}
	base := triedFS{testkit.PlainFileSystem(t), func() error { return os.Truncate(filepath.Join(branch, "file"), 10) }}
	fileSystem := testkit.Mode{Name: "default", Config: memmapfs.DefaultConfig()}.Over(t, base)
	inside := testkit.MustOpenMapped(t, fileSystem, testkit.WriteFile(t, branch, "file", testkit.Content(5000)), os.O_RDONLY)
	outside := testkit.MustOpenMapped(t, fileSystem, testkit.WriteFile(t, dir, "file", testkit.Content(5000)), os.O_RDONLY)
	testkit.ForceMap(inside)
	data := outside.Data()
	if err := fileSystem.RemoveAll(osfs.FromNative(filepath.Join(dir, "tree"))); err != nil {
		t.Error(err)
	}
	testkit.MustEqual(t, "Data of a file elsewhere", data, testkit.Content(5000))
	if n, err := inside.ReadAt(make([]byte, 20), 0); n != 10 || err != io.EOF {
		t.Errorf("the file: %d bytes, %v", n, err)
	}
}

// triedFS calls try in place of RemoveAll.
type triedFS struct {
	absfs.FileSystem
	try func() error
}

func (f triedFS) RemoveAll(string) error { return f.try() }

// TestViewHoldsFile catches a change under a running View, or under a map of another MemMapFS, that does
// harm where the system refuses it, and a refusal that does not say what to do.
func TestViewHoldsFile(t *testing.T) {
	testkit.NeedMaps(t)
	if !testkit.MapsHoldFiles {
		t.Skip(runtime.GOOS + " does not refuse to shrink a mapped file")
	}
	const size = 100_000
	refused := func(t *testing.T, what string, err error) {
		t.Helper()
		var path *fs.PathError
		if !errors.As(err, &path) || !errors.Is(err, testkit.UserMappedFile) || !strings.Contains(err.Error(), "View") {
			t.Errorf("%s: %T %v, want a *fs.PathError wrapping %d that says what to do", what, err, err, testkit.UserMappedFile)
		}
	}
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		dir := testkit.TestDir(t)
		fileSystem := m.OverOS(t)
		name := testkit.WriteFile(t, dir, "file", testkit.Content(size))
		file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
		shrink := func(when string) {
			if !m.CopyOnWrite() {
				refused(t, "Truncate "+when, file.Truncate(10))
			}
			refused(t, "Truncate by name "+when, fileSystem.Truncate(name, 10))
			_, err := fileSystem.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0)
			refused(t, "O_TRUNC "+when, err)
			testkit.MustEqual(t, "the file, "+when, testkit.ReadNative(t, name), testkit.Content(size))
			got := make([]byte, size)
			if n, err := file.ReadAt(got, 0); n != size || err != nil {
				t.Fatal(n, err)
			}
			testkit.MustEqual(t, "what is read, "+when, got, testkit.Content(size))
		}
		err := file.View(0, size, func(b []byte) error {
			shrink("inside View")
			testkit.MustEqual(t, "the bytes of the View", b, testkit.Content(size))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		other := testkit.MustOpenMapped(t, memmapfs.New(testkit.PlainFileSystem(t), nil), name, os.O_RDONLY)
		testkit.MustEqual(t, "Data of another MemMapFS", other.Data(), testkit.Content(size))
		shrink("with a map of another MemMapFS")
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		if err := fileSystem.Truncate(name, 10); err != nil {
			t.Error("when nothing holds the file:", err)
		}
		if n, err := file.ReadAt(make([]byte, 20), 0); n != 10 || err != io.EOF {
			t.Errorf("after Truncate: %d bytes, %v", n, err)
		}
	}, testkit.Wrapped)
}
