//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package memmapfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
)

// createdRegion creates a region, in a directory of its own unless config has a path.
func createdRegion(t *testing.T, config memmapfs.SharedMemoryConfig) *memmapfs.SharedMemory {
	t.Helper()
	if config.Path == "" {
		config.Path = filepath.Join(t.TempDir(), "region")
	}
	region, err := memmapfs.CreateSharedMemory(&config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { region.Close() })
	return region
}

// Catches an open that believes a size which it was told while a creator was at work.
func TestOpenWhenCreatorHasJustEnded(t *testing.T) {
	region := createdRegion(t, memmapfs.SharedMemoryConfig{Size: 1000, SyncMode: memmapfs.SyncNever})
	calls := 0
	defer memmapfs.HookGrowthHeld(func() {
		if calls++; calls == 1 {
			if err := os.Truncate(region.Path(), 5000); err != nil {
				t.Error(err)
			}
		}
	})()
	opened, err := memmapfs.OpenSharedMemory(region.Path(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if opened.Size() != 5000 {
		t.Errorf("%d bytes, want all 5000", opened.Size())
	}
}

// Catches a creator that fails, without the lock, and cuts what another one has grown meanwhile.
func TestCreatorFailsWithoutLock(t *testing.T) {
	region := createdRegion(t, memmapfs.SharedMemoryConfig{Size: 100, SyncMode: memmapfs.SyncNever})
	defer memmapfs.CoverGrowthLock()()
	defer memmapfs.HookReserve(func(uintptr, int64) error {
		return errors.Join(os.Truncate(region.Path(), 300), syscall.ENOSPC)
	})()
	if err := region.Grow(200); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	if info, err := os.Stat(region.Path()); err != nil || info.Size() != 300 {
		t.Errorf("%v %v, want the other creator's 300 bytes", info, err)
	}
}

// Catches two handles that both believe to have made the region, the one of them alone.
func TestExclusiveCreatorIsOvertaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "region")
	var other *memmapfs.SharedMemory
	calls := 0
	defer memmapfs.HookLockGrowth(func() {
		if calls++; calls == 1 { // the file is there, and empty
			other = createdRegion(t, memmapfs.SharedMemoryConfig{Path: path, Size: 100, SyncMode: memmapfs.SyncNever})
		}
	})()
	_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100, Exclusive: true})
	if !errors.Is(err, fs.ErrExist) || other == nil || !other.Created() {
		t.Errorf("%v, want fs.ErrExist", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 100 {
		t.Errorf("the other creator's file: %v %v", info, err)
	}
}

// Catches an anonymous region that is longer after a growth that failed: it cannot be cut again.
func TestAnonymousGrowthFails(t *testing.T) {
	region, err := memmapfs.CreateAnonymousMemory(100)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	restore := memmapfs.HookReserve(func(uintptr, int64) error { return syscall.ENOSPC })
	err = region.Grow(1000)
	restore()
	if info, statErr := region.File().Stat(); !errors.Is(err, syscall.ENOSPC) || statErr != nil || info.Size() != 100 {
		t.Errorf("%v, want ENOSPC; %v %v", err, info, statErr)
	}
	if err := region.Grow(1000); err != nil || region.Size() != 1000 {
		t.Errorf("the next growth: %v, %d bytes", err, region.Size())
	}
}
