package memmapfs

import "golang.org/x/sys/unix"

// sysFilesystem tells local filesystems from those of a network (ST_LOCAL of statvfs(2)).
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	var status unix.Statvfs_t
	if err := unix.Fstatvfs(int(fd), &status); err != nil {
		return filesystemUnknown, "", err
	}
	if status.Flag&unix.MNT_LOCAL == 0 {
		return filesystemUnknown, "a filesystem that is not local", nil
	}
	return filesystemOnePage, "a local filesystem", nil
}
