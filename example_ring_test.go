//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package memmapfs_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/absfs/memmapfs"
)

// ring is a queue of messages from one producer to one consumer, without locks. What one side
// stores to has a cache line of its own.
type ring struct {
	region   *memmapfs.SharedMemory
	sent     *atomic.Uint64 // bytes since the beginning, by the producer
	sends    *atomic.Uint32 // number of messages, for the consumer to wait for
	received *atomic.Uint64 // bytes since the beginning, by the consumer
	receipts *atomic.Uint32 // number of messages, for the producer to wait for
	buffer   []byte         // the byte number n is at n % len(buffer)
}

const (
	sendsAt    = 8
	receiptsAt = 72
	ringHeader = 128
)

func newRing(region *memmapfs.SharedMemory) (*ring, error) {
	sent, err := region.Uint64(0)
	if err != nil {
		return nil, err
	}
	sends, err := region.Uint32(sendsAt)
	if err != nil {
		return nil, err
	}
	received, err := region.Uint64(64)
	if err != nil {
		return nil, err
	}
	receipts, err := region.Uint32(receiptsAt)
	if err != nil {
		return nil, err
	}
	return &ring{region, sent, sends, received, receipts, region.Data()[ringHeader:]}, nil
}

// send reports false if there is no room for the message now.
func (r *ring) send(message []byte) bool {
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(len(message)))
	sent := r.sent.Load()
	end := sent + uint64(len(length)+len(message))
	if end-r.received.Load() > uint64(len(r.buffer)) {
		return false
	}
	r.store(r.store(sent, length[:]), message)
	r.sent.Store(end) // whoever loads this finds the bytes stored before it
	return true
}

// receive copies the next message to p, which has room for it, and reports false if there is
// none now.
func (r *ring) receive(p []byte) (n int, ok bool) {
	received := r.received.Load()
	if received == r.sent.Load() {
		return 0, false
	}
	var length [4]byte
	received = r.load(received, length[:])
	n = int(binary.LittleEndian.Uint32(length[:]))
	r.received.Store(r.load(received, p[:n]))
	return n, true
}

// put sends the message, and sleeps until there is room for it.
func (r *ring) put(ctx context.Context, message []byte) error {
	for {
		receipts := r.receipts.Load() // before the look, so that none is missed after it
		if r.send(message) {
			r.sends.Add(1)
			_, err := r.region.Wake(sendsAt, 1)
			return err
		}
		if err := r.region.Wait(ctx, receiptsAt, receipts); err != nil {
			return err
		}
	}
}

// take receives the next message, and sleeps until there is one.
func (r *ring) take(ctx context.Context, p []byte) (n int, err error) {
	for {
		sends := r.sends.Load()
		if n, ok := r.receive(p); ok {
			r.receipts.Add(1)
			_, err := r.region.Wake(receiptsAt, 1)
			return n, err
		}
		if err := r.region.Wait(ctx, sendsAt, sends); err != nil {
			return 0, err
		}
	}
}

func (r *ring) store(at uint64, p []byte) (next uint64) {
	n := copy(r.buffer[at%uint64(len(r.buffer)):], p)
	copy(r.buffer, p[n:])
	return at + uint64(len(p))
}

func (r *ring) load(at uint64, p []byte) (next uint64) {
	n := copy(p, r.buffer[at%uint64(len(r.buffer)):])
	copy(p[n:], r.buffer)
	return at + uint64(len(p))
}

// The producer and the consumer stand here for two processes; each has a handle of its own.
func ExampleSharedMemory_ring() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()
	config := &memmapfs.SharedMemoryConfig{
		Path:     filepath.Join(directory, "ring"),
		Size:     ringHeader + 4096,
		SyncMode: memmapfs.SyncNever,
	}

	go func() {
		region, err := memmapfs.CreateSharedMemory(config)
		check(err)
		queue, err := newRing(region)
		check(err)
		for i := range 1000 {
			check(queue.put(context.Background(), []byte(fmt.Sprintf("message %d", i))))
		}
		check(region.Close())
	}()

	region, err := memmapfs.CreateSharedMemory(config)
	check(err)
	queue, err := newRing(region)
	check(err)
	message := make([]byte, 64)
	for received := 1; received <= 1000; received++ {
		n, err := queue.take(context.Background(), message)
		check(err)
		if received%250 == 0 {
			fmt.Printf("%s\n", message[:n])
		}
	}
	check(region.Close())
	// Output:
	// message 249
	// message 499
	// message 749
	// message 999
}
