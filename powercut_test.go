//go:build linux

package memmapfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

var powerCutsFlag = flag.Int("powercuts", 50, "power cuts at random moments")

// disk is a filesystem whose power can be cut: ext4 on a loop device, on a disk with a cache of its
// own. That cache is a second ext4 on a second loop device, which holds the image of the first: what
// the filesystem hands to its disk stays in the page cache of the second ext4 until the filesystem
// orders its disk to flush, and only then gets into the image of the second. A copy of that image is
// what a power cut leaves.
type disk struct {
	dir      string // where the filesystem is
	image    string // what has been flushed
	counters string // of what is written to image
	scratch  string // for the copy
	canary   []byte // a page of a file in dir, mapped; its bytes are not flushed by anyone
	colour   byte   // last stored in canary
}

// newDisk skips the test where the machine does not let it make such a disk.
func newDisk(t *testing.T) *disk {
	t.Helper()
	skipWhenEmulated(t, "a power cut concerns the kernel, which is the host's")
	root := t.TempDir()
	memory, cache, dir := root+"/memory", root+"/cache", root+"/disk"
	d := &disk{dir: dir, image: memory + "/flushed", scratch: memory}
	inCache := cache + "/image"
	scale := max(pageSize/4096, 1) << 20
	err := errors.Join(os.Mkdir(memory, 0o700), os.Mkdir(cache, 0o700), os.Mkdir(dir, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	unmountAfterDeath(t, d.leftDisk(), d.leftCache(), dir, cache, memory)
	err = first(
		func() error { return mount(t, memory, "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", 100*scale), "none") },
		func() error { return makeExt4(d.image, 32*scale) },
		func() error { return mount(t, cache, "-t", "ext4", "-o", "loop,commit=300", d.image) },
		func() error { return makeExt4(inCache, 20*scale) },
		func() error { return mount(t, dir, "-t", "ext4", "-o", "loop,commit=300", inCache) },
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
	if _, err := file.Write(make([]byte, pageSize)); err != nil {
		t.Fatal(err)
	}
	d.canary, err = unix.Mmap(int(file.Fd()), 0, int(pageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(d.canary) })
	d.settle(t)
	return d
}

func (d *disk) leftCache() string { return d.scratch + "/left-cache" }

func (d *disk) leftDisk() string { return d.scratch + "/left-disk" }

// first calls the steps up to the first error.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func makeExt4(image string, size int64, options ...string) error {
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

// mount mounts at dir until the test ends.
func mount(t testing.TB, dir string, arguments ...string) error {
	if err := command("mount", append(arguments, dir)...); err != nil {
		return err
	}
	t.Cleanup(func() { unmount(t, dir) })
	return nil
}

// unmountAfterDeath has the directories unmounted should this process end before the test does, as it
// does when a test panics or takes too long: a process that waits for that does it.
func unmountAfterDeath(t testing.TB, dirs ...string) {
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

// unmount unmounts a directory, in which this process must have left nothing open or mapped. Others may
// keep it busy for a moment: a process that was just forked, or one that looks at all loop devices.
// The loop device goes with the mount.
func unmount(t testing.TB, dir string) {
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err == nil {
		return
	}
	if left := append(openUnder(t, dir), mappedUnder(t, dir)...); len(left) > 0 || !errors.Is(err, unix.EBUSY) {
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

// settle makes everything durable, and then dirties the canary.
func (d *disk) settle(t testing.TB) {
	t.Helper()
	dir, err := os.Open(d.dir)
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

// cut lets inspect see in a directory what is left of the disk if its power is cut now. It reports
// whether the test may rely on it: not if the canary is there, because then the kernel has begun to
// write back by itself what nobody has flushed.
func (d *disk) cut(t testing.TB, inspect func(dir string)) (reliable bool) {
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
	defer unmount(t, cache)
	if err := command("mount", "-t", "ext4", "-o", "loop", cache+"/image", dir); err != nil {
		t.Fatal(err)
	}
	defer unmount(t, dir)
	canary, err := os.ReadFile(dir + "/canary")
	if err != nil {
		t.Fatal(err)
	}
	inspect(dir)
	return !bytes.Contains(canary, []byte{d.colour})
}

// copyTo copies the image at a moment when nothing is written to it.
func (d *disk) copyTo(t testing.TB, name string) {
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
func (d *disk) sectorsWritten(t testing.TB) (count string, busy bool) {
	t.Helper()
	counters := strings.Fields(string(mustReadFile(t, d.counters)))
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

// written is a file as its writer believes it to be: its content, and where it has changed.
type written struct {
	content []byte
	off, n  int64
}

// wayToWrite is one way for bytes, or a size, to get into a file.
type wayToWrite struct {
	name        string
	flags       int
	throughMap  bool // needs a shared map that can be stored to
	writeMethod bool // Write, WriteAt or WriteString, which SyncImmediate covers
	resizes     bool // changes the size of the file
	unranged    bool // nothing that SyncRange is about
	write       func(t *testing.T, file *memmapfs.MappedFile, old []byte) written
}

// The file that the ways start from: more pages than windows are mapped at a time, and a last page that
// is not full.
var (
	filePages   = 70 * pageSize
	fileContent = content(int(filePages + 123))
)

var waysToWrite = []wayToWrite{
	{name: "WriteAt, first to the page", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			return put(t, file, old, 3*pageSize+100, 3*pageSize)
		}},
	{name: "WriteAt, first to the page, mapped", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			mapAll(t, file)
			return put(t, file, old, 3*pageSize+100, 3*pageSize)
		}},
	{name: "WriteAt, stored", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, 3*pageSize, 4*pageSize)
			defer mustHaveStored(t, file)()
			return put(t, file, old, 3*pageSize+100, 3*pageSize)
		}},
	{name: "Write, stored", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, 3*pageSize, 4*pageSize)
			defer mustHaveStored(t, file)()
			return putHere(t, file, old, 3*pageSize+100, pageSize, file.Write)
		}},
	{name: "WriteString, stored", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, 3*pageSize, 4*pageSize)
			defer mustHaveStored(t, file)()
			return putHere(t, file, old, 3*pageSize+100, 10, func(p []byte) (int, error) {
				return file.WriteString(string(p))
			})
		}},
	{name: "ReadFrom",
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, 3*pageSize, pageSize)
			return putHere(t, file, old, 3*pageSize+100, 2*pageSize, func(p []byte) (int, error) {
				n, err := file.ReadFrom(bytes.NewReader(p))
				return int(n), err
			})
		}},
	{name: "WriteAt all over the file", writeMethod: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, 0, filePages)
			now := bytes.Clone(old)
			for at := int64(50); at < filePages; at += 3 * pageSize {
				now = put(t, file, now, at, 10).content
			}
			return written{now, 0, int64(len(now))}
		}},
	{name: "Data", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			start, data := dataAt(t, file, 3*pageSize)
			n := min(pageSize, int64(len(data)))
			return putMapped(old, start, data[:n])
		}},
	{name: "Data, stored to again after a Sync", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			start, data := dataAt(t, file, 3*pageSize)
			data[0]++
			mustSync(t, file)
			old = bytes.Clone(old)
			old[start] = data[0]
			return putMapped(old, start, data[:10])
		}},
	{name: "Data of a window long not used", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			start, data := dataAt(t, file, 3*pageSize)
			mapAll(t, file)
			mustSync(t, file)
			return putMapped(old, start, data[:10])
		}},
	{name: "View", throughMap: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) (result written) {
			err := file.View(3*pageSize+100, 2*pageSize, func(b []byte) error {
				result = putMapped(old, 3*pageSize+100, b)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return result
		}},
	{name: "growth", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, filePages-pageSize, pageSize)
			return put(t, file, old, filePages-100, 2*pageSize)
		}},
	{name: "growth inside the last page", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, filePages, 100)
			return put(t, file, old, int64(len(old)), 200)
		}},
	{name: "growth with a hole", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			mapAll(t, file)
			return put(t, file, old, filePages+5*pageSize, 200)
		}},
	{name: "growth, then a store into it", writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			grown := put(t, file, old, filePages, 2*pageSize)
			makeHot(t, file, grown.content, filePages, 2*pageSize)
			return put(t, file, grown.content, filePages, pageSize)
		}},
	{name: "O_APPEND", flags: os.O_APPEND, writeMethod: true, resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			mapAll(t, file)
			return putHere(t, file, old, int64(len(old)), 2*pageSize, file.Write)
		}},
	{name: "Truncate to less", resizes: true, unranged: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, 0, pageSize)
			return cutOff(t, file, old, 10*pageSize+5)
		}},
	{name: "Truncate to more", resizes: true, unranged: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			makeHot(t, file, old, 0, pageSize)
			return cutOff(t, file, old, filePages+3*pageSize+9)
		}},
	{name: "Truncate, then growth", resizes: true,
		write: func(t *testing.T, file *memmapfs.MappedFile, old []byte) written {
			shorter := cutOff(t, file, old, 10*pageSize+5)
			return put(t, file, shorter.content, 11*pageSize+7, pageSize)
		}},
}

// changed returns old with other bytes in [off, off+n), grown as far as need be.
func changed(old []byte, off, n int64) written {
	now := append(bytes.Clone(old), make([]byte, max(off+n-int64(len(old)), 0))...)
	for i := off; i < off+n; i++ {
		now[i] = ^now[i]
	}
	return written{now, off, n}
}

func put(t *testing.T, file *memmapfs.MappedFile, old []byte, off, n int64) written {
	t.Helper()
	now := changed(old, off, n)
	if _, err := file.WriteAt(now.content[off:off+n], off); err != nil {
		t.Fatal(err)
	}
	return now
}

func putHere(t *testing.T, file *memmapfs.MappedFile, old []byte, off, n int64, write func(p []byte) (int, error)) written {
	t.Helper()
	now := changed(old, off, n)
	if _, err := file.Seek(off, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := write(now.content[off : off+n]); err != nil {
		t.Fatal(err)
	}
	return now
}

func putMapped(old []byte, off int64, data []byte) written {
	now := changed(old, off, int64(len(data)))
	copy(data, now.content[off:])
	return now
}

func cutOff(t *testing.T, file *memmapfs.MappedFile, old []byte, size int64) written {
	t.Helper()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	now := make([]byte, size)
	copy(now, old)
	return written{content: now, n: size}
}

// dataAt returns what Data returns for the position off, and where that starts in the file.
func dataAt(t *testing.T, file *memmapfs.MappedFile, off int64) (start int64, data []byte) {
	t.Helper()
	if _, err := file.Seek(off, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	data = file.Data()
	if len(data) == 0 {
		t.Fatal("Data has nothing")
	}
	for start := off; start >= 0; start -= pageSize {
		probe := min(int64(len(data)), 64)
		if bytes.Equal(data[:probe], fileContent[start:start+probe]) {
			return start, data
		}
	}
	t.Fatal("Data is not a part of the file")
	return 0, nil
}

// mapAll has every window of the file mapped once, without a write.
func mapAll(t *testing.T, file *memmapfs.MappedFile) {
	t.Helper()
	for at := int64(0); at < filePages; at += pageSize {
		mapAt(t, file, at)
	}
}

func mapAt(t *testing.T, file *memmapfs.MappedFile, off int64) {
	t.Helper()
	if err := file.View(off, 1, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// makeHot maps the pages of [off, off+n) and writes them once, so that in ModeReadWrite the next write
// is a store, and makes all that durable.
func makeHot(t *testing.T, file *memmapfs.MappedFile, data []byte, off, n int64) {
	t.Helper()
	for at := off; at < off+n; at += pageSize {
		mapAt(t, file, at)
		if _, err := file.WriteAt(data[at:min(at+pageSize, off+n)], at); err != nil {
			t.Fatal(err)
		}
	}
	mustSync(t, file)
}

func mustSync(t *testing.T, file *memmapfs.MappedFile) {
	t.Helper()
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
}

// mustHaveStored fails a test that means to store through the map, between this call and that of what
// it returns, and writes to the file instead.
func mustHaveStored(t *testing.T, file *memmapfs.MappedFile) (check func()) {
	before := memmapfs.WritesThroughFile(file)
	return func() {
		t.Helper()
		if storesThroughMap(file) && memmapfs.StoresWrites(file) && memmapfs.WritesThroughFile(file) != before {
			t.Error("nothing was stored through the map: the test does not test what it says")
		}
	}
}

// storesThroughMap reports whether the file's pages can be stored to.
func storesThroughMap(file *memmapfs.MappedFile) bool {
	stores := false
	for _, line := range strings.Split(readSelf("maps"), "\n") {
		if strings.HasSuffix(line, osfs.ToNative(file.Name())) && strings.Contains(line, " rw-s ") {
			stores = true
		}
	}
	return stores
}

func readSelf(name string) string {
	data, err := os.ReadFile("/proc/self/" + name)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// moment is when a promise is due.
type moment struct {
	name     string
	syncMode memmapfs.SyncMode
	interval time.Duration
	covers   func(way wayToWrite) bool
	reach    func(t *testing.T, file *memmapfs.MappedFile, what written)
	later    bool // it is due some time after reach
}

const (
	soon  = 20 * time.Millisecond
	never = time.Hour
)

func everything(wayToWrite) bool { return true }

func throughMap(way wayToWrite) bool { return way.throughMap }

var moments = []moment{
	{name: "Sync", syncMode: memmapfs.SyncNever, covers: everything,
		reach: func(t *testing.T, file *memmapfs.MappedFile, _ written) { mustSync(t, file) }},
	{name: "SyncRange", syncMode: memmapfs.SyncNever,
		covers: func(way wayToWrite) bool { return !way.unranged },
		reach: func(t *testing.T, file *memmapfs.MappedFile, what written) {
			if err := file.SyncRange(what.off, what.n); err != nil {
				t.Fatal(err)
			}
		}},
	{name: "SyncImmediate", syncMode: memmapfs.SyncImmediate,
		covers: func(way wayToWrite) bool { return way.writeMethod },
		reach:  func(*testing.T, *memmapfs.MappedFile, written) {}},
	{name: "SyncPeriodic", syncMode: memmapfs.SyncPeriodic, interval: soon, covers: everything, later: true,
		reach: func(*testing.T, *memmapfs.MappedFile, written) {}},
	{name: "Close in SyncPeriodic", syncMode: memmapfs.SyncPeriodic, interval: never, covers: everything,
		reach: func(t *testing.T, file *memmapfs.MappedFile, _ written) { mustClose(t, file) }},
	{name: "Close in SyncLazy", syncMode: memmapfs.SyncLazy, covers: everything,
		reach: func(t *testing.T, file *memmapfs.MappedFile, _ written) { mustClose(t, file) }},

	{name: "Sync in SyncImmediate", syncMode: memmapfs.SyncImmediate,
		covers: func(way wayToWrite) bool { return !way.writeMethod },
		reach:  func(t *testing.T, file *memmapfs.MappedFile, _ written) { mustSync(t, file) }},
	{name: "Sync in SyncPeriodic", syncMode: memmapfs.SyncPeriodic, interval: never,
		covers: throughMap,
		reach:  func(t *testing.T, file *memmapfs.MappedFile, _ written) { mustSync(t, file) }},
	{name: "Sync in SyncLazy", syncMode: memmapfs.SyncLazy,
		covers: throughMap,
		reach:  func(t *testing.T, file *memmapfs.MappedFile, _ written) { mustSync(t, file) }},
	{name: "SyncAsync", syncMode: memmapfs.SyncNever, later: true,
		covers: func(way wayToWrite) bool { return way.name == "Data" || way.name == "growth" },
		reach: func(t *testing.T, file *memmapfs.MappedFile, _ written) {
			if err := file.SyncAsync(); err != nil {
				t.Fatal(err)
			}
		}},
}

func mustClose(t *testing.T, file io.Closer) {
	t.Helper()
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// mapping is a way to map a file whose writes reach the file.
type mapping struct {
	name     string
	config   memmapfs.Config
	flags    int  // to open the file with
	thorough bool // has a power cut for each way to change a file's size
}

var mappings = []mapping{
	{name: "ReadWrite", config: memmapfs.Config{Mode: memmapfs.ModeReadWrite, MapFullFile: true}, thorough: true},
	{name: "ReadWrite, windows of 64 KiB", config: memmapfs.Config{Mode: memmapfs.ModeReadWrite, WindowSize: 64 << 10}},
	{name: "ReadWrite, windows of a page", config: memmapfs.Config{Mode: memmapfs.ModeReadWrite, WindowSize: 1}, thorough: true},
	{name: "ReadOnly", config: memmapfs.Config{Mode: memmapfs.ModeReadOnly, MapFullFile: true}},
	{name: "ReadOnly, windows of 64 KiB", config: memmapfs.Config{Mode: memmapfs.ModeReadOnly, WindowSize: 64 << 10}},
	{name: "Execute", config: memmapfs.Config{Mode: memmapfs.ModeExecute, MapFullFile: true}},
	{name: "CopyOnWrite of a new file", config: memmapfs.Config{Mode: memmapfs.ModeCopyOnWrite, MapFullFile: true}, flags: os.O_TRUNC},
}

// TestPowerCut catches every promise of durability that is not kept: after each way to write, at the
// moment when its bytes and the file's size are promised to be durable, the power is cut.
func TestPowerCut(t *testing.T) {
	d := newDisk(t)
	for _, mapping := range mappings {
		for _, moment := range moments {
			t.Run(mapping.name+"/"+moment.name, func(t *testing.T) {
				for _, ways := range together(mapping, moment) {
					for way, difference := range d.lose(t, mapping, moment, ways) {
						if difference != "" {
							t.Errorf("%s: %s", way, difference)
						}
					}
				}
			})
		}
	}
}

// together returns the ways whose bytes a moment covers, in groups for one power cut each. What changes
// a file's size is in a group of its own: the flush of one file takes the sizes of the others with
// it, but not the bytes that were written over others. Where that has been tried often enough, all
// ways are one group.
func together(mapping mapping, moment moment) (groups [][]wayToWrite) {
	groups = make([][]wayToWrite, 1)
	for _, way := range waysToWrite {
		switch {
		case !moment.covers(way), way.throughMap && mapping.config.Mode != memmapfs.ModeReadWrite:
		case way.resizes && mapping.thorough:
			groups = append(groups, []wayToWrite{way})
		default:
			groups[0] = append(groups[0], way)
		}
	}
	return groups
}

// lose writes a file in each of the ways and cuts the power at the moment when they are promised to be
// durable. It returns how each file that is left differs from the one that was written; empty when
// it does not.
func (d *disk) lose(t *testing.T, mapping mapping, moment moment, ways []wayToWrite) map[string]string {
	t.Helper()
	for range 3 {
		if differences, reliable := d.tryLose(t, mapping, moment, ways); reliable {
			return differences
		}
	}
	t.Fatal("the kernel keeps writing back by itself: nothing can be said")
	return nil
}

func (d *disk) tryLose(t *testing.T, mapping mapping, moment moment, ways []wayToWrite) (differences map[string]string, reliable bool) {
	t.Helper()
	config := mapping.config
	config.SyncMode, config.SyncInterval = moment.syncMode, moment.interval
	fileSystem := memmapfs.New(plainFileSystem(t), &config)
	defer fileSystem.Close()
	want := make(map[string][]byte)
	var files []*memmapfs.MappedFile
	for i, way := range ways {
		name := writeFile(t, d.dir, fmt.Sprint("file", i), fileContent)
		defer os.Remove(osfs.ToNative(name))
		opened, err := fileSystem.OpenFile(name, os.O_RDWR|way.flags|mapping.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close() // of its own: a handle that is garbage before the filesystem is closed stays mapped
		file := asMapped(t, opened)
		if mapping.flags&os.O_TRUNC != 0 {
			if _, err := file.Write(fileContent); err != nil {
				t.Fatal(err)
			}
		}
		files = append(files, file)
	}
	d.settle(t)
	for i, way := range ways {
		what := way.write(t, files[i], fileContent)
		moment.reach(t, files[i], what)
		want[fmt.Sprint("file", i)] = what.content
	}
	for due := time.Now().Add(moment.interval); ; {
		differences = make(map[string]string)
		missing := 0
		reliable = d.cut(t, func(dir string) {
			for i, way := range ways {
				name := fmt.Sprint("file", i)
				differences[way.name] = firstDifference(mustReadFile(t, filepath.Join(dir, name)), want[name])
				if differences[way.name] != "" {
					missing++
				}
			}
		})
		// How long a flush takes is not promised.
		if missing == 0 || !moment.later || time.Now().After(due.Add(4*time.Second)) {
			return differences, reliable
		}
		time.Sleep(moment.interval)
	}
}

func mustReadFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestPowerCutLosesUnsynced proves that the disk of these tests loses what nobody flushed: else every
// promise would seem to be kept. It also catches a SyncNever that flushes, at the price it is there to
// avoid.
func TestPowerCutLosesUnsynced(t *testing.T) {
	d := newDisk(t)
	closed := moment{
		syncMode: memmapfs.SyncNever,
		covers:   everything,
		reach:    func(t *testing.T, file *memmapfs.MappedFile, _ written) { mustClose(t, file) },
	}
	for _, mapping := range mappings {
		if !mapping.thorough {
			continue
		}
		t.Run(mapping.name, func(t *testing.T) {
			for _, ways := range together(mapping, closed) {
				for way, difference := range d.lose(t, mapping, closed, ways) {
					if difference == "" {
						t.Errorf("%s: what was not flushed has survived the power cut", way)
					}
				}
			}
		})
	}
	t.Run("written to the disk, the disk not flushed", func(t *testing.T) {
		name := filepath.Join(d.dir, "direct")
		if err := os.WriteFile(name, make([]byte, pageSize), 0o600); err != nil {
			t.Fatal(err)
		}
		d.settle(t)
		file, err := os.OpenFile(name, os.O_WRONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		aligned, err := unix.Mmap(-1, 0, int(pageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(aligned)
		copy(aligned, "bytes")
		if _, err := file.WriteAt(aligned, 0); err != nil {
			t.Fatal(err)
		}
		d.cut(t, func(dir string) {
			if bytes.Equal(mustReadFile(t, filepath.Join(dir, "direct")), aligned) {
				t.Error("what lay in the disk's cache has survived the power cut")
			}
		})
	})
}

// TestPowerCutWithoutFlush proves that the promises rest on the flush of the mapped range: without it
// the tests above must fail, and a flush that does too little, as MS_ASYNC would, is found.
func TestPowerCutWithoutFlush(t *testing.T) {
	d := newDisk(t)
	stored := slices.IndexFunc(waysToWrite, func(way wayToWrite) bool { return way.name == "WriteAt, stored" })
	flushes := map[string]func(data []byte) error{
		"no msync": func([]byte) error { return nil },
		"MS_ASYNC": func(data []byte) error { return unix.Msync(data, unix.MS_ASYNC) },
	}
	for name, flush := range flushes {
		calls := 0
		restore := memmapfs.HookSyncMap(func(data []byte, _ func([]byte) error) error {
			calls++
			return flush(data)
		})
		for _, mapping := range mappings {
			for _, moment := range moments {
				if mapping.config.Mode != memmapfs.ModeReadWrite || moment.name != "SyncImmediate" && moment.name != "SyncRange" {
					continue
				}
				t.Run(name+"/"+mapping.name+"/"+moment.name, func(t *testing.T) {
					for way, difference := range d.lose(t, mapping, moment, waysToWrite[stored:stored+1]) {
						if difference == "" {
							t.Errorf("%s: durable without a flush: the test above cannot fail", way)
						}
					}
				})
			}
		}
		restore()
		if calls == 0 {
			t.Errorf("%s: no mapped range was flushed", name)
		}
	}
}

// A record fills a page: its number, a checksum, and bytes that follow from the number.
func record(number uint64) []byte {
	page := make([]byte, pageSize)
	binary.LittleEndian.PutUint64(page, number)
	random := rand.New(rand.NewPCG(number, 1))
	for i := 16; i+8 <= len(page); i += 8 {
		binary.LittleEndian.PutUint64(page[i:], random.Uint64())
	}
	binary.LittleEndian.PutUint64(page[8:], number^uint64(crc32.ChecksumIEEE(page[16:])))
	return page
}

// readRecord returns the number of the record in page, or that page is no whole record.
func readRecord(page []byte) (number uint64, whole bool) {
	if int64(len(page)) < pageSize {
		return 0, false
	}
	number = binary.LittleEndian.Uint64(page)
	return number, binary.LittleEndian.Uint64(page[8:]) == number^uint64(crc32.ChecksumIEEE(page[16:]))
}

// slot is a page of a journal.
type slot struct {
	before  uint64 // the record that is durable there from the start; 0 if the file did not reach so far
	number  uint64 // the record that is written over it, once; 0 if there is none yet
	written bool   // and the call that wrote it has returned
	due     bool   // and it is promised to be durable
	raced   bool   // it was written while a flush ran beside
}

// journal is a file of numbered records. It is written to in random ways, and knows which records are
// promised to be there after a power cut.
type journal struct {
	file       *memmapfs.MappedFile
	random     *rand.Rand
	throughMap bool   // records may be stored to the map without a call of Write
	whole      bool   // the file is mapped as a whole
	step       func() // is called by the writer between any two steps

	mu      sync.Mutex // guards the fields below: the flusher may run beside the writer
	slots   []slot
	number  uint64
	flushes int // begun and ended: odd while one runs
}

const (
	blankRecords = 64 // the journal's length at the start
	fullJournal  = 300
)

// write writes the next record, to a page that has none yet or to the end, and returns its slot.
func (j *journal) write(t *testing.T) int {
	at, grows := j.begin()
	page, off := record(j.slots[at].number), int64(at)*pageSize
	flushes := j.flushesSeen()
	j.step()
	var err error
	way := j.random.IntN(4)
	switch {
	case way == 0 && j.throughMap && !grows:
		err = j.file.View(off, pageSize, func(b []byte) error { copy(b, page); return nil })
	case way == 1 && j.throughMap && !grows:
		if _, err = j.file.Seek(off, io.SeekStart); err == nil {
			if data := j.file.Data(); j.whole {
				copy(data[off:], page)
			} else {
				copy(data, page)
			}
		}
	case way == 2:
		if _, err = j.file.Seek(off, io.SeekStart); err == nil {
			_, err = j.file.Write(page)
		}
	default:
		_, err = j.file.WriteAt(page, off)
	}
	if err != nil {
		t.Fatal(err)
	}
	j.mu.Lock()
	j.slots[at].written = true
	j.slots[at].raced = flushes%2 != 0 || flushes != j.flushes
	j.mu.Unlock()
	j.step()
	return at
}

func (j *journal) begin() (at int, grows bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var blank []int
	for at, slot := range j.slots {
		if slot.number == 0 {
			blank = append(blank, at)
		}
	}
	if len(blank) == 0 || j.random.IntN(4) == 0 {
		at, grows = len(j.slots), true
		j.slots = append(j.slots, slot{})
	} else {
		at = blank[j.random.IntN(len(blank))]
	}
	j.number++
	j.slots[at].number = j.number
	return at, grows
}

func (j *journal) flushesSeen() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.flushes
}

// promise takes note that the records in the slots [from, to) are durable from here on.
func (j *journal) promise(from, to int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for at := from; at < to; at++ {
		j.slots[at].due = j.slots[at].due || j.slots[at].written
	}
}

// flush is the wrapped file's Sync in SyncPeriodic: what was written before it begins is due when it
// ends.
func (j *journal) flush(_ string, sync func() error) error {
	j.mu.Lock()
	j.flushes++
	begun := append([]slot(nil), j.slots...)
	j.mu.Unlock()
	err := sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flushes++
	for at, slot := range begun {
		j.slots[at].due = j.slots[at].due || slot.written && err == nil
	}
	return err
}

// state returns the slots as they are, and whether every record written is due.
func (j *journal) state() (slots []slot, allDue bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	allDue = true
	for _, slot := range j.slots {
		allDue = allDue && (slot.due || !slot.written)
	}
	return append([]slot(nil), j.slots...), allDue
}

// checkLeft compares what a power cut has left with what was promised before it.
func checkLeft(t *testing.T, left []byte, slots []slot) (kept, lost int) {
	t.Helper()
	for at, slot := range slots {
		start := min(int64(at)*pageSize, int64(len(left)))
		page := left[start:min(start+pageSize, int64(len(left)))]
		number, whole := readRecord(page)
		untouched := whole && number == slot.before || slot.before == 0 && len(bytes.Trim(page, "\x00")) == 0
		switch {
		case whole && slot.number != 0 && number == slot.number:
			if slot.due {
				kept++
			}
		case slot.due:
			t.Errorf("page %d: record %d was promised, and there is record %d (whole: %v)", at, slot.number, number, whole)
		case untouched:
			if slot.written {
				lost++
			}
		case slot.raced && !whole:
			// The disk may have read the page in the middle of the store, as it may a plain file's.
		default:
			t.Errorf("page %d: record %d was being written over %d, and there is %d (whole: %v)",
				at, slot.number, slot.before, number, whole)
		}
	}
	return kept, lost
}

// sequence is a way to have records promised.
type sequence struct {
	name       string
	config     memmapfs.Config
	throughMap bool
	// promise makes records durable, after the one at slot at was written, and returns the slots
	// that it covers.
	promise func(j *journal, at int) (from, to int, err error)
}

// TestPowerCutAtRandomMoments catches what the table above does not think of: promises that hold when
// nothing else happens and break in the course of other writes, and flushes that tear records.
func TestPowerCutAtRandomMoments(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	d := newDisk(t)

	written := func(_ *journal, at int) (int, int, error) { return at, at + 1, nil }
	syncRange := func(j *journal, at int) (int, int, error) {
		if j.random.IntN(3) == 0 {
			return 0, 0, nil
		}
		from := at - j.random.IntN(min(at+1, 5))
		return from, at + 1, j.file.SyncRange(int64(from)*pageSize, int64(at+1-from)*pageSize)
	}
	syncAll := func(j *journal, _ int) (int, int, error) {
		if j.random.IntN(5) > 0 {
			return 0, 0, nil
		}
		return 0, len(j.slots), j.file.Sync()
	}
	byFlusher := func(*journal, int) (int, int, error) {
		time.Sleep(time.Millisecond) // so that the flusher, too, has its turn
		return 0, 0, nil
	}
	config := func(mappingMode memmapfs.MappingMode, windowSize int64, syncMode memmapfs.SyncMode) memmapfs.Config {
		return memmapfs.Config{Mode: mappingMode, MapFullFile: windowSize == 0, WindowSize: windowSize,
			SyncMode: syncMode, SyncInterval: 5 * time.Millisecond}
	}
	sequences := []sequence{
		{"SyncImmediate", config(memmapfs.ModeReadWrite, 0, memmapfs.SyncImmediate), false, written},
		{"SyncImmediate, windows", config(memmapfs.ModeReadWrite, pageSize, memmapfs.SyncImmediate), false, written},
		{"SyncImmediate, ReadOnly", config(memmapfs.ModeReadOnly, 0, memmapfs.SyncImmediate), false, written},
		{"SyncRange", config(memmapfs.ModeReadWrite, 0, memmapfs.SyncNever), true, syncRange},
		{"SyncRange, windows", config(memmapfs.ModeReadWrite, pageSize, memmapfs.SyncNever), true, syncRange},
		{"Sync", config(memmapfs.ModeReadWrite, 0, memmapfs.SyncLazy), true, syncAll},
		{"Sync, windows", config(memmapfs.ModeReadWrite, pageSize, memmapfs.SyncNever), true, syncAll},
		{"SyncPeriodic", config(memmapfs.ModeReadWrite, 0, memmapfs.SyncPeriodic), true, byFlusher},
		{"SyncPeriodic, windows", config(memmapfs.ModeReadWrite, pageSize, memmapfs.SyncPeriodic), true, byFlusher},
	}
	kept, lost, cuts := 0, 0, 0
	random := rand.New(rand.NewPCG(seed, 0))
	for i, s := range sequences {
		until := *powerCutsFlag * (i + 1) / len(sequences)
		t.Run(s.name, func(t *testing.T) {
			for cuts < until {
				cutsNow, keptNow, lostNow := d.runSequence(t, s, random, until-cuts)
				cuts, kept, lost = cuts+cutsNow, kept+keptNow, lost+lostNow
			}
		})
		cuts = until
	}
	t.Logf("%d power cuts: %d promised records kept, %d others lost", cuts, kept, lost)
	if !t.Failed() && (kept == 0 || lost == 0) {
		t.Error("the cuts did not come in the middle of anything")
	}
}

// runSequence writes a journal until it is full or the power was cut as often as wanted.
func (d *disk) runSequence(t *testing.T, s sequence, random *rand.Rand, wanted int) (cuts, kept, lost int) {
	periodic := s.config.SyncMode == memmapfs.SyncPeriodic
	j := &journal{random: random, throughMap: s.throughMap, whole: s.config.MapFullFile, step: func() {}}
	cut := func() {
		slots, _ := j.state()
		d.cut(t, func(dir string) {
			nowKept, nowLost := checkLeft(t, mustReadFile(t, filepath.Join(dir, "journal")), slots)
			kept, lost = kept+nowKept, lost+nowLost
		})
		if t.Failed() {
			t.Fatalf("after the %d. power cut, with %d records written", cuts+1, j.number)
		}
	}
	base := plainFileSystem(t)
	if periodic {
		watched := memmapfs.NewWatchedFS()
		watched.Sync = j.flush
		base = watched
	}
	defer memmapfs.HookSyncMap(func(data []byte, flush func([]byte) error) error {
		j.step()
		defer j.step()
		return flush(data)
	})()

	var blank []byte
	for range blankRecords {
		number := random.Uint64() | 1<<63
		j.slots = append(j.slots, slot{before: number})
		blank = append(blank, record(number)...)
	}
	name := writeFile(t, d.dir, "journal", blank)
	defer os.Remove(osfs.ToNative(name))
	fileSystem := memmapfs.New(base, &s.config)
	defer fileSystem.Close()
	opened, err := fileSystem.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	j.file = asMapped(t, opened)
	makeHot(t, j.file, blank, 0, int64(len(blank)))
	d.settle(t)

	next := 1 + random.IntN(60)
	j.step = func() {
		if next--; next == 0 {
			cut()
			cuts++
			next = 1 + random.IntN(60)
		}
	}
	for cuts < wanted && len(j.slots) < fullJournal {
		from, to, err := s.promise(j, j.write(t))
		if err != nil {
			t.Fatal(err)
		}
		j.promise(from, to)
		j.step()
	}
	if periodic {
		if !eventually(func() bool { _, allDue := j.state(); return allDue }) {
			t.Fatal("records are never flushed")
		}
		cut()
	}
	return cuts, kept, lost
}
