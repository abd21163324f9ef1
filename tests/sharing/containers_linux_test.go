package sharing_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"golang.org/x/sys/unix"
)

// Catches an anonymous region that somebody can cut under the others.
func TestAnonymousSealed(t *testing.T) {
	region, err := memmapfs.CreateAnonymousMemory(8192)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if err := unix.Ftruncate(int(region.File().Fd()), 100); !errors.Is(err, syscall.EPERM) {
		t.Errorf("truncating it: %v, want EPERM", err)
	}
	seals, err := unix.FcntlInt(region.File().Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&(unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL) != unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL || seals&unix.F_SEAL_GROW != 0 {
		t.Errorf("its seals are %#x %v", seals, err)
	}
	region.Data()[8191] = 1
}

// Catches a file passed on for reading that becomes writable, and one for writing that is mapped.
func TestFromFileRights(t *testing.T) {
	region := regionIn(t, t.TempDir(), 100)
	for flag, want := range map[int]error{os.O_RDONLY: memmapfs.ErrWriteToReadOnlyMap, os.O_RDWR: nil, os.O_WRONLY: memmapfs.ErrNotMapped} {
		file, err := os.OpenFile(region.Path(), flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		passed, err := memmapfs.SharedMemoryFromFile(file)
		if err == nil {
			err = passed.Grow(200)
			passed.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("flag %#x: %v, want %v", flag, err, want)
		}
		if _, err := file.Stat(); err != nil {
			t.Errorf("the caller's file: %v", err)
		}
		file.Close()
	}
}

// Catches what is no file, and is opened once more with all that follows from it.
func TestFromPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	for _, file := range []*os.File{reader, writer} {
		if _, err := memmapfs.SharedMemoryFromFile(file); !errors.Is(err, memmapfs.ErrNotMapped) {
			t.Errorf("%v, want ErrNotMapped", err)
		}
	}
}

// Catches a holder that is stopped and holds others up for longer than they want, or for good.
func TestHolderStopped(t *testing.T) {
	region := regionIn(t, t.TempDir(), 100)
	holder := meetStranger(t)
	holder.must("open", region.Path(), "writable")
	for round := range 60 {
		holder.must("lock")
		holder.tell("unlock")
		holder.signal(t, syscall.SIGSTOP)
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(round%5)*time.Millisecond)
		err := region.LockContext(ctx)
		cancel()
		switch {
		case err == nil: // it was stopped after its Unlock
			err = region.Unlock()
		case errors.Is(err, context.DeadlineExceeded):
			err = nil
		}
		if err != nil {
			t.Fatal(err)
		}
		holder.signal(t, syscall.SIGCONT)
		within(t, 10*time.Second, "Lock after the holder goes on", func() {
			if err := errors.Join(region.LockContext(context.Background()), region.Unlock()); err != nil {
				t.Error(err)
			}
		})
		if answer := holder.answer(); answer != "ok" {
			t.Fatal(answer)
		}
	}
}

func (s *stranger) signal(t *testing.T, what os.Signal) {
	t.Helper()
	if err := s.process.Process.Signal(what); err != nil {
		t.Fatal(err)
	}
}

// Catches a Wait that uses the processor while nothing happens.
func TestWaitIsIdle(t *testing.T) {
	region := regionIn(t, t.TempDir(), 100)
	waiter := meetStranger(t)
	waiter.must("open", region.Path(), "readonly")
	waiter.tell("wait", 0, 0)
	if !soon(func() bool { woken, _ := region.Wake(0, 1); return woken == 1 }) {
		t.Fatal("nobody sleeps")
	}
	most := 10 * time.Millisecond
	if testkit.Emulated {
		most *= 10 // each time the runtime looks for work
	}
	busy := time.Hour
	for second := 0; second < 3 && busy > most; second++ { // what the runtime does now and then falls into one
		before := processorTime(t, waiter.process.Process.Pid)
		time.Sleep(time.Second)
		busy = processorTime(t, waiter.process.Process.Pid) - before
	}
	if busy > most {
		t.Errorf("it was busy for %v of a second", busy)
	}
	word, err := region.Uint32(0)
	if err != nil {
		t.Fatal(err)
	}
	word.Store(1)
	if _, err := region.Wake(0, math.MaxInt); err != nil {
		t.Error(err)
	}
	if answer := waiter.answer(); answer != "ok" {
		t.Error(answer)
	}
}

// processorTime returns what all threads of a process have used.
func processorTime(t *testing.T, process int) (used time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", process))
	if err != nil || len(threads) == 0 {
		needs(t, "what a process has used", errors.ErrUnsupported)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		nanoseconds, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		used += time.Duration(nanoseconds)
	}
	return used
}

// Catches locks, marks and wakes that do not reach from one container into another: other process
// numbers, other user numbers.
func TestNamespaces(t *testing.T) {
	skipUnlessRoot(t)
	testkit.NotEmulated(t, "qemu starts no containers")
	dir := commonDir(t)
	path := filepath.Join(dir, "region")
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: path, Size: 4096, Permissions: 0o666, ReportOwnerDeath: true, SyncMode: memmapfs.SyncNever,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	inContainer := func(process *exec.Cmd) {
		process.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWPID | syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100_000, Size: 1000}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100_000, Size: 1000}},
			Credential:  &syscall.Credential{},
		}
		process.Dir = "/"
		program := filepath.Join(dir, "program")
		copyFile(t, os.Args[0], program+strconv.Itoa(int(time.Now().UnixNano())))
		copyFile(t, os.Args[0], program)
		testkit.Instead(process, program)
	}
	needs(t, "a user namespace", exec.Command("unshare", "--user", "true").Run())
	holder := meetStranger(t, inContainer)
	// The owner's number is not known in there: it is a stranger's file.
	if answer := holder.ask("create", path, 4096, 0o666); !strings.Contains(answer, "belongs to the user") {
		t.Errorf("creating with Permissions: %s", answer)
	}
	holder.must("open", path, "writable")
	holder.must("report death", 0)
	holder.must("lock")
	holder.must("store", 100, "from inside")
	if locked, err := region.TryLock(); locked || err != nil {
		t.Errorf("TryLock of what the container has locked: %v %v", locked, err)
	}
	holder.kill()
	if err := region.LockContext(context.Background()); !errors.Is(err, memmapfs.ErrOwnerDied) {
		t.Errorf("the container was killed: %v", err)
	}
	if got := string(region.Data()[100:111]); got != "from inside" {
		t.Errorf("it has stored %q", got)
	}
	if err := region.Unlock(); err != nil {
		t.Error(err)
	}
}

// Catches a shortage of the container's memory that leaves the region in a way in which others
// cannot use it.
func TestMemoryGroup(t *testing.T) {
	skipUnlessRoot(t)
	group := memoryGroup(t, 24<<20)
	dir := mounted(t, "tmpfs", "size=200m")
	path := filepath.Join(dir, "region")
	inside := meetStranger(t)
	needs(t, "joining a memory cgroup", os.WriteFile(filepath.Join(group, "cgroup.procs"),
		[]byte(strconv.Itoa(inside.process.Process.Pid)), 0))
	inside.must("create", path, 1<<20, 0o600)
	region := regionIn(t, dir, 1<<20)
	copy(region.Data()[100:], "before")
	inside.tell("create", path, 100<<20, 0o600) // is refused, or killed
	answer := inside.answer()
	if answer == "ok" {
		t.Error("the group has got four times its memory")
	}
	t.Log(answer)
	if err := region.Grow(100 << 20); err != nil {
		t.Fatalf("the next to grow it: %v", err)
	}
	if blocks, size := takenBy(t, path); size != 100<<20 || blocks < size || string(region.Data()[100:106]) != "before" {
		t.Errorf("%d bytes with blocks for %d", size, blocks)
	}
}

// memoryGroup makes a memory cgroup with a limit.
func memoryGroup(t *testing.T, limit int) (dir string) {
	t.Helper()
	for _, place := range []struct{ root, limit string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"},
	} {
		dir = filepath.Join(place.root, "memmapfs-sharing-"+strconv.Itoa(os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { soon(func() bool { return os.Remove(dir) == nil }) })
		if os.WriteFile(filepath.Join(dir, place.limit), []byte(strconv.Itoa(limit)), 0) == nil {
			return dir
		}
	}
	needs(t, "a memory cgroup", errors.ErrUnsupported)
	return ""
}

// Catches handles that see different memory, because overlayfs has replaced the file in between.
func TestOverlay(t *testing.T) {
	skipUnlessRoot(t)
	layers := mounted(t, "tmpfs", "size=10m")
	dirs := make(map[string]string)
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		dirs[name] = filepath.Join(layers, name)
		if err := errors.Join(os.Mkdir(dirs[name], 0o777), os.Chmod(dirs[name], 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"one", "two", "three"} {
		file := filepath.Join(dirs["lower"], name)
		if err := errors.Join(os.WriteFile(file, make([]byte, 4096), 0o644), os.Chmod(file, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	needs(t, "overlayfs", unix.Mount("overlay", dirs["merged"], "overlay", 0,
		fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dirs["lower"], dirs["upper"], dirs["work"])))
	defer unix.Unmount(dirs["merged"], unix.MNT_DETACH)
	at := func(name string) string { return filepath.Join(dirs["merged"], name) }

	reader, err := memmapfs.OpenSharedMemory(at("one"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	writer, err := memmapfs.OpenSharedMemory(at("one"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	copy(writer.Data(), "seen")
	if got := string(reader.Data()[:4]); got != "seen" {
		t.Errorf("who was first, to read, sees %q", got)
	}

	user := meetStranger(t, asNobody(t))
	if answer := user.ask("open", at("two"), "readonly"); !strings.Contains(answer, "overlayfs") {
		t.Errorf("a user who may not write, of a file below: %s", answer)
	}
	if answer := user.ask("open", at("one"), "readonly"); answer == "ok" {
		if got := user.ask("load", 0, 4); got != "seen" {
			t.Errorf("a user who may not write sees %q", got)
		}
	} else if !strings.Contains(answer, "overlayfs") {
		t.Errorf("of a file above: %s", answer)
	}
	config := memmapfs.SharedMemoryConfig{Path: at("new"), Size: 4096, Permissions: 0o644}
	made, err := memmapfs.CreateSharedMemory(&config)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	copy(made.Data(), "made")
	if answer := user.ask("open", at("new"), "readonly"); answer != "ok" {
		t.Logf("of a new file: %s", answer)
	} else if got := user.ask("load", 0, 4); got != "made" {
		t.Errorf("a user who may not write sees %q", got)
	}
}
