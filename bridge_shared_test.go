//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package memmapfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// ringMessage is a message of the number, with a length of its own.
func ringMessage(number int) []byte {
	return []byte(fmt.Sprintf("%d:%s", number, strings.Repeat("x", number%97)))
}

// produce sends messages, in a peer.
func produce(region *memmapfs.SharedMemory, count int) error {
	queue, err := newRing(region)
	if err != nil {
		return err
	}
	for i := range count {
		for message := ringMessage(i); !queue.send(message); {
		}
	}
	return nil
}

// Catches a ring, and with it an order of stores and atomic values, that works between goroutines only.
func TestSharedRingBetweenProcesses(t *testing.T) {
	testkit.NeedMaps(t)
	const messages = 100_000
	path := filepath.Join(testkit.TestDir(t), "region")
	region := testkit.MustCreate(t, path, 2*testkit.PageSize)
	producer := testkit.StartPeer(t)
	producer.Must("open", path, "writable")
	queue, err := newRing(region)
	if err != nil {
		t.Fatal(err)
	}
	producer.Tell("produce", messages)
	buffer := make([]byte, 200)
	testkit.MustFinish(t, "receiving", func() {
		for i := 0; i < messages; {
			if n, ok := queue.receive(buffer); ok {
				if got, want := string(buffer[:n]), string(ringMessage(i)); got != want {
					t.Errorf("message %d: %q, want %q", i, got, want)
					return
				}
				i++
			}
		}
	})
	if got := producer.Answer(); got != "ok" {
		t.Error(got)
	}
}

// Catches intervals in another unit, and modes that are not passed on.
func TestSharedConfig(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{
		Size: 100, SyncMode: memmapfs.SyncPeriodic, SyncInterval: 3, PopulatePages: true,
	})
	config := memmapfs.MappingOf(region)
	if config.SyncInterval != 3*time.Second || config.SyncMode != memmapfs.SyncPeriodic ||
		config.Mode != memmapfs.ModeReadWrite || !config.PopulatePages {
		t.Errorf("mapped with %+v", config)
	}
	if region.Size() != 100 || len(region.Data()) != 100 || cap(region.Data()) != 100 {
		t.Errorf("%d bytes, data %d with room for %d, want 100", region.Size(), len(region.Data()), cap(region.Data()))
	}
	if info, err := os.Stat(region.Path()); err != nil || info.Size() != 100 {
		t.Errorf("the file: %v %v", info, err)
	}
}

// Catches blocks that are not reserved where the system cannot do so, contents that the zeros are written
// over, and a file that keeps half of a growth that failed.
func TestSharedReservedByZeros(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 100})
	copy(region.Data()[90:], "ten bytes.")
	defer memmapfs.HookReserve(func(uintptr, int64) error { return errors.ErrUnsupported })()
	size := int64(3<<20 + 7) // more than is written at a time
	grown := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: region.Path(), Size: size})
	if got := string(grown.Data()[90:100]); got != "ten bytes." {
		t.Errorf("after growth: %q", got)
	}
	content := testkit.ReadNative(t, region.Path())
	if int64(len(content)) != size {
		t.Fatalf("%d bytes, want %d", len(content), size)
	}
	for off, b := range content[100:] {
		if b != 0 {
			t.Fatalf("%#x at %d", b, off+100)
		}
	}
	smaller := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: region.Path(), Size: 10})
	if got := string(smaller.Data()); got != string(content[:10]) || grown.Data()[99] != '.' {
		t.Errorf("after a creation with a smaller size: %q", got)
	}
}

// Catches an error of the reservation that is taken for a system that has none, and leaves a new file.
func TestSharedReserveFails(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 100})
	dir := filepath.Dir(region.Path())
	defer memmapfs.HookReserve(func(uintptr, int64) error { return syscall.ENOSPC })()
	for _, path := range []string{region.Path(), filepath.Join(dir, "new", "one")} {
		_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 1000})
		testkit.CheckPathError(t, "CreateSharedMemory", err, path)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v, want ENOSPC", err)
		}
	}
	testkit.MustHold(t, dir, "region")
	if info, err := os.Stat(region.Path()); err != nil || info.Size() != 100 {
		t.Errorf("the existing file: %v %v", info, err)
	}
}

// Catches a creator that was there first, fails, and takes away a file that another one uses by then.
func TestSharedFirstCreatorFails(t *testing.T) {
	path := filepath.Join(testkit.TestDir(t), "region")
	var second *memmapfs.SharedMemory
	calls := 0
	restore := memmapfs.HookLockGrowth(func() {
		if calls++; calls == 1 { // the file is there, and empty
			second = testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: path, Size: 100})
		}
	})
	defer restore()
	defer memmapfs.HookReserve(func(_ uintptr, size int64) error {
		if size > 100 {
			return syscall.ENOSPC
		}
		return errors.ErrUnsupported
	})()
	if !testkit.Mappable() {
		return // TestSharedWithoutMaps
	}
	_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 200})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	second.Data()[99] = 7
	if content := testkit.ReadNative(t, path); len(content) != 100 || content[99] != 7 {
		t.Errorf("%d bytes are left of the other creator's 100", len(content))
	}
}

func TestMain(m *testing.M) {
	testkit.PeerOrders["produce"] = produce
	testkit.ServeIfPeer()
	os.Exit(m.Run())
}

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
