package memmapfs

import (
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/absfs/absfs"
)

// host is what the open files of one MemMapFS share.
type host struct {
	config   Config
	closed   atomic.Bool
	mute     atomic.Bool  // nothing is learnt of pages: see ageClock
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
