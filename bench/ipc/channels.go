package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/absfs/memmapfs"
)

const (
	ringKind   = "shared memory, looking"
	asleepKind = "shared memory, asleep"
	pipeKind   = "pipe"
	unixKind   = "Unix socket"
	tcpKind    = "TCP, loopback"
)

var kinds = []string{ringKind, asleepKind, pipeKind, unixKind, tcpKind}

// peerVariable holds, in the second process, the kind of channel and where it is.
const peerVariable = "MEMMAPFS_IPC_PEER"

// channel is a stream of bytes in both directions.
type channel struct {
	io.Reader
	io.Writer
	close func() error
}

// Close ends the channel and waits for the other process to end. The second Close does nothing.
func (c *channel) Close() error {
	if c.close == nil {
		return nil
	}
	err := c.close()
	c.close = nil
	return err
}

// buffered is for channels on which every read is a system call.
func buffered(r io.Reader) io.Reader { return bufio.NewReaderSize(r, 1<<20) }

// openChannel starts the other process and connects with it.
func openChannel(kind string) (*channel, error) {
	dir, err := os.MkdirTemp(memoryDir(kind), "memmapfs-ipc")
	if err != nil {
		return nil, err
	}
	opened, err := connect(kind, dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	end := opened.close
	opened.close = func() error { return errors.Join(end(), os.RemoveAll(dir)) }
	return opened, nil
}

// memoryDir is where a region need not be written to a disk, if there is such a place.
func memoryDir(kind string) string {
	if info, err := os.Stat("/dev/shm"); (kind == ringKind || kind == asleepKind) && err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func connect(kind, dir string) (*channel, error) {
	process := exec.Command(os.Args[0])
	process.Stderr = os.Stderr
	start := func(place string) error {
		process.Env = append(os.Environ(), peerVariable+"="+kind+"|"+place)
		return process.Start()
	}
	switch kind {
	case ringKind, asleepKind:
		path := filepath.Join(dir, "rings")
		region, out, in, err := openRings(path, kind == asleepKind)
		if err != nil {
			return nil, err
		}
		if err := start(path); err != nil {
			return nil, errors.Join(err, region.Close())
		}
		return &channel{in, out, func() error {
			return errors.Join(out.end(), process.Wait(), region.Close())
		}}, nil
	case pipeKind:
		out, err := process.StdinPipe()
		if err != nil {
			return nil, err
		}
		in, err := process.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := start(""); err != nil {
			return nil, err
		}
		return &channel{buffered(in), out, func() error { return errors.Join(out.Close(), process.Wait()) }}, nil
	}
	network, address := "tcp", "127.0.0.1:0"
	if kind == unixKind {
		network, address = "unix", filepath.Join(dir, "socket")
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	if err := start(listener.Addr().String()); err != nil {
		return nil, err
	}
	connection, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	return &channel{buffered(connection), connection, func() error { return errors.Join(connection.Close(), process.Wait()) }}, nil
}

// servePeer is the second process. It reports false in the first one.
func servePeer() (served bool, err error) {
	kind, place, served := strings.Cut(os.Getenv(peerVariable), "|")
	if !served {
		return false, nil
	}
	switch kind {
	case ringKind, asleepKind:
		region, in, out, err := openRings(place, kind == asleepKind)
		if err != nil {
			return true, err
		}
		return true, errors.Join(obey(&channel{in, out, nil}), region.Close())
	case pipeKind:
		return true, obey(&channel{buffered(os.Stdin), os.Stdout, nil})
	case unixKind, tcpKind:
		network := "tcp"
		if kind == unixKind {
			network = "unix"
		}
		connection, err := net.Dial(network, place)
		if err != nil {
			return true, err
		}
		return true, errors.Join(obey(&channel{buffered(connection), connection, nil}), connection.Close())
	}
	return true, fmt.Errorf("unknown kind of channel %q", kind)
}

// ring is a stream of bytes from one process to another: see example_ring_test.go of memmapfs.
// Who has to wait looks again and again, or sleeps.
type ring struct {
	region         *memmapfs.SharedMemory
	sleeps         bool
	sent, received *atomic.Uint64 // bytes since the beginning
	ended          *atomic.Uint32
	news, room     bell // for the reader and the writer
	buffer         []byte
}

const (
	ringBytes  = 1 << 20
	ringHeader = 320
)

// openRings opens the region of two rings, the first from the process that was there first.
func openRings(path string, sleeps bool) (region *memmapfs.SharedMemory, first, second *ring, err error) {
	region, err = memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: path, Size: 2 * (ringHeader + ringBytes), SyncMode: memmapfs.SyncNever,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if first, err = newRing(region, 0, sleeps); err == nil {
		second, err = newRing(region, ringHeader+ringBytes, sleeps)
	}
	return region, first, second, err
}

func newRing(region *memmapfs.SharedMemory, off int64, sleeps bool) (*ring, error) {
	sent, err := region.Uint64(off)
	if err != nil {
		return nil, err
	}
	received, err := region.Uint64(off + 64)
	if err != nil {
		return nil, err
	}
	ended, err := region.Uint32(off + 128)
	if err != nil {
		return nil, err
	}
	news, err := newBell(region, off+192)
	if err != nil {
		return nil, err
	}
	room, err := newBell(region, off+256)
	if err != nil {
		return nil, err
	}
	return &ring{region, sleeps, sent, received, ended, news, room, region.Data()[off+ringHeader:][:ringBytes]}, nil
}

// bell wakes the one process that sleeps until something has changed, and costs nothing if it does
// not sleep.
type bell struct {
	region   *memmapfs.SharedMemory
	off      int64
	rung     *atomic.Uint32 // how often
	sleeping *atomic.Uint32
}

func newBell(region *memmapfs.SharedMemory, off int64) (bell, error) {
	rung, err := region.Uint32(off)
	if err != nil {
		return bell{}, err
	}
	sleeping, err := region.Uint32(off + 4)
	return bell{region, off, rung, sleeping}, err
}

// ring is called after the change.
func (b bell) ring() error {
	if b.sleeping.Load() == 0 {
		return nil
	}
	b.rung.Add(1)
	_, err := b.region.Wake(b.off, 1)
	return err
}

// sleep returns when the change has come, or may have.
func (b bell) sleep(hasCome func() bool) error {
	rung := b.rung.Load()
	b.sleeping.Store(1)
	defer b.sleeping.Store(0)
	if hasCome() {
		return nil
	}
	return b.region.Wait(context.Background(), b.off, rung)
}

// spins is the number of looks after which a waiting process lets others run.
const spins = 1000

// wait returns when the condition may hold.
func (r *ring) wait(b bell, waited *int, holds func() bool) error {
	if r.sleeps {
		return b.sleep(holds)
	}
	if *waited++; *waited%spins == 0 {
		runtime.Gosched()
	}
	return nil
}

func (r *ring) tell(b bell) error {
	if !r.sleeps {
		return nil
	}
	return b.ring()
}

func (r *ring) Write(p []byte) (n int, err error) {
	sent := r.sent.Load()
	hasRoom := func() bool { return sent-r.received.Load() < ringBytes }
	for waited := 0; n < len(p); {
		if !hasRoom() {
			if err := r.wait(r.room, &waited, hasRoom); err != nil {
				return n, err
			}
			continue
		}
		room := ringBytes - int(sent-r.received.Load())
		done := copy(r.buffer[sent%ringBytes:], p[n:min(len(p), n+room)])
		n += done
		sent += uint64(done)
		r.sent.Store(sent)
		if err := r.tell(r.news); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (r *ring) Read(p []byte) (int, error) {
	received := r.received.Load()
	hasNews := func() bool { return r.sent.Load() != received || r.ended.Load() != 0 }
	for waited := 0; ; {
		if there := int(r.sent.Load() - received); there > 0 {
			n := copy(p[:min(len(p), there)], r.buffer[received%ringBytes:])
			r.received.Store(received + uint64(n))
			return n, r.tell(r.room)
		}
		if r.ended.Load() != 0 && r.sent.Load() == received {
			return 0, io.EOF
		}
		if err := r.wait(r.news, &waited, hasNews); err != nil {
			return 0, err
		}
	}
}

func (r *ring) end() error {
	r.ended.Store(1)
	return r.tell(r.news)
}
