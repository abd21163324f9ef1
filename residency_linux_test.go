package memmapfs_test

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

const coldFileSize = 9<<20 + 100 // more than two pieces of a prefetch

// coldFile makes a file of which nothing is in the page cache.
func coldFile(t testing.TB) (name string) {
	t.Helper()
	name = writeFile(t, testDir(t), "file", content(coldFileSize))
	makeCold(t, name)
	return name
}

// makeCold takes a file that is not mapped out of the page cache.
func makeCold(t testing.TB, name string) {
	t.Helper()
	if !eventually(func() bool { // what was mapped a moment ago may not be dropped yet
		dropAlone(t, name)
		file, err := memmapfs.New(plainFileSystem(t), nil).Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		resident, _, trusted, err := asMapped(t, file).Residency(0, coldFileSize)
		if err != nil || !trusted {
			t.Skipf("what is in memory is not told here: %v", err)
		}
		return resident == 0
	}) {
		t.Skip("the filesystem of temporary files keeps all in memory")
	}
}

func residentBytesOf(t testing.TB, file *memmapfs.MappedFile, off, n int64) int64 {
	t.Helper()
	resident, total, trusted, err := file.Residency(off, n)
	if err != nil || !trusted || resident > total {
		t.Fatalf("Residency(%d, %d): %d of %d, trusted %v, %v", off, n, resident, total, trusted, err)
	}
	return resident
}

func pagesOf(n int64) int64 { return (n + pageSize - 1) / pageSize * pageSize }

// Catches ranges that are counted wrongly, a question that brings in what it asks about, and one that maps.
func TestResidency(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		name := coldFile(t)
		file := mustOpenMapped(t, m.overOS(t), name, os.O_RDWR)
		for _, test := range []struct{ off, n, total int64 }{
			{0, coldFileSize, pagesOf(coldFileSize)}, {0, 1 << 62, pagesOf(coldFileSize)}, {0, 1, pageSize},
			{pageSize - 1, 2, 2 * pageSize}, {coldFileSize - 1, 1, pageSize}, {coldFileSize, 1, 0}, {5, 0, 0},
		} {
			resident, total, trusted, err := file.Residency(test.off, test.n)
			if resident != 0 || total != test.total || !trusted || err != nil {
				t.Errorf("Residency(%d, %d) of a cold file: %d of %d, trusted %v, %v; want 0 of %d",
					test.off, test.n, resident, total, trusted, err, test.total)
			}
		}
		if file.Mapped() {
			t.Error("mapped by a question")
		}
		// Tests of another process may empty the page cache meanwhile.
		allResident := func(off, n int64) bool {
			return eventually(func() bool {
				readNative(t, name)
				return residentBytesOf(t, file, off, n) == pagesOf(coldFileSize)
			})
		}
		if !allResident(0, coldFileSize) {
			t.Error("less is resident than all after a read of all")
		}
		if _, _, _, err := file.Residency(-1, 1); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("Residency at -1: %v", err)
		}

		// A kernel without cachestat tells by a map.
		restore := memmapfs.FailCachedPages(syscall.ENOSYS)
		defer restore()
		if !allResident(1, coldFileSize-2) {
			t.Error("less is resident by mincore than all after a read of all")
		}
		dropAlone(t, name)
		if resident := residentBytesOf(t, file, 0, coldFileSize); resident != 0 {
			t.Errorf("%d bytes of a cold file are resident by mincore", resident)
		}
	}, wrapped)
}

// dropAlone asks the kernel to take one file out of the page cache, and leaves all others there.
func dropAlone(t testing.TB, name string) {
	t.Helper()
	file, err := os.Open(osfs.ToNative(name))
	if err == nil {
		err = errors.Join(file.Sync(), unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// asNobody runs work with the rights of a user who owns nothing.
func asNobody(t *testing.T, work func()) {
	t.Helper()
	var skip error
	var started workers
	started.start(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its rights
		const nobody = 65534
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			skip = errno
			return
		}
		work()
	})
	started.Wait()
	if skip != nil {
		t.Skipf("another user's rights take root: %v", skip)
	}
}

// The kernel tells a process that neither owns the file nor may write it that all of it is in memory.
func TestResidencyOfOthers(t *testing.T) {
	skipWhenEmulated(t, "qemu has no cachestat(2), so the descriptor is not kept")
	name := coldFile(t)
	file := mustOpenMapped(t, mode{"", memmapfs.DefaultConfig()}.overOS(t), name, os.O_RDONLY)
	forceMap(file) // which opens what nobody could not
	asNobody(t, func() {
		if _, total, trusted, err := file.Residency(0, coldFileSize); trusted || err != nil || total != pagesOf(coldFileSize) {
			t.Errorf("Residency of somebody else's file: total %d, trusted %v, %v", total, trusted, err)
		}
	})
	if err := os.Chmod(osfs.ToNative(name), 0o666); err != nil {
		t.Fatal(err)
	}
	dropAlone(t, name)
	asNobody(t, func() {
		if resident, _, trusted, err := file.Residency(0, coldFileSize); !trusted || err != nil || resident != 0 {
			t.Errorf("Residency of a file that may be written: %d, trusted %v, %v", resident, trusted, err)
		}
	})
}

// Catches a prefetch that brings in nothing, or all, or that readers do not learn of.
func TestPrefetch(t *testing.T) {
	skipWhenEmulated(t, qemuSwallowsAdvice)
	eachMode(t, func(t *testing.T, m mode) {
		name := coldFile(t)
		fileSystem := m.overOS(t).(*memmapfs.MemMapFS)
		file := mustOpenMapped(t, fileSystem, name, os.O_RDWR)
		if err := file.AdviseRandom(); err != nil { // else the system reads ahead
			t.Fatal(err)
		}
		from, n := int64(3*pageSize+5), int64(5<<20)
		if err := file.Prefetch(from, n); err != nil {
			t.Fatal(err)
		}
		if resident := residentBytesOf(t, file, from, n); resident != pagesOf(from+n)-3*pageSize {
			t.Errorf("%d bytes of %d are resident", resident, n)
		}
		if !m.windowed() { // else not all of it is mapped
			if rest := residentBytesOf(t, file, from+n+pageSize, coldFileSize); rest == pagesOf(coldFileSize)-pagesOf(from+n)-pageSize {
				t.Errorf("%d bytes behind the range are resident", rest)
			}
			before := fileSystem.Stats()
			data := content(coldFileSize)
			p := make([]byte, 1000)
			for at := from; at+1000 < from+n; at += 1000 {
				if _, err := file.ReadAt(p, at); err != nil {
					t.Fatal(err)
				}
				mustEqual(t, "ReadAt", p, data[at:at+1000])
			}
			after := fileSystem.Stats()
			if after.ReadsCold != before.ReadsCold || after.ReadsUnmapped != before.ReadsUnmapped {
				t.Errorf("reads that went to the file: %+v, before %+v", after, before)
			}
		}
		if err := file.Prefetch(0, 1<<62); err != nil {
			t.Error("more than all:", err)
		}
		if resident := residentBytesOf(t, file, 0, coldFileSize); resident != pagesOf(coldFileSize) {
			t.Errorf("%d bytes are resident of all", resident)
		}
		if err := file.Prefetch(coldFileSize, 1); err != nil {
			t.Error("behind the end:", err)
		}
		if err := file.Prefetch(0, -1); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Error("a negative length:", err)
		}
	}, wrapped)
}

// badFile cannot be read from some offset on.
type badFile struct {
	absfs.File
	syscall.Conn
	from int64
}

func (f *badFile) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, &os.PathError{Op: "read", Path: f.Name(), Err: syscall.EIO}
	}
	return f.File.ReadAt(p, off)
}

type badFS struct{ absfs.FileSystem }

func (b badFS) Open(name string) (absfs.File, error) {
	file, err := b.FileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	return &badFile{file, file.(syscall.Conn), coldFileSize / 2}, nil
}

// What the map cannot bring in the file is asked for, and its error is the error.
func TestPrefetchReportsTheFilesError(t *testing.T) {
	name := writeFile(t, testDir(t), "file", content(coldFileSize))
	calls := 0
	restore := memmapfs.HookPopulate(func(func([]byte) error) func([]byte) error {
		return func([]byte) error {
			calls++
			return syscall.EFAULT
		}
	})
	defer restore()
	fileSystem := memmapfs.New(badFS{memmapfs.NewWatchedFS()}, memmapfs.DefaultConfig())
	defer fileSystem.Close()
	opened, err := fileSystem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	file := asMapped(t, opened)
	if err := file.Prefetch(0, 1<<20); err != nil {
		t.Error("the good part:", err)
	}
	if _, err := file.ReadAt(make([]byte, 100), 5*pageSize); err != nil || fileSystem.Stats().ReadsCold != 0 {
		t.Errorf("the good part is not known: %v, %+v", err, fileSystem.Stats())
	}
	if err := file.Prefetch(0, coldFileSize); !errors.Is(err, syscall.EIO) {
		t.Error("the bad part:", err)
	} else {
		checkPathError(t, "Prefetch", err, osfs.ToNative(name))
	}
	if calls == 0 {
		t.Error("the map was not tried")
	}
}

// Private pages are made by writing to them and by nothing else: brought in or locked, a page goes on
// showing what others write to the file.
func TestPrivateMapsFollowTheFile(t *testing.T) {
	for what, bringIn := range map[string]func(file *memmapfs.MappedFile) error{
		"PopulatePages": func(*memmapfs.MappedFile) error { return nil },
		"Prefetch":      func(file *memmapfs.MappedFile) error { return file.Prefetch(0, 1<<20) },
		"LockMemory":    func(file *memmapfs.MappedFile) error { return file.LockMemory(0, 4*pageSize) },
		"Advise":        func(file *memmapfs.MappedFile) error { return file.Advise(23) }, // MADV_POPULATE_WRITE
	} {
		t.Run(what, func(t *testing.T) {
			if what == "LockMemory" {
				skipWhenEmulated(t, "qemu has no mlock2(2)")
			}
			config := full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)
			config.PopulatePages = what == "PopulatePages"
			data := content(int(8 * pageSize))
			name := writeFile(t, testDir(t), "file", data)
			file := mustOpenMapped(t, mode{"", config}.overOS(t), name, os.O_RDWR)
			if err := bringIn(file); err != nil {
				t.Fatal(err)
			}
			native, err := os.OpenFile(osfs.ToNative(name), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := native.WriteAt([]byte("by somebody else"), 10); err != nil {
				t.Fatal(err)
			}
			native.Close()
			copy(data[10:], "by somebody else")
			mustEqual(t, "the file", readAll(t, file), data)
			if !file.Mapped() {
				t.Error("not mapped")
			}
			if copies := kilobytes(t, osfs.ToNative(name), "Anonymous"); copies != 0 {
				t.Errorf("%d KiB of private copies", copies)
			}
		})
	}
}

// Catches an open that waits for a preload in the background, and a preload that Close does not stop.
func TestPreloadAsyncEndsWithClose(t *testing.T) {
	name := writeFile(t, testDir(t), "file", content(coldFileSize))
	began, goOn := make(chan bool, 10), make(chan bool)
	restore := memmapfs.HookPopulate(func(populate func([]byte) error) func([]byte) error {
		return func(data []byte) error {
			began <- true
			<-goOn
			return populate(data)
		}
	})
	defer restore()
	config := memmapfs.DefaultConfig()
	config.PreloadAsync, config.Preload, config.PopulatePages = true, true, false
	fileSystem := memmapfs.New(plainFileSystem(t), config)
	var file *memmapfs.MappedFile
	mustFinish(t, "an open with PreloadAsync", func() {
		opened, err := fileSystem.Open(name)
		if err != nil {
			panic(err)
		}
		file = opened.(*memmapfs.MappedFile)
	})
	<-began
	closed := make(chan error)
	go func() { closed <- file.Close() }()
	for {
		if _, err := file.Stat(); errors.Is(err, os.ErrClosed) {
			break
		}
		runtime.Gosched()
	}
	close(goOn)
	mustFinish(t, "Close", func() {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
	if more := len(began); more > 0 {
		t.Errorf("%d more pieces were read in after Close", more)
	}
	if err := fileSystem.Close(); err != nil {
		t.Error(err)
	}
}

// testPreload opens a cold file and looks what of it is in memory: in the end, and with atOnce when the
// open returns.
func testPreload(t *testing.T, change func(c *memmapfs.Config), loads, atOnce bool) {
	skipWhenEmulated(t, qemuSwallowsAdvice)
	t.Helper()
	for _, whole := range []bool{true, false} {
		config := memmapfs.DefaultConfig()
		config.MapFullFile, config.WindowSize = whole, 1<<20
		change(config)
		name := coldFile(t)
		fileSystem := mode{"", config}.overOS(t).(*memmapfs.MemMapFS)
		file := mustOpenMapped(t, fileSystem, name, os.O_RDONLY)
		all := pagesOf(coldFileSize)
		if atOnce && !whole { // the first window
			all = 1 << 20
		}
		if atOnce {
			if resident := residentBytesOf(t, file, 0, all); resident != all {
				t.Errorf("%d bytes of %d are in memory when the open returns", resident, all)
			}
		}
		if !loads {
			if resident := residentBytesOf(t, file, 0, all); resident != 0 || file.Mapped() {
				t.Errorf("%d bytes are in memory without being asked for, mapped: %v", resident, file.Mapped())
			}
			continue
		}
		if !eventually(func() bool { return residentBytesOf(t, file, 0, all) == all }) {
			t.Errorf("%d bytes of %d are in memory", residentBytesOf(t, file, 0, all), all)
		}
		if !eventually(file.Mapped) {
			t.Error("not mapped")
		}
	}
}
