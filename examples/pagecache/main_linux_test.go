package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What the program says is what fincore of util-linux says.
func TestFincore(t *testing.T) {
	needEviction(t)
	if _, err := exec.LookPath("fincore"); err != nil {
		t.Skip("there is no fincore: ", err)
	}
	path := makeFile(t, filepath.Join(t.TempDir(), "file"), 8<<20+5000)
	call("-evict", path)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_RANDOM); err != nil { // nothing is read ahead
		t.Fatal(err)
	}
	if _, err := file.ReadAt(make([]byte, 2<<20), 4<<20); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("fincore", "-b", "-n", "-o", "RES", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := strconv.ParseInt(strings.TrimSpace(string(output)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := call(path)
	wanted := fmt.Sprintf(`\n *%s +8\.01 MiB +\d+%% +·{15,16}[░▒▓]?█{6,8}[░▒▓]?·{7,8} `, regexp.QuoteMeta(human(bytes)))
	if status != 0 || stderr != "" || !regexp.MustCompile(wanted).MatchString(stdout) {
		t.Errorf("fincore says %d bytes; exit status %d, standard error %q, standard output\n%s", bytes, status, stderr, stdout)
	}
}

// Thousands of files and a file larger than any memory take a few megabytes, and so does touching
// what is in memory already.
func TestMemoryUse(t *testing.T) {
	needAnswers(t)
	t.Parallel()
	files := 5_000
	if testing.Short() {
		files = 1_000
	}
	directory := t.TempDir()
	for i := range files {
		path := filepath.Join(directory, strconv.Itoa(i/500), strconv.Itoa(i))
		if i%500 == 0 {
			makeFile(t, path, 1)
		} else if err := os.WriteFile(path, []byte{1}, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	giant := makeFile(t, filepath.Join(directory, "giant"), 1)
	large := makeFile(t, filepath.Join(directory, "large"), 1)
	if err := errors.Join(os.Truncate(giant, 1<<40), os.Truncate(large, 256<<20)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		arguments []string
		says      string
	}{
		{[]string{directory}, fmt.Sprintf(`all of %s, %s of them not shown`, counted(int64(files+2)), grouped(int64(files+2-20)))},
		{[]string{"-touch", large}, "256 MiB  +256 MiB  +100% "},
	} {
		var command *exec.Cmd
		var output []byte
		var err error
		says := regexp.MustCompile(test.says)
		for try := 0; try < 3 && !says.Match(output); try++ { // other tests empty the page cache at times
			if err := errors.Join(os.Truncate(large, 0), os.Truncate(large, 256<<20)); err != nil {
				t.Fatal(err)
			}
			command = exec.Command(os.Args[0], test.arguments...)
			command.Env = append(os.Environ(), programVariable+"=1")
			output, err = command.Output()
		}
		if err != nil || !says.Match(output) {
			t.Errorf("%v: %v\n%s", test.arguments, err, output)
		}
		if most := command.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; most > 100<<10 {
			t.Errorf("%v: %d KiB of memory used", test.arguments, most)
		}
	}
}

// With -lock the files are locked while the program runs, and no longer.
func TestLock(t *testing.T) {
	needAnswers(t)
	path := makeFile(t, filepath.Join(t.TempDir(), "file"), 1<<20)
	locked := func() int {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		var kibibytes int
		_, after, _ := bytes.Cut(status, []byte("VmLck:"))
		fmt.Sscan(string(after), &kibibytes)
		return kibibytes
	}
	before := locked()
	interrupted, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	var stderr bytes.Buffer
	reader, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() { ended <- run(interrupted, []string{"-lock", path}, writer, &stderr); writer.Close() }()
	var table [1 << 10]byte
	n, err := reader.Read(table[:])
	if err == io.EOF && <-ended == exitFailure && strings.Contains(stderr.String(), "RLIMIT_MEMLOCK") {
		t.Skip("the system does not let this user lock a MiB")
	}
	if err != nil || !bytes.Contains(table[:n], []byte(" 100% ")) || locked() != before+1<<10 {
		t.Errorf("%d KiB locked: %v\n%s", locked()-before, err, table[:n])
	}
	interrupt()
	if status := <-ended; status != 0 || stderr.String() != "locked 1.00 MiB in 1 file, until interrupted\n" {
		t.Errorf("exit status %d, standard error %q", status, &stderr)
	}
	if locked() != before {
		t.Errorf("%d KiB are still locked", locked()-before)
	}
}

// Of files that are somebody else's the program says that it does not know, and counts them as
// nothing.
func TestUntrusted(t *testing.T) {
	needAnswers(t)
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	directory := t.TempDir()
	path := makeFile(t, filepath.Join(directory, "file"), 1<<20)
	if err := errors.Join(os.Chmod(directory, 0o755), os.Chmod(filepath.Dir(directory), 0o755)); err != nil {
		t.Fatal(err)
	}
	for parent := directory; parent != "/"; parent = filepath.Dir(parent) {
		if info, err := os.Stat(parent); err != nil || info.Mode()&0o001 == 0 {
			t.Skipf("others may not enter %s", parent)
		}
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(directory, "program")
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(copied, path)
	command.Dir = directory
	command.Env = append(os.Environ(), programVariable+"=1")
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	command.Run()
	if status := command.ProcessState.ExitCode(); status != exitFailure ||
		!regexp.MustCompile(`\n +\? +1\.00 MiB +[^░▒▓█]+/file\n +0 B +0 B `).MatchString(stdout.String()) ||
		!strings.Contains(stderr.String(), "1 file not counted: the system tells what is in memory of a file only to its owner") {
		t.Errorf("exit status %d, standard error %q, standard output\n%s", status, &stderr, &stdout)
	}
}
