package systems_test

import (
	"io"
	"os"
	"sync/atomic"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// seekCounter is a filesystem whose files offer no descriptor and count their seeks.
type seekCounter struct {
	absfs.FileSystem
	seeks atomic.Int64
}

func (s *seekCounter) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := s.FileSystem.OpenFile(name, flag, perm)
	return &countedFile{file, s}, err
}

type countedFile struct {
	absfs.File
	fileSystem *seekCounter
}

func (f *countedFile) Seek(offset int64, whence int) (int64, error) {
	f.fileSystem.seeks.Add(1)
	return f.File.Seek(offset, whence)
}

// Catches seeks of a file that cannot be mapped, for which nobody asked: there are filesystems whose
// files lose their place by them.
func TestUnmappableIsNotSought(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		if m.Plain() || m.CopyOnWrite() {
			return // a copy-on-write handle has a position of its own from the start
		}
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(1<<20))
		base := &seekCounter{FileSystem: testkit.PlainFileSystem(t)}
		file := testkit.MustOpenMapped(t, m.Over(t, base), name, os.O_RDWR)
		buffer := make([]byte, 4096)
		for {
			_, err := file.Read(buffer)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 300 {
			if _, err := file.Write(buffer); err != nil {
				t.Fatal(err)
			}
		}
		if file.Data() != nil {
			t.Error("there is a map without a descriptor")
		}
		if n := base.seeks.Load(); n != 0 {
			t.Errorf("%d seeks that nobody asked for", n)
		}
	})
}
