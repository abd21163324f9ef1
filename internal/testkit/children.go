package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// childVariable names the test that a child process is to run.
const childVariable = "MEMMAPFS_TEST_CHILD"

// reportMark starts the lines of a child that its parent shows.
const reportMark = "child: "

// Report shows, in the parent's output too, how many faults were injected and survived.
func Report(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf(reportMark+format, args...)
}

// InChild runs scenario in a child process, and fails the test unless that ends well and has reported
// what it survived.
func InChild(t *testing.T, scenario func(t *testing.T), configure ...func(*exec.Cmd)) {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		scenario(t)
		return
	}
	NeedMaps(t)
	var pattern []string
	for _, element := range strings.Split(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(element)+"$")
	}
	run := func() ([]byte, error) {
		child := ThisProgram(t, "-test.run="+strings.Join(pattern, "/"), "-test.v", "-test.count=1",
			"-test.timeout=2m", fmt.Sprintf("-test.short=%v", testing.Short()))
		child.Env = append(os.Environ(), childVariable+"="+t.Name(),
			"GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")) // the race detector would wait a second in each child
		for _, configure := range configure {
			configure(child)
		}
		return child.CombinedOutput()
	}
	output, err := run()
	for again := 0; again < 5 && bytes.Contains(output, []byte("fatal error: runtime: cannot allocate memory")); again++ {
		output, err = run() // the Go runtime itself needed what a test of limits had taken
	}
	if errors.Is(err, syscall.EPERM) {
		t.Skip("this process may not start the child that it needs: ", err)
	}
	if err != nil {
		t.Fatalf("the child process: %v\n%s", err, output)
	}
	if _, reason, skipped := strings.Cut(string(output), CannotRunMark); skipped {
		t.Skip(strings.Split(reason, "\n")[0])
	}
	reported := 0
	for line := range strings.Lines(string(output)) {
		if _, text, found := strings.Cut(line, reportMark); found {
			t.Log(strings.TrimSpace(text))
			reported++
		}
	}
	if reported == 0 {
		t.Fatalf("the child process reported nothing:\n%s", output)
	}
}

// CannotRunMark starts the line with which a child tells its parent why it cannot run.
const CannotRunMark = "cannot run here: "
