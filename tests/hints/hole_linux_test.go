package hints_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// Catches a hole that keeps its blocks.
func TestPunchHoleFreesBlocks(t *testing.T) {
	if !testkit.MakesHoles(t, t.TempDir()) {
		t.Skip("no holes are made here")
	}
	size := 64 * max(testkit.PageSize, 4096)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(size)))
	file := testkit.MustOpenMapped(t, testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t), name, os.O_RDWR)
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
	testkit.InChild(t, func(t *testing.T) {
		disk := testkit.MountSmallDisk(t, "tmpfs")
		if disk == nil {
			return
		}
		if !testkit.MakesHoles(t, disk.Dir) {
			t.Skip(testkit.CannotRunMark + "no holes are made here")
		}
		native := filepath.Join(disk.Dir, "file")
		if err := os.WriteFile(native, testkit.Content(int(64*testkit.PageSize)), 0o600); err != nil {
			t.Fatal(err)
		}
		fileSystem := memmapfs.New(testkit.PlainFileSystem(t), testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
		defer fileSystem.Close()
		writer := testkit.MustOpenMapped(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
		other := testkit.MustOpenMapped(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
		for _, file := range []*memmapfs.MappedFile{writer, other} {
			testkit.ForceMap(file)
			for range 3 {
				if _, err := file.WriteAt([]byte("hot"), 10*testkit.PageSize); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := other.PunchHole(10*testkit.PageSize, testkit.PageSize); err != nil {
			t.Fatal(err)
		}
		disk.Fill()
		for _, file := range []*memmapfs.MappedFile{writer, other} {
			if _, err := file.WriteAt([]byte("hot"), 10*testkit.PageSize); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a write into the hole: %v", err)
			}
		}
		if faults := fileSystem.Stats().Faults; faults != 0 {
			t.Errorf("%d faults", faults)
		}
		testkit.Report(t, "a full disk refused the write into a hole")
		disk.Free()
	}, testkit.InOwnMounts)
}
