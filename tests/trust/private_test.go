package trust_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// cuts are what others do to a file that a copy-on-write handle has written to.
var cuts = []struct {
	name string
	cut  func(t testing.TB, fileSystem *memmapfs.MemMapFS, native string, data []byte)
}{
	{"cut to nothing and refilled", func(t testing.TB, _ *memmapfs.MemMapFS, native string, data []byte) {
		resize(t, native, 0)
		rewrite(t, native, data)
	}},
	{"cut inside a page and refilled", func(t testing.TB, _ *memmapfs.MemMapFS, native string, data []byte) {
		resize(t, native, testkit.PageSize+17)
		rewrite(t, native, data)
	}},
	{"cut and grown by the same MemMapFS", func(t testing.TB, fileSystem *memmapfs.MemMapFS, native string, data []byte) {
		for _, size := range []int64{testkit.PageSize / 2, int64(len(data))} {
			if err := fileSystem.Truncate(osfs.FromNative(native), size); err != nil {
				t.Fatal(err)
			}
		}
		rewrite(t, native, data)
	}},
	{"rewritten in place", func(t testing.TB, _ *memmapfs.MemMapFS, native string, data []byte) { rewrite(t, native, data) }},
}

func resize(t testing.TB, native string, size int64) {
	t.Helper()
	testkit.ResizeAround(t, native, size)
}

// Catches private bytes that are lost when somebody cuts the file, and other bytes that do not follow it:
// byte by byte, whatever a page has of both, also beside bytes that Data has lent.
func TestPrivateBytesStay(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.NeedShrinking(t)
	for _, cut := range cuts {
		for _, lent := range []string{"", "viewed", "lent by Data"} {
			t.Run(fmt.Sprintf("%s, %s", cut.name, lent), func(t *testing.T) {
				testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
					size := 5*testkit.PageSize + 100
					before, after := testkit.Content(int(size)), testkit.Content(int(size) + 9)[9:]
					name := testkit.WriteFile(t, testkit.TestDir(t), "file", before)
					fileSystem := m.OverOS(t).(*memmapfs.MemMapFS)
					file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
					switch lent {
					case "viewed":
						viewAll(file, int(size))
					case "lent by Data":
						testkit.ForceMap(file)
					}
					private := map[int64]byte{}
					for i := range 40 {
						off, p := rand.Int64N(size-70), testkit.Content(1+i)
						if _, err := file.WriteAt(p, off); err != nil {
							t.Fatal(err)
						}
						for j, b := range p {
							private[off+int64(j)] = b
						}
					}
					check := func(when string, data []byte) {
						t.Helper()
						want := bytes.Clone(data)
						for off, b := range private {
							want[off] = b
						}
						testkit.MustEqual(t, when+": ReadAt", testkit.ReadAll(t, file), want)
						if lent == "lent by Data" {
							return // what the private map shows of pages that it has copied is its own affair
						}
						seen, err := viewAll(file, len(want))
						if err != nil {
							t.Fatal(err)
						}
						testkit.MustEqual(t, when+": View", seen, want)
						testkit.MustEqual(t, when+": ReadAt after View", testkit.ReadAll(t, file), want)
					}
					check("written", before)
					cut.cut(t, fileSystem, osfs.ToNative(name), after)
					check("after", after)
					cut.cut(t, fileSystem, osfs.ToNative(name), before)
					check("once more", before)
					testkit.MustEqual(t, "the file", testkit.ReadNative(t, name), before)
				}, testkit.Wrapped, testkit.Mode.CopyOnWrite)
			})
		}
	}
}

// Catches what is stored through View and Data of a private map and is not there for calls, for other Views,
// for Data, or for slices that Data gave before.
func TestPrivateStores(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		size := 5*testkit.PageSize + 100
		want := testkit.Content(int(size))
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", want)
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		lent := []byte{}
		for i := range 60 {
			off := rand.Int64N(size - 100)
			p := []byte(fmt.Sprintf("change %d", i))
			var err error
			switch i % 4 {
			case 0:
				_, err = file.WriteAt(p, off)
			case 1, 2: // ranges that make maps of their own in some modes
				n := min(int64(len(p))+rand.Int64N(3*testkit.PageSize), size-off)
				err = file.View(off, n, func(b []byte) error { copy(b, p); return nil })
			case 3:
				if i < 20 {
					continue
				}
				lent = file.Data()
				off = min(off, int64(len(lent)-len(p)))
				copy(lent[off:], p)
			}
			if err != nil {
				t.Fatal(err)
			}
			copy(want[off:], p)
			testkit.MustEqual(t, fmt.Sprint("ReadAt after change ", i), testkit.ReadAll(t, file), want)
			seen, err := viewAll(file, len(want))
			if err != nil {
				t.Fatal(err)
			}
			testkit.MustEqual(t, fmt.Sprint("View after change ", i), seen, want)
			testkit.MustEqual(t, fmt.Sprint("a slice from Data after change ", i), lent, want[:len(lent)])
		}
		if data := testkit.ReadNative(t, name); bytes.Contains(data, []byte("change")) {
			t.Error("private bytes have reached the file")
		}
	}, testkit.Wrapped, testkit.Mode.CopyOnWrite)
}

// Catches bytes that a View stores where one before it has stored others, and that are taken for the ones that
// were there before both, while a third View keeps the map.
func TestPrivateStoresOneAfterTheOther(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(4*testkit.PageSize)))
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		if _, err := file.WriteAt([]byte("ab"), 0); err != nil {
			t.Fatal(err)
		}
		err := file.View(0, 2*testkit.PageSize, func([]byte) error {
			for _, p := range []string{"bb", "aa", "ab"} {
				if err := file.View(0, 2, func(b []byte) error { copy(b, p); return nil }); err != nil {
					return err
				}
				got := make([]byte, 2)
				if _, err := file.ReadAt(got, 0); err != nil {
					return err
				}
				if string(got) != p {
					t.Errorf("a View has stored %q, ReadAt gives %q", p, got)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}, testkit.Wrapped, testkit.Mode.CopyOnWrite)
}

// Catches private bytes of calls that do not come back where a truncation has taken pages of a private map.
func TestPrivateMapAfterACut(t *testing.T) {
	testkit.NeedKnownPages(t)
	data := testkit.Content(int(4 * testkit.PageSize))
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
	m := testkit.Mode{Config: testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)}
	file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDONLY)
	lent := file.Data()
	if _, err := file.WriteAt([]byte("written"), 2*testkit.PageSize); err != nil {
		t.Fatal(err)
	}
	copy(lent[3*testkit.PageSize:], "stored")
	resize(t, osfs.ToNative(name), 0)
	rewrite(t, osfs.ToNative(name), data)
	lent = file.Data()
	if got := lent[2*testkit.PageSize:][:7]; string(got) != "written" {
		t.Errorf("what a call has written does not come back: %q", got)
	}
	testkit.MustEqual(t, "Data and calls", lent, testkit.ReadAll(t, file))
}
