// Pagecache shows how much of files and directories is in memory, in the system's page cache,
// and changes it: what vmtouch and fincore do, in Go.
//
// It shows MappedFile.Residency, which asks without bringing anything in, Prefetch, which
// brings in and waits, and LockMemory, which keeps. None of them needs the files' bytes in the
// program, so gigabytes and tens of thousands of files take a few megabytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

const (
	exitFailure     = 1 // some file could not be looked at, or the system does not say what is in memory
	exitUsage       = 2
	exitInterrupted = 130
)

const usage = `usage: pagecache [flags] PATH...

It shows how much of the files at each PATH, and below it if it is a directory, is in memory.
Symbolic links below a PATH are not followed, and a file with several names counts once.
The bar shows where in the file the pages are: · none, ░ ▒ ▓ some, █ all of a 32nd part of it.

`

func main() {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(interrupted, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the flags.
type options struct {
	touch, evict, lock bool
	watch              time.Duration
	svg, sort          string
	top                int
}

// parse reads the flags. Without options the program ends with the status.
func parse(arguments []string, stderr io.Writer) (_ *options, paths []string, status int) {
	o := new(options)
	flags := flag.NewFlagSet("pagecache", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
		fmt.Fprint(stderr, "\nThe exit status is 1 if something is not known of a file or could not be done with it.\n")
	}
	flags.BoolVar(&o.touch, "touch", false, "first read the files into memory")
	flags.BoolVar(&o.evict, "evict", false, "first write changed pages to the disk and drop the files from memory (Linux)")
	flags.BoolVar(&o.lock, "lock", false, "first read the files into memory, and keep them there until interrupted")
	flags.DurationVar(&o.watch, "watch", 0, "look again after each `time`, as in 2s, until interrupted")
	flags.StringVar(&o.svg, "svg", "", "draw what was seen into `FILE`, with -watch as a heat map over time")
	flags.StringVar(&o.sort, "sort", "memory", "show the files with the most `memory`, size or share first, or by name")
	flags.IntVar(&o.top, "top", 20, "show this `number` of files; 0 is all, and needs memory for each")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return nil, nil, 0
	} else if err != nil {
		return nil, nil, exitUsage
	}
	if flags.NArg() == 0 || orders[o.sort] == nil || o.top < 0 || o.watch < 0 || o.evict && (o.touch || o.lock) {
		flags.Usage()
		return nil, nil, exitUsage
	}
	return o, flags.Args(), 0
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(interrupted context.Context, arguments []string, stdout, stderr io.Writer) int {
	o, paths, status := parse(arguments, stderr)
	if o == nil {
		return status
	}
	base, err := osfs.NewFS()
	if err != nil {
		fmt.Fprintln(stderr, "pagecache:", err)
		return exitFailure
	}
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	defer filesystem.Close()

	c := &cache{filesystem: filesystem, paths: paths, top: o.top, order: orders[o.sort]}
	defer c.unlock()
	did, err := c.act(interrupted, o, progressOn(stderr))
	if did != "" && (err == nil || !o.lock) {
		fmt.Fprintln(stderr, did)
	}
	complete := err == nil
	if err != nil {
		fmt.Fprintln(stderr, "pagecache:", err)
	}
	switch {
	case interrupted.Err() != nil:
		return exitInterrupted
	case err != nil && o.lock:
		return exitFailure // rather than stay with a part of the files
	}
	known, err := watch(interrupted, c, o, stdout, stderr)
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "pagecache:", err)
		return exitFailure
	case interrupted.Err() != nil && !o.lock && o.watch == 0:
		return exitInterrupted
	case !known || !complete:
		return exitFailure
	}
	return 0
}

// watch looks at the files and prints what it sees, once or, as the options say, until
// interrupted. It reports whether everything is known of them.
func watch(interrupted context.Context, c *cache, o *options, stdout, stderr io.Writer) (known bool, err error) {
	seen := new(history)
	for known = true; ; {
		look := c.look(interrupted)
		if interrupted.Err() != nil {
			return known, nil // half a look says nothing
		}
		notes := look.notes()
		if o.watch > 0 && isTerminal(stdout) {
			fmt.Fprint(stdout, "\033[H\033[2J")
		}
		if o.watch > 0 {
			fmt.Fprintln(stdout, look.at.Format(time.DateTime))
		}
		if err := look.print(stdout); err != nil {
			return known, err
		}
		if known || isTerminal(stdout) { // once in a log, each time on a screen
			fmt.Fprint(stderr, strings.Join(notes, ""))
		}
		known = known && len(notes) == 0
		if o.svg != "" {
			seen.add(look)
			if err := seen.save(o.svg); err != nil {
				return known, err
			}
		}
		if o.watch == 0 && !o.lock {
			return known, nil
		}
		again := time.NewTimer(o.watch)
		if o.watch == 0 {
			again.Stop() // only -lock: nothing is left to do but to stay
		}
		select {
		case <-interrupted.Done():
			return known, nil
		case <-again.C:
		}
	}
}

// isTerminal reports whether somebody may be looking at w.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// progressOn returns a function that shows on a terminal what goes on, in a line that an empty
// text clears. On other writers it shows nothing.
func progressOn(w io.Writer) func(text string) {
	if !isTerminal(w) {
		return func(string) {}
	}
	var last time.Time
	return func(text string) {
		if text == "" || time.Since(last) > 100*time.Millisecond {
			last = time.Now()
			fmt.Fprintf(w, "\r\033[K%s", text)
		}
	}
}
