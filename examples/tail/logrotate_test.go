package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// logrotateRounds is how often logrotate rotates the log in a test.
const logrotateRounds = 12

// needLogrotate returns a function that calls logrotate for the log at path with the directives
// given.
func needLogrotate(t *testing.T, path, directives string) (rotate func()) {
	t.Helper()
	program, err := exec.LookPath("logrotate")
	if err != nil {
		if program = "/usr/sbin/logrotate"; exec.Command(program, "--version").Run() != nil {
			t.Skip("there is no logrotate: ", err)
		}
	}
	needRotation(t)
	directory := filepath.Dir(path)
	config := filepath.Join(t.TempDir(), "logrotate.conf")
	text := fmt.Sprintf("%q {\n rotate 1000\n nocompress\n missingok\n%s\n}\n", path, directives)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(directory, 0o755); err != nil { // it refuses directories that others may write
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		output, err := exec.Command(program, "-f", "-s", filepath.Join(filepath.Dir(config), "state"), config).CombinedOutput()
		if err != nil || len(output) > 0 {
			t.Fatalf("logrotate: %v\n%s", err, output)
		}
	}
}

// rotateWhileLogged has the log written, followed and rotated at the same time. A rotation waits
// until the follower has seen a line of the file that is rotated. A writer that reopens the log
// does so when another file has its name.
func rotateWhileLogged(t *testing.T, l *logger, rotate func(), reopen bool) *tailed {
	t.Helper()
	f := tail(t, l)
	var logged, shown atomic.Int64 // lines, and the number of the last one
	stop, written, read := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		for {
			select {
			case <-stop:
				return
			default:
			}
			l.log(1)
			logged.Store(int64(l.lines))
			if l.lines%50 == 0 {
				time.Sleep(time.Millisecond) // or logrotate never comes to the end of its copy
			}
			if info, err := os.Stat(l.path); reopen && err == nil {
				if mine, err := l.file.Stat(); err == nil && !os.SameFile(mine, info) {
					l.reopen()
				}
			}
		}
	}()
	go func() {
		defer close(read)
		for last := false; ; {
			if _, err := f.poll(); err != nil || last {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if text := f.output.Bytes(); len(text) >= 64 {
				n, _ := strconv.ParseInt(string(bytes.TrimRight(text[len(text)-64:], " .\n")), 10, 64)
				shown.Store(n)
			}
			select {
			case <-written:
				last = true
			default:
			}
		}
	}()
	defer func() { <-written; <-read }()
	defer close(stop)
	for range logrotateRounds {
		for before := logged.Load(); shown.Load() <= before && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		rotate()
	}
	return f
}

// With logrotate's default, renaming, everything that is logged is shown once, in its order.
func TestLogrotateRenames(t *testing.T) {
	l := newLogger(t)
	f := rotateWhileLogged(t, l, needLogrotate(t, l.path, " create 0644"), true)
	if copies, _ := filepath.Glob(l.path + ".*"); len(copies) != logrotateRounds {
		t.Errorf("there are %d rotated files", len(copies))
	}
	f.mustHave(l)
}

// With copytruncate everything that the rotation has kept is shown, once, in its order and whole.
// What was logged between copying and cutting is in no file; it may have been seen.
func TestLogrotateCopyTruncates(t *testing.T) {
	l := newLogger(t)
	f := rotateWhileLogged(t, l, needLogrotate(t, l.path, " copytruncate"), false)
	if len(f.warnings) > 0 {
		t.Errorf("warnings %q", f.warnings)
	}
	numbers := numbersOf(t, f.output.String())
	if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
		t.Errorf("lines are doubled or disordered in %d", len(numbers))
	}
	seen := make(map[int]bool, len(numbers))
	for _, n := range numbers {
		seen[n] = true
	}
	files, _ := filepath.Glob(l.path + "*")
	if len(files) != logrotateRounds+1 {
		t.Errorf("there are %d files", len(files))
	}
	kept, missing := 0, 0
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range numbersOf(t, string(text)) {
			if kept++; !seen[n] {
				missing++
			}
		}
	}
	if missing > 0 || kept < logrotateRounds {
		t.Errorf("%d of %d lines that the files have were not shown; %d were logged", missing, kept, l.lines)
	}
	t.Logf("%d lines logged, %d kept by the rotation, %d shown", l.lines, kept, len(numbers))
}

// numbersOf returns the numbers of lines, each of which has to be whole.
func numbersOf(t *testing.T, text string) (numbers []int) {
	t.Helper()
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		n, err := strconv.Atoi(strings.TrimRight(scanner.Text(), " ."))
		if err != nil || line(n) != scanner.Text()+"\n" {
			t.Fatalf("a torn line: %q", scanner.Text())
		}
		numbers = append(numbers, n)
	}
	return numbers
}
