package memmapfs

import (
	"os"
	"sync/atomic"
)

// Stats are the numbers of a MemMapFS at one moment. Those of one field are exact, unless its comment says
// otherwise; two fields may be of moments that lie a little apart. It marshals to JSON, so that
// expvar.Func can publish it.
//
// Calls that a map served are not counted: counting would cost a good part of their time.
type Stats struct {
	// FilesOpen is the number of files opened and not closed. A handle that the program dropped
	// without Close stays counted.
	FilesOpen int64 `json:"filesOpen"`
	// FilesMapped is how many of them are mapped.
	FilesMapped int64 `json:"filesMapped"`
	// WindowsMapped is the number of maps in use: one for each file that is mapped as a whole, and one
	// for each window. A map made for one View, or kept only because Data has handed out its bytes,
	// is not counted.
	WindowsMapped int64 `json:"windowsMapped"`
	// BytesMapped is the size of these maps, in memory or not.
	BytesMapped int64 `json:"bytesMapped"`
	// WindowsDropped is the number of windows taken away for others since New: because
	// Config.MaxWindows was reached, or because the file had grown.
	WindowsDropped int64 `json:"windowsDropped"`

	// Reads that went to the wrapped file since New, in calls of its Read and ReadAt, by the reason.
	// That is the one for the first byte of the call, as it was just before.
	ReadsCold     int64 `json:"readsCold"`     // mapped, but not known to be in memory, or so long that the file is faster
	ReadsPastEnd  int64 `json:"readsPastEnd"`  // past the end of the file as the map knows it
	ReadsUnmapped int64 `json:"readsUnmapped"` // not mapped: the file cannot be, or no map has paid yet

	// Writes that went to the wrapped file since New, in calls of its Write and WriteAt, by the reason.
	WritesCold     int64 `json:"writesCold"`     // the first to a page since it was mapped, flushed by age or punched out
	WritesPastEnd  int64 `json:"writesPastEnd"`  // growth, and all of O_APPEND
	WritesUnmapped int64 `json:"writesUnmapped"` // not mapped, or not so that it can be stored to
	WritesFlushed  int64 `json:"writesFlushed"`  // a flush follows each: SyncImmediate, O_SYNC

	// Faults is the number of faults in mapped memory caught since New. One that Close caused is none.
	Faults int64 `json:"faults"`
	// Flushes is the number of flushes begun since New, of a file or a mapped range of it: asked for, after a
	// write, in the background and at Close.
	Flushes int64 `json:"flushes"`
	// FlushErrors is how many of them have failed.
	FlushErrors int64 `json:"flushErrors"`
}

// counters are what Stats cannot derive. They are counted where a system call is made anyway.
type counters struct {
	_ [64]byte // no other data in their cache lines

	open                                                   atomic.Int64
	windowsDropped                                         atomic.Int64
	readsCold, readsPastEnd, readsUnmapped                 atomic.Int64
	writesCold, writesPastEnd, writesUnmapped, writesFlush atomic.Int64
	faults, flushes, flushErrors                           atomic.Int64

	_ [64]byte
}

// Stats returns the numbers of this moment. It waits for nothing and may be called at any time, also after
// Close.
func (mfs *MemMapFS) Stats() Stats {
	c := mfs.counters
	s := Stats{
		FilesOpen:      c.open.Load(),
		WindowsDropped: c.windowsDropped.Load(),
		ReadsCold:      c.readsCold.Load(),
		ReadsPastEnd:   c.readsPastEnd.Load(),
		ReadsUnmapped:  c.readsUnmapped.Load(),
		WritesCold:     c.writesCold.Load(),
		WritesPastEnd:  c.writesPastEnd.Load(),
		WritesUnmapped: c.writesUnmapped.Load(),
		WritesFlushed:  c.writesFlush.Load(),
		Faults:         c.faults.Load(),
		Flushes:        c.flushes.Load(),
		FlushErrors:    c.flushErrors.Load(),
	}
	for _, f := range mfs.files() {
		windows, bytes := f.windows.inUse()
		s.WindowsMapped += windows
		s.BytesMapped += bytes
		if windows > 0 {
			s.FilesMapped++
		}
	}
	return s
}

// inUse counts the mappings that lookups find, without a lock: one may be held for as long as the disk takes.
func (w *windows) inUse() (count, bytes int64) {
	if m := w.whole.Load(); m != nil {
		return 1, int64(len(m.data))
	}
	buckets := w.buckets.Load()
	if buckets == nil {
		return 0, 0
	}
	for i := range *buckets {
		if list := (*buckets)[i].Load(); list != nil {
			for _, m := range *list {
				count++
				bytes += int64(len(m.data))
			}
		}
	}
	return count, bytes
}

// countRead counts a read at off that goes to the file.
func (f *MappedFile) countRead(off int64) {
	c := f.mfs.counters
	switch m := f.windows.at(off); {
	case m == nil:
		c.readsUnmapped.Add(1)
	case !m.holds(off):
		c.readsPastEnd.Add(1)
	default:
		c.readsCold.Add(1)
	}
}

// countWrite counts a write at off that goes to the file.
func (f *MappedFile) countWrite(off int64) {
	c := f.mfs.counters
	m := f.windows.at(off)
	switch {
	case f.flag&os.O_SYNC != 0 || f.mfs.config.SyncMode == SyncImmediate:
		c.writesFlush.Add(1)
	case m == nil || !m.writable:
		c.writesUnmapped.Add(1)
	case !m.holds(off):
		c.writesPastEnd.Add(1)
	default:
		c.writesCold.Add(1)
	}
}

// flushed counts a flush and passes its error on.
func (c *counters) flushed(err error) error {
	c.flushes.Add(1)
	if err != nil {
		c.flushErrors.Add(1)
	}
	return err
}
