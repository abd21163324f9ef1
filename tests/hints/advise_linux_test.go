package hints_test

import (
	"os"
	"slices"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// flagsAt returns the flags of the map that holds an offset of the file.
func flagsAt(t *testing.T, native string, offset int64) []string {
	t.Helper()
	for _, m := range testkit.MapsOf(t, native) {
		if m.Offset <= offset && offset < m.Offset+m.Bytes {
			return m.Flags
		}
	}
	t.Errorf("offset %d is not mapped", offset)
	return nil
}

// needFlags skips a test of what is advised where the system does not tell it: gVisor's
// /proc/self/smaps has other flags only.
func needFlags(t *testing.T) {
	t.Helper()
	native := osfs.ToNative(testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(10)))
	file, err := os.Open(native)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data, err := unix.Mmap(int(file.Fd()), 0, 10, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(data)
	if err := unix.Madvise(data, unix.MADV_RANDOM); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(flagsAt(t, native, 0), "rr") {
		t.Skip("the system does not tell what is advised")
	}
}

// Catches hints for a range that reach other pages, end with the map, or outlive a later one.
func TestAdviseRange(t *testing.T) {
	testkit.NotEmulated(t, testkit.QemuSwallowsAdvice)
	needFlags(t)
	const pages = 32
	for _, m := range []testkit.Mode{
		{Name: "whole", Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)},
		{Name: "copy-on-write", Config: testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)},
		{Name: "windows", Config: testkit.Windowed(memmapfs.ModeReadOnly, 4*testkit.PageSize)},
	} {
		t.Run(m.Name, func(t *testing.T) {
			name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(pages*testkit.PageSize)))
			native := osfs.ToNative(name)
			file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
			touchAll := func() {
				for page := range int64(pages) {
					if err := file.View(page*testkit.PageSize, 1, func([]byte) error { return nil }); err != nil {
						t.Fatal(err)
					}
				}
			}
			check := func(when string, want string) {
				t.Helper()
				touchAll()
				for page := range int64(pages) {
					flags := flagsAt(t, native, page*testkit.PageSize)
					got := byte('.')
					switch {
					case slices.Contains(flags, "rr"):
						got = 'r'
					case slices.Contains(flags, "sr"):
						got = 's'
					}
					if got != want[page] {
						t.Errorf("%s: page %d is advised %c, want %c", when, page, got, want[page])
					}
				}
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(file.AdviseRange(2*testkit.PageSize+1, 6*testkit.PageSize-1, memmapfs.AdviceRandom))
			check("one range", "..rrrrrr........................")
			must(file.AdviseRange(5*testkit.PageSize-1, 20*testkit.PageSize, memmapfs.AdviceSequential))
			check("over it", "..rrsssssssssssssssssssss.......")
			must(file.AdviseRange(10*testkit.PageSize, 2*testkit.PageSize, memmapfs.AdviceNormal))
			must(file.AdviseRange(11*testkit.PageSize, testkit.PageSize, memmapfs.AdviceWillNeed)) // lasts not
			must(file.AdviseRange(31*testkit.PageSize, 1<<40, memmapfs.AdviceRandom))
			check("taken back in the midst", "..rrssssss..sssssssssssss......r")
			if !file.Mapped() {
				t.Fatal("not mapped")
			}
			if m.Name != "copy-on-write" { // whose map stays
				must(file.RemapAfterTruncation())
				check("mapped anew", "..rrssssss..sssssssssssss......r")
			}
			must(file.AdviseRandom())
			check("all", "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr")
		})
	}
}
