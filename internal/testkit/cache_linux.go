package testkit

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// DropFromCache writes the file back and takes it out of the page cache: with all other files if this
// process may, else alone.
func DropFromCache(native string) error {
	file, err := os.Open(native)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return err
	}
	if os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) == nil {
		return nil
	}
	return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// ColdFileSize is the size of a ColdFile.
const ColdFileSize = 9<<20 + 100 // more than two pieces of a prefetch

// ColdFile makes a file of which nothing is in the page cache.
func ColdFile(t testing.TB) (name string) {
	t.Helper()
	name = WriteFile(t, TestDir(t), "file", Content(ColdFileSize))
	MakeCold(t, name)
	return name
}

// MakeCold takes a file that is not mapped out of the page cache.
func MakeCold(t testing.TB, name string) {
	t.Helper()
	native := osfs.ToNative(name)
	info, err := os.Stat(native)
	if err != nil {
		t.Fatal(err)
	}
	device := info.Sys().(*syscall.Stat_t).Dev
	const reason = "the filesystem of temporary files keeps all in memory"
	if _, known := keepsAll.Load(device); known || InMemory(native) {
		t.Skip(reason)
	}
	if !Eventually(func() bool { // what was mapped a moment ago may not be dropped yet
		DropAlone(t, name)
		file, err := memmapfs.New(PlainFileSystem(t), nil).Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		resident, _, trusted, err := AsMapped(t, file).Residency(0, ColdFileSize)
		if err != nil || !trusted {
			t.Skipf("what is in memory is not told here: %v", err)
		}
		return resident == 0
	}) {
		keepsAll.Store(device, true)
		t.Skip(reason)
	}
}

// keepsAll has the devices from which nothing is ever out of memory, or where the system says so.
var keepsAll sync.Map

// ResidentBytesOf is Residency, which must not fail.
func ResidentBytesOf(t testing.TB, file *memmapfs.MappedFile, off, n int64) int64 {
	t.Helper()
	resident, total, trusted, err := file.Residency(off, n)
	if err != nil || !trusted || resident > total {
		t.Fatalf("Residency(%d, %d): %d of %d, trusted %v, %v", off, n, resident, total, trusted, err)
	}
	return resident
}

// PagesOf rounds up to whole pages.
func PagesOf(n int64) int64 { return (n + PageSize - 1) / PageSize * PageSize }

// DropAlone asks the kernel to take one file out of the page cache, and leaves all others there.
func DropAlone(t testing.TB, name string) {
	t.Helper()
	file, err := os.Open(osfs.ToNative(name))
	if err == nil {
		err = errors.Join(file.Sync(), unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// CheckPreload opens a cold file and looks what of it is in memory: in the end, and with atOnce when the
// open returns.
func CheckPreload(t *testing.T, change func(c *memmapfs.Config), loads, atOnce bool) {
	NotEmulated(t, QemuSwallowsAdvice)
	t.Helper()
	for _, whole := range []bool{true, false} {
		config := memmapfs.DefaultConfig()
		config.MapFullFile, config.WindowSize = whole, 1<<20
		change(config)
		name := ColdFile(t)
		fileSystem := Mode{Config: config}.OverOS(t).(*memmapfs.MemMapFS)
		file := MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
		all := PagesOf(ColdFileSize)
		if atOnce && !whole { // the first window
			all = 1 << 20
		}
		if atOnce {
			if resident := ResidentBytesOf(t, file, 0, all); resident != all {
				t.Errorf("%d bytes of %d are in memory when the open returns", resident, all)
			}
		}
		if !loads {
			if resident := ResidentBytesOf(t, file, 0, all); resident != 0 || file.Mapped() {
				t.Errorf("%d bytes are in memory without being asked for, mapped: %v", resident, file.Mapped())
			}
			continue
		}
		if !Eventually(func() bool { return ResidentBytesOf(t, file, 0, all) == all }) {
			t.Errorf("%d bytes of %d are in memory", ResidentBytesOf(t, file, 0, all), all)
		}
		if !Eventually(file.Mapped) {
			t.Error("not mapped")
		}
	}
}
