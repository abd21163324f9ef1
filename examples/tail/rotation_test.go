package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// logger writes numbered lines to a log. A line is never torn by the page that a copy is made by.
type logger struct {
	t      *testing.T
	path   string
	file   *os.File
	append int // os.O_APPEND, or 0
	lines  int
}

func newLogger(t *testing.T) *logger {
	l := &logger{t: t, path: filepath.Join(t.TempDir(), "app.log"), append: os.O_APPEND}
	l.reopen()
	t.Cleanup(func() { l.file.Close() })
	return l
}

// line returns line number n, of 64 bytes.
func line(n int) string { return fmt.Sprintf("%-62d.\n", n) }

func linesTo(n int) string {
	var text strings.Builder
	for i := range n {
		text.WriteString(line(i))
	}
	return text.String()
}

func (l *logger) log(count int) {
	l.t.Helper()
	for range count {
		_, err := l.file.WriteString(line(l.lines))
		l.must(err)
		l.lines++
	}
}

func (l *logger) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *logger) reopen() {
	l.t.Helper()
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|l.append, 0o644)
	l.must(err)
	if l.file != nil {
		l.file.Close()
	}
	l.file = file
}

// shift moves the copies on: .1 is the youngest.
func (l *logger) shift() {
	for i := 9; i > 0; i-- {
		err := os.Rename(fmt.Sprint(l.path, ".", i), fmt.Sprint(l.path, ".", i+1))
		if err != nil && !os.IsNotExist(err) {
			l.must(err)
		}
	}
}

// rename rotates as logrotate does it by default. Late lines go to the old file after it was
// renamed, and even after there is a new one.
func (l *logger) rename(late int) {
	l.t.Helper()
	l.shift()
	l.must(os.Rename(l.path, l.path+".1"))
	l.log(late)
	l.must(os.WriteFile(l.path, nil, 0o644))
	l.log(late)
	l.reopen()
}

// copyTruncate rotates as logrotate does with copytruncate, while nothing is logged.
func (l *logger) copyTruncate() {
	l.t.Helper()
	l.shift()
	contents, err := os.ReadFile(l.path)
	l.must(err)
	l.must(os.WriteFile(l.path+".1", contents, 0o644))
	l.must(os.Truncate(l.path, 0))
}

// many is a number of lines that takes more than one read, unless time is short.
func many() int {
	if testing.Short() {
		return 150
	}
	return 1500
}

// rotations are the ways a log is rotated, each with lines logged after it.
var rotations = map[string]func(l *logger){
	"renamed":                 func(l *logger) { l.rename(0); l.log(3) },
	"renamed, writer late":    func(l *logger) { l.rename(5); l.log(3) },
	"renamed, new file large": func(l *logger) { l.rename(1); l.log(2 * many()) },
	"renamed, no new file":    func(l *logger) { l.must(os.Rename(l.path, l.path+".1")); l.log(2) },
	"cut":                     func(l *logger) { l.copyTruncate() },
	"cut, grown a little":     func(l *logger) { l.copyTruncate(); l.log(3) },
	"cut, grown past":         func(l *logger) { l.copyTruncate(); l.log(2 * many()) },
}

// tailed is a follower whose output is kept.
type tailed struct {
	*follower
	t        *testing.T
	output   bytes.Buffer
	warnings []string
}

// needRotation skips the test where a log that is open cannot be rotated.
func needRotation(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := os.Rename(path, path+".1"); err != nil || runtime.GOOS == "windows" {
		t.Skip("an open log cannot be rotated here: ", err)
	}
	before, _ := file.Stat()
	os.WriteFile(path, nil, 0o644)
	if after, err := os.Stat(path); err != nil || os.SameFile(before, after) {
		t.Skip("this system does not tell files from each other: ", err)
	}
}

// tail follows the log from its first line on.
func tail(t *testing.T, l *logger) *tailed {
	t.Helper()
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	mfs := memmapfs.New(base, memmapfs.DefaultConfig())
	t.Cleanup(func() { mfs.Close() })
	f, err := newFollower(mfs, l.path, -1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	tailed := &tailed{follower: f, t: t}
	f.patience = time.Hour
	f.write = func(b []byte) error { tailed.output.Write(b); return nil }
	f.warn = func(text string) { tailed.warnings = append(tailed.warnings, text) }
	return tailed
}

func (f *tailed) mustPoll() {
	f.t.Helper()
	for more := true; more; {
		var err error
		if more, err = f.poll(); err != nil {
			f.t.Fatal(err)
		}
	}
}

// mustHave compares the output with what was logged.
func (f *tailed) mustHave(l *logger) {
	f.t.Helper()
	got, want := f.output.String(), linesTo(l.lines)
	if got == want && len(f.warnings) == 0 {
		return
	}
	same := 0
	for same < min(len(got), len(want)) && got[same] == want[same] {
		same++
	}
	f.t.Fatalf("%d bytes of %d, the first difference in line %d: %.200q, want %.100q; warnings %q",
		len(got), len(want), same/64, got[same/64*64:], want[same/64*64:], f.warnings)
}

// Catches lines that are lost, doubled or disordered when the log is rotated between two polls,
// with lines in it that no poll has seen.
func TestRotation(t *testing.T) {
	needRotation(t)
	for name, rotate := range rotations {
		t.Run(name, func(t *testing.T) {
			l := newLogger(t)
			f := tail(t, l)
			for range 3 {
				l.log(many())
				f.mustPoll()
				f.mustHave(l)
				l.log(1)
				rotate(l)
				f.mustPoll()
				f.mustHave(l)
				l.reopen()
			}
			if len(f.previous) > 3 {
				t.Errorf("%d files are open", len(f.previous))
			}
			f.patience = 0
			f.mustPoll()
			if len(f.previous) > 0 {
				t.Errorf("%d files are still open", len(f.previous))
			}
		})
	}
}

// watched calls something at the one of all calls that countdown gets to.
type watched struct {
	file
	called func()
}

func (w watched) ReadAt(p []byte, off int64) (int, error) { w.called(); return w.file.ReadAt(p, off) }
func (w watched) Stat() (os.FileInfo, error)              { w.called(); return w.file.Stat() }

// Catches the same when the log is rotated in the middle of a poll: before its first call of a
// file's method, before its second, and so on until there is none left.
func TestRotationMeanwhile(t *testing.T) {
	needRotation(t)
	for name, rotate := range rotations {
		t.Run(name, func(t *testing.T) {
			for k, reached := 0, true; reached; k++ {
				l := newLogger(t)
				l.log(many())
				f := tail(t, l)
				countdown := -1
				called := func() {
					if countdown == 0 {
						rotate(l)
					}
					countdown--
				}
				f.current.file = watched{f.current.file, called}
				f.mustPoll()
				l.log(many() / 8)
				countdown = k
				f.mustPoll()
				reached = countdown < 0
				f.mustPoll()
				if reached {
					f.mustHave(l)
				} else if k < 4 {
					t.Errorf("a poll has only %d calls", k)
				}
			}
		})
	}
}

// A writer that does not append leaves a hole of zeros before its next line. They are not shown.
func TestNoZeros(t *testing.T) {
	needRotation(t)
	l := newLogger(t)
	l.append = 0
	l.reopen()
	f := tail(t, l)
	for range 3 {
		l.log(2 * many())
		f.mustPoll()
		l.log(2)
		l.copyTruncate()
		f.mustPoll()
		l.log(1)
		f.mustPoll()
		f.mustHave(l)
	}
}

// padded reads zeros behind the end of the file, as a map of its last page does, and then the
// file grows.
type padded struct {
	file
	grow func()
}

func (p padded) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.file.ReadAt(b, off)
	clear(b[n:])
	if p.grow(); err == io.EOF {
		err = nil
	}
	return len(b), err
}

// What is read behind the end of the file is not taken for a part of it.
func TestNothingBehindTheEnd(t *testing.T) {
	l := newLogger(t)
	f := tail(t, l)
	f.current.file = padded{f.current.file, func() {
		if l.lines < 100 {
			l.log(1)
		}
	}}
	l.log(10)
	f.mustPoll()
	f.mustHave(l)
}

// Without a copy, what was not seen is gone, and the program says so. It goes on with what
// follows.
func TestCutWithoutCopy(t *testing.T) {
	l := newLogger(t)
	f := tail(t, l)
	l.log(10)
	f.mustPoll()
	l.must(os.WriteFile(l.path+".old", []byte("something else"), 0o644))
	l.must(l.file.Truncate(0))
	f.mustPoll()
	l.log(5)
	f.mustPoll()
	if f.output.String() != linesTo(15) || len(f.warnings) != 1 || !strings.Contains(f.warnings[0], "was cut, and no copy") {
		t.Errorf("%d bytes, warnings %q", f.output.Len(), f.warnings)
	}
}
