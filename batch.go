package memmapfs

import (
	"io"
	"io/fs"
	"runtime"
	"unsafe"
)

// ReadRequest is one read of a batch: P is filled from Off; N and Err are what ReadAt would have
// returned.
type ReadRequest struct {
	P   []byte
	Off int64
	N   int
	Err error
}

// batchPart is how many reads of a batch are looked up and copied at a time. They are kept on the
// stack.
const batchPart = 64

// ReadBatch does all reads of the batch, each with ReadAt's result in its N and Err, and returns
// the first Err other than io.EOF. It is ReadAt for each, one after the other, but cheaper: what is
// mapped and in memory is copied under one guard, and of what is not the system is asked to begin
// reading all at once, before the first is waited for.
//
// No order is promised between the reads: buffers that overlap hold one or the other. It allocates
// nothing and may be called from many goroutines, with batches of their own.
func (f *MappedFile) ReadBatch(batch []ReadRequest) error {
	if f.maps.isClosed() {
		for i := range batch {
			batch[i].N, batch[i].Err = f.ReadAt(batch[i].P, batch[i].Off)
		}
		return f.wrap("read", fs.ErrClosed)
	}
	for rest := batch; len(rest) > 0; {
		part := rest[:min(len(rest), batchPart)]
		rest = rest[len(part):]
		f.readBatchPart(part)
	}
	for i := range batch {
		if err := batch[i].Err; err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// readBatchPart is ReadBatch for few reads.
func (f *MappedFile) readBatchPart(part []ReadRequest) {
	var hot [batchPart]bool
	f.maps.readBatchHot(part, &hot)
	if sysReadsAhead {
		f.maps.readBatchAhead(part, &hot)
	}
	for i := range part {
		if r := &part[i]; !hot[i] {
			r.N, r.Err = f.ReadAt(r.P, r.Off)
		}
	}
}

// readBatchHot does the reads that one mapping each can serve, and marks them.
func (f *fileMaps) readBatchHot(part []ReadRequest, hot *[batchPart]bool) {
	if !sysRevokesInPlace {
		return
	}
	var copies [batchPart]guardedCopy
	var from [batchPart]struct {
		m *mapping
		i int
	}
	n := 0
	for i := range part {
		r := &part[i]
		if m, start := f.hotRange(r.P, r.Off); m != nil {
			copies[n] = guardedCopy{unsafe.Pointer(unsafe.SliceData(r.P)), m.pointer(start), len(r.P)}
			from[n].m, from[n].i = m, i
			n++
		}
	}
	done, _ := copyAllGuarded(copies[:n]) // what a fault has left is read one by one
	for k := range done {
		r, m := &part[from[k].i], from[k].m
		if m.proves(r.P, r.Off-m.offset+int64(len(r.P))) {
			r.N, r.Err, hot[from[k].i] = len(r.P), nil, true
		}
	}
	runtime.KeepAlive(&from) // the maps' addresses are not given back before
}

// hotRange returns the mapping that can serve a read, and where its bytes start there, or nil.
func (f *fileMaps) hotRange(p []byte, off int64) (m *mapping, start int64) {
	m = f.windows.at(off)
	if m == nil || len(p) == 0 || len(p) >= timedRead {
		return nil, 0
	}
	start, ok := m.span(off, len(p))
	if !ok {
		return nil, 0
	}
	if first, last := pageSpan(start, len(p)); !m.knows(first, last) {
		return nil, 0
	}
	return m, start
}

// readBatchAhead has the system begin to read what the other reads will want, if that is more than one.
func (f *fileMaps) readBatchAhead(part []ReadRequest, hot *[batchPart]bool) {
	cold := 0
	for i := range part {
		if !hot[i] && len(part[i].P) > 0 && part[i].Off >= 0 {
			cold++
		}
	}
	d := f.descriptor.Load()
	if cold < 2 || d == nil {
		return
	}
	d.do(func(fd uintptr) error {
		for i := range part {
			if !hot[i] && len(part[i].P) > 0 && part[i].Off >= 0 {
				if err := system.readAhead(fd, part[i].Off, int64(len(part[i].P))); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
