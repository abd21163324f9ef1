package memmapfs

import (
	"sync/atomic"
	"time"
)

// demand tells when a map will pay, from the calls that went to the wrapped file so far.
//
// What a map saves is a system call, for each call. What it costs is to make it, and a page
// fault for each 64 KiB or so that is touched the first time. So it pays after some short
// calls; for long ones, only when the file is read or written over and over.
type demand struct {
	calls      atomic.Int64 // short ones
	bytes      atomic.Int64 // of long ones
	callsToAdd atomic.Int64 // to callsBeforeMap: so many calls have a map tried
	bytesToAdd atomic.Int64 // to bytesBeforeSize
}

const (
	longCall          = 8 << 10 // bytes, from which on a call is long
	callsBeforeMap    = 16
	callsBeforeWindow = 8
	bytesBeforeSize   = 1 << 20 // of long calls, before the file is asked for its size
)

// note counts a call of n bytes.
func (d *demand) note(n int) {
	if n < longCall {
		d.calls.Add(1)
	} else {
		d.bytes.Add(int64(n))
	}
}

func (d *demand) due() bool {
	return d.callsDue() || d.bytes.Load() >= d.bytesToAdd.Load()+bytesBeforeSize
}

func (d *demand) callsDue() bool { return d.calls.Load() >= d.callsToAdd.Load()+callsBeforeMap }

// postpone has the next map tried after so many more calls, or after size more bytes.
func (d *demand) postpone(calls, size int64) {
	d.callsToAdd.Store(d.calls.Load() + calls - callsBeforeMap)
	d.bytesToAdd.Store(d.bytes.Load() + size - bytesBeforeSize)
}

// longReads chooses for reads of timedRead bytes and more. There a map saves no system calls
// worth mentioning, and which way is faster depends on the processor (its misses of page
// translations) and on how large the pages in the cache are. So now and then both are timed.
type longReads struct {
	calls   atomic.Uint32
	viaMap  atomic.Int64 // nanoseconds per MiB, moving averages; 0 is not known
	viaFile atomic.Int64
}

const (
	timedRead      = 128 << 10 // bytes
	callsPerTiming = 16        // in so many, one each way is timed
	weightOfNewest = 4         // one part in so many of a moving average
)

// choose says whether to read through the map, and whether to time it and note that.
func (l *longReads) choose() (viaMap, timed bool) {
	mapTime, fileTime := l.viaMap.Load(), l.viaFile.Load()
	switch {
	case mapTime == 0:
		return true, true
	case fileTime == 0:
		return false, true
	}
	faster := mapTime <= fileTime
	switch l.calls.Add(1) % callsPerTiming {
	case 0:
		return !faster, true
	case callsPerTiming / 2:
		return faster, true
	}
	return faster, false
}

// note takes note that reading n bytes through the map, or else through the file, took so long.
func (l *longReads) note(viaMap bool, n int, took time.Duration) {
	average := &l.viaFile
	if viaMap {
		average = &l.viaMap
	}
	newest := max(int64(took)<<20/int64(n), 1)
	if old := average.Load(); old != 0 {
		newest = old + (min(newest, 2*old)-old)/weightOfNewest // at most twice: the thread may have waited
	}
	average.Store(max(newest, 1))
}
