package memmapfs_test

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// emulatorVariable names the program that runs programs of this system here, if they need one.
const emulatorVariable = "MEMMAPFS_TEST_EMULATOR"

// thisProgram is a command that runs the test binary again.
func thisProgram(t testing.TB, arguments ...string) *exec.Cmd {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if emulator := os.Getenv(emulatorVariable); emulator != "" {
		return exec.Command(emulator, append([]string{executable}, arguments...)...)
	}
	return exec.Command(executable, arguments...)
}

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

// skipOnJS skips a test of what node or its single thread cannot do, for the reason given.
func skipOnJS(t testing.TB, reason string) {
	t.Helper()
	if runtime.GOOS == "js" {
		t.Skip(reason)
	}
}

// farthestOffset is the largest offset that the system's calls take: package os panics on js for those
// that JavaScript's numbers do not hold.
var farthestOffset = func() int64 {
	if runtime.GOOS == "js" {
		return 1<<53 - 1<<20
	}
	return math.MaxInt64
}()

var emulated = onWine || os.Getenv(emulatorVariable) != ""

// unlessHeld drops the error with which Windows refuses to truncate a file that a View is using.
func unlessHeld(err error) error {
	if mapsHoldFiles && errors.Is(err, userMappedFile) {
		return nil
	}
	return err
}

// isBadBuffer tells whether err is what the system says of a buffer that cannot be accessed.
func isBadBuffer(err error) bool {
	if runtime.GOOS == "windows" && (errors.Is(err, errorNoAccess) || errors.Is(err, errorInvalidUserBuffer)) {
		return true
	}
	return errors.Is(err, syscall.EFAULT)
}

const (
	errorNoAccess          = syscall.Errno(998)
	errorInvalidUserBuffer = syscall.Errno(1784)
)

const userMappedFile = syscall.Errno(1224) // ERROR_USER_MAPPED_FILE

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

// writeAround overwrites the head of a file around the filesystem under test.
func writeAround(t testing.TB, native string, p []byte) {
	t.Helper()
	file, err := os.OpenFile(native, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(p, 0); err != nil {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}
