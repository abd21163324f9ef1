package testkit

import (
	"encoding/binary"
	"math/bits"
	"os"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
)

const (
	Kibibyte = 1 << 10
	Mebibyte = 1 << 20
	Gibibyte = 1 << 30
)

// StampAt is what the eight bytes at an offset, a multiple of eight, of a stamped file hold.
func StampAt(offset int64) uint64 { return uint64(offset+8) * 0x9e3779b97f4a7c15 }

// StampBlock fills data with the stamps of the eight-byte words from offset on.
func StampBlock(data []byte, offset int64) {
	for i := 0; i+8 <= len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], StampAt(offset+int64(i)))
	}
}

// MapNow maps a file of memmapfs and hands out nothing of it.
func MapNow(file absfs.File) {
	if mapped, ok := file.(*memmapfs.MappedFile); ok {
		mapped.View(0, 1, func([]byte) error { return nil })
	}
}

// RandomOffsets is a generator of multiples of eight that is cheap beside what is measured.
type RandomOffsets struct{ state, end uint64 }

// OffsetsIn gives offsets at which length bytes fit into a file of size bytes.
func OffsetsIn(size int64, length int, seed uint64) RandomOffsets {
	return RandomOffsets{seed + 1, uint64(size-int64(length))/8 + 1}
}

// Next returns the next offset.
func (r *RandomOffsets) Next() int64 {
	r.state = r.state*6364136223846793005 + 1442695040888963407
	high, _ := bits.Mul64(r.state, r.end)
	return int64(high) * 8
}

// NeedDescriptors skips the test where a process cannot have so many files open.
func NeedDescriptors(t testing.TB, files int) {
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

// ReadLargePages measures reads of eight bytes at random offsets of a stamped file that is brought in as
// a whole, with large pages or without.
func ReadLargePages(b *testing.B, name string, size int64, huge bool) {
	config := memmapfs.DefaultConfig()
	config.PopulatePages, config.UseHugePages = true, huge
	file := MustOpenMapped(b, Mode{Config: config}.OverOS(b), name, os.O_RDONLY)
	offsets := OffsetsIn(size, 8, 1)
	buffer := make([]byte, 8)
	b.ResetTimer()
	for range b.N {
		at := offsets.Next()
		if _, err := file.ReadAt(buffer, at); err != nil {
			b.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(buffer); got != StampAt(at) {
			b.Fatalf("at %d: %x", at, got)
		}
	}
}
