package contract_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// compareBatch does a batch, and each of its reads alone with ReadAt, and compares counts, bytes
// and errors. The buffers must not overlap.
func compareBatch(t *testing.T, what string, file *memmapfs.MappedFile, spans [][2]int64) {
	t.Helper()
	batch := make([]memmapfs.ReadRequest, len(spans))
	for i, span := range spans {
		p := bytes.Repeat([]byte{0xa5}, int(span[1])+8) // a read must not go past the end of its buffer
		batch[i] = memmapfs.ReadRequest{P: p[:span[1]], Off: span[0], N: -1, Err: errors.New("left as it was")}
	}
	first := file.ReadBatch(batch)
	var wantFirst error
	for _, r := range batch {
		want := bytes.Repeat([]byte{0xa5}, len(r.P))
		n, err := file.ReadAt(want, r.Off)
		if r.N != n || fmt.Sprint(r.Err) != fmt.Sprint(err) || testkit.ErrorClass(r.Err) != testkit.ErrorClass(err) {
			t.Errorf("%s: %d bytes at %d: %d, %v; alone %d, %v", what, len(r.P), r.Off, r.N, r.Err, n, err)
		}
		testkit.MustEqual(t, fmt.Sprintf("%s: %d bytes at %d", what, len(r.P), r.Off), r.P[:n], want[:n])
		if after := r.P[len(r.P):][:8]; !bytes.Equal(after, bytes.Repeat([]byte{0xa5}, 8)) {
			t.Errorf("%s: %d bytes at %d: what lies behind the buffer is % x", what, len(r.P), r.Off, after)
		}
		if wantFirst == nil && err != nil && err != io.EOF {
			wantFirst = err
		}
	}
	if fmt.Sprint(first) != fmt.Sprint(wantFirst) {
		t.Errorf("%s: error %v, want the first that is not io.EOF, %v", what, first, wantFirst)
	}
}

// batchSpans are reads inside of pages and across them, past the end, empty, and refused, in one
// batch that is longer than what is looked up at a time.
func batchSpans(size int64) [][2]int64 {
	spans := [][2]int64{
		{size + 5, 8}, {0, 8}, {testkit.PageSize - 3, 7}, {-1, 4}, {size - 4, 4}, {size - 4, 9}, {size, 3}, {size + 100, 3}, {3, 0},
		{-5, 0}, {size, 0}, {math.MaxInt64 - 2, 8}, {math.MinInt64, 1}, {0, size}, {1, 3 * testkit.PageSize}, {size + 100, 0},
	}
	if runtime.GOARCH == "wasm" { // a read so far out does not return on js
		spans = slices.DeleteFunc(spans, func(span [2]int64) bool { return span[0] > 1<<53 || span[0] < -1<<53 })
	}
	random := rand.New(rand.NewPCG(uint64(size), 1))
	for range 200 {
		spans = append(spans, [2]int64{random.Int64N(size + 50), random.Int64N(300)})
	}
	return spans
}

// Catches a read of a batch that differs from ReadAt, on a file without a map, with a new one, and
// with one whose pages are known, in each mode.
func TestReadBatch(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(20*testkit.PageSize + 77))
		size := int64(len(data))
		file := testkit.MustOpenMapped(t, m.OverOS(t), testkit.WriteFile(t, testkit.TestDir(t), "file", data), os.O_RDWR)
		compareBatch(t, "unmapped", file, batchSpans(size))
		testkit.ForceMap(file)
		for _, what := range []string{"mapped", "once more", "known"} {
			compareBatch(t, what, file, batchSpans(size))
		}
		testkit.MustEqual(t, "the file", testkit.ReadAll(t, file), data)
		compareBatch(t, "none", file, nil)

		if m.ReadOnly() {
			return
		}
		for off := int64(3); off < size; off += 2 * testkit.PageSize { // in copy-on-write it stays in the handle
			if _, err := file.WriteAt([]byte("written"), off); err != nil {
				t.Fatal(err)
			}
		}
		compareBatch(t, "written", file, batchSpans(size))
		p := make([]byte, 7)
		batch := []memmapfs.ReadRequest{{P: p, Off: 3}}
		if err := file.ReadBatch(batch); err != nil || string(p) != "written" {
			t.Errorf("%q, %v, want what was written", p, err)
		}
	}, testkit.Wrapped)
}

// Catches a batch that shows what the file no longer has, or not yet.
func TestReadBatchOfChangedFile(t *testing.T) {
	testkit.NeedShrinking(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		data := testkit.Content(int(20 * testkit.PageSize))
		size := int64(len(data))
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDONLY)
		testkit.ForceMap(file)
		for range 3 {
			compareBatch(t, "as it was", file, batchSpans(size))
		}
		for _, size := range []int64{7*testkit.PageSize + 100, 30 * testkit.PageSize} {
			testkit.ResizeAround(t, osfs.ToNative(name), size)
			compareBatch(t, fmt.Sprintf("%d bytes", size), file, batchSpans(size))
		}
	}, testkit.Wrapped)
}

// Buffers that overlap hold the bytes of one read or the other, and each read has its result.
func TestReadBatchOverlapping(t *testing.T) {
	data := testkit.Content(int(4 * testkit.PageSize))
	file := testkit.MustOpenMapped(t, memmapfs.New(testkit.PlainFileSystem(t), nil), testkit.WriteFile(t, testkit.TestDir(t), "file", data), os.O_RDONLY)
	for _, what := range []string{"unmapped", "mapped", "known"} {
		p := make([]byte, 150)
		offs := []int64{10, testkit.PageSize + 10, 3*testkit.PageSize - 20}
		batch := []memmapfs.ReadRequest{{P: p[:100], Off: offs[0]}, {P: p[50:150], Off: offs[1]}, {P: p[:100], Off: offs[2]}}
		if err := file.ReadBatch(batch); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for i, got := range p {
			possible := false
			for k, r := range batch {
				start := []int{0, 50, 0}[k]
				possible = possible || i >= start && i < start+len(r.P) && got == data[offs[k]+int64(i-start)]
			}
			if !possible {
				t.Fatalf("%s: byte %d is none of those that were asked for", what, i)
			}
		}
		for _, r := range batch {
			if r.N != 100 || r.Err != nil {
				t.Errorf("%s: %d, %v", what, r.N, r.Err)
			}
		}
		testkit.ForceMap(file)
		testkit.ReadAll(t, file)
	}
}

// Catches a read past the end of a file that was cut, whose result is told from what another read has put in its
// buffer.
func TestReadBatchOverlappingAtTheEnd(t *testing.T) {
	testkit.NeedShrinking(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		size := 3*testkit.PageSize + 5
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", bytes.Repeat([]byte{1}, int(4*testkit.PageSize)))
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDONLY)
		testkit.ForceMap(file)
		for range 3 {
			testkit.ReadAll(t, file)
		}
		testkit.ResizeAround(t, osfs.ToNative(name), size)
		p := make([]byte, 20)
		batch := []memmapfs.ReadRequest{{P: p, Off: size - 5}, {P: p[10:], Off: 100}}
		if err := file.ReadBatch(batch); err != nil {
			t.Error(err)
		}
		if batch[0].N != 5 || batch[0].Err != io.EOF || batch[1].N != 10 || batch[1].Err != nil {
			t.Errorf("20 bytes at 5 before the end: %d, %v; 10 at 100: %d, %v", batch[0].N, batch[0].Err, batch[1].N, batch[1].Err)
		}
	}, testkit.Wrapped)
}

var errSector = errors.New("a bad sector")

// badSector is a filesystem whose files cannot be read at some offsets, nor be mapped.
type badSector struct{ absfs.FileSystem }

func (f badSector) Open(name string) (absfs.File, error) { return f.OpenFile(name, os.O_RDONLY, 0) }

func (f badSector) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := f.FileSystem.OpenFile(name, flag, perm)
	return badFile{file}, err
}

type badFile struct{ absfs.File }

func (f badFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= 1000 && off < 2000 {
		return min(5, len(p)), errSector
	}
	return f.File.ReadAt(p, off)
}

// An error in the middle is that of its read alone, with the bytes that came before it. The others
// are done, and the first error is returned, io.EOF left out.
func TestReadBatchErrors(t *testing.T) {
	data := testkit.Content(3000)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
	file := testkit.MustOpenMapped(t, memmapfs.New(badSector{testkit.PlainFileSystem(t)}, nil), name, os.O_RDONLY)
	batch := []memmapfs.ReadRequest{
		{P: make([]byte, 10), Off: 2995}, {P: make([]byte, 10), Off: 0}, {P: make([]byte, 10), Off: 1500},
		{P: make([]byte, 10), Off: -1}, {P: make([]byte, 10), Off: 2000},
	}
	err := file.ReadBatch(batch)
	testkit.CheckPathError(t, "ReadBatch", err, name)
	if !errors.Is(err, errSector) {
		t.Errorf("%v, want %v", err, errSector)
	}
	for i, want := range []struct {
		n   int
		err error
	}{{5, io.EOF}, {10, nil}, {5, errSector}, {0, memmapfs.ErrInvalidOffset}, {10, nil}} {
		if r := batch[i]; r.N != want.n || !errors.Is(r.Err, want.err) || (want.err == nil) != (r.Err == nil) {
			t.Errorf("read %d: %d, %v; want %d, %v", i, r.N, r.Err, want.n, want.err)
		}
	}
	testkit.MustEqual(t, "the read behind the error", batch[4].P, data[2000:2010])
}

// After Close each read of a batch fails, and an empty batch does.
func TestReadBatchClosed(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(5000))
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDONLY)
		testkit.ForceMap(file)
		testkit.ReadAll(t, file)
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		batch := []memmapfs.ReadRequest{{P: make([]byte, 8), N: 3}, {P: make([]byte, 8), Off: 4000, N: 3}, {Off: -1, N: 3}}
		for _, batch := range [][]memmapfs.ReadRequest{batch, nil} {
			err := file.ReadBatch(batch)
			testkit.CheckPathError(t, "ReadBatch", err, name)
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("ReadBatch of %d: %v, want %v", len(batch), err, fs.ErrClosed)
			}
			for i, r := range batch {
				if r.N != 0 || !errors.Is(r.Err, fs.ErrClosed) {
					t.Errorf("read %d: %d, %v, want %v", i, r.N, r.Err, fs.ErrClosed)
				}
			}
		}
	}, testkit.Wrapped)
}

// Catches a batch that allocates.
func TestReadBatchAllocates(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(20*testkit.PageSize)))
		batch := make([]memmapfs.ReadRequest, 100)
		for i := range batch {
			batch[i] = memmapfs.ReadRequest{P: make([]byte, 64), Off: int64(i) * 700}
		}
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDONLY)
		if !m.CopyOnWrite() { // there a map that was lent is asked which of its pages are private
			testkit.ForceMap(file)
		}
		testkit.ReadAll(t, file)
		oneByOne := testing.AllocsPerRun(50, func() {
			for _, r := range batch {
				if _, err := file.ReadAt(r.P, r.Off); err != nil {
					t.Fatal(err)
				}
			}
		})
		if !m.Windowed() {
			oneByOne = 0 // there a read of what no window holds may make one
		}
		together := testing.AllocsPerRun(50, func() {
			if err := file.ReadBatch(batch); err != nil {
				t.Fatal(err)
			}
		})
		if together > oneByOne && !testkit.RaceDetector {
			t.Errorf("%v allocations a batch, want %v", together, oneByOne)
		}
	}, testkit.Wrapped)
}
