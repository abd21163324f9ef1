package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	return f.wrap("advise", advise(f, wholeRange, advice))
}

// AdviseRange gives a hint for the n bytes from off on, in whole pages: those that the range
// touches. The range may reach past the end of the file. If none of it is mapped, the window at off is. For
// a lasting hint each file remembers the last 1024 ranges. A negative argument gives ErrInvalidOffset,
// an unknown advice fs.ErrInvalid.
func (f *MappedFile) AdviseRange(off, n int64, advice Advice) error {
	s, err := rangeOf(off, n)
	switch {
	case f.maps.isClosed():
		err = fs.ErrClosed
	case err != nil:
	case advice < 0 || int(advice) >= len(advices):
		err = fmt.Errorf("%v: %w", advice, fs.ErrInvalid)
	case n > 0:
		err = advise(f, s, advices[advice].number)
	}
	return f.wrap("advise", err)
}

// advise gives a hint, in the system's number, for a range of a file.
func advise(f *MappedFile, s byteRange, advice int) error {
	err := f.maps.advise(s, advice)
	if err == nil && f.private != nil && advice == sysAdviseDontNeed {
		f.private.dropUnused(s)
	}
	return err
}

// AdviseSequential hints that the file will be read from start to end: the system reads ahead
// more, and may drop pages soon after they were read. It holds for later maps, too.
func (f *MappedFile) AdviseSequential() error {
	return f.wrap("advise", f.maps.advise(wholeRange, sysAdviseSequential))
}

// AdviseRandom hints that the file will be read in no order: the system does not read ahead.
// It holds for later maps, too.
func (f *MappedFile) AdviseRandom() error {
	return f.wrap("advise", f.maps.advise(wholeRange, sysAdviseRandom))
}

// AdviseWillNeed hints that the file will be needed soon: the system may start reading it in,
// mapped or not, and does not wait for it. Of a large file it is the first 64 MiB; Prefetch brings in all,
// and waits.
func (f *MappedFile) AdviseWillNeed() error {
	return f.wrap("advise", f.maps.advise(wholeRange, sysAdviseWillNeed))
}

// AdviseDontNeed hints that the file will not be needed soon: its pages leave the process, and
// come back from the page cache or the disk. In ModeCopyOnWrite nothing private is lost, and what Data
// has handed out or a View is using stays.
func (f *MappedFile) AdviseDontNeed() error {
	return f.wrap("advise", advise(f, wholeRange, sysAdviseDontNeed))
}

// AdviseFree hints that memory may be reclaimed from the file's pages now. Changed pages stay in
// the page cache until they were written (Sync): nothing is lost. It is MADV_PAGEOUT on Linux
// (5.4); MADV_FREE, which loses data, does not exist for file maps (madvise(2)).
func (f *MappedFile) AdviseFree() error {
	return f.wrap("advise", f.maps.advise(wholeRange, sysAdvisePageOut))
}

// AdviseRemove hints that the pages will not be needed for a while and should be reclaimed
// before others. It is MADV_COLD on Linux (5.4), and never the MADV_REMOVE that punches a
// hole in the file.
func (f *MappedFile) AdviseRemove() error {
	return f.wrap("advise", f.maps.advise(wholeRange, sysAdviseCold))
}

// AdviseHugePage hints that large pages should back the map. Linux only. It holds for later
// maps, too.
func (f *MappedFile) AdviseHugePage() error {
	return f.wrap("advise", f.maps.advise(wholeRange, sysAdviseHugePage))
}

// AdviseNoHugePage hints that large pages should not back the map. Linux only. It holds for
// later maps, too.
func (f *MappedFile) AdviseNoHugePage() error {
	return f.wrap("advise", f.maps.advise(wholeRange, sysAdviseNoHugePage))
}

// mapAtOpen maps the file as the Config's options for opening say. Only with RequireMapping and LockPages is
// it an error that it cannot be mapped, or locked; an empty file, or one that is not regular, is none.
func (f *MappedFile) mapAtOpen() error {
	config := &f.handles.config
	if config.RequireMapping || config.LockPages {
		info, err := f.maps.stat()
		if err == nil && info.Mode().IsRegular() && info.Size() > 0 && f.maps.access() != os.O_WRONLY {
			_, err = f.maps.mapWindow(0)
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
				f.maps.prefetch(wholeRange)
			}
		}()
		return nil
	}
	if f.canMap() && !config.PopulatePages {
		f.maps.advise(wholeRange, sysAdviseWillNeed)
	}
	return nil
}

// canMap maps the start of the file and reports success.
func (f *MappedFile) canMap() bool {
	_, err := f.maps.mapWindow(0)
	return err == nil
}
