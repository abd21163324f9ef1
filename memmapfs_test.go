// The contract of this package in one file: a program that is given a memmapfs in place of its filesystem
// cannot tell, but by the time that it takes.
//
// So there is nothing to state here about what is right. Each test does the same to two files of the same
// content, one opened through the plain filesystem and one through memmapfs, and compares each answer, where
// it leaves the position, how large the file is, and which bytes are in it. It does so in each row of
// testkit.Modes. The suites below tests/ go further, one folder a subject.

package memmapfs_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// page is the unit in which maps are made: what is wrong is mostly wrong near its multiples.
var page = testkit.PageSize

// What can be opened, how it is refused, and what the handle refuses then.
func TestOpen(t *testing.T) {
	testkit.EachTwins(t, page, func(t *testing.T, f *testkit.Twins) {
		for _, flags := range []int{
			os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE | os.O_EXCL, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC,
		} {
			for _, suffix := range []string{"", " that is missing"} {
				var answers [2]string
				for i, name := range f.Names {
					file, err := f.Systems[i].OpenFile(name+suffix, flags, 0o644)
					answers[i] = testkit.ErrorClass(err)
					if err == nil {
						file.Close()
					}
				}
				if answers[0] != answers[1] {
					t.Errorf("a file%s, flags %#x: %s, want %s", suffix, flags, answers[1], answers[0])
				}
			}
		}
		f.Open(os.O_WRONLY)
		f.Read(1)
		f.Write("into a file that was opened to be written")
		f.Open(os.O_RDONLY)
		f.Same("Write", func(file absfs.File) (any, error) {
			_, err := file.Write([]byte("into a file that was opened to be read"))
			return err != nil, nil // a map that is read-only has an error of its own
		})
	})
}

// Reads that end in a page, at its end, behind it, at the end of the file and behind that.
func TestRead(t *testing.T) {
	testkit.EachTwins(t, 3*page+100, func(t *testing.T, f *testkit.Twins) {
		f.Open(os.O_RDONLY)
		for _, off := range []int64{-1, 0, 1, page - 1, page, 3 * page, 3*page + 90, 3*page + 100, 3*page + 101, 1 << 40} {
			for _, n := range []int{0, 1, 20, int(page), int(5 * page)} {
				f.ReadAt(off, n)
			}
		}
		f.Read(10)
		f.Read(int(page))
		f.SeekTo(-5, io.SeekEnd)
		f.Read(10)
		f.Read(10)
		f.SeekTo(-1, io.SeekStart)
		f.SeekTo(5*page, io.SeekStart)
		f.Read(1)
		f.ReadAll()
		f.SeekTo(7, io.SeekStart)
		f.Same("WriteTo", func(file absfs.File) (any, error) {
			var copied bytes.Buffer
			_, err := io.Copy(&copied, file)
			return copied.Bytes(), err
		})
	})
}

// Writes inside the file: the first to a page, a second one, and some that cross from page to page.
func TestWrite(t *testing.T) {
	testkit.EachTwins(t, 3*page+100, func(t *testing.T, f *testkit.Twins) {
		f.Open(os.O_RDWR)
		for range 3 {
			f.WriteAt(10, "within a page")
			f.WriteAt(page-5, "across the end of a page")
			f.ReadAt(page-10, 30)
		}
		f.Write("at the position")
		f.Same("WriteString", func(file absfs.File) (any, error) { return file.WriteString(" and behind it") })
		f.WriteAt(page, strings.Repeat("a whole page ", int(page)/10))
		f.WriteAt(-1, "nowhere")
		f.Write("")
		f.ReadAll()
		f.Same("Sync", func(file absfs.File) (any, error) { return nil, file.Sync() })
	})
}

// Writes that make the file larger: at its end, across it, and behind it, where a hole of zeros is left.
func TestGrow(t *testing.T) {
	testkit.EachTwins(t, page-3, func(t *testing.T, f *testkit.Twins) {
		f.Open(os.O_RDWR)
		f.WriteAt(page-5, "across the end")
		f.ReadAt(page-10, 50)
		f.SeekTo(0, io.SeekEnd)
		f.Write("at the end")
		f.WriteAt(3*page+5, "behind a hole")
		f.ReadAll()
		f.SeekTo(2*page, io.SeekCurrent)
		f.Write("behind another")
		f.Same("ReadFrom", func(file absfs.File) (any, error) {
			return io.Copy(file, strings.NewReader(strings.Repeat("much ", int(page))))
		})
		f.ReadAll()
	})
	testkit.EachTwins(t, 0, func(t *testing.T, f *testkit.Twins) { // which cannot be mapped until it has grown
		f.Open(os.O_RDWR)
		f.Read(1)
		f.Write("the first bytes")
		f.ReadAll()
	})
}

// Writes to a file that was opened to append, which go to the end wherever the position is.
func TestAppend(t *testing.T) {
	testkit.EachTwins(t, page-3, func(t *testing.T, f *testkit.Twins) {
		f.Open(os.O_RDWR | os.O_APPEND)
		f.Read(4)
		f.Write("at the end")
		f.SeekTo(2, io.SeekStart)
		f.Write("at the end again")
		f.WriteAt(0, "where it may not be")
		f.ReadAll()
		f.Truncate(7)
		f.Write("at the new end")
		f.ReadAll()
	})
}

// Changes of size: what is cut off is gone, and zeros when the file grows again.
func TestTruncate(t *testing.T) {
	testkit.EachTwins(t, 4*page, func(t *testing.T, f *testkit.Twins) {
		f.Open(os.O_RDWR)
		for _, size := range []int64{4*page - 1, 2*page + 10, 2 * page, 3 * page, 5, 0, page + 1, -1} {
			f.Truncate(size)
			f.ReadAt(size-3, 10)
			f.ReadAt(page, 20)
			f.WriteAt(3, "written between")
			f.ReadAll()
		}
	})
}

// changeVariable says what another process is to do, and in the lines below it to which files.
const changeVariable = "MEMMAPFS_TEST_CHANGE"

// changes are what another process does to a file.
var changes = map[string]func(file *os.File) error{
	"overwrite": func(file *os.File) error { _, err := file.WriteAt([]byte("another process"), page-5); return err },
	"append":    func(file *os.File) error { _, err := file.WriteAt(testkit.Content(int(page)), 3*page+10); return err },
	"shrink":    func(file *os.File) error { return file.Truncate(2 * page) },
	"empty":     func(file *os.File) error { return file.Truncate(0) },
	"fill":      func(file *os.File) error { _, err := file.WriteAt(testkit.Content(int(page+9)), 0); return err },
}

// What another process does to the file, which the map must show as the plain file does.
func TestChangedByAnotherProcess(t *testing.T) {
	if change, names, found := strings.Cut(os.Getenv(changeVariable), "\n"); found {
		for name := range strings.SplitSeq(names, "\n") {
			file, err := os.OpenFile(name, os.O_RDWR, 0)
			if err == nil {
				err = errors.Join(changes[change](file), file.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	testkit.NeedProcesses(t)
	testkit.EachTwins(t, 3*page+10, func(t *testing.T, f *testkit.Twins) {
		f.Open(os.O_RDWR)
		f.WriteAt(0, "by this process")
		for _, change := range []string{"overwrite", "append", "shrink", "empty", "fill"} {
			if testkit.MapsHoldFiles && (change == "shrink" || change == "empty") {
				continue // the system refuses that to everybody but the handle itself
			}
			process := testkit.ThisProgram(t, "-test.run=^TestChangedByAnotherProcess$")
			process.Env = append(os.Environ(), strings.Join([]string{
				changeVariable + "=" + change, osfs.ToNative(f.Names[0]), osfs.ToNative(f.Names[1]),
			}, "\n"))
			if output, err := process.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, output)
			}
			f.ReadAt(page-10, 30)
			f.ReadAt(2*page-10, 30)
			f.ReadAll()
			f.WriteAt(5, "by this process again")
			f.ReadAll()
		}
	})
}

// Close leaves all that was written in the file, and a handle that answers every call with fs.ErrClosed.
func TestClose(t *testing.T) {
	testkit.EachTwins(t, page+100, func(t *testing.T, f *testkit.Twins) {
		f.Open(os.O_RDWR)
		f.WriteAt(page-5, "the last bytes written")
		for range 2 {
			f.Same("Close", func(file absfs.File) (any, error) { return nil, file.Close() })
			f.ReadAt(0, 1)
			f.Read(1)
			f.WriteAt(0, "x")
			f.Truncate(0)
			f.SeekTo(0, io.SeekStart)
			f.Same("Sync", func(file absfs.File) (any, error) { return nil, file.Sync() })
		}
	})
}

// The one mode whose writes are meant not to reach the file: the handle reads like a plain file that was
// written to, and the file stays as it was.
func TestWritesThatStayPrivate(t *testing.T) {
	dir := testkit.TestDir(t)
	data := testkit.Content(int(2*page + 10))
	plain := testkit.MustOpen(t, testkit.PlainFileSystem(t), testkit.WriteFile(t, dir, "plain", data), os.O_RDWR)
	name := osfs.FromNative(filepath.Join(dir, "private"))
	testkit.WriteFile(t, dir, "private", data)
	mode := testkit.Mode{Config: testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)}
	private := testkit.MustOpen(t, mode.OverOS(t), name, os.O_RDONLY) // no right to write to the file is needed
	for _, off := range []int64{3, page - 2, page - 2} {
		for _, file := range []absfs.File{plain, private} {
			if n, err := file.WriteAt([]byte("written"), off); n != 7 || err != nil {
				t.Fatalf("WriteAt at %d: %d, %v", off, n, err)
			}
		}
	}
	testkit.MustEqual(t, "what the handle reads", testkit.ReadAll(t, private), testkit.ReadAll(t, plain))
	testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), data)
}
