package memmapfs

import (
	"sync/atomic"
	"time"
)

// costs are what this machine takes for what a map costs and saves, in nanoseconds, measured while the
// program runs.
var costs machineCosts

type machineCosts struct {
	call   movingCost // a short read or write through a file, of what is in memory
	touch  movingCost // the first touch of a page of a map that is in memory
	make   movingCost // making a map
	revoke movingCost // taking it away
}

func init() {
	// Until something was measured a touch is worth a call.
	costs.call.value.Store(500)
	costs.touch.value.Store(500)
	costs.make.value.Store(6_000)
	costs.revoke.value.Store(4_000)
}

// mapping returns the cost of a map.
func (c *machineCosts) mapping() int64 { return c.make.load() + c.revoke.load() }

// touchesAreDear reports whether a first touch costs more than a call.
func (c *machineCosts) touchesAreDear() bool { return c.touch.load() > c.call.load() }

// movingCost is a moving average of what something costs when nothing holds it up: it falls fast and
// rises slowly, because a call may have waited for a disk, and a thread for a processor.
type movingCost struct {
	value   atomic.Int64 // nanoseconds
	asked   atomic.Int64
	samples atomic.Int64
}

func (c *movingCost) load() int64 { return c.value.Load() }

// wantsSample reports whether to measure the next one: the first few, and then one in 64.
func (c *movingCost) wantsSample() bool {
	n := c.asked.Add(1)
	return n <= 4 || n%64 == 0
}

// note takes note of one measurement.
func (c *movingCost) note(took time.Duration) {
	newest := max(int64(took), 1)
	old := c.value.Load()
	switch n := c.samples.Add(1); {
	case n == 1:
	case newest < old:
		newest = old + (newest-old)/2
	default:
		newest = old + max((min(newest, 4*old)-old)/8, 1)
	}
	c.value.Store(newest)
}
