package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func tinyBench(stdout io.Writer, expression string) bench {
	return bench{
		picked:   regexp.MustCompile(expression),
		pace:     pace{rounds: 2, turns: 1, length: 100 * time.Microsecond},
		sizes:    tinySizes,
		stdout:   stdout,
		progress: &progress{},
		command:  "a test",
	}
}

// Every row can be measured, its contestants agree about the bytes, and it stands in the tables and
// the charts. Nothing stays behind.
func TestEveryRow(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	var stdout bytes.Buffer
	b := tinyBench(&stdout, "")
	if err := b.run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	t.Log(stdout.String())

	path := filepath.Join(out, "new", "report.md")
	readme := filepath.Join(out, "README.md")
	if err := os.WriteFile(readme, []byte("before\n"+readmeSection.begin+"stale\n"+readmeSection.end+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.write(path, readme, filepath.Join(out, "charts")); err != nil {
		t.Fatal(err)
	}
	inReadme, err := os.ReadFile(readme)
	if err != nil || bytes.Contains(inReadme, []byte("stale")) ||
		!bytes.HasPrefix(inReadme, []byte("before\n"+readmeSection.begin)) || !bytes.HasSuffix(inReadme, []byte(readmeSection.end+"after\n")) {
		t.Errorf("%v, %s", err, inReadme)
	}
	if bytes.Contains(inReadme, []byte("**")) || !bytes.Contains(inReadme, []byte("| workload | times faster than osfs | ns |")) {
		t.Errorf("the short table is another:\n%s", inReadme)
	}
	markdown, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows(tinySizes) {
		if !strings.Contains(stdout.String(), r.name) || !strings.Contains(string(markdown), r.name) ||
			r.curve == "" && !r.detail && !bytes.Contains(inReadme, []byte(r.name)) {
			t.Errorf("no row %q", r.name)
		}
	}
	for _, r := range b.results {
		if r.skipped != nil {
			t.Logf("%s: %v", r.row.name, r.skipped)
			continue
		}
		if r.ratio[mapped] != 1 || !(r.ratio[plain] > 0) {
			t.Errorf("%s: ratios %v", r.row.name, r.ratio)
		}
		if r.row.goals.better > 0 && !(r.share > 0) {
			t.Errorf("%s: there is a goal against the better one, and nobody to be it", r.row.name)
		}
	}
	for _, chart := range []string{"ratios", "working-set-hot"} {
		drawing, err := os.ReadFile(filepath.Join(out, "charts", chart+".svg"))
		if err != nil || !bytes.Contains(drawing, []byte("<svg")) {
			t.Errorf("%s: %d bytes, %v", chart, len(drawing), err)
		}
		if !strings.Contains(string(markdown), "(../charts/"+chart+".svg)") {
			t.Errorf("the report does not show %s", chart)
		}
	}
	checkEmpty(t, dir)
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	interrupted, interrupt := context.WithCancel(t.Context())
	interrupt()
	b := tinyBench(io.Discard, "sequential Read")
	if err := b.run(interrupted, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	checkEmpty(t, dir)
}

// A contestant that does other work than the rest is found out.
func TestDifferentWork(t *testing.T) {
	sum := func(value uint64) func(t turn) (uint64, error) {
		return func(t turn) (uint64, error) { return value * uint64(t.operations), nil }
	}
	r := row{name: "row", setup: func(w *workspace) ([]contestant, error) {
		return []contestant{{name: plain, work: sum(1)}, {name: mapped, work: sum(1)}, {name: expMmap, work: sum(2)}}, nil
	}}
	_, err := measure(t.Context(), r, &workspace{}, pace{rounds: 1, turns: 1}, func(string, ...any) {})
	if err == nil || !strings.Contains(err.Error(), expMmap) {
		t.Errorf("%v, want an error that names %s", err, expMmap)
	}
}

// Times that are known give ratios that are known, whatever the order of the turns.
func TestMeasure(t *testing.T) {
	turns := 0
	takes := func(name string, each time.Duration) contestant {
		return contestant{
			name:   name,
			work:   func(t turn) (uint64, error) { turns++; return 0, nil },
			metric: func() time.Duration { return each },
		}
	}
	r := row{name: "row", goals: goals{plain: 4, better: 0.4}, operations: 1, setup: func(w *workspace) ([]contestant, error) {
		return []contestant{takes(plain, 3000), takes(mapped, 1000), takes(expMmap, 500)}, nil
	}}
	found, err := measure(t.Context(), r, &workspace{}, pace{rounds: 3, turns: 2, length: time.Hour}, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	if found.ratio[plain] != 3 || found.ratio[expMmap] != 0.5 || found.nanosecond[plain] != 3000 {
		t.Errorf("ratios %v, times %v", found.ratio, found.nanosecond)
	}
	if want := 3 * (3*2 + 2); turns != want {
		t.Errorf("%d turns, want %d", turns, want)
	}
	if cell, below := ratioCell(found, plain); cell != "3.00 < 4" || !below {
		t.Errorf("cell %q, below the goal: %v", cell, below)
	}
	if cell, below := shareCell(found); cell != "0.50" || below {
		t.Errorf("share of the better one %q, below the goal: %v", cell, below)
	}
	if cell, below := ratioCell(found, expMmap); cell != "0.50" || below {
		t.Errorf("cell %q, below the goal: %v", cell, below)
	}
	if cell := nanosecondCell(result{nanosecond: map[string]float64{plain: 1234567}}, plain); cell != "1,234,567" {
		t.Errorf("cell %q", cell)
	}
}

// What is written by hand around a section stays, and a file without a place for it is told of
// before anything is measured.
func TestSections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.md")
	for _, text := range []string{"one\n", "two\n"} {
		if err := markdownSection.write(path, text, true); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(path)
		if err != nil || string(written) != markdownSection.begin+text+markdownSection.end {
			t.Errorf("%v, %q", err, written)
		}
	}
	if err := os.WriteFile(path, []byte("above\n"+markdownSection.begin+"two\n"+markdownSection.end+"below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := markdownSection.write(path, "three\n", true); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(path)
	if err != nil || string(written) != "above\n"+markdownSection.begin+"three\n"+markdownSection.end+"below\n" {
		t.Errorf("%v, %q", err, written)
	}
	if err := os.WriteFile(path, []byte("by hand\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	status := run([]string{"-quick", "-markdown", path, "-dir", t.TempDir()}, &stdout, &stderr)
	written, err = os.ReadFile(path)
	if status != exitFailure || !strings.Contains(stderr.String(), "no place") || stdout.Len() > 0 || err != nil || string(written) != "by hand\n" {
		t.Errorf("exit status %d, %q, %q, %v, %q", status, stdout.String(), stderr.String(), err, written)
	}
}

// Rows that are to take the same time are compared with one another.
func TestCliffs(t *testing.T) {
	takes := func(name string, nanosecond float64) result {
		return result{row: row{name: name, goals: goals{alike: "here"}}, nanosecond: map[string]float64{mapped: nanosecond}}
	}
	if found := cliffs([]result{takes("a", 100), takes("b", 104), takes("c", 103)}); len(found) > 0 {
		t.Errorf("%q, want none", found)
	}
	found := cliffs([]result{takes("a", 100), takes("b", 300), takes("c", 103)})
	if len(found) != 1 || !strings.Contains(found[0], `"a"`) || !strings.Contains(found[0], `"b"`) || !strings.Contains(found[0], "3.00") {
		t.Errorf("%q, want a and b, and a factor of 3.00", found)
	}
}

// The costs that decide say what a map has to be used for to pay, and leave nothing behind.
func TestCosts(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	if status := run([]string{"-costs", "-dir", dir}, &stdout, &stderr); status != 0 || !strings.Contains(stdout.String(), "a pread") {
		t.Errorf("exit status %d, %s%s", status, stdout.String(), stderr.String())
	}
	checkEmpty(t, dir)
	c := costs{read: 1100, load: 100, fault: 5000, around: 64 << 10, mapping: 20_000}
	all := strings.Join(c.consequences(), "\n")
	for _, want := range []string{"4.5 small reads", "100µs", "more than 100 times", "more than 5 times"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in:\n%s", want, all)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		arguments []string
		status    int
		message   string
	}{
		{[]string{"-help"}, 0, "-quick"},
		{[]string{"-rounds", "-1"}, exitUsage, "-rounds"},
		{[]string{"-run", "("}, exitUsage, "regular expression"},
		{[]string{"file"}, exitUsage, "no arguments"},
		{[]string{"-run", "no such row"}, exitFailure, "no row matches"},
		{[]string{"-quick", "-run", "sequential", "-dir", filepath.Join(t.TempDir(), "missing")}, exitFailure, "missing"},
	} {
		var stdout, stderr bytes.Buffer
		if status := run(test.arguments, &stdout, &stderr); status != test.status || !strings.Contains(stderr.String(), test.message) {
			t.Errorf("%q: exit status %d, want %d; %q is to be in:\n%s", test.arguments, status, test.status, test.message, stderr.String())
		}
	}
}
