package memmapfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
)

// Catches a list of hints that grows with every call.
func TestHintsAreBounded(t *testing.T) {
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(8*testkit.PageSize)))
	file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), name, os.O_RDONLY)
	for i := range int64(3000) { // apart, so that none continues the one before
		if err := file.AdviseRange(2*i*testkit.PageSize, testkit.PageSize, memmapfs.AdviceRandom); err != nil {
			t.Fatal(err)
		}
	}
	if n := memmapfs.HintsOf(file); n > 1024 {
		t.Errorf("%d hints are remembered", n)
	}
	for i := range int64(100) { // each continues the one before
		if err := file.AdviseRange(i*testkit.PageSize, testkit.PageSize, memmapfs.AdviceSequential); err != nil {
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

// Catches ranges that are counted wrongly, a question that brings in what it asks about, and one that maps.
func TestResidency(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.ColdFile(t)
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		for _, test := range []struct{ off, n, total int64 }{
			{0, testkit.ColdFileSize, testkit.PagesOf(testkit.ColdFileSize)}, {0, 1 << 62, testkit.PagesOf(testkit.ColdFileSize)}, {0, 1, testkit.PageSize},
			{testkit.PageSize - 1, 2, 2 * testkit.PageSize}, {testkit.ColdFileSize - 1, 1, testkit.PageSize}, {testkit.ColdFileSize, 1, 0}, {5, 0, 0},
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
			return testkit.Eventually(func() bool {
				testkit.ReadNative(t, name)
				return testkit.ResidentBytesOf(t, file, off, n) == testkit.PagesOf(testkit.ColdFileSize)
			})
		}
		if !allResident(0, testkit.ColdFileSize) {
			t.Error("less is resident than all after a read of all")
		}
		if _, _, _, err := file.Residency(-1, 1); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("Residency at -1: %v", err)
		}

		// A kernel without cachestat tells by a map.
		restore := memmapfs.FailCachedPages(syscall.ENOSYS)
		defer restore()
		if !allResident(1, testkit.ColdFileSize-2) {
			t.Error("less is resident by mincore than all after a read of all")
		}
		testkit.DropAlone(t, name)
		if resident := testkit.ResidentBytesOf(t, file, 0, testkit.ColdFileSize); resident != 0 {
			t.Errorf("%d bytes of a cold file are resident by mincore", resident)
		}
	}, testkit.Wrapped)
}

// badFile cannot be read from some offset on.
type badFile struct {
	absfs.File
	syscall.Conn
	memmapfs.ShowsItsDescriptor
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
	return &badFile{File: file, Conn: file.(syscall.Conn), from: testkit.ColdFileSize / 2}, nil
}

// What the map cannot bring in the file is asked for, and its error is the error.
func TestPrefetchReportsTheFilesError(t *testing.T) {
	testkit.NeedPopulate(t, t.TempDir())
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(testkit.ColdFileSize))
	calls := 0
	restore := memmapfs.HookPopulate(func(func([]byte) error) func([]byte) error {
		return func([]byte) error {
			calls++
			return syscall.EFAULT
		}
	})
	defer restore()
	fileSystem := memmapfs.New(badFS{watched.New()}, memmapfs.DefaultConfig())
	defer fileSystem.Close()
	opened, err := fileSystem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	file := testkit.AsMapped(t, opened)
	if err := file.Prefetch(0, 1<<20); err != nil {
		t.Error("the good part:", err)
	}
	if _, err := file.ReadAt(make([]byte, 100), 5*testkit.PageSize); err != nil || fileSystem.Stats().ReadsCold != 0 {
		t.Errorf("the good part is not known: %v, %+v", err, fileSystem.Stats())
	}
	if err := file.Prefetch(0, testkit.ColdFileSize); !errors.Is(err, syscall.EIO) {
		t.Error("the bad part:", err)
	} else {
		testkit.CheckPathError(t, "Prefetch", err, osfs.ToNative(name))
	}
	if calls == 0 {
		t.Error("the map was not tried")
	}
}

// Catches an open that waits for a preload in the background, and a preload that Close does not stop.
func TestPreloadAsyncEndsWithClose(t *testing.T) {
	testkit.NeedPopulate(t, t.TempDir())
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(testkit.ColdFileSize))
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
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), config)
	var file *memmapfs.MappedFile
	testkit.MustFinish(t, "an open with PreloadAsync", func() {
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
	testkit.MustFinish(t, "Close", func() {
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

// Catches a disk that is full without an error at creation, blocks and files that a failed creation
// keeps, and an existing file that changes its size for nothing.
func TestSharedDiskFull(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		for _, how := range []string{"reserved", "by zeros"} {
			t.Run(kind+" "+how, func(t *testing.T) {
				testkit.NeedMounts(t)
				testkit.InChild(t, func(t *testing.T) {
					if disk := testkit.MountSmallDisk(t, kind); disk != nil {
						if how == "by zeros" {
							defer memmapfs.HookReserve(func(uintptr, int64) error { return errors.ErrUnsupported })()
						}
						testSharedDiskFull(t, disk)
					}
				}, testkit.InOwnMounts)
			})
		}
	}
}

func testSharedDiskFull(t *testing.T, disk *testkit.SmallDisk) {
	dir := disk.Dir
	free := func() int64 {
		var info syscall.Statfs_t
		if err := syscall.Statfs(dir, &info); err != nil {
			t.Fatal(err)
		}
		return int64(info.Bavail) * int64(info.Bsize)
	}
	existing := filepath.Join(dir, "existing")
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: existing, Size: 100 << 10, SyncMode: memmapfs.SyncNever})
	copy(region.Data()[100<<10-3:], "end")
	if err := region.Close(); err != nil {
		t.Fatal(err)
	}
	before := free()
	for _, path := range []string{existing, filepath.Join(dir, "new", "directory", "region")} {
		_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: before + 200<<10})
		testkit.CheckPathError(t, "CreateSharedMemory on a disk that is too small", err, path)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a region that does not fit the disk: %v, want ENOSPC", err)
		}
		if after := free(); after != before {
			t.Errorf("%d bytes are free after a creation that failed, want %d", after, before)
		}
	}
	if info, err := os.Stat(existing); err != nil || info.Size() != 100<<10 {
		t.Errorf("the existing file: %v %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that was made for nothing: %v", err)
	}
	grown := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{
		Path: existing, Size: before / 2, SyncMode: memmapfs.SyncNever,
	})
	disk.Fill()
	// With no block left, every byte can be stored to; otherwise this is a fault, and the end.
	data := grown.Data()
	if got := string(data[100<<10-3:][:3]); got != "end" {
		t.Errorf("after growth: %q", got)
	}
	for i := range data {
		data[i] = byte(i)
	}
	if err := errors.Join(grown.Sync(), grown.Close()); err != nil {
		t.Error(err)
	}
	testkit.Report(t, "%d bytes stored on a full disk", len(data))
}

// mustReserve waits until a creator reserves blocks.
func mustReserve(t *testing.T, reserving chan struct{}) {
	t.Helper()
	testkit.MustFinish(t, "a creator", func() { <-reserving })
}

// Catches a lock of growth that is the user's lock, or that a killed creator keeps.
func TestSharedGrowthLock(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 100, SyncMode: memmapfs.SyncNever})
	var tries atomic.Int32
	defer memmapfs.HookLockGrowth(func() { tries.Add(1) })()
	reserving, finish := make(chan struct{}), make(chan struct{})
	restore := memmapfs.HookReserve(func(uintptr, int64) error {
		reserving <- struct{}{}
		<-finish
		return errors.ErrUnsupported
	})
	t.Cleanup(restore)
	grow := func(size int64) chan error {
		ended := make(chan error, 1)
		go func() {
			grown, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
				Path: region.Path(), Size: size, SyncMode: memmapfs.SyncNever,
			})
			if err == nil {
				err = grown.Close()
			}
			ended <- err
		}()
		return ended
	}
	first := grow(300)
	mustReserve(t, reserving)
	if err := errors.Join(region.Lock(), region.Unlock()); err != nil {
		t.Error(err)
	}
	second := grow(200)
	if !testkit.Eventually(func() bool { return tries.Load() > 3 }) {
		t.Error("a second creator does not wait for the first one")
	}
	finish <- struct{}{}
	mustReserve(t, reserving)
	if info, err := os.Stat(region.Path()); err != nil || info.Size() != 300 {
		t.Errorf("when the first has grown it: %v %v", info, err)
	}
	finish <- struct{}{}
	for _, ended := range []chan error{first, second} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	restore()
	if info, err := os.Stat(region.Path()); err != nil || info.Size() != 300 {
		t.Errorf("in the end: %v %v, want 300 bytes", info, err)
	}
}

// Catches a creator that fails and takes the file away from those who wait to use it.
func TestSharedCreatorFails(t *testing.T) {
	path := filepath.Join(testkit.TestDir(t), "region")
	var tries atomic.Int32
	defer memmapfs.HookLockGrowth(func() { tries.Add(1) })()
	fail := make(chan error)
	reserving := make(chan struct{})
	restore := memmapfs.HookReserve(func(uintptr, int64) error {
		reserving <- struct{}{}
		return <-fail
	})
	t.Cleanup(restore)
	create := func() chan error {
		ended := make(chan error, 1)
		go func() {
			region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100, SyncMode: memmapfs.SyncNever})
			if err == nil {
				found, statErr := os.Stat(path)
				own, ownErr := region.MappedFile().Stat()
				if err = errors.Join(statErr, ownErr, region.Close()); err == nil && !os.SameFile(found, own) {
					err = errors.New("the region is not the file at the path")
				}
			}
			ended <- err
		}()
		return ended
	}
	first := create()
	mustReserve(t, reserving)
	second := create()
	if !testkit.Eventually(func() bool { return tries.Load() > 3 }) {
		t.Error("a second creator does not wait for the first one")
	}
	fail <- syscall.ENOSPC
	if err := <-first; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the first: %v, want ENOSPC", err)
	}
	mustReserve(t, reserving)
	fail <- errors.ErrUnsupported
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	restore()
}
