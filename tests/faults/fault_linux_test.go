package faults_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// fullDisk is one way to write to a disk that is full.
type fullDisk struct {
	name   string
	config *memmapfs.Config
	flags  int

	// prepare runs while there is space, and leaves the file and its size behind.
	prepare func(t *testing.T, file *memmapfs.MappedFile, native string)
	// write is tried on the full disk, and again on the free one. It returns how many bytes it wrote at off.
	write func(file *memmapfs.MappedFile) (off int64, n int, err error)
	want  error // on the full disk
	fault bool  // a fault has to be caught on the way
}

// The page that is written to on the full disk.
const fullOff = 384 << 10

// writePage is a WriteAt of a page of the pattern.
func writePage(off int64) func(file *memmapfs.MappedFile) (int64, int, error) {
	return func(file *memmapfs.MappedFile) (int64, int, error) {
		n, err := file.WriteAt(testkit.PatternFrom(off, int(testkit.PageSize)), off)
		return off, n, err
	}
}

// writeAtPosition is a write of one page of the pattern at the position off.
func writeAtPosition(off int64, write func(file *memmapfs.MappedFile, p []byte) (int, error)) func(file *memmapfs.MappedFile) (int64, int, error) {
	return func(file *memmapfs.MappedFile) (int64, int, error) {
		if _, err := file.Seek(off, io.SeekStart); err != nil {
			return off, 0, err
		}
		n, err := write(file, testkit.PatternFrom(off, int(testkit.PageSize)))
		return off, n, err
	}
}

// mapped makes the map and, in windows, the window that is written to.
func mapped(t *testing.T, file *memmapfs.MappedFile, _ string) {
	t.Helper()
	if _, err := file.Seek(fullOff, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if file.Data() == nil {
		t.Fatal("the file cannot be mapped")
	}
}

// hotHole makes the page one that may be stored to, and then, behind the back of the filesystem under
// test, a hole again: the store faults because the disk has no block for it.
func hotHole(t *testing.T, file *memmapfs.MappedFile, native string) {
	t.Helper()
	mapped(t, file, native)
	for range 3 {
		if _, err := file.WriteAt(make([]byte, testkit.PageSize), fullOff); err != nil {
			t.Fatal(err)
		}
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{fullOff, info.Size()} {
		if err := os.Truncate(native, size); err != nil {
			t.Fatal(err)
		}
	}
}

// hot makes the page one that may be stored to and has its block.
func hot(t *testing.T, file *memmapfs.MappedFile, native string) {
	t.Helper()
	mapped(t, file, native)
	for range 3 {
		if _, err := file.WriteAt(make([]byte, testkit.PageSize), fullOff); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
}

func nothing(*testing.T, *memmapfs.MappedFile, string) {}

// fullDiskCases is every write path, in the modes where it is another one, to a file that ends at end.
func fullDiskCases(end int64) []fullDisk {
	write := func(file *memmapfs.MappedFile, p []byte) (int, error) { return file.Write(p) }
	writeString := func(file *memmapfs.MappedFile, p []byte) (int, error) { return file.WriteString(string(p)) }
	readFrom := func(file *memmapfs.MappedFile, p []byte) (int, error) {
		n, err := file.ReadFrom(bytes.NewReader(p))
		return int(n), err
	}
	viewStore := func(file *memmapfs.MappedFile) (int64, int, error) {
		err := file.View(fullOff, testkit.PageSize, func(b []byte) error {
			copy(b, testkit.PatternFrom(fullOff, int(testkit.PageSize)))
			return nil
		})
		if err != nil {
			return fullOff, 0, err
		}
		return fullOff, int(testkit.PageSize), nil
	}
	readWrite := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)
	immediate := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncImmediate)
	windows := testkit.Windowed(memmapfs.ModeReadWrite, 64<<10)
	private := testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)
	privateWindows := testkit.Windowed(memmapfs.ModeCopyOnWrite, 64<<10)
	full := syscall.ENOSPC
	return []fullDisk{
		{"not mapped", readWrite, os.O_RDWR, nothing, writePage(fullOff), full, false},
		{"read-only map, file written to", nil, os.O_RDWR, mapped, writePage(fullOff), full, false},
		{"first touch", readWrite, os.O_RDWR, mapped, writePage(fullOff), full, false},
		{"first touch by Write", readWrite, os.O_RDWR, mapped, writeAtPosition(fullOff, write), full, false},
		{"hot page without a block", readWrite, os.O_RDWR, hotHole, writePage(fullOff), full, true},
		{"hot page without a block by Write", readWrite, os.O_RDWR, hotHole, writeAtPosition(fullOff, write), full, true},
		{"hot page without a block by WriteString", readWrite, os.O_RDWR, hotHole, writeAtPosition(fullOff, writeString), full, true},
		{"hot page without a block by ReadFrom", readWrite, os.O_RDWR, hotHole, writeAtPosition(fullOff, readFrom), full, true},
		{"sync immediate", immediate, os.O_RDWR, hotHole, writePage(fullOff), full, false},
		{"hot page with a block", readWrite, os.O_RDWR, hot, writePage(fullOff), nil, false},
		{"growth", readWrite, os.O_RDWR, mapped, writePage(end), full, false},
		{"growth by Write", readWrite, os.O_RDWR, mapped, writeAtPosition(end, write), full, false},
		{"append", readWrite, os.O_RDWR | os.O_APPEND, mapped, writeAtPosition(end, write), full, false},
		{"append, write-only", readWrite, os.O_WRONLY | os.O_APPEND, nothing, writeAtPosition(end, write), full, false},
		{"windows, first touch", windows, os.O_RDWR, mapped, writePage(fullOff), full, false},
		{"windows, hot page without a block", windows, os.O_RDWR, hotHole, writePage(fullOff), full, true},
		{"windows, growth", windows, os.O_RDWR, mapped, writePage(end), full, false},
		{"store in View", readWrite, os.O_RDWR, mapped, viewStore, memmapfs.ErrSIGBUS, true},
		{"store in View, windows", windows, os.O_RDWR, mapped, viewStore, memmapfs.ErrSIGBUS, true},
		// Private pages need memory and no disk.
		{"copy-on-write", private, os.O_RDWR, nothing, writePage(fullOff), nil, false},
		{"copy-on-write, mapped", private, os.O_RDWR, mapped, writePage(fullOff), nil, false},
		{"copy-on-write, windows", privateWindows, os.O_RDWR, nothing, writePage(fullOff), nil, false},
	}
}

// TestDiskFull catches a write path on which a full disk is a crash, another error than ENOSPC, the loss
// of bytes written before, or the end of the handle. Reading holes, which on tmpfs takes a block when it
// goes through the map, must go on as through a plain file.
func TestDiskFull(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			testkit.NeedMounts(t)
			testkit.InChild(t, func(t *testing.T) {
				disk := testkit.MountSmallDisk(t, kind)
				if disk == nil {
					return
				}
				faults := int64(0)
				cases := fullDiskCases(disk.Sparse)
				for _, c := range cases {
					faults += c.run(t, disk)
				}
				testkit.Report(t, "%d ways to write to a full %s, %d faults caught", len(cases), kind, faults)
			}, testkit.InOwnMounts)
		})
	}
}

// run returns the number of faults.
func (c fullDisk) run(t *testing.T, disk *testkit.SmallDisk) int64 {
	native := filepath.Join(disk.Dir, "file")
	head := testkit.PatternFrom(0, int(3*testkit.PageSize)+5)
	if err := os.WriteFile(native, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(native, disk.Sparse); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(native)
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), c.config)
	opened, err := fileSystem.OpenFile(osfs.FromNative(native), c.flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := testkit.AsMapped(t, opened)
	defer file.Close()
	faults := testkit.CountFaults(t, file)
	c.prepare(t, file, native)

	want := make([]byte, disk.Sparse) // what the handle shows
	copy(want, head)
	private := c.config != nil && c.config.Mode == memmapfs.ModeCopyOnWrite
	check := func(when string) {
		t.Helper()
		if !private {
			if diff := testkit.FirstDifference(testkit.ReadNative(t, osfs.FromNative(native)), want); diff != "" {
				t.Errorf("%s: the file %s: %s", c.name, when, diff)
			}
		}
		if c.flags&os.O_WRONLY != 0 {
			return
		}
		got := make([]byte, len(want)+1)
		n, err := file.ReadAt(got, 0)
		if err != io.EOF {
			t.Errorf("%s: ReadAt %s: %v", c.name, when, err)
		}
		if diff := testkit.FirstDifference(got[:n], want); diff != "" {
			t.Errorf("%s: the handle %s: %s", c.name, when, diff)
		}
	}
	write := func() error {
		off, n, err := c.write(file)
		if missing := off + int64(n) - int64(len(want)); missing > 0 && n > 0 {
			want = append(want, make([]byte, missing)...)
		}
		if n > 0 {
			copy(want[off:], testkit.PatternFrom(off, n))
		}
		if err == nil && n != int(testkit.PageSize) {
			t.Errorf("%s: %d bytes and no error", c.name, n)
		}
		return err
	}
	check("before")
	disk.Fill()
	for range 2 { // the second time after what the first has learnt
		err := write()
		var path *fs.PathError
		if !errors.Is(err, c.want) || c.want != nil && !errors.As(err, &path) {
			t.Errorf("%s on a full disk: %T %v, want %v", c.name, err, err, c.want)
		}
		check("on a full disk")
	}
	if err := file.Sync(); err != nil {
		t.Errorf("%s: Sync on a full disk: %v", c.name, err)
	}
	caught := faults.Load()
	if c.fault && caught == 0 {
		t.Errorf("%s: no fault was met: the case tests another path", c.name)
	}
	disk.Free()
	if err := write(); err != nil {
		t.Errorf("%s after space was freed: %v", c.name, err)
	}
	check("after space was freed")
	if err := file.Close(); err != nil {
		t.Errorf("%s: Close: %v", c.name, err)
	}
	if !private {
		testkit.MustEqual(t, c.name+": the file in the end", testkit.ReadNative(t, osfs.FromNative(native)), want)
	}
	return caught
}

// TestReadHolesOfFullDisk catches reads that fail, or show other bytes than zeros, where a hole cannot be
// given the block that a map of it needs (tmpfs).
func TestReadHolesOfFullDisk(t *testing.T) {
	testkit.NeedMounts(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			disk := testkit.MountSmallDisk(t, "tmpfs")
			if disk == nil {
				return
			}
			name := testkit.WriteFile(t, disk.Dir, "file", nil)
			native := osfs.ToNative(name)
			if err := os.Truncate(native, disk.Sparse); err != nil {
				t.Fatal(err)
			}
			file := testkit.MustOpen(t, m.OverOS(t), name, os.O_RDONLY)
			var mapped *memmapfs.MappedFile
			if !m.Plain() {
				mapped = testkit.AsMapped(t, file)
				if mapped.Data() == nil {
					t.Fatal("the file cannot be mapped")
				}
			}
			disk.Fill()
			p := make([]byte, 10_000)
			reads := 0
			for off := int64(0); off+int64(len(p)) <= disk.Sparse; off += 50_000 {
				for range 2 {
					for i := range p {
						p[i] = 1
					}
					n, err := file.ReadAt(p, off)
					if n != len(p) || err != nil {
						t.Fatalf("ReadAt of a hole at %d: %d bytes and error %v", off, n, err)
					}
					if i := bytes.IndexFunc(p, func(r rune) bool { return r != 0 }); i >= 0 {
						t.Fatalf("byte %d of a hole is %#x", off+int64(i), p[i])
					}
					reads++
				}
			}
			views := 0
			for off := int64(0); mapped != nil && off < disk.Sparse; off += 64 << 10 {
				err := mapped.View(off, 1, func(b []byte) error {
					if b[0] != 0 {
						t.Errorf("byte %d of a hole is %#x in a View", off, b[0])
					}
					return nil
				})
				if err == nil {
					continue
				}
				if views++; !errors.Is(err, memmapfs.ErrSIGBUS) {
					t.Errorf("View of a hole: %v", err)
				}
			}
			if m.Name == "read-only" && views == 0 {
				t.Error("no View met a fault: the test tests nothing")
			}
			file.Close()
			testkit.Report(t, "%d reads of holes on a full disk, %d faults caught in View", reads, views)
		}, testkit.InOwnMounts)
	}, func(m testkit.Mode) bool {
		return m.Plain() || m.Name == "read-only" || m.Name == "read-write" || m.Name == "copy-on-write" || m.Name == "copy-on-write windows of 64 KiB"
	})
}

// TestAddressSpaceBound catches addresses of closed maps that are kept without a limit.
func TestAddressSpaceBound(t *testing.T) {
	testkit.NotEmulated(t, "qemu keeps a table of the pages of each map, and takes seconds to make one")
	const mebibyte = 1 << 20
	const gibibyte = 1 << 30
	// So many bytes of revoked maps start a collection, which frees them while more are closed; and
	// so many more stay unreadable after Data, so that a slice kept too long faults.
	size, retired, quarantined, count := int64(gibibyte), int64(1024*gibibyte), int64(8192*gibibyte), 100_000
	if math.MaxInt == math.MaxInt32 {
		size, retired, quarantined, count = mebibyte, 128*mebibyte, 128*mebibyte, 12_000
	}
	if testing.Short() || testkit.RaceDetector {
		count = 12_000
	}
	for _, test := range []struct {
		name  string
		data  bool // the maps are handed out by Data
		bound int64
	}{
		{"view", false, retired + retired/2},
		{"data", true, retired + retired/2 + quarantined},
	} {
		t.Run(test.name, func(t *testing.T) {
			testkit.InChild(t, func(t *testing.T) {
				dir := testkit.TestDir(t)
				name := testkit.WriteFile(t, dir, "file", nil)
				if err := os.Truncate(osfs.ToNative(name), size); err != nil {
					t.Fatal(err)
				}
				fileSystem := memmapfs.New(testkit.PlainFileSystem(t), nil)
				startBytes, startMaps := testkit.AddressSpace(t), testkit.MapCount(t)
				mostBytes, mostMaps := startBytes, startMaps
				for i := range count {
					opened, err := fileSystem.Open(name)
					if err != nil {
						t.Fatal(err)
					}
					file := opened.(*memmapfs.MappedFile)
					if test.data {
						if int64(len(file.Data())) != size {
							t.Fatalf("file %d cannot be mapped", i)
						}
					} else {
						err := file.View(0, 1, func([]byte) error { return nil })
						if err != nil || !file.Mapped() {
							t.Fatalf("file %d cannot be mapped: %v", i, err)
						}
					}
					if err := file.Close(); err != nil {
						t.Fatal(err)
					}
					if i%100 == 99 {
						mostBytes = max(mostBytes, testkit.AddressSpace(t))
					}
					if i%1000 == 999 {
						mostMaps = max(mostMaps, testkit.MapCount(t))
					}
				}
				if grown := mostBytes - startBytes; grown > test.bound {
					t.Errorf("the address space grew by %d MiB, want at most %d", grown/mebibyte, test.bound/mebibyte)
				}
				if grown := mostMaps - startMaps; grown > 3000 {
					t.Errorf("%d lines more in /proc/self/maps", grown)
				}
				testkit.Report(t, "%d files of %d MiB opened, mapped and closed: address space at most %d MiB more, %d lines more in /proc/self/maps; no fault injected",
					count, size/mebibyte, (mostBytes-startBytes)/mebibyte, mostMaps-startMaps)
			})
		})
	}
}

// TestViewWithoutRoom catches a View that is handed a page without its private bytes, because the disk had no
// room for the hole below them, and that then, with room again, shows zeros.
func TestViewWithoutRoom(t *testing.T) {
	testkit.NeedMounts(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			disk := testkit.MountSmallDisk(t, "tmpfs")
			if disk == nil {
				return
			}
			name := testkit.WriteFile(t, disk.Dir, "file", nil)
			if err := os.Truncate(osfs.ToNative(name), disk.Sparse); err != nil {
				t.Fatal(err)
			}
			file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
			want := testkit.Content(int(2 * testkit.PageSize))
			off := 4*testkit.PageSize + 100
			view := func(fn func(b []byte)) error {
				return file.View(off, int64(len(want)), func(b []byte) error { fn(b); return nil })
			}
			disk.Fill()
			if n, err := file.WriteAt(want, off); n != len(want) || err != nil {
				t.Fatalf("private WriteAt on a full disk: %d, %v", n, err)
			}
			freed := false
			err := view(func(b []byte) {
				disk.Free()
				freed = true
				testkit.MustEqual(t, "View of private bytes after space was freed", bytes.Clone(b), want)
			})
			if !errors.Is(err, memmapfs.ErrSIGBUS) {
				t.Errorf("View of private bytes over a hole of a full disk: %v", err)
			}
			if data := file.Data(); !freed && !m.Windowed() && data != nil {
				t.Errorf("Data of private bytes over a hole of a full disk: %d bytes", len(data))
			}
			if !freed {
				disk.Free()
			}
			if err := view(func(b []byte) { testkit.MustEqual(t, "View with room", bytes.Clone(b), want) }); err != nil {
				t.Errorf("View with room: %v", err)
			}
			got := make([]byte, len(want))
			if _, err := file.ReadAt(got, off); err != nil {
				t.Error(err)
			}
			testkit.MustEqual(t, "ReadAt", got, want)
			if err := file.Close(); err != nil {
				t.Error(err)
			}
			testkit.Report(t, "refused while the disk was full: %t", !freed)
		}, testkit.InOwnMounts)
	}, testkit.Mode.CopyOnWrite)
}

// TestViewBesideOneWithoutRoom catches bytes that a View has stored and that are lost because another View could
// not be given its private bytes.
func TestViewBesideOneWithoutRoom(t *testing.T) {
	testkit.NeedMounts(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			disk := testkit.MountSmallDisk(t, "tmpfs")
			if disk == nil {
				return
			}
			content := testkit.Content(int(2 * testkit.PageSize))
			name := testkit.WriteFile(t, disk.Dir, "file", content)
			if err := os.Truncate(osfs.ToNative(name), disk.Sparse); err != nil {
				t.Fatal(err)
			}
			file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
			want := bytes.Clone(content[:200])
			private, stored, hole := []byte("private"), []byte("stored"), 3*testkit.PageSize
			write := func(p []byte, off int64) {
				if n, err := file.WriteAt(p, off); n != len(p) || err != nil {
					t.Fatalf("private WriteAt at %d on a full disk: %d, %v", off, n, err)
				}
			}
			disk.Fill()
			write(private, 0)
			copy(want, private)
			err := file.View(0, 200, func(b []byte) error {
				for _, at := range []int{3, 100} { // a private byte, and one of the file
					copy(b[at:], stored)
					copy(want[at:], stored)
				}
				write(private, hole)
				if err := file.View(hole, 10, func([]byte) error { return nil }); !errors.Is(err, memmapfs.ErrSIGBUS) {
					t.Errorf("View of private bytes over a hole of a full disk: %v", err)
				}
				return file.View(0, 200, func(b []byte) error {
					testkit.MustEqual(t, "the second View", bytes.Clone(b), want)
					return nil
				})
			})
			if err != nil {
				t.Error(err)
			}
			got := make([]byte, len(want))
			if _, err := file.ReadAt(got, 0); err != nil {
				t.Error(err)
			}
			testkit.MustEqual(t, "ReadAt", got, want)
			disk.Free()
			if err := file.View(hole, 10, func(b []byte) error {
				testkit.MustEqual(t, "View with room", bytes.Clone(b[:len(private)]), private)
				return nil
			}); err != nil {
				t.Errorf("View with room: %v", err)
			}
			if err := file.Close(); err != nil {
				t.Error(err)
			}
			testkit.Report(t, "a View that could not be lent, beside one that stores")
		}, testkit.InOwnMounts)
	}, testkit.Mode.CopyOnWrite)
}
