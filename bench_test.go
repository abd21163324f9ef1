package memmapfs_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// The benchmarks compare memmapfs with the filesystem that it wraps:
//
//	go test -run '^$' -bench . -count 10 | tee results
//	benchstat -col /via results
//
// The page cache is hot unless the name says otherwise, and the file is mapped before the time starts
// unless opening it is part of the work. The module in bench/ measures the same workloads, by the same
// names, against other libraries too.

// compare runs a benchmark through the plain filesystem and through memmapfs.
func compare(b *testing.B, config *memmapfs.Config, benchmark func(b *testing.B, fileSystem absfs.FileSystem)) {
	b.Helper()
	for _, m := range []mode{{"osfs", nil}, {"memmapfs", config}} {
		b.Run("via="+m.name, func(b *testing.B) {
			fileSystem := m.overOS(b)
			b.ReportAllocs()
			benchmark(b, fileSystem)
		})
	}
}

var (
	reading  = memmapfs.DefaultConfig()
	writing  = full(memmapfs.ModeReadWrite, memmapfs.SyncNever)
	syncing  = full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate)
	windowMB = windowed(memmapfs.ModeReadOnly, 1<<20)
)

const (
	kibibyte = 1 << 10
	mebibyte = 1 << 20
	gibibyte = 1 << 30
)

// sizeName writes 65536 as 64KiB.
func sizeName(size int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 40, "TiB"}, {gibibyte, "GiB"}, {mebibyte, "MiB"}, {kibibyte, "KiB"}} {
		if size >= unit.bytes && size%unit.bytes == 0 {
			return strconv.FormatInt(size/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(size, 10) + "B"
}

// stampAt is what the eight bytes at an offset, a multiple of eight, of a stamped file hold.
func stampAt(offset int64) uint64 { return uint64(offset+8) * 0x9e3779b97f4a7c15 }

func stampBlock(data []byte, offset int64) {
	for i := 0; i+8 <= len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], stampAt(offset+int64(i)))
	}
}

func checkStamps(data []byte, offset int64) error {
	for i := 0; i+8 <= len(data); i += 8 {
		if got, want := binary.LittleEndian.Uint64(data[i:]), stampAt(offset+int64(i)); got != want {
			return fmt.Errorf("at offset %d: %x, want %x", offset+int64(i), got, want)
		}
	}
	return nil
}

// stampedFile makes a file, unless it is there, and leaves it in the page cache.
func stampedFile(b *testing.B, dir string, size int64) (name string) {
	b.Helper()
	native := filepath.Join(dir, "stamped-"+sizeName(size))
	if _, err := os.Stat(native); err == nil {
		return osfs.FromNative(native)
	}
	file, err := os.Create(native)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, min(size, mebibyte))
	for offset := int64(0); offset < size; offset += int64(len(block)) {
		stampBlock(block, offset)
		if _, err := file.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	return osfs.FromNative(native)
}

// warm goes over the file until it is mapped and its pages are known to be in memory: by reading, or by
// writing the same bytes again.
func warm(b *testing.B, file absfs.File, size int64, write bool) {
	b.Helper()
	block := make([]byte, 64*kibibyte)
	for range 2 {
		for offset := int64(0); offset < size; offset += int64(len(block)) {
			_, err := file.ReadAt(block, offset)
			if err == nil && write {
				_, err = file.WriteAt(block, offset)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// mapNow maps a file of memmapfs and hands out nothing of it.
func mapNow(file absfs.File) {
	if mapped, ok := file.(*memmapfs.MappedFile); ok {
		mapped.View(0, 1, func([]byte) error { return nil })
	}
}

func openWarm(b *testing.B, fileSystem absfs.FileSystem, name string, size int64) absfs.File {
	b.Helper()
	file := mustOpen(b, fileSystem, name, os.O_RDONLY)
	warm(b, file, size, false)
	return file
}

// randomOffsets is a generator of multiples of eight that is cheap beside what is measured.
type randomOffsets struct{ state, end uint64 }

// offsetsIn gives offsets at which length bytes fit into a file of size bytes.
func offsetsIn(size int64, length int, seed uint64) randomOffsets {
	return randomOffsets{seed + 1, uint64(size-int64(length))/8 + 1}
}

func (r *randomOffsets) next() int64 {
	r.state = r.state*6364136223846793005 + 1442695040888963407
	high, _ := bits.Mul64(r.state, r.end)
	return int64(high) * 8
}

// inGoroutines shares b.N among goroutines and waits for them. The seed differs between them.
func inGoroutines(b *testing.B, goroutines int, work func(seed uint64, n int) error) {
	b.Helper()
	results := make(chan error)
	b.ResetTimer()
	for i := range goroutines {
		go func() { results <- work(uint64(i), b.N*(i+1)/goroutines-b.N*i/goroutines) }()
	}
	var failed error
	for range goroutines {
		if err := <-results; err != nil {
			failed = err
		}
	}
	b.StopTimer()
	if failed != nil {
		b.Fatal(failed)
	}
}

// readRandom reads n times length bytes, and checks the last of them.
func readRandom(file io.ReaderAt, size int64, length int, seed uint64, n int) error {
	buffer := make([]byte, length)
	offsets := offsetsIn(size, length, seed)
	last := int64(0)
	for range n {
		last = offsets.next()
		if _, err := file.ReadAt(buffer, last); err != nil {
			return err
		}
	}
	if n == 0 {
		return nil
	}
	return checkStamps(buffer, last)
}

func BenchmarkRandomReadAt(b *testing.B) {
	const size = 16 * mebibyte
	name := stampedFile(b, testDir(b), size)
	for _, row := range []struct{ length, goroutines int }{
		{8, 1}, {64, 1}, {8, 2}, {64, 2}, {4 * kibibyte, 1}, {64 * kibibyte, 1},
	} {
		b.Run(fmt.Sprintf("length=%s/goroutines=%d", sizeName(int64(row.length)), row.goroutines), func(b *testing.B) {
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := openWarm(b, fileSystem, name, size)
				b.SetBytes(int64(row.length))
				inGoroutines(b, row.goroutines, func(seed uint64, n int) error {
					return readRandom(file, size, row.length, seed, n)
				})
			})
		})
	}
}

// BenchmarkRandomLoads loads eight bytes at a time: from memmapfs a million times inside one View, from
// the plain file with ReadAt.
func BenchmarkRandomLoads(b *testing.B) {
	const loadsPerView = 1_000_000
	dir := testDir(b)
	for _, size := range []int64{16 * mebibyte, gibibyte} {
		b.Run("file="+sizeName(size), func(b *testing.B) {
			name := stampedFile(b, dir, size)
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := mustOpen(b, fileSystem, name, os.O_RDONLY)
				b.SetBytes(8)
				mapped, ok := file.(*memmapfs.MappedFile)
				if !ok {
					inGoroutines(b, 1, func(seed uint64, n int) error { return readRandom(file, size, 8, seed, n) })
					return
				}
				touch := func(data []byte) error {
					for page := int64(0); page < size; page += pageSize {
						if err := checkStamps(data[page:page+8], page); err != nil {
							return err
						}
					}
					return nil
				}
				if err := mapped.View(0, size, touch); err != nil {
					b.Fatal(err)
				}
				offsets := offsetsIn(size, 8, 0)
				b.ResetTimer()
				for done := 0; done < b.N; done += loadsPerView {
					err := mapped.View(0, size, func(data []byte) error {
						sum, want := uint64(0), uint64(0)
						for range min(loadsPerView, b.N-done) {
							offset := offsets.next()
							sum += binary.LittleEndian.Uint64(data[offset:])
							want += stampAt(offset)
						}
						if sum != want {
							return errors.New("wrong bytes")
						}
						return nil
					})
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// readOn reads n times a full buffer, and goes back to the start at the end of the file.
func readOn(file io.ReadSeeker, size int64, buffer []byte, n int) error {
	perPass := int(size / int64(len(buffer)))
	for i := range n {
		if i%perPass == 0 {
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
		if got, err := file.Read(buffer); err != nil || got < len(buffer) {
			return fmt.Errorf("read %d bytes: %w", got, err)
		}
	}
	return checkStamps(buffer, int64((n-1)%perPass*len(buffer)))
}

func BenchmarkSequentialRead(b *testing.B) {
	const size = 16 * mebibyte
	name := stampedFile(b, testDir(b), size)
	for _, length := range []int64{4 * kibibyte, 64 * kibibyte, mebibyte} {
		b.Run("length="+sizeName(length), func(b *testing.B) {
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := openWarm(b, fileSystem, name, size)
				b.SetBytes(length)
				b.ResetTimer()
				if err := readOn(file, size, make([]byte, length), b.N); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkOpenReadClose reads a file once, with a buffer of that length.
func BenchmarkOpenReadClose(b *testing.B) {
	dir := testDir(b)
	for _, row := range [][2]int64{
		{64, 64}, {4 * kibibyte, 4 * kibibyte}, {64 * kibibyte, 64 * kibibyte}, {mebibyte, mebibyte},
		{16 * mebibyte, 16 * mebibyte}, {16 * mebibyte, 64 * kibibyte},
	} {
		size, length := row[0], row[1]
		b.Run(fmt.Sprintf("file=%s/length=%s", sizeName(size), sizeName(length)), func(b *testing.B) {
			name := stampedFile(b, dir, size)
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				buffer := make([]byte, length)
				b.SetBytes(size)
				b.ResetTimer()
				for range b.N {
					file, err := fileSystem.Open(name)
					for done := int64(0); done < size && err == nil; done += length {
						_, err = io.ReadFull(file, buffer)
					}
					if err == nil {
						err = file.Close()
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if err := checkStamps(buffer, size-length); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkFirstTouch opens a file, reads 64 bytes in each of its pages in random order, and closes it.
func BenchmarkFirstTouch(b *testing.B) {
	const size = 64 * mebibyte
	name := stampedFile(b, testDir(b), size)
	pages := int(size / pageSize)
	compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
		buffer := make([]byte, 64)
		b.SetBytes(int64(pages * len(buffer)))
		b.ResetTimer()
		for range b.N {
			file, err := fileSystem.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			for i := range pages {
				// An odd factor takes every page of a power of two once.
				page := int64(i*1_000_003%pages) * pageSize
				if _, err := file.ReadAt(buffer, page); err != nil {
					b.Fatal(err)
				}
				if binary.LittleEndian.Uint64(buffer) != stampAt(page) {
					b.Fatal("wrong bytes")
				}
			}
			if err := file.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkScanner counts the lines of a log with bufio.Scanner, opening and closing it each time.
func BenchmarkScanner(b *testing.B) {
	const size = 64 * mebibyte
	var log bytes.Buffer
	lines := 0
	for ; log.Len() < size; lines++ {
		fmt.Fprintf(&log, "2025-03-01T00:00:%06.3fZ INFO request=%08x path=/items/%d status=200 bytes=%d\n",
			float64(lines%60_000)/1000, lines, lines%9973, lines%7919)
	}
	name := writeFile(b, testDir(b), "log", log.Bytes())
	compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
		b.SetBytes(int64(log.Len()))
		b.ResetTimer()
		for range b.N {
			file, err := fileSystem.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			got := 0
			for scanner := bufio.NewScanner(file); scanner.Scan(); {
				got++
			}
			if err := file.Close(); err != nil || got != lines {
				b.Fatalf("%d lines, want %d; %v", got, lines, err)
			}
		}
	})
}

func BenchmarkCopy(b *testing.B) {
	const size = 16 * mebibyte
	name := stampedFile(b, testDir(b), size)

	// copyEach copies the file once for each turn; arrived is told when a copy is made.
	copyEach := func(b *testing.B, fileSystem absfs.FileSystem, to io.Writer, arrived func() error) {
		b.Helper()
		file := openWarm(b, fileSystem, name, size)
		b.SetBytes(size)
		b.ResetTimer()
		for range b.N {
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(to, file); n != size || err != nil {
				b.Fatalf("copied %d bytes: %v", n, err)
			}
			if err := arrived(); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
	}

	b.Run("to=bytes.Buffer", func(b *testing.B) {
		compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
			var buffer bytes.Buffer
			buffer.Grow(size + bytes.MinRead)
			copyEach(b, fileSystem, &buffer, func() error {
				defer buffer.Reset()
				return checkStamps(buffer.Bytes()[size-64:], size-64)
			})
		})
	})
	b.Run("to=null", func(b *testing.B) {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer null.Close()
		compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
			copyEach(b, fileSystem, null, func() error { return nil })
		})
	})
	b.Run("to=TCP", func(b *testing.B) {
		compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
			connection, received := loopback(b, size)
			copyEach(b, fileSystem, connection, func() error { return <-received })
		})
	})
}

// loopback returns a TCP connection whose other end reads, and says when each size bytes have come.
func loopback(b *testing.B, size int) (connection net.Conn, received <-chan error) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Skip("no TCP on loopback:", err)
	}
	defer listener.Close()
	connection, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	other, err := listener.Accept()
	if err != nil {
		b.Fatal(err)
	}
	results := make(chan error, 1)
	go func() {
		defer close(results)
		defer other.Close()
		buffer := make([]byte, 256*kibibyte)
		for left := size; ; {
			n, err := other.Read(buffer[:min(len(buffer), left)])
			if err != nil {
				return
			}
			if left -= n; left == 0 {
				results <- nil
				left = size
			}
		}
	}()
	b.Cleanup(func() {
		connection.Close()
		for range results {
		}
	})
	return connection, results
}

func BenchmarkRandomWriteAt(b *testing.B) {
	const size = 16 * mebibyte
	name := stampedFile(b, testDir(b), size)
	for _, length := range []int{64, 4 * kibibyte} {
		b.Run("length="+sizeName(int64(length)), func(b *testing.B) {
			compare(b, writing, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := mustOpen(b, fileSystem, name, os.O_RDWR)
				warm(b, file, size, true)
				writeRandom(b, file, size, length)
			})
		})
	}
}

// writeRandom writes b.N times length bytes, and checks that the last of them are in the file.
func writeRandom(b *testing.B, file absfs.File, size int64, length int) {
	b.Helper()
	offsets := offsetsIn(size, length, 0)
	buffer := make([]byte, length)
	last := int64(0)
	b.SetBytes(int64(length))
	b.ResetTimer()
	for i := range b.N {
		last = offsets.next()
		binary.LittleEndian.PutUint64(buffer, uint64(i))
		if _, err := file.WriteAt(buffer, last); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	written := readNative(b, file.Name())[last : last+int64(length)]
	mustEqual(b, "the bytes written last", written, buffer)
}

func BenchmarkSequentialOverwrite(b *testing.B) {
	const size, length = 16 * mebibyte, 64 * kibibyte
	name := stampedFile(b, testDir(b), size)
	compare(b, writing, func(b *testing.B, fileSystem absfs.FileSystem) {
		file := mustOpen(b, fileSystem, name, os.O_RDWR)
		warm(b, file, size, true)
		buffer := make([]byte, length)
		b.SetBytes(length)
		b.ResetTimer()
		for i := range b.N {
			if i%(size/length) == 0 {
				if _, err := file.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := file.Write(buffer); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCreateAppend(b *testing.B) {
	const size = 16 * mebibyte
	dir := testDir(b)
	for _, length := range []int{4 * kibibyte, 64 * kibibyte} {
		b.Run("length="+sizeName(int64(length)), func(b *testing.B) {
			compare(b, writing, func(b *testing.B, fileSystem absfs.FileSystem) {
				native := filepath.Join(dir, "created")
				buffer := make([]byte, length)
				b.SetBytes(size)
				b.ResetTimer()
				for range b.N {
					file, err := fileSystem.Create(osfs.FromNative(native))
					if err != nil {
						b.Fatal(err)
					}
					for range size / length {
						if _, err := file.Write(buffer); err != nil {
							b.Fatal(err)
						}
					}
					if err := file.Close(); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if info, err := os.Stat(native); err != nil || info.Size() != size {
						b.Fatal(info, err)
					}
					if err := os.Remove(native); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		})
	}
}

// synced makes every WriteAt durable, as SyncImmediate does.
type synced struct{ absfs.File }

func (f synced) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	if err == nil {
		err = f.File.Sync()
	}
	return n, err
}

func BenchmarkDurableWriteAt(b *testing.B) {
	const size, length = 16 * mebibyte, 64
	name := stampedFile(b, testDir(b), size)
	compare(b, syncing, func(b *testing.B, fileSystem absfs.FileSystem) {
		file := mustOpen(b, fileSystem, name, os.O_RDWR)
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
		mapNow(file)
		if _, ok := file.(*memmapfs.MappedFile); !ok {
			file = synced{file}
		}
		writeRandom(b, file, size, length)
	})
}

func BenchmarkWindowedRandomReadAt(b *testing.B) {
	const length = 64
	dir := testDir(b)
	for _, size := range []int64{256 * mebibyte, 16 * mebibyte} {
		b.Run("file="+sizeName(size), func(b *testing.B) {
			name := stampedFile(b, dir, size)
			compare(b, windowMB, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := openWarm(b, fileSystem, name, size)
				b.SetBytes(length)
				inGoroutines(b, 1, func(seed uint64, n int) error {
					return readRandom(file, size, length, seed, n)
				})
			})
		})
	}
}

func BenchmarkWindowedSequentialRead(b *testing.B) {
	const size, length = 256 * mebibyte, 64 * kibibyte
	dir := testDir(b)
	compare(b, windowMB, func(b *testing.B, fileSystem absfs.FileSystem) {
		name := stampedFile(b, dir, size)
		file := openWarm(b, fileSystem, name, size)
		b.SetBytes(length)
		b.ResetTimer()
		if err := readOn(file, size, make([]byte, length), b.N); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkColdRandomReadAt reads from a file that is not in the page cache. It also reports by how much
// a goroutine that sleeps for a millisecond at a time was late at worst.
func BenchmarkColdRandomReadAt(b *testing.B) {
	const (
		size, length, goroutines = 2 * gibibyte, 64, 128
		readsPerDrop             = 50_000 // so that most reads find their page cold
	)
	if testing.Short() {
		b.Skip("makes a file of 2 GiB")
	}
	dir := testDir(b)
	compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
		name := stampedFile(b, dir, size)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
		worst := time.Duration(0)
		b.SetBytes(length)
		b.StopTimer()
		for done := 0; done < b.N; done += readsPerDrop {
			if err := dropFromCache(osfs.ToNative(name)); err != nil {
				b.Skip("cannot drop the file from the page cache:", err)
			}
			file := mustOpen(b, fileSystem, name, os.O_RDONLY)
			results := make(chan error)
			n := min(readsPerDrop, b.N-done)
			worstDelay := watchSleeper()
			b.StartTimer()
			for i := range goroutines {
				seed := uint64(done + i)
				go func() {
					results <- readRandom(file, size, length, seed, n*(i+1)/goroutines-n*i/goroutines)
				}()
			}
			for range goroutines {
				if err := <-results; err != nil {
					b.Error(err)
				}
			}
			b.StopTimer()
			worst = max(worst, worstDelay())
			if err := file.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(worst.Nanoseconds()), "worst-delay-ns")
	})
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

func BenchmarkReadAtBySize(b *testing.B) {
	const length, places = 64, 256 // so few places that the processor's caches hold them at each size
	dir := testDir(b)
	for _, size := range []int64{mebibyte, 16 * mebibyte, 256 * mebibyte, 4 * gibibyte, 64 * gibibyte} {
		b.Run("file="+sizeName(size), func(b *testing.B) {
			name := sparseFile(b, dir, size)
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := mustOpen(b, fileSystem, name, os.O_RDONLY)
				buffer := make([]byte, length)
				read := func(i int) {
					place := int64(i % places)
					// The second term spreads the places over the sets of those caches.
					offset := (place*(size/places) + place%64*(4096+64)) % (size - length)
					if _, err := file.ReadAt(buffer, offset); err != nil {
						b.Fatal(err)
					}
				}
				for i := range 10 * places {
					read(i)
				}
				b.SetBytes(length)
				b.ResetTimer()
				for i := range b.N {
					read(i)
				}
			})
		})
	}
}

func BenchmarkReadAtByOpenFiles(b *testing.B) {
	const size, length = 64 * kibibyte, 64
	dir := testDir(b)
	name := stampedFile(b, dir, size)
	for _, files := range []int{1, 10, 100, 1_000, 10_000} {
		b.Run("files="+strconv.Itoa(files), func(b *testing.B) {
			skipWithoutDescriptors(b, files)
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				var opened []absfs.File
				for range files {
					file, err := fileSystem.Open(name)
					if err != nil {
						b.Fatal(err)
					}
					defer file.Close()
					mapNow(file)
					opened = append(opened, file)
				}
				file := opened[files/2]
				warm(b, file, size, false)
				b.SetBytes(length)
				b.ResetTimer()
				if err := readRandom(file, size, length, 0, b.N); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
			})
		})
	}
}

// skipWithoutDescriptors skips the test where a process cannot have so many files open.
func skipWithoutDescriptors(t testing.TB, files int) {
	t.Helper()
	var opened []*os.File
	defer func() {
		for _, file := range opened {
			file.Close()
		}
	}()
	for range files + 50 {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Skipf("this process cannot have %d files open: %v", files, err)
		}
		opened = append(opened, file)
	}
}

// Catches an allocation on the way that most calls take.
func TestReadsDoNotAllocate(t *testing.T) {
	skipUnlessMappable(t)
	const size = 4 * mebibyte
	dir := testDir(t)
	data := content(size)
	name := writeFile(t, dir, "file", data)
	for _, test := range []struct {
		name   string
		config *memmapfs.Config
		flags  int
	}{
		{"read-only", memmapfs.DefaultConfig(), os.O_RDONLY},
		{"read-write", full(memmapfs.ModeReadWrite, memmapfs.SyncNever), os.O_RDWR},
		{"copy-on-write", full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever), os.O_RDONLY},
		{"windows", windowed(memmapfs.ModeReadOnly, mebibyte), os.O_RDONLY},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := mustOpen(t, mode{test.name, test.config}.overOS(t), name, test.flags)
			mapNow(file)
			buffer := make([]byte, 64)
			offset := int64(0)
			next := func() int64 {
				offset = (offset + 1_000_003) % (size - 64)
				return offset
			}
			calls := map[string]func() error{
				"ReadAt": func() error { _, err := file.ReadAt(buffer, next()); return err },
				"Read":   func() error { _, err := file.Read(buffer); return err },
			}
			if test.config.Mode == memmapfs.ModeReadWrite {
				calls["WriteAt"] = func() error { at := next(); _, err := file.WriteAt(data[at:at+64], at); return err }
			}
			for name, call := range calls {
				for range 4 * size / pageSize { // every page is known by then
					if err := call(); err != nil {
						t.Fatal(name, err)
					}
					if name == "Read" {
						file.Seek(next(), io.SeekStart)
					}
				}
				file.Seek(0, io.SeekStart)
				if allocations := testing.AllocsPerRun(1000, func() {
					if err := call(); err != nil {
						t.Fatal(name, err)
					}
				}); allocations != 0 {
					t.Errorf("%s of a mapped file: %v allocations", name, allocations)
				}
			}
		})
	}
}

// residentBytes returns the memory of this process that is resident, pages of mapped files included.
func residentBytes(t testing.TB) int64 {
	debug.FreeOSMemory() // what other tests have left in the heap is not this one's
	t.Helper()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("the system does not tell how much memory is resident:", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kibibytes, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kibibytes * kibibyte
		}
	}
	t.Skip("the system does not tell how much memory is resident")
	return 0
}

// Catches bookkeeping whose size goes with the size of a file and not with what is used of it.
func TestSparseTiB(t *testing.T) {
	skipUnlessMappable(t)
	const (
		size    = int64(1) << 40
		touched = 100 * mebibyte
		allowed = 130 * mebibyte
	)
	native := filepath.Join(testDir(t), "sparse")
	if err := os.WriteFile(native, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(native, size); err != nil {
		t.Skip("no file of 1 TiB here:", err)
	}
	for _, test := range []struct {
		name  string
		areas int64 // of the same size, spread over the file; each costs what the kernel reads ahead
	}{{"one area", 1}, {"10 areas", 10}} {
		t.Run(test.name, func(t *testing.T) {
			before := residentBytes(t)
			start := time.Now()
			file := mustOpenMapped(t, mode{"default", memmapfs.DefaultConfig()}.overOS(t), osfs.FromNative(native), os.O_RDONLY)
			opened := time.Since(start)
			buffer := make([]byte, pageSize)
			for range 3 {
				for area := range test.areas {
					for offset := int64(0); offset < touched/test.areas; offset += pageSize {
						if _, err := file.ReadAt(buffer, area*(size/16)+offset); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			grown := residentBytes(t) - before
			t.Logf("opened in %v; resident memory grew by %d KiB for %d KiB touched", opened, grown/kibibyte, touched/kibibyte)
			if opened > 100*time.Millisecond {
				t.Errorf("opening took %v", opened)
			}
			if runtime.GOOS == "linux" && strconv.IntSize == 64 {
				if !file.Mapped() {
					t.Error("the file is not mapped")
				}
				if grown < touched/2 {
					t.Errorf("resident memory grew by %d KiB: the map was not used", grown/kibibyte)
				}
			}
			if grown > allowed && !raceDetector { // which keeps a record of each word of the bookkeeping
				t.Errorf("resident memory grew by %d KiB, want at most %d", grown/kibibyte, int64(allowed)/kibibyte)
			}
		})
	}
}

// Catches a table that grows faster than the files in it, and descriptors kept for each map.
func TestTenThousandFiles(t *testing.T) {
	files := 10_000
	if testing.Short() {
		t.Skip("makes 10,000 files")
	}
	if onWine {
		files = 1000 // it looks through all views to make one
	}
	skipWithoutDescriptors(t, files)
	dir := testDir(t)
	plain := plainFileSystem(t)
	fileSystem := mode{"default", memmapfs.DefaultConfig()}.overOS(t)
	names := make([]string, files)
	for i := range names {
		names[i] = writeFile(t, dir, strconv.Itoa(i), []byte("file "+strconv.Itoa(i)))
	}

	// heapAfter opens every file and returns what that took per file.
	heapAfter := func(open func(name string) absfs.File) (heap int64, spent time.Duration) {
		var before, after runtime.MemStats
		opened := make([]absfs.File, 0, files)
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		for _, name := range names {
			opened = append(opened, open(name))
		}
		spent = time.Since(start)
		runtime.GC()
		runtime.ReadMemStats(&after)
		buffer := make([]byte, 100)
		for i, file := range opened {
			n, err := file.ReadAt(buffer, 0)
			if want := "file " + strconv.Itoa(i); string(buffer[:n]) != want || err != io.EOF {
				t.Fatalf("read %q, %v; want %q, io.EOF", buffer[:n], err, want)
			}
		}
		for _, file := range opened {
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return int64(after.HeapAlloc-before.HeapAlloc) / int64(files), spent / time.Duration(files)
	}

	for _, way := range []struct {
		name string
		open func(name string) absfs.File
	}{
		{"osfs", func(name string) absfs.File { return mustOpenOnly(t, plain, name) }},
		{"memmapfs, not mapped", func(name string) absfs.File { return mustOpenOnly(t, fileSystem, name) }},
		{"memmapfs, mapped", func(name string) absfs.File {
			file := mustOpenOnly(t, fileSystem, name)
			mapNow(file)
			if runtime.GOOS == "linux" && !asMapped(t, file).Mapped() {
				t.Fatal("not mapped")
			}
			return file
		}},
	} {
		heap, spent := heapAfter(way.open)
		t.Logf("%-20s  %5d bytes of heap per open file, %v per open", way.name, heap, spent)
		if heap > 4*kibibyte {
			t.Errorf("%s: %d bytes of heap per open file", way.name, heap)
		}
	}
}

func mustOpenOnly(t testing.TB, fileSystem absfs.FileSystem, name string) absfs.File {
	t.Helper()
	file, err := fileSystem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// BenchmarkHugePages reads eight bytes at a time at random from a file that was not in the page cache
// when it was opened and read in.
func BenchmarkHugePages(b *testing.B) {
	const size = gibibyte
	name := stampedFile(b, b.TempDir(), size)
	for _, huge := range []bool{false, true} {
		b.Run(fmt.Sprintf("use=%v", huge), func(b *testing.B) {
			if err := dropFromCache(osfs.ToNative(name)); err != nil {
				b.Skip("the file stays in the page cache:", err)
			}
			benchmarkLargePages(b, name, size, huge)
		})
	}
}

func benchmarkLargePages(b *testing.B, name string, size int64, huge bool) {
	config := memmapfs.DefaultConfig()
	config.PopulatePages, config.UseHugePages = true, huge
	file := mustOpenMapped(b, mode{"", config}.overOS(b), name, os.O_RDONLY)
	offsets := offsetsIn(size, 8, 1)
	buffer := make([]byte, 8)
	b.ResetTimer()
	for range b.N {
		at := offsets.next()
		if _, err := file.ReadAt(buffer, at); err != nil {
			b.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(buffer); got != stampAt(at) {
			b.Fatalf("at %d: %x", at, got)
		}
	}
}
