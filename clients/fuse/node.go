//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"sync/atomic"
	"syscall"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file or directory that programs see. What is in files, their sizes and their names are
// the work of files, the filesystem under test; what absfs has no words for (owners, links,
// attributes of the disk) is go-fuse's loopback.
type node struct {
	fs.LoopbackNode
	files *counted
}

// counted is a filesystem, and how many reads and writes of its files were asked for.
type counted struct {
	absfs.FileSystem
	reads, writes atomic.Int64
}

var (
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeCreater   = (*node)(nil)
	_ fs.NodeSetattrer = (*node)(nil)
	_ fs.NodeMkdirer   = (*node)(nil)
	_ fs.NodeUnlinker  = (*node)(nil)
	_ fs.NodeRmdirer   = (*node)(nil)
	_ fs.NodeRenamer   = (*node)(nil)

	_ fs.NodeWrapChilder = (*node)(nil)
)

// newRoot returns the root of a tree that shows directory, a native path, through files.
func newRoot(files *counted, directory string) (fs.InodeEmbedder, error) {
	var stat syscall.Stat_t
	if err := syscall.Stat(directory, &stat); err != nil {
		return nil, &os.PathError{Op: "stat", Path: directory, Err: err}
	}
	root := &fs.LoopbackRoot{Path: directory, Dev: uint64(stat.Dev)}
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, files: files}
	root.RootNode = top
	return top, nil
}

// WrapChild makes a node of one that the loopback has made.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, files: n.files}
}

// name returns the name that files knows this node by, or, with elements, something below it.
func (n *node) name(elements ...string) string {
	native := path.Join(n.RootData.Path, n.Path(n.Root()), path.Join(elements...))
	return osfs.FromNative(native)
}

// openFlags are those of the flags that the filesystem has to know. The rest is the kernel's,
// which adds some of its own: with O_APPEND, for one, it says where to write, and the file would
// refuse WriteAt.
func openFlags(flags uint32) int {
	return int(flags) & (syscall.O_ACCMODE | os.O_CREATE | os.O_EXCL | os.O_TRUNC | os.O_SYNC)
}

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	file, err := n.files.OpenFile(n.name(), openFlags(flags), 0)
	if err != nil {
		return nil, 0, errnoOf(err)
	}
	return &handle{file: file, files: n.files}, 0, 0
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	file, err := n.files.OpenFile(n.name(name), openFlags(flags)|os.O_CREATE, os.FileMode(mode&0o777))
	if err != nil {
		return nil, nil, 0, errnoOf(err)
	}
	child, errno := n.made(ctx, name, out)
	if errno != 0 {
		file.Close()
		return nil, nil, 0, errno
	}
	return child, &handle{file: file, files: n.files}, 0, 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if err := n.files.Mkdir(n.name(name), os.FileMode(mode&0o777)); err != nil {
		return nil, errnoOf(err)
	}
	return n.made(ctx, name, out)
}

// made gives what was made at name to the user who asked for it, and describes it.
func (n *node) made(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if caller, ok := fuse.FromContext(ctx); ok && os.Getuid() == 0 {
		if err := os.Lchown(osfs.ToNative(n.name(name)), int(caller.Uid), int(caller.Gid)); err != nil {
			return nil, errnoOf(err)
		}
	}
	return n.Lookup(ctx, name, out)
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return errnoOf(n.files.Remove(n.name(name)))
}

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return errnoOf(n.files.Remove(n.name(name)))
}

func (n *node) Rename(_ context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := parent.(*node)
	if !ok {
		return syscall.EXDEV
	}
	if flags != 0 { // to exchange two files, or never to replace one
		return syscall.EINVAL
	}
	return errnoOf(n.files.Rename(n.name(name), to.name(newName)))
}

// Setattr is go-fuse's for owners and permissions, and files's for sizes and times.
func (n *node) Setattr(ctx context.Context, file fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	open, _ := file.(*handle)
	if size, ok := in.GetSize(); ok {
		truncate := func(size int64) error { return n.files.Truncate(n.name(), size) }
		if open != nil {
			truncate = open.file.Truncate
		}
		if err := truncate(int64(size)); err != nil {
			return errnoOf(err)
		}
	}
	changed, _ := in.GetMTime()
	accessed, _ := in.GetATime()
	byFiles := uint32(fuse.FATTR_SIZE)
	isLink := n.StableAttr().Mode&syscall.S_IFMT == syscall.S_IFLNK
	if !isLink && !(changed.IsZero() && accessed.IsZero()) {
		if err := n.files.Chtimes(n.name(), accessed, changed); err != nil {
			return errnoOf(err)
		}
		byFiles |= fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME_NOW
	}
	rest := *in
	rest.Valid &^= byFiles
	if errno := n.LoopbackNode.Setattr(ctx, nil, &rest, out); errno != 0 {
		return errno
	}
	if open != nil {
		return open.Getattr(ctx, out)
	}
	return 0
}

// handle is an open file.
type handle struct {
	file  absfs.File
	files *counted
}

var (
	_ fs.FileReader    = (*handle)(nil)
	_ fs.FileWriter    = (*handle)(nil)
	_ fs.FileFsyncer   = (*handle)(nil)
	_ fs.FileGetattrer = (*handle)(nil)
	_ fs.FileReleaser  = (*handle)(nil)
)

func (h *handle) Read(_ context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.files.reads.Add(1)
	n, err := h.file.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errnoOf(err)
	}
	return fuse.ReadResultData(p[:n]), 0
}

func (h *handle) Write(_ context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	h.files.writes.Add(1)
	n, err := h.file.WriteAt(p, off)
	return uint32(n), errnoOf(err)
}

func (h *handle) Fsync(context.Context, uint32) syscall.Errno { return errnoOf(h.file.Sync()) }

func (h *handle) Getattr(_ context.Context, out *fuse.AttrOut) syscall.Errno {
	info, err := h.file.Stat()
	if err != nil {
		return errnoOf(err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return syscall.EIO
	}
	out.FromStat(stat)
	changed := info.ModTime() // which knows of stores that the disk has yet to hear of
	out.SetTimes(nil, &changed, nil)
	return 0
}

func (h *handle) Release(context.Context) syscall.Errno { return errnoOf(h.file.Close()) }

// errnoOf returns the number that the kernel takes for err.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return fs.ToErrno(err)
}
