package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// call runs the program and returns its exit status and what it printed.
func call(arguments ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(arguments, &out, &err)
	return status, out.String(), err.String()
}

var begin = time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)

// entry is a line with a time, and those without one that belong to it.
type entry struct {
	time time.Time
	text string
}

// makeLog writes a log with equal times, gaps, lines that belong to the one before, empty lines and a
// few long ones, and returns its entries.
func makeLog(t *testing.T, count int) (path string, entries []entry) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	levels := []string{"DEBUG", "INFO", "WARN", "ERROR"}
	at := begin
	var whole strings.Builder
	for number := range count {
		switch random.IntN(20) {
		case 0: // the same time as the one before
		case 1:
			at = at.Add(time.Hour)
		default:
			at = at.Add(time.Duration(random.IntN(2000)) * time.Millisecond)
		}
		text := fmt.Sprintf("%s %s request=%d\n", at.Format(time.RFC3339Nano), levels[random.IntN(4)], number)
		switch random.IntN(50) {
		case 0:
			text += "panic: ERROR without a time\n\n\tgoroutine 1\n"
		case 1:
			text += strings.Repeat("x", random.IntN(10_000)) + "\n"
		}
		entries = append(entries, entry{at, text})
		whole.WriteString(text)
	}
	path = filepath.Join(t.TempDir(), "log")
	contents := whole.String()
	contents = contents[:len(contents)-1] // no newline after the last line
	if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, entries
}

// expected is what the program must print.
func expected(entries []entry, pattern string, from, to time.Time) string {
	expression := regexp.MustCompile(pattern)
	var wanted strings.Builder
	for _, entry := range entries {
		if !from.IsZero() && entry.time.Before(from) || !to.IsZero() && !entry.time.Before(to) {
			continue
		}
		for line := range strings.Lines(entry.text) {
			if line = strings.TrimSuffix(line, "\n"); expression.MatchString(line) {
				wanted.WriteString(line + "\n")
			}
		}
	}
	return wanted.String()
}

// Ranges of time give the lines that a pass over all entries gives.
func TestRanges(t *testing.T) {
	path, entries := makeLog(t, 8_000)
	last := entries[len(entries)-1].time
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 60 {
		var from, to time.Time
		var arguments []string
		pick := func() time.Time {
			if round%2 == 0 { // just one that is in the log
				return entries[random.IntN(len(entries))].time
			}
			return begin.Add(time.Duration(random.Int64N(int64(last.Sub(begin)*11/10))) - time.Hour)
		}
		if round%3 != 0 {
			from = pick()
			arguments = append(arguments, "-from", from.Format(time.RFC3339Nano))
		}
		if round%4 != 0 {
			to = pick()
			arguments = append(arguments, "-to", to.Format(time.RFC3339Nano))
		}
		pattern := []string{"", "ERROR", "request=[0-9]*7$", "^panic", "no such text"}[round%5]
		wanted := expected(entries, pattern, from, to)
		status, stdout, stderr := call(append(arguments, pattern, path)...)
		wantStatus := exitFound
		if wanted == "" {
			wantStatus = exitNothing
		}
		if stdout != wanted || status != wantStatus || stderr != "" {
			t.Fatalf("%q: exit status %d, want %d; %d bytes, want %d; standard error %q",
				append(arguments, pattern), status, wantStatus, len(stdout), len(wanted), stderr)
		}
	}
}

// A time range in a file without times is empty; without a range all lines are searched.
func TestNoTimes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(strings.Repeat("one line\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, stdout, _ := call("-from", "2025-03-01T12:00:00Z", "line", path); status != exitNothing || stdout != "" {
		t.Errorf("exit status %d, standard output %q", status, stdout)
	}
	if status, stdout, _ := call("line", path); status != exitFound || strings.Count(stdout, "\n") != 1000 {
		t.Errorf("exit status %d, %d lines", status, strings.Count(stdout, "\n"))
	}
}

// Several files have their names before each line. One that cannot be read does not keep the others
// from being searched.
func TestSeveralFiles(t *testing.T) {
	directory := t.TempDir()
	first, second := filepath.Join(directory, "first"), filepath.Join(directory, "second")
	for _, path := range []string{first, second} {
		if err := os.WriteFile(path, []byte("a line\n\nno\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	missing := filepath.Join(directory, "missing")
	status, stdout, stderr := call("line", first, missing, directory, second)
	if status != exitFailure || stdout != first+":a line\n"+second+":a line\n" {
		t.Errorf("exit status %d, standard output %q", status, stdout)
	}
	if strings.Count(stderr, "loggrep: ") != 2 || !strings.Contains(stderr, missing) || !strings.Contains(stderr, "not a regular file") {
		t.Errorf("standard error %q", stderr)
	}
}

func TestUsage(t *testing.T) {
	for _, arguments := range [][]string{
		{}, {"pattern"}, {"-from", "noon", "pattern", "file"}, {"-unknown"}, {"(", "file"},
	} {
		status, stdout, stderr := call(arguments...)
		if status != exitFailure || stdout != "" || stderr == "" {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", arguments, status, stdout, stderr)
		}
	}
	status, _, stderr := call("-help")
	if status != 0 || strings.Count(stderr, "\n") != 2 {
		t.Errorf("-help: exit status %d, standard error %q", status, stderr)
	}
}
