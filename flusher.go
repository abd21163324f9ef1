package memmapfs

import (
	"sync"
	"time"
)

// flusher flushes the files of one MemMapFS in the background. A timer has the files that are due
// queued; goroutines flush them, as many as it takes: a few, and one more each time that the timer
// finds files waiting and none flushed since it last looked, because a disk may hang for ever.
type flusher struct {
	failed func(u *unsyncedBytes, err error) // is told of a flush that has failed, with no lock held

	mu      sync.Mutex // guards the fields below; no lock is taken under it
	due     map[*unsyncedBytes]time.Time
	queue   []*unsyncedBytes
	queued  map[*unsyncedBytes]bool // in the queue, or being flushed; true if it is due again
	workers int
	done    int // flushes, ever
	seen    int // of them when the timer last fired
	timer   *time.Timer
	next    time.Time // when it fires
	closed  bool
	running sync.WaitGroup // workers
}

const (
	fewFlushes  = 4               // at a time
	mostFlushes = 256             // at a time, however many hang: each holds a thread
	stuckAfter  = 2 * time.Second // without one that ends, others begin
)

// add has u flushed after delay.
func (b *flusher) add(u *unsyncedBytes, delay time.Duration) {
	u.maps.registry.register()
	u.queued.Store(true)
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	if b.due == nil {
		b.due = make(map[*unsyncedBytes]time.Time)
		b.queued = make(map[*unsyncedBytes]bool)
	}
	at := time.Now().Add(delay)
	if old, ok := b.due[u]; !ok || at.Before(old) {
		b.due[u] = at
		b.wakeLocked(at)
	}
	b.mu.Unlock()
	if u.maps.isClosed() {
		b.remove(u) // Close may have done so before u was added
	}
}

// wakeLocked has the timer fire at a time, or before; the caller holds b.mu.
func (b *flusher) wakeLocked(at time.Time) {
	if b.timer != nil {
		if !b.next.IsZero() && !at.Before(b.next) {
			return
		}
		b.timer.Stop()
	}
	b.next = at
	b.timer = time.AfterFunc(time.Until(at), b.tick)
}

// tick queues the files that are due and sees to it that they are flushed.
func (b *flusher) tick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	now := time.Now()
	b.timer, b.next = nil, time.Time{}
	var next time.Time
	for u, at := range b.due {
		if !at.After(now) {
			delete(b.due, u)
			b.queueLocked(u)
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if len(b.queue) > 0 && b.workers >= fewFlushes && b.done == b.seen && b.workers < mostFlushes {
		b.startLocked()
	}
	b.seen = b.done
	if len(b.queue) > 0 {
		if again := now.Add(stuckAfter); next.IsZero() || again.Before(next) {
			next = again
		}
	}
	if !next.IsZero() {
		b.wakeLocked(next)
	}
}

// queueLocked puts u in the queue, or has it put there again when it was flushed; the caller holds b.mu.
func (b *flusher) queueLocked(u *unsyncedBytes) {
	if _, busy := b.queued[u]; busy {
		b.queued[u] = true
		return
	}
	b.queued[u] = false
	b.queue = append(b.queue, u)
	if b.workers < fewFlushes {
		b.startLocked()
	}
}

func (b *flusher) startLocked() {
	b.workers++
	b.running.Add(1)
	go b.work()
}

// work flushes files until there are none, or a callback ends its goroutine: then another one goes on.
func (b *flusher) work() {
	defer b.running.Done()
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		b.workers--
		if len(b.queue) > 0 && !b.closed {
			b.startLocked()
		}
		b.restLocked()
	}()
	for len(b.queue) > 0 && !b.closed {
		u := b.queue[0]
		b.queue[0] = nil
		b.queue = b.queue[1:]
		b.flushLocked(u)
	}
}

// flushLocked flushes u, without b.mu, which the caller holds.
func (b *flusher) flushLocked(u *unsyncedBytes) {
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.done++
		again := b.queued[u]
		delete(b.queued, u)
		if again && !b.closed {
			b.queueLocked(u)
		}
	}()
	b.flush(u)
}

// restLocked ends the timer if nothing waits for it; the caller holds b.mu.
func (b *flusher) restLocked() {
	if len(b.due) == 0 && len(b.queue) == 0 && b.timer != nil {
		b.timer.Stop()
		b.timer, b.next = nil, time.Time{}
	}
}

func (b *flusher) flush(u *unsyncedBytes) {
	err := u.flushBehind()
	if u.mode() == SyncPeriodic && u.awaitsFlush() && !u.maps.isClosed() {
		defer b.add(u, u.maps.host.config.SyncInterval)
	}
	if err != nil {
		b.failed(u, err)
	}
}

// remove takes u out, and the timer away with the last file.
func (b *flusher) remove(u *unsyncedBytes) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.due, u)
	for i, other := range b.queue {
		if other == u {
			b.queue = append(b.queue[:i:i], b.queue[i+1:]...)
			delete(b.queued, u)
			break
		}
	}
	b.restLocked()
}

// close ends the flusher, and waits for what it is doing.
func (b *flusher) close() {
	b.mu.Lock()
	b.closed = true
	b.due, b.queue = nil, nil
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	b.mu.Unlock()
	b.running.Wait()
}
