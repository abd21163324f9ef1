package memmapfs_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// An index lookup reads many small places of a file at once: here the entries of an index, and then
// the records that these tell. What is in memory is copied under one guard, and what is not is
// asked for at once, in place of one after the other.
func ExampleMappedFile_ReadBatch() {
	const entrySize = 8 // of the index, which comes first: where a record lies and how long it is
	names := []string{"ant", "bee", "crane", "dolphin", "eagle", "fox", "gnu", "heron"}
	index, records := make([]byte, 0, entrySize*len(names)), []byte(nil)
	for _, name := range names {
		at := entrySize*len(names) + len(records)
		index = binary.LittleEndian.AppendUint32(index, uint32(at))
		index = binary.LittleEndian.AppendUint32(index, uint32(len(name)))
		records = append(records, name...)
	}
	path, remove := temporaryFile(append(index, records...))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	file, err := memmapfs.New(base, memmapfs.DefaultConfig()).Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)

	wanted := []int{6, 1, 3}
	batch := make([]memmapfs.ReadRequest, len(wanted))
	for i, number := range wanted {
		batch[i] = memmapfs.ReadRequest{P: make([]byte, entrySize), Off: int64(entrySize * number)}
	}
	check(mapped.ReadBatch(batch))
	for i, entry := range batch {
		at, length := binary.LittleEndian.Uint32(entry.P), binary.LittleEndian.Uint32(entry.P[4:])
		batch[i] = memmapfs.ReadRequest{P: make([]byte, length), Off: int64(at)}
	}
	check(mapped.ReadBatch(batch))
	for i, record := range batch {
		fmt.Printf("%d: %s\n", wanted[i], record.P[:record.N])
	}
	check(mapped.Close())
	// Output:
	// 6: gnu
	// 1: bee
	// 3: dolphin
}

// A file of vectors, one behind the other in the byte order of the processor, is searched where it
// lies for the two that are nearest to another.
func ExampleViewSlice() {
	const dimensions = 4
	type vector [dimensions]float32
	var contents []byte
	for i := range 1000 {
		for dimension := range dimensions {
			value := float32(i) * float32(dimension+1) / 1000
			contents = binary.NativeEndian.AppendUint32(contents, math.Float32bits(value))
		}
	}
	path, remove := temporaryFile(contents)
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	file, err := memmapfs.New(base, memmapfs.DefaultConfig()).Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)

	wanted := vector{0.4996, 1, 1.5, 2}
	first, second := -1, -1
	nearest := func(vectors []vector) error {
		leastSquare, nextSquare := float32(math.Inf(1)), float32(math.Inf(1))
		for i := range vectors {
			square := float32(0)
			for dimension, value := range vectors[i] {
				square += (value - wanted[dimension]) * (value - wanted[dimension])
			}
			switch {
			case square < leastSquare:
				second, nextSquare = first, leastSquare
				first, leastSquare = i, square
			case square < nextSquare:
				second, nextSquare = i, square
			}
		}
		return nil
	}
	count := len(contents) / (4 * dimensions)
	err = memmapfs.ViewSlice(mapped, 0, count, nearest)
	if errors.Is(err, memmapfs.ErrNotMapped) {
		// This system or this file has no maps: search in a copy.
		vectors := make([]vector, count)
		check(binary.Read(mapped, binary.NativeEndian, vectors))
		err = nearest(vectors)
	}
	check(err)
	fmt.Println("The nearest vectors are", first, "and", second)
	check(mapped.Close())
	// Output: The nearest vectors are 500 and 499
}
