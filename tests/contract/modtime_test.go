package contract_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// modTimeDirs are directories on filesystems that differ in when a store moves the modification time:
// on most the first store to a clean page does, and on tmpfs, where pages never become clean, the
// first of all.
func modTimeDirs(t *testing.T) map[string]string {
	dirs := map[string]string{"disk": testkit.TestDir(t)}
	if runtime.GOOS == "linux" {
		if memory, err := os.MkdirTemp("/dev/shm", "memmapfs"); err == nil {
			t.Cleanup(func() { os.RemoveAll(memory) })
			dirs["tmpfs"] = memory
		}
	}
	return dirs
}

var longAgo = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// setModTime sets the file's modification time around the filesystem under test.
func setModTime(t *testing.T, name string, to time.Time) {
	t.Helper()
	if err := os.Chtimes(osfs.ToNative(name), to, to); err != nil {
		t.Fatal(err)
	}
}

func modTime(t *testing.T, name string) time.Time {
	t.Helper()
	info, err := os.Stat(osfs.ToNative(name))
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// movedSince reports whether a file was modified at or after a time, by a clock that ticks coarsely: in
// an emulated machine with much else to do it was 330 ms late.
func movedSince(modified, at time.Time) bool { return !modified.Before(at.Add(-time.Second)) }

var modTimeConfigs = map[string]memmapfs.Config{
	"as a whole":            {MapFullFile: true},
	"windows of one page":   {WindowSize: 1, MaxWindows: 8},
	"windows of 64 KiB":     {WindowSize: 64 << 10},
	"read-only, as a whole": {Mode: memmapfs.ModeReadOnly, MapFullFile: true},
}

// eachModTime runs a test for each filesystem, configuration and SyncMode, with a file of ten pages.
func eachModTime(t *testing.T, test func(t *testing.T, fileSystem *memmapfs.MemMapFS, name string, stores bool)) {
	for where, dir := range modTimeDirs(t) {
		for what, config := range modTimeConfigs {
			for _, mode := range []memmapfs.SyncMode{memmapfs.SyncImmediate, memmapfs.SyncPeriodic, memmapfs.SyncLazy, memmapfs.SyncNever} {
				t.Run(fmt.Sprint(where, "/", what, "/", mode), func(t *testing.T) {
					stores := testkit.Mappable() && what != "read-only, as a whole"
					if stores {
						config.Mode = memmapfs.ModeReadWrite
					}
					config.SyncMode, config.SyncInterval = mode, time.Hour
					fileSystem := memmapfs.New(testkit.PlainFileSystem(t), &config)
					defer fileSystem.Close()
					test(t, fileSystem, testkit.WriteFile(t, dir, "file", testkit.Content(int(10*testkit.PageSize))), stores)
				})
			}
		}
	}
}

// warmModTime opens the file and makes one of its pages mapped, dirty, and ready to be stored to. Then
// the modification time is long ago, and a store does not move it.
func warmModTime(t *testing.T, fileSystem *memmapfs.MemMapFS, name string, stores bool) *memmapfs.MappedFile {
	t.Helper()
	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
	if stores {
		if err := file.View(0, 1, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := file.WriteAt([]byte("first"), 0); err != nil {
			t.Fatal(err)
		}
	}
	setModTime(t, name, longAgo)
	return file
}

// The calls by which the modification time must have moved.
var modTimeEnds = map[string]func(file *memmapfs.MappedFile) error{
	"Sync":  (*memmapfs.MappedFile).Sync,
	"Close": (*memmapfs.MappedFile).Close,
}

// Catches programs that look at modification times, to copy or to compile what is new, and are misled
// because the kernel does not see a store to a page that is dirty already.
func TestModTimeMoves(t *testing.T) {
	writes := map[string]func(file *memmapfs.MappedFile) error{
		"WriteAt": func(file *memmapfs.MappedFile) error {
			_, err := file.WriteAt([]byte("second"), 0)
			return err
		},
		"Write": func(file *memmapfs.MappedFile) error {
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				return err
			}
			_, err := file.Write([]byte("second"))
			return err
		},
		"first write to another page": func(file *memmapfs.MappedFile) error {
			_, err := file.WriteAt([]byte("second"), 5*testkit.PageSize)
			return err
		},
		"stores to many windows": func(file *memmapfs.MappedFile) error {
			for range 2 {
				for page := range int64(10) {
					if _, err := file.WriteAt([]byte("second"), page*testkit.PageSize); err != nil {
						return err
					}
				}
			}
			return nil
		},
		"View": func(file *memmapfs.MappedFile) error {
			return file.View(0, 10, func(b []byte) error { b[0]++; return nil })
		},
	}
	eachModTime(t, func(t *testing.T, fileSystem *memmapfs.MemMapFS, name string, stores bool) {
		for how, write := range writes {
			if how == "View" && !stores {
				continue
			}
			for when, end := range modTimeEnds {
				for _, synced := range []bool{false, true} {
					file := warmModTime(t, fileSystem, name, stores)
					if synced {
						if err := file.Sync(); err != nil {
							t.Fatal(err)
						}
						setModTime(t, name, longAgo)
					}
					began := time.Now()
					if err := write(file); err != nil {
						t.Fatalf("%s: %v", how, err)
					}
					if err := end(file); err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					if modified := modTime(t, name); !movedSince(modified, began) {
						t.Errorf("%s at %v (synced before: %v), %s, and the modification time is %v", how, began, synced, when, modified)
					}
					file.Close()
				}
			}
		}
	})
}

// Catches a time that moves with nothing written, which makes programs copy and compile for nothing.
func TestModTimeStays(t *testing.T) {
	ways := map[string]func(file *memmapfs.MappedFile) error{
		"nothing": func(*memmapfs.MappedFile) error { return nil },
		"ReadAt": func(file *memmapfs.MappedFile) error {
			_, err := file.ReadAt(make([]byte, 2*testkit.PageSize), 0)
			return err
		},
		"Read": func(file *memmapfs.MappedFile) error {
			_, err := io.Copy(io.Discard, file)
			return err
		},
		"Data": func(file *memmapfs.MappedFile) error {
			file.Data()
			return nil
		},
		"Stat": func(file *memmapfs.MappedFile) error {
			_, err := file.Stat()
			return err
		},
		"empty WriteAt": func(file *memmapfs.MappedFile) error {
			_, err := file.WriteAt(nil, 0)
			return err
		},
		"SyncRange": func(file *memmapfs.MappedFile) error { return file.SyncRange(0, testkit.PageSize) },
	}
	check := func(t *testing.T, how, when, name string) {
		t.Helper()
		if modified := modTime(t, name); !modified.Equal(longAgo) {
			t.Errorf("%s, %s: the modification time has moved to %v", how, when, modified)
		}
	}
	eachModTime(t, func(t *testing.T, fileSystem *memmapfs.MemMapFS, name string, stores bool) {
		for how, way := range ways {
			for when, end := range modTimeEnds {
				for flags, opened := range map[int]string{os.O_RDONLY: "O_RDONLY", os.O_RDWR: "O_RDWR"} {
					if flags == os.O_RDONLY && how == "empty WriteAt" {
						continue
					}
					setModTime(t, name, longAgo)
					file := testkit.MustOpenMapped(t, fileSystem, name, flags)
					testkit.ForceMap(file)
					// Windows flushes by handles opened for writing alone.
					refused := func(err error) bool {
						return runtime.GOOS == "windows" && flags == os.O_RDONLY && errors.Is(err, os.ErrPermission)
					}
					if err := way(file); err != nil && !refused(err) {
						t.Fatalf("%s: %v", how, err)
					}
					if err := end(file); err != nil && !refused(err) {
						t.Fatalf("%s: %v", when, err)
					}
					check(t, how+" with "+opened, when, name)
					file.Close()
					check(t, how+" with "+opened, when+" and Close", name)
				}

				// The same after a write that was synced: its move is over.
				file := warmModTime(t, fileSystem, name, stores)
				if err := file.Sync(); err != nil {
					t.Fatal(err)
				}
				setModTime(t, name, longAgo)
				if err := way(file); err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if err := end(file); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				file.Close()
				check(t, how+" after a synced write", when, name)
			}
		}
	})
}

// Catches a Close that moves a time which the program itself has set after its last write, as programs
// do that copy or unpack files.
func TestModTimeSetByProgram(t *testing.T) {
	eachModTime(t, func(t *testing.T, fileSystem *memmapfs.MemMapFS, name string, stores bool) {
		for when, end := range modTimeEnds {
			file := warmModTime(t, fileSystem, name, stores)
			if _, err := file.WriteAt([]byte("second"), 0); err != nil {
				t.Fatal(err)
			}
			if err := fileSystem.Chtimes(name, longAgo, longAgo); err != nil {
				t.Fatal(err)
			}
			if err := end(file); err != nil {
				t.Fatal(err)
			}
			file.Close()
			if modified := modTime(t, name); !modified.Equal(longAgo) {
				t.Errorf("%s has moved the modification time that Chtimes had set to %v", when, modified)
			}
		}
	})
}
