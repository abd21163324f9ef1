package contract_test

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"testing"
	"unsafe"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// openNumbers opens a file of so many numbers, each of which is its index. It has maps if the
// system does.
func openNumbers(t *testing.T, m testkit.Mode, numbers int, flags int) (file *memmapfs.MappedFile, name string) {
	t.Helper()
	data := make([]byte, 8*numbers)
	for i := range numbers {
		binary.NativeEndian.PutUint64(data[8*i:], uint64(i))
	}
	name = testkit.WriteFile(t, testkit.TestDir(t), "numbers", data)
	return testkit.MustOpenMapped(t, m.OverOS(t), name, flags), name
}

type pair struct {
	Low, High uint32
}

// Catches values that are not those of the file, that are too many or too few, or lie elsewhere.
func TestViewSlice(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		const numbers = 10_000
		file, _ := openNumbers(t, m, numbers, os.O_RDONLY)
		for _, span := range [][2]int{{0, numbers}, {0, 1}, {numbers - 1, 1}, {511, 3}, {numbers, 0}} {
			from, n := span[0], span[1]
			called := false
			err := memmapfs.ViewSlice(file, int64(8*from), n, func(values []uint64) error {
				called = true
				if len(values) != n || cap(values) != n {
					t.Errorf("%d values with room for %d, want %d", len(values), cap(values), n)
				}
				for i, value := range values {
					if value != uint64(from+i) {
						t.Fatalf("value %d is %d", from+i, value)
					}
				}
				return nil
			})
			if err != nil || !called {
				t.Errorf("%d from %d: %v, called: %v", n, from, err, called)
			}
		}
		if err := memmapfs.ViewSlice(file, 8, 1, func(values []pair) error {
			if one := *(*uint64)(unsafe.Pointer(&values[0])); one != 1 {
				t.Errorf("a struct at 8 has %d, want 1", one)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		own := errors.New("the caller's own")
		if err := memmapfs.ViewSlice(file, 0, 1, func([]float32) error { return own }); err != own {
			t.Errorf("the function's error became %v", err)
		}
	}, testkit.Wrapped)
}

// refuses asserts that no slice of T is lent, with an error that matches all of want.
func refuses[T any](t *testing.T, what string, file *memmapfs.MappedFile, off int64, n int, want ...error) {
	t.Helper()
	err := memmapfs.ViewSlice(file, off, n, func([]T) error { t.Errorf("%s: the function is called", what); return nil })
	for _, wanted := range want {
		if !errors.Is(err, wanted) {
			t.Errorf("%s: %v, want %v", what, err, wanted)
		}
	}
	if err != io.EOF {
		testkit.CheckPathError(t, what, err, file.Name())
	}
}

// Catches pointers that are made of a file's bytes, and values that lie where the processor cannot
// load them.
func TestViewSliceRefuses(t *testing.T) {
	testkit.NeedMaps(t)
	file, _ := openNumbers(t, testkit.Mode{Config: memmapfs.DefaultConfig()}, 100, os.O_RDONLY)
	refuses[*int](t, "a pointer", file, 0, 1, fs.ErrInvalid)
	refuses[string](t, "a string", file, 0, 1, fs.ErrInvalid)
	refuses[[]byte](t, "a slice", file, 0, 1, fs.ErrInvalid)
	refuses[map[int]int](t, "a map", file, 0, 1, fs.ErrInvalid)
	refuses[chan int](t, "a channel", file, 0, 1, fs.ErrInvalid)
	refuses[func()](t, "a function", file, 0, 1, fs.ErrInvalid)
	refuses[any](t, "an interface", file, 0, 1, fs.ErrInvalid)
	refuses[unsafe.Pointer](t, "an unsafe pointer", file, 0, 1, fs.ErrInvalid)
	refuses[[2]error](t, "an array of interfaces", file, 0, 1, fs.ErrInvalid)
	refuses[struct {
		A int
		B struct{ C [1]*byte }
	}](t, "a pointer deep inside", file, 0, 1, fs.ErrInvalid)
	refuses[*int](t, "none of a pointer", file, 0, 0, fs.ErrInvalid)

	refuses[uint64](t, "offset 2 for eight bytes", file, 2, 1, fs.ErrInvalid) // 4 would do on 386
	refuses[uint16](t, "offset 1 for two bytes", file, 1, 1, fs.ErrInvalid)
	refuses[pair](t, "offset 2 for a struct", file, 2, 1, fs.ErrInvalid)

	refuses[uint64](t, "a negative offset", file, -8, 1, memmapfs.ErrInvalidOffset, fs.ErrInvalid)
	refuses[uint64](t, "a negative number", file, 0, -1, memmapfs.ErrInvalidOffset)
	if math.MaxInt == math.MaxInt64 {
		refuses[[1 << 20]uint64](t, "more than an int64 can tell", file, 0, math.MaxInt, memmapfs.ErrInvalidOffset)
	}

	refuses[uint64](t, "one more than there are", file, 0, 101, io.EOF)
	refuses[uint64](t, "the one behind the last", file, 800, 1, io.EOF)
	refuses[[3]uint64](t, "half behind the end", file, 792, 1, io.EOF)

	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	refuses[byte](t, "closed", file, 0, 1, fs.ErrClosed)
}

// What is allowed may have any number of levels, and need not be aligned beyond what it asks for.
func TestViewSliceTypes(t *testing.T) {
	testkit.NeedMaps(t)
	file, _ := openNumbers(t, testkit.Mode{Config: memmapfs.DefaultConfig()}, 100, os.O_RDONLY)
	lends[byte](t, file, 3, 5)
	lends[[7]byte](t, file, 1, 3)
	lends[complex128](t, file, 8, 2)
	lends[struct {
		A [3]struct{ B, C int16 }
		D float32
	}](t, file, 4, 4)
	lends[[0]*int](t, file, 0, 1)
	lends[struct{}](t, file, 5, 1000) // takes no bytes, wherever it lies
	lends[[0]uint64](t, file, 16, 3)
	lends[uint64](t, file, 800, 0)
}

func lends[T any](t *testing.T, file *memmapfs.MappedFile, off int64, n int) {
	t.Helper()
	called := 0
	err := memmapfs.ViewSlice(file, off, n, func(values []T) error {
		called++
		if len(values) != n {
			t.Errorf("%T: %d values, want %d", values, len(values), n)
		}
		return nil
	})
	if err != nil || called != 1 {
		var value T
		t.Errorf("%T: %v, called %d times", value, err, called)
	}
}

// Stores reach the file in ModeReadWrite, and stay in the handle in ModeCopyOnWrite.
func TestViewSliceStores(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		file, name := openNumbers(t, m, 2_000, os.O_RDWR)
		if err := memmapfs.ViewSlice(file, 8*700, 600, func(values []uint64) error {
			for i := range values {
				values[i] += 1_000_000
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		inHandle, inFile := testkit.ReadAll(t, file), testkit.ReadNative(t, name)
		for i := range 2_000 {
			want := uint64(i)
			if i >= 700 && i < 1300 {
				want += 1_000_000
			}
			if got := binary.NativeEndian.Uint64(inHandle[8*i:]); got != want {
				t.Fatalf("number %d of the handle is %d, want %d", i, got, want)
			}
			if m.CopyOnWrite() {
				want = uint64(i)
			}
			if got := binary.NativeEndian.Uint64(inFile[8*i:]); got != want {
				t.Fatalf("number %d of the file is %d, want %d", i, got, want)
			}
		}
	}, testkit.Wrapped, func(m testkit.Mode) bool { return !m.ReadOnly() })
}

// Catches a program that dies when a file is truncated under a slice.
func TestViewSliceFault(t *testing.T) {
	testkit.NeedShrinking(t)
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			file := testkit.NewShrinkable(t, testkit.TestDir(t), m.Config)
			defer file.Close()
			err := memmapfs.ViewSlice(file.MappedFile, 0, int(testkit.ShrinkableSize/4), func(values []uint32) error {
				file.Resize(testkit.PageSize)
				testkit.Loaded.Store(values[len(values)-1])
				t.Error("an access past the end of the file goes through")
				return nil
			})
			if !errors.Is(err, memmapfs.ErrSIGBUS) {
				t.Errorf("%v, want %v", err, memmapfs.ErrSIGBUS)
			}
			testkit.CheckPathError(t, "ViewSlice", err, file.Name())
			testkit.Report(t, "the fault is an error")
		})
	}, func(m testkit.Mode) bool { return m.Name == "read-only" || m.Name == "copy-on-write" })
}
