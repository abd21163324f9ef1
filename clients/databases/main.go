// Databases runs databases written in Go on plain files and on mapped ones, and prints a table of
// how long they take, in Markdown.
//
//	go run ./databases [-only name] [-records n] [-rounds n] [-dir directory]
//
// Each adapter is one file: pebble.go, goleveldb.go and bluge.go. Where programs need one, they
// can copy it.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/absfs/memmapfs"
)

func main() {
	records := flag.Int("records", 20_000, "records in each database, of 200 to 400 bytes")
	rounds := flag.Int("rounds", 7, "rounds, of which the median counts")
	only := flag.String("only", "", "the one database to run (default: all)")
	dir := flag.String("dir", "", "directory for the databases (default: a temporary one)")
	flag.Parse()
	if flag.NArg() > 0 || *records < batchSize || *rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := compare(*only, *records, *rounds, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "databases:", err)
		os.Exit(1)
	}
}

// steps are what is timed, in this order. Reads are after a new open, which is for reading only:
// nothing is merged meanwhile.
var steps = [...]string{"write", "compact", "read at random", "read all, 5 times"}

type times [len(steps)]time.Duration

// compare times every engine in every mode that writes. In each round all of them have their
// turn, each round another one is the first, so that what else the machine does meets them alike.
func compare(only string, records, rounds int, dir string) error {
	names := []string{plainMode}
	for _, mode := range modes {
		if mode.config.Mode != memmapfs.ModeCopyOnWrite {
			names = append(names, mode.name)
		}
	}
	printHead(names, records, rounds)
	for engine := range engines {
		if only != "" && only != engines[engine].name {
			continue
		}
		taken := map[string][]times{}
		for round := range rounds {
			for turn := range names {
				mode := names[(round+turn)%len(names)]
				one, err := measure(engine, mode, records, dir)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", engines[engine].name, mode, err)
				}
				taken[mode] = append(taken[mode], one)
			}
		}
		printRows(engines[engine].name, names, taken)
	}
	return nil
}

// measure makes a database, uses it and removes it.
func measure(engine int, mode string, records int, parent string) (taken times, err error) {
	dir, err := os.MkdirTemp(parent, "databases-")
	if err != nil {
		return taken, err
	}
	defer os.RemoveAll(dir)
	files, closeFiles, err := filesIn(mode)
	if err != nil {
		return taken, err
	}
	defer closeFiles()
	runtime.GC() // the last one's garbage is not this one's
	step := 0
	timed := func(work func() error) {
		start := time.Now()
		if err == nil {
			err = work()
		}
		taken[step] = time.Since(start)
		step++
	}
	open := func(readOnly bool) (db database) {
		if err == nil {
			db, err = engines[engine].open(files, dir, readOnly)
		}
		return db
	}
	db := open(false)
	timed(func() error { return fill(db, 0, records, func(int) {}) })
	timed(func() error { return db.compact() })
	if err == nil {
		err = db.close()
	}
	db = open(true)
	timed(func() error { return read(db, records, records) })
	timed(func() error {
		for range 5 {
			if err := db.each(func(int, string) {}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = db.close()
	}
	return taken, err
}

func printHead(names []string, records, rounds int) {
	fmt.Printf("%d records, medians of %d rounds, %s on %s/%s\n\n", records, rounds, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	fmt.Print("| Database | Work |")
	for _, name := range names {
		fmt.Printf(" %s |", name)
	}
	fmt.Print("\n|---|---|")
	for range names {
		fmt.Print("--:|")
	}
	fmt.Println()
}

// printRows prints a row for each step: the time on plain files, and of the others their part of
// it.
func printRows(engine string, names []string, taken map[string][]times) {
	for step, name := range steps {
		plain := median(taken[plainMode], step)
		if plain < 100*time.Microsecond {
			continue // it has no such step
		}
		fmt.Printf("| %s | %s | %.1f ms |", engine, name, plain.Seconds()*1000)
		for _, mode := range names[1:] {
			fmt.Printf(" %.2f |", median(taken[mode], step).Seconds()/plain.Seconds())
		}
		fmt.Println()
	}
}

func median(taken []times, step int) time.Duration {
	var sorted []time.Duration
	for _, one := range taken {
		sorted = append(sorted, one[step])
	}
	slices.Sort(sorted)
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
