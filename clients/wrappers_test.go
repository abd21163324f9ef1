package clients_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/basefs"
	"github.com/absfs/cachefs"
	"github.com/absfs/corfs"
	"github.com/absfs/lockfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// wrapper is a filesystem of the absfs family that wraps another one. It makes dir, an absfs
// name, its root or leaves the root where it is, and says where dir is then.
type wrapper struct {
	name string
	// careful leaves out what it has mistakes of its own in: a Seek past what is cached panics,
	// and a write that is refused drops what is cached.
	careful bool
	steps   int
	// flushed leaves out flushes in the background: they show in what Stat says.
	flushed bool
	wrap    func(base absfs.FileSystem, dir string) (wrapped absfs.FileSystem, root string, err error)
}

var wrappers = []wrapper{
	{name: "basefs", steps: 800, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		wrapped, err := basefs.NewFileSystem(base, dir)
		return wrapped, "/", err
	}},
	{name: "lockfs", steps: 800, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		wrapped, err := lockfs.NewFS(base)
		return wrapped, dir, err
	}},
	{name: "cachefs", careful: true, steps: 800, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		return cachefs.New(base), dir, nil
	}},
	{name: "corfs", steps: 800, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		cacheDir := path.Join(dir, "cache")
		if err := base.Mkdir(cacheDir, 0o755); err != nil {
			return nil, "", err
		}
		cache, err := basefs.NewFileSystem(base, cacheDir)
		if err != nil {
			return nil, "", err
		}
		primary, err := basefs.NewFileSystem(base, dir)
		return absfs.ExtendFiler(corfs.New(primary, cache)), "/", err
	}},
}

// Over memmapfs, and under it, a wrapper gives what it gives without memmapfs.
func TestWrappers(t *testing.T) {
	for _, wrapper := range wrappers {
		wrapper.test(t, tree)
	}
}

// test compares what random calls find, and what left says of the directory afterwards.
func (w wrapper) test(t *testing.T, left func(t *testing.T, dir string) report) {
	wrap := func(t *testing.T, base absfs.FileSystem, dir string) (absfs.FileSystem, string) {
		wrapped, root, err := w.wrap(base, osfs.FromNative(dir))
		must(t, err)
		return wrapped, root
	}
	calls := func(fileSystem absfs.FileSystem, root string) report {
		return randomCalls(fileSystem, root, w.steps, w.careful)
	}
	without := t.TempDir()
	fileSystem, root := wrap(t, plain(t), without)
	want := append(calls(fileSystem, root), left(t, without)...)

	for _, mode := range modes {
		if mode.config.Mode == memmapfs.ModeCopyOnWrite {
			continue // what is written does not reach the file, and is not what a plain file does
		}
		if w.flushed && mode.config.SyncMode == memmapfs.SyncPeriodic {
			continue
		}
		config := mode.config
		t.Run(w.name+" over memmapfs, "+mode.name, func(t *testing.T) {
			dir := t.TempDir()
			mapped := memmapfs.New(plain(t), &config)
			fileSystem, root := wrap(t, mapped, dir)
			found := calls(fileSystem, root)
			must(t, mapped.Close())
			mustEqual(t, append(found, left(t, dir)...), want)
		})
		if config.RequireMapping {
			continue // the files of these wrappers offer no descriptor
		}
		t.Run(w.name+" under memmapfs, "+mode.name, func(t *testing.T) {
			dir := t.TempDir()
			wrapped, root := wrap(t, plain(t), dir)
			mapped := memmapfs.New(wrapped, &config)
			found := calls(mapped, root)
			must(t, mapped.Close())
			mustEqual(t, append(found, left(t, dir)...), want)
		})
		t.Run(w.name+" between two of memmapfs, "+mode.name, func(t *testing.T) {
			dir := t.TempDir()
			inner := memmapfs.New(plain(t), &config)
			wrapped, root := wrap(t, inner, dir)
			outer := memmapfs.New(wrapped, &config)
			found := calls(outer, root)
			must(t, outer.Close())
			must(t, inner.Close())
			mustEqual(t, append(found, left(t, dir)...), want)
		})
	}
}

// randomCalls makes calls of fileSystem and its files below root, always the same ones, and reports
// their results.
func randomCalls(fileSystem absfs.FileSystem, root string, steps int, careful bool) report {
	w := &walk{fileSystem: fileSystem, root: root, careful: careful, random: random()}
	for range steps {
		w.step()
	}
	for _, file := range w.open {
		w.found.add("close at the end: %s", class(file.Close()))
	}
	return w.found
}

// walk is a random sequence of calls.
type walk struct {
	fileSystem absfs.FileSystem
	root       string
	careful    bool
	random     *rand.Rand
	open       []absfs.File
	found      report
}

// name picks one of a few files, so that several handles are open on one of them.
func (w *walk) name() string { return path.Join(w.root, fmt.Sprintf("file %d", w.random.IntN(4))) }

// offset is in the first three windows, often at an edge of a page or a window.
func (w *walk) offset() int64 {
	switch w.random.IntN(4) {
	case 0:
		return w.random.Int64N(3) * mebibyte
	case 1:
		return max(0, w.random.Int64N(700)*4096-w.random.Int64N(3))
	}
	return w.random.Int64N(5 * mebibyte / 2)
}

func (w *walk) bytes() []byte {
	sizes := []int{0, 1, 10, 4096, 10_000, 10_000, 50_000, 100_000, 3 * mebibyte / 2}
	data := make([]byte, sizes[w.random.IntN(len(sizes))])
	first := byte(w.random.Uint32())
	for i := range data {
		data[i] = first + byte(i/7)
	}
	return data
}

// Long: a case for each call.
func (w *walk) step() {
	if len(w.open) == 0 || len(w.open) < 6 && w.random.IntN(20) == 0 {
		flags := []int{os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE, os.O_RDWR | os.O_CREATE, os.O_WRONLY,
			os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_CREATE | os.O_TRUNC, os.O_RDWR | os.O_CREATE | os.O_EXCL}
		name, flag := w.name(), flags[w.random.IntN(len(flags))]
		if w.careful && flag == os.O_RDONLY {
			flag = os.O_RDWR
		}
		file, err := w.fileSystem.OpenFile(name, flag, 0o644)
		w.found.add("open %s with %#x: %s", path.Base(name), flag, class(err))
		if err == nil {
			w.open = append(w.open, file)
		}
		return
	}
	number := w.random.IntN(len(w.open))
	file := w.open[number]
	switch w.random.IntN(14) {
	case 0, 1:
		p := w.bytes()
		n, err := file.Read(p)
		w.found.add("%d: read %d: %d, %s, %x", number, len(p), n, class(err), sum(p[:n]))
	case 2, 3, 4:
		p, off := w.bytes(), w.offset()
		n, err := file.ReadAt(p, off)
		w.found.add("%d: read %d at %d: %d, %s, %x", number, len(p), off, n, class(err), sum(p[:n]))
	case 5:
		p := w.bytes()
		n, err := file.Write(p)
		w.found.add("%d: write %d: %d, %s", number, len(p), n, class(err))
	case 6, 7:
		p, off := append(w.bytes(), 1), w.offset() // without any bytes the plain file does not even look
		n, err := file.WriteAt(p, off)
		w.found.add("%d: write %d at %d: %d, %s", number, len(p), off, n, class(err))
	case 8:
		if w.careful {
			return
		}
		off, whence := w.offset(), w.random.IntN(3)
		if whence != io.SeekStart {
			off = -off / 8
		}
		position, err := file.Seek(off, whence)
		w.found.add("%d: seek %d from %d: %d, %s", number, off, whence, position, class(err))
	case 9:
		size := w.offset()
		err := file.Truncate(size)
		if errors.Is(err, syscall.EINVAL) {
			err = syscall.EBADF // what the system says of a file not open for writing, here alone
		}
		w.found.add("%d: truncate to %d: %s", number, size, class(err))
	case 10:
		n, err := file.WriteString("string")
		w.found.add("%d: write string: %d, %s", number, n, class(err))
		if w.random.IntN(10) == 0 { // it takes its time
			w.found.add("%d: sync: %s", number, class(file.Sync()))
		}
	case 11:
		info, err := file.Stat()
		if err == nil {
			w.found.add("%d: stat: %d %v", number, info.Size(), info.Mode())
		} else {
			w.found.add("%d: stat: %s", number, class(err))
		}
	case 12:
		w.found.add("%d: close: %s", number, class(file.Close()))
		w.open = append(w.open[:number], w.open[number+1:]...)
	case 13:
		w.byName()
	}
}

// byName makes a call that names a file.
func (w *walk) byName() {
	name, other := w.name(), w.name()
	base := path.Base(name)
	switch w.random.IntN(6) {
	case 0:
		data, err := w.fileSystem.ReadFile(name)
		w.found.add("read file %s: %d bytes, %x, %s", base, len(data), sum(data), class(err))
	case 1:
		size := w.offset()
		w.found.add("truncate %s to %d: %s", base, size, class(w.fileSystem.Truncate(name, size)))
	case 2:
		w.found.add("rename %s to %s: %s", base, path.Base(other), class(w.fileSystem.Rename(name, other)))
	case 3:
		w.found.add("remove %s: %s", base, class(w.fileSystem.Remove(name)))
	case 4:
		info, err := w.fileSystem.Stat(name)
		if err == nil {
			w.found.add("stat %s: %d %v", base, info.Size(), info.Mode())
		} else {
			w.found.add("stat %s: %s", base, class(err))
		}
	case 5:
		entries, err := w.fileSystem.ReadDir(w.root)
		for _, entry := range entries {
			w.found.add("entry %s %v", entry.Name(), entry.Type())
		}
		w.found.add("read directory: %s", class(err))
	}
}

func sum(p []byte) (sum uint64) {
	for _, b := range p {
		sum = sum*1099511628211 ^ uint64(b)
	}
	return sum
}

// class reduces an error to what a caller can act on.
func class(err error) string {
	var number syscall.Errno
	switch {
	case err == nil:
		return "no error"
	case err == io.EOF:
		return "EOF"
	case errors.Is(err, memmapfs.ErrWriteToReadOnlyMap), errors.Is(err, syscall.EBADF), errors.Is(err, fs.ErrPermission):
		return "not open for that" // memmapfs has an error of its own for it, and rofs another
	case errors.Is(err, fs.ErrClosed):
		return "closed"
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.EINVAL):
		return "invalid"
	case errors.As(err, &number):
		return number.Error()
	}
	text := err.Error() // of basefs, with paths in it
	return text[strings.LastIndex(text, ": ")+1:]
}
