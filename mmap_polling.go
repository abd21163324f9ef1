//go:build darwin || dragonfly || netbsd || solaris

package memmapfs

import (
	"errors"
	"time"
)

// What there is to sleep on a word is undocumented here, or not to be had without a C library.

const sysSleepsOnWords = false

func sysSleepOnWord(word *uint32, value uint32, longest time.Duration) error {
	return errors.ErrUnsupported
}

func sysWakeWord(word *uint32, n int32) (woken int, err error) { return 0, errors.ErrUnsupported }
