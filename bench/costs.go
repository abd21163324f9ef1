package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// costs are what decides between file and map on a machine. 0 is unknown.
type costs struct {
	call    time.Duration // a system call that does nothing
	read    time.Duration // a pread of 8 bytes that are in the page cache
	mapping time.Duration // an mmap and a munmap of costMapSize bytes, untouched
	probe   time.Duration // the question what of a file is in the page cache
	load    time.Duration // the first touch of a page that is mapped already
	fault   time.Duration // the first touch of one that is not, but in the page cache
	around  int64         // so many bytes a fault maps
}

const (
	costFileSize = 16 << 20 // of the file on which it is measured
	costMapSize  = 1 << 20
	costTimes    = 9 // each is the median of so many
)

// measureCosts measures on a new file in dir.
func measureCosts(dir string) (c costs, err error) {
	path := filepath.Join(dir, "costs")
	if err := os.WriteFile(path, make([]byte, costFileSize), 0o600); err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	file, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer file.Close()
	if err := readIn(path); err != nil {
		return c, err
	}
	buffer := make([]byte, 8)
	c.read, err = timeOf(1000, func() error { _, err := file.ReadAt(buffer, 4096); return err })
	if err != nil {
		return c, err
	}
	for _, one := range []struct {
		cost  *time.Duration
		times int
		work  func() error
	}{
		{&c.call, 1000, systemCall},
		{&c.probe, 200, func() error { return probePages(file) }},
		{&c.mapping, 100, func() error {
			_, unmap, err := mapBare(path, costMapSize)
			if err != nil {
				return err
			}
			return unmap()
		}},
	} {
		cost, err := timeOf(one.times, one.work)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return c, err
		}
		*one.cost = cost
	}
	if open, err := timeOf(100, func() error { return openAndClose(path) }); err == nil && c.mapping > 0 {
		c.mapping = max(c.mapping-open, time.Nanosecond) // mapBare opens the file
	}
	return c, c.measureFaults(path)
}

func openAndClose(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}

// timeOf returns what one of so many calls costs: the median of costTimes measurements.
func timeOf(calls int, work func() error) (time.Duration, error) {
	var spent []float64
	for range costTimes {
		start := time.Now()
		for range calls {
			if err := work(); err != nil {
				return 0, err
			}
		}
		spent = append(spent, float64(time.Since(start))/float64(calls))
	}
	return time.Duration(math.Round(median(spent))), nil
}

// measureFaults touches each page of new maps of the file from the last to the first, so that each
// fault is one that the pages around it have not served.
func (c *costs) measureFaults(path string) error {
	var spent, around []float64
	var again []float64
	page := os.Getpagesize()
	for range costTimes {
		data, unmap, err := mapBare(path, costFileSize)
		if errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		if err != nil {
			return err
		}
		before := minorFaults()
		start := time.Now()
		runtime.KeepAlive(touchBackwards(data, page))
		first := time.Since(start)
		faults := float64(max(minorFaults()-before, 1))
		start = time.Now()
		runtime.KeepAlive(touchBackwards(data, page))
		second := time.Since(start)
		spent = append(spent, float64(max(first-second, 1))/faults)
		around = append(around, costFileSize/faults)
		again = append(again, float64(second)*float64(page)/costFileSize)
		if err := unmap(); err != nil {
			return err
		}
	}
	c.fault, c.around = time.Duration(median(spent)), int64(median(around))
	c.load = time.Duration(math.Ceil(median(again)))
	return nil
}

func touchBackwards(data []byte, page int) (sum byte) {
	for at := len(data) - page; at >= 0; at -= page {
		sum += data[at]
	}
	return sum
}

// sentences are the costs, one a line.
func (c costs) sentences() []string {
	var lines []string
	for _, one := range []struct {
		cost time.Duration
		what string
	}{
		{c.call, "a system call"},
		{c.read, "a pread of 8 bytes that are in the page cache"},
		{c.fault, fmt.Sprintf("a page fault on a cached file, which maps %s", sizeName(c.around/1024*1024))},
		{c.mapping, fmt.Sprintf("an mmap and a munmap of %s, untouched", sizeName(costMapSize))},
		{c.probe, "asking what of a file is in the page cache (cachestat)"},
	} {
		if one.cost > 0 {
			lines = append(lines, fmt.Sprintf("%10v  %s", one.cost, one.what))
		}
	}
	return lines
}

// line is the costs in one line of a report.
func (c costs) line() string {
	var parts []string
	for _, sentence := range c.sentences() {
		cost, what, _ := strings.Cut(strings.TrimSpace(sentence), "  ")
		parts = append(parts, what+" "+cost)
	}
	return "Costs: " + strings.Join(parts, "; ")
}

// consequences says what the costs mean for maps.
func (c costs) consequences() []string {
	if c.fault == 0 || c.mapping == 0 {
		return []string{"What a map and a fault cost cannot be measured on this system."}
	}
	saved := c.read - c.load
	if saved <= 0 {
		return []string{"A read through the file costs no more than one through a map: maps gain nothing here."}
	}
	faults := costMapSize / c.around
	whole := c.mapping + time.Duration(max(faults, 1))*c.fault
	reads := func(cost time.Duration) string { return grouped(math.Ceil(float64(cost) / float64(saved))) }
	ratio := float64(c.fault) / float64(c.read)
	verdict := "cheap"
	switch {
	case ratio > 8:
		verdict = "dear, as under a hypervisor without hardware page tables or under gVisor"
	case ratio > 3:
		verdict = "neither cheap nor dear"
	}
	return []string{
		fmt.Sprintf("A fault costs as much as %.1f small reads: maps are %s here.", ratio, verdict),
		fmt.Sprintf("A map of %s with all its faults costs %v: it pays when a file of that size is read more than %s times.",
			sizeName(costMapSize), whole, reads(whole)),
		fmt.Sprintf("In a large file the first touch of each %s pays when it is read there more than %s times.",
			sizeName(c.around/1024*1024), reads(c.fault)),
		"memmapfs measures the same while it runs, and reads through the file until a map pays.",
	}
}

// printCosts is what -costs does.
func printCosts(b *bench, parent string) error {
	dir, err := os.MkdirTemp(parent, "memmapfs-bench")
	if err != nil {
		return err
	}
	c, err := measureCosts(dir)
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		return err
	}
	lines := slices.Concat(describe()[:2], []string{""}, c.sentences(), []string{""}, c.consequences())
	_, err = fmt.Fprintln(b.stdout, strings.Join(lines, "\n"))
	return err
}
