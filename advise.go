package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// advise gives a hint for the whole map, mapping the file if it is not mapped. A lasting hint
// is given to every later map, too. A system without the hint has unsupportedAdvice.
func (f *MappedFile) advise(advice int, lasting bool) error {
	if f.isClosed() {
		return fs.ErrClosed
	}
	if advice == unsupportedAdvice {
		return errors.ErrUnsupported
	}
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	if lasting {
		f.advice = append(slices.DeleteFunc(f.advice, func(old int) bool { return sysReplaces(advice, old) }), advice)
	}
	if len(f.windows.live) == 0 {
		_, err := f.mapWindowLocked(0, f.writesStay && f.windows.size == wholeFile)
		if err == io.EOF {
			err = ErrNotMapped
		}
		if err != nil || lasting {
			return err
		}
	}
	var err error
	for _, m := range f.windows.live {
		if m.private && advice == sysAdviseDontNeed {
			continue // it would drop the private pages
		}
		err = join(err, system.advise(m.data, advice))
	}
	return err
}

const unsupportedAdvice = -1

// Advise passes a hint in the system's own numbers (MADV_… of madvise(2)) on for the whole
// map. Hints that destroy data are refused.
//
// All Advise methods map the file if it is not mapped, and fail with ErrNotMapped if it
// cannot be; a hint that the system does not have gives errors.ErrUnsupported. No hint
// changes what is read.
func (f *MappedFile) Advise(advice int) error {
	if sysDestroysData(advice) || advice < 0 {
		return f.wrap("advise", fmt.Errorf("advice %d is not a mere hint: %w", advice, fs.ErrInvalid))
	}
	return f.wrap("advise", f.advise(advice, false))
}

// AdviseSequential hints that the file will be read from start to end: the system reads ahead
// more, and may drop pages soon after they were read. It holds for later maps, too.
func (f *MappedFile) AdviseSequential() error {
	return f.wrap("advise", f.advise(sysAdviseSequential, true))
}

// AdviseRandom hints that the file will be read in no order: the system does not read ahead.
// It holds for later maps, too.
func (f *MappedFile) AdviseRandom() error {
	return f.wrap("advise", f.advise(sysAdviseRandom, true))
}

// AdviseWillNeed hints that the file will be needed soon: the system may start reading it in.
func (f *MappedFile) AdviseWillNeed() error {
	return f.wrap("advise", f.advise(sysAdviseWillNeed, false))
}

// AdviseDontNeed hints that the file will not be needed soon: its pages leave the process, and
// come back from the page cache or the disk. Private pages of a copy-on-write map stay.
func (f *MappedFile) AdviseDontNeed() error {
	return f.wrap("advise", f.advise(sysAdviseDontNeed, false))
}

// AdviseFree hints that memory may be reclaimed from the file's pages now. Changed pages are
// written to the file first: nothing is lost. It is MADV_PAGEOUT on Linux (5.4); MADV_FREE,
// which loses data, does not exist for file maps (madvise(2)).
func (f *MappedFile) AdviseFree() error {
	return f.wrap("advise", f.advise(sysAdvisePageOut, false))
}

// AdviseRemove hints that the pages will not be needed for a while and should be reclaimed
// before others. It is MADV_COLD on Linux (5.4), and never the MADV_REMOVE that punches a
// hole in the file.
func (f *MappedFile) AdviseRemove() error {
	return f.wrap("advise", f.advise(sysAdviseCold, false))
}

// AdviseHugePage hints that large pages should back the map. Linux only. It holds for later
// maps, too.
func (f *MappedFile) AdviseHugePage() error {
	return f.wrap("advise", f.advise(sysAdviseHugePage, true))
}

// AdviseNoHugePage hints that large pages should not back the map. Linux only. It holds for
// later maps, too.
func (f *MappedFile) AdviseNoHugePage() error {
	return f.wrap("advise", f.advise(sysAdviseNoHugePage, true))
}

// mapAtOpen maps the file as the Config's options for opening say. Only with RequireMapping is
// it an error that it cannot be mapped; an empty file, or one that is not regular, is none.
func (f *MappedFile) mapAtOpen() error {
	config := &f.mfs.config
	if config.RequireMapping {
		info, err := f.stat()
		if err == nil && info.Mode().IsRegular() && info.Size() > 0 && f.flag&accessMode != os.O_WRONLY {
			_, err = f.mapWindow(0, f.writesStay && f.windows.mapsWhole())
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	if !config.Preload && !config.PreloadAsync && !config.PopulatePages {
		return nil
	}
	load := func() {
		if _, err := f.mapWindow(0, f.writesStay && f.windows.mapsWhole()); err == nil {
			f.advise(sysAdviseWillNeed, false)
		}
	}
	if !config.PreloadAsync {
		load()
		return nil
	}
	f.preloading.Add(1)
	go func() {
		defer f.preloading.Done()
		load()
	}()
	return nil
}
