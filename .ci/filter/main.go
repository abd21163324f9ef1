// Filter runs a program under a seccomp filter that lets the system calls pass whose numbers are given,
// and ends the program with SIGSYS at any other, as Android does with an app.
//
//	filter NUMBER[,NUMBER]... PROGRAM [ARGUMENT]...
//
// Root becomes an ordinary user first: no app is root, and tests that ask for a mount skip without it.
//
// One call is answered with ENOSYS instead: faccessat2 of a name in a directory. It is package os's,
// for GOOS=linux and not for GOOS=android, and no program could start another without it.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in the kernel's struct seccomp_data.
const (
	numberOffset        = 0
	architectureOffset  = 4
	firstArgumentOffset = 16 // the lower half, on the little-endian processors below
)

var architectures = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64,
	"arm64": unix.AUDIT_ARCH_AARCH64,
}

func main() {
	if len(os.Args) < 3 {
		fail("usage: filter NUMBER[,NUMBER]... PROGRAM [ARGUMENT]...")
	}
	instructions, err := program(strings.Split(os.Args[1], ","))
	if err != nil {
		fail(err)
	}
	runtime.LockOSThread()
	if os.Getuid() == 0 {
		const app = 10000 // the first that Android gives to one
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(app), syscall.Setuid(app)); err != nil {
			fail("an ordinary user:", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		fail("no new privileges:", err)
	}
	filter := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		fail("the filter:", errno)
	}
	fail(os.Args[2], unix.Exec(os.Args[2], os.Args[2:], os.Environ()))
}

func fail(reason ...any) {
	fmt.Fprintln(os.Stderr, reason...)
	os.Exit(3)
}

// program returns the filter's instructions.
func program(numbers []string) ([]unix.SockFilter, error) {
	architecture, ok := architectures[runtime.GOARCH]
	if !ok {
		return nil, fmt.Errorf("there is no filter for %s", runtime.GOARCH)
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// unless jumps over that many instructions unless what was loaded is the value.
	unless := func(value uint32, over uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: over, K: value}
	}
	end := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	currentDirectory := int32(unix.AT_FDCWD)
	instructions := []unix.SockFilter{
		load(architectureOffset), unless(architecture, 5),
		load(numberOffset), unless(unix.SYS_FACCESSAT2, 4),
		load(firstArgumentOffset), unless(uint32(currentDirectory), 1),
		end(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
		end(unix.SECCOMP_RET_TRAP),
	}
	for _, number := range numbers {
		value, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, err
		}
		instructions = append(instructions, unless(uint32(value), 1), end(unix.SECCOMP_RET_ALLOW))
	}
	return append(instructions, end(unix.SECCOMP_RET_TRAP)), nil
}
