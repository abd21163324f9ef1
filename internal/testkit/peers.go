package testkit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/absfs/memmapfs"
)

// peerVariable is set in a process that serves as a peer.
const peerVariable = "MEMMAPFS_SHARED_PEER"

// Peer is another process with a region. It does what it is told, one line at a time.
type Peer struct {
	t       testing.TB
	process *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Scanner
}

// StartPeer starts a process, which ends with the test.
func StartPeer(t testing.TB) *Peer {
	t.Helper()
	process := ThisProgram(t)
	process.Env = append(os.Environ(), peerVariable+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	process.Stderr = os.Stderr
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
	p := &Peer{t, process, orders, bufio.NewScanner(output)}
	t.Cleanup(func() {
		orders.Close() // the peer ends with its input, if it waits for nothing else
		if t.Failed() || t.Skipped() {
			process.Process.Kill()
		}
		process.Wait()
	})
	return p
}

// StartPeers starts several.
func StartPeers(t testing.TB, n int) []*Peer {
	t.Helper()
	peers := make([]*Peer, n)
	for i := range peers {
		peers[i] = StartPeer(t)
	}
	return peers
}

// Tell gives an order, and does not wait for its answer.
func (p *Peer) Tell(order string, args ...any) {
	p.t.Helper()
	for _, arg := range args {
		order += fmt.Sprint("\t", arg)
	}
	if _, err := fmt.Fprintln(p.orders, order); err != nil {
		p.t.Fatal(err)
	}
}

// Answer waits for the answer to the order that is the oldest without one.
func (p *Peer) Answer() (answer string) {
	p.t.Helper()
	MustFinish(p.t, "the other process", func() {
		if p.answers.Scan() {
			answer = p.answers.Text()
		} else {
			answer = "the process has ended"
		}
	})
	return answer
}

// Ask gives an order and returns its answer.
func (p *Peer) Ask(order string, args ...any) string {
	p.t.Helper()
	p.Tell(order, args...)
	return p.Answer()
}

// Must gives orders that have to go well.
func (p *Peer) Must(order string, args ...any) {
	p.t.Helper()
	if answer := p.Ask(order, args...); answer != "ok" {
		p.t.Fatalf("%s %v in the other process: %s", order, args, answer)
	}
}

// Kill ends the process as a crash does.
func (p *Peer) Kill() {
	p.t.Helper()
	if err := p.process.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.process.Wait(); err == nil {
		p.t.Fatal("the process ended by itself")
	}
}

// PeerOrders are orders that a test adds, each with a number. It does so before ServeIfPeer is called.
var PeerOrders = map[string]func(region *memmapfs.SharedMemory, count int) error{}

// ServeIfPeer is the life of a peer, and returns in every other process. TestMain calls it.
func ServeIfPeer() {
	if os.Getenv(peerVariable) == "" {
		return
	}
	orders := bufio.NewScanner(os.Stdin)
	served := new(servant)
	for orders.Scan() {
		fields := strings.Split(orders.Text(), "\t")
		answer, err := served.do(fields[0], fields[1:])
		if err != nil {
			answer = fmt.Sprintf("%T %v", err, err)
		}
		fmt.Println(answer)
	}
	os.Exit(0)
}

type servant struct{ region *memmapfs.SharedMemory }

func (s *servant) do(order string, args []string) (answer string, err error) {
	number := func(i int) int {
		n, parseErr := strconv.Atoi(args[i])
		err = errors.Join(err, parseErr)
		return n
	}
	answer = "ok"
	tried := func(locked bool, lockErr error) {
		answer, err = strconv.FormatBool(locked), lockErr
	}
	if s.region == nil && order != "create" && order != "open" {
		return "", errors.New("there is no region")
	}
	switch order {
	case "create":
		s.region, err = memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
			Path: args[0], Size: int64(number(1)), SyncMode: memmapfs.SyncNever,
		})
	case "open":
		s.region, err = memmapfs.OpenSharedMemory(args[0], args[1] == "writable")
	case "store":
		copy(s.region.Data()[number(0):], args[1])
	case "load":
		answer = string(s.region.Data()[number(0):][:number(1)])
	case "size":
		answer = strconv.FormatInt(s.region.Size(), 10)
	case "lock":
		err = s.region.Lock()
	case "lock and load": // what is there as soon as the lock is
		if err = s.region.Lock(); err == nil {
			answer = string(s.region.Data()[number(0):][:number(1)])
		}
	case "rlock":
		err = s.region.RLock()
	case "trylock":
		tried(s.region.TryLock())
	case "tryrlock":
		tried(s.region.TryRLock())
	case "unlock":
		err = s.region.Unlock()
	case "count": // under the lock, by a load and a store that know nothing of each other
		counter := s.region.Data()[number(0):]
		for range number(1) {
			if err = s.region.Lock(); err != nil {
				return "", err
			}
			value := int(counter[0]) | int(counter[1])<<8
			value++
			counter[0], counter[1] = byte(value), byte(value>>8)
			if err = s.region.Unlock(); err != nil {
				return "", err
			}
		}
	case "add": // by turns, 32 and 64 bits wide
		var narrow *atomic.Uint32
		var wide *atomic.Uint64
		if narrow, err = s.region.Uint32(int64(number(0))); err != nil {
			return "", err
		}
		if wide, err = s.region.Uint64(int64(number(0)) + 8); err != nil {
			return "", err
		}
		for range number(1) {
			narrow.Add(1)
			wide.Add(1<<32 + 1)
		}
	case "sync":
		err = s.region.Sync()
	case "close":
		err = s.region.Close()
	case "remove":
		err = s.region.Remove()
	default:
		more, known := PeerOrders[order]
		if !known {
			return "", errors.New("unknown order " + order)
		}
		if count := number(0); err == nil {
			err = more(s.region, count)
		}
	}
	return answer, err
}
