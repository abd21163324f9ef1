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
	"sync"
	"time"

	"github.com/absfs/memmapfs"
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
