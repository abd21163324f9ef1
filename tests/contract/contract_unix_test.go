//go:build unix

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
	"runtime"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// Catches a mapping layer that waits where a pipe does not, or holds a lock while it waits: a Read that
// is blocked must not keep a Write, a Stat or a Close from running. It also catches a second descriptor
// of the pipe that stays open, which keeps the end of the pipe from being seen.
func TestPipe(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		makePipe := func(t *testing.T) string {
			native := filepath.Join(testkit.TestDir(t), "pipe")
			if err := unix.Mkfifo(native, 0o600); err != nil {
				t.Fatal(err)
			}
			return osfs.FromNative(native)
		}
		exchange := func(t *testing.T, writer, reader absfs.File) {
			t.Helper()
			testkit.MustFinish(t, "writing and reading", func() {
				if n, err := writer.Write([]byte("through the pipe")); n != 16 || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				p := make([]byte, 100)
				if n, err := reader.Read(p); string(p[:n]) != "through the pipe" || err != nil {
					t.Errorf("Read: %q, %v", p[:n], err)
				}
			})
		}
		t.Run("one handle", func(t *testing.T) {
			fileSystem, name := m.OverOS(t), makePipe(t)
			var file absfs.File
			testkit.MustFinish(t, "opening", func() { file = testkit.MustOpen(t, fileSystem, name, os.O_RDWR) })
			exchange(t, file, file)
			testkit.MustFinish(t, "asking for a map", func() {
				mapped, ok := file.(*memmapfs.MappedFile)
				if !ok {
					return
				}
				if mapped.Data() != nil || mapped.Mapped() {
					t.Error("a pipe is mapped")
				}
				if err := mapped.View(0, 1, func([]byte) error { return nil }); !errors.Is(err, memmapfs.ErrNotMapped) {
					t.Errorf("View: %v, want ErrNotMapped", err)
				}
			})
			for i := 0; i < 50 && !t.Failed(); i++ { // enough calls for a map, had it been a file
				exchange(t, file, file)
			}
			p := make([]byte, 1)
			for what, call := range map[string]func() error{
				"ReadAt":   func() error { _, err := file.ReadAt(p, 0); return err },
				"WriteAt":  func() error { _, err := file.WriteAt(p, 0); return err },
				"Seek":     func() error { _, err := file.Seek(0, io.SeekCurrent); return err },
				"Truncate": func() error { return file.Truncate(0) },
			} {
				if call() == nil {
					t.Errorf("%s succeeds on a pipe", what)
				}
			}
		})
		t.Run("blocked Read", func(t *testing.T) {
			fileSystem, name := m.OverOS(t), makePipe(t)
			file := testkit.MustOpen(t, fileSystem, name, os.O_RDWR)
			type answer struct {
				text string
				err  error
			}
			answers := make(chan answer)
			read := func() {
				p := make([]byte, 100)
				n, err := file.Read(p)
				answers <- answer{string(p[:n]), err}
			}
			// Whether Read waits already or starts after the Write, the outcome is the same; the
			// first rounds let it start first more often than not.
			for round := 0; round < 20 && !t.Failed(); round++ {
				go read()
				for range 100 {
					runtime.Gosched()
				}
				testkit.MustFinish(t, "calls beside a blocked Read", func() {
					if _, err := file.Stat(); err != nil {
						t.Errorf("Stat: %v", err)
					}
					testkit.ForceMap(file)
					if _, err := file.Write([]byte("wake up")); err != nil {
						t.Errorf("Write: %v", err)
					}
					if got := <-answers; got.text != "wake up" || got.err != nil {
						t.Errorf("round %d: Read: %q, %v", round, got.text, got.err)
					}
				})
			}
			go read()
			for range 100 {
				runtime.Gosched()
			}
			testkit.MustFinish(t, "Close beside a blocked Read", func() {
				if err := file.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				if got := <-answers; got.text != "" || !errors.Is(got.err, fs.ErrClosed) {
					t.Errorf("Read: %q, %v, want fs.ErrClosed", got.text, got.err)
				}
			})
		})
		t.Run("two handles", func(t *testing.T) {
			fileSystem, name := m.OverOS(t), makePipe(t)
			var reader, writer absfs.File
			testkit.MustFinish(t, "opening both ends", func() {
				opened := make(chan absfs.File)
				go func() {
					file, err := fileSystem.OpenFile(name, os.O_WRONLY, 0)
					if err != nil {
						t.Error(err)
					}
					opened <- file
				}()
				var err error
				if reader, err = fileSystem.Open(name); err != nil {
					t.Error(err)
				}
				writer = <-opened
			})
			defer reader.Close()
			defer writer.Close()
			testkit.ForceMap(reader)
			testkit.ForceMap(writer)
			exchange(t, writer, reader)
			testkit.MustFinish(t, "the end of the pipe", func() {
				writer.Close()
				if n, err := reader.Read(make([]byte, 10)); n != 0 || err != io.EOF {
					t.Errorf("Read after the writer has closed: %d, %v, want io.EOF", n, err)
				}
			})
		})
	})
}

// Catches a handle that follows a name instead of its file. Windows refuses to remove or replace a file
// that is open.
func TestRemovedAndReplaced(t *testing.T) {
	old, replacement := testkit.Content(int(3*testkit.PageSize+17)), bytes.Repeat([]byte("new"), int(testkit.PageSize))
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		for _, how := range []string{"removed", "replaced"} {
			name := testkit.WriteFile(r.t, dir, how, old)
			file := r.openScripted(fileSystem, name, os.O_RDWR, forced)
			untouched := testkit.MustOpen(r.t, fileSystem, name, os.O_RDONLY)
			var held []byte
			if mapped, ok := file.(*memmapfs.MappedFile); ok && forced {
				held = mapped.Data()
			}
			if how == "removed" {
				if err := fileSystem.Remove(name); err != nil {
					r.t.Fatal(err)
				}
			} else if err := fileSystem.Rename(testkit.WriteFile(r.t, dir, "other", replacement), name); err != nil {
				r.t.Fatal(err)
			}
			for _, handle := range []absfs.File{file, untouched} {
				testkit.ForceMap(handle) // must not map what is at the name now
				got, err := io.ReadAll(io.NewSectionReader(handle, 0, math.MaxInt64))
				r.add("%s: %s, %s", how, testkit.FirstDifference(got, old), testkit.ErrorClass(err))
				r.size(handle)
			}
			if held != nil && !bytes.Equal(held, old[:len(held)]) {
				r.t.Errorf("%s: a slice from Data changed", how)
			}
			r.writeAt(file, "written to the old file", 5)
			r.readAt(file, 30, 0)
			if how == "replaced" {
				testkit.MustEqual(r.t, "the new file", testkit.ReadNative(r.t, name), replacement)
			}
			r.add("close: %s", testkit.ErrorClass(file.Close()))
		}
	})
}

// Catches devices that are mapped, or answer differently.
func TestDevices(t *testing.T) {
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, dir string, forced bool) {
		null := r.openScripted(fileSystem, "/dev/null", os.O_RDWR, forced)
		for range 30 {
			r.read(null, 10)
			r.write(null, "swallowed")
		}
		r.readAt(null, 10, 5)
		r.writeAt(null, "swallowed", 1<<40)
		r.seek(null, 0, io.SeekCurrent)
		r.seek(null, 100, io.SeekStart)
		r.size(null)
		r.add("Sync: %s", testkit.ErrorClass(null.Sync()))

		zero := r.openScripted(fileSystem, "/dev/zero", os.O_RDWR, forced)
		for range 30 {
			r.read(zero, 10)
			r.readAt(zero, 3, 1<<40)
		}
		r.write(zero, "swallowed")
		r.seek(zero, 0, io.SeekCurrent)
		r.size(zero)
		if mapped, ok := zero.(*memmapfs.MappedFile); ok && mapped.Mapped() {
			r.t.Error("a device is mapped")
		}
	})
}

const ordinaryUserDir = "MEMMAPFS_TEST_ORDINARY_USER_DIR"

// Catches what works for root alone: opening or mapping a file for more than it was opened for, and
// questions to the kernel about files of others. The child process is the same test as an ordinary user.
func TestOrdinaryUser(t *testing.T) {
	if dir := os.Getenv(ordinaryUserDir); dir != "" {
		asOrdinaryUser(t, dir)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user, and to make files that the other cannot write")
	}
	dir := testkit.DirForAll(t)
	for _, file := range []struct {
		name  string
		mode  os.FileMode
		owner int
	}{
		{"own read-only", 0o400, testkit.Nobody}, {"own", 0o600, testkit.Nobody}, {"of root", 0o444, 0}, {"closed", 0o400, 0},
	} {
		native := filepath.Join(dir, file.name)
		if err := errors.Join(os.WriteFile(native, testkit.Content(int(2*testkit.PageSize+5)), 0o600),
			os.Chmod(native, file.mode), os.Chown(native, file.owner, file.owner)); err != nil {
			t.Fatal(err)
		}
	}
	testkit.RunAsNobody(t, "TestOrdinaryUser", ordinaryUserDir, dir)
}

func asOrdinaryUser(t *testing.T, dir string) {
	eachLikePlain(t, func(r *transcript, fileSystem absfs.FileSystem, _ string, forced bool) {
		for _, name := range []string{"own read-only", "own", "of root", "closed"} {
			for _, flags := range []int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR} {
				file, err := fileSystem.OpenFile(osfs.FromNative(filepath.Join(dir, name)), flags, 0)
				r.add("%s, %s: %s", name, testkit.FlagNames(flags), testkit.ErrorClass(err))
				if err != nil {
					continue
				}
				defer file.Close()
				if mapped, ok := file.(*memmapfs.MappedFile); ok && forced {
					if data := mapped.Data(); (data != nil) != (flags != os.O_WRONLY && testkit.Mappable()) {
						r.t.Errorf("%s, %s: Data has %d bytes", name, testkit.FlagNames(flags), len(data))
					}
				}
				for range 30 {
					r.readAt(file, 10, 0)
					r.readAt(file, 10, testkit.PageSize-5)
				}
				r.read(file, 20)
				if r.m.CopyOnWrite() && flags == os.O_RDONLY {
					want := []byte("private")
					if n, err := file.WriteAt(want, testkit.PageSize-3); n != 7 || err != nil {
						r.t.Errorf("%s: a private write: %d, %v", name, n, err)
					}
					got := make([]byte, 7)
					if _, err := file.ReadAt(got, testkit.PageSize-3); err != nil || !bytes.Equal(got, want) {
						r.t.Errorf("%s: reads %q, %v after a private write", name, got, err)
					}
				}
				r.add("Sync: %s", testkit.ErrorClass(file.Sync()))
			}
			if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				testkit.MustEqual(r.t, fmt.Sprintf("%s, the file", name), data, testkit.Content(int(2*testkit.PageSize+5)))
			}
		}
	})
}
