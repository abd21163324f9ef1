package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/absfs/absfs"
)

// call runs the program and returns its exit status and what it printed.
func call(arguments ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(arguments, &out, &err)
	return status, out.String(), err.String()
}

// A file given by name is compared and stays as it was, whatever its lines are like.
func TestFile(t *testing.T) {
	long := strings.Repeat("x", 3*pieceSize)
	for name, test := range map[string]struct{ contents, lines string }{
		"lines":           {strings.Repeat("one line of a file\n", 10_000), " 10000 lines,"},
		"one byte":        {"x", " 1 lines,"},
		"no last newline": {"first\nsecond", " 2 lines,"},
		"empty lines":     {"\n\n\n", " 3 lines,"},
		"long lines":      {"short\n" + long + "\n" + long, " 3 lines,"},
		"piece and end":   {strings.Repeat("x", pieceSize) + "\n", " 1 lines,"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte(test.contents), 0o600); err != nil {
				t.Fatal(err)
			}
			longAgo := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
			if err := os.Chtimes(path, longAgo, longAgo); err != nil {
				t.Fatal(err)
			}

			status, stdout, stderr := call("-reads", "1000", path)
			if status != 0 || stderr != "" {
				t.Errorf("exit status %d, standard error %q", status, stderr)
			}
			for _, wanted := range []string{
				"osfs", "memmapfs", "ratio", "read all", "random reads", "count lines",
				"MiB/s", "million/s", "mapped: ", "resident memory: ", "1000 random reads", test.lines,
			} {
				if !strings.Contains(stdout, wanted) {
					t.Errorf("no %q in the output:\n%s", wanted, stdout)
				}
			}

			contents, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			information, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(contents) != test.contents || !information.ModTime().Equal(longAgo) {
				t.Error("the file was changed")
			}
		})
	}
}

// temporaryDirectory is an empty directory in which the program makes its file.
func temporaryDirectory(t *testing.T) string {
	directory := t.TempDir()
	for _, variable := range []string{"TMPDIR", "TMP", "TEMP"} { // Unix, Windows
		t.Setenv(variable, directory)
	}
	return directory
}

// Without a file the program makes one, and removes it.
func TestNoFile(t *testing.T) {
	directory := temporaryDirectory(t)
	status, stdout, stderr := call("-reads", "1000", "-size", "2")
	if status != 0 || stderr != "" || !strings.Contains(stdout, "Both gave the same") {
		t.Errorf("exit status %d, standard error %q, standard output:\n%s", status, stderr, stdout)
	}
	if !strings.Contains(stdout, directory) {
		t.Errorf("the file was not made in %s:\n%s", directory, stdout)
	}
	left, err := os.ReadDir(directory)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What cannot be read gives one line that says why.
func TestUnreadable(t *testing.T) {
	directory := t.TempDir()
	empty := filepath.Join(directory, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"missing":        filepath.Join(directory, "missing"),
		"is a directory": directory,
		"is empty":       empty,
	} {
		status, stdout, stderr := call(path)
		if status != exitFailure || stdout != "" {
			t.Errorf("%s: exit status %d, standard output %q", name, status, stdout)
		}
		if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "quickstart: ") ||
			!strings.Contains(stderr, path) || !strings.Contains(stderr, name) {
			t.Errorf("%s: standard error %q", name, stderr)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, arguments := range [][]string{
		{"one", "two"}, {"-reads", "0", "file"}, {"-size", "0"}, {"-reads", "many"}, {"-unknown"},
	} {
		status, stdout, stderr := call(arguments...)
		if status != exitUsage || stdout != "" || !strings.Contains(stderr, "usage: quickstart") {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", arguments, status, stdout, stderr)
		}
	}
}

// An interrupt leaves no file behind.
func TestInterrupted(t *testing.T) {
	directory := temporaryDirectory(t)
	interrupted, interrupt := context.WithCancel(context.Background())
	interrupt()
	err := compare(interrupted, "", 1<<20, 1, io.Discard, &progress{})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	left, err := os.ReadDir(directory)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Different results are an error.
func TestDifference(t *testing.T) {
	calls := uint64(0)
	different := workload{name: "counting", work: func(absfs.File, int) (uint64, int64, error) {
		calls++
		return calls, 1, nil
	}}
	err := different.measure(0, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "results differ") || calls != 2 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestProgress(t *testing.T) {
	var terminal bytes.Buffer
	shown := &progress{terminal: &terminal}
	shown.show("round %d", 1)
	shown.clear()
	shown.clear()
	if terminal.String() != "round 1\r       \r" {
		t.Errorf("%q", terminal.String())
	}
}
