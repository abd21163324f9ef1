package memmapfs

import (
	"sync/atomic"
	"time"
)

// demand tells when a map will pay, from the calls that went to the wrapped file so far.
//
// What a map saves is a system call, for each call. What it costs is to make it and to take it away,
// and a page fault for each part that is touched the first time (touchBytes). Both differ by a factor
// of 50 between machines, so both are measured (costs). A map is made when the calls so far have cost
// as much as it costs: then the two together are never more than twice the better way. For long
// calls it pays only when the file is read or written over and over.
type demand struct {
	calls    atomic.Int64
	spent    atomic.Int64 // nanoseconds, on what a map would have saved of these calls, by estimate
	bytes    atomic.Int64 // of these calls
	spentDue atomic.Int64 // when so much was spent a map is tried; 0 stands for the cost of a first map
	bytesDue atomic.Int64 // or when so many bytes were read and bytesBeforeSize more
	touches  atomic.Int64 // first touches of maps made by demand that were dear
	inVain   atomic.Int32 // questions about pages, one after the other, that told of none in memory
}

const (
	bytesBeforeSize  = 1 << 20 // of calls, before the file is asked for its size
	callsPerWindow   = 8       // in so many calls one that misses a window looks for what to do
	callsBeforeTrial = 16      // of a file, before a map of it is tried that is not due
	mapTrialsEvery   = 2048    // one call in so many tries one
)

// note counts a call of n bytes, and says whether to time it. A call that is as long as what one page
// fault maps saves nothing when it touches a map the first time; shorter ones save a part.
func (d *demand) note(n int) (timed bool) {
	if n < touchBytes {
		d.spent.Add(costs.call.load() * int64(touchBytes-n) / touchBytes)
	}
	d.bytes.Add(int64(n))
	return d.calls.Add(1)%callsPerTiming == 1 && n <= longestTimedCall
}

func (d *demand) due() bool {
	return d.callsDue() || d.bytes.Load() >= d.bytesDue.Load()+bytesBeforeSize
}

// callsDue reports whether it is short calls that a map would pay for.
func (d *demand) callsDue() bool {
	spent, due := d.spent.Load(), d.spentDue.Load()
	if due == 0 {
		due = firstMapCost()
		if spent < due && d.calls.Load() >= callsBeforeTrial && costs.make.passed.Add(1)%mapTrialsEvery == 0 {
			// Of files that are open for a short while each no map might ever be made, nor measured, again.
			d.spentDue.CompareAndSwap(0, spent)
			return true
		}
	}
	return spent >= due
}

// firstMapCost returns the cost of a map with the first touches that follow, in nanoseconds.
func firstMapCost() int64 { return costs.mapping() + freeTouches*costs.touch.believed(unmeasuredTouch) }

// postpone has the next map tried after so many nanoseconds more, or after so many bytes.
func (d *demand) postpone(spent, bytes int64) {
	d.spentDue.Store(d.spent.Load() + max(spent, 1))
	d.bytesDue.Store(d.bytes.Load() + bytes - bytesBeforeSize)
}

// postponeTwice has it tried when as much as so far was spent, or read, again.
func (d *demand) postponeTwice() {
	d.postpone(max(d.spent.Load(), firstMapCost()), max(d.bytes.Load(), bytesBeforeSize))
}

// postponeWindow has the next window looked for soon.
func (d *demand) postponeWindow() {
	d.postpone(callsPerWindow*costs.call.load(), callsPerWindow*touchBytes)
}

// Where a first touch costs more than a call, one that nobody has asked for by name has to be worth it:
// a part of the map is touched when its pages are read again and again, or so many of them once that as many
// more would pay for it, and for all of the file no more goes into touches than freeTouches and a share of what
// went into calls. So if all touches are in vain, the calls have become dearer by that share.
const (
	freeTouches = 16
	touchShare  = 6 // one part in so many
)

// affordsTouch reports whether a first touch may be paid for, and pays.
func (d *demand) affordsTouch() bool {
	if d.touches.Load() >= freeTouches+d.spent.Load()/touchShare/costs.touch.load() {
		return false
	}
	d.touches.Add(1)
	return true
}

// mostInVain bounds by how much questions in vain grow dearer: they then take a sixty-fourth of the time of calls.
const mostInVain = 5

// forQuestions returns how many nanoseconds may go into questions about which pages are in memory, when so many
// went into them already: half of what calls took.
func (d *demand) forQuestions(spent int64) int64 { return d.calls.Load()*costs.call.load()/2 - spent }

// priceQuestion returns what a question that took so long counts as: what it took, or twice as much for each of
// the last ones that told of no page in memory. Of a file that is cold hardly anything is asked any more.
func (d *demand) priceQuestion(took time.Duration, told bool) int64 {
	if told {
		d.inVain.Store(0)
		return int64(took)
	}
	return int64(took) << min(d.inVain.Add(1), mostInVain)
}

// longReads chooses for reads of timedRead bytes and more. There a map saves no system calls
// worth mentioning, and which way is faster depends on the processor (its misses of page
// translations) and on how large the pages in the cache are. So now and then both are timed, and
// the more seldom the more often that has confirmed that the map is faster. That it is slower may be
// first touches, of which each such read makes the next ones fewer.
type longReads struct {
	calls   atomic.Uint32
	period  atomic.Uint32 // in so many calls both are timed; 0 stands for callsPerTiming
	viaMap  atomic.Int64  // nanoseconds per MiB, moving averages; 0 is not known
	viaFile atomic.Int64
}

const (
	timedRead        = 64 << 10 // bytes
	longestTimedCall = 4 << 10  // bytes, of a call that tells what calls cost
	callsPerTiming   = 16       // in so many, one is timed, or one each way
	mostPerTiming    = 1024     // or in so many where the map is faster all the time
	weightOfNewest   = 4        // one part in so many of a moving average
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
	faster, period := mapTime <= fileTime, max(l.period.Load(), callsPerTiming)
	switch l.calls.Add(1) % period {
	case 0:
		return !faster, true
	case period / 2:
		return faster, true
	}
	return faster, false
}

// note takes note that reading n bytes through the map, or else through the file, took so long.
func (l *longReads) note(viaMap bool, n int, took time.Duration) {
	mapTime, fileTime := l.viaMap.Load(), l.viaFile.Load()
	chosen := mapTime <= fileTime
	average, now := &l.viaFile, &fileTime
	if viaMap {
		average, now = &l.viaMap, &mapTime
	}
	newest := max(int64(took)<<20/int64(n), 1)
	if old := *now; old != 0 {
		newest = old + (min(newest, 2*old)-old)/weightOfNewest // at most twice: the thread may have waited
	}
	*now = max(newest, 1)
	average.Store(*now)
	switch period := max(l.period.Load(), callsPerTiming); {
	case mapTime > fileTime:
		l.period.Store(callsPerTiming)
	case chosen && !viaMap:
		l.period.Store(min(2*period, mostPerTiming))
	}
}
