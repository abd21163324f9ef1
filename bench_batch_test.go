package memmapfs_test

import (
	"os"
	"strconv"
	"testing"
	"unsafe"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

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
