package limits_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// stalledFile is a file on a disk that can be stopped, with goroutines that write it.
type stalledFile struct {
	file  absfs.File
	pages int64
}

// write writes at random until stop is closed, as many goroutines as there are.
func (s *stalledFile) write(t *testing.T, goroutines int, stop <-chan struct{}) (wait func()) {
	var workers testkit.Workers
	for range goroutines {
		workers.Start(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.file.WriteAt([]byte("written"), rand.Int64N(s.pages)*testkit.PageSize+8); err != nil {
					t.Error(err)
					return
				}
				runtime.Gosched() // a ticker beside goroutines that never wait is late by itself
			}
		})
	}
	return workers.Wait
}

// ticks counts the ticks of a ticker of 10 ms until a channel is closed.
func ticks(stop <-chan struct{}) *atomic.Int64 {
	var count atomic.Int64
	go func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				count.Add(1)
			}
		}
	}()
	return &count
}

// TestStoresDoNotWait catches stores that wait inside a fault, and the whole program with them: into pages that
// a flush has cleaned, while the filesystem is frozen. Writes through the file wait, too, but the scheduler
// knows of it, and a ticker beside them goes on.
func TestStoresDoNotWait(t *testing.T) {
	testkit.NeedMounts(t)
	for _, scene := range []string{"after a Sync", "written a while ago"} {
		t.Run(scene, func(t *testing.T) {
			if scene != "after a Sync" {
				needTime(t)
			}
			testkit.InChild(t, func(t *testing.T) {
				dir := t.TempDir()
				image := filepath.Join(t.TempDir(), "image")
				if err := testkit.First(
					func() error { return testkit.MakeExt4(image, 64*testkit.Mebibyte) },
					func() error { return testkit.Mount(t, dir, "-o", "loop", image) },
				); err != nil {
					t.Log(testkit.CannotRunMark, err)
					return
				}
				var counts []int64
				const frozen = 3 * time.Second
				for _, fileSystem := range []absfs.FileSystem{
					testkit.PlainFileSystem(t),
					testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t),
				} {
					counts = append(counts, ticksWhileFrozen(t, fileSystem, dir, scene, frozen))
				}
				if counts[1]*10 < counts[0]*8 {
					t.Errorf("%d ticks while the filesystem was frozen, plain %d", counts[1], counts[0])
				}
				testkit.Report(t, "%d ticks while the filesystem was frozen, plain %d; no fault injected", counts[1], counts[0])
			}, testkit.InOwnMounts)
		})
	}
}

// ticksWhileFrozen counts how often a ticker beside writers ticks while the filesystem is frozen.
func ticksWhileFrozen(t *testing.T, fileSystem absfs.FileSystem, dir, scene string, frozen time.Duration) int64 {
	t.Helper()
	s := warm(t, fileSystem, dir, 1024)
	switch scene {
	case "after a Sync":
		if err := s.file.Sync(); err != nil {
			t.Fatal(err)
		}
	case "written a while ago":
		time.Sleep(6500 * time.Millisecond) // the permission to store ends after 5 s
	}
	// A process of its own thaws the filesystem, whatever becomes of this one.
	freezer := exec.Command("sh", "-c", `fsfreeze -f "$0" && echo frozen; sleep "$1"; fsfreeze -u "$0"`, dir, fmt.Sprint(frozen.Seconds()))
	output, err := freezer.StdoutPipe()
	if err == nil {
		err = freezer.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := output.Read(make([]byte, 6)); err != nil {
		t.Fatal("freezing: ", err)
	}
	start := time.Now()
	n := s.ticksBesideWrites(t, func() { freezer.Wait() })
	if took := time.Since(start); took < frozen/2 {
		t.Fatal("the filesystem was not frozen")
	}
	unix.Sync()
	return n
}

// warm makes a file, and writes to it until writes are stores, where there are any.
func warm(t *testing.T, fileSystem absfs.FileSystem, dir string, pages int64) *stalledFile {
	t.Helper()
	name := osfs.FromNative(filepath.Join(dir, fmt.Sprint(rand.Uint64())))
	file, err := fileSystem.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &stalledFile{file, pages}
	if _, err := file.WriteAt(testkit.Content(int((pages+1)*testkit.PageSize)), 0); err != nil {
		t.Fatal(err)
	}
	testkit.MapNow(file)
	stop := make(chan struct{})
	wait := s.write(t, 2, stop)
	time.Sleep(500 * time.Millisecond)
	close(stop)
	wait()
	return s
}

// ticksBesideWrites counts the ticks of a ticker beside writers until during returns.
func (s *stalledFile) ticksBesideWrites(t *testing.T, during func()) int64 {
	t.Helper()
	stop := make(chan struct{})
	count := ticks(stop)
	wait := s.write(t, 4, stop)
	during()
	n := count.Load()
	close(stop)
	wait()
	return n
}

// TestStoresBesideASlowDisk catches stores that wait inside a fault because the disk is slow: the kernel holds up
// whoever makes a page dirty while too much waits to be written back, and somebody else flushes the file, which
// makes pages clean.
func TestStoresBesideASlowDisk(t *testing.T) {
	testkit.NeedMounts(t)
	needTime(t)
	testkit.InChild(t, func(t *testing.T) {
		var counts [2]int64
		for i, fileSystem := range []absfs.FileSystem{
			testkit.PlainFileSystem(t),
			testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t),
		} {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				dir, memory := t.TempDir(), t.TempDir()
				image := filepath.Join(memory, "image")
				if err := testkit.First(
					func() error { return testkit.Mount(t, memory, "-t", "tmpfs", "none") },
					func() error { return testkit.MakeExt4(image, 64*testkit.Mebibyte) },
					func() error { return testkit.Mount(t, dir, "-o", "loop", image) },
					func() error { return testkit.SlowDown(t, dir, testkit.Mebibyte, 4*testkit.Mebibyte) },
				); err != nil {
					t.Log(testkit.CannotRunMark, err)
					return
				}
				s := warm(t, fileSystem, dir, 2048)
				stop := make(chan struct{})
				var workers testkit.Workers
				workers.Start(func() { flushAgainAndAgain(t, osfs.ToNative(s.file.Name()), stop) })
				counts[i] = s.ticksBesideWrites(t, func() { time.Sleep(3 * time.Second) })
				close(stop)
				workers.Wait()
			})
		}
		if counts[1]*10 < counts[0]*8 {
			t.Errorf("%d ticks, plain %d", counts[1], counts[0])
		}
		testkit.Report(t, "%d ticks beside writes to a slow disk, plain %d; no fault injected", counts[1], counts[0])
	}, testkit.InOwnMounts)
}

// flushAgainAndAgain flushes a file through a descriptor of its own, as another process may.
func flushAgainAndAgain(t *testing.T, name string, stop <-chan struct{}) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer file.Close()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := file.Sync(); err != nil {
			t.Error(err)
			return
		}
	}
}
