//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris

package memmapfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
