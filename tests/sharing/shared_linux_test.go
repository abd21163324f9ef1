package sharing_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
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
	dir := testkit.TestDir(t)
	sparse := filepath.Join(dir, "sparse")
	if err := errors.Join(os.WriteFile(sparse, []byte("content"), 0o600), os.Truncate(sparse, 2*size)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "new"), sparse} {
		region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: path, Size: size})
		if got := blocksOf(t, path); got < size {
			t.Errorf("%s has blocks for %d bytes, want %d", path, got, size)
		}
		if err := region.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := string(testkit.ReadNative(t, sparse)[:7]); got != "content" {
		t.Errorf("the existing file begins with %q", got)
	}
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
		testSharedPermissions(t, testkit.TestDir(t))
		return
	}
	dir := testkit.DirForAll(t)
	if err := os.Chown(dir, testkit.Nobody, testkit.Nobody); err != nil {
		t.Fatal(err)
	}
	testkit.RunAsNobody(t, "TestSharedPermissions", sharedUserDir, dir)
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
	testkit.MustHold(t, closed)
	if got := fmt.Sprint(testkit.ReadNative(t, filepath.Join(foreign, "file"))); got != fmt.Sprint([]byte("old")) {
		t.Errorf("the read-only file holds %s", got)
	}
}

// Catches a region of something that is no file, and an open that waits for the other end of a pipe.
func TestSharedOfPipe(t *testing.T) {
	dir := testkit.TestDir(t)
	path := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.MustFinish(t, "opening a pipe", func() {
		_, readErr := memmapfs.OpenSharedMemory(path, false)
		_, writeErr := memmapfs.OpenSharedMemory(path, true)
		_, createErr := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100})
		for _, err := range []error{readErr, writeErr, createErr} {
			testkit.CheckPathError(t, "shared memory of a pipe", err, path)
			if !errors.Is(err, memmapfs.ErrNotMapped) {
				t.Errorf("%v, want ErrNotMapped", err)
			}
		}
	})
	testkit.MustHold(t, dir, "pipe")
}
