package memmapfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Wait sleeps until the 32 bits at offset off, in the processor's byte order, are not old, and
// returns nil. It uses no processor meanwhile. Who stores there calls Wake afterwards; a Wake
// while the bits are still old is not noticed. If they are not old to begin with, Wait returns at
// once. What it finds then was stored before: a load by Uint32 after Wait orders all else.
//
// It ends with the error of ctx when that ends, and with fs.ErrClosed when the handle is closed,
// both at once. A store that no Wake follows, because the process was killed in between, is noticed
// one second later at the latest. Wait works on regions opened without writable. Errors for off
// are those of Uint32; a region of ModeCopyOnWrite, which nobody else stores to, gives
// errors.ErrUnsupported, and a file that was truncated ErrSIGBUS or io.EOF.
//
// On Linux it is futex(2), also for processes that do without this package (FUTEX_WAIT and
// FUTEX_WAKE without FUTEX_PRIVATE_FLAG); they may be woken for nothing, as it says there. Each
// goroutine that waits has a thread of its own, as in every system call that blocks. On FreeBSD
// it is _umtx_op(2), of which the same is true. Other systems have no such call for several
// processes, or none without a C library: there Wait looks again and again, with pauses that
// grow from 20 microseconds to 5 milliseconds, which is the most that it notices late and costs
// a few thousandths of a processor.
func (sm *SharedMemory) Wait(ctx context.Context, off int64, old uint32) error {
	return sm.wrap("wait", sm.wait(ctx, off, old))
}

func (sm *SharedMemory) wait(ctx context.Context, off int64, old uint32) error {
	if err := sm.checkWaits(off); err != nil {
		return err
	}
	if !sysSleepsOnWords {
		return sm.pollWord(ctx, off, old)
	}
	return sm.word(off, func(word *uint32) error {
		if atomic.LoadUint32(word) != old {
			return nil
		}
		s := sm.sleepers.add(word)
		defer sm.sleepers.remove(s)
		defer context.AfterFunc(ctx, func() { s.rouse() })()
		for atomic.LoadUint32(word) == old {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case isClosed(sm.closing):
				return fs.ErrClosed
			}
			if err := system.sleepOnWord(word, old, longestSleep); err != nil {
				return err
			}
		}
		return nil
	})
}

// longestSleep is after how long a sleeper looks again, because who stores may be killed before
// it wakes.
const longestSleep = time.Second

// pollWord is Wait on systems where one cannot sleep on a word.
func (sm *SharedMemory) pollWord(ctx context.Context, off int64, old uint32) error {
	for pause := (pauses{longest: pollPause}); ; pause.sleep(ctx.Done(), sm.closing) {
		changed := false
		err := sm.word(off, func(word *uint32) error {
			changed = atomic.LoadUint32(word) != old
			return nil
		})
		if changed || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

const pollPause = 5 * time.Millisecond

// Wake wakes up to n of those who wait, by Wait of whatever process, for the 32 bits at off to
// change, after they were changed: math.MaxInt for all. It returns how many there were, which is
// always 0 on systems other than Linux. A Wake that wakes nobody costs a system call; where that
// matters, keep in the region whether somebody waits. Errors for off are those of Wait, and a
// negative n gives fs.ErrInvalid.
func (sm *SharedMemory) Wake(off int64, n int) (woken int, err error) {
	woken, err = sm.wake(off, n)
	return woken, sm.wrap("wake", err)
}

func (sm *SharedMemory) wake(off int64, n int) (woken int, err error) {
	if n < 0 {
		return 0, fmt.Errorf("%d processes cannot be woken: %w", n, fs.ErrInvalid)
	}
	if err := sm.checkWaits(off); err != nil || n == 0 || !sysSleepsOnWords {
		return 0, err
	}
	err = sm.word(off, func(word *uint32) error {
		woken, err = system.wakeWord(word, int32(min(n, math.MaxInt32)))
		return err
	})
	return woken, err
}

func (sm *SharedMemory) checkWaits(off int64) error {
	switch {
	case isClosed(sm.closing):
		return fs.ErrClosed
	case sm.mapping.Mode == ModeCopyOnWrite:
		return fmt.Errorf("no other process stores to a copy-on-write region: %w", errors.ErrUnsupported)
	}
	return checkWord(off, 4, sm.Size())
}

// word calls fn with the 32 bits at off, which checkWord has accepted. The map stays until fn
// returns, and a fault is an error.
func (sm *SharedMemory) word(off int64, fn func(word *uint32) error) error {
	return sm.bytes.Load().part.file.View(off, 4, func(b []byte) error {
		return fn((*uint32)(unsafe.Pointer(unsafe.SliceData(b))))
	})
}

// sleepers are the goroutines that sleep on words by one handle.
type sleepers struct {
	mu     sync.Mutex // guards the fields below; no lock is taken under it
	asleep map[*sleeper]bool
	closed bool
}

// sleeper is one of them.
type sleeper struct {
	word *uint32
	left chan struct{} // closed when it sleeps no more
}

func (s *sleepers) add(word *uint32) *sleeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asleep == nil {
		s.asleep = make(map[*sleeper]bool)
	}
	added := &sleeper{word, make(chan struct{})}
	s.asleep[added] = true
	return added
}

func (s *sleepers) remove(left *sleeper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asleep, left)
	close(left.left)
}

// close closes the channel and returns when all have been roused. It reports false the second time.
func (s *sleepers) close(closing chan struct{}) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed = true
	close(closing)
	asleep := make([]*sleeper, 0, len(s.asleep))
	for one := range s.asleep {
		asleep = append(asleep, one)
	}
	s.mu.Unlock()
	for _, one := range asleep {
		one.rouse()
	}
	return true
}

// rouse wakes the sleeper, whose reason to end was given before, until it has left. It may have
// looked for a reason and not be asleep yet, so that once is not enough. Its map stays as long
// as it.
func (s *sleeper) rouse() {
	for pause := (pauses{longest: time.Millisecond}); !isClosed(s.left); pause.sleep(s.left, nil) {
		system.wakeWord(s.word, math.MaxInt32)
	}
}

// pauses are pauses between one look and the next that grow, from firstPause to the longest.
type pauses struct{ now, longest time.Duration }

const firstPause = 20 * time.Microsecond

// sleep is one pause. It ends early when one of the channels, unless nil, is closed.
func (p *pauses) sleep(first, second <-chan struct{}) {
	p.now = min(max(2*p.now, firstPause), p.longest)
	timer := time.NewTimer(p.now)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-first:
	case <-second:
	}
}

// isClosed reports whether a channel, on which nothing is sent, is closed. nil is not.
func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
