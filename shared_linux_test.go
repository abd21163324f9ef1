package memmapfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
)

func blocksOf(t *testing.T, path string) (bytes int64) {
	t.Helper()
	var info syscall.Stat_t
	if err := syscall.Stat(path, &info); err != nil {
		t.Fatal(err)
	}
	return info.Blocks * 512
}

// Catches regions without blocks, which fault when the disk is full, and holes that stay holes.
func TestSharedReserved(t *testing.T) {
	const size = 300 << 10
	dir := testDir(t)
	sparse := filepath.Join(dir, "sparse")
	if err := errors.Join(os.WriteFile(sparse, []byte("content"), 0o600), os.Truncate(sparse, 2*size)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "new"), sparse} {
		region := createRegion(t, memmapfs.SharedMemoryConfig{Path: path, Size: size})
		if got := blocksOf(t, path); got < size {
			t.Errorf("%s has blocks for %d bytes, want %d", path, got, size)
		}
		if err := region.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := string(readNative(t, sparse)[:7]); got != "content" {
		t.Errorf("the existing file begins with %q", got)
	}
}

// Catches a disk that is full without an error at creation, blocks and files that a failed creation
// keeps, and an existing file that changes its size for nothing.
func TestSharedDiskFull(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		for _, how := range []string{"reserved", "by zeros"} {
			t.Run(kind+" "+how, func(t *testing.T) {
				skipUnlessMounting(t)
				inChild(t, func(t *testing.T) {
					if disk := mountSmallDisk(t, kind); disk != nil {
						if how == "by zeros" {
							defer memmapfs.HookReserve(func(uintptr, int64) error { return errors.ErrUnsupported })()
						}
						testSharedDiskFull(t, disk)
					}
				}, inOwnMounts)
			})
		}
	}
}

func testSharedDiskFull(t *testing.T, disk *smallDisk) {
	dir := disk.dir
	free := func() int64 {
		var info syscall.Statfs_t
		if err := syscall.Statfs(dir, &info); err != nil {
			t.Fatal(err)
		}
		return int64(info.Bavail) * int64(info.Bsize)
	}
	existing := filepath.Join(dir, "existing")
	region := createRegion(t, memmapfs.SharedMemoryConfig{Path: existing, Size: 100 << 10, SyncMode: memmapfs.SyncNever})
	copy(region.Data()[100<<10-3:], "end")
	if err := region.Close(); err != nil {
		t.Fatal(err)
	}
	before := free()
	for _, path := range []string{existing, filepath.Join(dir, "new", "directory", "region")} {
		_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: before + 200<<10})
		checkPathError(t, "CreateSharedMemory on a disk that is too small", err, path)
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
	grown := createRegion(t, memmapfs.SharedMemoryConfig{
		Path: existing, Size: before / 2, SyncMode: memmapfs.SyncNever,
	})
	disk.fill()
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
	report(t, "%d bytes stored on a full disk", len(data))
}

const sharedUserDir = "MEMMAPFS_SHARED_USER_DIR"

// Catches permissions that the umask changes or that are not those asked for, and errors of an ordinary
// user that leave something behind. The child is the same test, as such a user and with another umask.
func TestSharedPermissions(t *testing.T) {
	if dir := os.Getenv(sharedUserDir); dir != "" {
		testSharedPermissions(t, dir)
		return
	}
	if os.Getuid() != 0 {
		old := syscall.Umask(0o077)
		defer syscall.Umask(old)
		testSharedPermissions(t, testDir(t))
		return
	}
	dir := dirForAll(t)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	runAsNobody(t, "TestSharedPermissions", sharedUserDir, dir)
}

func testSharedPermissions(t *testing.T, dir string) {
	for umask, ordinary := range map[int]os.FileMode{0: 0o644, 0o022: 0o644, 0o077: 0o600, 0o777: 0} {
		old := syscall.Umask(umask)
		for _, permissions := range []os.FileMode{0, 0o600, 0o644, 0o666, 0o444, 0o777} {
			path := filepath.Join(dir, "region")
			region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
				Path: path, Size: 100, Permissions: permissions,
			})
			if err != nil {
				t.Errorf("permissions %o, umask %o: %v", permissions, umask, err)
				continue
			}
			want := permissions
			if permissions == 0 {
				want = ordinary
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != want {
				t.Errorf("permissions %o, umask %o: %v %v, want %v", permissions, umask, info.Mode(), err, want)
			}
			region.Data()[0] = 1 // whatever the permissions say to others
			if err := region.Remove(); err != nil {
				t.Error(err)
			}
		}
		syscall.Umask(old)
	}
	closed := filepath.Join(dir, "closed")
	foreign := filepath.Join(dir, "foreign") // read-only, with a file of 3 bytes
	if err := errors.Join(os.MkdirAll(foreign, 0o700), os.WriteFile(filepath.Join(foreign, "file"), []byte("old"), 0o400),
		os.Mkdir(closed, 0o500), os.Chmod(foreign, 0o500)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(os.Chmod(foreign, 0o700), os.RemoveAll(foreign), os.Remove(closed)); err != nil {
			t.Error(err)
		}
	}()
	for _, path := range []string{
		filepath.Join(closed, "region"), filepath.Join(closed, "new", "region"), filepath.Join(foreign, "file"),
	} {
		_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100})
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v, want fs.ErrPermission", path, err)
		}
	}
	if _, err := memmapfs.OpenSharedMemory(filepath.Join(foreign, "file"), true); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("opening a read-only file for writing: %v, want fs.ErrPermission", err)
	}
	reader, err := memmapfs.OpenSharedMemory(filepath.Join(foreign, "file"), false)
	if err != nil || string(reader.Data()) != "old" {
		t.Fatalf("reading a read-only file: %v", err)
	}
	if err := errors.Join(reader.Lock(), reader.Close()); err != nil {
		t.Error(err)
	}
	mustHold(t, closed)
	if got := fmt.Sprint(readNative(t, filepath.Join(foreign, "file"))); got != fmt.Sprint([]byte("old")) {
		t.Errorf("the read-only file holds %s", got)
	}
}

// Catches a region of something that is no file, and an open that waits for the other end of a pipe.
func TestSharedOfPipe(t *testing.T) {
	dir := testDir(t)
	path := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	mustFinish(t, "opening a pipe", func() {
		_, readErr := memmapfs.OpenSharedMemory(path, false)
		_, writeErr := memmapfs.OpenSharedMemory(path, true)
		_, createErr := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100})
		for _, err := range []error{readErr, writeErr, createErr} {
			checkPathError(t, "shared memory of a pipe", err, path)
			if !errors.Is(err, memmapfs.ErrNotMapped) {
				t.Errorf("%v, want ErrNotMapped", err)
			}
		}
	})
	mustHold(t, dir, "pipe")
}

// Catches a lock of growth that is the user's lock, or that a killed creator keeps.
func TestSharedGrowthLock(t *testing.T) {
	region := createRegion(t, memmapfs.SharedMemoryConfig{Size: 100, SyncMode: memmapfs.SyncNever})
	var tries atomic.Int32
	defer memmapfs.HookLockGrowth(func() { tries.Add(1) })()
	reserving, finish := make(chan struct{}), make(chan struct{})
	restore := memmapfs.HookReserve(func(uintptr, int64) error {
		reserving <- struct{}{}
		<-finish
		return errors.ErrUnsupported
	})
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
	<-reserving
	if err := errors.Join(region.Lock(), region.Unlock()); err != nil {
		t.Error(err)
	}
	second := grow(200)
	if !eventually(func() bool { return tries.Load() > 3 }) {
		t.Error("a second creator does not wait for the first one")
	}
	finish <- struct{}{}
	<-reserving
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
	path := filepath.Join(testDir(t), "region")
	var tries atomic.Int32
	defer memmapfs.HookLockGrowth(func() { tries.Add(1) })()
	fail := make(chan error)
	reserving := make(chan struct{})
	restore := memmapfs.HookReserve(func(uintptr, int64) error {
		reserving <- struct{}{}
		return <-fail
	})
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
	<-reserving
	second := create()
	if !eventually(func() bool { return tries.Load() > 3 }) {
		t.Error("a second creator does not wait for the first one")
	}
	fail <- syscall.ENOSPC
	if err := <-first; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the first: %v, want ENOSPC", err)
	}
	<-reserving
	fail <- errors.ErrUnsupported
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	restore()
}
