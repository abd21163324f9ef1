package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// programVariable makes the test's program, started again, be this program.
const programVariable = "PAGECACHE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

// call runs the program and returns its exit status and what it printed.
func call(arguments ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(context.Background(), arguments, &out, &err)
	return status, out.String(), err.String()
}

// makeFile makes a file, and the directory that it is in.
func makeFile(t *testing.T, path string, size int) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, bytes.Repeat([]byte{1}, size), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

// needAnswers skips the test where the system does not tell what is in memory, after checking
// that the program says so.
func needAnswers(t *testing.T) {
	t.Helper()
	path := makeFile(t, filepath.Join(t.TempDir(), "file"), 1)
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	file, err := memmapfs.New(base, nil).Open(osfs.FromNative(path))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, _, _, err := file.(*memmapfs.MappedFile).Residency(0, 1); errors.Is(err, errors.ErrUnsupported) {
		status, stdout, stderr := call(path)
		if status != exitFailure || !regexp.MustCompile(`\n +\? +1 B +`).MatchString(stdout) ||
			!strings.Contains(stderr, "1 file not counted: the system does not tell") {
			t.Errorf("exit status %d, standard output %q, standard error %q", status, stdout, stderr)
		}
		t.Skip("the system does not tell what is in memory")
	}
}

// needEviction skips the test where pages cannot be dropped.
func needEviction(t *testing.T) {
	t.Helper()
	needAnswers(t)
	path := makeFile(t, filepath.Join(t.TempDir(), "file"), 1<<20)
	if status, stdout, stderr := call("-evict", path); status != 0 || !strings.Contains(stdout, " 0%  ") {
		t.Skipf("files in %s stay in memory: %s%s", filepath.Dir(path), stdout, stderr)
	}
}

// The program evicts, touches and shows what is in memory, and where.
func TestEvictTouchShow(t *testing.T) {
	needEviction(t)
	directory := t.TempDir()
	makeFile(t, filepath.Join(directory, "large"), 4<<20)
	makeFile(t, filepath.Join(directory, "below", "small"), 100)
	makeFile(t, filepath.Join(directory, "empty"), 0)
	for _, test := range []struct{ flag, says, shows string }{
		{"-evict", `^evicted .* in 3 files in `, `(?m)^ +0 B +4\.00 MiB +0% +·{32} +.*large$(?s:.*)^ +0 B .* +0% +all of 3 files$`},
		{"-touch", `^touched 4\.00 MiB in 3 files in `, `(?m)^ 4\.00 MiB +4\.00 MiB +100% +█{32} +.*large$(?s:.*)^ +4\.\d+ MiB .*100% +all of 3 files$`},
		{"-evict", `^evicted 4\.\d+ MiB in 3 files in `, `(?m)^ +0 B +\d.* +0% +·{32} +.*small$`},
	} {
		status, stdout, stderr := call(test.flag, directory)
		if status != 0 || !regexp.MustCompile(test.says).MatchString(stderr) || !regexp.MustCompile(test.shows).MatchString(stdout) {
			t.Errorf("%s: exit status %d, standard error %q, standard output\n%s", test.flag, status, stderr, stdout)
		}
	}
}

// What stands first is what was asked for, and a file with two names or met twice counts once.
func TestOrder(t *testing.T) {
	needEviction(t)
	directory := t.TempDir()
	small := makeFile(t, filepath.Join(directory, "b-small"), 1<<20)
	makeFile(t, filepath.Join(directory, "a-large"), 2<<20)
	if err := os.Link(small, filepath.Join(directory, "c-again")); err != nil {
		t.Fatal(err)
	}
	call("-evict", directory)
	call("-touch", small)
	for flag, first := range map[string]string{"memory": "b-small", "share": "b-small", "size": "a-large", "name": "a-large"} {
		status, stdout, _ := call("-sort", flag, "-top", "1", directory, small)
		if lines := strings.Split(stdout, "\n"); status != 0 || len(lines) != 4 || !strings.HasSuffix(lines[1], first) ||
			!regexp.MustCompile(`^ 1\.00 MiB  +3\.00 MiB +33% +all of 2 files, 1 of them not shown$`).MatchString(lines[2]) {
			t.Errorf("-sort %s: exit status %d\n%s", flag, status, stdout)
		}
	}
}

// With -watch the program looks again and again, and draws each look.
func TestWatch(t *testing.T) {
	needAnswers(t)
	path := makeFile(t, filepath.Join(t.TempDir(), "watched & <drawn>"), 1<<20)
	picture := filepath.Join(t.TempDir(), "picture.svg")
	interrupted, interrupt := context.WithTimeout(context.Background(), time.Minute)
	defer interrupt()
	var stdout, stderr bytes.Buffer
	looks := 0
	counted := writerFunc(func(p []byte) (int, error) {
		if looks += bytes.Count(p, []byte("all of 1 file")); looks == 5 {
			interrupt()
		}
		return stdout.Write(p)
	})
	if status := run(interrupted, []string{"-watch", "1ms", "-svg", picture, path}, counted, &stderr); status != 0 || looks != 5 {
		t.Errorf("exit status %d after %d looks, standard error %q, standard output\n%s", status, looks, &stderr, &stdout)
	}
	drawn, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	mustBeXML(t, drawn)
	if !bytes.Contains(drawn, []byte("watched &amp; &lt;drawn&gt;")) || !bytes.Contains(drawn, []byte("all files together")) {
		t.Errorf("the picture is\n%s", drawn)
	}
	if left, err := os.ReadDir(filepath.Dir(picture)); err != nil || len(left) != 1 {
		t.Errorf("beside the picture: %v, %v", left, err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestUsage(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		arguments []string
		status    int
		says      string
	}{
		{nil, exitUsage, "usage: pagecache"},
		{[]string{"-help"}, 0, "-watch time"},
		{[]string{"-unknown"}, exitUsage, "usage: pagecache"},
		{[]string{"-evict", "-touch", "."}, exitUsage, "usage: pagecache"},
		{[]string{"-sort", "color", "."}, exitUsage, "usage: pagecache"},
		{[]string{missing}, exitFailure, "1 file could not be looked at; the first: "},
		{[]string{"-touch", missing}, exitFailure, "1 file failed; the first: "},
	} {
		status, stdout, stderr := call(test.arguments...)
		if status != test.status || !strings.Contains(stderr, test.says) || (status != exitFailure && stdout != "") {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", test.arguments, status, stdout, stderr)
		}
	}
}
