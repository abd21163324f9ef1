package contract_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// Catches whences of the system that the mapped file does not pass on: SEEK_DATA and SEEK_HOLE.
func TestSeekHoles(t *testing.T) {
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		name := testkit.WriteFile(r.t, dir, "sparse", testkit.Content(int(testkit.PageSize)))
		native, err := os.OpenFile(osfs.ToNative(name), os.O_WRONLY, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		_, err = native.WriteAt([]byte("after the hole"), 1<<20)
		if err = errors.Join(err, native.Sync(), native.Close()); err != nil {
			r.t.Fatal(err)
		}
		file := r.openScripted(fileSystem, name, os.O_RDONLY, forced)
		for _, off := range []int64{0, 1, testkit.PageSize, 64 << 10, 1 << 20, 1<<20 + 14, 1 << 30, -1} {
			r.seek(file, off, unix.SEEK_DATA)
			r.seek(file, 0, io.SeekCurrent)
			r.read(file, 4)
			r.seek(file, off, unix.SEEK_HOLE)
			r.seek(file, 0, io.SeekCurrent)
		}
	})
}

// Catches a file that is taken for empty because its size says 0: those of /proc have content.
func TestFilesWithoutSize(t *testing.T) {
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		for _, name := range []string{"/proc/self/status", "/proc/cpuinfo", "/proc/version", "/proc/self/cmdline"} {
			file := r.openScripted(fileSystem, name, os.O_RDONLY, forced)
			data, err := io.ReadAll(io.MultiReader(io.LimitReader(file, 5), file)) // in several portions
			if err != nil || len(data) == 0 {
				r.t.Errorf("%s: %d bytes, %v", name, len(data), err)
			}
			switch name {
			case "/proc/self/status": // its numbers move while the test runs
				r.add("%s starts with %q", name, bytes.SplitN(data, []byte("\n"), 2)[0])
			case "/proc/cpuinfo": // so do the clock rates
				r.add("%s has %d processors", name, bytes.Count(data, []byte("processor")))
			default:
				r.add("%s: %q", name, data)
				r.readAt(file, 10, 3)
				r.seek(file, 3, io.SeekStart)
				r.read(file, 4)
				r.seek(file, 0, io.SeekCurrent)
			}
			if mapped, ok := file.(*memmapfs.MappedFile); ok {
				if err := mapped.View(0, 1, func([]byte) error { return nil }); err == nil {
					r.t.Errorf("%s: View succeeds", name)
				}
				if all, err := fileSystem.ReadFile(name); err != nil || len(all) == 0 {
					r.t.Errorf("%s: ReadFile: %d bytes, %v", name, len(all), err)
				}
			}
		}
	})
}
