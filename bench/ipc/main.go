// Command ipc measures two processes on one machine that send each other messages: through a
// ring in shared memory (by looking again and again, and by sleeping), a pipe, a Unix socket, and
// TCP over the loopback interface. The second process is the same program run again.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

var (
	roundsFlag = flag.Int("rounds", 7, "rounds; the table has their medians")
	turnFlag   = flag.Duration("turn", 300*time.Millisecond, "time of one measurement in one round")
)

const (
	small = 64
	large = 64 << 10
)

func main() {
	flag.Parse()
	if served, err := servePeer(); served {
		exitOn(err)
		return
	}
	results, err := measure(*roundsFlag, *turnFlag)
	exitOn(err)
	printTable(os.Stdout, results)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// result is what one kind of channel has done in the rounds.
type result struct {
	kind       string
	roundTrip  []float64 // median of a round, in nanoseconds
	slowest    []float64 // 99 % of the round trips of a round took less, in nanoseconds
	messages   []float64 // small ones per second, in one direction
	throughput []float64 // MiB per second in large messages, in one direction
	idle       []float64 // processor time of the other process while nothing happens, in percent
}

// measure lets the kinds of channel take turns, so that what slows the machine down for a while
// slows all of them.
func measure(rounds int, turn time.Duration) ([]*result, error) {
	results := make([]*result, len(kinds))
	for i, kind := range kinds {
		results[i] = &result{kind: kind}
	}
	for round := -1; round < rounds; round++ { // the first one only warms up
		for _, result := range results {
			if err := result.measure(turn, round >= 0); err != nil {
				return nil, fmt.Errorf("%s: %w", result.kind, err)
			}
		}
	}
	return results, nil
}

// measure is one turn, with a process of its own.
func (r *result) measure(turn time.Duration, counts bool) error {
	channel, err := openChannel(r.kind)
	if err != nil {
		return err
	}
	defer channel.Close()
	trips, err := roundTrips(channel, turn)
	if err != nil {
		return err
	}
	slices.Sort(trips)
	messages, err := oneWay(channel, small, turn)
	if err != nil {
		return err
	}
	large, err := oneWay(channel, large, turn)
	if err != nil {
		return err
	}
	idle, err := idleTime(channel, turn)
	if err != nil {
		return err
	}
	if counts {
		r.idle = append(r.idle, idle)
		r.roundTrip = append(r.roundTrip, trips[len(trips)/2])
		r.slowest = append(r.slowest, trips[len(trips)*99/100])
		r.messages = append(r.messages, messages/small)
		r.throughput = append(r.throughput, large/(1<<20))
	}
	return channel.Close()
}

// roundTrips returns the times of as many round trips of a small message as there is time for.
func roundTrips(channel io.ReadWriter, turn time.Duration) (trips []float64, err error) {
	const batch = 1000
	message := make([]byte, small)
	for start := time.Now(); time.Since(start) < turn; {
		if err := order(channel, orderEcho, batch, small); err != nil {
			return nil, err
		}
		for range batch {
			binary.LittleEndian.PutUint64(message, uint64(len(trips)))
			before := time.Now()
			if _, err := channel.Write(message); err != nil {
				return nil, err
			}
			if _, err := io.ReadFull(channel, message); err != nil {
				return nil, err
			}
			trips = append(trips, float64(time.Since(before).Nanoseconds()))
			if got := binary.LittleEndian.Uint64(message); got != uint64(len(trips)-1) {
				return nil, fmt.Errorf("sent message %d, got %d back", len(trips)-1, got)
			}
		}
	}
	return trips, nil
}

// oneWay returns how many bytes per second the peer has got in messages of that size.
func oneWay(channel io.ReadWriter, size int, turn time.Duration) (perSecond float64, err error) {
	message, answer := make([]byte, size), make([]byte, 8)
	count, sent := 1, 0
	start := time.Now()
	for time.Since(start) < turn {
		if err := order(channel, orderTake, count, size); err != nil {
			return 0, err
		}
		for i := range count {
			binary.LittleEndian.PutUint64(message, uint64(i))
			if _, err := channel.Write(message); err != nil {
				return 0, err
			}
		}
		if _, err := io.ReadFull(channel, answer); err != nil { // all of them have arrived
			return 0, err
		}
		if got := binary.LittleEndian.Uint64(answer); got != uint64(count) {
			return 0, fmt.Errorf("the peer got %d messages in order, want %d", got, count)
		}
		sent += count
		count = min(2*count, 100_000)
	}
	return float64(sent) * float64(size) / time.Since(start).Seconds(), nil
}

// idleTime returns the part of the time, in percent, for which the peer uses a processor while
// it waits for a message that does not come.
func idleTime(channel io.ReadWriter, turn time.Duration) (percent float64, err error) {
	used := func() (uint64, error) {
		answer := make([]byte, 8)
		if err := order(channel, orderUsed, 0, 0); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(channel, answer)
		return binary.LittleEndian.Uint64(answer), err
	}
	before, err := used()
	if err != nil {
		return 0, err
	}
	const turns = 3 // the questions take their time, too
	time.Sleep(turns * turn)
	after, err := used()
	return float64(after-before) / float64(turns*turn.Nanoseconds()) * 100, err
}

// An order tells the peer what to do with the messages that follow.
const (
	orderEcho = iota // send each back
	orderTake        // say at the end how many came in the right order
	orderUsed        // say how much processor time it has used, in nanoseconds
)

func order(w io.Writer, what, count, size int) error {
	var p [24]byte
	binary.LittleEndian.PutUint64(p[0:], uint64(what))
	binary.LittleEndian.PutUint64(p[8:], uint64(count))
	binary.LittleEndian.PutUint64(p[16:], uint64(size))
	_, err := w.Write(p[:])
	return err
}

// obey does what the orders say until the channel ends.
func obey(channel io.ReadWriter) error {
	var p [24]byte
	message := make([]byte, large)
	for {
		if _, err := io.ReadFull(channel, p[:]); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		what, count, size := binary.LittleEndian.Uint64(p[0:]), binary.LittleEndian.Uint64(p[8:]), binary.LittleEndian.Uint64(p[16:])
		inOrder := uint64(0)
		for i := range count {
			if _, err := io.ReadFull(channel, message[:size]); err != nil {
				return err
			}
			if binary.LittleEndian.Uint64(message) == i {
				inOrder++
			}
			if what == orderEcho {
				if _, err := channel.Write(message[:size]); err != nil {
					return err
				}
			}
		}
		answer := inOrder
		if what == orderUsed {
			answer = uint64(processorTime())
		}
		if what != orderEcho {
			if _, err := channel.Write(binary.LittleEndian.AppendUint64(nil, answer)); err != nil {
				return err
			}
		}
	}
}

func printTable(w io.Writer, results []*result) {
	fmt.Fprintln(w, machine())
	fmt.Fprintln(w)
	fmt.Fprintln(w, "| | round trip, 64 B | 99 % take less than | messages of 64 B | messages of 64 KiB | processor when idle |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|")
	for _, r := range results {
		fmt.Fprintf(w, "| %s | %.2f µs | %.2f µs | %.2f million/s | %.0f MiB/s | %.1f %% |\n", r.kind,
			median(r.roundTrip)/1000, median(r.slowest)/1000, median(r.messages)/1e6, median(r.throughput), median(r.idle))
	}
}

func median(values []float64) float64 {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

// machine says where this was measured.
func machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s %s, %s, %d processors, %s", runtime.GOOS, strings.TrimSpace(string(kernel)),
		runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}
