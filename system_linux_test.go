package memmapfs_test

import (
	"os"
	"testing"
)

// skipUnlessMounting skips a test that mounts a small disk where the process may not.
func skipUnlessMounting(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
}

// skipWhenEmulated skips a test that asks of the system or the processor what its emulation by wine or
// qemu does not have, for the reason given.
func skipWhenEmulated(t testing.TB, reason string) {
	t.Helper()
	if emulated {
		t.Skip("emulated: " + reason)
	}
}

// qemuSwallowsAdvice is why there is nothing to see of a hint, of pages that are brought in, and of large
// pages.
const qemuSwallowsAdvice = "qemu does not pass madvise(2) on"
