//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package sharing_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// strangerVariable is set in a process that does what it is told, one line at a time.
const strangerVariable = "MEMMAPFS_TEST_STRANGER"

// A stranger is no test, and has nothing to do with those of the package.
func init() {
	if os.Getenv(strangerVariable) != "" {
		serveStranger()
		os.Exit(0)
	}
}

// stranger is another process.
type stranger struct {
	t       testing.TB
	process *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Scanner
}

// meetStranger starts a process, which ends with the test.
func meetStranger(t testing.TB, configure ...func(process *exec.Cmd)) *stranger {
	t.Helper()
	process := testkit.ThisProgram(t)
	process.Env = append(os.Environ(), strangerVariable+"=1")
	process.Stderr = os.Stderr
	for _, change := range configure {
		change(process)
	}
	return meet(t, process)
}

// meet starts a process whose input and output are lines.
func meet(t testing.TB, process *exec.Cmd) *stranger {
	t.Helper()
	orders, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		orders.Close()
		process.Process.Kill()
		process.Wait()
	})
	return &stranger{t, process, orders, bufio.NewScanner(output)}
}

func (s *stranger) tell(order ...any) {
	s.t.Helper()
	text := make([]string, len(order))
	for i, part := range order {
		text[i] = fmt.Sprint(part)
	}
	if _, err := fmt.Fprintln(s.orders, strings.Join(text, "\t")); err != nil {
		s.t.Fatal(err)
	}
}

// answer waits for the next line.
func (s *stranger) answer() (answer string) {
	s.t.Helper()
	within(s.t, 30*time.Second, "the other process", func() {
		answer = "it has ended"
		if s.answers.Scan() {
			answer = s.answers.Text()
		}
	})
	return answer
}

func (s *stranger) ask(order ...any) string {
	s.t.Helper()
	s.tell(order...)
	return s.answer()
}

func (s *stranger) must(order ...any) {
	s.t.Helper()
	if answer := s.ask(order...); answer != "ok" {
		s.t.Fatalf("%v in the other process: %s", order, answer)
	}
}

// kill ends the process as a crash does.
func (s *stranger) kill() {
	s.t.Helper()
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
	s.process.Wait()
}

// within fails the test unless the work is done in time.
func within(t testing.TB, limit time.Duration, what string, work func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s: not done in %v", what, limit)
	}
}

// soon reports whether a condition holds before long.
func soon(condition func() bool) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if condition() {
			return true
		}
	}
	return condition()
}

func serveStranger() {
	orders := bufio.NewScanner(os.Stdin)
	served := new(servedStranger)
	for orders.Scan() {
		answer, err := served.obey(strings.Split(orders.Text(), "\t"))
		if err != nil {
			answer = fmt.Sprintf("%T %v", err, err)
		}
		fmt.Println(answer)
	}
}

type servedStranger struct {
	region *memmapfs.SharedMemory
	files  []*os.File
}

// systemOrders are those that only some systems have.
var systemOrders = map[string]func(s *servedStranger, order []string) error{}

// Long: one case is one order.
func (s *servedStranger) obey(order []string) (answer string, err error) {
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(order[i], 0, 64)
		return n
	}
	answer = "ok"
	switch order[0] {
	case "create": // path, size, permissions
		s.region, err = memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
			Path: order[1], Size: number(2), Permissions: os.FileMode(number(3)), SyncMode: memmapfs.SyncNever,
		})
	case "open": // path, whether writable
		s.region, err = memmapfs.OpenSharedMemory(order[1], order[2] == "writable")
	case "from file": // a descriptor
		file := os.NewFile(uintptr(number(1)), "passed on")
		s.region, err = memmapfs.SharedMemoryFromFile(file)
		err = errors.Join(err, file.Close())
	case "created":
		answer = strconv.FormatBool(s.region.Created())
	case "size":
		answer = strconv.FormatInt(s.region.Size(), 10)
	case "store": // at, text
		copy(s.region.Data()[number(1):], order[2])
	case "load": // at, how much
		answer = string(s.region.Data()[number(1):][:number(2)])
	case "set": // at, a value
		word, wordErr := s.region.Uint32(number(1))
		if err = wordErr; err == nil {
			word.Store(uint32(number(2)))
		}
	case "report death": // at
		err = s.region.ReportOwnerDeath(number(1))
	case "lock":
		err = s.region.Lock()
	case "rlock":
		err = s.region.RLock()
	case "try":
		locked, lockErr := s.region.TryLock()
		answer, err = strconv.FormatBool(locked), lockErr
	case "unlock":
		err = s.region.Unlock()
	case "wait": // at, old value
		err = s.region.Wait(context.Background(), number(1), uint32(number(2)))
	case "wake": // at
		_, err = s.region.Wake(number(1), 1<<30)
	case "grow": // size
		err = s.region.Grow(number(1))
	case "refresh":
		err = s.region.Refresh()
	case "close files": // and with them their locks
		for _, file := range s.files {
			err = errors.Join(err, file.Close())
		}
		s.files = nil
	case "close":
		err = s.region.Close()
	default:
		err = errors.New("unknown order")
		if special := systemOrders[order[0]]; special != nil {
			err = special(s, order)
		}
	}
	return answer, err
}

// regionIn creates a region in a directory, which ends with the test.
func regionIn(t testing.TB, dir string, size int64) *memmapfs.SharedMemory {
	t.Helper()
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: filepath.Join(dir, "region"), Size: size, SyncMode: memmapfs.SyncNever,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { region.Close() })
	return region
}

// again opens a region once more, writable.
func again(t testing.TB, region *memmapfs.SharedMemory) *memmapfs.SharedMemory {
	t.Helper()
	other, err := memmapfs.OpenSharedMemory(region.Path(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return other
}
