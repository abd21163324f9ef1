package testkit

import (
	"fmt"
	"io"
	"testing"

	"github.com/absfs/absfs"
)

// Twins are the same file twice: as it is opened through the plain filesystem, and through memmapfs.
type Twins struct {
	T             *testing.T
	Names         [2]string // of the plain file, and of the one that is mapped
	Systems       [2]absfs.FileSystem
	plain, mapped absfs.File
}

// EachTwins runs a test with twins of that many bytes, in every mode in which writes reach the file.
func EachTwins(t *testing.T, size int64, test func(t *testing.T, f *Twins)) {
	EachMode(t, func(t *testing.T, m Mode) {
		dir := TestDir(t)
		data := Content(int(size))
		test(t, &Twins{
			T:       t,
			Names:   [2]string{WriteFile(t, dir, "plain", data), WriteFile(t, dir, "mapped", data)},
			Systems: [2]absfs.FileSystem{PlainFileSystem(t), m.OverOS(t)},
		})
	}, Wrapped, NotCopyOnWrite)
}

// Open opens both, and has the mapped one mapped at once: otherwise the first need would do it.
func (f *Twins) Open(flags int) {
	f.T.Helper()
	f.plain = MustOpen(f.T, f.Systems[0], f.Names[0], flags)
	f.mapped = MustOpen(f.T, f.Systems[1], f.Names[1], flags)
	ForceMap(f.mapped)
}

// Same has both answer a call, and compares all that a program can see of it.
func (f *Twins) Same(what string, call func(file absfs.File) (answer any, err error)) {
	f.T.Helper()
	want, wantErr := call(f.plain)
	got, gotErr := call(f.mapped)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		f.T.Errorf("%s: %.100v, want %.100v", what, got, want)
	}
	if ErrorClass(gotErr) != ErrorClass(wantErr) {
		f.T.Errorf("%s: error %v, want one like %v", what, gotErr, wantErr)
	}
	if got, want := state(f.mapped), state(f.plain); got != want {
		f.T.Errorf("after %s: %s, want %s", what, got, want)
	}
	// Around the filesystems, as every other program reads it.
	MustEqual(f.T, "the file after "+what, ReadNative(f.T, f.Names[1]), ReadNative(f.T, f.Names[0]))
}

func state(file absfs.File) string {
	at, err := file.Seek(0, io.SeekCurrent)
	info, statErr := file.Stat()
	switch {
	case err != nil:
		return ErrorClass(err) // Stat of a closed file is another error on each system
	case statErr != nil:
		return ErrorClass(statErr)
	}
	return fmt.Sprintf("position %d of %d bytes", at, info.Size())
}

// Read reads at the position.
func (f *Twins) Read(n int) {
	f.T.Helper()
	f.Same(fmt.Sprintf("Read of %d bytes", n), func(file absfs.File) (any, error) {
		p := make([]byte, n)
		n, err := file.Read(p)
		return p[:n], err
	})
}

// ReadAt reads n bytes at off.
func (f *Twins) ReadAt(off int64, n int) {
	f.T.Helper()
	f.Same(fmt.Sprintf("ReadAt of %d bytes at %d", n, off), func(file absfs.File) (any, error) {
		p := make([]byte, n)
		n, err := file.ReadAt(p, off)
		return p[:n], err
	})
}

// Write writes at the position.
func (f *Twins) Write(text string) {
	f.T.Helper()
	f.Same(fmt.Sprintf("Write of %.20q", text), func(file absfs.File) (any, error) { return file.Write([]byte(text)) })
}

// WriteAt writes at off.
func (f *Twins) WriteAt(off int64, text string) {
	f.T.Helper()
	f.Same(fmt.Sprintf("WriteAt of %.20q at %d", text, off), func(file absfs.File) (any, error) {
		return file.WriteAt([]byte(text), off)
	})
}

// SeekTo moves the position.
func (f *Twins) SeekTo(off int64, whence int) {
	f.T.Helper()
	f.Same(fmt.Sprint("Seek to ", off), func(file absfs.File) (any, error) { return file.Seek(off, whence) })
}

// Truncate changes the size.
func (f *Twins) Truncate(size int64) {
	f.T.Helper()
	f.Same(fmt.Sprint("Truncate to ", size), func(file absfs.File) (any, error) { return nil, file.Truncate(size) })
}

// ReadAll reads all from the start.
func (f *Twins) ReadAll() {
	f.T.Helper()
	f.SeekTo(0, io.SeekStart)
	f.Same("io.ReadAll", func(file absfs.File) (any, error) { return io.ReadAll(file) })
}
