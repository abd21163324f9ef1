//go:build linux

package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a filesystem whose power can be cut: ext4 on a loop device, on a disk with a cache of its
// own. That cache is a second ext4 on a second loop device, which holds the image of the first: what
// the filesystem hands to its disk stays in the page cache of the second ext4 until the filesystem
// orders its disk to flush, and only then gets into the image of the second. A copy of that image is
// what a power cut leaves.
type Disk struct {
	Dir      string // where the filesystem is
	image    string // what has been flushed
	counters string // of what is written to image
	scratch  string // for the copy
	canary   []byte // a page of a file in dir, mapped; its bytes are not flushed by anyone
	colour   byte   // last stored in canary
}

// NewDisk skips the test where the machine does not let it make such a disk.
func NewDisk(t *testing.T) *Disk {
	t.Helper()
	NotEmulated(t, "a power cut concerns the kernel, which is the host's")
	root := t.TempDir()
	memory, cache, dir := root+"/memory", root+"/cache", root+"/disk"
	d := &Disk{Dir: dir, image: memory + "/flushed", scratch: memory}
	inCache := cache + "/image"
	scale := max(PageSize/4096, 1) << 20
	err := errors.Join(os.Mkdir(memory, 0o700), os.Mkdir(cache, 0o700), os.Mkdir(dir, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	UnmountAfterDeath(t, d.leftDisk(), d.leftCache(), dir, cache, memory)
	err = First(
		func() error { return Mount(t, memory, "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", 100*scale), "none") },
		func() error { return MakeExt4(d.image, 32*scale) },
		func() error { return Mount(t, cache, "-t", "ext4", "-o", "loop,commit=300", d.image) },
		func() error { return MakeExt4(inCache, 20*scale) },
		func() error { return Mount(t, dir, "-t", "ext4", "-o", "loop,commit=300", inCache) },
	)
	if err != nil {
		t.Skipf("a power cut needs root, loop devices and mkfs.ext4: %v", err)
	}
	var status unix.Stat_t
	if err := unix.Stat(cache, &status); err != nil {
		t.Fatal(err)
	}
	d.counters = fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(status.Dev), unix.Minor(status.Dev))

	file, err := os.Create(filepath.Join(dir, "canary"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, PageSize)); err != nil {
		t.Fatal(err)
	}
	d.canary, err = unix.Mmap(int(file.Fd()), 0, int(PageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(d.canary) })
	d.Settle(t)
	return d
}

func (d *Disk) leftCache() string { return d.scratch + "/left-cache" }

func (d *Disk) leftDisk() string { return d.scratch + "/left-disk" }

// Settle makes everything durable, and then dirties the canary.
func (d *Disk) Settle(t testing.TB) {
	t.Helper()
	dir, err := os.Open(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		t.Fatal(err)
	}
	d.colour++
	for i := range d.canary {
		d.canary[i] = d.colour
	}
}

// Cut lets inspect see in a directory what is left of the disk if its power is cut now. It reports
// whether the test may rely on it: not if the canary is there, because then the kernel has begun to
// write back by itself what nobody has flushed.
func (d *Disk) Cut(t testing.TB, inspect func(dir string)) (reliable bool) {
	t.Helper()
	image, cache, dir := d.scratch+"/left", d.leftCache(), d.leftDisk()
	for _, dir := range []string{cache, dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d.copyTo(t, image)
	defer os.Remove(image)
	if err := command("mount", "-t", "ext4", "-o", "loop", image, cache); err != nil {
		t.Fatal(err)
	}
	defer Unmount(t, cache)
	if err := command("mount", "-t", "ext4", "-o", "loop", cache+"/image", dir); err != nil {
		t.Fatal(err)
	}
	defer Unmount(t, dir)
	canary, err := os.ReadFile(dir + "/canary")
	if err != nil {
		t.Fatal(err)
	}
	inspect(dir)
	return !bytes.Contains(canary, []byte{d.colour})
}

// copyTo copies the image at a moment when nothing is written to it.
func (d *Disk) copyTo(t testing.TB, name string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		before, busy := d.sectorsWritten(t)
		if busy {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := copySparse(name, d.image); err != nil {
			t.Fatal(err)
		}
		if after, busy := d.sectorsWritten(t); after == before && !busy {
			return
		}
	}
	t.Fatal("the disk does not come to rest")
}

// sectorsWritten returns the count of sectors written to the image, and whether a request is under way.
func (d *Disk) sectorsWritten(t testing.TB) (count string, busy bool) {
	t.Helper()
	counters := strings.Fields(string(MustReadFile(t, d.counters)))
	return counters[6], counters[8] != "0"
}

func copySparse(to, from string) error {
	const seekData, seekHole = 3, 4
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer target.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if err := target.Truncate(info.Size()); err != nil {
		return err
	}
	for end := int64(0); ; {
		start, err := source.Seek(end, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return target.Close()
		}
		if err != nil {
			return err
		}
		if end, err = source.Seek(start, seekHole); err != nil {
			return err
		}
		data := make([]byte, end-start)
		if _, err := source.ReadAt(data, start); err != nil {
			return err
		}
		if _, err := target.WriteAt(data, start); err != nil {
			return err
		}
	}
}

func readSelf(name string) string {
	data, err := os.ReadFile("/proc/self/" + name)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// MustReadFile reads a whole file by its native name.
func MustReadFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
