package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/absfs/memmapfs"
)

const (
	batchReads  = 64 // of a batch
	batchLength = 64 // of each of them
)

// batchOf is a batch of reads with their buffers.
type batchOf [batchReads]memmapfs.ReadRequest

func newBatch() *batchOf {
	batch := new(batchOf)
	buffers := make([]byte, batchReads*batchLength)
	for i := range batch {
		batch[i].P = buffers[i*batchLength:][:batchLength:batchLength]
	}
	return batch
}

// read does a turn of batches: in one call each where there is such a call, else one read after the
// other.
func (batch *batchOf) read(file io.ReaderAt, size int64, t turn) (uint64, error) {
	mappedFile, _ := file.(*memmapfs.MappedFile)
	offsets := offsetsIn(size, batchLength, t.number)
	sum := uint64(0)
	for range t.operations {
		for i := range batch {
			batch[i].Off = offsets.next()
		}
		if mappedFile != nil {
			if err := mappedFile.ReadBatch(batch[:]); err != nil {
				return 0, err
			}
		}
		for i := range batch {
			r := &batch[i]
			if mappedFile == nil {
				r.N, r.Err = file.ReadAt(r.P, r.Off)
			}
			if r.N < len(r.P) {
				return 0, full(r.N, len(r.P), r.Err)
			}
			sum = digest(sum, r.P, t.check)
		}
	}
	return sum, nil
}

// readBatch reads batches at random: memmapfs in one call, the others one by one.
func readBatch(size int64, g goals) row {
	name := fmt.Sprintf("ReadBatch of %d times %d B at random in %s", batchReads, batchLength, sizeName(size))
	return row{name: name, goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.fileHolding(size)
		if err != nil {
			return nil, err
		}
		return readers(w, w.libraries.reading, path, size, func(file opened) func(t turn) (uint64, error) {
			batch := newBatch()
			return func(t turn) (uint64, error) { return batch.read(file.ReaderAt, size, t) }
		})
	}}
}

// coldReadBatch is readBatch in one goroutine, from a file that is not in the page cache.
func coldReadBatch(size int64, reads int, g goals) row {
	name := fmt.Sprintf("cold: ReadBatch of %d times %d B at random in %s", batchReads, batchLength, sizeName(size))
	return row{name: name, goals: g, operations: max(reads/batchReads/4, 1), setup: func(w *workspace) ([]contestant, error) {
		batch := newBatch()
		return coldReaders(w, size, func(file opened, t turn) (uint64, error) {
			return batch.read(file.ReaderAt, size, t)
		})
	}}
}

// viewSlice adds up a file of values of four bytes: in place where there is a map, else in blocks
// that are read one after the other.
func viewSlice(values int64, g goals) row {
	name := fmt.Sprintf("sum of %d Mi float32, in ViewSlice", values>>20)
	return row{name: name, goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.floatFile(values)
		if err != nil {
			return nil, err
		}
		if err := readIn(path); err != nil {
			return nil, err
		}
		var contestants []contestant
		for _, l := range w.libraries.reading {
			if l.name == aferoOS || l.name == mmapGo {
				continue
			}
			file, err := l.open(path)
			if err != nil {
				return nil, err
			}
			w.later(file.close)
			contestants = append(contestants, contestant{name: l.name, work: sumsOf(file, int(values))})
		}
		data, unmap, err := mapBare(path, 4*values)
		switch {
		case err == nil:
			w.later(unmap)
			contestants = append(contestants, contestant{name: bareMap, work: func(t turn) (uint64, error) {
				return repeated(t, func(total *floatSum) error { total.add(floatsIn(data)); return nil })
			}})
		case !errors.Is(err, errors.ErrUnsupported):
			return nil, err
		}
		return contestants, nil
	}}
}

// sumsOf makes a contestant's work: the sum of a file's values.
func sumsOf(file opened, values int) func(t turn) (uint64, error) {
	if mappedFile, ok := file.ReaderAt.(*memmapfs.MappedFile); ok {
		return func(t turn) (uint64, error) {
			return repeated(t, func(total *floatSum) error {
				return memmapfs.ViewSlice(mappedFile, 0, values, func(values []float32) error {
					total.add(values)
					return nil
				})
			})
		}
	}
	block := make([]byte, min(4*values, 256<<10))
	return func(t turn) (uint64, error) {
		return repeated(t, func(total *floatSum) error {
			for offset := 0; offset < 4*values; offset += len(block) {
				n, err := file.ReadAt(block, int64(offset))
				if n < len(block) {
					return full(n, len(block), err)
				}
				total.add(floatsIn(block))
			}
			return nil
		})
	}
}

// repeated does a turn of sums and adds up their bits.
func repeated(t turn, one func(total *floatSum) error) (uint64, error) {
	sum := uint64(0)
	for range t.operations {
		var total floatSum
		if err := one(&total); err != nil {
			return 0, err
		}
		sum += total.bits()
	}
	return sum, nil
}
