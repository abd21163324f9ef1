package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// touchBytes are brought in between two looks at the clock.
const touchBytes = 16 << 20

// act does what the options say with all files, and returns what it has done. Errors with single
// files are one error, which has the first of them.
func (c *cache) act(interrupted context.Context, o *options, progress func(string)) (did string, err error) {
	// do returns how many bytes it has brought in, kept or dropped. It calls step while that goes
	// on.
	var do func(path string, size int64, step func(bytes int64)) (bytes int64, err error)
	switch {
	case o.lock:
		do, did = c.lock, "locked"
	case o.touch:
		do, did = c.touch(interrupted), "touched"
	case o.evict:
		do, did = c.evict, "evicted"
	default:
		return "", nil
	}
	defer progress("")

	started := time.Now()
	var allFiles, allBytes, files, bytes int64
	c.walk(interrupted, func(error) {}, func(_ string, info fs.FileInfo) error {
		allFiles++
		allBytes += info.Size()
		return nil
	})
	failures := new(look)
	c.walk(interrupted, failures.fail, func(path string, info fs.FileInfo) error {
		step := func(more int64) {
			progress(fmt.Sprintf("%s %s in %s, of %s in %s",
				did, human(bytes+more), counted(files), human(allBytes), counted(allFiles)))
		}
		if info.Size() > 0 {
			done, err := do(path, info.Size(), step)
			if bytes += done; err != nil {
				return err
			}
		}
		files++
		step(0)
		return nil
	})
	did = fmt.Sprintf("%s %s in %s", did, human(bytes), counted(files))
	if o.lock {
		did += ", until interrupted"
	} else {
		did += fmt.Sprintf(" in %v", time.Since(started).Round(time.Millisecond))
	}
	if failures.failed > 0 {
		err = fmt.Errorf("%s failed; the first: %w", counted(int64(failures.failed)), failures.failure)
	}
	return did, err
}

// touch returns a function that brings a file into memory.
func (c *cache) touch(interrupted context.Context) func(string, int64, func(int64)) (int64, error) {
	return func(path string, size int64, step func(int64)) (done int64, err error) {
		file, err := c.open(path)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		for done < size && interrupted.Err() == nil {
			n := min(touchBytes, size-done)
			if err := file.Prefetch(done, n); err != nil {
				return done, err
			}
			// The pages stay in the page cache, and do not count as this process's.
			if err := file.AdviseDontNeed(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				return done, err
			}
			done += n
			step(done)
		}
		return done, interrupted.Err()
	}
}

// evict drops a file from memory, and returns how much of it was there and is no longer, as far
// as the system tells.
func (c *cache) evict(path string, _ int64, _ func(int64)) (int64, error) {
	before, after := file{path: path}, file{path: path}
	if err := errors.Join(c.ask(&before), evict(path), c.ask(&after)); err != nil {
		return 0, err
	}
	return max(0, before.resident-after.resident), nil
}

// lock brings a file into memory and keeps it there until unlock. It stays open for that.
func (c *cache) lock(path string, size int64, _ func(int64)) (int64, error) {
	file, err := c.open(path)
	if err != nil {
		return 0, err
	}
	if err := file.LockMemory(0, size); err != nil {
		return 0, errors.Join(err, file.Close())
	}
	c.locked = append(c.locked, file)
	return size, nil
}

// unlock lets go what lock keeps.
func (c *cache) unlock() {
	for _, file := range c.locked {
		file.Close()
	}
	c.locked = nil
}
