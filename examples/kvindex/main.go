// Kvindex keeps keys and values in a file that is read far more often than it is written: a
// hash index. See index.go for its form, and why it survives a power cut.
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
	"runtime"
	"syscall"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

const (
	exitNotFound    = 1
	exitFailure     = 2
	exitInterrupted = 130
)

var errNotFound = errors.New("not found")

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(arguments []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("kvindex", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: kvindex [-slots NUMBER] build INDEX < LINES     each a key, a tab and a value\n"+
			"       kvindex get INDEX KEY...  or  kvindex set INDEX KEY VALUE\n")
	}
	slots := flags.Uint64("slots", 1<<16, "")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitFailure
	}
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	var err error
	command, count := flags.Arg(0), flags.NArg()
	switch {
	case command == "build" && count == 2 && *slots > 0 && *slots <= 1<<32:
		err = build(interrupted, flags.Arg(1), *slots, stdin, stderr)
	case command == "get" && count > 2:
		err = get(flags.Arg(1), flags.Args()[2:], stdout)
	case command == "set" && count == 4:
		err = set(flags.Arg(1), flags.Arg(2), flags.Arg(3))
	default:
		flags.Usage()
		return exitFailure
	}
	switch {
	case err == nil:
		return 0
	case interrupted.Err() != nil:
		err = errors.New("interrupted")
	}
	fmt.Fprintln(stderr, "kvindex:", err)
	switch {
	case interrupted.Err() != nil:
		return exitInterrupted
	case errors.Is(err, errNotFound):
		return exitNotFound
	}
	return exitFailure
}

// with opens the file at path, or makes it with os.O_CREATE, and closes it after use.
func with(path string, flag int, use func(file absfs.File) error) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	base, err := osfs.NewFS()
	if err != nil {
		return err
	}
	// ModeReadWrite stores what is written again, as cells are, into the map. SyncNever leaves it
	// to this program when to flush.
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true,
	})
	defer func() { err = errors.Join(err, filesystem.Close()) }()
	file, err := filesystem.OpenFile(osfs.FromNative(path), flag, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return use(file)
}

func get(path string, keys []string, stdout io.Writer) error {
	return with(path, os.O_RDONLY, func(file absfs.File) error {
		index, err := open(file)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		var missing error
		for _, key := range keys {
			value, found, err := index.get([]byte(key))
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if !found {
				missing = errors.Join(missing, fmt.Errorf("%q: %w", key, errNotFound))
				continue
			}
			if _, err := fmt.Fprintf(stdout, "%s\t%s\n", key, value); err != nil {
				return err
			}
		}
		return missing
	})
}

func set(path, key, value string) error {
	return with(path, os.O_RDWR, func(file absfs.File) error {
		index, err := open(file)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return index.set([]byte(key), []byte(value), true)
	})
}

// build makes a new index beside the one at path and puts it in its place when it is complete and
// durable: whoever opens path has the old one or the new one.
func build(interrupted context.Context, path string, slots uint64, lines io.Reader, stderr io.Writer) error {
	unfinished := path + ".new"
	err := with(unfinished, os.O_RDWR|os.O_CREATE|os.O_TRUNC, func(file absfs.File) error {
		defer progress(stderr, "")
		index, err := create(file, slots)
		if err != nil {
			return err
		}
		scanner := bufio.NewScanner(lines)
		scanner.Buffer(nil, 2*maxLength+2)
		for number := 1; scanner.Scan(); number++ {
			if number%(1<<14) == 0 {
				if interrupted.Err() != nil {
					return interrupted.Err()
				}
				progress(stderr, fmt.Sprintf("%d lines", number))
			}
			key, value, found := bytes.Cut(scanner.Bytes(), []byte("\t"))
			if !found {
				return fmt.Errorf("line %d has no tab", number)
			}
			if err := index.set(key, value, false); err != nil {
				return err
			}
		}
		return errors.Join(scanner.Err(), file.Sync())
	})
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err != nil {
		os.Remove(unfinished)
		return err
	}
	// The new name is durable when its directory is.
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer directory.Close()
	if err := directory.Sync(); err != nil && runtime.GOOS != "windows" { // where that cannot be asked for
		return err
	}
	return nil
}

// progress shows on a terminal what goes on; nothing takes it away. Elsewhere it shows nothing.
func progress(stderr io.Writer, text string) {
	if file, ok := stderr.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintf(file, "\r\033[K%s", text)
		}
	}
}
