package memmapfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// growFile grows the file, which has a size of old, to size if that is more, with blocks for all of
// it. After an error the file has its old size.
func growFile(file *os.File, path string, old, size int64, lock growthLocked, closing <-chan struct{}) error {
	if lock.held || old >= size {
		return reserve(file, old, size)
	}
	// Somebody's lock of the whole file keeps creators from having theirs. So nothing is done by
	// which they could harm each other.
	err := system.reserve(file.Fd(), size)
	if err == nil {
		err = system.extend(file.Fd(), size)
	}
	again, lockErr := growthLocked{}, error(nil)
	if errors.Is(err, errors.ErrUnsupported) {
		again, lockErr = waitForGrowth(file, path, closing, false)
	} else {
		again, lockErr = lockGrowth(file, path, closing)
	}
	if lockErr != nil || !again.held {
		return join(err, lockErr)
	}
	// It is to be had after all: a creator that has failed meanwhile may have cut the file.
	info, err := file.Stat()
	if err == nil {
		err = reserve(file, info.Size(), size)
	}
	return join(err, again.unlock())
}

// reserve is growFile under the lock. Where it can be undone it grows before it reserves: a process
// that is killed leaves no blocks where nobody finds them.
func reserve(file *os.File, old, size int64) (err error) {
	growsFirst := old < size && sysGrowsFirst(file.Fd())
	if growsFirst {
		err = file.Truncate(size)
	}
	if err == nil {
		err = system.reserve(file.Fd(), size)
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		err = writeZeros(file, old, size)
	case err == nil && old < size && !growsFirst:
		err = file.Truncate(size)
	}
	if err != nil && old < size {
		file.Truncate(old) // gives back the blocks behind the end, too
	}
	return err
}

// writeZeros writes zeros to [off, end) of the file.
func writeZeros(file *os.File, off, end int64) error {
	zeros := make([]byte, 1<<20)
	for off < end {
		n, err := file.WriteAt(zeros[:min(end-off, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// growthPatience is how long a creator waits for another one.
const growthPatience = 10 * time.Second

var errGrowthHeld = fmt.Errorf("another process has been creating or growing the region for %v, or hangs: "+
	"end it, or try again: %w", growthPatience, os.ErrDeadlineExceeded)

// growthLocked is the lock of those who change the size of a file.
type growthLocked struct {
	lock uintptr
	held bool // unset if somebody else's lock of the whole file keeps creators from having theirs
}

func (l growthLocked) unlock() error {
	if !l.held {
		return nil
	}
	return sysUnlockGrowth(l.lock)
}

// lockGrowth waits until no other creator changes the size of the file.
func lockGrowth(file *os.File, path string, closing <-chan struct{}) (growthLocked, error) {
	return waitForGrowth(file, path, closing, true)
}

// waitForGrowth is lockGrowth; without coverable it waits for the locks of others, too.
func waitForGrowth(file *os.File, path string, closing <-chan struct{}, coverable bool) (growthLocked, error) {
	pause := pauses{longest: growthPause}
	for start := time.Now(); ; pause.sleep(closing, nil) {
		lock, err := system.lockGrowth(file.Fd(), filepath.Dir(path))
		switch {
		case err == nil:
			return growthLocked{lock, true}, nil
		case err == syscall.EBUSY && coverable:
			return growthLocked{}, nil
		case err == syscall.EBUSY && time.Since(start) > growthPatience:
			return growthLocked{}, fmt.Errorf("the filesystem cannot reserve blocks, and another program has locked the whole file: %w",
				os.ErrDeadlineExceeded)
		case err == syscall.EAGAIN && time.Since(start) > growthPatience:
			return growthLocked{}, errGrowthHeld
		case err == syscall.EAGAIN, err == syscall.EBUSY:
		case errors.Is(err, errors.ErrUnsupported):
			return growthLocked{}, notMapped(err)
		default:
			return growthLocked{}, err
		}
		if isClosed(closing) {
			return growthLocked{}, fs.ErrClosed
		}
	}
}

const growthPause = 10 * time.Millisecond

// settledSize returns the size of the file when nobody is changing it.
func settledSize(file *os.File, path string, closing <-chan struct{}) (os.FileInfo, error) {
	pause := pauses{longest: growthPause}
	free := false
	for start := time.Now(); ; {
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		held, err := system.growthHeld(file.Fd(), filepath.Dir(path))
		switch {
		case err != nil: // a filesystem without locks: nobody can have grown it
			return info, nil
		case !held && free:
			return info, nil
		case !held: // but it may have been when the size was asked for
			free = true
			continue
		case time.Since(start) > growthPatience:
			return nil, errGrowthHeld
		}
		free = false
		pause.sleep(closing, nil)
		if isClosed(closing) {
			return nil, fs.ErrClosed
		}
	}
}
