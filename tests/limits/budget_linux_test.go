package limits_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// sparseFiles makes files of a size, each with its name at the start of every marked window, and returns
// their names. They take little of the disk.
func sparseFiles(t *testing.T, dir string, count int, size int64, marks ...int64) (names []string) {
	t.Helper()
	for i := range count {
		native := filepath.Join(dir, strconv.Itoa(i))
		file, err := os.Create(native)
		if err != nil {
			t.Fatal(err)
		}
		for _, mark := range marks {
			if _, err := file.WriteAt(fmt.Appendf(nil, "%d at %d", i, mark), mark); err != nil {
				t.Fatal(err)
			}
		}
		if err := file.Truncate(size); err != nil {
			t.Fatal(err)
		}
		file.Close()
		names = append(names, osfs.FromNative(native))
	}
	return names
}

// grow has the Go runtime ask the system for memory, as a program does at any time: it ends the process
// where there is no map, or no address, to be had.
func grow(size int) {
	var taken [][]byte
	for ; size > 0; size -= testkit.Mebibyte {
		taken = append(taken, bytes.Repeat([]byte{1}, testkit.Mebibyte))
	}
	runtime.KeepAlive(taken)
}

// mustAnswerAlike reads the same bytes of a plain file and of a mapped one.
func mustAnswerAlike(t *testing.T, plain, mapped absfs.File, off int64, n int) {
	t.Helper()
	want, got := make([]byte, n), make([]byte, n)
	wantN, wantErr := plain.ReadAt(want, off)
	gotN, gotErr := mapped.ReadAt(got, off)
	if wantN != gotN || testkit.ErrorClass(wantErr) != testkit.ErrorClass(gotErr) || !bytes.Equal(want, got) {
		t.Fatalf("%d bytes at %d: %d %v %.20q, want %d %v %.20q", n, off, gotN, gotErr, got, wantN, wantErr, want)
	}
}

// TestManyWindows catches maps that take what the Go runtime needs: 1,100 files of 64 windows each are more
// than vm.max_map_count, and the process dies at its next allocation.
func TestManyWindows(t *testing.T) {
	testkit.NotEmulated(t, "the maps are the emulator's")
	testkit.InChild(t, func(t *testing.T) {
		limit := mostMaps(t)
		if limit == 0 || limit > 70_000 {
			t.Log(testkit.CannotRunMark + "vm.max_map_count is too large to be reached")
			return
		}
		const window = testkit.Mebibyte
		windows := int64(64)
		files := limit/int(windows) + 80
		if !canOpen(2*files + 50) {
			t.Log(testkit.CannotRunMark + "the process may not have so many files open")
			return
		}
		dir := testkit.TestDir(t)
		names := sparseFiles(t, dir, files, windows*window, 0, 17*window, (windows-1)*window)
		plain := testkit.PlainFileSystem(t)
		mapped := testkit.Mode{Config: testkit.Windowed(memmapfs.ModeReadOnly, window)}.OverOS(t)
		most := 0
		for i, name := range names {
			file, other := testkit.MustOpen(t, mapped, name, os.O_RDONLY), testkit.MustOpen(t, plain, name, os.O_RDONLY)
			buffer := make([]byte, 16)
			for at := range windows {
				for range 10 {
					if _, err := file.ReadAt(buffer, at*window); err != nil {
						t.Fatal(err)
					}
				}
				if at%17 == 0 || at == windows-1 {
					mustAnswerAlike(t, other, file, at*window, 16)
				}
			}
			if i%100 == 99 {
				most = max(most, testkit.MapCount(t))
			}
		}
		grow(200 * testkit.Mebibyte)
		most = max(most, testkit.MapCount(t))
		if most > limit/2+1000 {
			t.Errorf("%d maps of the %d that the system allows", most, limit)
		}
		if most < limit/4 && strconv.IntSize == 64 {
			t.Errorf("%d maps: the test does not come near the limit", most)
		}
		testkit.Report(t, "%d files of %d windows with %d maps of %d; no fault injected", files, windows, most, limit)
	})
}

// canOpen tells whether the process may have so many files open.
func canOpen(files int) bool {
	var limit syscall.Rlimit
	return syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur > uint64(files)
}

// TestManyPieces catches hints and locks that cut one map into more pieces than the process may have maps.
func TestManyPieces(t *testing.T) {
	testkit.NotEmulated(t, testkit.QemuSwallowsAdvice)
	for name, cut := range map[string]func(file *memmapfs.MappedFile, off int64) error{
		"AdviseRange": func(file *memmapfs.MappedFile, off int64) error {
			return file.AdviseRange(off, testkit.PageSize, memmapfs.AdviceRandom)
		},
		"AdviseRange of two kinds": func(file *memmapfs.MappedFile, off int64) error {
			advice := memmapfs.AdviceHugePage
			if off%(8*testkit.PageSize) == 0 {
				advice = memmapfs.AdviceSequential
			}
			return file.AdviseRange(off, testkit.PageSize, advice)
		},
		"LockMemory": func(file *memmapfs.MappedFile, off int64) error { return file.LockMemory(off, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			testkit.InChild(t, func(t *testing.T) {
				limit := mostMaps(t)
				if limit == 0 || limit > 70_000 {
					t.Log(testkit.CannotRunMark + "vm.max_map_count is too large to be reached")
					return
				}
				step := 4 * testkit.PageSize
				calls := int64(limit)/2 + 2000 // each makes two maps more
				names := sparseFiles(t, testkit.TestDir(t), 1, calls*step)
				fileSystem := testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t)
				file := testkit.MustOpenMapped(t, fileSystem, names[0], os.O_RDONLY)
				before := testkit.MapCount(t)
				done := int64(0)
				var err error
				for ; done < calls && err == nil; done++ {
					err = cut(file, done*step)
				}
				grow(200 * testkit.Mebibyte)
				pieces := testkit.MapCount(t) - before
				if pieces > limit/2+1000 {
					t.Errorf("%d maps of the %d that the system allows", pieces, limit)
				}
				var path *fs.PathError
				if err != nil && !errors.As(err, &path) {
					t.Errorf("the error at the limit is a %T: %v", err, err)
				}
				if err := file.Close(); err != nil {
					t.Error(err)
				}
				again := testkit.MustOpenMapped(t, fileSystem, names[0], os.O_RDONLY)
				if cutErr := cut(again, step); cutErr != nil { // what the first file had is free again
					t.Errorf("of another file: %v", cutErr)
				}
				again.Close()
				testkit.Report(t, "%d calls made %d maps, then: %v; no fault injected", done, pieces, err)
			})
		})
	}
}

// TestAddressSpaceRounds catches addresses of closed maps that are not given back in time: with 4 GiB of
// them, or a processor of 32 bits, a program that opens, reads and closes files of 100 MiB dies at the 34th.
func TestAddressSpaceRounds(t *testing.T) {
	testkit.NotEmulated(t, "qemu does not limit the address space")
	const size = 100 * testkit.Mebibyte
	rounds := 1000
	if testkit.RaceDetector {
		rounds = 100
	}
	last := size - testkit.PageSize
	mapped := 0
	plainOnly := func(t *testing.T, file absfs.File) {
		p := make([]byte, 16)
		if _, err := file.ReadAt(p, last); err != nil || !bytes.HasPrefix(p, fmt.Appendf(nil, "0 at %d", last)) {
			t.Fatalf("%q, %v", p, err)
		}
	}
	for _, way := range []struct {
		name string
		use  func(t *testing.T, file absfs.File)
	}{
		{"plain", plainOnly},
		{"ReadAt", func(t *testing.T, file absfs.File) {
			for n := 0; n < 200 && !testkit.AsMapped(t, file).Mapped(); n++ { // until it pays
				plainOnly(t, file)
			}
			if testkit.AsMapped(t, file).Mapped() { // not always: nobody waits for a collection here
				mapped++
			}
		}},
		{"View", func(t *testing.T, file absfs.File) {
			if err := testkit.AsMapped(t, file).View(0, size, func(b []byte) error {
				if b[last] != '0' {
					return errors.New("another byte")
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}},
		{"Data", func(t *testing.T, file absfs.File) {
			if data := testkit.AsMapped(t, file).Data(); len(data) != size || data[last] != '0' {
				t.Fatalf("%d bytes, %v", len(data), testkit.AsMapped(t, file).MappingError())
			}
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			testkit.InChild(t, func(t *testing.T) {
				names := sparseFiles(t, testkit.TestDir(t), 1, size, last)
				fileSystem := testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t)
				if way.name == "plain" {
					fileSystem = testkit.PlainFileSystem(t)
				}
				for range rounds {
					file, err := fileSystem.Open(names[0])
					if err != nil {
						t.Fatal(err)
					}
					way.use(t, file)
					if err := file.Close(); err != nil {
						t.Fatal(err)
					}
				}
				grow(100 * testkit.Mebibyte)
				if way.name == "ReadAt" && mapped < rounds/20 {
					t.Errorf("mapped in %d rounds of %d", mapped, rounds)
				}
				testkit.Report(t, "%d rounds in %d MiB of addresses; no fault injected", rounds, testkit.AddressSpace(t)>>20)
			}, withAddressSpace(4<<30))
		})
	}
}

// withAddressSpace lets a child have so many bytes of addresses, where they have more than 32 bits.
func withAddressSpace(bytes int64) func(child *exec.Cmd) {
	return func(child *exec.Cmd) {
		if strconv.IntSize == 32 && bytes >= 4<<30 {
			return
		}
		child.Env = append(child.Env, fmt.Sprintf("%s=%d", addressSpaceVariable, bytes))
	}
}

// addressSpaceVariable tells a child its limit, which it sets itself: a shell that would do so ends under a
// filter of system calls that does not know those of the shell's C library.
const addressSpaceVariable = "MEMMAPFS_TEST_ADDRESS_SPACE"

func init() {
	bytes, err := strconv.ParseUint(os.Getenv(addressSpaceVariable), 10, 64)
	if err != nil {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: bytes, Max: bytes}); err != nil {
		panic(err)
	}
}
