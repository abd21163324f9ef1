package testkit

import (
	"os"
	"testing"
)

// NeedMounts skips a test that mounts a small disk where the process may not.
func NeedMounts(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
}

// NotEmulated skips a test that asks of the system or the processor what its emulation by wine or
// qemu does not have, for the reason given.
func NotEmulated(t testing.TB, reason string) {
	t.Helper()
	if Emulated {
		t.Skip("emulated: " + reason)
	}
}

// QemuSwallowsAdvice is why there is nothing to see of a hint, of pages that are brought in, and of large
// pages.
const QemuSwallowsAdvice = "qemu does not pass madvise(2) on"
