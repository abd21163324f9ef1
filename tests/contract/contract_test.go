package contract_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// transcript records what the calls of a script answer, so that the same script can be run on the plain
// filesystem and on a wrapped one and the two compared line by line.
type transcript struct {
	t     *testing.T
	m     testkit.Mode
	lines []string
}

func (r *transcript) add(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *transcript) read(file absfs.File, n int) {
	p := make([]byte, n)
	got, err := file.Read(p)
	r.add("Read %d: %d %q %s", n, got, p[:max(got, 0)], testkit.ErrorClass(err))
}

func (r *transcript) readAt(file absfs.File, n int, off int64) {
	p := make([]byte, n)
	got, err := file.ReadAt(p, off)
	r.add("ReadAt %d, %d: %d %q %s", n, off, got, p[:got], testkit.ErrorClass(err))
}

func (r *transcript) write(file absfs.File, p string) {
	got, err := file.Write([]byte(p))
	r.add("Write %q: %d %s", p, got, refusal(p, err))
}

func (r *transcript) writeString(file absfs.File, p string) {
	got, err := file.WriteString(p)
	r.add("WriteString %q: %d %s", p, got, refusal(p, err))
}

func (r *transcript) writeAt(file absfs.File, p string, off int64) {
	got, err := file.WriteAt([]byte(p), off)
	r.add("WriteAt %q, %d: %d %s", p, off, got, refusal(p, err))
}

// refusal is errorClass for a write of p: a handle opened with O_RDONLY refuses it with the system's
// error or with this package's. Windows and wasip1 do not refuse to write nothing.
func refusal(p string, err error) string {
	class := testkit.ErrorClass(err)
	switch {
	case class == "read-only map", errors.Is(err, syscall.EBADF),
		runtime.GOOS == "windows" && errors.Is(err, fs.ErrPermission),
		p == "" && err == nil && (runtime.GOOS == "windows" || runtime.GOOS == "wasip1"):
		return "not open for writing"
	}
	return class
}

func (r *transcript) seek(file absfs.File, off int64, whence int) {
	got, err := file.Seek(off, whence)
	r.add("Seek %d, %d: %d %s", off, whence, got, testkit.ErrorClass(err))
}

func (r *transcript) truncate(file absfs.File, size int64) {
	r.add("Truncate %d: %s", size, testkit.ErrorClass(file.Truncate(size)))
}

func (r *transcript) size(file absfs.File) {
	info, err := file.Stat()
	if err != nil {
		r.add("Stat: %s", testkit.ErrorClass(err))
		return
	}
	r.add("Stat: %s %d %s", info.Name(), info.Size(), info.Mode())
}

// eachLikePlain runs a script on every row that the filters let through, once with files as opened and
// once with their maps made first, and fails where it answers otherwise than on the plain row. The
// script gets a new directory each time.
func eachLikePlain(t *testing.T, script func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool), filters ...func(testkit.Mode) bool) {
	t.Helper()
	var plain []string
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		for _, forced := range []bool{false, true} {
			dir := testkit.TestDir(t)
			r := &transcript{t: t, m: m}
			script(r, m.OverOS(t), dir, forced)
			if m.Plain() {
				plain = r.lines
				continue
			}
			for i := range max(len(plain), len(r.lines)) {
				got, want := "nothing", "nothing"
				if i < len(r.lines) {
					got = r.lines[i]
				}
				if i < len(plain) {
					want = plain[i]
				}
				if got != want {
					t.Fatalf("map forced %v, line %d:\ngot   %s\nwant  %s\nafter %s", forced, i, got, want,
						strings.Join(r.lines[max(i-5, 0):min(i, len(r.lines))], "\n      "))
				}
			}
		}
	}, append(filters, func(m testkit.Mode) bool { return true })...)
}

// openScripted opens a file for a script.
func (r *transcript) openScripted(fileSystem absfs.FileSystem, name string, flags int, forced bool) absfs.File {
	r.t.Helper()
	file := testkit.MustOpen(r.t, fileSystem, name, flags)
	if forced {
		testkit.ForceMap(file)
	}
	return file
}

// Catches a position that moves when it should not, or not when it should: after ReadAt and WriteAt,
// after failures, past the end, after Truncate, with O_APPEND, and when the position passes from the
// wrapped file to the map.
func TestPositions(t *testing.T) {
	data := testkit.Content(int(2*testkit.PageSize + 100))
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		name := testkit.WriteFile(r.t, dir, "rdwr", data)
		file := r.openScripted(fileSystem, name, os.O_RDWR, forced)
		r.read(file, 10)
		r.readAt(file, 5, testkit.PageSize-2)
		r.seek(file, 0, io.SeekCurrent)
		r.writeAt(file, "abc", 0)
		r.seek(file, 0, io.SeekCurrent)
		r.write(file, "def")
		r.read(file, 3)
		r.readAt(file, 20, 0)
		r.seek(file, -7, io.SeekEnd)
		r.read(file, 10)
		r.read(file, 10)
		r.seek(file, 5000, io.SeekEnd) // past the end: allowed, reads EOF, a write leaves a hole
		r.read(file, 1)
		r.writeString(file, "behind a hole")
		r.seek(file, 0, io.SeekCurrent)
		r.readAt(file, 20, int64(len(data))-10)
		r.seek(file, testkit.PageSize, io.SeekStart)
		r.truncate(file, 10)
		r.seek(file, 0, io.SeekCurrent) // Truncate leaves it alone
		r.read(file, 1)
		r.write(file, "x")
		r.readAt(file, 20, 0)
		r.readAt(file, 20, testkit.PageSize-10)
		r.truncate(file, 3*testkit.PageSize)
		r.readAt(file, 5, 3*testkit.PageSize-3)
		r.size(file)

		for _, bad := range []func(){
			func() { r.seek(file, -1, io.SeekStart) },
			func() { r.seek(file, -4*testkit.PageSize, io.SeekCurrent) },
			func() { r.seek(file, -4*testkit.PageSize, io.SeekEnd) },
			func() { r.seek(file, 0, 99) },
			func() { r.seek(file, 0, -1) },
			func() { r.readAt(file, 1, -1) },
			func() { r.writeAt(file, "x", -1) },
			func() { r.truncate(file, -1) },
		} {
			bad()
			r.seek(file, 0, io.SeekCurrent)
		}

		name = testkit.WriteFile(r.t, dir, "append", data)
		file = r.openScripted(fileSystem, name, os.O_RDWR|os.O_APPEND, forced)
		r.read(file, 4)
		r.write(file, "at the end")
		r.seek(file, 0, io.SeekCurrent)
		r.read(file, 1)
		r.seek(file, 2, io.SeekStart)
		r.writeString(file, "again")
		r.seek(file, 0, io.SeekCurrent)
		r.writeAt(file, "never", 0)
		r.readAt(file, 30, int64(len(data))-5)
		testkit.ResizeAround(r.t, osfs.ToNative(name), 7)
		r.write(file, "the end has moved")
		r.seek(file, 0, io.SeekCurrent)
		r.size(file)

		name = testkit.WriteFile(r.t, dir, "append to nothing", data)
		file = r.openScripted(fileSystem, name, os.O_RDWR|os.O_TRUNC|os.O_APPEND, forced)
		r.write(file, "written before it is mapped")
		if forced {
			testkit.ForceMap(file)
		}
		r.seek(file, 2, io.SeekStart)
		r.read(file, 1)
		r.write(file, "again")
		r.seek(file, 0, io.SeekCurrent)
		r.readAt(file, 100, 0)

		name = testkit.WriteFile(r.t, dir, "wronly", data)
		file = r.openScripted(fileSystem, name, os.O_WRONLY, forced)
		r.read(file, 1)
		r.readAt(file, 1, 0)
		r.write(file, "written")
		r.seek(file, 0, io.SeekCurrent)
		r.writeAt(file, "also", testkit.PageSize-2)
		r.truncate(file, 2*testkit.PageSize)
		r.size(file)

		name = testkit.WriteFile(r.t, dir, "rdonly", data)
		file = r.openScripted(fileSystem, name, os.O_RDONLY, forced)
		r.read(file, 3)
		r.write(file, "x")
		r.writeString(file, "x")
		r.writeAt(file, "x", 0)
		r.seek(file, 0, io.SeekCurrent)
		if file.Truncate(1) == nil {
			r.t.Error("Truncate on a handle that was opened read-only")
		}

		for _, name := range []string{"rdwr", "append", "wronly", "rdonly"} {
			r.add("%s holds %q", name, testkit.ReadNative(r.t, osfs.FromNative(filepath.Join(dir, name))))
		}
	}, testkit.NotCopyOnWrite)
}

// Catches calls without bytes that fail, end in io.EOF, or check less than calls with bytes do.
func TestZeroLength(t *testing.T) {
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		for _, size := range []int{0, int(testkit.PageSize)} {
			name := testkit.WriteFile(r.t, dir, fmt.Sprint(size), testkit.Content(size))
			for _, flags := range []int{os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_WRONLY, os.O_RDONLY} {
				file := r.openScripted(fileSystem, name, flags, forced)
				r.add("%d bytes, %s", size, testkit.FlagNames(flags))
				for _, position := range []int64{0, int64(size), int64(size) + 10} {
					r.seek(file, position, io.SeekStart)
					r.read(file, 0)
					r.write(file, "")
					r.writeString(file, "")
					r.seek(file, 0, io.SeekCurrent)
				}
				for _, off := range []int64{-1, 0, int64(size), int64(size) + 10, math.MaxInt64} {
					r.readAt(file, 0, off)
					// Not compared: a read-only handle, where package os finds nothing to write and
					// ModeReadOnly refuses; and which of two mistakes at once is reported.
					if flags != os.O_RDONLY && (off >= 0 || flags&os.O_APPEND == 0) {
						r.writeAt(file, "", off)
					}
				}
				r.size(file)
			}
		}
	}, testkit.NotCopyOnWrite)
}

// Catches arithmetic that overflows near the largest offset.
func TestFarOffsets(t *testing.T) {
	testkit.NotOnJS(t, "package os panics for offsets that JavaScript's numbers do not hold")
	far := []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - 5, math.MaxInt64 - testkit.PageSize, math.MaxInt64 - testkit.PageSize + 1, math.MaxInt64 / 2}
	data := testkit.Content(int(testkit.PageSize + 10))
	script := func(writing bool) func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		return func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
			file := r.openScripted(fileSystem, testkit.WriteFile(r.t, dir, "file", data), os.O_RDWR, forced)
			for _, off := range far {
				for _, n := range []int{0, 1, 5, 10} {
					r.readAt(file, n, off)
				}
				r.seek(file, off, io.SeekStart)
				r.read(file, 10)
				r.seek(file, 1, io.SeekCurrent)
				r.seek(file, math.MaxInt64, io.SeekCurrent)
				r.seek(file, 0, io.SeekCurrent)
				r.seek(file, off, io.SeekEnd)
				r.seek(file, math.MinInt64, io.SeekCurrent)
				r.seek(file, math.MinInt64, io.SeekEnd)
				r.seek(file, math.MinInt64, io.SeekStart)
				if mapped, ok := file.(*memmapfs.MappedFile); ok && testkit.Mappable() {
					for _, n := range []int64{1, 10, math.MaxInt64} {
						if err := mapped.View(off, n, func([]byte) error { return nil }); err != io.EOF {
							r.t.Errorf("View %d from %d: %v, want io.EOF", n, off, err)
						}
					}
				}
				if !writing {
					continue
				}
				// Some systems' files can be that large, so what was written is cut off again.
				r.seek(file, off, io.SeekStart)
				for _, p := range []string{"x", "0123456789"} {
					r.writeAt(file, p, off)
					r.size(file)
					r.truncate(file, int64(len(data)))
					r.write(file, p)
					r.size(file)
					r.truncate(file, int64(len(data)))
				}
				r.truncate(file, off)
				r.size(file)
				testkit.ForceMap(file)
				r.readAt(file, 10, off-5)
				r.truncate(file, int64(len(data)))
				r.readAt(file, 10, testkit.PageSize)
			}
		}
	}
	t.Run("reading", func(t *testing.T) { eachLikePlain(t, script(false)) })
	t.Run("writing", func(t *testing.T) { eachLikePlain(t, script(true), testkit.NotCopyOnWrite) })
	t.Run("copy-on-write refuses", func(t *testing.T) {
		testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
			file := testkit.MustOpen(t, m.OverOS(t), testkit.WriteFile(t, testkit.TestDir(t), "file", data), os.O_RDWR)
			for _, off := range far {
				if n, err := file.WriteAt([]byte("x"), off); n != 0 || err == nil {
					t.Errorf("WriteAt %d: %d, %v", off, n, err)
				}
				if _, err := file.Seek(off, io.SeekStart); err != nil {
					continue // the system has no such position
				}
				if n, err := file.Write([]byte("0123456789")); n != 0 || err == nil {
					t.Errorf("Write at %d: %d, %v", off, n, err)
				}
			}
		}, testkit.Mode.CopyOnWrite)
	})
}

// Catches offsets that pass through 32 bits, and a file that fails because it is larger than what can be
// mapped (with 32-bit addresses this one is).
func TestLargeSparseFile(t *testing.T) {
	const size = 5<<30 + 5
	offsets := []int64{0, 1<<31 - 3, 1<<32 - 3, 1<<32 + testkit.PageSize - 3, size - 3}
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		name := testkit.WriteFile(r.t, dir, "large", nil)
		native, err := os.OpenFile(osfs.ToNative(name), os.O_WRONLY, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		defer native.Close()
		if err := native.Truncate(size); err != nil {
			r.t.Skipf("no sparse file of 5 GiB here: %v", err)
		}
		for i, off := range offsets {
			if _, err := native.WriteAt(testkit.Content(10)[i:i+3], off); err != nil {
				r.t.Fatal(err)
			}
		}
		file := r.openScripted(fileSystem, name, os.O_RDWR, forced)
		for _, off := range offsets {
			for range 20 { // enough for windows to be mapped
				r.readAt(file, 6, off-2)
			}
			r.seek(file, off, io.SeekStart)
			r.read(file, 6)
			r.writeAt(file, "123", off)
			r.writeAt(file, "abc", off)
			r.readAt(file, 6, off-2)
			mapped, ok := file.(*memmapfs.MappedFile)
			if !ok {
				continue
			}
			err := mapped.View(off, 3, func(b []byte) error {
				if string(b) != "abc" {
					return fmt.Errorf("shows %q", b)
				}
				return nil
			})
			if err != nil && !(errors.Is(err, memmapfs.ErrNotMapped) && !testkit.Mappable()) {
				r.t.Errorf("View at %d: %v", off, err)
			}
		}
		if !r.m.CopyOnWrite() {
			r.truncate(file, 1<<32)
			r.readAt(file, 6, 1<<32-3)
		} else {
			r.add("Truncate %d: nil", int64(1<<32)) // refused there; TestCopyOnWrite
			r.add("ReadAt 6, %d: 3 %q EOF", int64(1<<32-3), "abc")
		}
	})
}

// Catches calls on directories that differ from the plain ones, and attempts to map one.
func TestDirectory(t *testing.T) {
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		for _, name := range []string{"a", "b", "c"} {
			testkit.WriteFile(r.t, dir, name, []byte(name))
		}
		file := r.openScripted(fileSystem, osfs.FromNative(dir), os.O_RDONLY, forced)
		var names []string
		for {
			entries, err := file.ReadDir(2)
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			if err != nil || len(entries) == 0 {
				r.add("ReadDir ends: %s", testkit.ErrorClass(err))
				break
			}
		}
		slices.Sort(names)
		r.add("ReadDir: %v", names)
		r.seek(file, 0, io.SeekStart)
		names, err := file.Readdirnames(-1)
		slices.Sort(names)
		r.add("Readdirnames: %v %s", names, testkit.ErrorClass(err))
		r.seek(file, 0, io.SeekStart)
		infos, err := file.Readdir(0)
		r.add("Readdir: %d %s", len(infos), testkit.ErrorClass(err))
		r.read(file, 10)
		r.readAt(file, 10, 0)
		r.add("Sync: %s", testkit.ErrorClass(file.Sync()))
		info, err := file.Stat()
		r.add("Stat: %v %s", err == nil && info.IsDir(), testkit.ErrorClass(err))
		if mapped, ok := file.(*memmapfs.MappedFile); ok {
			if mapped.Data() != nil || mapped.Mapped() {
				r.t.Error("a directory is mapped")
			}
			err := mapped.View(0, 1, func([]byte) error { return nil })
			if !errors.Is(err, memmapfs.ErrNotMapped) {
				r.t.Errorf("View of a directory: %v, want ErrNotMapped", err)
			}
		}
		r.add("Close: %s", testkit.ErrorClass(file.Close()))

		regular := r.openScripted(fileSystem, osfs.FromNative(filepath.Join(dir, "a")), os.O_RDONLY, forced)
		_, err = regular.Readdirnames(-1)
		r.add("Readdirnames of a file: %s", testkit.ErrorClass(err))
	})
}

// Catches a method that forgets to look whether the file is closed, and any method added later that
// does. The methods are found by reflection, so that none can be left out.
func TestEveryMethodAfterClose(t *testing.T) {
	withoutError := map[string]func(t *testing.T, name string, file *memmapfs.MappedFile){
		"Name": func(t *testing.T, name string, file *memmapfs.MappedFile) {
			if file.Name() != name {
				t.Errorf("the name became %q", file.Name())
			}
		},
		"Data": func(t *testing.T, name string, file *memmapfs.MappedFile) {
			if data := file.Data(); data != nil {
				t.Errorf("Data has %d bytes", len(data))
			}
		},
		"Mapped": func(t *testing.T, name string, file *memmapfs.MappedFile) {
			if file.Mapped() {
				t.Error("still mapped")
			}
		},
		// Nothing to see from outside; they must not panic.
		"EnableSIGBUSProtection":  func(t *testing.T, name string, file *memmapfs.MappedFile) { file.EnableSIGBUSProtection() },
		"DisableSIGBUSProtection": func(t *testing.T, name string, file *memmapfs.MappedFile) { file.DisableSIGBUSProtection() },
	}
	errorType := reflect.TypeFor[error]()
	checkAll := func(t *testing.T, file *memmapfs.MappedFile) {
		name := file.Name()
		value := reflect.ValueOf(file)
		for i := range value.NumMethod() {
			method := value.Type().Method(i)
			if check, ok := withoutError[method.Name]; ok {
				check(t, name, file)
				continue
			}
			signature := value.Method(i).Type()
			last := signature.NumOut() - 1
			if last < 0 || signature.Out(last) != errorType {
				t.Errorf("%s returns no error: say here what it does on a closed file", method.Name)
				continue
			}
			results := value.Method(i).Call(plausibleArguments(t, signature))
			err, _ := results[last].Interface().(error)
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%s: %v, want fs.ErrClosed", method.Name, err)
				continue
			}
			testkit.CheckPathError(t, method.Name, err, name)
			for j, result := range results[:last] {
				if !result.IsZero() {
					t.Errorf("%s: result %d is %v beside the error", method.Name, j, result)
				}
			}
		}
		handler := memmapfs.GetSIGBUSHandler()
		handler.Unregister(file)
		handler.Disable()
	}
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		dir := testkit.TestDir(t)
		onDisk := testkit.WriteFile(t, dir, "file", testkit.Content(int(2*testkit.PageSize)))
		check := func(t *testing.T, fileSystem absfs.FileSystem, name string) {
			for _, flags := range []int{os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND} {
				for _, forced := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, map forced %v", testkit.FlagNames(flags), forced), func(t *testing.T) {
						file := testkit.MustOpenMapped(t, fileSystem, name, flags)
						if forced {
							testkit.ForceMap(file)
							file.Read(make([]byte, 10))
						}
						if err := file.Close(); err != nil {
							t.Fatal(err)
						}
						checkAll(t, file)
					})
				}
			}
		}
		t.Run("over osfs", func(t *testing.T) { check(t, m.OverOS(t), onDisk) })
		t.Run("over memfs", func(t *testing.T) {
			memory := m.OverMemory(t)
			check(t, memory, testkit.CreateFile(t, memory, "/file", testkit.Content(100)))
		})
		t.Run("closed with the filesystem", func(t *testing.T) {
			fileSystem := memmapfs.New(testkit.PlainFileSystem(t), m.Config)
			file := testkit.MustOpenMapped(t, fileSystem, onDisk, os.O_RDONLY)
			testkit.ForceMap(file)
			if err := fileSystem.Close(); err != nil {
				t.Fatal(err)
			}
			checkAll(t, file)
		})
	}, testkit.Wrapped)
}

// plausibleArguments makes arguments with which the call would do something on an open file.
func plausibleArguments(t *testing.T, signature reflect.Type) []reflect.Value {
	var arguments []reflect.Value
	number := int64(0)
	for i := range signature.NumIn() {
		parameter := signature.In(i)
		var argument any
		switch {
		case parameter == reflect.TypeFor[[]byte]():
			argument = make([]byte, 1)
		case parameter == reflect.TypeFor[string]():
			argument = "x"
		case parameter == reflect.TypeFor[int64](): // an offset first, then a length
			argument = number
			number++
		case parameter == reflect.TypeFor[io.Writer]():
			argument = io.Discard
		case parameter == reflect.TypeFor[io.Reader]():
			argument = strings.NewReader("x")
		case parameter.Kind() == reflect.Func:
			argument = reflect.MakeFunc(parameter, func([]reflect.Value) []reflect.Value {
				t.Error("a closed file called its caller's function")
				results := make([]reflect.Value, parameter.NumOut())
				for i := range results {
					results[i] = reflect.Zero(parameter.Out(i))
				}
				return results
			}).Interface()
		default:
			arguments = append(arguments, reflect.Zero(parameter))
			continue
		}
		arguments = append(arguments, reflect.ValueOf(argument))
	}
	return arguments
}

// Catches sentinels that are renamed, no longer reach the caller, or stop matching their fs counterpart.
func TestSentinels(t *testing.T) {
	dir := testkit.TestDir(t)
	name := testkit.WriteFile(t, dir, "file", testkit.Content(100))
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), nil)
	t.Cleanup(func() { fileSystem.Close() })
	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
	unmappable := testkit.MustOpenMapped(t, fileSystem, osfs.FromNative(dir), os.O_RDONLY)
	check := func(what string, err, sentinel, kind error) {
		t.Helper()
		if !errors.Is(err, sentinel) || !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v and %v", what, err, sentinel, kind)
		}
		for _, other := range []error{memmapfs.ErrNotMapped, memmapfs.ErrInvalidOffset, memmapfs.ErrInvalidWhence, memmapfs.ErrWriteToReadOnlyMap, memmapfs.ErrSIGBUS} {
			if other != sentinel && errors.Is(err, other) {
				t.Errorf("%s: %v is %v too", what, err, other)
			}
		}
	}
	plain := testkit.MustOpen(t, testkit.PlainFileSystem(t), name, os.O_RDONLY)
	for _, forced := range []bool{false, true} {
		if forced {
			testkit.ForceMap(file)
		}
		_, err := file.ReadAt(make([]byte, 1), -1)
		check("ReadAt", err, memmapfs.ErrInvalidOffset, fs.ErrInvalid)
		testkit.CheckPathError(t, "ReadAt", err, name)
		_, err = file.Seek(-1, io.SeekStart)
		check("Seek", err, memmapfs.ErrInvalidOffset, fs.ErrInvalid)
		testkit.CheckPathError(t, "Seek", err, name)
		if _, plainErr := plain.Seek(0, 99); plainErr != nil { // package os takes any whence on Windows
			_, err = file.Seek(0, 99)
			check("Seek", err, memmapfs.ErrInvalidWhence, fs.ErrInvalid)
			testkit.CheckPathError(t, "Seek", err, name)
		}
		for what, call := range map[string]func() error{
			"Write":       func() error { _, err := file.Write([]byte("x")); return err },
			"WriteAt":     func() error { _, err := file.WriteAt([]byte("x"), 0); return err },
			"WriteString": func() error { _, err := file.WriteString("x"); return err },
			"ReadFrom":    func() error { _, err := file.ReadFrom(strings.NewReader("x")); return err },
			"Truncate":    func() error { return file.Truncate(0) },
		} {
			err := call()
			check(what, err, memmapfs.ErrWriteToReadOnlyMap, fs.ErrPermission)
			testkit.CheckPathError(t, what, err, name)
		}
		none := func([]byte) error { t.Error("View called the function"); return nil }
		err = file.View(-1, 1, none)
		check("View", err, memmapfs.ErrInvalidOffset, fs.ErrInvalid)
		err = file.View(0, -1, none)
		check("View", err, memmapfs.ErrInvalidOffset, fs.ErrInvalid)
		err = file.SyncRange(-1, 1)
		check("SyncRange", err, memmapfs.ErrInvalidOffset, fs.ErrInvalid)
		err = file.SyncRange(0, -1)
		check("SyncRange", err, memmapfs.ErrInvalidOffset, fs.ErrInvalid)
		testkit.CheckPathError(t, "SyncRange", err, name)
	}
	err := unmappable.View(0, 1, func([]byte) error { t.Error("View called the function"); return nil })
	check("View", err, memmapfs.ErrNotMapped, memmapfs.ErrNotMapped)
	testkit.CheckPathError(t, "View", err, osfs.FromNative(dir))
	var path *fs.PathError
	if errors.As(err, &path) && path.Op != "view" {
		t.Errorf("View: op %q, want view", path.Op)
	}
	if !testkit.Mappable() {
		return
	}
	long := testkit.WriteFile(t, dir, "shrinking", testkit.Content(int(2*testkit.PageSize)))
	file = testkit.MustOpenMapped(t, fileSystem, long, os.O_RDONLY)
	testkit.ForceMap(file)
	if runtime.GOOS == "windows" {
		return // which refuses to shrink a mapped file
	}
	err = file.View(0, 2*testkit.PageSize, func(b []byte) error {
		if err := os.Truncate(osfs.ToNative(long), 0); err != nil {
			t.Error(err)
		}
		b0 := b[testkit.PageSize]
		return fmt.Errorf("read %d past the end", b0)
	})
	check("View", err, memmapfs.ErrSIGBUS, memmapfs.ErrSIGBUS)
	testkit.CheckPathError(t, "View", err, long)
}

// Catches an invalid Config that is taken silently, fails without saying why, or fails only after it has
// created or truncated the file.
func TestInvalidConfig(t *testing.T) {
	dir := testkit.TestDir(t)
	name := testkit.WriteFile(t, dir, "file", []byte("content"))
	for _, test := range []struct {
		config       memmapfs.Config
		field, value string
	}{
		{memmapfs.Config{WindowSize: -1}, "WindowSize", "-1"},
		{memmapfs.Config{WindowSize: math.MinInt64, MapFullFile: true}, "WindowSize", "-9223372036854775808"},
		{memmapfs.Config{SyncMode: memmapfs.SyncPeriodic, SyncInterval: -time.Second}, "SyncInterval", "-1s"},
		{memmapfs.Config{Mode: 99}, "Mode", "99"},
		{memmapfs.Config{Mode: -7}, "Mode", "-7"},
		{memmapfs.Config{SyncMode: 77}, "SyncMode", "77"},
		{memmapfs.Config{SyncMode: -3}, "SyncMode", "-3"},
	} {
		t.Run(test.field+" "+test.value, func(t *testing.T) {
			config := test.config
			fileSystem := memmapfs.New(testkit.PlainFileSystem(t), &config)
			config = *memmapfs.DefaultConfig() // New has copied it
			missing := osfs.FromNative(filepath.Join(dir, "missing"))
			for what, open := range map[string]func() (absfs.File, error){
				"Open":              func() (absfs.File, error) { return fileSystem.Open(name) },
				"OpenFile":          func() (absfs.File, error) { return fileSystem.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0) },
				"OpenFile creating": func() (absfs.File, error) { return fileSystem.OpenFile(missing, os.O_RDWR|os.O_CREATE, 0o644) },
				"Create":            func() (absfs.File, error) { return fileSystem.Create(name) },
			} {
				file, err := open()
				if err == nil {
					file.Close()
					t.Errorf("%s succeeds", what)
					continue
				}
				var path *fs.PathError
				if !errors.As(err, &path) || path.Path != name && path.Path != missing {
					t.Errorf("%s: %T %v, want a *fs.PathError with the name", what, err, err)
				}
				if !strings.Contains(err.Error(), test.field) || !strings.Contains(err.Error(), test.value) {
					t.Errorf("%s: %v, want it to name %s and %s", what, err, test.field, test.value)
				}
			}
			if sub, err := fileSystem.Sub(osfs.FromNative(dir)); err == nil {
				if file, err := sub.Open("file"); err == nil {
					file.Close()
					t.Error("Open of Sub succeeds")
				}
			}
			testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), []byte("content"))
			if _, err := os.Stat(osfs.ToNative(missing)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a failed open has created a file: %v", err)
			}
		})
	}
}

// Catches a Config that is used instead of copied, and a nil one that is not DefaultConfig.
func TestConfigIsCopied(t *testing.T) {
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(100))
	for what, given := range map[string]*memmapfs.Config{"a changed config": memmapfs.DefaultConfig(), "a nil config": nil} {
		fileSystem := memmapfs.New(testkit.PlainFileSystem(t), given)
		t.Cleanup(func() { fileSystem.Close() })
		if given != nil {
			given.Mode, given.WindowSize, given.MapFullFile = memmapfs.ModeCopyOnWrite, -1, false
		}
		file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
		if _, err := file.WriteAt([]byte("x"), 0); !errors.Is(err, memmapfs.ErrWriteToReadOnlyMap) {
			t.Errorf("%s: WriteAt on a read-only handle: %v, want ErrWriteToReadOnlyMap", what, err)
		}
		if data := file.Data(); testkit.Mappable() && len(data) != 100 {
			t.Errorf("%s: %d bytes are mapped, want all 100", what, len(data))
		}
	}
	if changed := memmapfs.DefaultConfig(); changed.Mode != memmapfs.ModeReadOnly || changed.WindowSize != 0 {
		t.Error("DefaultConfig hands out one Config to all")
	}
}

// Catches a nil filesystem that shows only at the first open.
func TestNilFileSystemPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("New takes a nil filesystem")
		}
	}()
	memmapfs.New(nil, nil)
}

// Catches files that stay open, or can be opened or created, after the filesystem was closed.
func TestCloseFileSystem(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		dir := testkit.TestDir(t)
		name := testkit.WriteFile(t, dir, "file", testkit.Content(int(2*testkit.PageSize)))
		fileSystem := memmapfs.New(testkit.PlainFileSystem(t), m.Config)
		var files []*memmapfs.MappedFile
		for i := range 5 {
			file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
			if i%2 == 0 {
				testkit.ForceMap(file)
				file.WriteAt([]byte("x"), 0)
			}
			files = append(files, file)
		}
		files[1].Close() // one less to close, and no error from it
		if err := fileSystem.Close(); err != nil {
			t.Fatal(err)
		}
		if left := testkit.MappedUnder(t, dir); len(left) != 0 {
			t.Errorf("Close left behind:\n%s", strings.Join(left, "\n"))
		}
		for i, file := range files { // those that were never mapped still have their wrapped file
			if err := file.Close(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Close of file %d: %v", i, err)
			}
		}
		if left := testkit.OpenUnder(t, dir); len(left) != 0 {
			t.Errorf("Close left behind:\n%s", strings.Join(left, "\n"))
		}
		for i, file := range files {
			if _, err := file.Stat(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("file %d is open: %v", i, err)
			}
		}
		before := testkit.ReadNative(t, name)
		missing := osfs.FromNative(filepath.Join(dir, "missing"))
		for what, open := range map[string]func() (absfs.File, error){
			"Open":     func() (absfs.File, error) { return fileSystem.Open(name) },
			"OpenFile": func() (absfs.File, error) { return fileSystem.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0) },
			"Create":   func() (absfs.File, error) { return fileSystem.Create(missing) },
		} {
			file, err := open()
			if err == nil {
				file.Close()
			}
			var path *fs.PathError
			if !errors.Is(err, fs.ErrClosed) || !errors.As(err, &path) {
				t.Errorf("%s: %v, want a *fs.PathError with fs.ErrClosed", what, err)
			}
		}
		testkit.MustEqual(t, "the file after failed opens", testkit.ReadNative(t, name), before)
		if _, err := os.Stat(osfs.ToNative(missing)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a failed Create has created a file: %v", err)
		}
	}, testkit.Wrapped)
}

// Catches a way to open a file that does not give a *MappedFile, for files that cannot be mapped too.
func TestEveryOpenGivesMappedFile(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		dir := testkit.TestDir(t)
		name := testkit.WriteFile(t, dir, "file", testkit.Content(100))
		testkit.WriteFile(t, dir, "empty", nil)
		fileSystem := m.OverOS(t)
		check := func(what string, open func() (absfs.File, error)) *memmapfs.MappedFile {
			t.Helper()
			file, err := open()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			t.Cleanup(func() { file.Close() })
			mapped := testkit.AsMapped(t, file)
			if mapped.Mapped() {
				t.Errorf("%s: mapped before there is a need", what)
			}
			return mapped
		}
		mapped := check("Open", func() (absfs.File, error) { return fileSystem.Open(name) })
		if data := mapped.Data(); testkit.Mappable() && (data == nil || !mapped.Mapped()) {
			t.Errorf("Data has %d bytes, mapped %v", len(data), mapped.Mapped())
		} else if len(data) != cap(data) {
			t.Errorf("Data has room for %d bytes behind the end of the file", cap(data)-len(data))
		}
		check("OpenFile", func() (absfs.File, error) { return fileSystem.OpenFile(name, os.O_WRONLY, 0) })
		for what, unmapped := range map[string]*memmapfs.MappedFile{
			"a directory": check("a directory", func() (absfs.File, error) { return fileSystem.Open(osfs.FromNative(dir)) }),
			"an empty file": check("an empty file", func() (absfs.File, error) {
				return fileSystem.Open(osfs.FromNative(filepath.Join(dir, "empty")))
			}),
			"Create": check("Create", func() (absfs.File, error) {
				return fileSystem.Create(osfs.FromNative(filepath.Join(dir, "new")))
			}),
		} {
			if unmapped.Data() != nil || unmapped.Mapped() {
				t.Errorf("%s is mapped", what)
			}
		}
		if _, err := fileSystem.Open(osfs.FromNative(filepath.Join(dir, "missing"))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing file: %v", err)
		}
	}, testkit.Wrapped)
}

// Catches an error of the caller's function that View changes, and slices that reach past the range.
func TestView(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(5*testkit.PageSize + 11))
		file := testkit.MustOpenMapped(t, m.OverOS(t), testkit.WriteFile(t, testkit.TestDir(t), "file", data), os.O_RDONLY)
		if !testkit.Mappable() {
			return
		}
		own := errors.New("the caller's own")
		if err := file.View(3, 5, func([]byte) error { return own }); err != own {
			t.Errorf("the function's error became %v", err)
		}
		if err := file.View(3, 5, func([]byte) error { return io.EOF }); err != io.EOF {
			t.Errorf("the function's io.EOF became %v", err)
		}
		size := int64(len(data))
		for _, span := range [][2]int64{
			{0, size}, {0, 1}, {size - 1, 1}, {testkit.PageSize - 1, 2}, {1, 3 * testkit.PageSize}, {4 * testkit.PageSize, testkit.PageSize + 11},
		} {
			off, n := span[0], span[1]
			err := file.View(off, n, func(b []byte) error {
				if len(b) != cap(b) {
					t.Errorf("View %d from %d: room for %d bytes more", n, off, cap(b)-len(b))
				}
				testkit.MustEqual(t, fmt.Sprintf("View %d from %d", n, off), b, data[off:off+n])
				// From inside the function, all of the file's methods can be called.
				return file.View(off, 1, func(inner []byte) error {
					if inner[0] != data[off] {
						t.Errorf("View inside View at %d: %d, want %d", off, inner[0], data[off])
					}
					_, err := file.ReadAt(make([]byte, 1), off)
					return err
				})
			})
			if err != nil {
				t.Errorf("View %d from %d: %v", n, off, err)
			}
		}
		for _, span := range [][2]int64{{0, size + 1}, {size, 1}, {size - 1, 2}, {size + testkit.PageSize, 1}, {1, math.MaxInt64}} {
			err := file.View(span[0], span[1], func([]byte) error { t.Error("called past the end"); return nil })
			if err != io.EOF {
				t.Errorf("View %d from %d: %v, want io.EOF", span[1], span[0], err)
			}
		}
	}, testkit.Wrapped)
}

// Catches copy-on-write bytes that reach the file, get lost, show in another handle, or grow it.
func TestCopyOnWrite(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(40*testkit.PageSize + 9))
		size := int64(len(data))
		for _, flags := range []int{os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_SYNC} {
			if flags&os.O_SYNC != 0 && runtime.GOOS == "js" {
				continue // package os refuses it there
			}
			for _, forced := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, map forced %v", testkit.FlagNames(flags), forced), func(t *testing.T) {
					fileSystem := m.OverOS(t)
					name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
					file, other := testkit.MustOpenMapped(t, fileSystem, name, flags), testkit.MustOpenMapped(t, fileSystem, name, flags)
					if forced {
						testkit.ForceMap(file)
						testkit.ForceMap(other)
					}
					want := bytes.Clone(data)
					for _, off := range []int64{0, testkit.PageSize - 3, 3*testkit.PageSize - 1, 20 * testkit.PageSize, size - 6} {
						copy(want[off:], "secret")
						if n, err := file.WriteAt([]byte("secret"), off); n != 6 || err != nil {
							t.Fatalf("WriteAt %d: %d, %v", off, n, err)
						}
					}
					copy(want[100:], "by Write")
					file.Seek(100, io.SeekStart)
					if n, err := file.WriteString("by Write"); n != 8 || err != nil {
						t.Fatalf("WriteString: %d, %v", n, err)
					}
					check := func(when string) {
						t.Helper()
						file.Seek(0, io.SeekStart)
						got, err := io.ReadAll(file)
						if err != nil {
							t.Fatalf("%s: %v", when, err)
						}
						testkit.MustEqual(t, when, got, want)
						for off := int64(0); off < size; off += testkit.PageSize / 2 { // every window comes and goes
							p := make([]byte, min(100, size-off))
							if _, err := file.ReadAt(p, off); err != nil {
								t.Fatalf("%s: ReadAt %d: %v", when, off, err)
							}
							testkit.MustEqual(t, fmt.Sprintf("%s, ReadAt %d", when, off), p, want[off:off+int64(len(p))])
						}
						if testkit.Mappable() {
							err = file.View(0, size, func(b []byte) error { testkit.MustEqual(t, when+", View", b, want); return nil })
							if err != nil {
								t.Fatalf("%s: View: %v", when, err)
							}
						}
						testkit.MustEqual(t, when+", another handle", testkit.ReadAll(t, other), data)
						testkit.MustEqual(t, when+", the file", testkit.ReadNative(t, name), data)
					}
					check("after writing")
					for _, hint := range []func() error{file.AdviseDontNeed, file.AdviseRemove, file.AdviseFree, file.AdviseWillNeed} {
						hint()
					}
					check("after advice")
					if err := file.RemapAfterTruncation(); err != nil {
						t.Errorf("RemapAfterTruncation: %v", err)
					}
					check("after RemapAfterTruncation")
					for what, flush := range map[string]func() error{
						"Sync": file.Sync, "SyncAsync": file.SyncAsync, "SyncRange": func() error { return file.SyncRange(0, size) },
					} {
						if err := flush(); err != nil {
							t.Errorf("%s: %v", what, err)
						}
					}
					check("after flushing")

					refused := func(what string, n int, err error) {
						t.Helper()
						if n != 0 || err == nil {
							t.Errorf("%s: %d, %v, want to be refused", what, n, err)
							return
						}
						testkit.CheckPathError(t, what, err, name)
					}
					n, err := file.WriteAt([]byte("0123456789"), size-5)
					refused("WriteAt over the end", n, err)
					n, err = file.WriteAt([]byte("x"), size)
					refused("WriteAt at the end", n, err)
					file.Seek(-5, io.SeekEnd)
					n, err = file.Write([]byte("0123456789"))
					refused("Write over the end", n, err)
					if position, _ := file.Seek(0, io.SeekCurrent); position != size-5 {
						t.Errorf("a refused Write moved the position to %d", position)
					}
					for _, to := range []int64{0, size - 1, size + 1} {
						refused(fmt.Sprintf("Truncate to %d", to), 0, file.Truncate(to))
					}
					check("after refusals")
					if err := file.Close(); err != nil {
						t.Fatal(err)
					}
					testkit.MustEqual(t, "the file after Close", testkit.ReadNative(t, name), data)
				})
			}
		}
	}, testkit.Mode.CopyOnWrite)
}

// Catches writes that vanish, or reach the file, through handles that cannot be read.
func TestCopyOnWriteUnreadable(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(2 * testkit.PageSize))
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
		file := testkit.MustOpen(t, m.OverOS(t), name, os.O_WRONLY)
		if n, err := file.Write([]byte("private")); n != 7 || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if position, err := file.Seek(0, io.SeekCurrent); position != 7 || err != nil {
			t.Errorf("position %d, %v", position, err)
		}
		if n, err := file.WriteAt([]byte("x"), int64(len(data))); n != 0 || err == nil {
			t.Errorf("growth: %d, %v", n, err)
		}
		if n, err := file.ReadAt(make([]byte, 5), 0); n != 0 || !errors.Is(err, syscall.EBADF) && runtime.GOOS != "windows" {
			t.Errorf("ReadAt: %d, %v", n, err)
		}
		testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), data)
	}, testkit.Mode.CopyOnWrite)
}

// Catches a copy-on-write handle that protects a file which has nothing to protect.
func TestCopyOnWriteEmptyFile(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		dir := testkit.TestDir(t)
		fileSystem := m.OverOS(t)
		data := testkit.Content(int(2*testkit.PageSize + 1))
		for what, flags := range map[string]int{
			"empty": os.O_RDWR, "created": os.O_RDWR | os.O_CREATE, "truncated": os.O_RDWR | os.O_TRUNC, "appended": os.O_RDWR | os.O_APPEND,
		} {
			name := osfs.FromNative(filepath.Join(dir, what))
			switch what {
			case "empty", "appended":
				testkit.WriteFile(t, dir, what, nil)
			case "truncated":
				testkit.WriteFile(t, dir, what, testkit.Content(100))
			}
			file := testkit.MustOpenMapped(t, fileSystem, name, flags)
			if n, err := file.Write(data); n != len(data) || err != nil {
				t.Errorf("%s: Write: %d, %v", what, n, err)
			}
			testkit.MustEqual(t, what, testkit.ReadNative(t, name), data)
			testkit.ForceMap(file)
			if err := file.Truncate(testkit.PageSize); err != nil {
				t.Errorf("%s: Truncate: %v", what, err)
			}
			if flags&os.O_APPEND == 0 {
				if n, err := file.WriteAt([]byte("through"), 3); n != 7 || err != nil {
					t.Errorf("%s: WriteAt: %d, %v", what, n, err)
				}
				testkit.MustEqual(t, what, testkit.ReadNative(t, name)[3:10], []byte("through"))
			}
		}
	}, testkit.Mode.CopyOnWrite)
}

// Catches a modification time that stands still because all bytes went through the map: backup programs
// and build tools would not see the change.
func TestModificationTime(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(2*testkit.PageSize)))
		fileSystem := m.OverOS(t)
		long := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
		for what, finish := range map[string]func(file absfs.File) error{
			"Sync":  func(file absfs.File) error { return file.Sync() },
			"Close": func(file absfs.File) error { return file.Close() },
		} {
			file := testkit.MustOpen(t, fileSystem, name, os.O_RDWR)
			testkit.ForceMap(file)
			for range 2 { // the second store finds the page dirty
				if _, err := file.WriteAt([]byte("stored"), 10); err != nil {
					t.Fatal(err)
				}
			}
			if err := fileSystem.Chtimes(name, long, long); err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt([]byte("stored"), 10); err != nil {
				t.Fatal(err)
			}
			if err := finish(file); err != nil {
				t.Fatal(err)
			}
			info, err := fileSystem.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if !info.ModTime().After(long) {
				t.Errorf("%s leaves the modification time at %v", what, info.ModTime())
			}
		}
	}, testkit.NotCopyOnWrite)
}

// Catches a read handle under a writing mode that fails to open, or that can change the file.
func TestReadHandleInEveryMode(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(2*testkit.PageSize + 3))
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
		fileSystem := m.OverOS(t)
		file, err := fileSystem.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if mapped, ok := file.(*memmapfs.MappedFile); ok && testkit.Mappable() && mapped.Data() == nil {
			t.Error("not mapped")
		}
		n, err := file.WriteAt([]byte("x"), 0)
		switch {
		case m.CopyOnWrite():
			if n != 1 || err != nil {
				t.Errorf("WriteAt: %d, %v, want it to stay in the handle", n, err)
			}
		case m.ReadOnly():
			if n != 0 || !errors.Is(err, memmapfs.ErrWriteToReadOnlyMap) {
				t.Errorf("WriteAt: %d, %v, want ErrWriteToReadOnlyMap", n, err)
			}
		default:
			if n != 0 || err == nil {
				t.Errorf("WriteAt: %d, %v, want the system's error", n, err)
			}
		}
		testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), data)
	})
}

// Catches a file that fails because it cannot be mapped, and negative offsets that reach a wrapped
// filesystem which does not expect them: memfs panics.
func TestOverMemory(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		file, err := m.OverMemory(t).Create("/file")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		mapped := testkit.AsMapped(t, file)
		if n, err := file.Write(testkit.Content(100)); n != 100 || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if mapped.Data() != nil || mapped.Mapped() {
			t.Error("a file in memory is mapped")
		}
		if err := mapped.View(0, 1, func([]byte) error { return nil }); !errors.Is(err, memmapfs.ErrNotMapped) {
			t.Errorf("View: %v, want ErrNotMapped", err)
		}
		testkit.MustEqual(t, "the file", testkit.ReadAll(t, file), testkit.Content(100))
		if n, err := file.ReadAt(make([]byte, 5), -1); n != 0 || !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("ReadAt: %d, %v, want ErrInvalidOffset", n, err)
		}
		if n, err := file.WriteAt([]byte("x"), -1); n != 0 || !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("WriteAt: %d, %v, want ErrInvalidOffset", n, err)
		}
		if n, err := file.ReadAt(make([]byte, 5), math.MaxInt64-1); n != 0 || err != io.EOF {
			t.Errorf("ReadAt: %d, %v, want io.EOF", n, err)
		}
	}, testkit.Wrapped)
}

// TestMapOfViewThatIsKept catches a private map that stays for the next View, or Data, although a page of it was
// made its own for private bytes: that page does not follow the file.
func TestMapOfViewThatIsKept(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(2*testkit.PageSize)))
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		defer file.Close()
		if _, err := file.WriteAt([]byte("private"), 0); err != nil {
			t.Fatal(err)
		}
		last := 2*testkit.PageSize - 1
		for step, ask := range []func() []byte{
			func() (seen []byte) {
				if err := file.View(0, testkit.PageSize, func(b []byte) error { seen = bytes.Clone(b); return nil }); err != nil {
					t.Error(err)
				}
				return seen
			},
			file.Data,
		} {
			if err := file.View(last, 1, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
			change := []byte{byte(step + 1), 0xee}
			other, err := os.OpenFile(osfs.ToNative(name), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.WriteAt(change, 100); err != nil {
				t.Fatal(err)
			}
			other.Close()
			if got := ask(); len(got) < 102 || !bytes.Equal(got[100:102], change) || string(got[:7]) != "private" {
				t.Errorf("step %d: %d bytes, want the file's of now and the private ones", step, len(got))
			}
		}
	}, testkit.Mode.CopyOnWrite)
}
