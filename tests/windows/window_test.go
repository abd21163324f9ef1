package windows_test

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// mappedRanges returns the file ranges of this process's maps of files in dir.
func mappedRanges(t testing.TB, dir string) (ranges [][2]int64, bytes int64) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the maps of a process are listed in /proc on Linux only")
	}
	for _, line := range testkit.MappedUnder(t, dir) {
		fields := strings.Fields(line)
		from, to, _ := strings.Cut(fields[0], "-")
		start, err := strconv.ParseUint(from, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		end, err := strconv.ParseUint(to, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		offset, err := strconv.ParseInt(fields[2], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, [2]int64{offset, int64(end - start)})
		bytes += int64(end - start)
	}
	return ranges, bytes
}

// A window that is not dropped, or one that is mapped beside the budget, shows in the maps of the
// process; a window dropped while it is read from shows as a wrong byte.
func TestWindowsStayInTheirBudget(t *testing.T) {
	const size, window = 1 << 30, 1 << 20
	for name, test := range map[string]struct {
		maxWindows int
		config     memmapfs.Config
	}{
		"default":          {64, memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever}},
		"five":             {5, memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 5}},
		"one":              {1, memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 1}},
		"five, read-write": {5, memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 5, Mode: memmapfs.ModeReadWrite}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testkit.TestDir(t)
			var marks []int64
			for offset := int64(window - 4); offset < size-8; offset += 7 * window {
				marks = append(marks, offset)
			}
			file := testkit.MustOpenMapped(t, memmapfs.New(testkit.PlainFileSystem(t), &test.config), testkit.SparseFile(t, dir, size, marks...), os.O_RDWR)
			p := make([]byte, 8)
			most := int64(0)
			check := func() {
				_, bytes := mappedRanges(t, dir)
				if bytes > int64(test.maxWindows)*window {
					t.Fatalf("%d bytes are mapped, want at most %d windows of %d", bytes, test.maxWindows, window)
				}
				most = max(most, bytes)
			}
			for pass := 0; pass < 3; pass++ {
				for i, mark := range marks {
					for repeat := 0; repeat < 40; repeat++ {
						if n, err := file.ReadAt(p, mark); n != len(p) || err != nil {
							t.Fatalf("ReadAt %d: %d, %v", mark, n, err)
						}
						if got := binary.LittleEndian.Uint64(p); got != uint64(mark) {
							t.Fatalf("ReadAt %d: the bytes are those of %d", mark, got)
						}
					}
					if i%8 == 0 {
						check()
					}
				}
			}
			check()
			if most != int64(test.maxWindows)*window {
				t.Errorf("at most %d bytes were mapped, want the budget of %d windows used", most, test.maxWindows)
			}
		})
	}
}

// With more windows in use than the budget holds, mapping one for each call costs many times a plain
// read. Windows that come and go show as a map that moves.
func TestWindowsDoNotThrash(t *testing.T) {
	dir := testkit.TestDir(t)
	const size, window = 64 << 20, 1 << 20
	config := &memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 8}
	file := testkit.MustOpen(t, memmapfs.New(testkit.PlainFileSystem(t), config), testkit.SparseFile(t, dir, size), os.O_RDONLY)
	random := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 64)
	read := func(calls int) {
		for i := 0; i < calls; i++ {
			if _, err := file.ReadAt(p, random.Int64N(size-64)); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(20_000)
	before, _ := mappedRanges(t, dir)
	read(20_000)
	after, _ := mappedRanges(t, dir)
	if len(before) == 0 {
		t.Fatal("nothing is mapped")
	}
	moved := 0
	for _, r := range after {
		found := false
		for _, old := range before {
			found = found || old[0] == r[0]
		}
		if !found {
			moved++
		}
	}
	if moved > 2 {
		t.Errorf("%d of %d windows moved during 20,000 random reads over eight times the budget", moved, len(after))
	}
}

// The budget follows the file's use: windows that nobody reads any more give way.
func TestWindowsFollowTheirUse(t *testing.T) {
	dir := testkit.TestDir(t)
	const window = 1 << 20
	config := &memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 4}
	file := testkit.MustOpen(t, memmapfs.New(testkit.PlainFileSystem(t), config), testkit.SparseFile(t, dir, 16*window), os.O_RDONLY)
	p := make([]byte, 64)
	readWindows := func(indexes ...int64) {
		for i := 0; i < 20_000; i++ {
			if _, err := file.ReadAt(p, indexes[i%len(indexes)]*window); err != nil {
				t.Fatal(err)
			}
		}
	}
	readWindows(0, 1, 2, 3)
	readWindows(2, 8, 9, 10)
	ranges, _ := mappedRanges(t, dir)
	offsets := make(map[int64]bool)
	for _, r := range ranges { // the list shows neighbours as one
		for offset := r[0]; offset < r[0]+r[1]; offset += window {
			offsets[offset/window] = true
		}
	}
	for _, index := range []int64{2, 8, 9, 10} {
		if !offsets[index] {
			t.Errorf("window %d is not mapped; mapped are %v", index, offsets)
		}
	}
}

// A window that does not start at a multiple of 2 MiB, in the file or in memory, cannot be mapped by
// large pages.
func TestWindowsOfTwoMiBAreAligned(t *testing.T) {
	for _, windowSize := range []int64{2 << 20, 3 << 20, 10<<20 + 1} {
		t.Run(strconv.FormatInt(windowSize, 10), func(t *testing.T) {
			dir := testkit.TestDir(t)
			config := &memmapfs.Config{WindowSize: windowSize, SyncMode: memmapfs.SyncNever}
			file := testkit.MustOpen(t, memmapfs.New(testkit.PlainFileSystem(t), config), testkit.SparseFile(t, dir, 64<<20), os.O_RDONLY)
			p := make([]byte, 8)
			for i := 0; i < 1000; i++ {
				if _, err := file.ReadAt(p, int64(i%16)*4<<20); err != nil {
					t.Fatal(err)
				}
			}
			ranges, _ := mappedRanges(t, dir)
			if len(ranges) < 5 {
				t.Fatalf("%d windows are mapped", len(ranges))
			}
			for _, r := range ranges { // the list shows neighbours as one
				if r[0]%(2<<20) != 0 || r[1]%(2<<20) != 0 {
					t.Errorf("a window of %d bytes at %d", r[1], r[0])
				}
			}
		})
	}
}

// Private pages that lived in the windows would be lost when the windows move, or would keep them from
// moving. 100,000 of them are more than vm.max_map_count allows maps.
func TestCopyOnWriteWindowsKeepEveryPage(t *testing.T) {
	dir := testkit.TestDir(t)
	pages := 100_000
	if testing.Short() || testkit.RaceDetector {
		pages = 5_000
	}
	const window = 1 << 20
	size := 3 * int64(pages) * testkit.PageSize
	config := &memmapfs.Config{Mode: memmapfs.ModeCopyOnWrite, WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 8}
	name := testkit.SparseFile(t, dir, size)
	file := testkit.MustOpen(t, memmapfs.New(testkit.PlainFileSystem(t), config), name, os.O_RDONLY)
	order := rand.New(rand.NewPCG(3, 4)).Perm(pages)
	at := func(i int) int64 { return 3*int64(i)*testkit.PageSize + int64(i)%(testkit.PageSize-8) }
	before := heapInUse()
	for _, i := range order {
		if _, err := file.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(i)+1), at(i)); err != nil {
			t.Fatal(err)
		}
	}
	if grown, most := int64(heapInUse())-int64(before), int64(pages)*(testkit.PageSize+testkit.PageSize/2); grown > most {
		t.Errorf("%d private pages took %d bytes of memory, want at most %d", pages, grown, most)
	}
	block := make([]byte, 1<<20)
	for pos := int64(0); pos < size; { // touch the whole file, so that every window has moved
		n, err := file.ReadAt(block, pos)
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		pos += int64(n)
	}
	if _, bytes := mappedRanges(t, dir); bytes > 8*window {
		t.Errorf("%d bytes are mapped, want at most 8 windows", bytes)
	}
	p := make([]byte, 8)
	for _, i := range order {
		if _, err := file.ReadAt(p, at(i)); err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(p); got != uint64(i)+1 {
			t.Fatalf("private page %d holds %d", i, got)
		}
	}
	if _, err := testkit.MustOpen(t, testkit.PlainFileSystem(t), name, os.O_RDONLY).ReadAt(p, at(1)); err != nil || binary.LittleEndian.Uint64(p) != 0 {
		t.Errorf("a private write reached the file: %v, %v", p, err)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

// A window from Data that is dropped for another one faults in the caller's hands.
func TestDataPinsItsWindow(t *testing.T) {
	testkit.NeedMaps(t)
	dir := testkit.TestDir(t)
	const window = 64 << 10
	config := &memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 2}
	data := testkit.Content(20 * window)
	file := testkit.MustOpenMapped(t, memmapfs.New(testkit.PlainFileSystem(t), config), testkit.WriteFile(t, dir, "file", data), os.O_RDONLY)
	if _, err := file.Seek(3*window+10, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	pinned := file.Data()
	if len(pinned) != window || cap(pinned) != window {
		t.Fatalf("Data: %d bytes of %d, want the window of %d", len(pinned), cap(pinned), window)
	}
	p := make([]byte, 100)
	for i := 0; i < 5000; i++ {
		off := int64(i) * 997 % (20*window - 100)
		if _, err := file.ReadAt(p, off); err != nil || string(p) != string(data[off:off+100]) {
			t.Fatalf("ReadAt %d: wrong bytes, %v", off, err)
		}
	}
	if string(pinned) != string(data[3*window:4*window]) {
		t.Error("the pinned window shows other bytes")
	}
	if _, bytes := mappedRanges(t, dir); bytes > 2*window {
		t.Errorf("%d bytes are mapped, want at most 2 windows", bytes)
	}
	if _, err := file.Seek(7*window, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	file.Data()
	if _, err := file.Seek(9*window, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if third := file.Data(); third != nil {
		t.Error("Data pinned a third window where two are allowed")
	}
	err := file.View(0, 20*window, func(b []byte) error {
		if string(b) != string(data) {
			t.Error("View over all windows shows other bytes")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Readers of windows that come and go meet every race between looking a window up and dropping it.
func TestConcurrentWindowReaders(t *testing.T) {
	dir := testkit.TestDir(t)
	const window, windows = 16 << 10, 40
	data := testkit.Content(windows * window)
	config := &memmapfs.Config{WindowSize: window, SyncMode: memmapfs.SyncNever, MaxWindows: 2}
	file := testkit.MustOpen(t, memmapfs.New(testkit.PlainFileSystem(t), config), testkit.WriteFile(t, dir, "file", data), os.O_RDONLY)
	calls := 30_000
	if testing.Short() || testkit.RaceDetector {
		calls = 5_000
	}
	var readers sync.WaitGroup
	for reader := 0; reader < 4; reader++ {
		readers.Add(1)
		go func() {
			defer readers.Done()
			random := rand.New(rand.NewPCG(uint64(reader), 5))
			p := make([]byte, 3*window)
			for i := 0; i < calls; i++ {
				hot := int64(i/500) % windows * window // stays long enough in a window for it to be mapped
				off := min(hot+random.Int64N(window), int64(len(data)-1))
				n := 1 + random.IntN(64)
				if i%100 == 0 {
					n = len(p)
				}
				got, err := file.ReadAt(p[:n], off)
				want := min(n, len(data)-int(off))
				if got != want || (err != nil) != (want < n) || want < n && !errors.Is(err, io.EOF) {
					t.Errorf("ReadAt %d bytes at %d: %d, %v", n, off, got, err)
					return
				}
				if string(p[:got]) != string(data[off:off+int64(got)]) {
					t.Errorf("ReadAt %d bytes at %d: wrong bytes", n, off)
					return
				}
			}
		}()
	}
	readers.Wait()
}

// A file that does not fit the address space has to be mapped by windows without being told so, and
// offsets past 4 GiB must not be cut off on the way to a 32-bit system call.
func TestFilesLargerThanTheAddressSpace(t *testing.T) {
	testkit.NeedMaps(t)
	for _, size := range []int64{3 << 30, 5 << 30} {
		for _, m := range testkit.Modes {
			if m.Plain() || m.Config.SyncMode != memmapfs.SyncNever {
				continue
			}
			t.Run(strconv.FormatInt(size>>30, 10)+" GiB/"+m.Name, func(t *testing.T) {
				dir := testkit.TestDir(t)
				marks := []int64{0, 1<<31 - 4, 1<<31 + 8, size/2 - 3, 1<<32 - 4, 1<<32 + 100, size - 8}
				for marks[len(marks)-2] > size-16 {
					marks = append(marks[:len(marks)-2], size-8)
				}
				file := testkit.MustOpenMapped(t, m.OverOS(t), testkit.SparseFile(t, dir, size, marks...), os.O_RDWR)
				p := make([]byte, 8)
				for pass := 0; pass < 50; pass++ {
					for _, mark := range marks {
						if n, err := file.ReadAt(p, mark); n != 8 || err != nil || binary.LittleEndian.Uint64(p) != uint64(mark) {
							t.Fatalf("ReadAt %d: %d, %v, % x", mark, n, err, p)
						}
						if err := file.View(mark, 8, func(b []byte) error {
							if binary.LittleEndian.Uint64(b) != uint64(mark) {
								t.Errorf("View at %d: % x", mark, b)
							}
							return nil
						}); err != nil {
							t.Fatal(err)
						}
					}
				}
				if !file.Mapped() {
					t.Error("the file is not mapped")
				}
			})
		}
	}
}
