package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// smallDiskBytes is less than the files on it want to hold.
const smallDiskBytes = 3 << 20

// smallDisk makes a filesystem that is soon full, or says why it cannot. It is unmounted at once and
// lives for as long as this process has its root directory open: nothing is left behind even after
// a crash.
func smallDisk() (dir, reason string) {
	if os.Getuid() != 0 {
		return "", "mounting one needs root"
	}
	place, err := os.MkdirTemp("", "memmapfs-soak-disk-")
	if err != nil {
		return "", err.Error()
	}
	defer os.Remove(place)
	if err := unix.Mount("soak", place, "tmpfs", 0, fmt.Sprintf("size=%d", smallDiskBytes)); err != nil {
		return "", err.Error()
	}
	defer unix.Unmount(place, unix.MNT_DETACH)
	root, err := unix.Open(place, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err.Error()
	}
	return fmt.Sprintf("/proc/self/fd/%d", root), ""
}
