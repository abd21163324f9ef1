package limits_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// needTime skips a test that takes a minute, unless it was asked for.
func needTime(t *testing.T) {
	t.Helper()
	if !hasTime() {
		t.Skip("takes long: set MEMMAPFS_TEST_LONG")
	}
}

// hasTime tells whether tests may take minutes.
func hasTime() bool { return os.Getenv("MEMMAPFS_TEST_LONG") != "" }

// memoryGroup makes a cgroup that lets its processes have so much memory, page cache included, and returns
// what puts a child into it; nil where this process may not.
func memoryGroup(t *testing.T, limit int64) func(child *exec.Cmd) {
	t.Helper()
	dir, setting := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(dir); err != nil {
		dir, setting = "/sys/fs/cgroup", "memory.max"
	}
	dir = filepath.Join(dir, fmt.Sprintf("memmapfs-test-%d", rand.Uint32()))
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		t.Cleanup(func() {
			if !testkit.Eventually(func() bool { return os.Remove(dir) == nil }) {
				t.Errorf("left behind: %s", dir)
			}
		})
		err = os.WriteFile(filepath.Join(dir, setting), fmt.Append(nil, limit), 0)
	}
	if err != nil {
		t.Skip("this process may not make a cgroup with a limit: ", err)
	}
	return func(child *exec.Cmd) {
		script := fmt.Sprintf(`echo $$ >%s/cgroup.procs && exec "$0" "$@"`, dir)
		child.Args = append([]string{"sh", "-c", script, child.Path}, child.Args[1:]...)
		child.Path = "/bin/sh"
	}
}

// inMemoryGroup is testkit.InChild with so much memory.
func inMemoryGroup(t *testing.T, limit int64, scenario func(t *testing.T)) {
	t.Helper()
	testkit.NeedMounts(t)
	if os.Getenv("MEMMAPFS_TEST_CHILD") == t.Name() {
		testkit.InChild(t, scenario)
		return
	}
	testkit.InChild(t, scenario, memoryGroup(t, limit))
}

// readers reads 100 bytes at random for a while, in 32 goroutines, and returns the reads per second. With hot of
// 100 reads 90 are in the first so many bytes.
func readers(t *testing.T, file absfs.File, size, hot int64, long time.Duration) float64 {
	t.Helper()
	var count atomic.Int64
	var stop atomic.Bool
	var workers testkit.Workers
	start := time.Now()
	for range 32 {
		workers.Start(func() {
			buffer := make([]byte, 100)
			for n := int64(0); ; n++ {
				if stop.Load() {
					count.Add(n)
					return
				}
				span := size
				if hot > 0 && rand.IntN(10) > 0 {
					span = hot
				}
				if _, err := file.ReadAt(buffer, rand.Int64N(span-100)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	time.Sleep(long)
	stop.Store(true)
	workers.Wait()
	return float64(count.Load()) / time.Since(start).Seconds()
}

// TestMemorySmallerThanTheFile catches knowledge of pages that outlives them: where the memory is smaller than
// the file, a read of a page that is gone waits for the disk in a fault, with a thread of the scheduler.
func TestMemorySmallerThanTheFile(t *testing.T) {
	needTime(t)
	const size = 512 * testkit.Mebibyte
	for _, load := range []struct {
		name string
		hot  int64
	}{{"uniform", 0}, {"hot set of 64 MiB", 64 * testkit.Mebibyte}, {"hot set of 160 MiB", 160 * testkit.Mebibyte}} {
		t.Run(load.name, func(t *testing.T) {
			inMemoryGroup(t, 128*testkit.Mebibyte, func(t *testing.T) {
				name := largeFile(t, size)
				files := []absfs.File{
					testkit.MustOpen(t, testkit.PlainFileSystem(t), name, os.O_RDONLY),
					testkit.MustOpen(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), name, os.O_RDONLY),
				}
				ratio := interleaved(t, files, func(file absfs.File) float64 {
					return readers(t, file, size, load.hot, 500*time.Millisecond)
				})
				if ratio < 0.9 {
					t.Errorf("%.2f of the plain file's throughput", ratio)
				}
			})
		})
	}
}

// interleaved measures a plain file and a mapped one by turns, each as often first, and returns the ratio of the
// sums.
func interleaved(t *testing.T, files []absfs.File, measure func(file absfs.File) float64) (ratio float64) {
	t.Helper()
	const turns = 24
	var sums [2]float64
	for turn := range turns + 2 {
		for i := range files {
			i = (i + turn) % len(files)
			speed := measure(files[i])
			if turn >= 2 { // the first ones warm up
				sums[i] += speed / turns
			}
		}
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d major faults", usage.Majflt)
	testkit.Report(t, "plain %.0f per second, mapped %.0f: ratio %.2f; no fault injected", sums[0], sums[1], sums[1]/sums[0])
	return sums[1] / sums[0]
}

// largeFile makes a file with content in the child's directory.
func largeFile(t *testing.T, size int64) (name string) {
	t.Helper()
	native := filepath.Join(testkit.TestDir(t), "large")
	file, err := os.Create(native)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := testkit.Content(4 * testkit.Mebibyte)
	for written := int64(0); written < size; written += int64(len(block)) {
		if _, err := file.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
	return osfs.FromNative(native)
}

// TestLoadingMoreThanTheMemory catches pages that stay marked as being in memory when loading the next ones has
// driven them out: reading after Prefetch, PopulatePages or LockMemory of too much is no slower than without.
func TestLoadingMoreThanTheMemory(t *testing.T) {
	needTime(t)
	const size = 512 * testkit.Mebibyte
	for _, load := range []string{"Prefetch", "PopulatePages", "LockMemory"} {
		t.Run(load, func(t *testing.T) {
			inMemoryGroup(t, 128*testkit.Mebibyte, func(t *testing.T) {
				name := largeFile(t, size)
				plain := testkit.PlainFileSystem(t)
				config := memmapfs.DefaultConfig()
				config.PopulatePages = load == "PopulatePages"
				mapped := testkit.Mode{Config: config}.OverOS(t)
				var sums [2]float64
				for range 3 {
					for i, fileSystem := range []absfs.FileSystem{plain, mapped} {
						file := testkit.MustOpen(t, fileSystem, name, os.O_RDONLY)
						if f, ok := file.(*memmapfs.MappedFile); ok {
							switch load {
							case "Prefetch":
								if err := f.Prefetch(0, size); err != nil {
									t.Fatal(err)
								}
							case "LockMemory": // that which can be locked
								for off := int64(0); off < 32*testkit.Mebibyte; off += testkit.Mebibyte {
									var path *fs.PathError
									if err := f.LockMemory(off, testkit.Mebibyte); err != nil && !errors.As(err, &path) {
										t.Fatal(err)
									}
								}
							}
						}
						sums[i] += readers(t, file, size, 0, time.Second) // right away: before anything ages
						file.Close()
					}
				}
				ratio := sums[1] / sums[0]
				testkit.Report(t, "plain %.0f per second, after %s %.0f: ratio %.2f; no fault injected", sums[0]/3, load, sums[1]/3, ratio)
				if ratio < 0.9 {
					t.Errorf("%.2f of the plain file's throughput", ratio)
				}
			})
		})
	}
}

// TestWritesInLittleMemory catches stores that wait inside a fault until the kernel has written other pages
// back: a ticker beside writers goes on as it does beside writers of the plain file.
func TestWritesInLittleMemory(t *testing.T) {
	needTime(t)
	inMemoryGroup(t, 64*testkit.Mebibyte, func(t *testing.T) {
		const size = 256 * testkit.Mebibyte
		name := largeFile(t, size)
		var sums [2]float64
		for range 3 {
			for i, fileSystem := range []absfs.FileSystem{
				testkit.PlainFileSystem(t),
				testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t),
			} {
				s := &stalledFile{testkit.MustOpen(t, fileSystem, name, os.O_RDWR), size / testkit.PageSize}
				stop := make(chan struct{})
				count := ticks(stop)
				wait := s.write(t, 4, stop)
				time.Sleep(3 * time.Second)
				sums[i] += float64(count.Load())
				close(stop)
				wait()
				if err := s.file.Sync(); err != nil {
					t.Error(err)
				}
				s.file.Close()
			}
		}
		if sums[1] < sums[0]*0.8 {
			t.Errorf("%.0f ticks beside writers, plain %.0f", sums[1], sums[0])
		}
		testkit.Report(t, "%.0f ticks beside writers, plain %.0f; no fault injected", sums[1], sums[0])
	})
}
