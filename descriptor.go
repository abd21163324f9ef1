package memmapfs

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"weak"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
)

// Files of osfs 1.0.0 offer no descriptor. All that it takes to have one all the same stands
// in this file: a second descriptor, opened by name, and the care that these stay few.

// descriptor is the OS file behind a wrapped file.
type descriptor struct {
	conn syscall.RawConn

	// What follows is set for a descriptor opened here, beside a file that does not offer its own.
	owned *os.File
	info  os.FileInfo
	named bool // it can be had again by its name
	place *int // in seconds; guarded by its lock; nil for one that is not kept

	mu       sync.Mutex // guards closed and closeErr; secondDescriptors.mu is taken under it
	closed   bool
	closeErr error // of a close that giveBack did; close returns it
}

// findDescriptor finds the OS file behind the wrapped file, or fails with an error wrapping
// errors.ErrUnsupported. It takes what the file itself offers and nothing else: a
// filesystem that transforms contents must not be bypassed. The one exception is
// osfs.File, which offers nothing and is known to transform nothing: it is opened again
// by name, and taken if that is still the same file. With write the descriptor is for
// writing, if the wrapped file is.
func (o *openFile) findDescriptor(info os.FileInfo, write bool) (*descriptor, error) {
	if file, ok := o.file.(syscall.Conn); ok {
		if conn, err := file.SyscallConn(); err == nil {
			return &descriptor{conn: conn}, nil
		}
	}
	if file, ok := o.file.(interface{ Fd() uintptr }); ok {
		return &descriptor{conn: fdConn{o, file.Fd}}, nil
	}
	file, ok := o.file.(*osfs.File)
	if !ok {
		return nil, errNoDescriptor
	}
	if write {
		// Whoever opened the file may have opened it read-only, whatever was asked for. A write
		// of nothing is refused then (write(2): EBADF), and changes nothing otherwise; EINVAL says that the
		// file can be written through maps only, as one of hugetlbfs.
		_, err := file.Write(nil)
		write = !errors.Is(err, syscall.EBADF) && !errors.Is(err, fs.ErrPermission)
	}
	if write && emptyWritesSucceed {
		write = file.Sync() == nil // FlushFileBuffers, which needs the right to write
	}
	return reopen(osfs.ToNative(file.Name()), info, write)
}

// emptyWritesSucceed says that package os makes no system call of a write of nothing.
const emptyWritesSucceed = runtime.GOOS == "windows"

// offersDescriptor reports whether findDescriptor can find anything.
func (o *openFile) offersDescriptor() bool {
	switch o.file.(type) {
	case *osfs.File, syscall.Conn, interface{ Fd() uintptr }:
		return true
	}
	return false
}

// errOtherFile reports that the name of an open file is not its name any more.
var errOtherFile = errors.New("the file was renamed, removed or replaced since it was opened, and offers no descriptor itself")

// reopen opens the file at name again if it is the one that info describes. It does not
// wait and creates nothing, in case something else is at name by now.
func reopen(name string, info os.FileInfo, write bool) (*descriptor, error) {
	access := os.O_RDONLY
	if write {
		access = os.O_RDWR
	}
	file, err := os.OpenFile(name, access|sysOpenNonblock, 0)
	if err != nil && sysIsDescriptorShortage(err) && seconds.giveBack() {
		file, err = os.OpenFile(name, access|sysOpenNonblock, 0)
	}
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = because(err, errOtherFile)
		}
		return nil, err
	}
	found, err := file.Stat()
	if err == nil && !os.SameFile(found, info) {
		err = errOtherFile
	}
	if err == nil {
		var conn syscall.RawConn
		if conn, err = file.SyscallConn(); err == nil {
			return &descriptor{conn: conn, owned: file, info: found, named: true}, nil
		}
	}
	file.Close()
	return nil, err
}

// reopened returns a descriptor opened anew of the file that d shows now, if the system can do
// that; otherwise d.
func (d *descriptor) reopened(info os.FileInfo) *descriptor {
	if d.owned != nil {
		return d // it was opened just now, by name
	}
	again := d
	d.do(func(fd uintptr) error {
		file, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(fd)))
		if err != nil {
			return err
		}
		conn, err := file.SyscallConn()
		if err == nil {
			again = &descriptor{conn: conn, owned: file, info: info}
		}
		return err
	})
	return again
}

// do calls fn with the descriptor's number, which stays valid until fn returns. Of a file that is closed
// it gives fs.ErrClosed: a RawConn of package os has an error of its own for that, which nothing matches.
func (d *descriptor) do(fn func(fd uintptr) error) error {
	if d == nil {
		return errors.ErrUnsupported
	}
	var err error
	controlErr := d.conn.Control(func(fd uintptr) { err = fn(fd) })
	switch {
	case controlErr == nil:
		return err
	case errors.Is(controlErr, errors.ErrUnsupported), errors.Is(controlErr, fs.ErrClosed):
		return controlErr
	}
	return because(controlErr, fs.ErrClosed)
}

// cachedPages returns how many pages of the range are in the page cache.
func (d *descriptor) cachedPages(offset, length int64) (cached int64, err error) {
	if filtered() {
		return 0, errors.ErrUnsupported
	}
	err = d.do(func(fd uintptr) (err error) {
		cached, err = system.cachedPages(fd, offset, length)
		return err
	})
	return cached, err
}

// close releases what was opened here. Its error matters: some filesystems report bytes that
// could not be written to whoever closes the file first (FUSE).
func (d *descriptor) close() error {
	if d == nil || d.owned == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		d.closeErr = d.owned.Close()
		seconds.forget(d)
	}
	err := d.closeErr
	d.closeErr = nil
	return err
}

// giveBack closes a descriptor that can be had again by the same name, and reports whether it did.
func (d *descriptor) giveBack() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	if !d.named {
		return false
	}
	if found, err := os.Stat(d.owned.Name()); err != nil || !os.SameFile(found, d.info) {
		return false
	}
	d.closed = true
	d.closeErr = d.owned.Close()
	seconds.forget(d)
	return true
}

// isClosed reports whether the descriptor was given back.
func (d *descriptor) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// seconds are the second descriptors of the process. There are never more than an eighth of
// what the process may have open; and all that can be had again are given back when an open
// fails for want of one.
var seconds secondDescriptors

type secondDescriptors struct {
	mu   sync.Mutex // guards open; no lock is taken under it
	open weakList[descriptor]
}

// add enters d, if it is a second descriptor that is to be kept: from here on it may be given back at any
// time. That it is dropped without a close is no leak: the collector closes the file.
func (s *secondDescriptors) add(d *descriptor) {
	if !d.named {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.place = s.open.add(d)
}

// forget takes note that d was closed.
func (s *secondDescriptors) forget(d *descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open.remove(d.place)
}

// full reports whether there are as many as there may be.
func (s *secondDescriptors) full() bool {
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.open.entries)
	}
	if count() < maxSeconds() {
		return false
	}
	s.open.values(&s.mu) // takes out what the collector has closed
	return count() > maxSeconds()
}

// giveBack closes all that can be had again, and reports whether there were any.
func (s *secondDescriptors) giveBack() (any bool) {
	for _, d := range s.open.values(&s.mu) {
		if d.giveBack() {
			any = true
		}
	}
	return any
}

// weakList holds values for as long as somebody else does. To get at a value the runtime may wait for most of
// a collection of garbage, so that is done with no lock held, and nothing that takes a value out needs it.
type weakList[T any] struct{ entries []weakEntry[T] }

type weakEntry[T any] struct {
	value weak.Pointer[T]
	place *int // in entries, plus 1; 0 when it was taken out
}

// add enters a value and returns its place, for remove. The caller holds the list's lock.
func (l *weakList[T]) add(value *T) (place *int) {
	place = new(int)
	l.entries = append(l.entries, weakEntry[T]{weak.Make(value), place})
	*place = len(l.entries)
	return place
}

// remove takes a value out, if place is one and it is still there. The caller holds the list's lock.
func (l *weakList[T]) remove(place *int) {
	if place == nil || *place == 0 {
		return
	}
	end := len(l.entries) - 1
	last := l.entries[end]
	l.entries[*place-1], *last.place = last, *place
	l.entries[end] = weakEntry[T]{}
	l.entries = l.entries[:end]
	*place = 0
}

// values returns the values that somebody else holds, and takes out the others. It takes the list's lock.
func (l *weakList[T]) values(mu *sync.Mutex) (values []*T) {
	mu.Lock()
	entries := slices.Clone(l.entries)
	mu.Unlock()
	var lost []*int
	for _, entry := range entries {
		if value := entry.value.Value(); value != nil {
			values = append(values, value)
		} else {
			lost = append(lost, entry.place)
		}
	}
	if len(lost) > 0 {
		mu.Lock()
		defer mu.Unlock()
		for _, place := range lost {
			l.remove(place)
		}
	}
	return values
}

// maxSeconds is how many second descriptors the process may keep.
var maxSeconds = sync.OnceValue(func() int {
	limit, err := system.descriptorLimit()
	if err != nil {
		return 64
	}
	return int(min(limit/8, 4096))
})

// withoutShortage calls open, and once more after second descriptors were given back if it fails
// for want of one.
func withoutShortage(open func() error) error {
	err := open()
	if err != nil && sysIsDescriptorShortage(err) && seconds.giveBack() {
		err = open()
	}
	return err
}

// bypassCache keeps what is read and written through the wrapped file out of the system's cache, where
// there is such a thing and the file offers its descriptor.
func (o *openFile) bypassCache() {
	switch o.file.(type) {
	case syscall.Conn, interface{ Fd() uintptr }:
		if d, err := o.findDescriptor(nil, false); err == nil {
			d.do(system.noCache)
		}
	}
}

// fdConn makes a syscall.RawConn of a file that offers only its number. The file's Close waits
// for fn, and after it fn is not called: the number may be another file's.
type fdConn struct {
	open *openFile
	fd   func() uintptr
}

func (c fdConn) Control(fn func(fd uintptr)) error {
	number := c.fd() // not under hold: it is others' code, which may wait for a Close
	return c.open.hold(func() error {
		fn(number)
		return nil
	})
}

func (c fdConn) Read(func(fd uintptr) bool) error { return errors.ErrUnsupported }

func (c fdConn) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// host is what the open files of one MemMapFS share.
type host struct {
	config   Config
	closed   atomic.Bool
	mute     atomic.Bool  // nothing is learnt of pages: see ageClock
	trial    atomic.Bool  // only from what is read
	mapped   atomic.Int64 // open files that were ever mapped
	counters counters
}

// counters are what Stats cannot derive. They are counted where a system call is made anyway.
type counters struct {
	_ [64]byte // no other data in their cache lines

	open                                                   atomic.Int64
	windowsDropped                                         atomic.Int64
	readsCold, readsPastEnd, readsUnmapped                 atomic.Int64
	writesCold, writesPastEnd, writesUnmapped, writesFlush atomic.Int64
	faults, flushes, flushErrors                           atomic.Int64
	notMapped                                              [refusalReasons]atomic.Int64

	_ [64]byte
}

// flushed counts a flush and passes its error on.
func (c *counters) flushed(err error) error {
	c.flushes.Add(1)
	if err != nil {
		c.flushErrors.Add(1)
	}
	return err
}

// registry knows the open files that others have to find.
type registry interface {
	// register enters the file, and reports false if it or its filesystem is closed.
	register() bool
}

// openFile is the wrapped file, and how it was opened.
type openFile struct {
	file     absfs.File
	host     *host
	registry registry
	flag     int

	known  atomic.Bool // to the registry
	closed atomic.Bool

	// Package os lets some calls race with Close, and then they fail in odd ways, and the
	// number of a closed descriptor may be another file's: see hold.
	closing  sync.Mutex  // held by such a call, and while the wrapped file is closed
	held     atomic.Bool // closing is needed
	finished atomic.Bool // the wrapped file is being closed, or was
}

const accessMode = os.O_RDONLY | os.O_WRONLY | os.O_RDWR

// understoodFlags are the open flags under which a file behaves as this package expects. What
// others mean (O_DIRECT, O_PATH) is left to the wrapped file: nothing is mapped then.
const understoodFlags = accessMode | os.O_APPEND | os.O_CREATE | os.O_EXCL | os.O_TRUNC | os.O_SYNC | sysHarmlessFlags

// statRacesClose says that Stat beside Close may describe another file.
const statRacesClose = runtime.GOOS == "windows"

// access returns how the file was opened: os.O_RDONLY, os.O_WRONLY or os.O_RDWR, or another
// value that means neither reading nor writing.
func (o *openFile) access() int { return o.flag & accessMode }

// isClosed reports whether the file or its filesystem was closed.
func (o *openFile) isClosed() bool { return o.closed.Load() || o.host.closed.Load() }

// stat describes the wrapped file.
func (o *openFile) stat() (info os.FileInfo, err error) {
	if !statRacesClose {
		return o.file.Stat()
	}
	err = o.hold(func() (err error) {
		info, err = o.file.Stat()
		return err
	})
	return info, err
}

// hold calls fn while the wrapped file is kept from being closed, or returns fs.ErrClosed. It
// sets held and then looks at finished; finish does it the other way round.
func (o *openFile) hold(fn func() error) error {
	o.held.Store(true)
	o.closing.Lock()
	defer o.closing.Unlock()
	if o.finished.Load() {
		return fs.ErrClosed
	}
	return fn()
}

// finish closes the wrapped file.
func (o *openFile) finish() error {
	o.finished.Store(true)
	if o.held.Load() {
		o.closing.Lock()
		defer o.closing.Unlock()
	}
	return o.file.Close()
}
