package memmapfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// Catches a hole that keeps its blocks.
func TestPunchHoleFreesBlocks(t *testing.T) {
	size := 64 * max(pageSize, 4096)
	name := writeFile(t, testDir(t), "file", content(int(size)))
	file := mustOpenMapped(t, mode{"", full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.overOS(t), name, os.O_RDWR)
	if err := file.Sync(); err != nil { // the blocks may not be there before
		t.Fatal(err)
	}
	before := allocated(t, name)
	if err := file.PunchHole(size/4+1, size/2); err != nil {
		t.Fatal(err)
	}
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
	if after := allocated(t, name); before-after < size/4 {
		t.Errorf("%d bytes on the disk before, %d after", before, after)
	}
}

func allocated(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(osfs.ToNative(name))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// A store into a hole needs a block. Catches a page that is taken for one that has it: on a full disk
// the store would be a fault.
func TestStoreIntoHoleOfFullDisk(t *testing.T) {
	inChild(t, func(t *testing.T) {
		disk := mountSmallDisk(t, "tmpfs")
		if disk == nil {
			return
		}
		native := filepath.Join(disk.dir, "file")
		if err := os.WriteFile(native, content(int(64*pageSize)), 0o600); err != nil {
			t.Fatal(err)
		}
		fileSystem := memmapfs.New(plainFileSystem(t), full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
		defer fileSystem.Close()
		writer := mustOpenMapped(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
		other := mustOpenMapped(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
		for _, file := range []*memmapfs.MappedFile{writer, other} {
			forceMap(file)
			for range 3 {
				if _, err := file.WriteAt([]byte("hot"), 10*pageSize); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := other.PunchHole(10*pageSize, pageSize); err != nil {
			t.Fatal(err)
		}
		disk.fill()
		for _, file := range []*memmapfs.MappedFile{writer, other} {
			if _, err := file.WriteAt([]byte("hot"), 10*pageSize); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a write into the hole: %v", err)
			}
		}
		if faults := fileSystem.Stats().Faults; faults != 0 {
			t.Errorf("%d faults", faults)
		}
		report(t, "a full disk refused the write into a hole")
		disk.free()
	}, inOwnMounts)
}
