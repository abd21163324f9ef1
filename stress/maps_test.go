//go:build linux

package stress

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/stress/badfs"
	"github.com/absfs/osfs"
)

// mapInfo is what the kernel says of a map.
type mapInfo struct {
	permissions string
	resident    int64 // bytes with an entry in this process's page table
	flags       []string
}

// mapsOf returns the maps that this process has of the file.
func mapsOf(t *testing.T, native string) (maps []mapInfo) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	must(t, err)
	ours := false
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch key := fields[0]; {
		case !strings.HasSuffix(key, ":"): // the first line of a map
			if ours = fields[len(fields)-1] == native; ours {
				maps = append(maps, mapInfo{permissions: fields[1]})
			}
		case !ours:
		case key == "Rss:":
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			must(t, err)
			maps[len(maps)-1].resident = kilobytes << 10
		case key == "VmFlags:":
			maps[len(maps)-1].flags = fields[1:]
		}
	}
	return maps
}

// newFile makes a file of some pages on the disk of temporary files.
func newFile(t *testing.T) (native string, contents []byte) {
	t.Helper()
	native, contents = filepath.Join(t.TempDir(), "file"), badfs.Contents(fileSize)
	must(t, os.WriteFile(native, contents, 0o644))
	return native, contents
}

// The map is the one that the mode describes.
func TestPermissionsOfMaps(t *testing.T) {
	native, _ := newFile(t)
	for _, c := range configs() {
		mapped := openMapped(t, c.Config, osfs.FromNative(native), os.O_RDWR)
		if mapped.Data() == nil {
			t.Fatalf("%s: not mapped", c.name)
		}
		want := map[memmapfs.MappingMode]string{
			memmapfs.ModeReadOnly: "r--s", memmapfs.ModeReadWrite: "rw-s",
			memmapfs.ModeCopyOnWrite: "rw-p", memmapfs.ModeExecute: "r-xp",
		}[c.Mode]
		for _, m := range mapsOf(t, native) {
			if m.permissions != want {
				t.Errorf("%s: mapped %s, want %s", c.name, m.permissions, want)
			}
		}
		must(t, mapped.Close())
		if left := mapsOf(t, native); len(left) > 0 {
			t.Errorf("%s: still mapped after Close", c.name)
		}
	}
}

// With PopulatePages all of the file is in the page table when the open returns.
func TestPopulatePages(t *testing.T) {
	native, _ := newFile(t)
	for _, c := range configs() {
		for _, populate := range []bool{false, true} {
			c.Config.PopulatePages = populate
			mapped := openMapped(t, c.Config, osfs.FromNative(native), os.O_RDWR)
			if !populate {
				mapped.AdviseRandom() // maps it
			}
			bytes, resident := min(fileSize, windowPages*pageSize), int64(0)
			if c.MapFullFile {
				bytes = (fileSize + pageSize - 1) / pageSize * pageSize
			}
			for _, m := range mapsOf(t, native) {
				resident += m.resident
			}
			if populate && resident != bytes || !populate && resident != 0 {
				t.Errorf("%s, PopulatePages %t: %d bytes of the map are in memory, of %d", c.name, populate, resident, bytes)
			}
			must(t, mapped.Close())
		}
	}
}

// Hints reach the kernel, the lasting ones for every map, and none is taken for another.
func TestHintsReachTheKernel(t *testing.T) {
	native, _ := newFile(t)
	for _, c := range configs() {
		for _, hint := range []struct {
			name string
			give func(*memmapfs.MappedFile) error
			flag string
		}{
			{"AdviseRandom", (*memmapfs.MappedFile).AdviseRandom, "rr"},
			{"AdviseSequential", (*memmapfs.MappedFile).AdviseSequential, "sr"},
			{"AdviseHugePage", (*memmapfs.MappedFile).AdviseHugePage, "hg"},
			{"AdviseNoHugePage", (*memmapfs.MappedFile).AdviseNoHugePage, "nh"},
		} {
			mapped := openMapped(t, c.Config, osfs.FromNative(native), os.O_RDWR)
			if err := hint.give(mapped); err != nil {
				t.Logf("%s: %v", hint.name, err) // a kernel without large pages
				continue
			}
			must(t, mapped.View(fileSize-1, 1, func([]byte) error { return nil })) // maps the last window, too
			maps := mapsOf(t, native)
			if len(maps) == 0 {
				t.Errorf("%s: not mapped", c.name)
			}
			for _, m := range maps {
				if !slices.Contains(m.flags, hint.flag) {
					t.Errorf("%s, %s: the map has flags %v, want %s", c.name, hint.name, m.flags, hint.flag)
				}
			}
			must(t, mapped.Close())
		}

		mapped := openMapped(t, c.Config, osfs.FromNative(native), os.O_RDWR)
		touch := func(b []byte) error {
			bytes.Count(b, []byte{0})
			return nil
		}
		must(t, mapped.View(0, pageSize, touch))
		must(t, mapped.AdviseDontNeed())
		for _, m := range mapsOf(t, native) {
			if m.resident != 0 {
				t.Errorf("%s, AdviseDontNeed: %d bytes are still there", c.name, m.resident)
			}
		}
		must(t, mapped.Close())
	}
}

// A store in a View is a fault where it would be lost or is not allowed.
func TestViewIsReadOnlyElsewhere(t *testing.T) {
	native, contents := newFile(t)
	for _, c := range configs() {
		for _, flags := range []int{os.O_RDONLY, os.O_RDWR} {
			if c.Mode == memmapfs.ModeReadWrite && flags == os.O_RDWR || c.Mode == memmapfs.ModeCopyOnWrite {
				continue
			}
			mapped := openMapped(t, c.Config, osfs.FromNative(native), flags)
			for _, s := range []span{{0, 1}, {windowPages*pageSize - 1, 2}} {
				err := mapped.View(s.off, s.n, func(b []byte) error { b[0]++; return nil })
				if !errors.Is(err, memmapfs.ErrSIGBUS) {
					t.Errorf("%s, flags %#x: storing to a View of %v: %v, want ErrSIGBUS", c.name, flags, s, err)
				}
			}
			p := make([]byte, fileSize)
			if _, err := mapped.ReadAt(p, 0); err != nil || !bytes.Equal(p, contents) {
				t.Errorf("%s, flags %#x: the file has changed, or cannot be read: %v", c.name, flags, err)
			}
			must(t, mapped.Close())
		}
	}
}

// What catches faults ends with the call that began it, however that ends: a fault of the caller's
// own ends the program as it always did.
func TestFaultsAreNotCaughtForLong(t *testing.T) {
	for _, c := range configs() {
		native, _ := newFile(t)
		mapped := openMapped(t, c.Config, osfs.FromNative(native), os.O_RDWR)
		over := func(what string) {
			t.Helper()
			if debug.SetPanicOnFault(false) {
				t.Errorf("%s: after %s faults are still caught", c.name, what)
			}
		}
		must(t, mapped.View(0, 1, func([]byte) error { return nil }))
		over("View")
		errOwn := errors.New("own")
		if err := mapped.View(0, 1, func([]byte) error { return errOwn }); err != errOwn {
			t.Errorf("%s: View: %v, want its function's error", c.name, err)
		}
		over("View with an error")
		func() {
			defer func() { recover() }()
			mapped.View(0, 1, func([]byte) error { panic("own") })
		}()
		over("View with a panic")
		p := make([]byte, 100)
		for range 100 {
			_, err := mapped.ReadAt(p, 0)
			must(t, err)
		}
		over("ReadAt")
		for range 3 {
			_, err := mapped.WriteAt(p, 0)
			if c.Mode == memmapfs.ModeReadWrite || c.Mode == memmapfs.ModeCopyOnWrite {
				must(t, err)
			}
		}
		over("WriteAt")
		q := make([]byte, pageSize)
		for range 100 {
			_, err := mapped.ReadAt(q, 2*pageSize)
			must(t, err)
		}
		if c.Mode == memmapfs.ModeReadWrite {
			_, err := mapped.WriteAt(p, 2*pageSize)
			must(t, err)
		}
		must(t, os.Truncate(native, 1))
		before := faultsCaught.Load()
		mapped.ReadAt(q, 2*pageSize)
		over("ReadAt with a fault")
		mapped.WriteAt(p, 2*pageSize)
		over("WriteAt with a fault")
		must(t, os.Truncate(native, fileSize))
		mapped.RemapAfterTruncation()
		mapped.View(0, fileSize, func(b []byte) error {
			must(t, os.Truncate(native, 1))
			b[fileSize-1]++
			return nil
		})
		over("View with a fault")
		if faultsCaught.Load()-before < 2 {
			t.Errorf("%s: %d faults: the test shows nothing", c.name, faultsCaught.Load()-before)
		}
		must(t, mapped.Close())
	}
}

// A file that cannot be mapped is not tried again and again: each try opens it once more.
func TestRefusedMapsAreNotTriedAgain(t *testing.T) {
	m := mount(t, badfs.Options{})
	must(t, m.CreateUnmappable("file", fileSize))
	for _, c := range configs() {
		mapped := openMapped(t, c.Config, m.name("file"), os.O_RDWR)
		before, err := m.Count("file")
		must(t, err)
		for range 1000 {
			if mapped.View(0, 1, func([]byte) error { return nil }) == nil {
				t.Fatal("mapped")
			}
			_, err := mapped.ReadAt(make([]byte, 8), 0)
			must(t, err)
		}
		after, err := m.Count("file")
		must(t, err)
		if tries := after.Opens - before.Opens; tries > 3 {
			t.Errorf("%s: mapping was tried %d times", c.name, tries)
		}
		must(t, mapped.Close())
	}
}
