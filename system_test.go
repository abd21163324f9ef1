package memmapfs_test

import (
	"os"
	"runtime"
	"testing"
)

// skipUnlessMappable skips a test of maps where the package makes none.
func skipUnlessMappable(t testing.TB) {
	t.Helper()
	if !mappable() {
		t.Skip("nothing is mapped on this system")
	}
}

// mapsHoldFiles tells whether the system refuses to shrink, remove or replace a file that is mapped.
const mapsHoldFiles = runtime.GOOS == "windows"

// skipWhereMapsHold skips a test in which another process shrinks a mapped file all the time.
func skipWhereMapsHold(t testing.TB) {
	t.Helper()
	if mapsHoldFiles {
		t.Skip("Windows refuses to shrink a mapped file")
	}
}

// skipOnWine skips a test that asks of Windows what the emulation does not have, for the reason given.
func skipOnWine(t testing.TB, reason string) {
	t.Helper()
	if onWine {
		t.Skip("wine " + reason)
	}
}

// resizeAround changes the size of a file, mapped or not, around the filesystem under test and as
// another process would. Windows allows that only to the host under wine.
func resizeAround(t testing.TB, native string, size int64) {
	t.Helper()
	err := os.Truncate(native, size)
	if err != nil && mapsHoldFiles {
		if !onWine {
			t.Skip("Windows refuses to shrink a mapped file: ", err)
		}
		err = resizeOnHost(native, size)
	}
	if err != nil {
		t.Fatal(err)
	}
}
