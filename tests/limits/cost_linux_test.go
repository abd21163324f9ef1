package limits_test

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// TestSparseGiant catches bookkeeping for pages that nobody has used: opening and mapping a file of 8 TiB costs
// less than 1 MiB of heap and of resident memory.
func TestSparseGiant(t *testing.T) {
	for _, m := range []testkit.Mode{
		{Name: "plain"},
		{Name: "read-only", Config: memmapfs.DefaultConfig()},
		{Name: "read-write", Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)},
		{Name: "copy-on-write", Config: testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)},
	} {
		t.Run(m.Name, func(t *testing.T) {
			testkit.InChild(t, func(t *testing.T) {
				native := filepath.Join(testkit.TestDir(t), "giant")
				size := int64(8) << 40
				file, err := os.Create(native)
				if err != nil {
					t.Fatal(err)
				}
				if err := file.Truncate(size); err != nil {
					t.Log(testkit.CannotRunMark+"no file of 8 TiB here:", err)
					file.Close()
					return
				}
				file.Close()
				fileSystem := m.OverOS(t)
				small := testkit.WriteFile(t, filepath.Dir(native), "small", testkit.Content(100_000))
				use := func(name string) absfs.File {
					f := testkit.MustOpen(t, fileSystem, name, os.O_RDWR)
					for range 100 {
						if _, err := f.ReadAt(make([]byte, 10), 5000); err != nil {
							t.Fatal(err)
						}
					}
					if mapped, ok := f.(*memmapfs.MappedFile); ok {
						if err := mapped.View(0, 10, func([]byte) error { return nil }); err != nil {
							t.Fatal(err)
						}
					}
					return f
				}
				use(small).Close() // what is used once for all files
				var before, after runtime.MemStats
				resident := residentBytes(t)
				runtime.ReadMemStats(&before)
				giant := use(osfs.FromNative(native))
				runtime.GC()
				runtime.ReadMemStats(&after)
				heap, grown := int64(after.HeapAlloc)-int64(before.HeapAlloc), residentBytes(t)-resident
				allowed := int64(testkit.Mebibyte)
				if testkit.InGVisor() {
					allowed *= 4 // what the process has is told in larger steps there
				}
				if heap > testkit.Mebibyte || grown > allowed && !testkit.RaceDetector {
					t.Errorf("%d KiB of heap, %d KiB resident", heap>>10, grown>>10)
				}
				if mapped, ok := giant.(*memmapfs.MappedFile); ok && m.Name != "copy-on-write" && !mapped.Mapped() {
					t.Error("not mapped")
				}
				giant.Close()
				testkit.Report(t, "%d KiB of heap, %d KiB resident; no fault injected", heap>>10, grown>>10)
			})
		})
	}
}

// TestCloseIsShort catches a collection of garbage in a caller's Close, and a Close that waits for one. The
// heap has many small objects, of which a collection looks at each; the plain file's Close does not.
func TestCloseIsShort(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		size := int64(512 * testkit.Mebibyte)
		if math.MaxInt == math.MaxInt32 {
			size /= 4 // so that opens do not wait for collections
		}
		names := sparseFiles(t, testkit.TestDir(t), 1, size, 0)
		plain, mapped := testkit.PlainFileSystem(t), testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t)
		type node struct {
			next *node
			_    [6]uintptr
		}
		var list *node
		for range 3_000_000 {
			list = &node{next: list}
		}
		start := time.Now()
		runtime.GC()
		collection := time.Since(start)
		times := func(fileSystem absfs.FileSystem) time.Duration {
			var all []time.Duration
			for range 100 {
				file := testkit.MustOpen(t, fileSystem, names[0], os.O_RDONLY)
				testkit.ForceMap(file)
				start := time.Now()
				if err := file.Close(); err != nil {
					t.Fatal(err)
				}
				all = append(all, time.Since(start))
			}
			slices.Sort(all)
			return all[len(all)*98/100]
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() { // one collection after the other
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					runtime.GC()
				}
			}
		}()
		var p, m time.Duration
		for range 3 { // another program may take the processors for a while, but not each time
			if p, m = times(plain), times(mapped); m <= max(collection/4, p+10*time.Millisecond) {
				break
			}
		}
		close(stop)
		<-stopped
		runtime.KeepAlive(list)
		if m > max(collection/4, p+10*time.Millisecond) {
			t.Errorf("98 of 100 Closes take at most %v, plain %v; a collection takes %v", m, p, collection)
		}
		testkit.Report(t, "98 of 100 Closes take at most %v, plain %v; a collection takes %v; no fault injected", m, p, collection)
	}, withAddressSpace(64<<30)) // so that a shortage is near
}

// TestCloseOfTouchedPages states what Close of a map costs whose pages are in the page table.
func TestCloseOfTouchedPages(t *testing.T) {
	size := int64(2 << 30)
	if !hasTime() {
		size = 256 * testkit.Mebibyte
	}
	testkit.InChild(t, func(t *testing.T) {
		names := sparseFiles(t, testkit.TestDir(t), 1, size, 0)
		file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), names[0], os.O_RDONLY)
		if err := file.Prefetch(0, size); err != nil {
			t.Fatal(err)
		}
		stop, longest := make(chan struct{}), make(chan time.Duration)
		go func() { // other goroutines go on meanwhile
			var most time.Duration
			for last := time.Now(); ; {
				select {
				case <-stop:
					longest <- most
					return
				default:
					runtime.Gosched()
					now := time.Now()
					most, last = max(most, now.Sub(last)), now
				}
			}
		}()
		start := time.Now()
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		close(stop)
		most := <-longest
		if took > 5*time.Second {
			t.Errorf("Close of %d MiB took %v", size>>20, took)
		}
		testkit.Report(t, "Close of %d MiB of touched pages took %v, another goroutine waited for %v at most; no fault injected", size>>20, took, most)
	})
}

// TestHintsThatFight catches pages that are brought in one by one because a hint says that the file is read in
// no order.
func TestHintsThatFight(t *testing.T) {
	testkit.NotEmulated(t, testkit.QemuSwallowsAdvice)
	const size = 96 * testkit.Mebibyte
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		names := []string{testkit.WriteFile(t, dir, "one", testkit.Content(size))}
		took := func(load string, random bool) time.Duration {
			if err := testkit.DropFromCache(osfs.ToNative(names[0])); err != nil {
				t.Fatal(err)
			}
			config := memmapfs.DefaultConfig()
			if load == "PopulatePages" {
				config = testkit.Windowed(memmapfs.ModeReadOnly, size/2)
				config.PopulatePages = true
			}
			file := testkit.MustOpenMapped(t, testkit.Mode{Config: config}.OverOS(t), names[0], os.O_RDONLY)
			defer file.Close()
			if random {
				if err := file.AdviseRandom(); err != nil {
					t.Fatal(err)
				}
			}
			start := time.Now()
			var err error
			switch load {
			case "Prefetch":
				err = file.Prefetch(0, size)
			case "LockMemory":
				err = file.LockMemory(0, size)
			case "PopulatePages": // of the second window, for which the hint lasts
				err = file.View(size/2, 10, func([]byte) error { return nil })
			}
			if err != nil {
				if strings.Contains(err.Error(), "RLIMIT_MEMLOCK") {
					return 0
				}
				t.Fatal(err)
			}
			return time.Since(start)
		}
		for _, load := range []string{"Prefetch", "LockMemory", "PopulatePages"} {
			usual, after := took(load, false), took(load, true)
			for again := 0; again < 3 && after > 2*usual+50*time.Millisecond; again++ { // others use the disk, too
				usual, after = max(usual, took(load, false)), min(after, took(load, true))
			}
			if after > 2*usual+50*time.Millisecond {
				t.Errorf("%s takes %v, after AdviseRandom %v", load, usual, after)
			}
			testkit.Report(t, "%s takes %v, after AdviseRandom %v; no fault injected", load, usual, after)
		}
		debug.FreeOSMemory()
	})
}
