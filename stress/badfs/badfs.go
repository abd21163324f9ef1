//go:build linux

// Package badfs is a FUSE filesystem whose disk goes bad on demand: reads and writes of chosen
// pages fail, reads hang, flushes fail, files refuse to be mapped. What the kernel has cached can
// be dropped, so that pages that were read before are read again.
//
// The filesystem is served by a process of its own. A page fault stops the thread it happens in,
// and with it one of the GOMAXPROCS places of its program: a program that served the file it
// faults on could wait for itself.
package badfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Faults are what goes wrong with one file. Pages are numbered from 0 and have
// os.Getpagesize() bytes.
type Faults struct {
	BadReads  []int64       // pages that cannot be read: EIO
	BadWrites []int64       // pages that cannot be written: EIO
	SlowReads []int64       // pages whose reads take Delay
	Delay     time.Duration // see SlowReads
	BadSyncs  int           // this many fsync calls fail: EIO
}

// Counts are the calls of one file that reached the server.
type Counts struct{ Opens, Reads, Writes, Syncs int }

// Contents returns what a file of that size holds when it is made: bytes that repeat at no page.
func Contents(size int64) []byte {
	data := make([]byte, size)
	state := uint64(size)*0x9e3779b97f4a7c15 + 1
	for i := range data {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		data[i] = byte(state)
	}
	return data
}

// Options of a mount.
type Options struct {
	// ReadAhead is the number of bytes that the kernel reads ahead. 1 turns it off: each read of
	// the server is then one page that somebody asked for.
	ReadAhead int
	// Writeback has the kernel collect writes and pass them on later. Without it each write call
	// is passed on before it returns; stores through a map always are collected.
	Writeback bool
	// Revalidate has the kernel ask for a file's attributes with each call, and drop what it has
	// cached of a file that was modified, as clients of network filesystems do.
	Revalidate bool
	// DirectMaps lets files be mapped that are read and written past the page cache (Linux 6.6).
	DirectMaps bool
}

// Serve mounts the filesystem at dir, takes orders of Dial at the socket, and returns when
// lifeline ends. The filesystem is unmounted then.
func Serve(dir, socket string, options Options, lifeline io.Reader) error {
	orders, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer orders.Close()
	timeout := time.Hour // what the kernel knows changes by its own calls alone
	mountOptions := &fs.Options{AttrTimeout: &timeout, EntryTimeout: &timeout}
	mountOptions.FsName = "badfs"
	mountOptions.Name = "badfs"
	mountOptions.DirectMountStrict = true
	mountOptions.DisableXAttrs = true
	mountOptions.MaxReadAhead = options.ReadAhead
	mountOptions.MaxBackground = 1000 // as many reads may hang at a time
	mountOptions.ExplicitDataCacheControl = true
	if options.Writeback {
		mountOptions.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
	}
	if options.DirectMaps {
		mountOptions.ExtraCapabilities |= fuse.CAP_DIRECT_IO_ALLOW_MMAP
	}
	if options.Revalidate {
		timeout = 0
		mountOptions.ExplicitDataCacheControl = false
	}
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, mountOptions)
	if err != nil {
		return err
	}
	// The mount goes away even if a file of it is still open somewhere.
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := server.WaitMount(); err != nil {
		return err
	}
	control := rpc.NewServer()
	if err := control.RegisterName("Disk", &service{root: root, files: make(map[string]*file)}); err != nil {
		return err
	}
	go func() {
		for {
			connection, err := orders.Accept()
			if err != nil {
				return
			}
			go control.ServeConn(connection)
		}
	}()
	io.Copy(io.Discard, lifeline)
	return nil
}

// service takes the orders.
type service struct {
	root  *fs.Inode
	mu    sync.Mutex // guards files
	files map[string]*file
}

// Order is one order of a Disk.
type Order struct {
	Name   string
	Size   int64
	Direct bool
	Faults Faults
}

func (s *service) named(name string) (*file, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.files[name]; ok {
		return f, nil
	}
	return nil, fmt.Errorf("badfs: there is no file %s", name)
}

func (s *service) Ready(Order, *struct{}) error { return nil }

func (s *service) Create(order Order, _ *struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[order.Name] != nil {
		return fmt.Errorf("badfs: there is a file %s already", order.Name)
	}
	f := &file{data: Contents(order.Size), direct: order.Direct, modified: time.Now()}
	ctx := context.Background()
	inode := s.root.NewPersistentInode(ctx, f, fs.StableAttr{Mode: fuse.S_IFREG})
	if !s.root.AddChild(order.Name, inode, false) {
		return fmt.Errorf("badfs: cannot add %s", order.Name)
	}
	s.files[order.Name] = f
	return nil
}

func (s *service) Set(order Order, _ *struct{}) error {
	f, err := s.named(order.Name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = order.Faults
	return nil
}

func (s *service) Forget(order Order, _ *struct{}) error {
	f, err := s.named(order.Name)
	if err != nil {
		return err
	}
	// Writing back what is dirty, the kernel calls Write: f.mu must be free.
	if errno := f.NotifyContent(0, 0); errno != 0 && errno != syscall.ENOENT {
		return fmt.Errorf("badfs: dropping the cache of %s: %w", order.Name, errno)
	}
	return nil
}

func (s *service) Replace(order Order, _ *struct{}) error {
	f, err := s.named(order.Name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = Contents(order.Size)[:len(f.data)]
	f.modified = time.Now()
	return nil
}

func (s *service) Count(order Order, counts *Counts) error {
	f, err := s.named(order.Name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	*counts = f.counts
	return nil
}

func (s *service) Stored(order Order, data *[]byte) error {
	f, err := s.named(order.Name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	*data = slices.Clone(f.data)
	return nil
}

// file is one file of the filesystem.
type file struct {
	fs.Inode
	direct bool

	mu       sync.Mutex // guards the fields below
	data     []byte
	modified time.Time
	faults   Faults
	counts   Counts
}

var (
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeFlusher   = (*file)(nil)
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
)

func (f *file) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f.mu.Lock()
	f.counts.Opens++
	f.mu.Unlock()
	if f.direct {
		return nil, fuse.FOPEN_DIRECT_IO, 0
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// touches reports whether one of the pages lies in the n bytes from off on.
func touches(pages []int64, off int64, n int) bool {
	page := int64(os.Getpagesize())
	return slices.ContainsFunc(pages, func(number int64) bool {
		return number*page < off+int64(n) && (number+1)*page > off
	})
}

func (f *file) Read(ctx context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.mu.Lock()
	f.counts.Reads++
	faults := f.faults
	f.mu.Unlock()
	if touches(faults.SlowReads, off, len(dest)) {
		time.Sleep(faults.Delay)
	}
	if touches(faults.BadReads, off, len(dest)) {
		return nil, syscall.EIO
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= int64(len(f.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(dest[:copy(dest, f.data[off:])]), 0
}

func (f *file) Write(ctx context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts.Writes++
	if touches(f.faults.BadWrites, off, len(data)) {
		return 0, syscall.EIO
	}
	if end := off + int64(len(data)); end > int64(len(f.data)) {
		f.data = append(f.data, make([]byte, end-int64(len(f.data)))...)
	}
	copy(f.data[off:], data)
	f.modified = time.Now()
	return uint32(len(data)), 0
}

func (f *file) Fsync(ctx context.Context, _ fs.FileHandle, flags uint32) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts.Syncs++
	if f.faults.BadSyncs > 0 {
		f.faults.BadSyncs--
		return syscall.EIO
	}
	return 0
}

func (f *file) Flush(ctx context.Context, _ fs.FileHandle) syscall.Errno { return 0 }

func (f *file) Getattr(ctx context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.describe(out)
	return 0
}

// describe fills in the file's attributes; the caller holds f.mu.
func (f *file) describe(out *fuse.AttrOut) {
	out.Mode = fuse.S_IFREG | 0o644
	out.Size = uint64(len(f.data))
	out.SetTimes(nil, &f.modified, &f.modified)
}

func (f *file) Setattr(ctx context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size, ok := in.GetSize(); ok {
		if size <= uint64(len(f.data)) {
			f.data = f.data[:size]
		} else {
			f.data = append(f.data, make([]byte, size-uint64(len(f.data)))...)
		}
	}
	if modified, ok := in.GetMTime(); ok {
		f.modified = modified
	}
	f.describe(out)
	return 0
}

// Disk gives orders to a server.
type Disk struct{ orders *rpc.Client }

// Dial connects to the server that listens at the socket. It waits for the server to start, until
// ctx is done.
func Dial(ctx context.Context, socket string) (*Disk, error) {
	for ; ; time.Sleep(time.Millisecond) {
		orders, err := rpc.Dial("unix", socket)
		if err == nil {
			disk := &Disk{orders}
			// The socket is there before the mount, and answers after it.
			if err := orders.Call("Disk.Ready", Order{}, &struct{}{}); err != nil {
				disk.Hangup()
				return nil, fmt.Errorf("badfs: the server has ended: %w", err)
			}
			return disk, nil
		}
		if ctx.Err() != nil || !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
	}
}

// Hangup ends the connection. The filesystem stays mounted.
func (d *Disk) Hangup() { d.orders.Close() }

// Create makes a file with Contents(size).
func (d *Disk) Create(name string, size int64) error {
	return d.orders.Call("Disk.Create", Order{Name: name, Size: size}, &struct{}{})
}

// CreateUnmappable makes a file with Contents(size) that is read and written past the page
// cache and refuses shared maps (FOPEN_DIRECT_IO).
func (d *Disk) CreateUnmappable(name string, size int64) error {
	return d.orders.Call("Disk.Create", Order{Name: name, Size: size, Direct: true}, &struct{}{})
}

// Set makes faults the ones of the file.
func (d *Disk) Set(name string, faults Faults) error {
	return d.orders.Call("Disk.Set", Order{Name: name, Faults: faults}, &struct{}{})
}

// Forget has the kernel drop what it has cached of the file.
func (d *Disk) Forget(name string) error {
	return d.orders.Call("Disk.Forget", Order{Name: name}, &struct{}{})
}

// Replace changes the file's bytes behind the kernel's back to the first ones of
// Contents(size), as another client of a network filesystem would.
func (d *Disk) Replace(name string, size int64) error {
	return d.orders.Call("Disk.Replace", Order{Name: name, Size: size}, &struct{}{})
}

// Count returns the calls of the file so far.
func (d *Disk) Count(name string) (counts Counts, err error) {
	err = d.orders.Call("Disk.Count", Order{Name: name}, &counts)
	return counts, err
}

// Stored returns what has reached the disk.
func (d *Disk) Stored(name string) (data []byte, err error) {
	err = d.orders.Call("Disk.Stored", Order{Name: name}, &data)
	return data, err
}
