package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// workspace holds what the rows share: the libraries and, in one directory, the files.
type workspace struct {
	interrupted context.Context
	dir         string
	libraries   libraries
	sizes       sizes
	closers     []func() error
}

// sizes are those that differ between a full and a quick run.
type sizes struct {
	small  int64 // the file of most rows
	medium int64 // read once, by page or by line
	large  int64 // does not fit the processor's caches, and is mapped by more windows than there are
	loads  int64 // the larger one of the random loads
	cold   int64
	reads  int // of a turn from a cold file

	cached int64 // read at random while it is in the page cache
	totals []int // so many times, once opened
	floats int64 // values of four bytes

	curves    []int64 // working sets
	coldReads int     // of a turn in the curve of cold reads
}

var (
	fullSizes = sizes{
		small: 16 << 20, medium: 64 << 20, large: 256 << 20, loads: 1 << 30, cold: 2 << 30, reads: 10_000,
		cached: 512 << 20, totals: []int{1_000, 5_000, 25_000, 100_000, 400_000}, floats: 128 << 20,
		curves:    []int64{64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 4 << 30},
		coldReads: 1_000,
	}
	quickSizes = sizes{
		small: 16 << 20, medium: 16 << 20, large: 128 << 20, loads: 256 << 20, cold: 256 << 20, reads: 2_000,
		cached: 128 << 20, totals: []int{1_000, 5_000, 25_000}, floats: 16 << 20,
		curves:    []int64{64 << 10, 1 << 20, 16 << 20, 256 << 20},
		coldReads: 200,
	}
	tinySizes = sizes{
		small: 4 << 20, medium: 4 << 20, large: 8 << 20, loads: 8 << 20, cold: 8 << 20, reads: 256,
		cached: 8 << 20, totals: []int{100, 500}, floats: 1 << 20,
		curves:    []int64{64 << 10, 256 << 10},
		coldReads: 16,
	}
)

// biggest is the size of the one big file, of which several rows use a part.
func (s sizes) biggest() int64 {
	return max(s.large, s.loads, s.cold, s.curves[len(s.curves)-1])
}

// space is what the files take together, when most of them are there.
func (s sizes) space() int64 { return s.biggest() + s.cached + 4*s.floats + 4*s.medium + 10*s.small }

// within leaves out the working sets of the curves that do not fit twice into that much memory.
func (s sizes) within(memory int64) sizes {
	for memory >= 0 && len(s.curves) > 1 && s.curves[len(s.curves)-1] > memory/2 {
		s.curves = s.curves[:len(s.curves)-1]
	}
	return s
}

// later has something closed when the row is done, the last one first.
func (w *workspace) later(closer func() error) { w.closers = append(w.closers, closer) }

func (w *workspace) closeLater() error {
	var err error
	for len(w.closers) > 0 {
		last := len(w.closers) - 1
		err = errors.Join(err, w.closers[last]())
		w.closers = w.closers[:last]
	}
	return err
}

// stamp is what the eight bytes at an offset, a multiple of eight, of a stamped file hold.
func stamp(offset int64) uint64 { return uint64(offset+8) * 0x9e3779b97f4a7c15 }

// stampedFile returns a file of that size. Each size is made once.
func (w *workspace) stampedFile(size int64) (path string, err error) {
	path = filepath.Join(w.dir, fmt.Sprintf("stamped-%d", size))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, writeFile(path, func(file *os.File) error {
		block := make([]byte, min(size, 1<<20))
		for offset := int64(0); offset < size; offset += int64(len(block)) {
			for i := 0; i < len(block); i += 8 {
				binary.LittleEndian.PutUint64(block[i:], stamp(offset+int64(i)))
			}
			if _, err := file.Write(block); err != nil {
				return err
			}
			if w.interrupted.Err() != nil {
				return w.interrupted.Err()
			}
		}
		return nil
	})
}

// floatFile returns a file of so many float32 values, in the byte order of the processor.
func (w *workspace) floatFile(values int64) (path string, err error) {
	path = filepath.Join(w.dir, fmt.Sprintf("floats-%d", values))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	block := make([]byte, min(4*values, 1<<20))
	for i := 0; i < len(block); i += 4 {
		binary.NativeEndian.PutUint32(block[i:], math.Float32bits(float32(i%1021)))
	}
	return path, writeFile(path, func(file *os.File) error {
		for written := int64(0); written < 4*values; written += int64(len(block)) {
			if _, err := file.Write(block); err != nil {
				return err
			}
			if w.interrupted.Err() != nil {
				return w.interrupted.Err()
			}
		}
		return nil
	})
}

// zeroFile returns a file of zeros.
func (w *workspace) zeroFile(size int64) (path string, err error) {
	path = filepath.Join(w.dir, "zeros")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, writeFile(path, func(file *os.File) error {
		_, err := file.Write(make([]byte, size))
		return err
	})
}

// readIn has the page cache hold a file, as far as there is room.
func readIn(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{file}, make([]byte, 1<<20))
	return errors.Join(err, file.Close())
}

// fileHolding returns a file of that size, or the big one if the size is one of those that use a
// part of it.
func (w *workspace) fileHolding(size int64) (path string, err error) {
	if size > w.sizes.medium {
		size = w.sizes.biggest()
	}
	return w.stampedFile(size)
}

// ownFile returns a copy of a stamped file for one contestant to write to.
func (w *workspace) ownFile(contestant string, size int64) (path string, err error) {
	original, err := w.stampedFile(size)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	path = filepath.Join(w.dir, "written-"+filepath.Base(contestant))
	w.later(func() error { return os.Remove(path) })
	return path, writeFile(path, func(file *os.File) error {
		_, err := file.Write(data)
		return err
	})
}

// logFile returns a file of about that size with lines like those of a log.
func (w *workspace) logFile(size int64) (path string, err error) {
	path = filepath.Join(w.dir, "log")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, writeFile(path, func(file *os.File) error {
		var block []byte
		for written, line := int64(0), 0; written < size; block = block[:0] {
			for len(block) < 1<<20 {
				block = fmt.Appendf(block, "2025-03-01T00:00:%06.3fZ INFO request=%08x path=/items/%d status=200 bytes=%d\n",
					float64(line%60_000)/1000, line, line%9973, line%7919)
				line++
			}
			n, err := file.Write(block[:min(int64(len(block)), size-written)])
			if err != nil {
				return err
			}
			written += int64(n)
		}
		return nil
	})
}

// writeFile makes a file and removes it again if that fails. The file is on disk when it returns,
// so that the system does not write it while something is measured.
func writeFile(path string, write func(file *os.File) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	err = write(file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

func libraryOf(from []library, name string) library {
	for _, l := range from {
		if l.name == name {
			return l
		}
	}
	panic("no library " + name)
}
