package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity tells files from each other.
type identity struct{ device, inode uint64 }

// identify returns which file info describes, and how many names it has.
func identify(info fs.FileInfo) (id identity, names uint64) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, 0
	}
	return identity{uint64(stat.Dev), stat.Ino}, uint64(stat.Nlink)
}

// evict drops a file from the page cache, as far as nobody else has its pages mapped or locked.
//
// memmapfs has no such method: AdviseDontNeed takes pages from this process only, AdviseFree
// (MADV_PAGEOUT) and AdviseRemove (MADV_COLD) reach the pages that this process has touched
// through its map, and a file would have to be read in to be evicted. posix_fadvise(2) with
// POSIX_FADV_DONTNEED reaches all pages of the file that are not mapped and not dirty, so
// they are written to the disk first.
func evict(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return &os.PathError{Op: "fadvise", Path: path, Err: err}
	}
	return nil
}
