package differential_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// The differential test runs the same random operations through a mapped file and through a plain one
// in another directory (its twin), and compares every count, byte, error, position and size. What a
// mapped file may do differently is not left out by chance but named here:
//
//   - Writes on a handle opened with O_RDONLY in ModeReadOnly and ModeExecute fail with
//     ErrWriteToReadOnlyMap and not with the system's error.
//   - After Close every call fails with fs.ErrClosed, those too that package os refuses, or finds empty,
//     before it looks.
//   - A ModeCopyOnWrite handle is compared with a model of it: privateTwin.
//   - After someone outside this MemMapFS has shrunk the file, a View past the new end may report ErrSIGBUS
//     instead of io.EOF, or show zeros in the rest of the last page.
//   - What is stored through Data and View of a copy-on-write handle lies in private pages: nobody
//     outside changes these, nor those of a handle that has given out Data.
//   - Data of a copy-on-write handle may end where the file ended when Data was first called.

// TestDifferential catches every deviation from the plain file that random operations can find.
func TestDifferential(t *testing.T) { runDifferential(t, world{dir: *testkit.DirFlag}) }

// world is where the mapped files are.
type world struct {
	dir       string            // empty is a new one for each row
	momentary bool              // slices from Data show the file of the moment at which it was called
	noHoles   bool              // its files refuse PunchHole
	layer     map[string][]byte // files that are there already, below dir, in a folder for each row
}

// folder is the row's own in a world.
func folder(m testkit.Mode) string { return strings.ReplaceAll(m.Name, " ", "-") }

// layerFile is the name of the n-th file of a row that is there already.
func layerFile(m testkit.Mode, n int) string { return fmt.Sprintf("%s/layer-%d", folder(m), n) }

// runDifferential is TestDifferential in a world.
func runDifferential(t *testing.T, w world) {
	seed := *testkit.SeedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	steps := *testkit.StepsFlag
	if steps == 0 {
		switch {
		case testing.Short() && runtime.GOARCH == "wasm":
			steps = 200
		case testing.Short() && testkit.Emulated:
			steps = 500
		case testing.Short():
			steps = 1_000
		case testkit.RaceDetector:
			steps = 2_500
		default:
			steps = 10_000
		}
	}
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		row := fnv.New64()
		row.Write([]byte(m.Name)) // each row runs a sequence of its own
		s := newSequence(t, m, w, &randomChoices{rand.New(rand.NewPCG(seed, row.Sum64()))})
		s.origin = fmt.Sprintf("-seed %d", seed)
		s.run(steps)
		tooFew := func() bool {
			return !m.Plain() && testkit.Mappable() && s.steps >= 500 && s.mappedSteps < s.steps/8
		}
		for total := 2 * steps; tooFew() && total <= 4*steps; total += steps {
			s.run(total) // where maps are dear files are mapped late: the sequence goes on
		}
		t.Logf("%d of %d steps on a mapped file", s.mappedSteps, s.steps)
		if tooFew() {
			t.Errorf("only %d of %d steps were on a mapped file: the test compares plain files", s.mappedSteps, s.steps)
		}
	})
}

// FuzzOperations lets the fuzzer write the sequences. The first byte takes the row of the table, the
// others the decisions. What is covered differs from run to run (pages come and go), so the fuzzer tries in
// vain to shorten what it finds: give it -fuzzminimizetime 10x.
func FuzzOperations(f *testing.F) {
	for row := range testkit.Modes {
		decisions := make([]byte, 400)
		random := rand.New(rand.NewPCG(uint64(row), 1))
		for i := range decisions {
			decisions[i] = byte(random.Uint32())
		}
		f.Add(append([]byte{byte(row)}, decisions...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		s := newSequence(t, testkit.Modes[int(data[0])%len(testkit.Modes)], world{}, &recordedChoices{data[1:]})
		s.origin = "the fuzzer's bytes"
		s.run(500)
	})
}

// choices is where a sequence takes its decisions from.
type choices interface {
	below(n int) int // 0 <= result < n
	exhausted() bool
}

type randomChoices struct{ *rand.Rand }

func (c *randomChoices) below(n int) int { return c.IntN(n) }

func (c *randomChoices) exhausted() bool { return false }

// recordedChoices spends one byte on a small decision and three on a large one.
type recordedChoices struct{ data []byte }

func (c *recordedChoices) below(n int) int {
	size := 1
	if n > 256 {
		size = 3
	}
	value := 0
	for range size {
		value <<= 8
		if len(c.data) > 0 {
			value |= int(c.data[0])
			c.data = c.data[1:]
		}
	}
	return value % n
}

func (c *recordedChoices) exhausted() bool { return len(c.data) == 0 }

const (
	fileName    = "file"
	handleSlots = 3
	logLength   = 30
)

// operationSequence is one run of random operations on both sides.
type operationSequence struct {
	t       testing.TB
	m       testkit.Mode
	choose  choices
	origin  string // how to repeat the run
	world   world
	subject side
	twin    side
	handles [handleSlots]*handle

	window     int64 // boundaries that offsets and lengths are drawn to
	limit      int64 // no operation makes the file longer
	recent     int64 // the offset drawn last: maps are made of what is used again
	generation int   // counts the files that have been at fileName

	steps       int
	mappedSteps int
	layers      int // how many files of the world's layer were used
	log         []string
}

// side is one of the two directories, with the filesystem under which it is used.
type side struct {
	fileSystem absfs.FileSystem
	dir        string // native
	file       string // its name in dir
}

func (s *side) native() string { return filepath.Join(s.dir, s.file) }

func (s *side) name() string { return osfs.FromNative(s.native()) }

// handle is one file opened on both sides.
type handle struct {
	subject    absfs.File
	twin       absfs.File
	private    *privateTwin // twin, when the handle is copy-on-write
	reader     *os.File     // the twin's content, whatever the handle's flags are
	flags      int
	generation int
	closed     bool
	openSize   int64
	highWater  int64  // the longest the subject may believe the file to be
	held       []byte // a slice from Data that is still valid, of the file from heldAt on
	heldAt     int64
	exposed    bool          // Data has given out bytes
	lent       map[int64]int // how many bytes Data first gave out, by their offset
}

func (h *handle) access() int { return h.flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) }

// mapped returns the subject, or nil on the plain row.
func (h *handle) mapped() *memmapfs.MappedFile {
	mapped, _ := h.subject.(*memmapfs.MappedFile)
	return mapped
}

func newSequence(t testing.TB, m testkit.Mode, w world, choose choices) *operationSequence {
	s := &operationSequence{t: t, m: m, world: w, choose: choose, window: 64 << 10}
	dir := testkit.TestDir(t)
	s.subject.dir, s.twin.dir = filepath.Join(dir, "subject"), filepath.Join(dir, "twin")
	if w.dir != "" {
		s.subject.dir = filepath.Join(w.dir, folder(m))
	}
	s.subject.file, s.twin.file = fileName, fileName
	s.subject.fileSystem, s.twin.fileSystem = m.OverOS(t), testkit.PlainFileSystem(t)
	if m.Windowed() {
		s.window = (m.Config.WindowSize + testkit.MapAlignment - 1) / testkit.MapAlignment * testkit.MapAlignment
	}
	s.limit = max(24*testkit.PageSize, 5*s.window)
	for _, side := range []*side{&s.subject, &s.twin} {
		if err := os.Mkdir(side.dir, 0o755); err != nil && !(w.layer != nil && errors.Is(err, os.ErrExist)) {
			t.Fatal(err)
		}
	}
	s.outside(func(side *side) error {
		return os.WriteFile(side.native(), testkit.Content(int(3*s.window+123)), 0o644)
	})
	s.nextOfLayer()
	return s
}

func (s *operationSequence) run(steps int) {
	before := debug.SetPanicOnFault(true) // a slice from Data that faults is a failure, not the end
	defer debug.SetPanicOnFault(before)
	defer func() {
		if fault := recover(); fault != nil {
			s.fail("panic: %v\n%s", fault, debug.Stack())
		}
	}()
	for s.steps < steps && !s.choose.exhausted() {
		s.steps++
		s.step()
		if s.steps%200 == 0 {
			s.compareFiles()
		}
	}
	for slot := range s.handles {
		s.closeSlot(slot)
	}
	s.compareFiles()
}

// fail reports a difference together with the operations that led to it.
func (s *operationSequence) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s, step %d (repeat with %s): %s\nlast operations:\n%s", s.m.Name, s.steps, s.origin,
		fmt.Sprintf(format, args...), strings.Join(s.log, "\n"))
}

func (s *operationSequence) note(format string, args ...any) {
	if len(s.log) == logLength {
		s.log = append(s.log[:0], s.log[1:]...)
	}
	s.log = append(s.log, fmt.Sprintf("%6d  ", s.steps)+fmt.Sprintf(format, args...))
}

// operation is one kind of step and its share of the steps.
type operation struct {
	share int
	name  string
	run   func(s *operationSequence, h *handle, slot int)
}

var operations = []operation{
	{30, "Read", (*operationSequence).read},
	{40, "ReadAt", (*operationSequence).readAt},
	{25, "Write", (*operationSequence).write},
	{30, "WriteAt", (*operationSequence).writeAt},
	{10, "WriteString", (*operationSequence).writeString},
	{25, "Seek", (*operationSequence).seek},
	{8, "Truncate", (*operationSequence).truncate},
	{3, "Sync", (*operationSequence).sync},
	{3, "SyncRange", (*operationSequence).syncRange},
	{3, "SyncAsync", (*operationSequence).syncAsync},
	{3, "Stat", (*operationSequence).stat},
	{6, "WriteTo", (*operationSequence).writeTo},
	{6, "ReadFrom", (*operationSequence).readFrom},
	{15, "Data", (*operationSequence).data},
	{10, "store through Data", (*operationSequence).storeThroughData},
	{18, "View", (*operationSequence).view},
	{7, "Advise", (*operationSequence).advise},
	{5, "PunchHole", (*operationSequence).punchHole},
	{3, "RemapAfterTruncation", (*operationSequence).remap},
	{3, "Close", (*operationSequence).close},
	{3, "open", (*operationSequence).open},
	{12, "outside write", (*operationSequence).outsideWrite},
	{6, "outside extend", (*operationSequence).outsideExtend},
	{8, "outside shrink", (*operationSequence).outsideShrink},
	{6, "outside copytruncate", (*operationSequence).outsideCopyTruncate},
	{2, "outside replace", (*operationSequence).outsideReplace},
	{2, "filesystem", (*operationSequence).throughFileSystem},
}

var operationShares = func() (sum int) {
	for _, operation := range operations {
		sum += operation.share
	}
	return sum
}()

func (s *operationSequence) step() {
	slot := s.choose.below(handleSlots)
	h := s.handles[slot]
	// A closed handle, and one whose file has lost its name and so cannot be mapped, is used for a while.
	if h == nil || h.closed && s.choose.below(8) == 0 || h.generation != s.generation && s.choose.below(20) == 0 {
		s.open(nil, slot)
		return
	}
	at := s.choose.below(operationShares)
	i := 0
	for at >= operations[i].share {
		at -= operations[i].share
		i++
	}
	operations[i].run(s, h, slot)
	if h = s.handles[slot]; h != nil {
		s.compareState(h)
		if mapped := h.mapped(); mapped != nil && mapped.Mapped() {
			s.mappedSteps++
		}
	}
}

// result is what one call answered.
type result struct {
	n    int64
	data []byte
	err  error
}

// compare fails the run unless the two sides of h answered alike.
func (s *operationSequence) compare(h *handle, what string, got, want result) {
	s.t.Helper()
	if !s.sameError(h, what, got, want) {
		s.fail("slot %d: %s: %d, %v; want %d, %v", s.slot(h), what, got.n, got.err, want.n, want.err)
	}
	if got.n != want.n {
		s.fail("slot %d: %s: count %d (%v), want %d (%v)", s.slot(h), what, got.n, got.err, want.n, want.err)
	}
	if difference := testkit.FirstDifference(got.data, want.data); difference != "" {
		s.fail("slot %d: %s: %s", s.slot(h), what, difference)
	}
	switch {
	case s.m.Plain(), got.err == nil, got.err == io.EOF, testkit.ErrorClass(got.err) == "append":
	case errors.Is(got.err, errSource), errors.Is(got.err, errDestination):
	default:
		testkit.CheckPathError(s.t, what, got.err, h.subject.Name())
	}
}

func (s *operationSequence) slot(h *handle) int {
	for slot, other := range s.handles {
		if h == other {
			return slot
		}
	}
	return -1
}

// sameError compares error classes, but for the documented differences.
func (s *operationSequence) sameError(h *handle, what string, got, want result) bool {
	if h.closed && !s.m.Plain() { // package os looks at the arguments first
		return testkit.ErrorClass(got.err) == "closed"
	}
	gotClass, wantClass := testkit.ErrorClass(got.err), testkit.ErrorClass(want.err)
	switch what {
	case "Write", "WriteAt", "WriteString", "Truncate", "ReadFrom":
		if s.m.ReadOnly() && h.access() == os.O_RDONLY {
			nothingToWrite := wantClass == "nil" || errors.Is(want.err, errSource)
			return gotClass == "read-only map" || nothingToWrite && gotClass == wantClass
		}
	}
	switch {
	case errors.Is(want.err, errSource), errors.Is(want.err, errDestination):
		return errors.Is(got.err, want.err)
	case errors.Is(want.err, errSizeIsFixed):
		return gotClass != "nil" && gotClass != "EOF" && gotClass != "closed"
	}
	return gotClass == wantClass
}

// bringUpToDate has the slice that is held show what the file is now, where it does not by itself.
func (s *operationSequence) bringUpToDate(h *handle) {
	if h.private != nil && testkit.PrivateMapsStray() && s.size(h) > h.heldAt {
		h.mapped().View(h.heldAt, 1, func([]byte) error { return nil })
	}
}

// compareState compares position and size, and the content of the slice that is held.
func (s *operationSequence) compareState(h *handle) {
	if h.closed {
		return
	}
	position, err := h.subject.Seek(0, io.SeekCurrent)
	wantPosition, wantErr := h.twin.Seek(0, io.SeekCurrent)
	s.compare(h, "position", result{n: position, err: err}, result{n: wantPosition, err: wantErr})
	s.stat(h, 0)
	if h.held != nil {
		s.bringUpToDate(h)
		want := s.content(h)[h.heldAt:]
		if difference := testkit.FirstDifference(h.held, want[:len(h.held)]); difference != "" {
			s.fail("slot %d: slice that Data gave of the file from %d on: %s", s.slot(h), h.heldAt, difference)
		}
	}
	// What one handle learns its filesystem tells the others that have the file open.
	size := s.size(h)
	for _, other := range s.handles {
		if other != nil && !other.closed && other.generation == h.generation {
			other.highWater = max(other.highWater, size)
		}
	}
}

// compareFiles compares the files themselves, around all handles.
func (s *operationSequence) compareFiles() {
	got, err := os.ReadFile(s.subject.native())
	want, wantErr := os.ReadFile(s.twin.native())
	if testkit.ErrorClass(err) != testkit.ErrorClass(wantErr) {
		s.fail("the file: %v, want %v", err, wantErr)
	}
	if difference := testkit.FirstDifference(got, want); difference != "" {
		s.fail("the file: %s", difference)
	}
}

// size is the size of the file behind h, which the name may not lead to any more.
func (s *operationSequence) size(h *handle) int64 {
	info, err := h.reader.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Size()
}

// content is what h has to show of its file.
func (s *operationSequence) content(h *handle) []byte {
	data := make([]byte, s.size(h))
	if _, err := h.reader.ReadAt(data, 0); err != nil && err != io.EOF {
		s.t.Fatal(err)
	}
	if h.private != nil {
		h.private.overlay(data, 0)
	}
	return data
}

// outside does the same on both sides around all handles.
func (s *operationSequence) outside(do func(side *side) error) {
	s.t.Helper()
	for _, side := range []*side{&s.subject, &s.twin} {
		if err := do(side); err != nil {
			s.t.Fatal(err)
		}
	}
}

// near returns a small distance, as often before as after.
func (s *operationSequence) near() int64 { return int64(s.choose.below(41) - 20) }

// offset draws an offset, most of them near a boundary or near the one drawn before. With wild it may
// also be negative or near the largest there is.
func (s *operationSequence) offset(size int64, wild bool) int64 {
	off := int64(0)
	switch s.choose.below(16) {
	case 0:
	case 1:
		off = size
	case 2, 3:
		off = size + s.near()
	case 4, 5:
		off = int64(s.choose.below(int(size/testkit.PageSize)+2))*testkit.PageSize + s.near()
	case 6, 7:
		off = int64(s.choose.below(int(size/s.window)+2))*s.window + s.near()
	case 8:
		if wild {
			if s.choose.below(2) == 0 {
				return -1 - int64(s.choose.below(20))
			}
			return testkit.FarthestOffset - int64(s.choose.below(20))
		}
	case 9, 10:
		off = int64(s.choose.below(int(size) + 1))
	default:
		off = s.recent + s.near()
	}
	s.recent = min(max(off, 0), s.limit)
	return s.recent
}

// length draws a length of at most limit.
func (s *operationSequence) length(limit int64) int {
	n := int64(0)
	switch s.choose.below(8) {
	case 0:
	case 1, 2, 3:
		n = int64(1 + s.choose.below(16))
	case 4:
		n = testkit.PageSize + s.near()
	case 5:
		n = s.window + s.near()
	case 6:
		n = int64(s.choose.below(int(3 * testkit.PageSize)))
	default:
		n = int64(s.choose.below(int(s.limit)))
	}
	return int(max(min(n, limit), 0))
}

// payload returns n bytes that no other step writes.
func (s *operationSequence) payload(n int) []byte {
	data := make([]byte, n)
	random := rand.New(rand.NewPCG(uint64(s.steps), uint64(n)))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return data
}

// othersAllow reports whether h, or someone outside (nil), may write [off, off+n) of the current file:
// what a copy-on-write handle shows of a page that it has stored to is its own affair, and of each
// page that it has written to once it has given out Data.
func (s *operationSequence) othersAllow(h *handle, off int64, n int) bool {
	for _, other := range s.handles {
		if other == nil || other == h || other.closed || other.private == nil || other.generation != s.generation {
			continue
		}
		size := s.size(other)
		from := min(off, size-1) // growth changes what lies behind the present end
		for page := from / testkit.PageSize; page*testkit.PageSize < off+int64(n); page++ {
			if private := other.private.pages[page]; private != nil && (private.stored || other.exposed) {
				return false
			}
		}
	}
	return true
}

// shrunk drops the slices of Data that a shrink of the file of that generation makes invalid. From a
// shrink through its own filesystem a handle learns the size that the file has now.
func (s *operationSequence) shrunk(generation int, learn bool) {
	for _, h := range s.handles {
		if h != nil && h.generation == generation {
			h.held = nil
			if learn {
				h.highWater = min(h.highWater, s.size(h))
			}
		}
	}
}

func (s *operationSequence) read(h *handle, slot int) {
	n := s.length(s.limit)
	if runtime.GOOS == "windows" && h.access() == os.O_WRONLY {
		n = max(n, 1) // which refuses to read nothing at the position, and does not at an offset
	}
	s.note("slot %d: Read %d", slot, n)
	got, want := make([]byte, n), make([]byte, n)
	gotN, gotErr := h.subject.Read(got)
	wantN, wantErr := h.twin.Read(want)
	s.compare(h, "Read", result{int64(gotN), got[:max(gotN, 0)], gotErr}, result{int64(wantN), want[:max(wantN, 0)], wantErr})
}

func (s *operationSequence) readAt(h *handle, slot int) {
	n, off := s.length(s.limit), s.offset(s.size(h), true)
	s.note("slot %d: ReadAt %d from %d", slot, n, off)
	got, want := make([]byte, n), make([]byte, n)
	gotN, gotErr := h.subject.ReadAt(got, off)
	wantN, wantErr := h.twin.ReadAt(want, off)
	s.compare(h, "ReadAt", result{int64(gotN), got[:gotN], gotErr}, result{int64(wantN), want[:wantN], wantErr})
}

// writePosition is where the next Write of h goes.
func (s *operationSequence) writePosition(h *handle) int64 {
	if h.flags&os.O_APPEND != 0 {
		return s.size(h)
	}
	position, err := h.twin.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0 // closed: the write fails
	}
	return position
}

func (s *operationSequence) write(h *handle, slot int) { s.writeAtPosition(h, slot, "Write") }

func (s *operationSequence) writeString(h *handle, slot int) {
	s.writeAtPosition(h, slot, "WriteString")
}

func (s *operationSequence) writeAtPosition(h *handle, slot int, what string) {
	position := s.writePosition(h)
	p := s.payload(s.length(s.limit - position))
	if !s.mayWrite(h, position, len(p)) {
		return
	}
	s.note("slot %d: %s %d at %d", slot, what, len(p), position)
	var got, want int
	var gotErr, wantErr error
	if what == "Write" {
		got, gotErr = h.subject.Write(p)
		want, wantErr = h.twin.Write(p)
	} else {
		got, gotErr = h.subject.WriteString(string(p))
		want, wantErr = h.twin.WriteString(string(p))
	}
	s.compare(h, what, result{n: int64(got), err: gotErr}, result{n: int64(want), err: wantErr})
}

// mayWrite reports whether a write by h has one defined result for the other handles.
func (s *operationSequence) mayWrite(h *handle, off int64, n int) bool {
	return h.private != nil || h.generation != s.generation || s.othersAllow(h, off, n)
}

func (s *operationSequence) writeAt(h *handle, slot int) {
	off := s.offset(s.size(h), false)
	if s.choose.below(30) == 0 && h.flags&os.O_APPEND == 0 { // one mistake at a time
		off = -1 - int64(s.choose.below(20))
	}
	p := s.payload(s.length(s.limit - off))
	if !s.mayWrite(h, max(off, 0), len(p)) {
		return
	}
	if h.private != nil && h.flags&os.O_APPEND != 0 && len(p) == 0 {
		return // refused by the flag, or no growth: both are right
	}
	s.note("slot %d: WriteAt %d at %d", slot, len(p), off)
	got, gotErr := h.subject.WriteAt(p, off)
	want, wantErr := h.twin.WriteAt(p, off)
	s.compare(h, "WriteAt", result{n: int64(got), err: gotErr}, result{n: int64(want), err: wantErr})
}

func (s *operationSequence) seek(h *handle, slot int) {
	size := s.size(h)
	whence := s.choose.below(4)
	off := s.offset(size, false)
	switch whence {
	case io.SeekCurrent:
		off -= s.writePosition(h)
	case io.SeekEnd:
		off -= size
	case 3:
		whence = 5 + s.choose.below(3) // unknown to every system
	}
	if s.choose.below(30) == 0 {
		off = -1 - int64(s.choose.below(20))
	}
	s.note("slot %d: Seek %d, whence %d", slot, off, whence)
	got, gotErr := h.subject.Seek(off, whence)
	want, wantErr := h.twin.Seek(off, whence)
	s.compare(h, "Seek", result{n: got, err: gotErr}, result{n: want, err: wantErr})
}

func (s *operationSequence) truncate(h *handle, slot int) {
	size, old := s.offset(s.size(h), false), s.size(h)
	if h.private == nil {
		if h.generation == s.generation && !s.othersAllow(h, min(size, old), int(max(old-size, 1))) {
			return
		}
		h.held = nil
	}
	if s.choose.below(30) == 0 {
		size = -1
	}
	s.note("slot %d: Truncate from %d to %d", slot, old, size)
	gotErr := h.subject.Truncate(size)
	wantErr := h.twin.Truncate(size)
	s.compare(h, "Truncate", result{err: gotErr}, result{err: wantErr})
	if testkit.MapsHoldFiles { // the maps of all handles were taken away
		s.shrunk(h.generation, false)
	}
	if gotErr == nil {
		h.highWater = s.size(h)
		if size < old {
			s.shrunk(h.generation, true)
		}
	}
}

func (s *operationSequence) sync(h *handle, slot int) {
	s.note("slot %d: Sync", slot)
	gotErr := h.subject.Sync()
	wantErr := s.flushed(h)
	s.compare(h, "Sync", result{err: gotErr}, result{err: wantErr})
}

// flushed is what a Sync of h should return. Windows refuses to flush by a handle that is not open for
// writing, but what such a copy-on-write handle has written needs no flush.
func (s *operationSequence) flushed(h *handle) error {
	err := h.twin.Sync()
	if h.private != nil && errors.Is(err, os.ErrPermission) {
		return nil
	}
	return err
}

func (s *operationSequence) syncRange(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	off, n := s.offset(s.size(h), false), int64(s.length(s.limit))
	if s.choose.below(10) == 0 {
		off = -1
	}
	s.note("slot %d: SyncRange %d bytes at %d", slot, n, off)
	gotErr := mapped.SyncRange(off, n)
	wantErr := s.flushed(h)
	refused := errors.Is(wantErr, os.ErrPermission) // on Windows, a handle that is not open for writing
	if refused && n == 0 {
		wantErr = nil
	}
	if (wantErr == nil || refused) && off < 0 {
		wantErr = &os.PathError{Op: "sync", Path: h.twin.Name(), Err: memmapfs.ErrInvalidOffset}
	}
	s.compare(h, "SyncRange", result{err: gotErr}, result{err: wantErr})
}

func (s *operationSequence) syncAsync(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	s.note("slot %d: SyncAsync", slot)
	_, wantErr := h.twin.Stat() // nil, or closed
	s.compare(h, "SyncAsync", result{err: mapped.SyncAsync()}, result{err: wantErr})
}

func (s *operationSequence) stat(h *handle, slot int) {
	describe := func(info os.FileInfo, err error) result {
		if err != nil {
			return result{err: err}
		}
		return result{n: info.Size(), data: []byte(info.Name() + " " + info.Mode().String())}
	}
	s.compare(h, "Stat", describe(h.subject.Stat()), describe(h.twin.Stat()))
}

var (
	errSource      = errors.New("the source failed")
	errDestination = errors.New("the destination failed")
)

// failingWriter takes room bytes and then fails.
type failingWriter struct {
	taken []byte
	room  int
}

func (w *failingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.room)
	w.room -= n
	w.taken = append(w.taken, p[:n]...)
	if n < len(p) {
		return n, errDestination
	}
	return n, nil
}

// failingReader fails with errSource after its data.
type failingReader struct{ data *bytes.Reader }

func (r failingReader) Read(p []byte) (int, error) {
	n, err := r.data.Read(p)
	if err == io.EOF {
		err = errSource
	}
	return n, err
}

// These hide everything but one method, so that io.Copy does the copying itself.
type onlyReader struct{ io.Reader }

type onlyWriter struct{ io.Writer }

func (s *operationSequence) writeTo(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	room := math.MaxInt
	if s.choose.below(3) == 0 {
		room = s.length(s.limit)
	}
	s.note("slot %d: WriteTo a writer that takes %d bytes", slot, room)
	got, want := &failingWriter{room: room}, &failingWriter{room: room}
	gotN, gotErr := mapped.WriteTo(got)
	wantN, wantErr := io.Copy(onlyWriter{want}, onlyReader{h.twin})
	s.compare(h, "WriteTo", result{gotN, got.taken, gotErr}, result{wantN, want.taken, wantErr})
	if wantErr != nil { // how much was read ahead is nobody's promise
		h.subject.Seek(0, io.SeekStart)
		h.twin.Seek(0, io.SeekStart)
	}
}

func (s *operationSequence) readFrom(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	position := s.writePosition(h)
	end := s.limit
	if h.private != nil && position < s.size(h) {
		end = s.size(h) // in what portions a source that does not fit is read is nobody's promise
	}
	p := s.payload(s.length(end - position))
	if !s.mayWrite(h, position, len(p)) {
		return
	}
	source := func() io.Reader { return onlyReader{bytes.NewReader(p)} }
	switch s.choose.below(3) {
	case 0:
		source = func() io.Reader { return failingReader{bytes.NewReader(p)} }
	case 1:
		source = func() io.Reader { return bytes.NewReader(p) } // has a WriteTo of its own
	}
	s.note("slot %d: ReadFrom a %T of %d bytes, to %d", slot, source(), len(p), position)
	got, gotErr := mapped.ReadFrom(source())
	want, wantErr := io.Copy(onlyWriter{h.twin}, onlyReader{source()})
	s.compare(h, "ReadFrom", result{n: got, err: gotErr}, result{n: want, err: wantErr})
}

// mustMap reports whether h has to get a map when it asks for one. The file behind an osfs.File is
// found by its name, so a handle whose file has lost its name may go without.
func (s *operationSequence) mustMap(h *handle) bool {
	return testkit.Mappable() && !h.closed && h.generation == s.generation && h.access() != os.O_WRONLY && s.size(h) > 0
}

func (s *operationSequence) data(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	s.note("slot %d: Data", slot)
	data := mapped.Data()
	switch {
	case data == nil:
		if s.mustMap(h) && (!s.m.Windowed() || s.writePosition(h) < s.size(h)) {
			s.fail("slot %d: Data is nil", slot)
		}
		return
	case h.closed || h.access() == os.O_WRONLY:
		s.fail("slot %d: Data has %d bytes of a handle that cannot be read", slot, len(data))
	case len(data) != cap(data):
		s.fail("slot %d: Data has room for %d bytes behind the file's end", slot, cap(data)-len(data))
	}
	from := int64(0)
	if s.m.Windowed() {
		position, err := h.twin.Seek(0, io.SeekCurrent)
		if err != nil {
			s.t.Fatal(err)
		}
		from = position / s.window * s.window
	}
	want := s.content(h)[from:]
	if s.m.Windowed() {
		want = want[:min(int64(len(want)), s.window)]
	}
	if before, lent := h.lent[from]; h.private != nil && lent && len(data) >= min(before, len(want)) {
		want = want[:min(len(want), len(data))]
	} else if h.private != nil {
		h.lent[from] = len(data)
	}
	if difference := testkit.FirstDifference(data, want); difference != "" {
		s.fail("slot %d: Data, of the file from %d on: %s", slot, from, difference)
	}
	h.exposed = true
	if s.choose.below(2) == 0 && !s.world.momentary {
		h.held, h.heldAt = data, from
	}
}

// mayStore reports whether a slice of h's map may be stored to.
func (s *operationSequence) mayStore(h *handle) bool {
	if h.closed || h.mapped() == nil {
		return false
	}
	if h.private != nil {
		return !s.m.Windowed()
	}
	return s.m.ReadWrite() && h.access() == os.O_RDWR
}

func (s *operationSequence) storeThroughData(h *handle, slot int) {
	if !s.mayStore(h) {
		return
	}
	if h.held == nil {
		s.data(h, slot)
	}
	if h.held == nil {
		return
	}
	at := min(s.offset(int64(len(h.held)), false), int64(len(h.held)))
	p := s.payload(s.length(int64(len(h.held)) - at))
	if !s.mayWrite(h, h.heldAt+at, len(p)) {
		return
	}
	s.bringUpToDate(h)
	s.note("slot %d: store %d at %d through Data", slot, len(p), h.heldAt+at)
	copy(h.held[at:], p)
	s.storeInTwin(h, p, h.heldAt+at)
}

// storeInTwin does to the twin what a store into the map does: it changes the bytes and nothing else.
func (s *operationSequence) storeInTwin(h *handle, p []byte, off int64) {
	if h.private != nil {
		h.private.store(p, off, true)
		return
	}
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", h.reader.Fd()), os.O_WRONLY, 0)
	if err != nil { // not Linux: the file still has its name, see mustMap
		file, err = os.OpenFile(h.reader.Name(), os.O_WRONLY, 0)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(p, off); err != nil {
		s.t.Fatal(err)
	}
}

func (s *operationSequence) view(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	size := s.size(h)
	off := s.offset(size, true)
	n := int64(s.length(s.limit))
	if s.choose.below(4) != 0 { // most ranges lie in the file
		n = max(min(n, size-off), 0)
	}
	if s.choose.below(30) == 0 {
		n = -1
	}
	if n == 0 && off > size {
		return // an empty range past the end has no bytes to be wrong about
	}
	failing := s.choose.below(4) == 0
	storing := s.choose.below(3) == 0 && s.mayStore(h)
	p := s.payload(int(max(n, 0)))
	storing = storing && s.mayWrite(h, max(off, 0), len(p))
	if h.private != nil && off > h.openSize-n || off > size-n {
		storing = false // a private map does not grow with the file
	}
	s.note("slot %d: View %d from %d, storing %v", slot, n, off, storing)

	var seen []byte
	calls := 0
	err := mapped.View(off, n, func(b []byte) error {
		calls++
		seen = bytes.Clone(b)
		if len(b) != cap(b) {
			return fmt.Errorf("the slice has room for %d bytes more", cap(b)-len(b))
		}
		if storing {
			copy(b, p)
		}
		if failing {
			return errSource
		}
		return nil
	})

	inside := off >= 0 && n >= 0 && off <= size && n <= size-off
	class := testkit.ErrorClass(err)
	switch {
	case h.closed:
		if class != "closed" {
			s.fail("slot %d: View on a closed file: %v", slot, err)
		}
	case off < 0 || n < 0:
		if class != "invalid" {
			s.fail("slot %d: View: %v, want ErrInvalidOffset", slot, err)
		}
	case n == 0 && (err == nil || failing && err == errSource):
	case errors.Is(err, memmapfs.ErrNotMapped):
		if inside && s.mustMap(h) {
			s.fail("slot %d: View: %v", slot, err)
		}
	case h.access() == os.O_WRONLY:
		if inside || err != io.EOF {
			s.fail("slot %d: View on a file that cannot be read: %v", slot, err)
		}
	case !inside && (err == nil || failing && err == errSource) && n > 0 && off+n <= min(h.highWater, (size+testkit.PageSize-1)/testkit.PageSize*testkit.PageSize):
		want := make([]byte, n)
		copy(want, s.content(h)[min(off, size):])
		if difference := testkit.FirstDifference(seen, want); difference != "" {
			s.fail("slot %d: View over the end at %d: %s", slot, size, difference)
		}
		return
	case !inside:
		if err != io.EOF && !(errors.Is(err, memmapfs.ErrSIGBUS) && size < h.highWater) {
			s.fail("slot %d: View past the end at %d: %v, want io.EOF", slot, size, err)
		}
	default:
		if calls != 1 || failing && err != errSource || !failing && err != nil {
			s.fail("slot %d: View: %d calls, %v", slot, calls, err)
		}
		if difference := testkit.FirstDifference(seen, s.content(h)[off:off+n]); difference != "" {
			s.fail("slot %d: View: %s", slot, difference)
		}
		if storing {
			s.storeInTwin(h, p, off)
		}
		return
	}
	if calls != 0 && n != 0 && !errors.Is(err, memmapfs.ErrSIGBUS) {
		s.fail("slot %d: View called the function and returned %v", slot, err)
	}
}

// advise catches hints that change what a file holds.
func (s *operationSequence) advise(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	off, n := s.offset(s.size(h), true), int64(1+s.length(s.limit))
	hints := []struct {
		name string
		give func() error
	}{
		{"AdviseDontNeed", mapped.AdviseDontNeed},
		{"AdviseFree", mapped.AdviseFree},
		{"AdviseRemove", mapped.AdviseRemove},
		{"AdviseRandom", mapped.AdviseRandom},
		{"AdviseSequential", mapped.AdviseSequential},
		{"AdviseWillNeed", mapped.AdviseWillNeed},
		{"AdviseHugePage", mapped.AdviseHugePage},
		{"AdviseNoHugePage", mapped.AdviseNoHugePage},
		{"AdviseRange", func() error { return mapped.AdviseRange(off, n, memmapfs.Advice(s.choose.below(9))) }},
		{"Prefetch", func() error { return mapped.Prefetch(off, n) }},
		{"Residency", func() error { _, _, _, err := mapped.Residency(off, n); return err }},
		{"LockMemory", func() error {
			err := mapped.LockMemory(off, n)
			if unlockErr := mapped.UnlockMemory(off, n); err == nil {
				err = unlockErr
			}
			return err
		}},
	}
	hint := hints[s.choose.below(len(hints))]
	s.note("slot %d: %s", slot, hint.name)
	err := hint.give()
	if class := testkit.ErrorClass(err); h.closed != (class == "closed") {
		s.fail("slot %d: %s: %v", slot, hint.name, err)
	}
	if err != nil && err != io.EOF && !h.closed {
		testkit.CheckPathError(s.t, hint.name, err, h.subject.Name())
	}
}

// punchHole is compared with zeros that somebody else writes to the twin.
func (s *operationSequence) punchHole(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil || !h.closed && (!s.present() || h.generation != s.generation) {
		return
	}
	size := s.size(h)
	off, n := s.offset(size, true), int64(1+s.length(s.limit))
	n = min(n, s.limit)
	inside := int(max(min(n, size-off), 0))
	if off < 0 || !s.mayWrite(h, off, inside) {
		return
	}
	s.note("slot %d: PunchHole %d bytes at %d", slot, n, off)
	err := mapped.PunchHole(off, n)
	want := "nil"
	switch {
	case h.closed:
		want = "closed"
	case h.private != nil:
		want = "unsupported"
	case s.m.ReadOnly() && h.access() == os.O_RDONLY:
		want = "read-only map"
	case h.access() == os.O_RDONLY:
		want = syscall.EBADF.Error()
	}
	if testkit.MapsHoldFiles { // the maps of all handles were taken away
		s.shrunk(h.generation, false)
	}
	class := testkit.ErrorClass(err)
	if err != nil {
		testkit.CheckPathError(s.t, "PunchHole", err, h.subject.Name())
		if errors.Is(err, errors.ErrUnsupported) && (want == "unsupported" || want == "nil" &&
			(runtime.GOOS != "linux" || s.world.noHoles || !testkit.MakesHoles(s.t, filepath.Dir(s.twin.native())))) {
			return
		}
	}
	if class != want {
		s.fail("slot %d: PunchHole: %v, want %s", slot, err, want)
	}
	if err == nil && inside > 0 {
		twin, err := os.OpenFile(s.twin.native(), os.O_WRONLY, 0)
		if err == nil {
			_, err = twin.WriteAt(make([]byte, inside), off)
			err = errors.Join(err, twin.Close())
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *operationSequence) remap(h *handle, slot int) {
	mapped := h.mapped()
	if mapped == nil {
		return
	}
	s.note("slot %d: RemapAfterTruncation", slot)
	h.held = nil
	_, wantErr := h.twin.Stat() // nil, or closed
	s.compare(h, "RemapAfterTruncation", result{err: mapped.RemapAfterTruncation()}, result{err: wantErr})
	h.highWater = s.size(h)
}

// close leaves the closed handle in its slot: what follows is use after Close.
func (s *operationSequence) close(h *handle, slot int) {
	s.note("slot %d: Close", slot)
	h.held = nil
	s.compare(h, "Close", result{err: h.subject.Close()}, result{err: h.twin.Close()})
	h.closed = true
}

func (s *operationSequence) closeSlot(slot int) {
	if h := s.handles[slot]; h != nil {
		if !h.closed {
			s.close(h, slot)
		}
		h.reader.Close()
		s.handles[slot] = nil
	}
}

func (s *operationSequence) open(_ *handle, slot int) {
	flags := []int{os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR}[s.choose.below(6)]
	for _, option := range []struct{ flag, oneIn int }{
		{os.O_CREATE, 2}, {os.O_APPEND, 5}, {os.O_TRUNC, 8}, {os.O_EXCL, 16}, {os.O_SYNC, 16},
	} {
		if s.choose.below(option.oneIn) == 0 {
			flags |= option.flag
		}
	}
	if runtime.GOOS == "windows" && flags&(os.O_WRONLY|os.O_RDWR) == 0 {
		flags &^= os.O_CREATE | os.O_APPEND // package os then opens for writing there
	}
	if runtime.GOOS == "js" {
		flags &^= os.O_SYNC // which package os refuses there
	}
	if flags&os.O_CREATE == 0 {
		flags &^= os.O_EXCL // means nothing without, and not on every system
	}
	s.closeSlot(slot)

	info, err := os.Stat(s.twin.native())
	exists := err == nil
	private := s.m.CopyOnWrite() && exists && info.Size() > 0 && flags&os.O_TRUNC == 0
	if s.m.CopyOnWrite() {
		for other, h := range s.handles { // written through and private at the same time is another test
			if h != nil && (!private || h.private == nil) {
				s.closeSlot(other)
			}
		}
	}

	s.note("slot %d: open %s", slot, testkit.FlagNames(flags))
	subject, gotErr := s.subject.fileSystem.OpenFile(s.subject.name(), flags, 0o644)
	twin, wantErr := s.twin.fileSystem.OpenFile(s.twin.name(), flags, 0o644)
	if testkit.ErrorClass(gotErr) != testkit.ErrorClass(wantErr) {
		s.fail("slot %d: open: %v, want %v", slot, gotErr, wantErr)
	}
	if flags&os.O_TRUNC != 0 && testkit.MapsHoldFiles {
		s.shrunk(s.generation, false)
	}
	if gotErr != nil {
		return
	}
	reader, err := os.Open(s.twin.native())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { subject.Close(); twin.Close(); reader.Close() })
	h := &handle{subject: subject, twin: twin, reader: reader, flags: flags, generation: s.generation, lent: make(map[int64]int)}
	if flags&os.O_TRUNC != 0 {
		s.shrunk(s.generation, true)
	}
	h.openSize = s.size(h)
	h.highWater = h.openSize
	if private {
		h.private = &privateTwin{File: twin, reader: reader, flags: flags, pages: make(map[int64]*twinPage)}
		h.twin = h.private
	}
	if !s.m.Plain() && h.mapped() == nil {
		s.fail("slot %d: opened a %T", slot, subject)
	}
	s.handles[slot] = h
	if s.choose.below(2) == 0 {
		s.data(h, slot) // else it is mapped when it pays
	}
}

// present reports whether there is a file at the name.
func (s *operationSequence) present() bool {
	_, err := os.Stat(s.twin.native())
	return err == nil
}

func (s *operationSequence) presentSize() int64 {
	info, err := os.Stat(s.twin.native())
	if err != nil {
		s.t.Fatal(err)
	}
	return info.Size()
}

func (s *operationSequence) outsideWrite(_ *handle, _ int) {
	if !s.present() {
		return
	}
	off := s.offset(s.presentSize(), false)
	p := s.payload(s.length(s.limit - off))
	if !s.othersAllow(nil, off, len(p)) {
		return
	}
	s.note("outside write of %d at %d", len(p), off)
	s.outside(func(side *side) error {
		file, err := os.OpenFile(side.native(), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = file.WriteAt(p, off)
		return err
	})
}

func (s *operationSequence) outsideExtend(_ *handle, _ int) {
	if !s.present() {
		return
	}
	size := s.presentSize()
	to := min(size+int64(s.length(s.limit)), s.limit)
	if to <= size || !s.othersAllow(nil, size, int(to-size)) {
		return
	}
	s.note("outside extend from %d to %d", size, to)
	s.outside(func(side *side) error { return os.Truncate(side.native(), to) })
}

func (s *operationSequence) outsideShrink(_ *handle, _ int) {
	if !s.present() || runtime.GOOS == "windows" {
		return // Windows refuses to shrink a mapped file
	}
	size := s.presentSize()
	to := s.offset(size, false)
	if to >= size || !s.othersAllow(nil, to, int(size-to)) {
		return
	}
	s.note("outside shrink from %d to %d", size, to)
	s.shrunk(s.generation, false)
	s.outside(func(side *side) error { return os.Truncate(side.native(), to) })
}

// outsideCopyTruncate cuts the file and refills it by appending, as logrotate and a logger do, to less than
// it was, to as much, or to more.
func (s *operationSequence) outsideCopyTruncate(_ *handle, _ int) {
	if !s.present() || runtime.GOOS == "windows" {
		return
	}
	size := s.presentSize()
	refill := make([][]byte, s.choose.below(4))
	for i := range refill {
		refill[i] = s.payload(s.length(s.limit / 4))
		if s.choose.below(3) == 0 {
			clear(refill[i]) // zeros that are the file's
		}
	}
	if s.choose.below(2) == 0 {
		refill = append(refill, s.payload(int(size%testkit.PageSize)))
	}
	if !s.othersAllow(nil, 0, int(s.limit)) {
		return
	}
	s.note("outside copytruncate from %d, with %d appends", size, len(refill))
	s.shrunk(s.generation, false)
	s.outside(func(side *side) error {
		if err := os.Truncate(side.native(), 0); err != nil {
			return err
		}
		file, err := os.OpenFile(side.native(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		for _, p := range refill {
			if _, err := file.Write(p); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *operationSequence) outsideReplace(_ *handle, _ int) {
	if runtime.GOOS == "windows" {
		return // Windows refuses to replace or remove an open file
	}
	if s.nextOfLayer() {
		return
	}
	data := s.payload(s.length(s.limit))
	how := s.choose.below(3)
	s.note("outside %s, %d bytes", []string{"rename over", "remove and create", "remove"}[how], len(data))
	s.outside(func(side *side) error {
		if how == 0 {
			other := filepath.Join(side.dir, "other")
			if err := os.WriteFile(other, data, 0o644); err != nil {
				return err
			}
			return os.Rename(other, side.native())
		}
		if err := os.Remove(side.native()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if how == 1 {
			return os.WriteFile(side.native(), data, 0o644)
		}
		return nil
	})
	s.generation++
}

// nextOfLayer goes on with another file of the world's layer, if one is left.
func (s *operationSequence) nextOfLayer() bool {
	name := layerFile(s.m, s.layers)
	data, left := s.world.layer[name]
	if !left {
		return false
	}
	s.layers++
	s.subject.file, s.twin.file = filepath.Base(name), filepath.Base(name)
	s.note("%s, %d bytes", name, len(data))
	if err := os.WriteFile(s.twin.native(), data, 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.generation++
	return true
}

// throughFileSystem uses the filesystem's own methods on the open file.
func (s *operationSequence) throughFileSystem(_ *handle, _ int) {
	size, exists := int64(0), s.present()
	if exists {
		size = s.presentSize()
	}
	if s.choose.below(2) == 0 {
		s.note("filesystem: ReadFile")
		got, gotErr := s.subject.fileSystem.ReadFile(s.subject.name())
		want, wantErr := s.twin.fileSystem.ReadFile(s.twin.name())
		if difference := testkit.FirstDifference(got, want); difference != "" || testkit.ErrorClass(gotErr) != testkit.ErrorClass(wantErr) {
			s.fail("ReadFile: %s, %v, want %v", difference, gotErr, wantErr)
		}
		return
	}
	to := s.offset(size, false)
	if !s.othersAllow(nil, min(size, to), int(max(to-size, size-to))) {
		return
	}
	s.note("filesystem: Truncate to %d", to)
	gotErr := s.subject.fileSystem.Truncate(s.subject.name(), to)
	wantErr := s.twin.fileSystem.Truncate(s.twin.name(), to)
	if testkit.ErrorClass(gotErr) != testkit.ErrorClass(wantErr) {
		s.fail("Truncate by name: %v, want %v", gotErr, wantErr)
	}
	if to < size || testkit.MapsHoldFiles {
		s.shrunk(s.generation, to < size)
	}
}

// errSizeIsFixed stands for any error with which a copy-on-write handle may refuse to grow or shrink.
var errSizeIsFixed = errors.New("any refusal")

// privateTwin is the model of a copy-on-write handle: a plain handle, in front of it the bytes that this
// handle has written. All others are the file's.
type privateTwin struct {
	absfs.File // never written to
	reader     *os.File
	flags      int
	pages      map[int64]*twinPage
}

// twinPage has the private bytes of a page.
type twinPage struct {
	data    []byte
	private []bool
	stored  bool // through Data or View
}

// overlay replaces what p, which was read from off on, has of private bytes.
func (f *privateTwin) overlay(p []byte, off int64) {
	for i := range p {
		at := off + int64(i)
		if page := f.pages[at/testkit.PageSize]; page != nil && page.private[at%testkit.PageSize] {
			p[i] = page.data[at%testkit.PageSize]
		}
	}
}

// store makes bytes private.
func (f *privateTwin) store(p []byte, off int64, stored bool) {
	for i, b := range p {
		at := off + int64(i)
		page := f.pages[at/testkit.PageSize]
		if page == nil {
			page = &twinPage{data: make([]byte, testkit.PageSize), private: make([]bool, testkit.PageSize)}
			f.pages[at/testkit.PageSize] = page
		}
		page.data[at%testkit.PageSize], page.private[at%testkit.PageSize] = b, true
		page.stored = page.stored || stored
	}
}

func (f *privateTwin) Read(p []byte) (int, error) {
	position, err := f.File.Seek(0, io.SeekCurrent)
	n, readErr := f.File.Read(p)
	if err == nil {
		f.overlay(p[:n], position)
	}
	return n, readErr
}

func (f *privateTwin) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.overlay(p[:n], off)
	return n, err
}

func (f *privateTwin) WriteAt(p []byte, off int64) (int, error) {
	info, err := f.File.Stat()
	switch {
	case err != nil:
		return 0, err // closed
	case f.flags&os.O_APPEND != 0:
		return 0, errSizeIsFixed
	case off < 0:
		return 0, &os.PathError{Op: "write", Path: f.Name(), Err: memmapfs.ErrInvalidOffset}
	case len(p) == 0:
		return 0, nil
	case off > info.Size()-int64(len(p)):
		return 0, errSizeIsFixed
	}
	f.store(p, off, false)
	return len(p), nil
}

func (f *privateTwin) Write(p []byte) (int, error) {
	position, err := f.File.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.WriteAt(p, position)
	f.File.Seek(int64(n), io.SeekCurrent)
	return n, err
}

func (f *privateTwin) WriteString(p string) (int, error) { return f.Write([]byte(p)) }

func (f *privateTwin) Truncate(int64) error {
	if _, err := f.File.Stat(); err != nil {
		return err
	}
	return errSizeIsFixed
}
