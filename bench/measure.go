package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// A row is one workload, done by several contestants.
type row struct {
	name  string
	goals goals
	// setup prepares files and returns who takes part. What it opens it hands to workspace.later.
	setup func(w *workspace) ([]contestant, error)

	// operations is how many make a turn; 0 leaves it to the time that they take.
	operations int

	detail bool // left out of the short table

	curve      string // of the chart to which the row belongs, if any
	workingSet int64  // and its place there
}

// goals are what a row is to reach. 0 is no goal.
type goals struct {
	better float64 // the least time of the better one, divided by that of memmapfs
	plain  float64 // the same of the plain file
	bare   float64 // the same of a slice of a bare map
	alike  string  // the rows of the same name take times within alikeSpread of one another
}

// alikeSpread is by how much the slowest of rows that are to be alike may be above the fastest.
const alikeSpread = 1.05

// betterOnes are the two that a program has the choice of without memmapfs: the plain file and a
// bare map. The better one is that of them which is faster in a row.
var betterOnes = []string{plain, expMmap, bareMap}

// A turn is what one contestant does before the next one's turn comes.
type turn struct {
	operations int
	number     uint64 // the same work for the same number
	check      bool   // look at all bytes and not just at some of each operation
}

type contestant struct {
	name string
	// work does a turn's operations and returns a sum over the bytes that it read, or has in the file
	// after it wrote: the same for all contestants.
	work func(t turn) (sum uint64, err error)

	before func() error         // if set, done before each turn, outside the measured time
	metric func() time.Duration // if set, what is measured in place of time
}

// pace says how long to measure.
type pace struct {
	rounds int
	turns  int           // of each contestant in a round
	length time.Duration // of a turn
}

// result is the outcome of a row.
type result struct {
	row        row
	skipped    error              // why there is none
	nanosecond map[string]float64 // per operation: the median over the rounds
	ratio      map[string]float64 // to the time of memmapfs in the same round: the median over the rounds
	share      float64            // the same of the better one; 0 if none takes part
}

// errSkip is wrapped by the errors of rows that cannot be measured here.
var errSkip = errors.New("skipped")

// measure has the contestants of a row take turns.
func measure(ctx context.Context, r row, w *workspace, p pace, report func(format string, arguments ...any)) (result, error) {
	report("setting up")
	defer w.closeLater()
	contestants, err := r.setup(w)
	if err != nil {
		return result{}, err
	}
	if err := compareSums(ctx, r, contestants); err != nil {
		return result{}, err
	}

	// The turns to find out how much work fills one are a warm-up, too.
	operations := make([]int, len(contestants))
	for i, c := range contestants {
		report("trying %s", c.name)
		var longest time.Duration
		if operations[i], longest, err = operationsFor(ctx, r, c, p.length); err != nil {
			return result{}, err
		}
		if longest > 10*p.length {
			p.turns = 1
		}
	}

	spent := make([][]float64, len(contestants)) // per round, in nanoseconds per operation
	number := uint64(0)
	for round := range p.rounds {
		totals := make([]float64, len(contestants))
		for range p.turns {
			number++
			order := rand.Perm(len(contestants))
			for i := range contestants {
				if ctx.Err() != nil {
					return result{}, ctx.Err()
				}
				place := order[i]
				report("round %d of %d: %s", round+1, p.rounds, contestants[place].name)
				elapsed, _, err := take(contestants[place], turn{operations: operations[place], number: number})
				if err != nil {
					return result{}, err
				}
				totals[place] += float64(elapsed.Nanoseconds())
			}
		}
		for i := range contestants {
			per := p.turns
			if contestants[i].metric == nil {
				per *= operations[i]
			}
			spent[i] = append(spent[i], totals[i]/float64(per))
		}
	}

	return summarize(r, contestants, spent), nil
}

// summarize makes the medians of a row from the times of its contestants in each round.
func summarize(r row, contestants []contestant, spent [][]float64) result {
	reference := slices.IndexFunc(contestants, func(c contestant) bool { return c.name == mapped })
	rounds := len(spent[reference])
	found := result{row: r, nanosecond: map[string]float64{}, ratio: map[string]float64{}}
	for i, c := range contestants {
		ratios := make([]float64, rounds)
		for round := range ratios {
			ratios[round] = spent[i][round] / spent[reference][round]
		}
		found.nanosecond[c.name] = median(spent[i])
		found.ratio[c.name] = median(ratios)
	}
	for _, name := range betterOnes {
		if ratio, ok := found.ratio[name]; ok && (found.share == 0 || ratio < found.share) {
			found.share = ratio
		}
	}
	return found
}

// take has a contestant do a turn and returns how long that took, or what is measured instead.
func take(c contestant, t turn) (elapsed time.Duration, sum uint64, err error) {
	if c.before != nil {
		if err := c.before(); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	start := time.Now()
	sum, err = c.work(t)
	elapsed = time.Since(start)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", c.name, err)
	}
	if c.metric != nil && !t.check {
		elapsed = c.metric()
	}
	return elapsed, sum, nil
}

// compareSums has each contestant do the same work, more of it as long as it is quick, and compares
// what they have read or written.
func compareSums(ctx context.Context, r row, contestants []contestant) error {
	for operations := 8; ; operations *= 8 {
		if r.operations > 0 {
			operations = r.operations
		}
		slowest, first := time.Duration(0), uint64(0)
		for i, c := range contestants {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			elapsed, sum, err := take(c, turn{operations: operations, check: true})
			if err != nil {
				return err
			}
			if i == 0 {
				first = sum
			} else if sum != first {
				return fmt.Errorf("%s and %s have not read or written the same: %x, %x", contestants[0].name, c.name, first, sum)
			}
			slowest = max(slowest, elapsed)
		}
		if r.operations > 0 || operations > 10_000 || slowest > 2*time.Millisecond {
			return nil
		}
	}
}

// operationsFor returns how many operations fill a turn of that length, and the longest turn seen.
func operationsFor(ctx context.Context, r row, c contestant, length time.Duration) (operations int, longest time.Duration, err error) {
	for operations = max(r.operations, 1); ctx.Err() == nil; {
		elapsed, _, err := take(c, turn{operations: operations})
		if err != nil {
			return 0, 0, err
		}
		longest = max(longest, elapsed)
		if r.operations > 0 || elapsed > length/2 {
			if r.operations == 0 {
				operations = max(1, int(float64(operations)*float64(length)/float64(elapsed)))
			}
			return operations, longest, nil
		}
		operations *= 2
	}
	return 0, 0, ctx.Err()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
