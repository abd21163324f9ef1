package memmapfs_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

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
