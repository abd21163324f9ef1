package memmapfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// Catches a list of hints that grows with every call.
func TestHintsAreBounded(t *testing.T) {
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(8*testkit.PageSize)))
	file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), name, os.O_RDONLY)
	for i := range int64(3000) { // apart, so that none continues the one before
		if err := file.AdviseRange(2*i*testkit.PageSize, testkit.PageSize, memmapfs.AdviceRandom); err != nil {
			t.Fatal(err)
		}
	}
	if n := memmapfs.HintsOf(file); n > 1024 {
		t.Errorf("%d hints are remembered", n)
	}
	for i := range int64(100) { // each continues the one before
		if err := file.AdviseRange(i*testkit.PageSize, testkit.PageSize, memmapfs.AdviceSequential); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.AdviseSequential(); err != nil {
		t.Fatal(err)
	}
	if n := memmapfs.HintsOf(file); n != 1 {
		t.Errorf("%d hints are remembered where one says all", n)
	}
}

// Catches ranges that are counted wrongly, a question that brings in what it asks about, and one that maps.
func TestResidency(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.ColdFile(t)
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		for _, test := range []struct{ off, n, total int64 }{
			{0, testkit.ColdFileSize, testkit.PagesOf(testkit.ColdFileSize)}, {0, 1 << 62, testkit.PagesOf(testkit.ColdFileSize)}, {0, 1, testkit.PageSize},
			{testkit.PageSize - 1, 2, 2 * testkit.PageSize}, {testkit.ColdFileSize - 1, 1, testkit.PageSize}, {testkit.ColdFileSize, 1, 0}, {5, 0, 0},
		} {
			resident, total, trusted, err := file.Residency(test.off, test.n)
			if resident != 0 || total != test.total || !trusted || err != nil {
				t.Errorf("Residency(%d, %d) of a cold file: %d of %d, trusted %v, %v; want 0 of %d",
					test.off, test.n, resident, total, trusted, err, test.total)
			}
		}
		if file.Mapped() {
			t.Error("mapped by a question")
		}
		// Tests of another process may empty the page cache meanwhile.
		allResident := func(off, n int64) bool {
			return testkit.Eventually(func() bool {
				testkit.ReadNative(t, name)
				return testkit.ResidentBytesOf(t, file, off, n) == testkit.PagesOf(testkit.ColdFileSize)
			})
		}
		if !allResident(0, testkit.ColdFileSize) {
			t.Error("less is resident than all after a read of all")
		}
		if _, _, _, err := file.Residency(-1, 1); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("Residency at -1: %v", err)
		}

		// A kernel without cachestat tells by a map.
		restore := memmapfs.FailCachedPages(syscall.ENOSYS)
		defer restore()
		if !allResident(1, testkit.ColdFileSize-2) {
			t.Error("less is resident by mincore than all after a read of all")
		}
		testkit.DropAlone(t, name)
		if resident := testkit.ResidentBytesOf(t, file, 0, testkit.ColdFileSize); resident != 0 {
			t.Errorf("%d bytes of a cold file are resident by mincore", resident)
		}
	}, testkit.Wrapped)
}

// badFile cannot be read from some offset on.
type badFile struct {
	absfs.File
	syscall.Conn
	memmapfs.ShowsItsDescriptor
	from int64
}

func (f *badFile) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, &os.PathError{Op: "read", Path: f.Name(), Err: syscall.EIO}
	}
	return f.File.ReadAt(p, off)
}

type badFS struct{ absfs.FileSystem }

func (b badFS) Open(name string) (absfs.File, error) {
	file, err := b.FileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	return &badFile{File: file, Conn: file.(syscall.Conn), from: testkit.ColdFileSize / 2}, nil
}

// What the map cannot bring in the file is asked for, and its error is the error.
func TestPrefetchReportsTheFilesError(t *testing.T) {
	testkit.NeedPopulate(t, t.TempDir())
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(testkit.ColdFileSize))
	calls := 0
	restore := memmapfs.HookPopulate(func(func([]byte) error) func([]byte) error {
		return func([]byte) error {
			calls++
			return syscall.EFAULT
		}
	})
	defer restore()
	fileSystem := memmapfs.New(badFS{watched.New()}, memmapfs.DefaultConfig())
	defer fileSystem.Close()
	opened, err := fileSystem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	file := testkit.AsMapped(t, opened)
	if err := file.Prefetch(0, 1<<20); err != nil {
		t.Error("the good part:", err)
	}
	if _, err := file.ReadAt(make([]byte, 100), 5*testkit.PageSize); err != nil || fileSystem.Stats().ReadsCold != 0 {
		t.Errorf("the good part is not known: %v, %+v", err, fileSystem.Stats())
	}
	if err := file.Prefetch(0, testkit.ColdFileSize); !errors.Is(err, syscall.EIO) {
		t.Error("the bad part:", err)
	} else {
		testkit.CheckPathError(t, "Prefetch", err, osfs.ToNative(name))
	}
	if calls == 0 {
		t.Error("the map was not tried")
	}
}

// Catches an open that waits for a preload in the background, and a preload that Close does not stop.
func TestPreloadAsyncEndsWithClose(t *testing.T) {
	testkit.NeedPopulate(t, t.TempDir())
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(testkit.ColdFileSize))
	began, goOn := make(chan bool, 10), make(chan bool)
	restore := memmapfs.HookPopulate(func(populate func([]byte) error) func([]byte) error {
		return func(data []byte) error {
			began <- true
			<-goOn
			return populate(data)
		}
	})
	defer restore()
	config := memmapfs.DefaultConfig()
	config.PreloadAsync, config.Preload, config.PopulatePages = true, true, false
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), config)
	var file *memmapfs.MappedFile
	testkit.MustFinish(t, "an open with PreloadAsync", func() {
		opened, err := fileSystem.Open(name)
		if err != nil {
			panic(err)
		}
		file = opened.(*memmapfs.MappedFile)
	})
	<-began
	closed := make(chan error)
	go func() { closed <- file.Close() }()
	for {
		if _, err := file.Stat(); errors.Is(err, os.ErrClosed) {
			break
		}
		runtime.Gosched()
	}
	close(goOn)
	testkit.MustFinish(t, "Close", func() {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
	if more := len(began); more > 0 {
		t.Errorf("%d more pieces were read in after Close", more)
	}
	if err := fileSystem.Close(); err != nil {
		t.Error(err)
	}
}

// Catches a disk that is full without an error at creation, blocks and files that a failed creation
// keeps, and an existing file that changes its size for nothing.
func TestSharedDiskFull(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		for _, how := range []string{"reserved", "by zeros"} {
			t.Run(kind+" "+how, func(t *testing.T) {
				testkit.NeedMounts(t)
				testkit.InChild(t, func(t *testing.T) {
					if disk := testkit.MountSmallDisk(t, kind); disk != nil {
						if how == "by zeros" {
							defer memmapfs.HookReserve(func(uintptr, int64) error { return errors.ErrUnsupported })()
						}
						testSharedDiskFull(t, disk)
					}
				}, testkit.InOwnMounts)
			})
		}
	}
}

func testSharedDiskFull(t *testing.T, disk *testkit.SmallDisk) {
	dir := disk.Dir
	free := func() int64 {
		var info syscall.Statfs_t
		if err := syscall.Statfs(dir, &info); err != nil {
			t.Fatal(err)
		}
		return int64(info.Bavail) * int64(info.Bsize)
	}
	existing := filepath.Join(dir, "existing")
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: existing, Size: 100 << 10, SyncMode: memmapfs.SyncNever})
	copy(region.Data()[100<<10-3:], "end")
	if err := region.Close(); err != nil {
		t.Fatal(err)
	}
	before := free()
	for _, path := range []string{existing, filepath.Join(dir, "new", "directory", "region")} {
		_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: before + 200<<10})
		testkit.CheckPathError(t, "CreateSharedMemory on a disk that is too small", err, path)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a region that does not fit the disk: %v, want ENOSPC", err)
		}
		if after := free(); after != before {
			t.Errorf("%d bytes are free after a creation that failed, want %d", after, before)
		}
	}
	if info, err := os.Stat(existing); err != nil || info.Size() != 100<<10 {
		t.Errorf("the existing file: %v %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that was made for nothing: %v", err)
	}
	grown := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{
		Path: existing, Size: before / 2, SyncMode: memmapfs.SyncNever,
	})
	disk.Fill()
	// With no block left, every byte can be stored to; otherwise this is a fault, and the end.
	data := grown.Data()
	if got := string(data[100<<10-3:][:3]); got != "end" {
		t.Errorf("after growth: %q", got)
	}
	for i := range data {
		data[i] = byte(i)
	}
	if err := errors.Join(grown.Sync(), grown.Close()); err != nil {
		t.Error(err)
	}
	testkit.Report(t, "%d bytes stored on a full disk", len(data))
}

// mustReserve waits until a creator reserves blocks.
func mustReserve(t *testing.T, reserving chan struct{}) {
	t.Helper()
	testkit.MustFinish(t, "a creator", func() { <-reserving })
}

// Catches a lock of growth that is the user's lock, or that a killed creator keeps.
func TestSharedGrowthLock(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 100, SyncMode: memmapfs.SyncNever})
	var tries atomic.Int32
	defer memmapfs.HookLockGrowth(func() { tries.Add(1) })()
	reserving, finish := make(chan struct{}), make(chan struct{})
	restore := memmapfs.HookReserve(func(uintptr, int64) error {
		reserving <- struct{}{}
		<-finish
		return errors.ErrUnsupported
	})
	t.Cleanup(restore)
	grow := func(size int64) chan error {
		ended := make(chan error, 1)
		go func() {
			grown, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
				Path: region.Path(), Size: size, SyncMode: memmapfs.SyncNever,
			})
			if err == nil {
				err = grown.Close()
			}
			ended <- err
		}()
		return ended
	}
	first := grow(300)
	mustReserve(t, reserving)
	if err := errors.Join(region.Lock(), region.Unlock()); err != nil {
		t.Error(err)
	}
	second := grow(200)
	if !testkit.Eventually(func() bool { return tries.Load() > 3 }) {
		t.Error("a second creator does not wait for the first one")
	}
	finish <- struct{}{}
	mustReserve(t, reserving)
	if info, err := os.Stat(region.Path()); err != nil || info.Size() != 300 {
		t.Errorf("when the first has grown it: %v %v", info, err)
	}
	finish <- struct{}{}
	for _, ended := range []chan error{first, second} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	restore()
	if info, err := os.Stat(region.Path()); err != nil || info.Size() != 300 {
		t.Errorf("in the end: %v %v, want 300 bytes", info, err)
	}
}

// Catches a creator that fails and takes the file away from those who wait to use it.
func TestSharedCreatorFails(t *testing.T) {
	path := filepath.Join(testkit.TestDir(t), "region")
	var tries atomic.Int32
	defer memmapfs.HookLockGrowth(func() { tries.Add(1) })()
	fail := make(chan error)
	reserving := make(chan struct{})
	restore := memmapfs.HookReserve(func(uintptr, int64) error {
		reserving <- struct{}{}
		return <-fail
	})
	t.Cleanup(restore)
	create := func() chan error {
		ended := make(chan error, 1)
		go func() {
			region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100, SyncMode: memmapfs.SyncNever})
			if err == nil {
				found, statErr := os.Stat(path)
				own, ownErr := region.MappedFile().Stat()
				if err = errors.Join(statErr, ownErr, region.Close()); err == nil && !os.SameFile(found, own) {
					err = errors.New("the region is not the file at the path")
				}
			}
			ended <- err
		}()
		return ended
	}
	first := create()
	mustReserve(t, reserving)
	second := create()
	if !testkit.Eventually(func() bool { return tries.Load() > 3 }) {
		t.Error("a second creator does not wait for the first one")
	}
	fail <- syscall.ENOSPC
	if err := <-first; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the first: %v, want ENOSPC", err)
	}
	mustReserve(t, reserving)
	fail <- errors.ErrUnsupported
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	restore()
}

var powerCutsFlag = flag.Int("powercuts", 50, "power cuts at random moments")

// TestPowerCutWithoutFlush proves that the promises rest on the flush of the mapped range: without it
// the tests above must fail, and a flush that does too little, as MS_ASYNC would, is found.
func TestPowerCutWithoutFlush(t *testing.T) {
	d := testkit.NewDisk(t)
	stored := slices.IndexFunc(testkit.WaysToWrite, func(way testkit.WayToWrite) bool { return way.Name == "WriteAt, stored" })
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
		for _, mapping := range testkit.Mappings {
			for _, moment := range testkit.Moments {
				if mapping.Config.Mode != memmapfs.ModeReadWrite || moment.Name != "SyncImmediate" && moment.Name != "SyncRange" {
					continue
				}
				t.Run(name+"/"+mapping.Name+"/"+moment.Name, func(t *testing.T) {
					for way, difference := range d.Lose(t, mapping, moment, testkit.WaysToWrite[stored:stored+1]) {
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
	page := make([]byte, testkit.PageSize)
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
	if int64(len(page)) < testkit.PageSize {
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
	page, off := record(j.slots[at].number), int64(at)*testkit.PageSize
	flushes := j.flushesSeen()
	j.step()
	var err error
	way := j.random.IntN(4)
	switch {
	case way == 0 && j.throughMap && !grows:
		err = j.file.View(off, testkit.PageSize, func(b []byte) error { copy(b, page); return nil })
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
		start := min(int64(at)*testkit.PageSize, int64(len(left)))
		page := left[start:min(start+testkit.PageSize, int64(len(left)))]
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
	seed := *testkit.SeedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	d := testkit.NewDisk(t)

	written := func(_ *journal, at int) (int, int, error) { return at, at + 1, nil }
	syncRange := func(j *journal, at int) (int, int, error) {
		if j.random.IntN(3) == 0 {
			return 0, 0, nil
		}
		from := at - j.random.IntN(min(at+1, 5))
		return from, at + 1, j.file.SyncRange(int64(from)*testkit.PageSize, int64(at+1-from)*testkit.PageSize)
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
		{"SyncImmediate, windows", config(memmapfs.ModeReadWrite, testkit.PageSize, memmapfs.SyncImmediate), false, written},
		{"SyncImmediate, ReadOnly", config(memmapfs.ModeReadOnly, 0, memmapfs.SyncImmediate), false, written},
		{"SyncRange", config(memmapfs.ModeReadWrite, 0, memmapfs.SyncNever), true, syncRange},
		{"SyncRange, windows", config(memmapfs.ModeReadWrite, testkit.PageSize, memmapfs.SyncNever), true, syncRange},
		{"Sync", config(memmapfs.ModeReadWrite, 0, memmapfs.SyncLazy), true, syncAll},
		{"Sync, windows", config(memmapfs.ModeReadWrite, testkit.PageSize, memmapfs.SyncNever), true, syncAll},
		{"SyncPeriodic", config(memmapfs.ModeReadWrite, 0, memmapfs.SyncPeriodic), true, byFlusher},
		{"SyncPeriodic, windows", config(memmapfs.ModeReadWrite, testkit.PageSize, memmapfs.SyncPeriodic), true, byFlusher},
	}
	kept, lost, cuts := 0, 0, 0
	random := rand.New(rand.NewPCG(seed, 0))
	for i, s := range sequences {
		until := *powerCutsFlag * (i + 1) / len(sequences)
		t.Run(s.name, func(t *testing.T) {
			for cuts < until {
				cutsNow, keptNow, lostNow := runSequence(t, d, s, random, until-cuts)
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
func runSequence(t *testing.T, d *testkit.Disk, s sequence, random *rand.Rand, wanted int) (cuts, kept, lost int) {
	periodic := s.config.SyncMode == memmapfs.SyncPeriodic
	j := &journal{random: random, throughMap: s.throughMap, whole: s.config.MapFullFile, step: func() {}}
	cut := func() {
		slots, _ := j.state()
		d.Cut(t, func(dir string) {
			nowKept, nowLost := checkLeft(t, testkit.MustReadFile(t, filepath.Join(dir, "journal")), slots)
			kept, lost = kept+nowKept, lost+nowLost
		})
		if t.Failed() {
			t.Fatalf("after the %d. power cut, with %d records written", cuts+1, j.number)
		}
	}
	base := testkit.PlainFileSystem(t)
	if periodic {
		observed := watched.New()
		observed.Sync = j.flush
		base = observed
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
	name := testkit.WriteFile(t, d.Dir, "journal", blank)
	defer os.Remove(osfs.ToNative(name))
	fileSystem := memmapfs.New(base, &s.config)
	defer fileSystem.Close()
	opened, err := fileSystem.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	j.file = testkit.AsMapped(t, opened)
	testkit.MakeHot(t, j.file, blank, 0, int64(len(blank)))
	d.Settle(t)

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
		if !testkit.Eventually(func() bool { _, allDue := j.state(); return allDue }) {
			t.Fatal("records are never flushed")
		}
		cut()
	}
	return cuts, kept, lost
}

// Catches a batch that waits for each of its cold reads before it asks for the next, that asks for what
// is in memory, and that reads what is in memory through the file.
func TestReadBatchAsksAhead(t *testing.T) {
	testkit.NeedMaps(t)
	var calls []int64 // offsets asked for; those read are negative
	restore := memmapfs.HookReadAhead(func(call func(fd uintptr, offset, length int64) error) func(fd uintptr, offset, length int64) error {
		return func(fd uintptr, offset, length int64) error {
			calls = append(calls, offset)
			return call(fd, offset, length)
		}
	})
	defer restore()
	observed := watched.New()
	observed.ReadAt = func(_ int, off int64) {
		if off%testkit.PageSize == 0 { // not the rest of a page, for a comparison with the map
			calls = append(calls, -off)
		}
	}
	name, data := testkit.ColdFile(t), testkit.Content(testkit.ColdFileSize)
	fileSystem := testkit.Mode{Config: memmapfs.DefaultConfig()}.Over(t, observed).(*memmapfs.MemMapFS)
	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
	testkit.ForceMap(file)

	batchAt := func(offs ...int64) []int64 {
		t.Helper()
		calls = nil
		batch := make([]memmapfs.ReadRequest, len(offs))
		for i, off := range offs {
			batch[i] = memmapfs.ReadRequest{P: make([]byte, 16), Off: off}
		}
		if err := file.ReadBatch(batch); err != nil {
			t.Fatal(err)
		}
		for _, r := range batch {
			testkit.MustEqual(t, "a read", r.P, data[r.Off:][:16])
		}
		return calls
	}
	a, b, c := 8*testkit.PageSize, 24*testkit.PageSize, 40*testkit.PageSize
	if got, want := batchAt(a, b, c), []int64{a, b, c, -a, -b, -c}; !slices.Equal(got, want) {
		t.Errorf("cold: calls at %d, want all asked for and then read, %d", got, want)
	}
	testkit.ReadAll(t, file)
	testkit.ReadAll(t, file)
	if got := batchAt(a, b, c); len(got) > 0 {
		t.Errorf("hot: calls at %d, want none", got)
	}
}

// Catches first touches that are dear and made for nothing; that are not made where other pages of the part
// pay for them, although none is read twice; and that are believed to be dear for ever.
func TestDearTouches(t *testing.T) {
	testkit.NeedKnownPages(t)
	testkit.NotFiltered(t) // under a filter pages are read around first, and no pass is believed to pay
	restore := memmapfs.ShowCachedPages()
	defer restore()
	never := memmapfs.DefaultConfig()
	never.Mapping = memmapfs.MapNever
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", []byte{'x'})
	unmapped := testkit.MustOpenMapped(t, testkit.Mode{Config: never}.OverOS(t), name, os.O_RDONLY)
	for range 1000 { // what a call costs is known after some
		if _, err := unmapped.ReadAt(make([]byte, 1), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name  string
		touch int64 // in calls
		pages int
		cold  func(reads, pages int64) bool
	}{
		{"too dear", 100, 256, func(reads, pages int64) bool { return reads == pages }},
		{"paid by the part", 3, 256, func(reads, pages int64) bool { return reads < pages-6 }},
		{"dear no more", 100, 4096, func(reads, pages int64) bool { return reads < pages-6 }},
	} {
		for _, mode := range []memmapfs.MappingMode{memmapfs.ModeReadOnly, memmapfs.ModeCopyOnWrite} {
			t.Run(fmt.Sprint(test.name, ", mode ", mode), func(t *testing.T) {
				data := bytes.Repeat([]byte{'x'}, test.pages*int(testkit.PageSize))
				name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
				fileSystem := testkit.Mode{Config: testkit.Full(mode, memmapfs.SyncNever)}.OverOS(t).(*memmapfs.MemMapFS)
				file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
				restore := memmapfs.BelieveTouches(test.touch)
				defer restore()
				p := make([]byte, 8)
				read := func(page int) {
					if _, err := file.ReadAt(p, int64(page)*testkit.PageSize); err != nil {
						t.Fatal(err)
					}
				}
				for reads := 0; !file.Mapped(); reads++ {
					if reads == 1<<20 {
						t.Fatal("not mapped")
					}
					read(0)
				}
				before := fileSystem.Stats().ReadsCold
				for _, page := range rand.Perm(test.pages) {
					read(page)
				}
				if cold := fileSystem.Stats().ReadsCold - before; !test.cold(cold, int64(test.pages)) {
					t.Errorf("%d of %d reads went to the file", cold, test.pages)
				}
			})
		}
	}
}

// Catches one measurement that was held up, and is believed.
func TestFirstMeasurementIsHeldUp(t *testing.T) {
	if cost := memmapfs.CostAfter(time.Second, 500*time.Nanosecond); cost > 500*time.Nanosecond {
		t.Errorf("%v", cost)
	}
}

// TestFirstMapIsHeldUp catches a first map that took long by chance and keeps all others from being made, and
// a machine on which maps are dear that never notices.
func TestFirstMapIsHeldUp(t *testing.T) {
	if cost := memmapfs.MapCostAfter(time.Second); cost > 20*time.Microsecond {
		t.Errorf("after one: %v", cost)
	}
	const dear = 200 * time.Microsecond
	if cost := memmapfs.MapCostAfter(dear, dear, dear, dear, dear); cost < dear {
		t.Errorf("where all are dear: %v", cost)
	}
}
