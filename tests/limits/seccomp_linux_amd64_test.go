package limits_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"golang.org/x/sys/unix"
)

// ordinaryCalls are the system calls of a Go program that reads and writes files, and of the Go runtime, as
// sandboxes let them through. Not among them: mincore, cachestat, mlock2, faccessat2, memfd_create,
// getrusage, preadv2.
var ordinaryCalls = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_LSEEK,
	unix.SYS_OPENAT, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_FSTATFS, unix.SYS_FCNTL,
	unix.SYS_FTRUNCATE, unix.SYS_TRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_MSYNC, unix.SYS_FADVISE64,
	unix.SYS_UTIMENSAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_GETDENTS64, unix.SYS_READLINKAT,
	unix.SYS_MKDIRAT, unix.SYS_GETCWD, unix.SYS_FCHMOD, unix.SYS_FCHMODAT,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MLOCK, unix.SYS_MUNLOCK, unix.SYS_BRK,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_TGKILL,
	unix.SYS_FUTEX, unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_SCHED_YIELD,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_PRLIMIT64, unix.SYS_GETRLIMIT, unix.SYS_PRCTL, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETRANDOM,
	unix.SYS_RESTART_SYSCALL, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME,
	unix.SYS_TIMER_DELETE, unix.SYS_UNAME, unix.SYS_CLOSE_RANGE, unix.SYS_GETGID, unix.SYS_GETEGID,
}

// What a filter does with a call that it does not know, beside errors.
const (
	seccompKill  = 0x80000000 // SECCOMP_RET_KILL_PROCESS
	seccompErrno = 0x00050000 // SECCOMP_RET_ERRNO
	seccompAllow = 0x7fff0000 // SECCOMP_RET_ALLOW
)

// filterCalls lets all threads of this process make the calls of a list and no others, for good.
func filterCalls(t *testing.T, allowed []uint32, otherwise uint32) {
	t.Helper()
	// The number of the call is the first word of struct seccomp_data.
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	for _, call := range allowed {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: call},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: seccompAllow})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: otherwise})
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	const setModeFilter, allThreads = 1, 1
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&filter)))
	runtime.KeepAlive(program)
	if errno != 0 {
		t.Fatal(errno)
	}
}

// TestFilteredCalls catches calls that a plain program would not make: under a filter that knows the ordinary
// ones the process is killed for them, which nothing catches. Every method that is not named for such a call
// has to work, with the plain file's results.
func TestFilteredCalls(t *testing.T) {
	testkit.NotEmulated(t, "qemu makes other calls than the program")
	for name, otherwise := range map[string]uint32{
		"kill": seccompKill, "EPERM": seccompErrno | uint32(unix.EPERM), "ENOSYS": seccompErrno | uint32(unix.ENOSYS),
	} {
		t.Run(name, func(t *testing.T) {
			testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
				testkit.InChild(t, func(t *testing.T) {
					if runtime.GOARCH != "amd64" {
						t.Log(testkit.CannotRunMark + "the list is one of amd64's calls")
						return
					}
					dir := testkit.TestDir(t)
					data := testkit.Content(3*testkit.Mebibyte + 10)
					name := testkit.WriteFile(t, dir, "file", data)
					fileSystem := m.OverOS(t)
					filterCalls(t, ordinaryCalls, otherwise)
					file := testkit.MustOpen(t, fileSystem, name, os.O_RDWR)
					for at := int64(0); at < int64(len(data))-100; at += 5000 {
						p := make([]byte, 100)
						if n, err := file.ReadAt(p, at); n != 100 || err != nil {
							t.Fatal(n, err)
						}
						testkit.MustEqual(t, "ReadAt", p, data[at:at+100])
						copy(data[at:], "written")
						if _, err := file.WriteAt([]byte("written"), at); err != nil {
							t.Fatal(err)
						}
					}
					testkit.MustEqual(t, "the whole file", testkit.ReadAll(t, file), data)
					if mapped, ok := file.(*memmapfs.MappedFile); ok {
						useMethods(t, mapped)
					}
					for _, err := range []error{file.Sync(), file.Close()} {
						if err != nil {
							t.Error(err)
						}
					}
					testkit.Report(t, "%s: all calls answered; no fault injected", m.Name)
				})
			}, oneOfEach)
		})
	}
}

// oneOfEach leaves out rows that make no other system calls than those that stay.
func oneOfEach(m testkit.Mode) bool {
	switch m.Name {
	case "plain", "read-only", "read-write", "copy-on-write", "execute", "read-write windows of 64 KiB", "read-write sync periodic":
		return true
	}
	return false
}

// useMethods calls what asks for a map by name. Errors are answers; the process has to live.
func useMethods(t *testing.T, file *memmapfs.MappedFile) {
	t.Helper()
	if data := file.Data(); len(data) == 0 {
		t.Error("Data has nothing")
	}
	if err := file.View(10, 1000, func(b []byte) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := file.Prefetch(0, testkit.Mebibyte); err != nil {
		t.Error(err)
	}
	if err := file.LockMemory(0, 4*testkit.PageSize); err != nil {
		t.Error(err)
	}
	if err := file.UnlockMemory(0, 4*testkit.PageSize); err != nil {
		t.Error(err)
	}
	for _, advise := range []func() error{file.AdviseSequential, file.AdviseRandom, file.AdviseWillNeed, file.AdviseDontNeed} {
		if err := advise(); err != nil {
			t.Error(err)
		}
	}
	file.Residency(0, testkit.Mebibyte)
	file.SyncRange(0, 100)
	file.PunchHole(testkit.Mebibyte, testkit.Mebibyte)
	file.MappingError()
	file.Stat()
}

// TestFilteredFault catches a call that only a fault makes: what is learnt about faults under a filter.
func TestFilteredFault(t *testing.T) {
	testkit.NotEmulated(t, "qemu makes other calls than the program")
	testkit.InChild(t, func(t *testing.T) {
		if runtime.GOARCH != "amd64" {
			t.Log(testkit.CannotRunMark + "the list is one of amd64's calls")
			return
		}
		dir := testkit.TestDir(t)
		filterCalls(t, ordinaryCalls, seccompKill)
		file := testkit.NewShrinkable(t, dir, memmapfs.DefaultConfig())
		file.Warm()
		// A fault that is not in the map: whether its address can be believed is found out then.
		noMemory, err := unix.Mmap(-1, 0, int(testkit.PageSize), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(noMemory)
		for range 3 {
			if n, err := file.ReadAt(noMemory[:100], 0); n != 0 || !errors.Is(err, unix.EFAULT) {
				t.Errorf("into no memory: %d bytes, %v", n, err)
			}
		}
		file.Resize(10)
		if err := file.View(0, 1, func(b []byte) error {
			b = b[:1:1]
			_ = b[0]
			return nil
		}); err != nil {
			t.Error(err)
		}
		p := make([]byte, 100)
		if n, err := file.ReadAt(p, 2*testkit.PageSize); n != 0 || testkit.ErrorClass(err) != "EOF" {
			t.Errorf("%d bytes, %v", n, err)
		}
		testkit.Report(t, "a bad buffer, and a file shrunk by others, under a filter; 2 faults injected")
	})
}

// TestFilteredSpeed measures the first reads of a warm file in a process without a filter and in one with
// it. With MEMMAPFS_TEST_SPEED it prints what it has seen.
func TestFilteredSpeed(t *testing.T) {
	testkit.NotEmulated(t, "it measures")
	for _, filtered := range []bool{false, true} {
		t.Run(fmt.Sprint("filtered ", filtered), func(t *testing.T) {
			testkit.InChild(t, func(t *testing.T) {
				size := int64(256 * testkit.Mebibyte)
				names := sparseFiles(t, testkit.TestDir(t), 1, size, 0)
				plain, mapped := testkit.PlainFileSystem(t), testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t)
				other := testkit.MustOpen(t, plain, names[0], os.O_RDONLY)
				testkit.ReadAll(t, other)
				if filtered && runtime.GOARCH == "amd64" {
					filterCalls(t, ordinaryCalls, seccompKill)
				}
				measure := func(file absfs.File, calls int) time.Duration {
					offsets := testkit.OffsetsIn(size, 64, 7)
					buffer := make([]byte, 64)
					start := processorTime(t)
					for range calls {
						if _, err := file.ReadAt(buffer, offsets.Next()); err != nil {
							t.Fatal(err)
						}
					}
					return (processorTime(t) - start) / time.Duration(calls)
				}
				for _, calls := range []int{10_000, 100_000, 500_000} {
					file := testkit.MustOpen(t, mapped, names[0], os.O_RDONLY)
					p := measure(other, calls)
					m := measure(file, calls)
					file.Close()
					testkit.Report(t, "%d reads: plain %v, mapped %v, ratio %.2f; no fault injected", calls, p, m, float64(p)/float64(m))
				}
			})
		})
	}
}

// processorTime returns what this process has used of it: other programs change it less than the time that
// goes by.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Nano())
}
