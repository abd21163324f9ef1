package faults_test

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// TestHolesInMemoryStayHoles catches reads that take blocks: on tmpfs, a page of a hole that is touched
// through a map gets one, read-only or not.
func TestHolesInMemoryStayHoles(t *testing.T) {
	testkit.NeedMounts(t)
	disk := testkit.MountSmallDisk(t, "tmpfs")
	if disk == nil {
		return
	}
	native := filepath.Join(disk.Dir, "file")
	if err := os.WriteFile(native, []byte("head"), 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20 // of which the disk has room for a part
	if err := os.Truncate(native, size); err != nil {
		t.Fatal(err)
	}
	free := func() uint64 {
		var status syscall.Statfs_t
		if err := syscall.Statfs(disk.Dir, &status); err != nil {
			t.Fatal(err)
		}
		return status.Bfree
	}
	configs := map[string]memmapfs.Config{
		"as a whole": {MapFullFile: true}, "windows": {WindowSize: 1 << 20}, "cold reads": {MapFullFile: true, ColdReads: true},
		"preloaded": {MapFullFile: true, PopulatePages: true, Preload: true},
	}
	for what, config := range configs {
		fileSystem := memmapfs.New(testkit.PlainFileSystem(t), &config)
		file := testkit.MustOpenMapped(t, fileSystem, osfs.FromNative(native), os.O_RDONLY)
		before := free()
		testkit.ForceMap(file)
		p := make([]byte, 100)
		for off := int64(0); off < size; off += 16 * testkit.PageSize {
			for range 2 {
				if n, err := file.ReadAt(p, off); n != len(p) || err != nil {
					t.Fatalf("ReadAt %d: %d, %v", off, n, err)
				}
			}
		}
		if err := file.Prefetch(0, size); err != nil {
			t.Error(err)
		}
		if n, err := file.WriteTo(io.Discard); n != size || err != nil {
			t.Errorf("WriteTo: %d, %v", n, err)
		}
		if after := free(); after < before {
			t.Errorf("%s: reading has taken %d blocks", what, before-after)
		}
		file.Close()
		fileSystem.Close()
	}
}
