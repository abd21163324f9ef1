package memmapfs_test

import "testing"

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
