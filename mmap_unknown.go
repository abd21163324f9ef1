//go:build netbsd || solaris

package memmapfs

// sysFilesystem says nothing: no manual page of these systems promises that maps and calls agree, and
// msync(2) of NetBSD warns that they may not.
func sysFilesystem(fd uintptr) (kind int, name string, err error) {
	return filesystemUnknown, "a system that does not promise that maps and calls agree", nil
}
