package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/absfs/memmapfs"
)

// rows returns the workloads, in the order of the table, then those of the charts. The functions that
// make them have the names of the benchmarks in ../bench_test.go.
func rows(s sizes) []row {
	const kibibyte, mebibyte = 1 << 10, 1 << 20
	all := []row{
		randomReadAt(8, s.small, 1, goals{plain: 40, peer: 0.5}),
		randomReadAt(64, s.small, 1, goals{plain: 40, peer: 0.5}),
		randomReadAt(8, s.small, 2, goals{plain: 40, peer: 0.5}),
		randomReadAt(64, s.small, 2, goals{plain: 40, peer: 0.5}),
		randomLoads(s.small, goals{plain: 90, peer: 0.9, of: bareMap}),
		randomLoads(s.loads, goals{plain: 90, peer: 0.9, of: bareMap}),
		randomReadAt(4*kibibyte, s.small, 1, goals{plain: 3.5, peer: 0.9}),
		randomReadAt(64*kibibyte, s.small, 1, goals{plain: 1.8, peer: 0.95}),
		sequentialRead(4*kibibyte, s.small, goals{plain: 10, peer: 0.8}),
		sequentialRead(64*kibibyte, s.small, goals{plain: 2, peer: 0.95}),
		sequentialRead(mebibyte, s.small, goals{plain: 1.25, peer: 0.95}),
		openReadClose(64, 64, goals{plain: 0.95}),
		openReadClose(4*kibibyte, 4*kibibyte, goals{plain: 0.95}),
		openReadClose(64*kibibyte, 64*kibibyte, goals{plain: 0.95}),
		openReadClose(s.small/16, s.small/16, goals{plain: 0.95}),
		openReadClose(s.small, s.small, goals{plain: 1.1}),
		openReadClose(s.small, 64*kibibyte, goals{plain: 0.95}),
		firstTouch(s.medium, goals{plain: 10, peer: 0.75}),
		scanner(s.medium, goals{plain: 1.2}),
		copyToBuffer(s.small, goals{plain: 1.25}),
		copyToNull(s.small, goals{plain: 1}),
		copyToTCP(s.small, goals{plain: 0.95}),
		randomWriteAt(64, s.small, goals{plain: 60}),
		randomWriteAt(4*kibibyte, s.small, goals{plain: 8}),
		sequentialOverwrite(64*kibibyte, s.small, goals{plain: 1.5}),
		createAppend(4*kibibyte, s.small, goals{plain: 0.95}),
		createAppend(64*kibibyte, s.small, goals{plain: 0.95}),
		durableWriteAt(64, s.small, goals{plain: 1}),
		windowedRandomReadAt(64, s.large, goals{plain: 1}),
		windowedRandomReadAt(64, s.small, goals{plain: 10}),
		windowedSequentialRead(64*kibibyte, s.large, goals{plain: 0.95}),
		coldRandomReadAt(s.cold, s.reads, goals{plain: 0.9, peer: 1.3}),
		coldDelay(s.cold, s.reads, goals{plain: 0.9}),
	}
	for _, size := range s.curves {
		all = append(all, hotCurve(size))
	}
	for _, size := range s.curves {
		all = append(all, coldCurve(size, s.coldReads))
	}
	return all
}

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

// readers has each library open the file and read the first size bytes of it until that is as fast as
// it gets. work makes the contestants' work.
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
	for range 64 {
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
	if file, ok := file.ReaderAt.(*memmapfs.MappedFile); ok && !file.Mapped() {
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

// randomLoads loads eight bytes at a time: of maps by indexing them, in memmapfs a million times inside
// one View, in files with ReadAt.
func randomLoads(size int64, g goals) row {
	return row{name: fmt.Sprintf("random 8 B loads of %s, in View", sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.fileHolding(size)
		if err != nil {
			return nil, err
		}
		contestants, err := readers(w, w.libraries.reading, path, size, func(file opened) func(t turn) (uint64, error) {
			buffer := make([]byte, 8)
			return func(t turn) (uint64, error) {
				sum := uint64(0)
				offsets := offsetsIn(size, len(buffer), t.number)
				for range t.operations {
					n, err := file.ReadAt(buffer, offsets.next())
					if n < len(buffer) {
						return 0, full(n, len(buffer), err)
					}
					sum += binary.LittleEndian.Uint64(buffer)
				}
				return sum, nil
			}
		})
		if err != nil {
			return nil, err
		}
		for i := range contestants {
			switch c := &contestants[i]; c.name {
			case mapped:
				c.work, err = loadsInView(w, path, size)
			case mmapGo:
				c.work, err = loadsOfMap(w, size, func() ([]byte, func() error, error) {
					data, err := mapMmapGo(path, os.O_RDONLY, 0)
					return data, data.Unmap, err
				})
			}
			if err != nil {
				return nil, err
			}
		}
		work, err := loadsOfMap(w, size, func() ([]byte, func() error, error) { return mapBare(path, size) })
		switch {
		case err == nil:
			contestants = append(contestants, contestant{name: bareMap, work: work})
		case !errors.Is(err, errors.ErrUnsupported):
			return nil, err
		}
		return contestants, nil
	}}
}

func sumOfLoads(data []byte, offsets *randomOffsets, loads int) uint64 {
	sum := uint64(0)
	for range loads {
		sum += binary.LittleEndian.Uint64(data[offsets.next():])
	}
	return sum
}

func touchPages(data []byte) error {
	sum := byte(0)
	for page := 0; page < len(data); page += os.Getpagesize() {
		sum += data[page]
	}
	runtime.KeepAlive(sum)
	return nil
}

func loadsInView(w *workspace, path string, size int64) (func(t turn) (uint64, error), error) {
	const loadsPerView = 1_000_000
	file, err := libraryOf(w.libraries.reading, mapped).open(path)
	if err != nil {
		return nil, err
	}
	w.later(file.close)
	view := file.ReaderAt.(*memmapfs.MappedFile).View
	return func(t turn) (uint64, error) {
		sum := uint64(0)
		offsets := offsetsIn(size, 8, t.number)
		for done := 0; done < t.operations; done += loadsPerView {
			err := view(0, size, func(data []byte) error {
				sum += sumOfLoads(data, &offsets, min(loadsPerView, t.operations-done))
				return nil
			})
			if err != nil {
				return 0, err
			}
		}
		return sum, nil
	}, view(0, size, touchPages)
}

func loadsOfMap(w *workspace, size int64, open func() (data []byte, unmap func() error, err error)) (func(t turn) (uint64, error), error) {
	data, unmap, err := open()
	if err != nil {
		return nil, err
	}
	w.later(unmap)
	return func(t turn) (uint64, error) {
		offsets := offsetsIn(size, 8, t.number)
		return sumOfLoads(data, &offsets, t.operations), nil
	}, touchPages(data[:size])
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

// copyTo has each contestant copy the file to what open opens for it; arrived tells the sum over what has come.
func copyTo(name string, size int64, g goals, open func(w *workspace) (to io.Writer, arrived func(t turn) (uint64, error), err error)) row {
	return row{name: fmt.Sprintf("io.Copy of %s to %s", sizeName(size), name), goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.stampedFile(size)
		if err != nil {
			return nil, err
		}
		var failed error
		contestants, err := readers(w, w.libraries.reading, path, size, func(file opened) func(t turn) (uint64, error) {
			to, arrived, err := open(w)
			failed = errors.Join(failed, err)
			return func(t turn) (uint64, error) {
				sum := uint64(0)
				for range t.operations {
					if _, err := file.stream.Seek(0, io.SeekStart); err != nil {
						return 0, err
					}
					n, err := io.Copy(to, file.stream)
					if err := errors.Join(full(int(n), int(size), io.ErrShortWrite), err); err != nil {
						return 0, err
					}
					one, err := arrived(t)
					if err != nil {
						return 0, err
					}
					sum += one
				}
				return sum, nil
			}
		})
		return contestants, errors.Join(err, failed)
	}}
}

func copyToBuffer(size int64, g goals) row {
	return copyTo("a bytes.Buffer", size, g, func(w *workspace) (io.Writer, func(t turn) (uint64, error), error) {
		buffer := new(bytes.Buffer)
		buffer.Grow(int(size) + bytes.MinRead)
		return buffer, func(t turn) (uint64, error) {
			defer buffer.Reset()
			return digest(0, buffer.Bytes(), t.check), nil
		}, nil
	})
}

// copyToNull leaves out mmap-go: the device takes the whole map in one call, and nobody reads a byte of it.
func copyToNull(size int64, g goals) row {
	r := copyTo(os.DevNull, size, g, func(w *workspace) (io.Writer, func(t turn) (uint64, error), error) {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err == nil {
			w.later(null.Close)
		}
		return null, func(t turn) (uint64, error) { return 0, nil }, err
	})
	setup := r.setup
	r.setup = func(w *workspace) ([]contestant, error) {
		contestants, err := setup(w)
		return slices.DeleteFunc(contestants, func(c contestant) bool { return c.name == mmapGo }), err
	}
	return r
}

func copyToTCP(size int64, g goals) row {
	return copyTo("TCP", size, g, func(w *workspace) (io.Writer, func(t turn) (uint64, error), error) {
		connection, received, err := loopback(w, size)
		return connection, func(t turn) (uint64, error) {
			checksum, ok := <-received
			if !ok {
				return 0, io.ErrUnexpectedEOF
			}
			return checksum, nil
		}, err
	})
}

// writers has each library open its own copy of the file and overwrite it until that is as fast as it gets.
func writers(w *workspace, from []library, size int64, work func(file editor) func(t turn) error) ([]contestant, error) {
	var contestants []contestant
	for _, l := range from {
		path, err := w.ownFile(l.name, size)
		if err != nil {
			return nil, err
		}
		file, err := l.edit(path)
		if err != nil {
			return nil, err
		}
		w.later(file.Close)
		if err := overwrite(file, path); err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		write := work(file)
		contestants = append(contestants, contestant{name: l.name, work: func(t turn) (uint64, error) {
			if err := write(t); err != nil || !t.check {
				return 0, err
			}
			written, err := os.ReadFile(path)
			return digest(0, written, true), err
		}})
	}
	return contestants, nil
}

// overwrite is warm for a file to be written to. The contents stay the same.
func overwrite(file editor, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	block := max(len(data)/64, 1)
	for range 2 {
		for offset := 0; offset < len(data); offset += block {
			if _, err := file.WriteAt(data[offset:min(offset+block, len(data))], int64(offset)); err != nil {
				return err
			}
		}
	}
	if file, ok := file.(*memmapfs.MappedFile); ok && !file.Mapped() {
		return errors.New("has not mapped the file, so there is nothing to measure: does another -dir help?")
	}
	return nil
}

func writeRandom(size int64, length int) func(file editor) func(t turn) error {
	return func(file editor) func(t turn) error {
		buffer := make([]byte, length)
		return func(t turn) error {
			offsets := offsetsIn(size, length, t.number)
			for i := range t.operations {
				binary.LittleEndian.PutUint64(buffer, uint64(i))
				if _, err := file.WriteAt(buffer, offsets.next()); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

func randomWriteAt(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("random WriteAt %s of %s", sizeName(int64(length)), sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return writers(w, w.libraries.writing, size, writeRandom(size, length))
	}}
}

func sequentialOverwrite(length, size int64, g goals) row {
	return row{name: fmt.Sprintf("sequential overwrite, Write %s", sizeName(length)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return writers(w, w.libraries.writing, size, func(file editor) func(t turn) error {
			buffer := make([]byte, length)
			return func(t turn) error {
				for i := range t.operations {
					if i%int(size/length) == 0 {
						if _, err := file.Seek(0, io.SeekStart); err != nil {
							return err
						}
					}
					binary.LittleEndian.PutUint64(buffer, uint64(i))
					if _, err := file.Write(buffer); err != nil {
						return err
					}
				}
				return nil
			}
		})
	}}
}

func createAppend(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("create, append %s by %s, close", sizeName(size), sizeName(int64(length))), goals: g, operations: 1, setup: func(w *workspace) ([]contestant, error) {
		var contestants []contestant
		for _, l := range w.libraries.writing {
			if l.create == nil {
				continue
			}
			path := filepath.Join(w.dir, "created-"+l.name)
			remove := func() error {
				if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
					return err
				}
				return nil
			}
			w.later(remove)
			buffer := make([]byte, length)
			contestants = append(contestants, contestant{name: l.name, before: remove, work: func(t turn) (uint64, error) {
				file, err := l.create(path)
				if err != nil {
					return 0, err
				}
				for i := range int(size) / length {
					binary.LittleEndian.PutUint64(buffer, stamp(int64(i)))
					if _, err := file.Write(buffer); err != nil {
						return 0, errors.Join(err, file.Close())
					}
				}
				if err := file.Close(); err != nil || !t.check {
					return 0, err
				}
				written, err := os.ReadFile(path)
				return digest(0, written, true), err
			}})
		}
		return contestants, nil
	}}
}

func durableWriteAt(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("WriteAt %s made durable", sizeName(int64(length))), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return writers(w, w.libraries.durable, size, writeRandom(size, length))
	}}
}

func windowedRandomReadAt(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("windows: random ReadAt %s of %s", sizeName(int64(length)), sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return randomReaders(w, w.libraries.windowed, length, size, 1)
	}}
}

func windowedSequentialRead(length, size int64, g goals) row {
	return row{name: fmt.Sprintf("windows: sequential Read %s", sizeName(length)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return sequentialReaders(w, w.libraries.windowed, length, size)
	}}
}

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
		processors := runtime.GOMAXPROCS(2)
		w.later(func() error { runtime.GOMAXPROCS(processors); return nil })
		return coldReaders(w, size, func(file opened, t turn) (uint64, error) {
			return inGoroutines(coldGoroutines, t, func(t turn) (uint64, error) {
				return readRandom(file, size, make([]byte, 64), t)
			})
		})
	}}
}

// coldDelay is coldRandomReadAt, and measures not its time but by how much a goroutine that sleeps for a
// millisecond at a time is late at worst.
func coldDelay(size int64, reads int, g goals) row {
	r := coldRandomReadAt(size, reads, g)
	r.name = "cold: worst delay of a 1 ms sleeper beside that"
	setup := r.setup
	r.setup = func(w *workspace) ([]contestant, error) {
		contestants, err := setup(w)
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

// watchSleeper starts a goroutine that sleeps for a millisecond at a time. The function that it returns
// ends it and tells by how much it was late at worst.
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
