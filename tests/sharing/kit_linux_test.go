package sharing_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs/internal/testkit"
	"golang.org/x/sys/unix"
)

// nobody is the user and the group that own nothing.
const nobody = 65534

// skipUnlessRoot skips a test that needs other users, mounts or groups of processes.
func skipUnlessRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be another user, mount, or make a memory cgroup")
	}
}

// needs skips a test for what this machine does not have.
func needs(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Skipf("%s: %v", what, err)
	}
}

// asNobody makes a process that of an ordinary user. It runs a copy of the test, which that user
// may read.
func asNobody(t testing.TB) func(process *exec.Cmd) {
	t.Helper()
	skipUnlessRoot(t)
	program := filepath.Join(commonDir(t), "program")
	copyFile(t, os.Args[0], program)
	return func(process *exec.Cmd) {
		testkit.Instead(process, program)
		process.Dir = "/"
		process.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// commonDir is a directory that everybody may write, as /tmp and /dev/shm are.
func commonDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "memmapfs-sharing")
	if err == nil {
		err = os.Chmod(dir, 0o777|os.ModeSticky)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// mounted mounts a filesystem until the test ends.
func mounted(t testing.TB, kind, options string) (dir string) {
	t.Helper()
	skipUnlessRoot(t)
	dir = commonDir(t)
	needs(t, "mounting "+kind, unix.Mount(kind, dir, kind, 0, options))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	return dir
}

// needReservation skips a test of creators that do without their lock, as they can where the system
// reserves blocks (fallocate(2)).
func needReservation(t testing.TB) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "blocks")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	needs(t, "reserving blocks", unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
}

// takenBy returns the bytes that a file takes on its disk.
func takenBy(t testing.TB, path string) (bytes, size int64) {
	t.Helper()
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil {
		t.Fatal(err)
	}
	return info.Blocks * 512, info.Size
}

// growthByte is where creators lock a region, as CreateSharedMemory documents.
const growthByte = 1 << 62

func init() {
	systemOrders["lockf"] = func(s *servedStranger, order []string) error { // path, kind, start, length
		flag := os.O_RDWR
		kind := int16(unix.F_WRLCK)
		if order[2] == "read" {
			flag, kind = os.O_RDONLY, unix.F_RDLCK
		}
		return s.fcntl(order[1], flag, unix.F_SETLK, kind, order[3:])
	}
	systemOrders["lock growth"] = func(s *servedStranger, order []string) error { // path
		return s.fcntl(order[1], os.O_RDWR, unix.F_OFD_SETLK, unix.F_WRLCK, []string{strconv.FormatInt(growthByte, 10), "1"})
	}
	systemOrders["flock"] = func(s *servedStranger, order []string) error { // path
		file, err := os.Open(order[1])
		if err != nil {
			return err
		}
		s.files = append(s.files, file)
		return unix.Flock(int(file.Fd()), unix.LOCK_EX)
	}
	systemOrders["truncate"] = func(s *servedStranger, order []string) error { // path, size
		size, err := strconv.ParseInt(order[2], 10, 64)
		return errors.Join(err, os.Truncate(order[1], size))
	}
}

func (s *servedStranger) fcntl(path string, flag, command int, kind int16, place []string) error {
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	s.files = append(s.files, file)
	start, startErr := strconv.ParseInt(place[0], 10, 64)
	length, lengthErr := strconv.ParseInt(place[1], 10, 64)
	lock := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: length}
	return errors.Join(startErr, lengthErr, unix.FcntlFlock(file.Fd(), command, &lock))
}
