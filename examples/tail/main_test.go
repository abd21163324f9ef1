package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestLastLines(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	for _, test := range []struct {
		text  string
		lines int
		want  string
	}{
		{"", 10, ""},
		{"a\nb\nc\n", 0, ""},
		{"a\nb\nc\n", 1, "c\n"},
		{"a\nb\nc", 2, "b\nc"},
		{"a\nb\nc\n", 3, "a\nb\nc\n"},
		{"a\nb\nc\n", 4, "a\nb\nc\n"},
		{"a\nb\n\n", 2, "b\n\n"},
		{"a\n" + long + "\nc\n", 2, long + "\nc\n"},
	} {
		text := strings.NewReader(test.text)
		start, err := lastLines(text, text.Size(), test.lines)
		if err != nil || test.text[start:] != test.want {
			t.Errorf("the last %d lines of %.20q begin at %d: %v", test.lines, test.text, start, err)
		}
		if p, err := placeAt(text, start); err != nil || p.offset != start || !strings.HasSuffix(test.text[:start], string(p.tail)) ||
			!strings.HasPrefix(test.text, string(p.head)) {
			t.Errorf("the place at %d of %.20q: %v", start, test.text, err)
		}
	}
}

// The program shows the last lines of each file, and what was logged before it was interrupted.
func TestProgram(t *testing.T) {
	l := newLogger(t)
	l.log(20)
	second := filepath.Join(t.TempDir(), "second.log")
	interrupted, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	var stdout, stderr bytes.Buffer
	writes := writerFunc(func(p []byte) (int, error) {
		n, err := stdout.Write(p)
		switch {
		case stdout.Len() == len("==> "+l.path+" <==\n")+2*64: // the last lines
			l.log(1)
			l.must(os.WriteFile(second, []byte("later\n"), 0o644))
		case strings.Contains(stdout.String(), "later"):
			interrupt()
		}
		return n, err
	})
	status := run(interrupted, []string{"-n", "2", "-interval", "1ms", l.path, second}, writes, &stderr)
	wanted := fmt.Sprintf(`^==> \S+app\.log <==\n%s%s(%[3]s\n==> \S+second\.log <==\nlater\n|\n==> \S+second.log <==\nlater\n\n==> \S+app.log <==\n%[3]s)$`,
		line(18), line(19), line(20))
	if status != 0 || !regexp.MustCompile(wanted).MatchString(stdout.String()) || !strings.HasSuffix(stderr.String(), "second.log does not exist yet\n") {
		t.Errorf("exit status %d, standard error %q, standard output\n%s", status, &stderr, &stdout)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		arguments []string
		status    int
		says      string
	}{
		{nil, exitUsage, "usage: tail"},
		{[]string{"-help"}, 0, "-interval time"},
		{[]string{"-unknown"}, exitUsage, "usage: tail"},
		{[]string{"-interval", "0s", "file"}, exitUsage, "usage: tail"},
		{[]string{t.TempDir()}, exitFailure, "is not a regular file"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(context.Background(), test.arguments, &stdout, &stderr)
		if status != test.status || stdout.Len() > 0 || !strings.Contains(stderr.String(), test.says) {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", test.arguments, status, &stdout, &stderr)
		}
	}
}
