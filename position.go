package memmapfs

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
)

// position is the position of a handle. As long as nothing is mapped it is the wrapped file's;
// once the handle reads and writes at offsets it is the handle's own. It is never given back.
type position struct {
	owned atomic.Bool // it is the handle's

	// While owned is unset, calls that use the file's position hold shared for reading. Taking
	// it over, which sets at, holds shared for writing. All locks of maps and files are taken
	// under it.
	shared sync.RWMutex

	mu sync.Mutex // guards at, over calls that use it; all locks of maps and files are taken under it
	at int64
}

// take makes the handle the owner of the position. Only regular files can do without the wrapped
// file's, because reading and writing at an offset is the same there.
func (p *position) take(file io.Seeker) error {
	if p.owned.Load() {
		return nil
	}
	p.shared.Lock()
	defer p.shared.Unlock()
	if p.owned.Load() {
		return nil
	}
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	p.at = at
	p.owned.Store(true)
	return nil
}

// throughFile calls fn, which uses the wrapped file's position, and reports that it did, unless
// the position is the handle's.
func (p *position) throughFile(fn func()) bool {
	if p.owned.Load() {
		return false
	}
	p.shared.RLock()
	defer p.shared.RUnlock()
	if p.owned.Load() {
		return false
	}
	fn()
	return true
}

// seek moves a position that is the handle's. Anywhere in what isInside tells is a valid one;
// what lies outside is the wrapped file's to judge.
func (p *position) seek(file *openFile, offset int64, whence int, isInside func(off int64) bool) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if file.isClosed() {
		return 0, fs.ErrClosed
	}
	target := offset
	switch whence {
	case io.SeekCurrent:
		target += p.at
		whence = io.SeekStart
		fallthrough
	case io.SeekStart:
		if isInside(target) {
			p.at = target
			return target, nil
		}
		if offset > 0 && target < 0 {
			return 0, because(syscall.EINVAL, ErrInvalidOffset) // the sum is past the largest offset
		}
	}
	at, err := file.file.Seek(target, whence)
	if err != nil {
		return at, seekError(err, target, whence)
	}
	p.at = at
	return at, nil
}

// seekError adds to an error of Seek what was wrong with its arguments.
func seekError(err error, target int64, whence int) error {
	switch {
	case err == nil:
		return nil
	case (whence < io.SeekStart || whence > io.SeekEnd) && errors.Is(err, syscall.EINVAL):
		return because(err, ErrInvalidWhence)
	case whence == io.SeekStart && target < 0:
		return because(err, ErrInvalidOffset)
	}
	return err
}
