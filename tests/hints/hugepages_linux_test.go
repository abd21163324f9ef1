package hints_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// mountFor mounts a filesystem on a new directory for the test. The test is skipped where that takes
// rights that this process has not.
func mountFor(t testing.TB, kind, options string) (dir string) {
	t.Helper()
	testkit.NeedMounts(t)
	dir = t.TempDir()
	if err := unix.Mount("none", dir, kind, 0, options); err != nil {
		t.Skipf("mounting %s takes root: %v", kind, err)
	}
	t.Cleanup(func() {
		testkit.Eventually(func() bool { return len(testkit.MappedUnder(t, dir)) == 0 })
		testkit.Unmount(t, dir)
	})
	return dir
}

// A file of 16 MiB with a byte after the last large page.
const hugeFileSize = 16<<20 + 1

// Without the option the kernel puts the maps of a filesystem without large pages anywhere.
func TestLargeMapsAreAligned(t *testing.T) {
	dir := mountFor(t, "tmpfs", "huge=never")
	name := testkit.WriteFile(t, dir, "file", make([]byte, hugeFileSize))
	whole, windows := testkit.Full(memmapfs.ModeReadOnly, memmapfs.SyncNever), testkit.Windowed(memmapfs.ModeReadWrite, 4<<20)
	for _, config := range []*memmapfs.Config{whole, windows, testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)} {
		config.UseHugePages = true
		fileSystem := testkit.Mode{Name: "huge", Config: config}.OverOS(t)
		for range 4 { // an address may be right by chance
			file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
			if err := file.View(9<<20, 1, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
			for _, m := range testkit.MapsOf(t, osfs.ToNative(name)) {
				if (m.Address-m.Offset)%(2<<20) != 0 {
					t.Errorf("%v: %d bytes at offset %d are mapped at %x", config.Mode, m.Bytes, m.Offset, m.Address)
				}
			}
			if err := file.View(0, hugeFileSize, func(b []byte) error { return nil }); err != nil {
				t.Error(err)
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An ordinary file that is not in the page cache gets large pages when it is read in.
func TestHugePagesOfOrdinaryFiles(t *testing.T) {
	testkit.NotEmulated(t, testkit.QemuSwallowsAdvice)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(hugeFileSize))
	native := osfs.ToNative(name)
	large := func(huge bool) int64 {
		config := testkit.Full(memmapfs.ModeReadOnly, memmapfs.SyncNever)
		config.PopulatePages, config.UseHugePages = true, huge
		testkit.MakeCold(t, name)
		file := testkit.MustOpenMapped(t, testkit.Mode{Name: "huge", Config: config}.OverOS(t), name, os.O_RDONLY)
		defer file.Close()
		testkit.MustEqual(t, "the file", testkit.ReadAll(t, file), testkit.Content(hugeFileSize))
		for _, m := range testkit.MapsOf(t, native) {
			if slices.Contains(m.Flags, "hg") != huge {
				t.Errorf("UseHugePages %v: a map has the flags %v", huge, m.Flags)
			}
		}
		return testkit.Kilobytes(t, native, "FilePmdMapped")
	}
	without, with := large(false), large(true)
	t.Logf("in large pages, of %d KiB: %d without UseHugePages, %d with it", hugeFileSize>>10, without, with)
	if with == 0 && without == 0 {
		t.Skip("this filesystem has no large pages")
	}
	if with < without || with < hugeFileSize>>10/4*3 {
		t.Errorf("%d KiB in large pages", with)
	}
}

// A tmpfs that gives large pages to whom they are advised gives them.
func TestHugePagesOfTmpfs(t *testing.T) {
	testkit.NotEmulated(t, testkit.QemuSwallowsAdvice)
	dir := mountFor(t, "tmpfs", "huge=advise")
	for _, huge := range []bool{false, true} {
		native := filepath.Join(dir, fmt.Sprint(huge))
		if err := os.WriteFile(native, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(native, 16<<20); err != nil {
			t.Fatal(err)
		}
		config := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)
		config.UseHugePages = huge
		file := testkit.MustOpenMapped(t, testkit.Mode{Name: "huge", Config: config}.OverOS(t), osfs.FromNative(native), os.O_RDWR)
		err := file.View(0, 16<<20, func(b []byte) error {
			for at := 0; at < len(b); at += int(testkit.PageSize) {
				b[at] = 1
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if large := testkit.Kilobytes(t, native, "ShmemPmdMapped"); (large > 0) != huge {
			t.Errorf("UseHugePages %v: %d KiB in large pages", huge, large)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// reserveHugePages lets the kernel set pages of 2 MiB aside until the test ends.
func reserveHugePages(t testing.TB, count int) {
	t.Helper()
	const setting = "/proc/sys/vm/nr_hugepages"
	before, err := os.ReadFile(setting)
	if err == nil {
		had, _ := strconv.Atoi(strings.TrimSpace(string(before)))
		if err = os.WriteFile(setting, []byte(strconv.Itoa(had+count)), 0); err == nil {
			t.Cleanup(func() { os.WriteFile(setting, before, 0) })
			now, readErr := os.ReadFile(setting)
			if got, _ := strconv.Atoi(strings.TrimSpace(string(now))); readErr != nil || got < had+count {
				err = fmt.Errorf("the kernel has set aside %d", got)
			}
		}
	}
	if err != nil {
		t.Skipf("%d huge pages take root and free memory: %v", count, err)
	}
}

// The pages of hugetlbfs are larger than those of the processor: offsets and lengths that are right
// elsewhere are refused there, and unmapping part of one too.
func TestHugetlbfs(t *testing.T) {
	testkit.NotEmulated(t, "qemu does not align maps to large pages")
	const size = 8 << 20
	reserveHugePages(t, 24)
	dir := mountFor(t, "hugetlbfs", "pagesize=2M")
	native := filepath.Join(dir, "file")
	created, err := os.Create(native)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(created.Truncate(size), created.Close()); err != nil {
		t.Fatal(err)
	}
	name := osfs.FromNative(native)
	want := testkit.Content(size)
	writer := testkit.MustOpenMapped(t, testkit.Mode{Name: "read-write", Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncLazy)}.OverOS(t), name, os.O_RDWR)
	data := writer.Data()
	if len(data) != size {
		t.Fatalf("Data has %d bytes", len(data))
	}
	copy(data, want)
	for _, m := range testkit.MapsOf(t, native) {
		if m.Kilobyte["KernelPageSize"] != 2048 {
			t.Errorf("pages of %d KiB", m.Kilobyte["KernelPageSize"])
		}
	}
	if err := writer.Close(); err != nil {
		t.Error(err)
	}

	edge := int64(2 << 20)
	for _, config := range []*memmapfs.Config{
		testkit.Full(memmapfs.ModeReadOnly, memmapfs.SyncNever), testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever),
		testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncLazy), testkit.Full(memmapfs.ModeExecute, memmapfs.SyncNever),
		testkit.Windowed(memmapfs.ModeReadOnly, testkit.PageSize), testkit.Windowed(memmapfs.ModeReadWrite, 3<<20),
		testkit.Windowed(memmapfs.ModeCopyOnWrite, 64<<10),
	} {
		for _, populate := range []bool{false, true} {
			config.PopulatePages, config.UseHugePages = populate, populate
			t.Run(fmt.Sprintf("%v, windows of %d, populate %v", config.Mode, config.WindowSize, populate), func(t *testing.T) {
				fileSystem := testkit.Mode{Config: config}.OverOS(t)
				file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
				testkit.MustEqual(t, "the file", testkit.ReadAll(t, file), want)
				for _, at := range []int64{0, edge - 100, size - 300} {
					err := file.View(at, 200, func(b []byte) error {
						testkit.MustEqual(t, fmt.Sprint("View at ", at), b, want[at:at+200])
						return nil
					})
					if err != nil {
						t.Errorf("View at %d: %v", at, err)
					}
				}
				if !file.Mapped() {
					t.Error("not mapped")
				}
				for range 100 {
					at := rand.Int64N(size - 8)
					p := make([]byte, 8)
					if _, err := file.ReadAt(p, at); err != nil || !bytes.Equal(p, want[at:at+8]) {
						t.Fatalf("ReadAt %d: %x, %v; want %x", at, p, err, want[at:at+8])
					}
				}
				if err := file.Prefetch(edge-10, 20); err != nil {
					t.Error("Prefetch:", err)
				}
				if _, _, trusted, err := file.Residency(0, size); trusted || !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("Residency, which the kernel does not tell: trusted %v, %v", trusted, err)
				}
				if err := file.Close(); err != nil {
					t.Error(err)
				}
				if !testkit.Eventually(func() bool { return len(testkit.MappedUnder(t, dir)) == 0 }) {
					t.Errorf("left mapped: %v", testkit.MappedUnder(t, dir))
				}
			})
		}
	}
}

// BenchmarkHugetlbfs is BenchmarkHugePages for a file that has nothing but large pages.
func BenchmarkHugetlbfs(b *testing.B) {
	const size = testkit.Gibibyte
	reserveHugePages(b, size>>21)
	native := filepath.Join(mountFor(b, "hugetlbfs", "pagesize=2M"), "file")
	file, err := os.OpenFile(native, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		b.Fatal(err)
	}
	data, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		b.Fatal(err)
	}
	testkit.StampBlock(data, 0)
	if err := unix.Munmap(data); err != nil {
		b.Fatal(err)
	}
	testkit.ReadLargePages(b, osfs.FromNative(native), size, true)
}
