package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Kinds are the filesystems that MountKind makes, with what MapAuto has to do on each.
var Kinds = []struct {
	Name     string
	ReadOnly bool // no file of it can be opened for writing
	Lends    bool // a map and the file's calls use one page cache, whoever changes what
}{
	{"ext4", false, true}, {"xfs", false, true}, {"btrfs", false, true}, {"tmpfs", false, true},
	{"hugetlbfs", false, true}, {"squashfs", true, true}, {"erofs", true, true},
	{"overlay", false, false}, {"fuse", false, false},
}

// MountKind mounts a filesystem of a kind, with those files in it, until the test ends. It skips the
// test where that takes a right or a program that is not there. Files of hugetlbfs cannot be written
// to: they are copied into by a map.
func MountKind(t testing.TB, kind string, files map[string][]byte) (dir string) {
	t.Helper()
	return MountWith(t, kind, "", files)
}

// MountWith is MountKind with more options for mount(8), where there is a disk.
func MountWith(t testing.TB, kind, options string, files map[string][]byte) (dir string) {
	t.Helper()
	options = strings.TrimSuffix("loop,"+options, ",")
	NotEmulated(t, "mounts are the host's")
	root := t.TempDir()
	source, image := filepath.Join(root, "source"), filepath.Join(root, "image")
	dir = filepath.Join(root, "mounted")
	for _, made := range []string{source, dir} {
		if err := os.Mkdir(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	UnmountAfterDeath(t, dir)
	into, err := dir, error(nil)
	switch kind {
	case "ext4":
		err = First(func() error { return MakeExt4(image, 64<<20) },
			func() error { return Mount(t, dir, "-t", kind, "-o", options, image) })
	case "xfs", "btrfs":
		err = First(func() error { return os.WriteFile(image, nil, 0o600) },
			func() error { return os.Truncate(image, 512<<20) },
			func() error { return command("mkfs."+kind, "-q", image) },
			func() error { return Mount(t, dir, "-t", kind, "-o", options, image) })
	case "tmpfs":
		err = Mount(t, dir, "-t", kind, "-o", "size=64m", "none")
	case "hugetlbfs":
		needHugePages(t)
		err = Mount(t, dir, "-t", kind, "-o", "pagesize=2M", "none")
	case "squashfs":
		writeFiles(t, source, files)
		err = First(func() error { return command("mksquashfs", source, image, "-quiet", "-no-progress") },
			func() error { return Mount(t, dir, "-t", kind, "-o", options, image) })
		files = nil
	case "erofs":
		writeFiles(t, source, files)
		err = First(func() error { return command("mkfs.erofs", "--quiet", image, source) },
			func() error { return Mount(t, dir, "-t", kind, "-o", options, image) })
		files = nil
	case "overlay":
		writeFiles(t, source, files)
		err = mountOverlay(t, root, source, dir)
		files = nil
	case "fuse":
		err = mountBindfs(t, source, dir)
		into = source
	default:
		t.Fatal("no such kind: ", kind)
	}
	if err != nil {
		t.Skipf("mounting %s needs root, the kernel's support and a program to make one: %v", kind, err)
	}
	writeFiles(t, into, files)
	return dir
}

func writeFiles(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			fillByMap(t, filepath.Join(dir, name), data) // hugetlbfs knows no write
		}
	}
}

// fillByMap makes a file of a filesystem whose files cannot be written to by calls.
func fillByMap(t testing.TB, native string, data []byte) {
	t.Helper()
	file, err := os.OpenFile(native, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(int64(len(data))); err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(file.Fd()), 0, len(data), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(mapped, data)
	if err := unix.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
}

// needHugePages has the machine keep a few pages of 2 MiB, as long as the test runs.
func needHugePages(t testing.TB) {
	t.Helper()
	const knob = "/proc/sys/vm/nr_hugepages"
	before, err := os.ReadFile(knob)
	if err == nil && strings.TrimSpace(string(before)) == "0" {
		if err = os.WriteFile(knob, []byte("4"), 0); err == nil {
			t.Cleanup(func() { os.WriteFile(knob, before, 0) })
		}
	}
	if now, _ := os.ReadFile(knob); err != nil || strings.TrimSpace(string(now)) == "0" {
		t.Skip("this machine keeps no large pages: ", err)
	}
}

// mountOverlay mounts an overlayfs, whose upper layer is a tmpfs: the root's own filesystem may be an
// overlayfs, which cannot be one.
func mountOverlay(t testing.TB, root, lower, dir string) error {
	upper := filepath.Join(root, "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		return err
	}
	UnmountAfterDeath(t, dir, upper)
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, upper, upper)
	return First(
		func() error { return Mount(t, upper, "-t", "tmpfs", "none") },
		func() error { return os.Mkdir(upper+"/upper", 0o755) },
		func() error { return os.Mkdir(upper+"/work", 0o755) },
		func() error { return Mount(t, dir, "-t", "overlay", "-o", options, "none") },
	)
}

// InGVisor tells whether the kernel is gVisor's.
func InGVisor() bool {
	kernel, err := os.ReadFile("/proc/version")
	return err == nil && bytes.Contains(kernel, []byte("gvisor"))
}

// mountBindfs mounts a FUSE filesystem that shows the files of another directory.
func mountBindfs(t testing.TB, source, dir string) error {
	if InGVisor() {
		return errors.New("gVisor does not know all that FUSE needs, and the server would not end")
	}
	server := exec.Command("bindfs", "-f", "--no-allow-other", source, dir)
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	for {
		var status unix.Statfs_t
		if err := unix.Statfs(dir, &status); err == nil && status.Type == unix.FUSE_SUPER_MAGIC {
			t.Cleanup(func() {
				unix.Unmount(dir, unix.MNT_DETACH)
				<-ended
			})
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("bindfs has ended: %v", err)
		default:
		}
	}
}

// ShutDown ends a filesystem as a disk that is pulled out does (FS_IOC_SHUTDOWN): nothing reaches it any more.
func ShutDown(t testing.TB, dir string) {
	t.Helper()
	const shutDown, withoutLog = 0x8004587d, 2
	file, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.IoctlSetPointerInt(int(file.Fd()), shutDown, withoutLog); err != nil {
		t.Skip("this filesystem cannot be shut down: ", err)
	}
}

// TriggerError has an ext4 find an error, after which it does what its mount option errors= says.
func TriggerError(t testing.TB, dir string) {
	t.Helper()
	var status unix.Stat_t
	if err := unix.Stat(dir, &status); err != nil {
		t.Fatal(err)
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(status.Dev), unix.Minor(status.Dev)))
	if err == nil {
		err = os.WriteFile("/sys/fs/ext4/"+filepath.Base(device)+"/trigger_fs_error", []byte("1"), 0)
	}
	if err != nil {
		t.Skip("this kernel does not let an error be triggered: ", err)
	}
}
