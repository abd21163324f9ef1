package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
)

// programVariable makes the test's program, started again, be this program.
const programVariable = "SHAREDCOUNTER_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
	}
	os.Exit(m.Run())
}

// call runs the program and returns its exit status and what it printed. It skips the test on a system
// without shared memory, after checking that the program says so.
func call(t *testing.T, interrupted context.Context, arguments ...string) (status int, stdout, stderr string) {
	t.Helper()
	t.Setenv(programVariable, "1")
	var out, err bytes.Buffer
	status = run(interrupted, arguments, &out, &err)
	if strings.Contains(err.String(), memmapfs.ErrNotMapped.Error()) {
		_, createError := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: filepath.Join(t.TempDir(), "region"), Size: 8})
		if status == exitFailure && errors.Is(createError, memmapfs.ErrNotMapped) {
			t.Skip("this system has no shared memory")
		}
	}
	return status, out.String(), err.String()
}

// The counter has every raise of every process, and goes on where it was.
func TestCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory", "counter")
	for _, wanted := range []string{
		"4 processes raised the counter from 0 to 4000000 in ",
		"4 processes raised the counter from 4000000 to 8000000 in ",
	} {
		status, stdout, stderr := call(t, context.Background(), "-processes", "4", "-raises", "1000000", path)
		if status != 0 || stderr != "" || !strings.HasPrefix(stdout, wanted) || strings.Count(stdout, "\n") != 1 {
			t.Errorf("exit status %d, standard error %q, standard output %q", status, stderr, stdout)
		}
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

func mustBeEmpty(t *testing.T, directory string) {
	t.Helper()
	left, err := os.ReadDir(directory)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Without a file the program makes one, and removes it.
func TestNoFile(t *testing.T) {
	directory := temporaryDirectory(t)
	status, stdout, stderr := call(t, context.Background(), "-processes", "1", "-raises", "5")
	if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "1 processes raised the counter from 0 to 5 in ") {
		t.Errorf("exit status %d, standard error %q, standard output %q", status, stderr, stdout)
	}
	mustBeEmpty(t, directory)
}

// An interrupt ends the processes, which would take hours, and leaves no file behind.
func TestInterrupted(t *testing.T) {
	call(t, context.Background(), "-raises", "1") // skips where there is no shared memory
	path := filepath.Join(t.TempDir(), "counter")
	region, counter, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	interrupted, interrupt := context.WithCancel(context.Background())
	go func() {
		for counter.Load() == 0 {
			runtime.Gosched()
		}
		interrupt()
	}()
	if status, _, stderr := call(t, interrupted, "-raises", "1000000000000", path); status != exitInterrupted || !strings.Contains(stderr, "interrupted") {
		t.Errorf("exit status %d, standard error %q", status, stderr)
	}

	directory := temporaryDirectory(t)
	if status, _, _ := call(t, interrupted, "-raises", "1000000000000"); status != exitInterrupted {
		t.Errorf("exit status %d", status)
	}
	mustBeEmpty(t, directory)
}

// A process that fails is not passed over.
func TestProcessFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "counter")
	if err := os.WriteFile(filepath.Dir(path), []byte("a file where the directory should be"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{{path}, {"-worker", path}} {
		status, stdout, stderr := call(t, context.Background(), arguments...)
		if status != exitFailure || stdout != "" || !strings.HasPrefix(stderr, "sharedcounter: ") {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", arguments, status, stdout, stderr)
		}
	}
}

// Nor is one that fails after it was started: here a program that does not know its arguments.
func TestStartedProcessFails(t *testing.T) {
	call(t, context.Background(), "-raises", "1") // skips where there is no shared memory
	t.Setenv(programVariable, "")
	var stdout, stderr bytes.Buffer
	status := run(context.Background(), []string{filepath.Join(t.TempDir(), "counter")}, &stdout, &stderr)
	if status != exitFailure || stdout.Len() > 0 || !strings.Contains(stderr.String(), "sharedcounter: a process has failed: exit status 2") {
		t.Errorf("exit status %d, standard output %q, standard error %q", status, &stdout, &stderr)
	}
}

func TestUsage(t *testing.T) {
	for _, arguments := range [][]string{
		{"one", "two"}, {"-processes", "0"}, {"-raises", "many"}, {"-unknown"}, {"-worker"},
	} {
		status, stdout, stderr := call(t, context.Background(), arguments...)
		if status != exitUsage || stdout != "" || !strings.Contains(stderr, "usage: sharedcounter") {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", arguments, status, stdout, stderr)
		}
	}
}
