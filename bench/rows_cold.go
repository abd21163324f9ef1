package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// coldReaders makes contestants whose turns begin with the file out of the page cache.
func coldReaders(w *workspace, size int64, work func(file opened, t turn) (uint64, error)) ([]contestant, error) {
	path, err := w.fileHolding(size)
	if err != nil {
		return nil, err
	}
	drop := func() error {
		if err := dropFromCache(path); err != nil {
			return fmt.Errorf("%w: the page cache cannot be emptied of the file: %w", errSkip, err)
		}
		return nil
	}
	if err := drop(); err != nil {
		return nil, err
	}
	var contestants []contestant
	for _, l := range w.libraries.reading {
		contestants = append(contestants, contestant{name: l.name, before: drop, work: func(t turn) (uint64, error) {
			file, err := l.open(path)
			if err != nil {
				return 0, err
			}
			sum, err := work(file, t)
			return sum, errors.Join(err, file.close())
		}})
	}
	return contestants, nil
}

const coldGoroutines = 128

func coldRandomReadAt(size int64, reads int, g goals) row {
	name := fmt.Sprintf("cold: random ReadAt 64 B of %s, %d goroutines", sizeName(size), coldGoroutines)
	return row{name: name, goals: g, operations: reads, setup: func(w *workspace) ([]contestant, error) {
		return coldRandomReaders(w, size, func(file io.ReaderAt) io.ReaderAt { return file })
	}}
}

// coldRandomReaders reads through what reads of the file are made to be.
func coldRandomReaders(w *workspace, size int64, through func(io.ReaderAt) io.ReaderAt) ([]contestant, error) {
	processors := runtime.GOMAXPROCS(2)
	w.later(func() error { runtime.GOMAXPROCS(processors); return nil })
	return coldReaders(w, size, func(file opened, t turn) (uint64, error) {
		return inGoroutines(coldGoroutines, t, func(t turn) (uint64, error) {
			return readRandom(through(file), size, make([]byte, 64), t)
		})
	})
}

// givingWay lets others run after each read. Otherwise, on a disk that answers in less than a tick of Go's
// scheduler, goroutines run one after the other to their end, and a sleeper waits for half of them in the
// queue, whoever reads.
type givingWay struct{ io.ReaderAt }

func (g givingWay) ReadAt(p []byte, off int64) (int, error) {
	defer runtime.Gosched()
	return g.ReaderAt.ReadAt(p, off)
}

// coldDelay is coldRandomReadAt, giving way, and measures not its time but by how much a goroutine that sleeps
// for a millisecond at a time is late at worst.
func coldDelay(size int64, reads int, g goals) row {
	r := coldRandomReadAt(size, reads, g)
	r.name = "cold: worst delay of a 1 ms sleeper beside that"
	r.setup = func(w *workspace) ([]contestant, error) {
		contestants, err := coldRandomReaders(w, size, func(file io.ReaderAt) io.ReaderAt { return givingWay{file} })
		for i := range contestants {
			c := &contestants[i]
			work, delay := c.work, time.Duration(0)
			c.work = func(t turn) (uint64, error) {
				worstDelay := watchSleeper()
				defer func() { delay = worstDelay() }()
				return work(t)
			}
			c.metric = func() time.Duration { return delay }
		}
		return contestants, err
	}
	return r
}

// watchSleeper starts a goroutine that sleeps for a millisecond at a time. The function that it
// returns ends it and tells by how much it was late at worst.
func watchSleeper() (worstDelay func() time.Duration) {
	stop, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		worst := time.Duration(0)
		for {
			before := time.Now()
			time.Sleep(time.Millisecond)
			worst = max(worst, time.Since(before)-time.Millisecond)
			select {
			case <-stop:
				result <- worst
				return
			default:
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-result
	}
}

// The curves of the charts.
const (
	hot  = "hot"
	cold = "cold"
)

func hotCurve(size int64) row {
	r := randomReadAt(64, size, 1, goals{})
	r.name = fmt.Sprintf("hot working set of %s: ReadAt 64 B", sizeName(size))
	r.curve, r.workingSet = hot, size
	return r
}

// coldCurve opens a file that is not in the page cache, and reads 64 bytes in each of some pages.
func coldCurve(size int64, reads int) row {
	pages := size / int64(os.Getpagesize())
	count := int(min(pages, int64(reads)))
	name := fmt.Sprintf("cold working set of %s: ReadAt 64 B", sizeName(size))
	return row{name: name, curve: cold, workingSet: size, operations: count, setup: func(w *workspace) ([]contestant, error) {
		buffer := make([]byte, 64)
		return coldReaders(w, size, func(file opened, t turn) (uint64, error) {
			return touchRandomly(file, int64(t.operations), pages, buffer, t)
		})
	}}
}
