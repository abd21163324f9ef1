// Loggrep prints the lines of log files that match a regular expression, if need be only
// those of a range of time.
//
// Each line of a log begins with its time in the form of RFC 3339, as in 2025-03-01T12:00:00.250Z,
// and the times do not decrease. Lines without a time belong to the one before. So the range
// is found by binary search, in gigabytes as fast as in megabytes, and only its lines are read.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// The exit status is that of grep.
const (
	exitFound   = 0
	exitNothing = 1
	exitFailure = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("loggrep", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: loggrep [-from TIME] [-to TIME] PATTERN FILE...\n"+
			"TIME is as in 2025-03-01T12:00:00Z; -from is included, -to is not.\n")
	}
	var from, to time.Time
	flags.Func("from", "", parseInto(&from))
	flags.Func("to", "", parseInto(&to))
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return exitFound
	} else if err != nil {
		return exitFailure
	}
	if flags.NArg() < 2 {
		flags.Usage()
		return exitFailure
	}
	pattern, patternErr := regexp.Compile(flags.Arg(0))
	base, err := osfs.NewFS()
	if err := errors.Join(patternErr, err); err != nil {
		fmt.Fprintln(stderr, "loggrep:", err)
		return exitFailure
	}
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	defer filesystem.Close()

	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	output := bufio.NewWriterSize(stdout, 1<<16)
	search := &search{pattern: pattern, from: from, to: to, output: output, stderr: stderr}
	status := exitNothing
	for _, path := range flags.Args()[1:] {
		if flags.NArg() > 2 {
			search.prefix = path + ":"
		}
		err := search.file(interrupted, filesystem, path)
		if err := errors.Join(err, output.Flush()); err != nil {
			fmt.Fprintln(stderr, "loggrep:", err)
			status = exitFailure
		}
	}
	if status == exitNothing && search.found {
		return exitFound
	}
	return status
}

func parseInto(to *time.Time) func(string) error {
	return func(text string) (err error) {
		*to, err = time.Parse(time.RFC3339, text)
		return err
	}
}

// search is what to look for, and what came of it.
type search struct {
	pattern  *regexp.Regexp
	from, to time.Time // zero: from the beginning, to the end
	prefix   string    // of each line of output
	output   *bufio.Writer
	stderr   io.Writer
	found    bool
}

// file searches one file.
func (s *search) file(interrupted context.Context, filesystem *memmapfs.MemMapFS, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	file, err := filesystem.Open(osfs.FromNative(path))
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	start, end := int64(0), info.Size()
	if !s.to.IsZero() {
		if end, err = firstSince(file, info.Size(), s.to); err != nil {
			return err
		}
	}
	if !s.from.IsZero() {
		if start, err = firstSince(file, end, s.from); err != nil {
			return err
		}
	}

	defer s.progress("")
	lines := bufio.NewScanner(io.NewSectionReader(file, start, end-start))
	lines.Buffer(make([]byte, 1<<20), 1<<30)
	searched := int64(0)
	for number := 0; lines.Scan(); number++ {
		if number%(1<<16) == 0 {
			if interrupted.Err() != nil {
				return errors.New("interrupted")
			}
			s.progress(fmt.Sprintf("%s: %d of %d MiB", filepath.Base(path), searched>>20, (end-start)>>20))
		}
		line := lines.Bytes()
		searched += int64(len(line)) + 1
		if s.pattern.Match(line) {
			s.found = true
			fmt.Fprintf(s.output, "%s%s\n", s.prefix, line)
		}
	}
	return lines.Err()
}

// firstSince returns the offset of the first line in the first size bytes that is not from before
// t, or size if there is none.
func firstSince(file io.ReaderAt, size int64, t time.Time) (int64, error) {
	// Lines with a time that start before low are from before t, those from high on are not.
	low, high := int64(0), size
	for low < high {
		middle := low + (high-low)/2
		line, err := nextTimed(file, middle, size)
		switch {
		case err != nil:
			return 0, err
		case line.start >= high, !line.time.Before(t):
			high = middle
		default:
			low = line.end
		}
	}
	line, err := nextTimed(file, low, size)
	return line.start, err
}

type timedLine struct {
	start, end int64
	time       time.Time
}

// nextTimed returns the first line with a time that starts at offset or later. If there is none
// before size, it starts at size.
func nextTimed(file io.ReaderAt, offset, size int64) (line timedLine, err error) {
	at := max(0, offset-1) // the byte before tells whether a line starts at offset
	reader := bufio.NewReader(io.NewSectionReader(file, at, size-at))
	if offset > 0 {
		skipped, err := reader.ReadBytes('\n')
		if at += int64(len(skipped)); err == io.EOF {
			return timedLine{start: size, end: size}, nil
		} else if err != nil {
			return timedLine{}, err
		}
	}
	for {
		text, err := reader.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return timedLine{}, err
		}
		stamp, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte(" "))
		if t, parseErr := time.Parse(time.RFC3339, string(stamp)); parseErr == nil {
			return timedLine{at, at + int64(len(text)), t}, nil
		}
		if at += int64(len(text)); err == io.EOF {
			return timedLine{start: size, end: size}, nil
		}
	}
}

// progress shows on a terminal what goes on; nothing takes it away. Elsewhere it shows nothing.
func (s *search) progress(text string) {
	if file, ok := s.stderr.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintf(file, "\r\033[K%s", text)
		}
	}
}
