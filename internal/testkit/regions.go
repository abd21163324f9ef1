package testkit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
)

// MustCreate creates a region, which is closed when the test ends unless the test does it.
func MustCreate(t testing.TB, path string, size int64) *memmapfs.SharedMemory {
	t.Helper()
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: size, SyncMode: memmapfs.SyncNever})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { region.Close() })
	return region
}

// Waiters returns the lines of /proc/locks for those who wait for a lock of that kind on the file, as in
// "1: -> FLOCK  ADVISORY  WRITE 123 fe:00:4711 0 EOF".
func Waiters(t *testing.T, path, kind string) (found []string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the system does not tell who waits for a lock:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The inode's number, by reflection because its field is there on Unix only.
	inode := fmt.Sprintf(":%d ", reflect.ValueOf(info.Sys()).Elem().FieldByName("Ino").Uint())
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "-> "+kind) && strings.Contains(line, inode) {
			found = append(found, line)
		}
	}
	return found
}

// MustHold fails the test if a directory has other entries.
func MustHold(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	if fmt.Sprint(found) != fmt.Sprint(names) {
		t.Errorf("the directory has %v, want %v", found, names)
	}
}

// CreateRegion creates a region that is closed when the test ends.
func CreateRegion(t testing.TB, config memmapfs.SharedMemoryConfig) *memmapfs.SharedMemory {
	t.Helper()
	NeedMaps(t)
	if config.Path == "" {
		config.Path = filepath.Join(TestDir(t), "region")
	}
	region, err := memmapfs.CreateSharedMemory(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { region.Close() })
	return region
}
