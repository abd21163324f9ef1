package limits_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// reserve lets the Go runtime take what it will need before the test takes all there is: heap, the lists
// of each size of object, and threads. Without them it is the runtime that ends the process.
func reserve() {
	runtime.MemProfileRate = 0
	for range 2 {
		var bytes [][]byte
		var pointers [][]*byte
		for size := 8; size <= 32<<10; size += size / 8 {
			for range 32 {
				bytes = append(bytes, make([]byte, size))
				pointers = append(pointers, make([]*byte, size/8))
			}
		}
		for range 2000 {
			bytes = append(bytes, make([]byte, 32<<10))
		}
		runtime.GC()
		for i := range bytes {
			if i%2 == 0 {
				bytes[i] = nil
			}
		}
		for i := range pointers {
			if i%2 == 0 {
				pointers[i] = nil
			}
		}
		runtime.GC()
		runtime.GC()
		runtime.KeepAlive(bytes)
		runtime.KeepAlive(pointers)
		bytes, pointers = nil, nil
		runtime.GC()
		runtime.GC()
	}
	const threads = 12
	var started testkit.Workers
	var all sync.WaitGroup
	all.Add(threads)
	for range threads {
		started.Start(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		})
	}
	started.Wait()
}

// mostMaps returns the number of mappings that the process may have, or 0 where nobody can make so many.
func mostMaps(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if limit > 2<<20 {
		return 0
	}
	return limit
}

// takeMaps takes every mapping that the process may still have, limit in all. The function returned
// gives them back.
func takeMaps(t *testing.T, limit int) (giveBack func()) {
	t.Helper()
	page := os.Getpagesize()
	area, err := syscall.Mmap(-1, 0, (limit+2)*page, syscall.PROT_NONE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	for at := page; err == nil && at < len(area); at += 2 * page { // each makes two mappings more
		err = syscall.Mprotect(area[at:at+page], syscall.PROT_READ)
	}
	if err != syscall.ENOMEM {
		t.Fatal("the mappings do not run out:", err)
	}
	taken := [][]byte{area}
	for protection := 0; ; protection ^= syscall.PROT_READ {
		more, err := syscall.Mmap(-1, 0, page, protection, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		if err == syscall.ENOMEM {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, more)
	}
	return func() {
		t.Helper()
		for _, area := range taken {
			if err := syscall.Munmap(area); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// limitedFile is an open file and what it has to contain.
type limitedFile struct {
	*memmapfs.MappedFile
	m    testkit.Mode
	name string
	want []byte
}

func openLimited(t *testing.T, dir string, m testkit.Mode, name string, size int64) *limitedFile {
	t.Helper()
	want := testkit.PatternFrom(0, int(size))
	name = testkit.WriteFile(t, dir, m.Name+" "+name, want)
	return &limitedFile{testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR), m, name, want}
}

// use calls the methods that have to work with a map and without one, and compares.
func (f *limitedFile) use(t *testing.T, when string) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, %s: %s", f.m.Name, when, fmt.Sprintf(format, args...))
	}
	for i := range 40 { // often enough that a map is tried again and again
		off := int64(i) * 977 % int64(len(f.want)-100)
		value := []byte(fmt.Sprintf("%s %d", when, i))
		if n, err := f.WriteAt(value, off); n != len(value) || err != nil {
			fail("WriteAt at %d: %d bytes and error %v", off, n, err)
		}
		copy(f.want[off:], value)
		p := make([]byte, 100)
		if n, err := f.ReadAt(p, off); n != len(p) || err != nil {
			fail("ReadAt at %d: %d bytes and error %v", off, n, err)
		}
		if diff := testkit.FirstDifference(p, f.want[off:off+100]); diff != "" {
			fail("ReadAt at %d: %s", off, diff)
		}
	}
	if err := f.Sync(); err != nil {
		fail("Sync: %v", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		fail("Seek: %v", err)
	}
	copied, err := f.WriteTo(&testkit.PatternWriter{Check: func(p []byte, off int64) {
		if diff := testkit.FirstDifference(p, f.want[off:off+int64(len(p))]); diff != "" {
			fail("WriteTo at %d: %s", off, diff)
		}
	}})
	if err != nil || copied != int64(len(f.want)) {
		fail("WriteTo: %d bytes and error %v", copied, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		fail("Seek: %v", err)
	}
}

// mustMap fails the test unless the file can be mapped, and the map shows its content. It returns the
// bytes of Data.
func (f *limitedFile) mustMap(t *testing.T, when string) []byte {
	t.Helper()
	data := f.Data()
	if data == nil || !f.Mapped() {
		t.Errorf("%s, %s: the file is not mapped", f.m.Name, when)
		return nil
	}
	if !f.m.Windowed() && len(data) != len(f.want) {
		t.Errorf("%s, %s: Data has %d bytes, want all %d", f.m.Name, when, len(data), len(f.want))
	}
	if diff := testkit.FirstDifference(data, f.want[:len(data)]); diff != "" {
		t.Errorf("%s, %s: Data: %s", f.m.Name, when, diff)
	}
	err := f.View(1, int64(len(f.want))-1, func(b []byte) error {
		if diff := testkit.FirstDifference(b, f.want[1:]); diff != "" {
			t.Errorf("%s, %s: View: %s", f.m.Name, when, diff)
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s, %s: View: %v", f.m.Name, when, err)
	}
	return data
}

// mustNotMap fails the test unless Data and View say that the file cannot be mapped, and why.
func (f *limitedFile) mustNotMap(t *testing.T, when string, reason error) {
	t.Helper()
	if f.Data() != nil || f.Mapped() {
		t.Errorf("%s, %s: the file is mapped: the limit is not in force", f.m.Name, when)
	}
	err := f.View(0, 1, func([]byte) error { return nil })
	var path *fs.PathError
	if !errors.Is(err, memmapfs.ErrNotMapped) || !errors.Is(err, reason) || !errors.As(err, &path) {
		t.Errorf("%s, %s: View: %T %v, want ErrNotMapped and %v in a *fs.PathError", f.m.Name, when, err, err, reason)
	}
}

// close closes the file, and compares what has reached the disk.
func (f *limitedFile) close(t *testing.T, when string) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Errorf("%s, %s: Close: %v", f.m.Name, when, err)
	}
	want := f.want
	if f.m.CopyOnWrite() {
		want = testkit.PatternFrom(0, len(want))
	}
	testkit.MustEqual(t, f.m.Name+", "+when+": the file", testkit.ReadNative(t, f.name), want)
}

// TestOutOfMaps catches files that stop working, errors that name no reason, and maps that survive their
// Close, when the process may not have another mapping; and files that stay unmapped when it may again.
func TestOutOfMaps(t *testing.T) {
	testkit.NotEmulated(t, "qemu needs maps of its own, and hangs when there are none left")
	testkit.InChild(t, func(t *testing.T) {
		if testkit.RaceDetector {
			t.Log(testkit.CannotRunMark + "the race detector ends the process when there is no mapping left for itself")
			return
		}
		limit := mostMaps(t)
		if limit == 0 {
			t.Log(testkit.CannotRunMark + "vm.max_map_count is too large to be reached")
			return
		}
		reserve()
		dir := testkit.TestDir(t)
		size := 3*testkit.PageSize + 10
		type files struct{ before, during *limitedFile }
		var all []files
		for _, m := range testkit.Modes {
			if m.Plain() {
				continue
			}
			warm := openLimited(t, dir, m, "warm", size)
			warm.use(t, "before")
			warm.close(t, "before")
			all = append(all, files{openLimited(t, dir, m, "before", size), openLimited(t, dir, m, "during", size)})
		}
		var stale [][]byte
		for _, f := range all {
			stale = append(stale, f.before.mustMap(t, "before"))
		}
		unmapped := 0
		// Addresses of maps that were closed come back with a collection, and would be room for others.
		for before, quiet := 0, 0; quiet < 5; quiet++ {
			runtime.GC()
			time.Sleep(time.Millisecond)
			if count := testkit.MapCount(t); count != before {
				before, quiet = count, 0
			}
		}
		giveBack := takeMaps(t, limit)
		for _, f := range all {
			f.during.mustNotMap(t, "out of maps", syscall.ENOMEM)
			f.during.use(t, "out of maps")
			f.before.use(t, "mapped before they ran out")
			unmapped++
		}
		// A map that cannot be replaced has to go all the same. It lets go of the file with the first
		// collection, if there are maps to be had by then.
		collector := debug.SetGCPercent(-1)
		for i, f := range all {
			f.before.close(t, "mapped before they ran out")
			if !testkit.FaultsWhenRead(stale[i]) {
				t.Errorf("%s: after Close, out of maps, a slice from Data can be read", f.before.m.Name)
			}
		}
		giveBack()
		debug.SetGCPercent(collector)
		for i, f := range all {
			if !testkit.FaultsWhenRead(stale[i]) {
				t.Errorf("%s: after Close a slice from Data can be read", f.before.m.Name)
			}
			f.during.use(t, "maps to be had again")
			f.during.mustMap(t, "maps to be had again")
			f.during.close(t, "maps to be had again")
		}
		testkit.Report(t, "%d files worked without a map, and were mapped when there was one; no fault injected", unmapped)
	})
}

// TestOutOfAddressSpace catches a file, longer than the address space that is left, that cannot be used,
// and a View or window that fails otherwise than with a reason.
func TestOutOfAddressSpace(t *testing.T) {
	testkit.NotEmulated(t, "qemu does not limit the address space")
	const size = 32 << 20
	rows := map[string]bool{
		"read-only": true, "read-write": true, "copy-on-write": true, "execute": true,
		"read-only windows of one page": true, "read-write windows of 64 KiB": true, "copy-on-write windows of 64 KiB": true,
	}
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			reserve()
			dir := testkit.TestDir(t)
			file := openLimited(t, dir, m, "file", size)
			var before syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_AS, &before); err != nil {
				t.Fatal(err)
			}
			limit := before
			limit.Cur = uint64(testkit.AddressSpace(t) + 24<<20) // less than the file, more than a window of it
			if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
				t.Fatal(err)
			}
			file.use(t, "short of address space")
			p := make([]byte, 3*testkit.PageSize)
			reads := 0
			for off := int64(5); off+int64(len(p)) < size; off += 1 << 20 {
				for range 10 {
					if n, err := file.ReadAt(p, off); n != len(p) || err != nil {
						t.Fatalf("ReadAt at %d: %d bytes and error %v", off, n, err)
					}
					if diff := testkit.FirstDifference(p, file.want[off:off+int64(len(p))]); diff != "" {
						t.Fatalf("ReadAt at %d: %s", off, diff)
					}
					reads++
				}
				value := []byte(fmt.Sprint("at ", off))
				if n, err := file.WriteAt(value, off); n != len(value) || err != nil {
					t.Fatalf("WriteAt at %d: %d bytes and error %v", off, n, err)
				}
				copy(file.want[off:], value)
			}
			err := file.View(0, size, func([]byte) error { return nil })
			var path *fs.PathError
			if !errors.Is(err, memmapfs.ErrNotMapped) || !errors.Is(err, syscall.ENOMEM) || !errors.As(err, &path) {
				t.Errorf("View of more than there is room for: %T %v, want ErrNotMapped and ENOMEM in a *fs.PathError", err, err)
			}
			err = file.View(size-100, 100, func(b []byte) error {
				if diff := testkit.FirstDifference(b, file.want[size-100:]); diff != "" {
					t.Errorf("View of the last bytes: %s", diff)
				}
				return nil
			})
			if err != nil && !errors.Is(err, syscall.ENOMEM) { // the windows mapped so far may have left no room
				t.Errorf("View of a few bytes: %v", err)
			}
			if !file.Mapped() {
				t.Error("no part of the file is mapped, though there is room for windows")
			}
			if err := syscall.Setrlimit(syscall.RLIMIT_AS, &before); err != nil {
				t.Fatal(err)
			}
			err = file.View(0, size, func(b []byte) error {
				if diff := testkit.FirstDifference(b, file.want); diff != "" {
					t.Errorf("View of the whole file: %s", diff)
				}
				return nil
			})
			if err != nil {
				t.Errorf("View of the whole file when there is room: %v", err)
			}
			data := file.Data()
			if len(data) == 0 || testkit.FirstDifference(data, file.want[:len(data)]) != "" {
				t.Errorf("Data when there is room has %d bytes: %s", len(data), testkit.FirstDifference(data, file.want[:len(data)]))
			}
			file.close(t, "with room again")
			testkit.Report(t, "%d reads of a file for which there was no room; no fault injected", reads)
		})
	}, func(m testkit.Mode) bool { return rows[m.Name] })
}

// TestOutOfDescriptors catches files that stop working, or are mapped in another way for good, because
// there was no descriptor to map them with.
func TestOutOfDescriptors(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		reserve()
		dir := testkit.TestDir(t)
		const size = 20 << 20 // more than a window of a file that does not fit
		rows := map[string]bool{
			"read-only": true, "read-write": true, "copy-on-write": true,
			"read-only windows of 64 KiB": true, "read-write windows of 64 KiB": true, "copy-on-write windows of 64 KiB": true,
		}
		var files []*limitedFile
		for _, m := range testkit.Modes {
			if rows[m.Name] {
				files = append(files, openLimited(t, dir, m, "file", size))
			}
		}
		var before syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
		var taken []*os.File
		limit := before
		limit.Cur = 200
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		for {
			file, err := os.Open(os.DevNull)
			if errors.Is(err, syscall.EMFILE) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, file)
		}
		_, err := files[0].m.OverOS(t).Open(files[0].name)
		testkit.CheckPathError(t, "Open without a descriptor", err, osfs.ToNative(files[0].name))
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("Open without a descriptor: %v", err)
		}
		for _, file := range files {
			file.mustNotMap(t, "out of descriptors", syscall.EMFILE)
			file.use(t, "out of descriptors")
		}
		for _, file := range taken {
			file.Close()
		}
		for _, file := range files {
			file.use(t, "descriptors to be had again")
			file.mustMap(t, "descriptors to be had again")
			file.close(t, "descriptors to be had again")
		}
		testkit.Report(t, "%d files worked without a map, and were mapped when there was a descriptor; no fault injected", len(files))
	})
}
