package testkit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
)

// MapAlignment is what offsets in a file are rounded to where it is mapped.
var MapAlignment = func() int64 {
	if runtime.GOOS == "windows" {
		return 64 << 10
	}
	return PageSize
}()

// Mappable tells whether the package maps files on this system at all.
func Mappable() bool {
	switch runtime.GOOS {
	case "linux", "darwin", "freebsd", "netbsd", "dragonfly", "solaris", "illumos", "windows":
		return true
	}
	return false
}

// PrivateMapsStray tells whether a slice from Data of a copy-on-write file shows the file as it was when
// Data or View was last called: on gVisor, which tells of no page whether it is the map's own, and under
// qemu where addresses or the order of bytes are not the kernel's.
func PrivateMapsStray() bool {
	bigEndian := binary.NativeEndian.Uint16([]byte{0, 1}) == 1
	_, err := os.Stat("/proc/self/pagemap")
	return runtime.GOOS == "linux" && (err != nil || Emulated && (bigEndian || strconv.IntSize == 32))
}

// NotFiltered skips a test of a system call that is not made under a filter of them (seccomp(2)), which may
// end the program for one that it does not know.
func NotFiltered(t testing.TB) {
	t.Helper()
	if status, err := os.ReadFile("/proc/self/status"); err == nil && bytes.Contains(status, []byte("\nSeccomp:\t2\n")) {
		t.Skip("a filter of system calls is set")
	}
}

// NeedKnownPages skips a test of pages that are read through the file until they are known to be in
// memory, where no page is.
func NeedKnownPages(t testing.TB) {
	t.Helper()
	if !Mappable() || runtime.GOOS == "windows" {
		t.Skip("this system maps in another way, or not at all")
	}
}

// emulatorVariable names the program that runs programs of this system here, if they need one.
const emulatorVariable = "MEMMAPFS_TEST_EMULATOR"

// ThisProgram is a command that runs the test binary again.
func ThisProgram(t testing.TB, arguments ...string) *exec.Cmd {
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

// Instead has a command of ThisProgram run a copy of it.
func Instead(command *exec.Cmd, program string) {
	if os.Getenv(emulatorVariable) != "" {
		command.Args[1] = program
		return
	}
	command.Path = program
}

// NeedMaps skips a test of maps where the package makes none.
func NeedMaps(t testing.TB) {
	t.Helper()
	if !Mappable() {
		t.Skip("nothing is mapped on this system")
	}
}

// NeedProcesses skips a test that starts another process where there are none.
func NeedProcesses(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "js" || runtime.GOOS == "wasip1" {
		t.Skip("this system cannot start processes")
	}
}

// MapsHoldFiles tells whether the system refuses to shrink, remove or replace a file that is mapped.
const MapsHoldFiles = runtime.GOOS == "windows"

// NeedShrinking skips a test in which another process shrinks a mapped file all the time.
func NeedShrinking(t testing.TB) {
	t.Helper()
	if MapsHoldFiles {
		t.Skip("Windows refuses to shrink a mapped file")
	}
}

// NotOnJS skips a test of what node or its single thread cannot do, for the reason given.
func NotOnJS(t testing.TB, reason string) {
	t.Helper()
	if runtime.GOOS == "js" {
		t.Skip(reason)
	}
}

// FarthestOffset is the largest offset that the system's calls take: package os panics on js for those
// that JavaScript's numbers do not hold.
var FarthestOffset = func() int64 {
	if runtime.GOOS == "js" {
		return 1<<53 - 1<<20
	}
	return math.MaxInt64
}()

// Emulated tells whether wine or qemu stand in for the system or the processor.
var Emulated = OnWine || os.Getenv(emulatorVariable) != ""

// UnlessHeld drops the error with which Windows refuses to truncate a file that a View is using.
func UnlessHeld(err error) error {
	if MapsHoldFiles && errors.Is(err, UserMappedFile) {
		return nil
	}
	return err
}

// IsBadBuffer tells whether err is what the system says of a buffer that cannot be accessed.
func IsBadBuffer(err error) bool {
	if runtime.GOOS == "windows" && (errors.Is(err, errorNoAccess) || errors.Is(err, errorInvalidUserBuffer)) {
		return true
	}
	return errors.Is(err, syscall.EFAULT)
}

const (
	errorNoAccess          = syscall.Errno(998)
	errorInvalidUserBuffer = syscall.Errno(1784)
)

// UserMappedFile is what Windows says of a change to a mapped file.
const UserMappedFile = syscall.Errno(1224) // ERROR_USER_MAPPED_FILE

// ResizeAround changes the size of a file, mapped or not, around the filesystem under test and as
// another process would. Windows allows that only to the host under wine.
func ResizeAround(t testing.TB, native string, size int64) {
	t.Helper()
	err := os.Truncate(native, size)
	if err != nil && MapsHoldFiles {
		if !OnWine {
			t.Skip("Windows refuses to shrink a mapped file: ", err)
		}
		err = resizeOnHost(native, size)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// WriteAround overwrites the head of a file around the filesystem under test.
func WriteAround(t testing.TB, native string, p []byte) {
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
