package memmapfs_test

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropFromCache writes the file back and takes it out of the page cache: with all other files if this
// process may, else alone.
func dropFromCache(native string) error {
	file, err := os.Open(native)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return err
	}
	if os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) == nil {
		return nil
	}
	return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
}
