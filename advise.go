package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"sync"
)

// Advice is a hint about how a file will be used. Each means the same on every system that has it.
type Advice int

const (
	// AdviceNormal takes back AdviceSequential and AdviceRandom.
	AdviceNormal Advice = iota
	// AdviceSequential: read from start to end. See AdviseSequential.
	AdviceSequential
	// AdviceRandom: read in no order. See AdviseRandom.
	AdviceRandom
	// AdviceWillNeed: needed soon, 64 MiB of the range at most. See AdviseWillNeed.
	AdviceWillNeed
	// AdviceDontNeed: not needed soon. See AdviseDontNeed.
	AdviceDontNeed
	// AdviceCold: to be reclaimed before other memory. See AdviseRemove. Linux only.
	AdviceCold
	// AdvicePageOut: to be reclaimed now. See AdviseFree. Linux only.
	AdvicePageOut
	// AdviceHugePage: worth large pages. See AdviseHugePage. Linux only.
	AdviceHugePage
	// AdviceNoHugePage: not worth large pages. See AdviseNoHugePage. Linux only.
	AdviceNoHugePage
)

var advices = [...]struct {
	name   string
	number int // the system's
}{
	{"AdviceNormal", sysAdviseNormal},
	{"AdviceSequential", sysAdviseSequential},
	{"AdviceRandom", sysAdviseRandom},
	{"AdviceWillNeed", sysAdviseWillNeed},
	{"AdviceDontNeed", sysAdviseDontNeed},
	{"AdviceCold", sysAdviseCold},
	{"AdvicePageOut", sysAdvisePageOut},
	{"AdviceHugePage", sysAdviseHugePage},
	{"AdviceNoHugePage", sysAdviseNoHugePage},
}

// String returns the name of the constant, or "Advice(n)" for an unknown advice.
func (a Advice) String() string {
	if a >= 0 && int(a) < len(advices) {
		return advices[a].name
	}
	return "Advice(" + strconv.Itoa(int(a)) + ")"
}

const unsupportedAdvice = -1

// byteRange is a range of a file.
type byteRange struct{ from, to int64 }

// wholeRange is all of a file, whatever its size.
var wholeRange = byteRange{0, math.MaxInt64}

// rangeOf returns the range of n bytes from off on.
func rangeOf(off, n int64) (byteRange, error) {
	if off < 0 || n < 0 {
		return byteRange{}, ErrInvalidOffset
	}
	return byteRange{off, off + min(n, math.MaxInt64-off)}, nil
}

// pages returns the whole pages that the range touches.
func (s byteRange) pages() byteRange {
	s.from -= s.from % pageBytes
	if s.to < math.MaxInt64-pageBytes {
		s.to = roundUp(s.to)
	}
	return s
}

func (s byteRange) overlaps(other byteRange) bool { return s.from < other.to && other.from < s.to }

// without returns what is left of the ranges when cut is taken out.
func without(ranges []byteRange, cut byteRange) (rest []byteRange) {
	for _, s := range ranges {
		if !s.overlaps(cut) {
			rest = append(rest, s)
			continue
		}
		if s.from < cut.from {
			rest = append(rest, byteRange{s.from, cut.from})
		}
		if cut.to < s.to {
			rest = append(rest, byteRange{cut.to, s.to})
		}
	}
	return rest
}

// part returns the bytes of the map that lie in the range, in whole pages.
func (m *mapping) part(s byteRange) []byte {
	s = s.pages()
	from, to := max(s.from-m.offset, 0), min(s.to-m.offset, int64(len(m.data)))
	if from >= to {
		return nil
	}
	return m.data[from:to]
}

func (m *mapping) byteRange() byteRange { return byteRange{m.offset, m.offset + int64(len(m.data))} }

// hint is an advice that holds for later maps of a range, too. Of one kind, no two overlap.
type hint struct {
	byteRange
	advice int
}

// lasting is what was asked for the file and holds for later maps, too.
type lasting struct {
	hints  []hint
	locked []byteRange // by LockMemory
}

// hints returns the hints that last. The caller holds w.mu.
func (w *windows) hints() []hint {
	if w.lasts == nil {
		return nil
	}
	return w.lasts.hints
}

// locked returns what LockMemory has locked. The caller holds w.mu.
func (w *windows) locked() []byteRange {
	if w.lasts == nil {
		return nil
	}
	return w.lasts.locked
}

func (w *windows) setHints(hints []hint) {
	w.lasts = &lasting{hints, w.locked()}
}

func (w *windows) setLocked(locked []byteRange) {
	w.lasts = &lasting{w.hints(), locked}
}

// maxHints is the number of ranges for which a file remembers a lasting hint.
const maxHints = 1024

// keepHint remembers a lasting hint in place of what it contradicts. The caller holds f.windows.mu.
func (f *MappedFile) keepHint(s byteRange, advice int) {
	added := hint{s, advice}
	var kept []hint
	for _, old := range f.windows.hints() {
		switch {
		case sysLastingKind(old.advice) != sysLastingKind(advice):
			kept = append(kept, old)
		case old.advice == advice && old.from <= added.to && added.from <= old.to:
			added.byteRange = byteRange{min(old.from, added.from), max(old.to, added.to)}
		default:
			for _, rest := range without([]byteRange{old.byteRange}, s) {
				kept = append(kept, hint{rest, old.advice})
			}
		}
	}
	if len(kept) >= maxHints {
		kept = kept[len(kept)-maxHints+1:]
	}
	f.windows.setHints(append(kept, added))
}

// renewHints gives a new map the hints that last.
func (f *MappedFile) renewHints(m *mapping) {
	for _, hint := range f.windows.hints() {
		if part := m.part(hint.byteRange); part != nil {
			system.advise(part, hint.advice)
		}
	}
}

// advise gives a hint, in the system's number, for a range.
func (f *MappedFile) advise(s byteRange, advice int) error {
	if f.isClosed() {
		return fs.ErrClosed
	}
	if advice == unsupportedAdvice {
		return errors.ErrUnsupported
	}
	s = s.pages()
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	if !slices.ContainsFunc(f.windows.live, func(m *mapping) bool { return m.byteRange().overlaps(s) }) {
		_, err := f.mapWindowLocked(s.from, f.writesStay && f.windows.size == wholeFile)
		if err == io.EOF && len(f.windows.live) == 0 {
			return ErrNotMapped
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	if advice == sysAdviseWillNeed && f.readAhead(s) == nil {
		return nil
	}
	var err error
	for _, m := range f.windows.live {
		part := m.part(s)
		if part == nil || m.private && sysChangesPrivate(advice) {
			continue
		}
		err = join(err, system.advise(part, advice))
		if advice == sysAdvisePageOut {
			first, last := pageSpan(max(s.from-m.offset, 0), len(part))
			m.resident.remove(first, last)
		}
	}
	if err == nil && sysLastingKind(advice) != 0 {
		f.keepHint(s, advice)
	}
	return err
}

const (
	readAheadStep = 128 << 10 // what Linux reads for one hint, at least
	maxReadAhead  = 64 << 20  // then the disk has enough to do, and the caller would wait for it
)

// readAhead has the system start reading a range, mapped or not. The caller holds f.windows.mu.
func (f *MappedFile) readAhead(s byteRange) error {
	info, err := f.stat()
	if err != nil {
		return err
	}
	s.to = min(s.to, info.Size())
	if s.from >= s.to {
		return nil
	}
	s.to = min(s.to, s.from+maxReadAhead)
	return f.descriptor.do(func(fd uintptr) error {
		for ; s.from < s.to; s.from += readAheadStep {
			if err := system.readAhead(fd, s.from, min(s.to-s.from, readAheadStep)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Advise passes a hint in the system's own numbers (MADV_… of madvise(2)) on for the whole
// map. A number that may destroy data is refused with an error wrapping fs.ErrInvalid;
// PunchHole is the method that frees a range.
//
// All Advise methods map the file if it is not mapped, and fail with ErrNotMapped if it
// cannot be; a hint that the system does not have gives errors.ErrUnsupported. No hint
// changes what is read. A hint about the order of reading or about large pages lasts: it holds
// for every later map and window, until another one takes its place. All others are about the moment,
// and reach what is mapped then.
func (f *MappedFile) Advise(advice int) error {
	if sysDestroysData(advice) || advice < 0 {
		return f.wrap("advise", fmt.Errorf("advice %d may be more than a hint (to free a range use PunchHole): %w", advice, fs.ErrInvalid))
	}
	return f.wrap("advise", f.advise(wholeRange, advice))
}

// AdviseRange gives a hint for the n bytes from off on, in whole pages: those that the range
// touches. The range may reach past the end of the file. If none of it is mapped, the window at off is. For
// a lasting hint each file remembers the last 1024 ranges. A negative argument gives ErrInvalidOffset,
// an unknown advice fs.ErrInvalid.
func (f *MappedFile) AdviseRange(off, n int64, advice Advice) error {
	s, err := rangeOf(off, n)
	switch {
	case f.isClosed():
		err = fs.ErrClosed
	case err != nil:
	case advice < 0 || int(advice) >= len(advices):
		err = fmt.Errorf("%v: %w", advice, fs.ErrInvalid)
	case n > 0:
		err = f.advise(s, advices[advice].number)
	}
	return f.wrap("advise", err)
}

// AdviseSequential hints that the file will be read from start to end: the system reads ahead
// more, and may drop pages soon after they were read. It holds for later maps, too.
func (f *MappedFile) AdviseSequential() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdviseSequential))
}

// AdviseRandom hints that the file will be read in no order: the system does not read ahead.
// It holds for later maps, too.
func (f *MappedFile) AdviseRandom() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdviseRandom))
}

// AdviseWillNeed hints that the file will be needed soon: the system may start reading it in,
// mapped or not, and does not wait for it. Of a large file it is the first 64 MiB; Prefetch brings in all,
// and waits.
func (f *MappedFile) AdviseWillNeed() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdviseWillNeed))
}

// AdviseDontNeed hints that the file will not be needed soon: its pages leave the process, and
// come back from the page cache or the disk. Private pages of a copy-on-write map stay.
func (f *MappedFile) AdviseDontNeed() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdviseDontNeed))
}

// AdviseFree hints that memory may be reclaimed from the file's pages now. Changed pages are
// written to the file first: nothing is lost. It is MADV_PAGEOUT on Linux (5.4); MADV_FREE,
// which loses data, does not exist for file maps (madvise(2)).
func (f *MappedFile) AdviseFree() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdvisePageOut))
}

// AdviseRemove hints that the pages will not be needed for a while and should be reclaimed
// before others. It is MADV_COLD on Linux (5.4), and never the MADV_REMOVE that punches a
// hole in the file.
func (f *MappedFile) AdviseRemove() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdviseCold))
}

// AdviseHugePage hints that large pages should back the map. Linux only. It holds for later
// maps, too.
func (f *MappedFile) AdviseHugePage() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdviseHugePage))
}

// AdviseNoHugePage hints that large pages should not back the map. Linux only. It holds for
// later maps, too.
func (f *MappedFile) AdviseNoHugePage() error {
	return f.wrap("advise", f.advise(wholeRange, sysAdviseNoHugePage))
}

// mapAtOpen maps the file as the Config's options for opening say. Only with RequireMapping and LockPages is
// it an error that it cannot be mapped, or locked; an empty file, or one that is not regular, is none.
func (f *MappedFile) mapAtOpen() error {
	config := &f.mfs.config
	if config.RequireMapping || config.LockPages {
		info, err := f.stat()
		if err == nil && info.Mode().IsRegular() && info.Size() > 0 && f.flag&accessMode != os.O_WRONLY {
			_, err = f.mapWindow(0, f.writesStay && f.windows.mapsWhole())
		}
		if err != nil && err != io.EOF && (config.RequireMapping || !errors.Is(err, ErrNotMapped)) {
			return err
		}
	}
	if !config.Preload && !config.PreloadAsync && !config.PopulatePages {
		return nil
	}
	if config.PreloadAsync {
		f.preloading = new(sync.WaitGroup)
		f.preloading.Add(1)
		go func() {
			defer f.preloading.Done()
			if f.canMap() {
				f.prefetch(wholeRange)
			}
		}()
		return nil
	}
	if f.canMap() && !config.PopulatePages {
		f.advise(wholeRange, sysAdviseWillNeed)
	}
	return nil
}

// canMap maps the start of the file and reports success.
func (f *MappedFile) canMap() bool {
	_, err := f.mapWindow(0, f.writesStay && f.windows.mapsWhole())
	return err == nil
}
