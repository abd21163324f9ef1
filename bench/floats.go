package main

import (
	"math"
	"unsafe"
)

// floatsIn returns the values that lie in data, without a copy.
func floatsIn(data []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/4)
}

// floatSum adds up values in several sums at a time, so that it waits for memory and not for the
// addition before. The order is the same for all who add in blocks of a multiple of their number.
type floatSum [8]float32

func (s *floatSum) add(values []float32) {
	sums := *s
	for ; len(values) >= len(sums); values = values[len(sums):] {
		v := (*[len(sums)]float32)(values)
		sums[0] += v[0]
		sums[1] += v[1]
		sums[2] += v[2]
		sums[3] += v[3]
		sums[4] += v[4]
		sums[5] += v[5]
		sums[6] += v[6]
		sums[7] += v[7]
	}
	*s = sums
}

func (s *floatSum) bits() (bits uint64) {
	for _, sum := range s {
		bits += uint64(math.Float32bits(sum))
	}
	return bits
}
