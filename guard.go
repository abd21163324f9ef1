package memmapfs

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"
)

// The guard. A load or store in mapped memory raises SIGBUS or SIGSEGV when the file was
// truncated or its disk fails. os/signal cannot see a signal raised by a Go instruction;
// debug.SetPanicOnFault turns it into a panic, for one goroutine and for as long as a call
// of this package touches the map.

// From 1 MiB on a copy by Go's runtime bypasses the processor's caches: what was read is not
// in them when it is used. So a copy is done in pieces, and in larger ones where it is longer
// than any cache; between two of them the collector can stop the goroutine.
const (
	pieceOfCopy     = 256 << 10
	longCopy        = 8 << 20
	pieceOfLongCopy = 4 << 20
)

// copyGuarded copies n bytes and returns nil, or the panic that a fault has raised. It and
// copyAllGuarded are the code of this package that touches mapped bytes, but for storable.
// After a fault nothing may be believed of what was copied: a copy does not go byte by byte.
//
// It is the innermost part of the fast path. The deferred function shares just one variable
// with the rest, because each one more is kept in memory instead of a register and costs a
// nanosecond; so fault says, while the copy is under way, what the guard has to be set back to.
func copyGuarded(to, from unsafe.Pointer, n int) (fault *caughtPanic) {
	defer func() {
		if fault != nil {
			before := fault == &guardWasOn
			fault = &caughtPanic{recover()}
			debug.SetPanicOnFault(before)
		}
	}()
	fault = &guardWasOff
	if debug.SetPanicOnFault(true) {
		fault = &guardWasOn
	}
	for n > pieceOfCopy {
		piece := pieceOfCopy
		if n >= longCopy {
			piece = pieceOfLongCopy
		}
		copyPiece(to, from, piece)
		to, from = unsafe.Add(to, piece), unsafe.Add(from, piece)
		n -= piece
	}
	copy(unsafe.Slice((*byte)(to), n), unsafe.Slice((*byte)(from), n))
	debug.SetPanicOnFault(fault == &guardWasOn)
	return nil
}

// copyPiece copies a piece of a long copy. It is a call because a goroutine can be stopped where a function
// begins, and not in the runtime's copy; the few instructions of a loop are hardly ever met.
//
//go:noinline
func copyPiece(to, from unsafe.Pointer, n int) {
	copy(unsafe.Slice((*byte)(to), n), unsafe.Slice((*byte)(from), n))
}

// guardedCopy is one copy of many under one guard.
type guardedCopy struct {
	to, from   unsafe.Pointer
	n          int  // at least 1
	endsInZero bool // what was copied; the next copy may go to the same place
}

// copyAllGuarded does the copies in their order under one guard, and returns how many were
// done before a fault, with the fault.
func copyAllGuarded(copies []guardedCopy) (done int, fault *caughtPanic) {
	before := debug.SetPanicOnFault(true)
	finished := false
	defer func() {
		debug.SetPanicOnFault(before)
		if !finished {
			fault = &caughtPanic{recover()}
		}
	}()
	for ; done < len(copies); done++ {
		c := &copies[done]
		copy(unsafe.Slice((*byte)(c.to), c.n), unsafe.Slice((*byte)(c.from), c.n))
		c.endsInZero = *(*byte)(unsafe.Add(c.to, c.n-1)) == 0
	}
	finished = true
	return done, nil
}

// callGuarded calls fn, which touches mapped bytes, and returns what it returns. If it panics
// and ours says that this is a fault of the map, the panic is returned; any other goes on.
func callGuarded(fn func() error, ours func(r any) bool) (fault *caughtPanic, err error) {
	returned, fault, err := callRecovered(fn, ours)
	if !returned && fault == nil {
		// Under GODEBUG=panicnil=1 recover says nothing of a panic(nil), and ends it.
		// runtime.Goexit, of which it says nothing either, does not come here.
		var none any
		panic(none)
	}
	return fault, err
}

func callRecovered(fn func() error, ours func(r any) bool) (returned bool, fault *caughtPanic, err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if returned {
			return
		}
		if r := recover(); r != nil {
			if !ours(r) {
				panic(r)
			}
			fault = &caughtPanic{r}
		}
	}()
	err = fn()
	return true, nil, err
}

// caughtPanic is the value of a panic.
type caughtPanic struct{ value any }

var guardWasOn, guardWasOff caughtPanic

// faultAddress returns the address of the fault that r, a recovered value, stands for: 0 for
// one in the first 4096 bytes, as through a nil pointer. It need not be right: see
// tellsFaultAddress.
func faultAddress(r any) (address uintptr, isFault bool) {
	err, ok := r.(runtime.Error)
	if !ok {
		return 0, false
	}
	if err, ok := err.(interface{ Addr() uintptr }); ok {
		return err.Addr(), true
	}
	return 0, err.Error() == "runtime error: invalid memory address or nil pointer dereference"
}

// tellsFaultAddress reports whether the address of a fault past the end of a file is the right
// one. With qemu's user emulation it is 0 or that of an earlier fault. It is found out once, by
// such a fault.
var tellsFaultAddress = sync.OnceValue(func() bool {
	if filtered() {
		return true // an emulator has no filter, and a filter may not know how such a map is made
	}
	data, err := system.mapPastEnd()
	if err != nil {
		return true // on no other system than Linux is there an emulation that does so
	}
	defer system.unmap(data)
	at := unsafe.Pointer(unsafe.SliceData(data))
	var probe byte
	fault := copyGuarded(unsafe.Pointer(&probe), at, 1)
	if fault == nil {
		return true
	}
	address, _ := faultAddress(fault.value)
	return address == uintptr(at)
})

// firstLost returns where the first of the bytes [start, start+n) of data is that cannot be
// accessed, or -1.
func firstLost(data []byte, start, n int64, writable bool) int64 {
	for at := start; at < start+n; at = at - at%pageBytes + pageBytes {
		if !readable(&data[at]) || writable && !storable(&data[at-at%pageBytes]) {
			return at
		}
	}
	return -1
}

// readable reports whether a byte can be read without a fault.
func readable(b *byte) bool {
	var probe byte
	return copyGuarded(unsafe.Pointer(&probe), unsafe.Pointer(b), 1) == nil
}

// storable reports whether the page that starts at b can be stored to without a fault. It
// changes nothing.
func storable(b *byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { ok = recover() == nil }()
	atomic.OrUint32((*uint32)(unsafe.Pointer(b)), 0)
	return true
}

// bytesAt returns the memory at an address, which is none of the Go heap's.
func bytesAt(address, length uintptr) []byte {
	start := *(*unsafe.Pointer)(unsafe.Pointer(&address))
	return unsafe.Slice((*byte)(start), length)
}

// addressOf returns where data starts.
func addressOf(data []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(data))) }
