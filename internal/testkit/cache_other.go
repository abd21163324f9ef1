//go:build !linux

package testkit

import (
	"errors"
	"runtime"
	"testing"

	"github.com/absfs/memmapfs"
)

// DropFromCache works on Linux only.
func DropFromCache(native string) error { return errors.ErrUnsupported }

// CheckPreload needs Residency, which has an answer on Linux only.
func CheckPreload(t *testing.T, _ func(c *memmapfs.Config), _, _ bool) { t.Helper() }

// MakesHoles reports whether the filesystem of a directory has holes that are made in a file's midst.
func MakesHoles(testing.TB, string) bool {
	return runtime.GOOS == "darwin" || runtime.GOOS == "windows"
}

// NeedPopulate skips a test of a call that only Linux has.
func NeedPopulate(t testing.TB, _ string) {
	t.Helper()
	t.Skip("pages are brought in by a call of their own on Linux only")
}

// InMemory is known on Linux only.
func InMemory(string) bool { return false }
