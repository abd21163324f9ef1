// Sharedcounter starts processes that all raise one counter, which lies in memory that they
// share, and checks that no raise is lost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/absfs/memmapfs"
)

const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(interrupted, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(interrupted context.Context, arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("sharedcounter", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: sharedcounter [-processes NUMBER] [-raises NUMBER] [FILE]\n"+
			"The counter is in FILE and stays there, or in a new file that is removed at the end.\n")
	}
	processes := flags.Uint64("processes", 4, "")
	raises := flags.Uint64("raises", 10_000_000, "")
	worker := flags.Bool("worker", false, "") // be one of the processes
	start := flags.Uint("start", 0, "")       // and begin when the start has another number
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage
	}
	if flags.NArg() > 1 || *processes < 1 || *processes > 1000 || *worker && flags.NArg() == 0 {
		flags.Usage()
		return exitUsage
	}

	var err error
	if *worker {
		err = raise(interrupted, flags.Arg(0), uint32(*start), *raises)
	} else {
		err = count(interrupted, flags.Arg(0), *processes, *raises, stdout, stderr)
	}
	switch {
	case interrupted.Err() != nil:
		fmt.Fprintln(stderr, "sharedcounter: interrupted")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "sharedcounter:", err)
		return exitFailure
	}
	return 0
}

// The counter is at the beginning of the region. Behind it is the number of starts so far.
const (
	startAt = 8
	size    = 12
)

// open returns the counter in the file at path, which it makes if need be. Whichever process comes
// first makes it; the others get the same. The counter can be used until the region is closed.
func open(path string) (*memmapfs.SharedMemory, *atomic.Uint64, error) {
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: path, Size: size, SyncMode: memmapfs.SyncLazy,
	})
	if err != nil {
		return nil, nil, err
	}
	counter, err := region.Uint64(0)
	if err != nil {
		return nil, nil, errors.Join(err, region.Close())
	}
	return region, counter, nil
}

// raise is what each process does. It sleeps until all are to begin: then the number of starts
// is not the one that it was given.
func raise(interrupted context.Context, path string, start uint32, raises uint64) error {
	region, counter, err := open(path)
	if err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(interrupted, 10*time.Second) // who would start it may have died
	defer cancel()
	if err := region.Wait(patience, startAt, start); err != nil {
		return errors.Join(err, region.Close())
	}
	for number := range raises {
		if number%(1<<16) == 0 && interrupted.Err() != nil {
			break
		}
		counter.Add(1)
	}
	return region.Close()
}

// count starts the processes, waits for them, and checks the counter.
func count(interrupted context.Context, path string, processes, raises uint64, stdout, stderr io.Writer) (err error) {
	if path == "" {
		directory, makeError := os.MkdirTemp("", "memmapfs-sharedcounter")
		if makeError != nil {
			return makeError
		}
		defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
		path = filepath.Join(directory, "counter")
	}
	region, counter, err := open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, region.Close()) }()
	program, err := os.Executable()
	if err != nil {
		return err
	}

	starts, err := region.Uint32(startAt)
	if err != nil {
		return err
	}
	before, start := counter.Load(), time.Now()
	ended := make(chan error, processes)
	for range processes {
		process := exec.CommandContext(interrupted, program, "-worker",
			"-start", strconv.FormatUint(uint64(starts.Load()), 10), "-raises", strconv.FormatUint(raises, 10), path)
		go func() { ended <- runProcess(process) }()
	}
	starts.Add(1)
	if _, err := region.Wake(startAt, math.MaxInt); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for running := processes; running > 0; {
		select {
		case processError := <-ended:
			err = errors.Join(err, processError)
			running--
		case <-tick.C:
			progress(stderr, fmt.Sprintf("%d of %d", counter.Load()-before, processes*raises))
		}
	}
	progress(stderr, "")
	if err != nil {
		return err
	}
	after := counter.Load()
	if after-before < processes*raises { // more, if others use the file too
		return fmt.Errorf("raises were lost: %d processes raised the counter %d times each, from %d to %d",
			processes, raises, before, after)
	}
	_, err = fmt.Fprintf(stdout, "%d processes raised the counter from %d to %d in %.2f s\n",
		processes, before, after, time.Since(start).Seconds())
	return err
}

func runProcess(process *exec.Cmd) error {
	output, err := process.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("a process has failed: %w\n%s", err, output)
	}
	return err
}

// progress shows on a terminal what goes on; nothing takes it away. Elsewhere it shows nothing.
func progress(stderr io.Writer, text string) {
	if file, ok := stderr.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintf(file, "\r\033[K%s", text)
		}
	}
}
