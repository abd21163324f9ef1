// Tail shows the last lines of log files, and then what is logged, across the rotation of the
// logs.
//
// The logs are read through mapped files, whose reads give what the file's own would give while
// others write to it, cut it and put others in its place. A log that was renamed is read to its
// end before the next one, and for a minute more. A log that was copied and cut (copytruncate of
// logrotate) is known by its first and last bytes, and what was not read yet is read from the
// copy beside it. Nothing is lost, doubled or shown as zeros but for what the rotation loses:
// what is logged between copying and cutting, and more than one rotation between two looks.
//
// It looks instead of waiting for inotify(7), which does not hear of stores into maps.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

const (
	exitFailure = 1
	exitUsage   = 2
)

const usage = `usage: tail [flags] FILE...

It shows the last lines of each FILE and then what is logged, until it is interrupted. When FILE is
rotated by renaming it goes on with the next file of the name, and when it is copied and cut, at
its start. Let logrotate compress logs with delaycompress: a copy that is compressed is of no use.
On Windows a log that is shown cannot be cut by others.

`

func main() {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(interrupted, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(interrupted context.Context, arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("tail", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	lines := flags.Int("n", 10, "begin with this `number` of lines, or with -1 with the first")
	interval := flags.Duration("interval", 250*time.Millisecond, "look after each `time`; more than one rotation in it loses lines")
	patience := flags.Duration("patience", time.Minute, "read a file that was renamed until nothing was logged for this `time`")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage
	}
	if flags.NArg() == 0 || *interval <= 0 || *lines < -1 {
		flags.Usage()
		return exitUsage
	}
	base, err := osfs.NewFS()
	if err != nil {
		fmt.Fprintln(stderr, "tail:", err)
		return exitFailure
	}
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	defer filesystem.Close()

	output := &output{w: stdout}
	var followers []*follower
	for _, path := range flags.Args() {
		f, err := newFollower(filesystem, path, *lines)
		if err != nil {
			fmt.Fprintln(stderr, "tail:", err)
			return exitFailure
		}
		defer f.close()
		f.patience = *patience
		f.write = func(b []byte) error { return output.write(path, flags.NArg() > 1, b) }
		f.warn = func(text string) { fmt.Fprintln(stderr, "tail:", text) }
		if f.current == nil {
			f.warn(path + " does not exist yet")
		}
		followers = append(followers, f)
	}
	return follow(interrupted, followers, output, *interval)
}

// follow polls until interrupted, and once more, so that what was logged before is shown.
func follow(interrupted context.Context, followers []*follower, output *output, interval time.Duration) int {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	said := make(map[string]bool) // what went wrong stays wrong for a while
	for last := false; ; {
		more := false
		for _, f := range followers {
			moreOfIt, err := f.poll()
			more = more || moreOfIt
			if output.err != nil {
				f.warn(output.err.Error())
				return exitFailure
			}
			if err != nil && !said[err.Error()] {
				said[err.Error()] = true
				f.warn(err.Error())
			}
		}
		switch {
		case last:
			return 0
		case interrupted.Err() != nil:
			last = true
		case !more:
			select {
			case <-ticker.C:
			case <-interrupted.Done():
				last = true
			}
		}
	}
}

// newFollower returns what follows the file at path from before its last lines on.
func newFollower(filesystem *memmapfs.MemMapFS, path string, lines int) (*follower, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f := &follower{path: absolute, open: func(path string) (file, error) {
		opened, err := filesystem.Open(osfs.FromNative(path))
		if err != nil {
			return nil, err
		}
		return opened, nil
	}}
	if err := f.reopen(); err != nil || f.current == nil || lines < 0 {
		return f, err
	}
	s := f.current
	start, err := lastLines(s.file, s.identity.Size(), lines)
	if err == nil {
		s.place, err = placeAt(s.file, start)
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.atStart = start == 0
	return f, nil
}

// lastLines returns where the last count lines begin in the first size bytes of file.
func lastLines(file io.ReaderAt, size int64, count int) (int64, error) {
	if count == 0 {
		return size, nil
	}
	buffer := make([]byte, 64<<10)
	for end := size; end > 0; {
		part := buffer[:min(end, int64(len(buffer)))]
		if _, err := file.ReadAt(part, end-int64(len(part))); err != nil && err != io.EOF {
			return 0, err
		}
		for at := len(part); ; {
			at = bytes.LastIndexByte(part[:at], '\n')
			if at < 0 {
				break
			}
			after := end - int64(len(part)) + int64(at) + 1
			if after == size {
				continue // it ends the last line
			}
			if count--; count == 0 {
				return after, nil
			}
		}
		end -= int64(len(part))
	}
	return 0, nil
}

// output is where all files are written to.
type output struct {
	w    io.Writer
	path string // of the file written last
	err  error
}

func (o *output) write(path string, named bool, b []byte) error {
	if named && path != o.path {
		if o.path != "" {
			fmt.Fprintln(o.w)
		}
		fmt.Fprintf(o.w, "==> %s <==\n", path)
	}
	o.path = path
	_, err := o.w.Write(b)
	o.err = err
	return err
}
