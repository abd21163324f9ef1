package memmapfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrOwnerDied reports that a process died, or its machine lost power, while it held the lock of a
// region by Lock: see SharedMemory.ReportOwnerDeath. The lock is held all the same.
var ErrOwnerDied = errors.New("the process that held the lock of the region has died")

// Lock takes the region's lock for this handle alone and waits until it is to be had. The lock
// is between all handles on the file, of this process and of others on the same machine, and
// between the goroutines that use one handle. It is advisory: it keeps nobody from Data who does
// not ask for it. It does not depend on the contents, and is given back by Unlock, by Close, and
// by the system when the process ends, however that happens; the region is then as the process
// has left it, of which ReportOwnerDeath lets the next holder know.
//
// It is the lock of flock(2), and of LockFileEx on Windows. Whoever may open the file, if only to
// read it, may take it and keep everybody out for as long as they like: there is no lock that a
// system gives back by itself and that a reader could not hold. Where that matters, give nobody
// the right to read who is not trusted (Permissions 0600, and a directory of one's own), and
// use LockContext. A network filesystem may keep processes of several machines apart by it, or
// nobody, or refuse it; NFS on Linux takes it as a lock of fcntl(2), and Lock on a region opened
// without writable fails there.
//
// A lock is not reentrant and cannot be converted: Lock waits while this handle holds it, by
// Lock or RLock, so that a goroutine that holds it and locks again waits for itself. No order
// is promised: while others come and go with RLock, Lock may wait for long.
//
// Close ends the waiting with fs.ErrClosed. The system's own wait cannot be broken off: one
// thread and one descriptor stay behind until the holder gives the lock back. LockContext
// leaves nothing behind.
func (sm *SharedMemory) Lock() error {
	_, err := sm.take(true, true)
	return sm.wrap("lock", err)
}

// RLock is Lock for reading: any number of handles and goroutines may hold it so at a time, and
// nobody then by Lock. Each RLock has its own Unlock.
func (sm *SharedMemory) RLock() error {
	_, err := sm.take(false, true)
	return sm.wrap("lock", err)
}

// TryLock is Lock without waiting: it reports false if somebody, this handle included, holds
// the lock, or a Lock or RLock of this handle is waiting. With ErrOwnerDied it reports true.
func (sm *SharedMemory) TryLock() (bool, error) {
	locked, err := sm.take(true, false)
	return locked, sm.wrap("lock", err)
}

// TryRLock is RLock without waiting: see TryLock.
func (sm *SharedMemory) TryRLock() (bool, error) {
	locked, err := sm.take(false, false)
	return locked, sm.wrap("lock", err)
}

// LockContext is Lock that ends when ctx does, with its error, and without the lock. It ends at
// once, as it does with Close, and leaves no thread or descriptor behind: it looks again and
// again, with pauses that grow from 20 microseconds to 10 milliseconds. So a lock that has become
// free is noticed 10 milliseconds later at worst, and those who wait for it by Lock get it first.
func (sm *SharedMemory) LockContext(ctx context.Context) error {
	return sm.wrap("lock", sm.lockContext(ctx, true))
}

// RLockContext is RLock as LockContext is Lock.
func (sm *SharedMemory) RLockContext(ctx context.Context) error {
	return sm.wrap("lock", sm.lockContext(ctx, false))
}

func (sm *SharedMemory) lockContext(ctx context.Context, exclusive bool) error {
	for pause := (pauses{longest: lockPause}); ; pause.sleep(ctx.Done(), sm.closing) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if locked, err := sm.take(exclusive, false); locked || err != nil {
			return err
		}
	}
}

const lockPause = 10 * time.Millisecond

// Unlock undoes one Lock or RLock, also from another goroutine than the one that locked. If
// this handle does not hold the lock the error matches fs.ErrInvalid.
func (sm *SharedMemory) Unlock() error {
	sm.unmark()
	return sm.wrap("unlock", sm.lock.giveBack())
}

// ReportOwnerDeath makes a mark in the region while this handle holds the lock by Lock, in the
// four bytes at off, so that the next holder learns of it if this process dies meanwhile: that
// one's Lock (or TryLock, LockContext) takes the lock and returns ErrOwnerDied, once. It should
// then check what it finds, mend it, and go on; Unlock makes all well. RLock returns
// ErrOwnerDied, also with the lock held, until a Lock has, and so does Lock on a region opened
// without writable, which marks nothing.
//
// The mark is a number of 32 bits, in the processor's byte order: 0 while nobody holds the lock
// for writing, otherwise the holder's process number, as it is where that runs. All processes
// that use the lock have to call ReportOwnerDeath, with the same off (SharedMemoryConfig does so
// by ReportOwnerDeath and OwnerWord), and to leave these bytes alone; zeros are right for a new
// region. A holder that marks nothing is never reported.
//
// A negative off turns it off, which is the default. An off that is not a multiple of 4, or outside
// the region, gives ErrInvalidOffset, a region of ModeCopyOnWrite fs.ErrInvalid. It holds from the
// next Lock on.
func (sm *SharedMemory) ReportOwnerDeath(off int64) error {
	if off < 0 {
		sm.ownerWord.Store(0)
		return nil
	}
	err := checkWord(off, 4, sm.Size())
	if err == nil && sm.mapping.Mode == ModeCopyOnWrite {
		err = fmt.Errorf("other processes do not see who locks a copy-on-write region: %w", fs.ErrInvalid)
	}
	if err == nil {
		sm.ownerWord.Store(off + 1)
	}
	return sm.wrap("lock", err)
}

// take takes the lock; with wait unset it reports false if it is not to be had at once. It looks at
// the mark, and makes it.
func (sm *SharedMemory) take(exclusive, wait bool) (bool, error) {
	locked, err := sm.lock.take(exclusive, wait)
	off := sm.ownerWord.Load() - 1
	if !locked || err != nil || off < 0 {
		return locked, err
	}
	died := uint32(0)
	err = sm.word(off, func(mark *uint32) error {
		if exclusive && sm.flag == os.O_RDWR {
			died = atomic.SwapUint32(mark, processNumber)
		} else {
			died = atomic.LoadUint32(mark)
		}
		return nil
	})
	switch {
	case err != nil:
		return false, join(err, sm.lock.giveBack())
	case died != 0:
		return true, fmt.Errorf("%w (its number was %d): check the contents", ErrOwnerDied, died)
	}
	return true, nil
}

// processNumber is asked for once: it is a system call.
var processNumber = uint32(os.Getpid())

// unmark takes this handle's mark away before a lock for writing is given back. A region that is
// gone has none.
func (sm *SharedMemory) unmark() {
	off := sm.ownerWord.Load() - 1
	if off < 0 || sm.flag != os.O_RDWR || !sm.lock.exclusive() {
		return
	}
	sm.word(off, func(mark *uint32) error {
		// If another goroutine has given the lock back meanwhile, it may be another process's mark.
		atomic.CompareAndSwapUint32(mark, processNumber, 0)
		return nil
	})
}

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

// exclusive reports whether the handle holds the lock for writing.
func (l *regionLock) exclusive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holders < 0
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
