//go:build linux

package testkit

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// Written is a file as its writer believes it to be: its content, and where it has changed.
type Written struct {
	content []byte
	off, n  int64
}

// WayToWrite is one way for bytes, or a size, to get into a file.
type WayToWrite struct {
	Name        string
	flags       int
	throughMap  bool // needs a shared map that can be stored to
	writeMethod bool // Write, WriteAt or WriteString, which SyncImmediate covers
	resizes     bool // changes the size of the file
	unranged    bool // nothing that SyncRange is about
	write       func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written

	// prepare, unless nil, goes before write, which then has to be a store into the map wherever a
	// write may be one.
	prepare func(t *testing.T, file *memmapfs.MappedFile, old []byte)
}

// The file that the ways start from: more pages than windows are mapped at a time, and a last page that
// is not full.
var (
	filePages   = 70 * PageSize
	fileContent = Content(int(filePages + 123))
)

// WaysToWrite are all ways to write.
var WaysToWrite = []WayToWrite{
	{Name: "WriteAt, first to the page", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			return put(t, file, old, 3*PageSize+100, 3*PageSize)
		}},
	{Name: "WriteAt, first to the page, mapped", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			mapAll(t, file)
			return put(t, file, old, 3*PageSize+100, 3*PageSize)
		}},
	{Name: "WriteAt, stored", writeMethod: true,
		prepare: func(t *testing.T, file *memmapfs.MappedFile, old []byte) {
			MakeHot(t, file, old, 3*PageSize, 4*PageSize)
		},
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			return put(t, file, old, 3*PageSize+100, 3*PageSize)
		}},
	{Name: "Write, stored", writeMethod: true,
		prepare: func(t *testing.T, file *memmapfs.MappedFile, old []byte) {
			MakeHot(t, file, old, 3*PageSize, 4*PageSize)
		},
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			return putHere(t, file, old, 3*PageSize+100, PageSize, file.Write)
		}},
	{Name: "WriteString, stored", writeMethod: true,
		prepare: func(t *testing.T, file *memmapfs.MappedFile, old []byte) {
			MakeHot(t, file, old, 3*PageSize, 4*PageSize)
		},
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			return putHere(t, file, old, 3*PageSize+100, 10, func(p []byte) (int, error) {
				return file.WriteString(string(p))
			})
		}},
	{Name: "ReadFrom",
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			MakeHot(t, file, old, 3*PageSize, PageSize)
			return putHere(t, file, old, 3*PageSize+100, 2*PageSize, func(p []byte) (int, error) {
				n, err := file.ReadFrom(bytes.NewReader(p))
				return int(n), err
			})
		}},
	{Name: "WriteAt all over the file", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			MakeHot(t, file, old, 0, filePages)
			now := bytes.Clone(old)
			for at := int64(50); at < filePages; at += 3 * PageSize {
				now = put(t, file, now, at, 10).content
			}
			return Written{now, 0, int64(len(now))}
		}},
	{Name: "Data", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			start, data := dataAt(t, file, 3*PageSize)
			n := min(PageSize, int64(len(data)))
			return putMapped(old, start, data[:n])
		}},
	{Name: "Data, stored to again after a Sync", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			start, data := dataAt(t, file, 3*PageSize)
			data[0]++
			mustSync(t, file)
			old = bytes.Clone(old)
			old[start] = data[0]
			return putMapped(old, start, data[:10])
		}},
	{Name: "Data of a window long not used", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			start, data := dataAt(t, file, 3*PageSize)
			mapAll(t, file)
			mustSync(t, file)
			return putMapped(old, start, data[:10])
		}},
	{Name: "View", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) (result Written) {
			err := file.View(3*PageSize+100, 2*PageSize, func(b []byte) error {
				result = putMapped(old, 3*PageSize+100, b)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return result
		}},
	{Name: "growth", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			MakeHot(t, file, old, filePages-PageSize, PageSize)
			return put(t, file, old, filePages-100, 2*PageSize)
		}},
	{Name: "growth inside the last page", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			MakeHot(t, file, old, filePages, 100)
			return put(t, file, old, int64(len(old)), 200)
		}},
	{Name: "growth with a hole", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			mapAll(t, file)
			return put(t, file, old, filePages+5*PageSize, 200)
		}},
	{Name: "growth, then a store into it", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			grown := put(t, file, old, filePages, 2*PageSize)
			MakeHot(t, file, grown.content, filePages, 2*PageSize)
			return put(t, file, grown.content, filePages, PageSize)
		}},
	{Name: "O_APPEND", flags: os.O_APPEND, writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			mapAll(t, file)
			return putHere(t, file, old, int64(len(old)), 2*PageSize, file.Write)
		}},
	{Name: "Truncate to less", resizes: true, unranged: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			MakeHot(t, file, old, 0, PageSize)
			return cutOff(t, file, old, 10*PageSize+5)
		}},
	{Name: "Truncate to more", resizes: true, unranged: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			MakeHot(t, file, old, 0, PageSize)
			return cutOff(t, file, old, filePages+3*PageSize+9)
		}},
	{Name: "Truncate, then growth", resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) Written {
			shorter := cutOff(t, file, old, 10*PageSize+5)
			return put(t, file, shorter.content, 11*PageSize+7, PageSize)
		}},
}

// changed returns old with other bytes in [off, off+n), grown as far as need be.
func changed(old []byte, off, n int64) Written {
	now := append(bytes.Clone(old), make([]byte, max(off+n-int64(len(old)), 0))...)
	for i := off; i < off+n; i++ {
		now[i] = ^now[i]
	}
	return Written{now, off, n}
}

func put(t *testing.T, file *memmapfs.MappedFile, old []byte, off, n int64) Written {
	t.Helper()
	now := changed(old, off, n)
	if _, err := file.WriteAt(now.content[off:off+n], off); err != nil {
		t.Fatal(err)
	}
	return now
}

func putHere(t *testing.T, file *memmapfs.MappedFile, old []byte, off, n int64, write func(p []byte) (int, error)) Written {
	t.Helper()
	now := changed(old, off, n)
	if _, err := file.Seek(off, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := write(now.content[off : off+n]); err != nil {
		t.Fatal(err)
	}
	return now
}

func putMapped(old []byte, off int64, data []byte) Written {
	now := changed(old, off, int64(len(data)))
	copy(data, now.content[off:])
	return now
}

func cutOff(t *testing.T, file *memmapfs.MappedFile, old []byte, size int64) Written {
	t.Helper()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	now := make([]byte, size)
	copy(now, old)
	return Written{content: now, n: size}
}

// dataAt returns what Data returns for the position off, and where that starts in the file.
func dataAt(t *testing.T, file *memmapfs.MappedFile, off int64) (start int64, data []byte) {
	t.Helper()
	if _, err := file.Seek(off, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	data = file.Data()
	if len(data) == 0 {
		t.Fatal("Data has nothing")
	}
	for start := off; start >= 0; start -= PageSize {
		probe := min(int64(len(data)), 64)
		if bytes.Equal(data[:probe], fileContent[start:start+probe]) {
			return start, data
		}
	}
	t.Fatal("Data is not a part of the file")
	return 0, nil
}

// mapAll has every window of the file mapped once, without a write.
func mapAll(t *testing.T, file *memmapfs.MappedFile) {
	t.Helper()
	for at := int64(0); at < filePages; at += PageSize {
		mapAt(t, file, at)
	}
}

func mapAt(t *testing.T, file *memmapfs.MappedFile, off int64) {
	t.Helper()
	if err := file.View(off, 1, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// MakeHot maps the pages of [off, off+n) and writes them once, so that in ModeReadWrite the next write
// is a store. What was there before is durable.
func MakeHot(t *testing.T, file *memmapfs.MappedFile, data []byte, off, n int64) {
	t.Helper()
	mustSync(t, file)
	for at := off; at < off+n; at += PageSize {
		mapAt(t, file, at)
		if _, err := file.WriteAt(data[at:min(at+PageSize, off+n)], at); err != nil {
			t.Fatal(err)
		}
	}
	if off+n >= int64(len(data)) {
		return
	}
	// A store is proved by the page behind it.
	mapAt(t, file, off+n)
	if _, err := file.ReadAt(make([]byte, 1), off+n); err != nil {
		t.Fatal(err)
	}
}

func mustSync(t *testing.T, file *memmapfs.MappedFile) {
	t.Helper()
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
}

// writeOnce writes in one way, and fails a test that means to store through the map and writes to the
// file instead. After a flush in the background the first write goes to the file by right; one that
// Stats has not counted yet is told from a fault by writing the same again, which finds it over.
func (way WayToWrite) writeOnce(t *testing.T, fileSystem *memmapfs.MemMapFS, file *memmapfs.MappedFile, mayStore bool) Written {
	t.Helper()
	if way.prepare == nil {
		return way.write(t, file, fileContent)
	}
	throughFile := func() int64 {
		stats := fileSystem.Stats()
		return stats.WritesCold + stats.WritesPastEnd + stats.WritesUnmapped + stats.WritesFlushed
	}
	var what Written
	for range 10 {
		way.prepare(t, file, fileContent)
		before, flushes := throughFile(), fileSystem.Stats().Flushes
		what = way.write(t, file, fileContent)
		if !mayStore || !storesThroughMap(file) || throughFile() == before || fileSystem.Stats().Flushes != flushes {
			return what
		}
	}
	t.Error("nothing was stored through the map: the test does not test what it says")
	return what
}

// storesThroughMap reports whether the file's pages can be stored to.
func storesThroughMap(file *memmapfs.MappedFile) bool {
	stores := false
	for _, line := range strings.Split(readSelf("maps"), "\n") {
		if strings.HasSuffix(line, osfs.ToNative(file.Name())) && strings.Contains(line, " rw-s ") {
			stores = true
		}
	}
	return stores
}
