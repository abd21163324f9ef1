package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"github.com/absfs/memmapfs"
)

// rows returns the workloads, in the order of the table, then those of the charts. The functions
// that make them have the names of the benchmarks in ../bench_test.go.
// Long: one list, which is read from top to bottom as the table is.
func rows(s sizes) []row {
	const kibibyte, mebibyte = 1 << 10, 1 << 20
	single := goals{better: 0.5} // the guard costs about what such a copy costs
	short, long := goals{better: 0.85}, goals{better: 0.95}
	alike := func(g goals, name string) goals { g.alike = name; return g }
	all := []row{
		randomReadAt(8, s.small, 1, single),
		randomReadAt(64, s.small, 1, single),
		detailed(randomReadAt(8, s.small, 2, single)),
		randomReadAt(64, s.small, 2, single),
		randomReadAtZero(64, s.small, single),
		readBatch(s.small, goals{better: 1}),
		randomLoads(s.small, long),
		randomLoads(s.loads, long),
		viewSlice(s.floats, goals{bare: 0.98}),
		randomReadAt(4*kibibyte, s.small, 1, short),
		detailed(randomReadAt(8*kibibyte-1, s.small, 1, alike(short, "8 KiB"))),
		detailed(randomReadAt(8*kibibyte, s.small, 1, alike(short, "8 KiB"))),
		detailed(randomReadAt(8*kibibyte+1, s.small, 1, alike(short, "8 KiB"))),
		randomReadAt(64*kibibyte, s.small, 1, long),
		detailed(randomReadAt(127*kibibyte, s.small, 1, alike(long, "128 KiB"))),
		detailed(randomReadAt(128*kibibyte, s.small, 1, alike(long, "128 KiB"))),
		detailed(randomReadAt(129*kibibyte, s.small, 1, alike(long, "128 KiB"))),
		sequentialRead(4*kibibyte, s.small, short),
		sequentialRead(64*kibibyte, s.small, long),
		detailed(sequentialRead(mebibyte, s.small, long)),
		openReadClose(64, 64, long),
		openReadClose(4*kibibyte, 4*kibibyte, long),
		detailed(openReadClose(64*kibibyte, 64*kibibyte, long)),
		detailed(openReadClose(s.small/16, s.small/16, long)),
		openReadClose(s.small, s.small, long),
		detailed(openReadClose(s.small, 64*kibibyte, long)),
	}
	for _, reads := range []int{1, 4, 16, 64, 256, 1024} {
		r := openReadRandomClose(reads, 64, mebibyte, goals{better: 1 / 1.5})
		r.detail = reads != 16 && reads != 256 // one before a map pays, one after
		all = append(all, r)
	}
	for _, length := range []int{4 * kibibyte, 8 * kibibyte} {
		for i, reads := range s.totals {
			r := openReadRandomClose(reads, length, s.cached, goals{plain: 1 / 1.2})
			r.detail = i != 1 && i != 3 || length != 4*kibibyte
			all = append(all, r)
		}
	}
	all = append(all,
		firstTouch(s.medium, long),
		scanner(s.medium, long),
		copyToBuffer(s.small, long),
		copyToNull(s.small, long),
		detailed(copyToDiscard(s.small, long)),
		copyToTCP(s.small, goals{better: 0.95, plain: 1.5}),
		randomWriteAt(64, s.small, long),
		detailed(randomWriteAt(4*kibibyte, s.small, long)),
		detailed(sequentialOverwrite(64*kibibyte, s.small, long)),
		createAppend(4*kibibyte, s.small, long),
		createAppend(64*kibibyte, s.small, long),
		durableWriteAt(64, s.small, long),
		windowedRandomReadAt(64, s.large, goals{better: 0.97}),
		windowedRandomReadAt(64, s.small, long),
		detailed(windowedSequentialRead(64*kibibyte, s.large, goals{better: 0.97})),
		coldRandomReadAt(s.cold, s.reads, long),
		coldDelay(s.cold, s.reads, long),
		coldReadBatch(s.cold, s.reads, goals{plain: 3}),
	)
	for _, size := range s.curves {
		all = append(all, hotCurve(size))
	}
	for _, size := range s.curves {
		all = append(all, coldCurve(size, s.coldReads))
	}
	return all
}

// detailed leaves a row out of the short table.
func detailed(r row) row { r.detail = true; return r }

// sizeName writes 65536 as 64 KiB.
func sizeName(size int64) string {
	units := []string{"B", "KiB", "MiB", "GiB"}
	for size >= 1024 && size%1024 == 0 && len(units) > 1 {
		size /= 1024
		units = units[1:]
	}
	return fmt.Sprintf("%d %s", size, units[0])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// digest adds to a sum what was read, at least eight bytes: in a check all of them, else the ends.
func digest(sum uint64, data []byte, check bool) uint64 {
	if check {
		return sum + uint64(crc32.Checksum(data, castagnoli))
	}
	return sum + binary.LittleEndian.Uint64(data) + binary.LittleEndian.Uint64(data[len(data)-8:])
}

// full turns the result of a read that has to fill a buffer into an error.
func full(n, want int, err error) error {
	if n < want {
		return fmt.Errorf("%d of %d bytes: %w", n, want, err)
	}
	return nil
}

// randomOffsets is a generator of multiples of eight that is cheap beside what is measured.
type randomOffsets struct{ state, end uint64 }

// offsetsIn gives offsets at which length bytes fit into size bytes.
func offsetsIn(size int64, length int, seed uint64) randomOffsets {
	return randomOffsets{seed + 1, uint64(size-int64(length))/8 + 1}
}

func (r *randomOffsets) next() int64 {
	r.state = r.state*6364136223846793005 + 1442695040888963407
	high, _ := bits.Mul64(r.state, r.end)
	return int64(high) * 8
}

// readers has each library open the file and read the first size bytes of it until that is as fast
// as it gets. work makes the contestants' work.
func readers(w *workspace, from []library, path string, size int64, work func(file opened) func(t turn) (uint64, error)) ([]contestant, error) {
	var contestants []contestant
	for _, l := range from {
		file, err := l.open(path)
		if err != nil {
			return nil, err
		}
		w.later(file.close)
		if err := warm(file, size); err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		contestants = append(contestants, contestant{name: l.name, work: work(file)})
	}
	return contestants, nil
}

// warm reads the file so often that memmapfs maps it and knows which of its pages are in memory.
func warm(file opened, size int64) error {
	buffer := make([]byte, min(size, 64<<10))
	mappedFile, _ := file.ReaderAt.(*memmapfs.MappedFile)
	for calls := 0; calls < 64 || mappedFile != nil && !mappedFile.Mapped() && calls < 4096; calls++ { // until a map pays
		if n, err := file.ReadAt(buffer[:8], 0); n < 8 {
			return full(n, 8, err)
		}
	}
	for calls, pass := 0, 0; calls < 64 || pass < 2; pass++ {
		for offset := int64(0); offset < size; offset += int64(len(buffer)) {
			n, err := file.ReadAt(buffer, offset)
			if err := full(n, len(buffer), err); err != nil {
				return err
			}
			calls++
		}
	}
	if mappedFile != nil && !mappedFile.Mapped() {
		return errors.New("has not mapped the file, so there is nothing to measure: does another -dir help?")
	}
	return nil
}

// inGoroutines shares the operations of a turn among goroutines and adds up what they return.
func inGoroutines(goroutines int, t turn, work func(t turn) (uint64, error)) (uint64, error) {
	type outcome struct {
		sum uint64
		err error
	}
	outcomes := make(chan outcome)
	for i := range goroutines {
		part := t
		part.operations = t.operations*(i+1)/goroutines - t.operations*i/goroutines
		part.number = t.number*uint64(goroutines) + uint64(i)
		go func() {
			sum, err := work(part)
			outcomes <- outcome{sum, err}
		}()
	}
	var all outcome
	for range goroutines {
		one := <-outcomes
		all.sum += one.sum
		all.err = errors.Join(all.err, one.err)
	}
	return all.sum, all.err
}

func readRandom(file io.ReaderAt, size int64, buffer []byte, t turn) (uint64, error) {
	offsets := offsetsIn(size, len(buffer), t.number)
	sum := uint64(0)
	for range t.operations {
		n, err := file.ReadAt(buffer, offsets.next())
		if n < len(buffer) {
			return 0, full(n, len(buffer), err)
		}
		sum = digest(sum, buffer, t.check)
	}
	return sum, nil
}

func randomReadAt(length int, size int64, goroutines int, g goals) row {
	name := fmt.Sprintf("random ReadAt %s of %s", sizeName(int64(length)), sizeName(size))
	if goroutines > 1 {
		name += fmt.Sprintf(", %d goroutines", goroutines)
	}
	return row{name: name, goals: g, setup: func(w *workspace) ([]contestant, error) {
		return randomReaders(w, w.libraries.reading, length, size, goroutines)
	}}
}

func randomReaders(w *workspace, from []library, length int, size int64, goroutines int) ([]contestant, error) {
	path, err := w.fileHolding(size)
	if err != nil {
		return nil, err
	}
	return randomReadersOf(w, from, path, length, size, goroutines)
}

func randomReadersOf(w *workspace, from []library, path string, length int, size int64, goroutines int) ([]contestant, error) {
	return readers(w, from, path, size, func(file opened) func(t turn) (uint64, error) {
		buffer := make([]byte, length)
		return func(t turn) (uint64, error) {
			if goroutines == 1 {
				return readRandom(file, size, buffer, t)
			}
			return inGoroutines(goroutines, t, func(t turn) (uint64, error) {
				return readRandom(file, size, make([]byte, length), t)
			})
		}
	})
}

// randomReadAtZero reads where each read ends in a zero, as in a file with holes or small numbers.
// That the bytes are inside the file has to be found out otherwise then.
func randomReadAtZero(length int, size int64, g goals) row {
	name := fmt.Sprintf("random ReadAt %s of %s of zeros", sizeName(int64(length)), sizeName(size))
	return row{name: name, goals: g, detail: true, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.zeroFile(size)
		if err != nil {
			return nil, err
		}
		return randomReadersOf(w, w.libraries.reading, path, length, size, 1)
	}}
}

func sequentialRead(length, size int64, g goals) row {
	length = min(length, size/4)
	return row{name: fmt.Sprintf("sequential Read %s", sizeName(length)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return sequentialReaders(w, w.libraries.reading, length, size)
	}}
}

func sequentialReaders(w *workspace, from []library, length, size int64) ([]contestant, error) {
	path, err := w.fileHolding(size)
	if err != nil {
		return nil, err
	}
	return readers(w, from, path, size, func(file opened) func(t turn) (uint64, error) {
		buffer := make([]byte, length)
		perPass := int(size / length)
		return func(t turn) (uint64, error) {
			sum := uint64(0)
			for i := range t.operations {
				if i%perPass == 0 {
					if _, err := file.stream.Seek(0, io.SeekStart); err != nil {
						return 0, err
					}
				}
				n, err := file.stream.Read(buffer)
				if n < len(buffer) {
					return 0, full(n, len(buffer), err)
				}
				sum = digest(sum, buffer, t.check)
			}
			return sum, nil
		}
	})
}

func windowedRandomReadAt(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("map windows: random ReadAt %s of %s", sizeName(int64(length)), sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return randomReaders(w, w.libraries.windowed, length, size, 1)
	}}
}

func windowedSequentialRead(length, size int64, g goals) row {
	return row{name: fmt.Sprintf("map windows: sequential Read %s", sizeName(length)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return sequentialReaders(w, w.libraries.windowed, length, size)
	}}
}
