package memmapfs

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Maps and addresses belong to the process, and the Go runtime needs them too: it dies where a
// map fails. So all maps of this package together (live ones, those that wait for the
// collector, those in quarantine) stay below half of what the system allows a process, and
// their addresses below a quarter.

// addressBudget counts what the maps of the process take. All its methods may be called at the
// same time.
type addressBudget struct {
	limits func() (ranges, bytes int64)

	ranges, bytes               atomic.Int64 // of all
	waitingRanges, waitingBytes atomic.Int64 // of revoked ones that wait for the collector
	collecting                  atomic.Bool  // a collection for their sake is under way

	reclaiming sync.Mutex    // held by reclaim; guards vain; only quarantine.mu is taken under it
	vain       time.Duration // when a collection last gave nothing back, since processStart; 0: the last one did
}

var budget = addressBudget{limits: sync.OnceValues(budgetLimits)}

// On a processor of 32 bits the addresses are the limit, whatever the system says.
const maxBytes32 = 1 << 30

// usualMapLimit is what vm.max_map_count is where nobody has set it.
const usualMapLimit = 65530

// budgetLimits asks the system for its limits.
func budgetLimits() (ranges, bytes int64) {
	ranges, bytes = math.MaxInt64, math.MaxInt64
	if n, err := system.mapLimit(); err == nil {
		ranges = max(n/2, 16)
	} else if !errors.Is(err, errors.ErrUnsupported) {
		ranges = usualMapLimit / 2 // there is one, which cannot be asked for at this moment: out of descriptors, or no /proc
	}
	if n, err := system.addressLimit(); err == nil {
		bytes = n / 4
	}
	if math.MaxInt == math.MaxInt32 {
		bytes = min(bytes, maxBytes32)
	}
	return ranges, bytes
}

// overBudget is errOverBudget that says which limit it was. It matches the system's shortage.
type overBudget struct{ limit, setting string }

func (e overBudget) Error() string {
	return fmt.Sprintf("%v: %s is reached, see %s", errOverBudget, e.limit, e.setting)
}

func (e overBudget) Is(target error) bool { return target == errOverBudget || target == syscall.ENOMEM }

// take reserves one map of n bytes, or fails with an overBudget.
func (b *addressBudget) take(n int64) error {
	maxRanges, maxBytes := b.limits()
	if b.ranges.Add(1) > maxRanges {
		b.ranges.Add(-1)
		return overBudget{"half of the maps that the system allows", "vm.max_map_count"}
	}
	if b.bytes.Add(n) > maxBytes {
		b.ranges.Add(-1)
		b.bytes.Add(-n)
		return overBudget{"a quarter of the address space", "RLIMIT_AS, ulimit -v"}
	}
	return nil
}

// cut reserves n more maps for pieces of one that was taken, or gives them back if n is negative.
func (b *addressBudget) cut(n int64) error {
	maxRanges, _ := b.limits()
	if b.ranges.Add(n) > maxRanges && n > 0 {
		b.ranges.Add(-n)
		return overBudget{"half of the maps that the system allows", "vm.max_map_count"}
	}
	return nil
}

// give returns what take reserved.
func (b *addressBudget) give(n int64) {
	b.ranges.Add(-1)
	b.bytes.Add(-n)
}

// Revoked addresses wait for the garbage collector. So that a program that makes little
// garbage does not fill its address space, or its table of maps, a collection is started in
// the background each time this much is waiting, or an eighth of the budget.
const (
	maxWaitingBytes  = 1 << (26 + 14*(^uint(0)>>63)) // 1 TiB, or 64 MiB where addresses have 32 bits
	maxWaitingRanges = 4096
)

// wait takes note that n bytes of revoked addresses wait for the collector.
func (b *addressBudget) wait(n int64) {
	bytes, ranges := b.waitingBytes.Add(n), b.waitingRanges.Add(1)
	maxRanges, maxBytes := b.limits()
	if bytes > min(maxWaitingBytes, maxBytes/8) || ranges > min(maxWaitingRanges, maxRanges/8) {
		b.collect()
	}
}

// waited takes note that they wait no longer.
func (b *addressBudget) waited(n int64) {
	b.waitingBytes.Add(-n)
	b.waitingRanges.Add(-1)
}

// collect has the garbage collector run once, in the background, unless it does so already.
func (b *addressBudget) collect() {
	if b.collecting.CompareAndSwap(false, true) {
		go func() {
			runtime.GC()
			b.collecting.Store(false)
		}()
	}
}

// reclaimBehind is reclaim in the background, for calls that go on through the file.
func (b *addressBudget) reclaimBehind() {
	if b.collecting.CompareAndSwap(false, true) {
		go func() {
			b.reclaim()
			b.collecting.Store(false)
		}()
	}
}

// reclaimPause is the least time after a collection in vain before the next one for a shortage: it
// would be in vain, too, and costs every goroutine of the program.
const reclaimPause = 100 * time.Millisecond

// reclaim gives addresses back because there is a shortage of them: those in quarantine, and
// those that wait for the collector, for which it waits for a moment.
func (b *addressBudget) reclaim() {
	quarantine.empty()
	b.reclaiming.Lock()
	defer b.reclaiming.Unlock()
	waiting := b.waitingRanges.Load()
	if waiting == 0 || b.vain != 0 && time.Since(processStart)-b.vain < reclaimPause {
		return
	}
	runtime.GC()
	// The cleanups run in a goroutine of the runtime's.
	for range 100 {
		if b.waitingRanges.Load() < (waiting+1)/2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	quarantine.empty() // what has come there meanwhile
	b.vain = 0
	if b.waitingRanges.Load() >= waiting {
		b.vain = time.Since(processStart)
	}
}

// quarantine keeps the addresses of closed maps whose bytes were handed out by Data, the last
// ones, up to maxQuarantinedBytes or an eighth of the budget.
var quarantine addressQuarantine

const (
	maxQuarantinedBytes  = 1 << (27 + 17*(^uint(0)>>63)) // 16 TiB, or 128 MiB where addresses have 32 bits
	maxQuarantinedRanges = 8192
)

// addressQuarantine holds addresses as numbers: as pointers the collector would follow them,
// into whatever has these addresses later.
type addressQuarantine struct {
	mu     sync.Mutex // guards the fields below; no lock is taken under it
	ranges []addresses
	bytes  int64
}

// addresses are a range of memory.
type addresses struct{ start, length uintptr }

func (q *addressQuarantine) add(a addresses) {
	maxRanges, maxBytes := budget.limits()
	maxRanges, maxBytes = min(maxQuarantinedRanges, maxRanges/8), min(maxQuarantinedBytes, maxBytes/8)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ranges = append(q.ranges, a)
	q.bytes += int64(a.length)
	for len(q.ranges) > 0 && (q.bytes > maxBytes || int64(len(q.ranges)) > maxRanges) {
		q.releaseOldestLocked()
	}
}

// empty gives all addresses back.
func (q *addressQuarantine) empty() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ranges) > 0 {
		q.releaseOldestLocked()
	}
}

func (q *addressQuarantine) releaseOldestLocked() {
	oldest := q.ranges[0]
	q.ranges = q.ranges[1:]
	q.bytes -= int64(oldest.length)
	system.unmap(bytesAt(oldest.start, oldest.length))
	budget.give(int64(oldest.length))
}

// costs are what this machine takes for what a map costs and saves, in nanoseconds, measured while the
// program runs.
var costs machineCosts

type machineCosts struct {
	call   movingCost // a short read or write through a file, of what is in memory
	touch  movingCost // the first touch of a page of a map that is in memory
	make   movingCost // making a map, and finding out whether it may be made
	revoke movingCost // taking it away
	unmap  movingCost // giving its addresses back, later
}

func init() {
	// Until something was measured a touch is worth a call.
	costs.call.value.Store(500)
	costs.touch.value.Store(unmeasuredTouch)
	costs.make.value.Store(unmeasuredMap)
}

// What a map and the first touch of a page are taken to cost, in nanoseconds, until a few were measured.
const (
	unmeasuredMap   = 10_000
	unmeasuredTouch = 500
)

// longestTimedMap is the length of the longest map of which the end is timed, in bytes: how long it takes grows
// with the pages that were touched, and what those of a large map have saved is much more.
const longestTimedMap = 4 << 20

// mapping returns the cost of a map.
func (c *machineCosts) mapping() int64 {
	return c.make.believed(unmeasuredMap) + c.revoke.believed(unmeasuredMap) + c.unmap.believed(unmeasuredMap)
}

// touchesAreDear reports whether a first touch costs more than a call.
func (c *machineCosts) touchesAreDear() bool { return c.touch.load() > c.call.load() }

// touchInCalls returns how many calls cost as much as a first touch, at least one.
func (c *machineCosts) touchInCalls() int64 {
	call := max(c.call.load(), 1)
	return (c.touch.load() + call - 1) / call
}

// movingCost is a moving average of what something costs when nothing holds it up: it falls fast and rises so
// slowly that it stays near the least even if four of five are held up, because a call may have waited for a disk,
// and a thread for a processor. Of the first few measurements the least counts.
type movingCost struct {
	value   atomic.Int64 // nanoseconds
	asked   atomic.Int64
	samples atomic.Int64
	passed  atomic.Int64 // times that it was found too dear
}

const (
	firstSamples = 4
	samplesEvery = 64
	trialsEvery  = 512
)

func (c *movingCost) load() int64 { return c.value.Load() }

// believed is load, but no more than usual until a few were measured: one that was held up does not keep others
// from being done, and measured. It would be believed for ever.
func (c *movingCost) believed(usual int64) int64 {
	cost := c.load()
	if c.samples.Load() < firstSamples {
		return min(cost, usual)
	}
	return cost
}

// wantsSample reports whether to measure the next one: the first few, and then one in 64.
func (c *movingCost) wantsSample() bool {
	n := c.asked.Add(1)
	return n <= firstSamples || n%samplesEvery == 0
}

// wantsTrial reports whether to do once what is found too dear, and measure it: that it is dear would
// otherwise be believed for ever, because nothing is measured that is not done.
func (c *movingCost) wantsTrial() bool {
	return c.passed.Add(1)%trialsEvery == 0 || c.samples.Load() < firstSamples
}

// note takes note of one measurement.
func (c *movingCost) note(took time.Duration) {
	newest := max(int64(took), 1)
	old := c.value.Load()
	switch n := c.samples.Add(1); {
	case n == 1, n <= firstSamples && newest < old:
	case newest < old:
		newest = old + (newest-old)/2
	default:
		newest = old + max((min(newest, 4*old)-old)/64, 1)
	}
	c.value.Store(newest)
}
