//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
)

// The tests serve from a process of their own: a program that starts others, or maps files, while
// it serves FUSE itself can wait for itself.
func TestMain(m *testing.M) {
	if os.Getenv(serverVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const serverVariable = "MEMMAPFS_FUSE_SERVER"

// patience is how long a program may take.
const patience = 2 * time.Minute

// place is a directory, and the mount point that shows it.
type place struct {
	directory, mountPoint string
	server                *exec.Cmd
	output                *bufio.Reader // of the server
	stopped               bool
}

// show serves directory in the given mode, until stop or the end of the test.
func show(t *testing.T, mode, directory string, arguments ...string) *place {
	t.Helper()
	p := &place{directory: directory, mountPoint: t.TempDir()}
	arguments = append(append([]string{"-mode", mode}, arguments...), directory, p.mountPoint)
	p.server = exec.Command(os.Args[0], arguments...)
	p.server.Env = append(os.Environ(), serverVariable+"=1")
	var complaints bytes.Buffer
	p.server.Stderr = &complaints
	output, err := p.server.StdoutPipe()
	must(t, err)
	p.output = bufio.NewReader(output)
	must(t, p.server.Start())
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() && complaints.Len() > 0 {
			t.Logf("the server says:\n%s", &complaints)
		}
	})
	line, err := p.output.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "serving") {
		p.server.Wait()
		if complaint := complaints.String(); strings.Contains(complaint, "mount ") && strings.Contains(complaint, syscall.EPERM.Error()) {
			skip(t, complaint) // a container that may not
		}
		t.Fatalf("the server does not serve: %s", &complaints)
	}
	return p
}

// stop unmounts and waits until all files are closed. It returns how many reads and writes maps
// have served.
func (p *place) stop(t *testing.T) (reads, writes int) {
	t.Helper()
	line := p.end(t)
	numbers := regexp.MustCompile(`^served \d+ reads, (\d+) by maps; \d+ writes, (\d+) by maps\n$`).FindStringSubmatch(line)
	if numbers == nil {
		t.Fatalf("the server's last words: %q", line)
	}
	reads, _ = strconv.Atoi(numbers[1])
	writes, _ = strconv.Atoi(numbers[2])
	return reads, writes
}

// end unmounts and waits until all files are closed. It returns the server's last words.
func (p *place) end(t *testing.T) (line string) {
	t.Helper()
	must(t, p.server.Process.Signal(syscall.SIGTERM))
	impatient := time.AfterFunc(patience, func() { p.server.Process.Kill() })
	defer impatient.Stop()
	line, _ = p.output.ReadString('\n')
	if err := p.server.Wait(); err != nil {
		t.Fatalf("the server ends with %v after %q", err, line)
	}
	p.stopped = true
	return line
}

// kill ends the server without giving it a chance to do anything, and takes the mount away.
func (p *place) kill(t *testing.T) {
	if p.stopped {
		return
	}
	p.stopped = true
	p.server.Process.Kill()
	p.server.Wait()
	if err := syscall.Unmount(p.mountPoint, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
		if output, err := exec.Command("fusermount3", "-u", "-z", p.mountPoint).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, output)
		}
	}
}

// onEach runs client on an empty directory, shown as it is and then in every mode that writes reach
// the file in, and demands that it reports the same.
func onEach(t *testing.T, client func(t *testing.T, mode string) string) {
	t.Helper()
	want := client(t, plainMode)
	for _, mode := range modes {
		if mode.config.Mode == memmapfs.ModeCopyOnWrite {
			continue
		}
		t.Run(mode.name, func(t *testing.T) {
			if got := client(t, mode.name); got != want {
				t.Errorf("it reports\n%s\nand on plain files\n%s", got, want)
			}
		})
	}
}

// mapsAtOpen says whether files served in mode are mapped from the first byte on, and whether
// writes are stores into these maps.
func mapsAtOpen(mode string) (reads, writes bool) {
	for _, known := range modes {
		if known.name == mode && known.config.RequireMapping {
			return true, known.config.Mode == memmapfs.ModeReadWrite
		}
	}
	return false, false
}

// needs skips the test where FUSE, or one of programs, is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	reason := ""
	if device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		reason = err.Error()
	} else {
		device.Close()
	}
	if os.Getuid() != 0 {
		programs = append(programs, "fusermount3") // root can mount without it
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			reason = err.Error()
		}
	}
	if reason != "" {
		skip(t, reason)
	}
}

func skip(t *testing.T, reason string) {
	t.Helper()
	t.Skip(strings.TrimSpace(reason) + " (.ci/programs installs what this test needs, as root on Debian)")
}

// run runs a program in dir, with input if there is any, and returns what it prints.
func run(t *testing.T, dir, input, name string, arguments ...string) string {
	t.Helper()
	command, cancel := program(dir, name, arguments...)
	defer cancel()
	command.Stdin = strings.NewReader(input)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

// program prepares a run of a program that takes no longer than patience.
func program(dir, name string, arguments ...string) (command *exec.Cmd, cancel func()) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	command = exec.CommandContext(ctx, name, arguments...)
	command.Dir = dir
	command.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	return command, cancel
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, directory, name string, data []byte) {
	t.Helper()
	name = filepath.Join(directory, name)
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, data, 0o644))
}

// A map of a file on FUSE can hold up its own server, so the server refuses such a directory.
func TestRefusesFUSE(t *testing.T) {
	needs(t)
	outer := show(t, plainMode, t.TempDir())
	must(t, os.Mkdir(filepath.Join(outer.mountPoint, "inner"), 0o755))
	err := serve("default", false, filepath.Join(outer.mountPoint, "inner"), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "FUSE") {
		t.Errorf("a directory on FUSE: %v", err)
	}
	if err := serve("no mode", false, t.TempDir(), t.TempDir()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", modeNames())) {
		t.Errorf("an unknown mode: %v", err)
	}
}
