package memmapfs

import (
	"errors"
	"os"
	"syscall"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
)

// descriptor is the OS file behind a wrapped file.
type descriptor struct {
	conn  syscall.RawConn
	owned *os.File // opened here, beside a file that does not offer its own; otherwise nil
}

// findDescriptor finds the OS file behind file, or fails with an error wrapping
// errors.ErrUnsupported. It takes what the file itself offers and nothing else: a
// filesystem that transforms contents must not be bypassed. The one exception is
// osfs.File, which offers nothing and is known to transform nothing: it is opened again
// by name, and taken if that is still the same file.
func findDescriptor(file absfs.File, info os.FileInfo, write bool) (*descriptor, error) {
	if file, ok := file.(syscall.Conn); ok {
		if conn, err := file.SyscallConn(); err == nil {
			return &descriptor{conn: conn}, nil
		}
	}
	if file, ok := file.(interface{ Fd() uintptr }); ok {
		return &descriptor{conn: fdConn{file.Fd}}, nil
	}
	if file, ok := file.(*osfs.File); ok {
		return reopen(osfs.ToNative(file.Name()), info, write)
	}
	return nil, errors.ErrUnsupported
}

// offersDescriptor reports whether findDescriptor can find anything.
func offersDescriptor(file absfs.File) bool {
	switch file.(type) {
	case *osfs.File, syscall.Conn, interface{ Fd() uintptr }:
		return true
	}
	return false
}

// reopen opens the file at name again if it is the one that info describes. It does not
// wait and creates nothing, in case something else is at name by now.
func reopen(name string, info os.FileInfo, write bool) (*descriptor, error) {
	access := os.O_RDONLY
	if write {
		access = os.O_RDWR
	}
	file, err := os.OpenFile(name, access|sysOpenNonblock, 0)
	if err != nil {
		return nil, err
	}
	found, err := file.Stat()
	if err == nil && !os.SameFile(found, info) {
		err = errors.ErrUnsupported
	}
	if err == nil {
		var conn syscall.RawConn
		if conn, err = file.SyscallConn(); err == nil {
			return &descriptor{conn: conn, owned: file}, nil
		}
	}
	file.Close()
	return nil, err
}

// do calls fn with the descriptor's number, which stays valid until fn returns.
func (d *descriptor) do(fn func(fd uintptr) error) error {
	if d == nil {
		return errors.ErrUnsupported
	}
	var err error
	if controlErr := d.conn.Control(func(fd uintptr) { err = fn(fd) }); controlErr != nil {
		return controlErr
	}
	return err
}

// cachedPages returns how many pages of the range are in the page cache.
func (d *descriptor) cachedPages(offset, length int64) (cached int64, err error) {
	err = d.do(func(fd uintptr) (err error) {
		cached, err = system.cachedPages(fd, offset, length)
		return err
	})
	return cached, err
}

// bypassCache keeps what is read and written through the wrapped file out of the system's cache, where
// there is such a thing and the file offers its descriptor.
func (f *MappedFile) bypassCache() {
	switch f.file.(type) {
	case syscall.Conn, interface{ Fd() uintptr }:
		if d, err := findDescriptor(f.file, nil, false); err == nil {
			d.do(system.noCache)
		}
	}
}

// close releases what was opened here. Its error matters: some filesystems report bytes that
// could not be written to whoever closes the file first (FUSE).
func (d *descriptor) close() error {
	if d != nil && d.owned != nil {
		return d.owned.Close()
	}
	return nil
}

// fdConn makes a syscall.RawConn of a file that offers only its number.
type fdConn struct{ fd func() uintptr }

func (c fdConn) Control(fn func(fd uintptr)) error {
	fn(c.fd())
	return nil
}

func (c fdConn) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

func (c fdConn) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }
