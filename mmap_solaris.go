package memmapfs

import "golang.org/x/sys/unix"

// sysFilesystem tells the kinds of filesystem apart by their names (f_basetype of statvfs(2)).
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	var status unix.Statvfs_t
	if err := unix.Fstatvfs(int(fd), &status); err != nil {
		return filesystemUnknown, "", err
	}
	for _, c := range status.Basetype {
		if c == 0 {
			break
		}
		name += string(rune(c))
	}
	switch name {
	case "ufs", "zfs", "pcfs", "hsfs":
		return filesystemOnePage, name, nil
	case "tmpfs":
		return filesystemFillsHole, name, nil
	}
	return filesystemUnknown, name, nil
}
