//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package memmapfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// What is stored in the slice is seen by every process that has opened the same
// region; Sync puts it on disk.
func ExampleSharedMemory_basic() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()

	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path:        filepath.Join(directory, "shared"),
		Size:        1024,
		Mode:        memmapfs.ModeReadWrite,
		SyncMode:    memmapfs.SyncImmediate,
		Permissions: 0o600,
	})
	check(err)
	copy(region.Data(), "a message for other processes")
	check(region.Sync())

	fmt.Printf("Created shared memory with size %d bytes\n", region.Size())
	check(region.Close())
	// Output: Created shared memory with size 1024 bytes
}

// Close leaves the region's file for others; Remove deletes it.
func ExampleSharedMemory_cleanup() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()

	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: filepath.Join(directory, "shared"),
		Size: 1024,
		Mode: memmapfs.ModeReadWrite,
	})
	check(err)
	copy(region.Data(), "of use until the program ends")
	check(region.Remove())

	if _, err := os.Stat(region.Path()); errors.Is(err, fs.ErrNotExist) {
		fmt.Println("Shared memory cleaned up successfully")
	}
	// Output: Shared memory cleaned up successfully
}

// Writer and reader stand here for two processes. Processes that use a region at
// the same time need an agreement on who writes where and when.
func ExampleSharedMemory_ipc() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()
	path := filepath.Join(directory, "shared")

	writer, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path:          path,
		Size:          4096,
		Mode:          memmapfs.ModeReadWrite,
		PopulatePages: true,
	})
	check(err)
	message := "Message from process A"
	copy(writer.Data(), message)
	check(writer.Close())

	reader, err := memmapfs.OpenSharedMemory(path, false)
	check(err)
	fmt.Printf("Received: %s\n", reader.Data()[:len(message)])
	check(reader.Close())
	// Output: Received: Message from process A
}

// Each goroutine stands here for a process, with a handle of its own. None of the four million
// additions is lost.
func ExampleSharedMemory_Uint64() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()
	config := &memmapfs.SharedMemoryConfig{
		Path:     filepath.Join(directory, "counter"),
		Size:     8,
		SyncMode: memmapfs.SyncNever,
	}

	var processes sync.WaitGroup
	for range 4 {
		processes.Add(1)
		go func() {
			defer processes.Done()
			region, err := memmapfs.CreateSharedMemory(config) // nobody has to be first
			check(err)
			counter, err := region.Uint64(0)
			check(err)
			for range 1_000_000 {
				counter.Add(1)
			}
			check(region.Close())
		}()
	}
	processes.Wait()

	region, err := memmapfs.OpenSharedMemory(config.Path, false)
	check(err)
	counter, err := region.Uint64(0)
	check(err)
	fmt.Println(counter.Load())
	check(region.Remove())
	// Output: 4000000
}

// Under the lock a process may change what takes more than one store. If it dies meanwhile the
// lock is free again, and the next holder finds what was done so far: here the entry counts only
// once its length is there.
func ExampleSharedMemory_Lock() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: filepath.Join(directory, "register"),
		Size: 4096,
	})
	check(err)
	length, err := region.Uint32(0)
	check(err)
	entries := region.Data()[4:]

	add := func(entry string) error {
		if err := region.Lock(); err != nil {
			return err
		}
		defer region.Unlock()
		end := copy(entries[length.Load():], entry+"\n")
		length.Add(uint32(end))
		return nil
	}
	check(add("process 17 is here"))
	check(add("process 18 is here"))

	check(region.RLock())
	fmt.Printf("%s", entries[:length.Load()])
	check(region.Unlock())
	check(region.Remove())
	// Output:
	// process 17 is here
	// process 18 is here
}

// Where others may write to the directory, as in /dev/shm, the name may be taken by somebody
// else. A directory of one's own keeps them out; Permissions keeps them out of the file.
func ExampleCreateSharedMemory_private() {
	directory := os.Getenv("XDG_RUNTIME_DIR") // on Linux: in memory, and this user's alone
	if info, err := os.Stat(directory); err != nil || !info.IsDir() {
		directory, err = os.MkdirTemp("", "memmapfs-example") // nobody else may enter it
		check(err)
		defer func() { check(os.RemoveAll(directory)) }()
	}
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path:        filepath.Join(directory, "memmapfs-example-private"),
		Size:        4096,
		Permissions: 0o600,
		SyncMode:    memmapfs.SyncNever,
	})
	check(err)
	fmt.Println(region.Size())
	check(region.Remove())
	// Output: 4096
}

// The waiter uses no processor until the other one, which stands here for another process, has
// stored something and called Wake.
func ExampleSharedMemory_Wait() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()
	config := &memmapfs.SharedMemoryConfig{
		Path: filepath.Join(directory, "answer"), Size: 64, Permissions: 0o600, SyncMode: memmapfs.SyncNever,
	}

	go func() {
		region, err := memmapfs.CreateSharedMemory(config)
		check(err)
		ready, err := region.Uint32(0)
		check(err)
		copy(region.Data()[4:], "forty-two")
		ready.Store(1)
		_, err = region.Wake(0, math.MaxInt)
		check(err)
		check(region.Close())
	}()

	region, err := memmapfs.CreateSharedMemory(config)
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(region.Wait(ctx, 0, 0)) // until the bytes at 0 are not 0
	fmt.Printf("%s\n", region.Data()[4:13])
	check(region.Close())
	// Output: forty-two
}

// A holder that died may have left half a change. Whoever gets the lock next is told, and mends it.
func ExampleSharedMemory_ReportOwnerDeath() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: filepath.Join(directory, "accounts"), Size: 4096, Permissions: 0o600,
		ReportOwnerDeath: true, // the first four bytes are for that
	})
	check(err)

	lock := func() error {
		err := region.Lock()
		if errors.Is(err, memmapfs.ErrOwnerDied) {
			clear(region.Data()[4:]) // here: begin anew
			return nil
		}
		return err
	}
	check(lock())
	fmt.Println("locked")
	check(region.Unlock())
	check(region.Remove())
	// Output: locked
}

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
