package memmapfs

import (
	"fmt"
	"io/fs"
	"sync"
)

// regionLock is one handle's part in the lock of a region. Between goroutines it is a lock of
// its own; the first goroutine to hold it takes the system's lock for the handle, and the last
// one gives it back, so that the handle never holds the system's lock twice.
type regionLock struct {
	open func() (uintptr, error)

	mu      sync.Mutex // guards the fields below; no lock is taken under it
	changed *sync.Cond // of mu: a field below is not what it was
	closed  bool
	opened  bool
	handle  uintptr // for the system's lock
	holders int     // goroutines: -1 for writing, or the number of those for reading
	waiting bool    // a goroutine of its own waits for the system's lock
}

var errNotHeld = fmt.Errorf("the handle does not hold the lock: %w", fs.ErrInvalid)

func (l *regionLock) init(open func() (uintptr, error)) {
	l.open = open
	l.changed = sync.NewCond(&l.mu)
}

// take takes the lock; with wait unset it reports false if it is not to be had at once.
func (l *regionLock) take(exclusive, wait bool) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.closed:
			return false, fs.ErrClosed
		case l.waiting:
		case l.holders == 0:
			locked, err := l.tryLocked(exclusive)
			if !locked && err == nil && wait {
				err = l.waitLocked(exclusive)
				locked = err == nil
			}
			return locked, err
		case l.holders > 0 && !exclusive:
			l.holders++
			return true, nil
		}
		if !wait {
			return false, nil
		}
		l.changed.Wait()
	}
}

// tryLocked asks for the system's lock without waiting; the caller holds l.mu.
func (l *regionLock) tryLocked(exclusive bool) (bool, error) {
	if !l.opened {
		handle, err := l.open()
		if err != nil {
			return false, err
		}
		l.opened, l.handle = true, handle
	}
	locked, err := system.lock(l.handle, exclusive, false)
	if locked {
		l.held(exclusive)
	}
	return locked, err
}

// waitLocked waits for the system's lock; the caller holds l.mu. The wait itself is left to
// another goroutine, because nothing but the lock ends it: after close, that goroutine gives
// the lock back when it comes.
func (l *regionLock) waitLocked(exclusive bool) error {
	var answer *error
	l.waiting = true
	go func() {
		_, err := system.lock(l.handle, exclusive, true)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting = false
		if err == nil {
			l.held(exclusive)
		}
		if l.closed {
			l.release()
		}
		answer = &err
		l.changed.Broadcast()
	}()
	for answer == nil && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return fs.ErrClosed
	}
	return *answer
}

func (l *regionLock) held(exclusive bool) {
	l.holders = 1
	if exclusive {
		l.holders = -1
	}
}

// giveBack undoes one take.
func (l *regionLock) giveBack() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return fs.ErrClosed
	case l.holders == 0:
		return errNotHeld
	case l.holders > 1:
		l.holders--
		return nil
	}
	if err := system.unlock(l.handle); err != nil {
		return err
	}
	l.holders = 0
	l.changed.Broadcast()
	return nil
}

// close ends the handle's part, and all waiting.
func (l *regionLock) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.changed.Broadcast()
	if l.waiting {
		return nil // the goroutine that waits is the last to use the handle
	}
	return l.release()
}

// release gives back the system's lock and the handle for it; the caller holds l.mu.
func (l *regionLock) release() (err error) {
	if l.holders != 0 {
		err = system.unlock(l.handle)
		l.holders = 0
	}
	if l.opened {
		l.opened = false
		err = join(err, sysCloseLock(l.handle))
	}
	return err
}
