package memmapfs_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
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
	for _, m := range []testkit.Mode{{Name: "osfs"}, {Name: "memmapfs", Config: config}} {
		b.Run("via="+m.Name, func(b *testing.B) {
			fileSystem := m.OverOS(b)
			b.ReportAllocs()
			benchmark(b, fileSystem)
		})
	}
}

var (
	reading  = memmapfs.DefaultConfig()
	writing  = testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)
	syncing  = testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate)
	windowMB = testkit.Windowed(memmapfs.ModeReadOnly, 1<<20)
)

// sizeName writes 65536 as 64KiB.
func sizeName(size int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 40, "TiB"}, {testkit.Gibibyte, "GiB"}, {testkit.Mebibyte, "MiB"}, {testkit.Kibibyte, "KiB"}} {
		if size >= unit.bytes && size%unit.bytes == 0 {
			return strconv.FormatInt(size/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(size, 10) + "B"
}

func checkStamps(data []byte, offset int64) error {
	for i := 0; i+8 <= len(data); i += 8 {
		if got, want := binary.LittleEndian.Uint64(data[i:]), testkit.StampAt(offset+int64(i)); got != want {
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
	block := make([]byte, min(size, testkit.Mebibyte))
	for offset := int64(0); offset < size; offset += int64(len(block)) {
		testkit.StampBlock(block, offset)
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
	block := make([]byte, 64*testkit.Kibibyte)
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

func openWarm(b *testing.B, fileSystem absfs.FileSystem, name string, size int64) absfs.File {
	b.Helper()
	file := testkit.MustOpen(b, fileSystem, name, os.O_RDONLY)
	warm(b, file, size, false)
	return file
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
	offsets := testkit.OffsetsIn(size, length, seed)
	last := int64(0)
	for range n {
		last = offsets.Next()
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
	const size = 16 * testkit.Mebibyte
	name := stampedFile(b, testkit.TestDir(b), size)
	for _, row := range []struct{ length, goroutines int }{
		{8, 1}, {64, 1}, {8, 2}, {64, 2}, {4 * testkit.Kibibyte, 1}, {64 * testkit.Kibibyte, 1},
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
	dir := testkit.TestDir(b)
	for _, size := range []int64{16 * testkit.Mebibyte, testkit.Gibibyte} {
		b.Run("file="+sizeName(size), func(b *testing.B) {
			name := stampedFile(b, dir, size)
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := testkit.MustOpen(b, fileSystem, name, os.O_RDONLY)
				b.SetBytes(8)
				mapped, ok := file.(*memmapfs.MappedFile)
				if !ok {
					inGoroutines(b, 1, func(seed uint64, n int) error { return readRandom(file, size, 8, seed, n) })
					return
				}
				touch := func(data []byte) error {
					for page := int64(0); page < size; page += testkit.PageSize {
						if err := checkStamps(data[page:page+8], page); err != nil {
							return err
						}
					}
					return nil
				}
				if err := mapped.View(0, size, touch); err != nil {
					b.Fatal(err)
				}
				offsets := testkit.OffsetsIn(size, 8, 0)
				b.ResetTimer()
				for done := 0; done < b.N; done += loadsPerView {
					err := mapped.View(0, size, func(data []byte) error {
						sum, want := uint64(0), uint64(0)
						for range min(loadsPerView, b.N-done) {
							offset := offsets.Next()
							sum += binary.LittleEndian.Uint64(data[offset:])
							want += testkit.StampAt(offset)
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
	const size = 16 * testkit.Mebibyte
	name := stampedFile(b, testkit.TestDir(b), size)
	for _, length := range []int64{4 * testkit.Kibibyte, 64 * testkit.Kibibyte, testkit.Mebibyte} {
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
	dir := testkit.TestDir(b)
	for _, row := range [][2]int64{
		{64, 64}, {4 * testkit.Kibibyte, 4 * testkit.Kibibyte}, {64 * testkit.Kibibyte, 64 * testkit.Kibibyte}, {testkit.Mebibyte, testkit.Mebibyte},
		{16 * testkit.Mebibyte, 16 * testkit.Mebibyte}, {16 * testkit.Mebibyte, 64 * testkit.Kibibyte},
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
	const size = 64 * testkit.Mebibyte
	name := stampedFile(b, testkit.TestDir(b), size)
	pages := int(size / testkit.PageSize)
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
				page := int64(i*1_000_003%pages) * testkit.PageSize
				if _, err := file.ReadAt(buffer, page); err != nil {
					b.Fatal(err)
				}
				if binary.LittleEndian.Uint64(buffer) != testkit.StampAt(page) {
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
	const size = 64 * testkit.Mebibyte
	var log bytes.Buffer
	lines := 0
	for ; log.Len() < size; lines++ {
		fmt.Fprintf(&log, "2025-03-01T00:00:%06.3fZ INFO request=%08x path=/items/%d status=200 bytes=%d\n",
			float64(lines%60_000)/1000, lines, lines%9973, lines%7919)
	}
	name := testkit.WriteFile(b, testkit.TestDir(b), "log", log.Bytes())
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
	const size = 16 * testkit.Mebibyte
	name := stampedFile(b, testkit.TestDir(b), size)

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
		buffer := make([]byte, 256*testkit.Kibibyte)
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
	const size = 16 * testkit.Mebibyte
	name := stampedFile(b, testkit.TestDir(b), size)
	for _, length := range []int{64, 4 * testkit.Kibibyte} {
		b.Run("length="+sizeName(int64(length)), func(b *testing.B) {
			compare(b, writing, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := testkit.MustOpen(b, fileSystem, name, os.O_RDWR)
				warm(b, file, size, true)
				writeRandom(b, file, size, length)
			})
		})
	}
}

// writeRandom writes b.N times length bytes, and checks that the last of them are in the file.
func writeRandom(b *testing.B, file absfs.File, size int64, length int) {
	b.Helper()
	offsets := testkit.OffsetsIn(size, length, 0)
	buffer := make([]byte, length)
	last := int64(0)
	b.SetBytes(int64(length))
	b.ResetTimer()
	for i := range b.N {
		last = offsets.Next()
		binary.LittleEndian.PutUint64(buffer, uint64(i))
		if _, err := file.WriteAt(buffer, last); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	written := testkit.ReadNative(b, file.Name())[last : last+int64(length)]
	testkit.MustEqual(b, "the bytes written last", written, buffer)
}

func BenchmarkSequentialOverwrite(b *testing.B) {
	const size, length = 16 * testkit.Mebibyte, 64 * testkit.Kibibyte
	name := stampedFile(b, testkit.TestDir(b), size)
	compare(b, writing, func(b *testing.B, fileSystem absfs.FileSystem) {
		file := testkit.MustOpen(b, fileSystem, name, os.O_RDWR)
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
	const size = 16 * testkit.Mebibyte
	dir := testkit.TestDir(b)
	for _, length := range []int{4 * testkit.Kibibyte, 64 * testkit.Kibibyte} {
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
	const size, length = 16 * testkit.Mebibyte, 64
	name := stampedFile(b, testkit.TestDir(b), size)
	compare(b, syncing, func(b *testing.B, fileSystem absfs.FileSystem) {
		file := testkit.MustOpen(b, fileSystem, name, os.O_RDWR)
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
		testkit.MapNow(file)
		if _, ok := file.(*memmapfs.MappedFile); !ok {
			file = synced{file}
		}
		writeRandom(b, file, size, length)
	})
}

func BenchmarkWindowedRandomReadAt(b *testing.B) {
	const length = 64
	dir := testkit.TestDir(b)
	for _, size := range []int64{256 * testkit.Mebibyte, 16 * testkit.Mebibyte} {
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
	const size, length = 256 * testkit.Mebibyte, 64 * testkit.Kibibyte
	dir := testkit.TestDir(b)
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
		size, length, goroutines = 2 * testkit.Gibibyte, 64, 128
		readsPerDrop             = 50_000 // so that most reads find their page cold
	)
	if testing.Short() {
		b.Skip("makes a file of 2 GiB")
	}
	dir := testkit.TestDir(b)
	compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
		name := stampedFile(b, dir, size)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
		worst := time.Duration(0)
		b.SetBytes(length)
		b.StopTimer()
		for done := 0; done < b.N; done += readsPerDrop {
			if err := testkit.DropFromCache(osfs.ToNative(name)); err != nil {
				b.Skip("cannot drop the file from the page cache:", err)
			}
			file := testkit.MustOpen(b, fileSystem, name, os.O_RDONLY)
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
	dir := testkit.TestDir(b)
	for _, size := range []int64{testkit.Mebibyte, 16 * testkit.Mebibyte, 256 * testkit.Mebibyte, 4 * testkit.Gibibyte, 64 * testkit.Gibibyte} {
		b.Run("file="+sizeName(size), func(b *testing.B) {
			name := testkit.SparseFile(b, dir, size)
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := testkit.MustOpen(b, fileSystem, name, os.O_RDONLY)
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

// BenchmarkReadEndsInZero reads 64 bytes whose last one is a zero, which has to be proved to lie inside the
// file, or is not.
func BenchmarkReadEndsInZero(b *testing.B) {
	const length = 64
	data := bytes.Repeat([]byte{1}, 64*testkit.Kibibyte)
	for at := length - 1; at < len(data); at += 2 * length {
		data[at] = 0
	}
	name := testkit.WriteFile(b, testkit.TestDir(b), "file", data)
	for _, zero := range []bool{false, true} {
		b.Run(fmt.Sprintf("zero=%v", zero), func(b *testing.B) {
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				file := testkit.MustOpen(b, fileSystem, name, os.O_RDONLY)
				testkit.MapNow(file)
				warm(b, file, int64(len(data)), false)
				buffer := make([]byte, length)
				first := int64(length)
				if zero {
					first = 0
				}
				b.SetBytes(length)
				b.ResetTimer()
				for i := range b.N {
					off := first + int64(i%256)*2*length // not in the last page
					if _, err := file.ReadAt(buffer, off); err != nil {
						b.Fatal(err)
					}
				}
				if (buffer[length-1] == 0) != zero {
					b.Fatal("the last byte is another one")
				}
			})
		})
	}
}

func BenchmarkReadAtByOpenFiles(b *testing.B) {
	const size, length = 64 * testkit.Kibibyte, 64
	dir := testkit.TestDir(b)
	name := stampedFile(b, dir, size)
	for _, files := range []int{1, 10, 100, 1_000, 10_000} {
		b.Run("files="+strconv.Itoa(files), func(b *testing.B) {
			testkit.NeedDescriptors(b, files)
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				var opened []absfs.File
				for range files {
					file, err := fileSystem.Open(name)
					if err != nil {
						b.Fatal(err)
					}
					defer file.Close()
					testkit.MapNow(file)
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

// BenchmarkHugePages reads eight bytes at a time at random from a file that was not in the page cache
// when it was opened and read in.
func BenchmarkHugePages(b *testing.B) {
	const size = testkit.Gibibyte
	name := stampedFile(b, b.TempDir(), size)
	for _, huge := range []bool{false, true} {
		b.Run(fmt.Sprintf("use=%v", huge), func(b *testing.B) {
			if err := testkit.DropFromCache(osfs.ToNative(name)); err != nil {
				b.Skip("the file stays in the page cache:", err)
			}
			testkit.ReadLargePages(b, name, size, huge)
		})
	}
}

// BenchmarkReadBatch reads 64 times 64 bytes at random: memmapfs in one call, the plain file one by
// one.
func BenchmarkReadBatch(b *testing.B) {
	const size, reads, length = 16 * testkit.Mebibyte, 64, 64
	name := stampedFile(b, testkit.TestDir(b), size)
	compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
		file := openWarm(b, fileSystem, name, size)
		batch := make([]memmapfs.ReadRequest, reads)
		buffers := make([]byte, reads*length)
		for i := range batch {
			batch[i].P = buffers[i*length:][:length]
		}
		mapped, _ := file.(*memmapfs.MappedFile)
		offsets := testkit.OffsetsIn(size, length, 0)
		b.SetBytes(reads * length)
		b.ResetTimer()
		for range b.N {
			for i := range batch {
				batch[i].Off = offsets.Next()
			}
			if mapped != nil {
				if err := mapped.ReadBatch(batch); err != nil {
					b.Fatal(err)
				}
				continue
			}
			for i := range batch {
				if _, err := file.ReadAt(batch[i].P, batch[i].Off); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.StopTimer()
		for _, r := range batch {
			if err := checkStamps(r.P, r.Off); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkViewSlice adds up numbers where they lie, and the plain file's in blocks of 256 KiB.
func BenchmarkViewSlice(b *testing.B) {
	size := int64(512 * testkit.Mebibyte)
	if testing.Short() {
		size = 16 * testkit.Mebibyte
	}
	name := stampedFile(b, testkit.TestDir(b), size)
	sum := func(values []uint32) (total uint64) {
		for _, value := range values {
			total += uint64(value)
		}
		return total
	}
	want := uint64(0)
	compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
		file := openWarm(b, fileSystem, name, size)
		block := make([]uint32, 64<<10)
		bytes := unsafe.Slice((*byte)(unsafe.Pointer(&block[0])), 4*len(block))
		total := uint64(0)
		b.SetBytes(size)
		b.ResetTimer()
		for range b.N {
			total = 0
			if mapped, ok := file.(*memmapfs.MappedFile); ok {
				err := memmapfs.ViewSlice(mapped, 0, int(size/4), func(values []uint32) error {
					total = sum(values)
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				continue
			}
			for off := int64(0); off < size; off += int64(len(bytes)) {
				if _, err := file.ReadAt(bytes, off); err != nil {
					b.Fatal(err)
				}
				total += sum(block)
			}
		}
		b.StopTimer()
		if want == 0 {
			want = total // the plain file's
		}
		if total != want {
			b.Fatalf("the sum is %d, want %d", total, want)
		}
	})
}

// BenchmarkOpenReadRandomClose is what a file costs that is open for so many small reads.
func BenchmarkOpenReadRandomClose(b *testing.B) {
	const size, length = testkit.Mebibyte, 64
	name := stampedFile(b, testkit.TestDir(b), size)
	for _, reads := range []int{1, 16, 64, 256, 1024} {
		b.Run("reads="+strconv.Itoa(reads), func(b *testing.B) {
			compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
				for i := range b.N {
					file, err := fileSystem.Open(name)
					if err == nil {
						err = readRandom(file, size, length, uint64(i), reads)
					}
					if err != nil {
						b.Fatal(err)
					}
					if err := file.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkReadAtZero reads bytes of which the last is a zero: that they are inside the file cannot
// be told from them.
func BenchmarkReadAtZero(b *testing.B) {
	const size, length = 16 * testkit.Mebibyte, 64
	name := testkit.WriteFile(b, testkit.TestDir(b), "zeros", make([]byte, size))
	compare(b, reading, func(b *testing.B, fileSystem absfs.FileSystem) {
		file := testkit.MustOpen(b, fileSystem, name, os.O_RDONLY)
		warm(b, file, size, false)
		offsets := testkit.OffsetsIn(size, length, 0)
		buffer := make([]byte, length)
		b.SetBytes(length)
		b.ResetTimer()
		for range b.N {
			if n, err := file.ReadAt(buffer, offsets.Next()); n < length {
				b.Fatal(n, err)
			}
		}
	})
}
