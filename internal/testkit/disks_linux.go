package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// InOwnMounts lets a child mount filesystems that nobody else sees, and that are gone with it.
func InOwnMounts(child *exec.Cmd) {
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
}

// SmallDisk is a filesystem that is easily full.
type SmallDisk struct {
	t      *testing.T
	Dir    string
	Sparse int64 // the size of a file that does not fit
}

// MountSmallDisk mounts a tmpfs of 1 MiB or an ext4 of 8 MiB. It says so and returns nil where that is
// not to be had.
func MountSmallDisk(t *testing.T, kind string) *SmallDisk {
	t.Helper()
	dir := t.TempDir()
	size := int64(1 << 20)
	switch kind {
	case "tmpfs":
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Log(CannotRunMark+"mounting a tmpfs:", err)
			return nil
		}
	case "ext4":
		size = 8 << 20
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		// Without a journal, freed blocks can be used again at once.
		for _, command := range [][]string{
			{"mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-O", "^has_journal", image},
			{"mount", "-t", "ext4", "-o", "loop", image, dir},
		} {
			if output, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Logf(CannotRunMark+"%s: %v %s", command[0], err, output)
				return nil
			}
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil { // fails if anything was left open or mapped
			t.Error("unmounting:", err)
		}
	})
	return &SmallDisk{t, dir, size + 1<<20}
}

// Fill takes all space, to the last block: with a long file, and then with short ones, which need no
// block but the one for their byte.
func (d *SmallDisk) Fill() {
	d.t.Helper()
	write := func(ballast *os.File, size int) bool {
		_, err := ballast.Write(make([]byte, size))
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
		return err == nil
	}
	for file, fits := 0, true; fits || file < 2; file++ {
		ballast, err := os.Create(filepath.Join(d.Dir, fmt.Sprint("ballast ", file)))
		if err != nil {
			d.t.Fatal(err)
		}
		if file == 0 {
			for write(ballast, 64<<10) {
			}
		} else {
			fits = write(ballast, 1)
		}
		// Writing back may free what was reserved.
		if err := errors.Join(ballast.Sync(), ballast.Close()); err != nil && !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
}

// Free gives the space back.
func (d *SmallDisk) Free() {
	d.t.Helper()
	ballast, err := filepath.Glob(filepath.Join(d.Dir, "ballast *"))
	if err != nil || len(ballast) == 0 {
		d.t.Fatal(ballast, err)
	}
	for _, name := range ballast {
		if err := os.Remove(name); err != nil {
			d.t.Fatal(err)
		}
	}
}

// First calls the steps up to the first error.
func First(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// MakeExt4 makes the image of an ext4 of that size.
func MakeExt4(image string, size int64, options ...string) error {
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, size); err != nil {
		return err
	}
	options = append([]string{"-q", "-F", "-b", "4096", "-m", "0", "-N", "64",
		"-O", "^resize_inode", "-E", "lazy_itable_init=0,lazy_journal_init=1"}, options...)
	return command("mkfs.ext4", append(options, image)...)
}

// Mount mounts at dir until the test ends.
func Mount(t testing.TB, dir string, arguments ...string) error {
	if err := command("mount", append(arguments, dir)...); err != nil {
		return err
	}
	t.Cleanup(func() { Unmount(t, dir) })
	return nil
}

// UnmountAfterDeath has the directories unmounted should this process end before the test does, as it
// does when a test panics or takes too long: a process that waits for that does it.
func UnmountAfterDeath(t testing.TB, dirs ...string) {
	t.Helper()
	const script = `trap '' HUP INT QUIT TERM; cat; for dir; do umount -l "$dir"; done 2>/dev/null`
	watcher := exec.Command("sh", append([]string{"-c", script, "sh"}, dirs...)...)
	input, err := watcher.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watcher.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		watcher.Wait()
	})
}

// SlowDown has the disk of a mounted directory take so many bytes a second, and writers wait while more than dirty
// bytes wait for it, until the test ends or this process does.
func SlowDown(t testing.TB, dir string, bytesPerSecond, dirty int64) error {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return err
	}
	disk := fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	const script = `trap '' HUP INT QUIT TERM
bdi=/sys/class/bdi/$0
throttle=/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device
echo "$0 $1" >"$throttle" && echo "$2" >"$bdi/max_bytes" && echo 1 >"$bdi/strict_limit" && echo slow
cat >/dev/null
echo "$0 0" >"$throttle"; echo 0 >"$bdi/strict_limit"; echo 100 >"$bdi/max_ratio"`
	watcher := exec.Command("sh", "-c", script, disk, fmt.Sprint(bytesPerSecond), fmt.Sprint(dirty))
	input, err := watcher.StdinPipe()
	if err != nil {
		return err
	}
	output, err := watcher.StdoutPipe()
	if err == nil {
		err = watcher.Start()
	}
	if err != nil {
		return err
	}
	t.Cleanup(func() {
		input.Close()
		watcher.Wait()
	})
	if n, _ := output.Read(make([]byte, 8)); n == 0 {
		return errors.New("this process may not make a disk slow: it needs blkio.throttle of cgroup v1, and bdi/max_bytes")
	}
	return nil
}

// Unmount unmounts a directory, in which this process must have left nothing open or mapped. Others may
// keep it busy for a moment: a process that was just forked, or one that looks at all loop devices.
// The loop device goes with the mount.
func Unmount(t testing.TB, dir string) {
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err == nil {
		return
	}
	if left := append(OpenUnder(t, dir), MappedUnder(t, dir)...); len(left) > 0 || !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmounting %s: %v\n%s", dir, err, strings.Join(left, "\n"))
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Errorf("detaching %s: %v", dir, err)
	}
}

func command(name string, arguments ...string) error {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, bytes.TrimSpace(output))
	}
	return nil
}
