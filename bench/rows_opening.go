package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// eachTime makes contestants that open a file for each operation, and close it.
func eachTime(from []library, path string, use func(file opened, t turn) (uint64, error)) []contestant {
	var contestants []contestant
	for _, l := range from {
		contestants = append(contestants, contestant{name: l.name, work: func(t turn) (uint64, error) {
			sum := uint64(0)
			for range t.operations {
				file, err := l.open(path)
				if err != nil {
					return 0, err
				}
				one, err := use(file, t)
				if err = errors.Join(err, file.close()); err != nil {
					return 0, err
				}
				sum += one
			}
			return sum, nil
		}})
	}
	return contestants
}

// openReadClose reads a file once, with a buffer of that length.
func openReadClose(size, length int64, g goals) row {
	name := fmt.Sprintf("open, read, close %s", sizeName(size))
	if length < size {
		name += " by " + sizeName(length)
	}
	return row{name: name, goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.stampedFile(size)
		if err != nil {
			return nil, err
		}
		buffer := make([]byte, length)
		return eachTime(w.libraries.reading, path, func(file opened, t turn) (uint64, error) {
			sum := uint64(0)
			for range size / length {
				if _, err := io.ReadFull(file.stream, buffer); err != nil {
					return 0, err
				}
				sum = digest(sum, buffer, t.check)
			}
			return sum, nil
		}), nil
	}}
}

// openReadRandomClose opens a file that is in the page cache, reads so many times at random, and
// closes it. What a map costs to make, and the first touches of its pages, are part of that.
func openReadRandomClose(reads, length int, size int64, g goals) row {
	times := grouped(float64(reads)) + " reads"
	if reads == 1 {
		times = "1 read"
	}
	name := fmt.Sprintf("open, %s of %s at random in %s, close", times, sizeName(int64(length)), sizeName(size))
	return row{name: name, goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.stampedFile(size)
		if err != nil {
			return nil, err
		}
		if err := readIn(path); err != nil {
			return nil, err
		}
		buffer := make([]byte, length)
		from := slices.DeleteFunc(slices.Clone(w.libraries.reading), func(l library) bool {
			return l.name == aferoOS || l.name == mmapGo // which do what osfs and x/exp/mmap do
		})
		return eachTime(from, path, func(file opened, t turn) (uint64, error) {
			return readRandom(file, size, buffer, turn{operations: reads, number: t.number, check: t.check})
		}), nil
	}}
}

// firstTouch reads 64 bytes in each page of a file, in random order.
func firstTouch(size int64, g goals) row {
	return row{name: fmt.Sprintf("first touch of each page of %s", sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.stampedFile(size)
		if err != nil {
			return nil, err
		}
		buffer := make([]byte, 64)
		pages := size / int64(os.Getpagesize())
		return eachTime(w.libraries.reading, path, func(file opened, t turn) (uint64, error) {
			return touchRandomly(file, pages, pages, buffer, t)
		}), nil
	}}
}

// touchRandomly reads in so many of a power of two of pages, each at most once.
func touchRandomly(file io.ReaderAt, reads, pages int64, buffer []byte, t turn) (uint64, error) {
	sum := uint64(0)
	for i := range reads {
		page := (i + int64(t.number)) * 1_000_003 % pages // an odd factor reaches each page once
		n, err := file.ReadAt(buffer, page*int64(os.Getpagesize()))
		if n < len(buffer) {
			return 0, full(n, len(buffer), err)
		}
		sum = digest(sum, buffer, t.check)
	}
	return sum, nil
}

func scanner(size int64, g goals) row {
	return row{name: fmt.Sprintf("bufio.Scanner over %s of lines", sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.logFile(size)
		if err != nil {
			return nil, err
		}
		return eachTime(w.libraries.reading, path, func(file opened, t turn) (uint64, error) {
			sum := uint64(0)
			lines := bufio.NewScanner(file.stream)
			for lines.Scan() {
				if sum += uint64(len(lines.Bytes())); t.check {
					sum += digest(0, lines.Bytes(), true)
				}
			}
			return sum, lines.Err()
		}), nil
	}}
}
