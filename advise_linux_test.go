package memmapfs_test

import (
	"os"
	"slices"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// flagsAt returns the flags of the map that holds an offset of the file.
func flagsAt(t *testing.T, native string, offset int64) []string {
	t.Helper()
	for _, m := range mapsOf(t, native) {
		if m.offset <= offset && offset < m.offset+m.bytes {
			return m.flags
		}
	}
	t.Errorf("offset %d is not mapped", offset)
	return nil
}

// Catches hints for a range that reach other pages, end with the map, or outlive a later one.
func TestAdviseRange(t *testing.T) {
	skipWhenEmulated(t, qemuSwallowsAdvice)
	const pages = 32
	for _, m := range []mode{
		{"whole", full(memmapfs.ModeReadWrite, memmapfs.SyncNever)},
		{"copy-on-write", full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)},
		{"windows", windowed(memmapfs.ModeReadOnly, 4*pageSize)},
	} {
		t.Run(m.name, func(t *testing.T) {
			name := writeFile(t, testDir(t), "file", content(int(pages*pageSize)))
			native := osfs.ToNative(name)
			file := mustOpenMapped(t, m.overOS(t), name, os.O_RDWR)
			touchAll := func() {
				for page := range int64(pages) {
					if err := file.View(page*pageSize, 1, func([]byte) error { return nil }); err != nil {
						t.Fatal(err)
					}
				}
			}
			check := func(when string, want string) {
				t.Helper()
				touchAll()
				for page := range int64(pages) {
					flags := flagsAt(t, native, page*pageSize)
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
			must(file.AdviseRange(2*pageSize+1, 6*pageSize-1, memmapfs.AdviceRandom))
			check("one range", "..rrrrrr........................")
			must(file.AdviseRange(5*pageSize-1, 20*pageSize, memmapfs.AdviceSequential))
			check("over it", "..rrsssssssssssssssssssss.......")
			must(file.AdviseRange(10*pageSize, 2*pageSize, memmapfs.AdviceNormal))
			must(file.AdviseRange(11*pageSize, pageSize, memmapfs.AdviceWillNeed)) // lasts not
			must(file.AdviseRange(31*pageSize, 1<<40, memmapfs.AdviceRandom))
			check("taken back in the midst", "..rrssssss..sssssssssssss......r")
			if !file.Mapped() {
				t.Fatal("not mapped")
			}
			if m.name != "copy-on-write" { // whose map stays
				must(file.RemapAfterTruncation())
				check("mapped anew", "..rrssssss..sssssssssssss......r")
			}
			must(file.AdviseRandom())
			check("all", "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr")
		})
	}
}

// Catches a list of hints that grows with every call.
func TestHintsAreBounded(t *testing.T) {
	name := writeFile(t, testDir(t), "file", content(int(8*pageSize)))
	file := mustOpenMapped(t, mode{"", memmapfs.DefaultConfig()}.overOS(t), name, os.O_RDONLY)
	for i := range int64(3000) { // apart, so that none continues the one before
		if err := file.AdviseRange(2*i*pageSize, pageSize, memmapfs.AdviceRandom); err != nil {
			t.Fatal(err)
		}
	}
	if n := memmapfs.HintsOf(file); n > 1024 {
		t.Errorf("%d hints are remembered", n)
	}
	for i := range int64(100) { // each continues the one before
		if err := file.AdviseRange(i*pageSize, pageSize, memmapfs.AdviceSequential); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.AdviseSequential(); err != nil {
		t.Fatal(err)
	}
	if n := memmapfs.HintsOf(file); n != 1 {
		t.Errorf("%d hints are remembered where one says all", n)
	}
}
