package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"syscall"
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

// The pages of a file that are in memory, and those that it does without.

// Prefetch reads the n bytes from off on into memory and waits for them. Reads of them then need no disk,
// and no system call where the file is mapped, until the system needs the memory for something else. It
// maps the file if it can: the whole file, or as many windows as Config.MaxWindows leaves room for, and
// drops none. A file that cannot be mapped is read through the wrapped file.
//
// The waiting is done in system calls, so other goroutines run meanwhile; a bad disk is an error and never
// a fault. What lies past the end of the file is left out. Close, which may be called meanwhile, ends it
// with fs.ErrClosed. A negative argument gives ErrInvalidOffset.
func (f *MappedFile) Prefetch(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil {
		err = f.maps.prefetch(s)
	}
	return f.wrap("prefetch", err)
}

// Residency returns how many bytes of the n from off on are in memory, in the page cache, and how many
// there are; both count whole pages, and end where the file ends. It maps nothing and brings nothing in.
// The answer may be old when it is there. Private pages of a copy-on-write file are not counted: they
// are always in memory, beside the file's.
//
// The answer is trusted if the system is known to give it truly. That takes the right to write the file,
// or its ownership, whatever the handle was opened for: to others Linux says of every page that it is in
// memory, or nothing. Where the system gives no answer (all but Linux; hugetlbfs; a file without a
// descriptor) the error wraps errors.ErrUnsupported. A negative argument gives ErrInvalidOffset.
func (f *MappedFile) Residency(off, n int64) (resident, total int64, trusted bool, err error) {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil {
		resident, total, trusted, err = f.maps.residency(s)
	}
	return resident, total, trusted, f.wrap("residency", err)
}

// LockMemory keeps the n bytes from off on in memory (mlock(2)), in whole pages, until UnlockMemory or
// Close. It brings them in first. It maps the file, with ErrNotMapped if it cannot be mapped; windows that hold
// locked pages stay mapped, and ErrNotMapped also says that Config.MaxWindows leaves no room for them.
// After Truncate and RemapAfterTruncation the pages are locked again when the file is mapped again, if
// the system allows it then.
//
// Locking a page twice is no more than once. A range that reaches past the end of the file gives io.EOF,
// a negative one ErrInvalidOffset. What the system allows a process to lock is limited, often to 8 MiB;
// the error at the limit says what to try. After an error nothing more is locked than before.
//
// In ModeCopyOnWrite it keeps the file's pages in memory, and not the bytes that the handle has in their
// place.
func (f *MappedFile) LockMemory(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil && n > 0 {
		err = f.maps.lock(s)
	}
	return f.wrap("lock", err)
}

// UnlockMemory undoes LockMemory, or Config.LockPages, for the pages that the n bytes from off on touch.
// Pages that are not locked are none the worse. A negative argument gives ErrInvalidOffset.
func (f *MappedFile) UnlockMemory(off, n int64) error {
	s, err := rangeOf(off, n)
	if f.maps.isClosed() {
		err = fs.ErrClosed
	}
	if err == nil && n > 0 {
		err = f.maps.unlock(s)
	}
	return f.wrap("unlock", err)
}

// errCopyOnWriteHole refuses to free blocks that the handle does not own.
var errCopyOnWriteHole = fmt.Errorf("a copy-on-write handle has no blocks to free, write zeros instead: %w", errors.ErrUnsupported)

// PunchHole gives the disk space of the n bytes from off on back to the filesystem, as far as whole
// blocks lie in the range. The bytes read as zeros afterwards, all n of them and through every handle and
// map of the file but for private pages of copy-on-write handles. The file's size stays; what lies past the
// end of the file is left out. It is a write: what SyncMode promises holds for it, and a handle that may
// not write refuses it as Write does.
//
// In ModeCopyOnWrite it is refused as Truncate is: the blocks are the file's, which stays as it is, and
// zeros in the handle would cost memory and free nothing. A file whose filesystem has no holes, or that
// offers no descriptor, gives an error wrapping errors.ErrUnsupported, and is not changed. A negative
// argument gives ErrInvalidOffset. It works on Linux (fallocate(2)), macOS
// and Windows, where it takes maps away and can fail as MemMapFS.Truncate does.
func (f *MappedFile) PunchHole(off, n int64) error {
	return f.wrap("punch", f.punchHole(off, n))
}

func (f *MappedFile) punchHole(off, n int64) error {
	if err := f.writable(); err != nil {
		return err
	}
	s, err := rangeOf(off, n)
	if err != nil {
		return err
	}
	info, err := f.maps.stat()
	switch {
	case err != nil:
		return err
	case f.private != nil:
		return errCopyOnWriteHole
	case f.maps.access() == os.O_RDONLY:
		return syscall.EBADF
	case !info.Mode().IsRegular():
		return errors.ErrUnsupported
	}
	s.to = min(s.to, info.Size())
	if s.from >= s.to {
		return nil
	}
	hole := byteRange{(s.from + sysHoleUnit - 1) / sysHoleUnit * sysHoleUnit, s.to / sysHoleUnit * sysHoleUnit}
	if hole.from >= hole.to {
		return f.writeZeros(s)
	}
	if err := f.unsynced.beginWrite(); err != nil {
		return err
	}
	defer f.unsynced.endWrite()
	if err = f.freeBlocks(info, hole); err != nil {
		return err
	}
	f.handles.each(f.maps.stat, func(other *MappedFile) { other.maps.forgetPages(hole) })
	err = join(f.writeZeros(byteRange{s.from, hole.from}), f.writeZeros(byteRange{hole.to, s.to}))
	if f.maps.flag&os.O_SYNC != 0 { // the descriptor may be another one
		return join(err, f.unsynced.flush())
	}
	return join(err, f.unsynced.wrote(0, 0))
}

// freeBlocks is PunchHole for whole blocks.
func (f *MappedFile) freeBlocks(info os.FileInfo, hole byteRange) error {
	punch := func(d *descriptor) error {
		return d.do(func(fd uintptr) error { return system.punchHole(fd, hole.from, hole.to-hole.from) })
	}
	if !sysMapsHoldFiles {
		return f.maps.withDescriptor(true, punch)
	}
	return f.handles.withoutMaps(func() error {
		d, err := f.maps.findDescriptor(info, true)
		if err != nil {
			return err
		}
		return join(punch(d), d.close())
	}, f.maps.stat)
}

// writeZeros is PunchHole for the part of a block.
func (f *MappedFile) writeZeros(s byteRange) error {
	if s.from >= s.to {
		return nil
	}
	if f.maps.flag&os.O_APPEND != 0 {
		return fmt.Errorf("part of a block cannot be freed by a handle that appends: %w", errors.ErrUnsupported)
	}
	_, err := f.writeAt(make([]byte, s.to-s.from), s.from)
	return err
}
