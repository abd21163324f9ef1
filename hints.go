package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// hint is an advice that holds for later maps of a range, too. Of one kind, no two overlap.
type hint struct {
	byteRange
	advice int
}

// maxHints is the number of ranges for which a file remembers a lasting hint.
const maxHints = 1024

// lastingHints returns the hints that hold for later maps.
func (f *fileMaps) lastingHints() []hint {
	if hints := f.hints.Load(); hints != nil {
		return *hints
	}
	return nil
}

// withHint returns the lasting hints with one more, in place of what it contradicts, and those that
// are forgotten for it.
func (f *fileMaps) withHint(s byteRange, advice int) (kept, forgotten []hint) {
	added := hint{s, advice}
	for _, old := range f.lastingHints() {
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
	if surplus := len(kept) - (maxHints - 1); surplus > 0 {
		kept, forgotten = kept[surplus:], kept[:surplus]
	}
	return append(kept, added), forgotten
}

// cutLocked takes note of where hints and locks cut the maps, and fails with nothing changed if the
// process would have too many by that. The caller holds windows.mu.
func (f *fileMaps) cutLocked(hints []hint, locked []byteRange) error {
	maps := slices.Concat(f.windows.live, f.windows.others)
	before := make([]int64, 0, len(maps))
	for _, m := range maps {
		before = append(before, m.life.cuts.Load())
		if m.isRevoked() {
			continue
		}
		if err := m.cutAt(m.oldCuts + cuts(m, hints, locked)); err != nil {
			for i, places := range before {
				maps[i].cutAt(places)
			}
			return err
		}
	}
	return nil
}

// cuts counts, at most, the places where hints and locks cut a map.
func cuts(m *mapping, hints []hint, locked []byteRange) (places int64) {
	from, to := m.offset, m.offset+int64(len(m.data))
	count := func(s byteRange) {
		if s.from > from && s.from < to {
			places++
		}
		if s.to > from && s.to < to {
			places++
		}
	}
	for _, hint := range hints {
		count(hint.byteRange)
	}
	for _, s := range locked {
		count(s)
	}
	return places
}

// renewHintsLocked gives a map the hints that last, unless it would be cut into more pieces than
// the process may have maps. The caller holds windows.mu.
func (f *fileMaps) renewHintsLocked(m *mapping) {
	if m.cutAt(cuts(m, f.lastingHints(), f.windows.locked)) != nil {
		return
	}
	for _, hint := range f.lastingHints() {
		if part := m.part(hint.byteRange); part != nil {
			system.advise(part, hint.advice)
		}
	}
}

// advise gives a hint, in the system's number, for a range.
func (f *fileMaps) advise(s byteRange, advice int) error {
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
		_, err := f.mapWindowLocked(s.from, true)
		if err == io.EOF && len(f.windows.live) == 0 {
			return ErrNotMapped
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	if advice == sysAdviseWillNeed && f.readAheadLocked(s) == nil {
		return nil
	}
	lasts := sysLastingKind(advice) != 0
	if sysLastingKind(advice) == aboutReading {
		f.readAloneLocked(false)
	}
	kept, forgotten := f.lastingHints(), []hint(nil)
	if lasts {
		kept, forgotten = f.withHint(s, advice)
		if err := f.cutLocked(kept, f.windows.locked); err != nil {
			return err
		}
	}
	var err error
	for _, m := range slices.Concat(f.windows.live, f.windows.others) {
		part := m.part(s)
		if part == nil || m.isRevoked() || m.private && m.writable && sysChangesPrivate(advice) {
			continue // it would lose what was stored there, or hold pages that do not follow the file
		}
		if adviseErr := system.advise(part, advice); m.writable || !sysChangesPrivate(advice) {
			err = join(err, adviseError(adviseErr)) // else it may be that there is nothing to make writable
		}
		if advice == sysAdvisePageOut || advice == sysAdviseCold {
			first, last := pageSpan(max(s.from-m.offset, 0), len(part))
			m.resident.remove(first, last)
		}
	}
	if err == nil && lasts {
		f.hints.Store(&kept)
		f.endHintsLocked(forgotten)
	}
	return err
}

// endHintsLocked takes back forgotten hints. Those about large pages have no neutral form: they stay, and
// so do the cuts that they make. The caller holds windows.mu.
func (f *fileMaps) endHintsLocked(forgotten []hint) {
	for _, hint := range forgotten {
		for _, m := range slices.Concat(f.windows.live, f.windows.others) {
			part := m.part(hint.byteRange)
			switch {
			case part == nil || m.isRevoked():
			case sysLastingKind(hint.advice) == aboutReading:
				system.advise(part, sysAdviseNormal)
			default:
				m.oldCuts += cuts(m, nil, []byteRange{hint.byteRange})
			}
		}
	}
}

// aboutReading is the kind of the hints that say whether page faults read around.
var aboutReading = sysLastingKind(sysAdviseNormal)

// readAlone says whether a page fault in the maps that lookups find reads none of the pages around it. Otherwise
// Linux reads as much as the disk reads ahead (read_ahead_kb), often megabytes, and where memory is short each of
// these pages drives out another. It is not for always, because Linux lets pages that are used through such a map
// go first (vma_has_recency in mm_inline.h, since 6.3). A file with a hint about that stays as it is. Where the
// lock is held nothing is done: the clock asks again.
func (f *fileMaps) readAlone(alone bool) {
	if !alone && !f.lone.Load() || !f.windows.mu.TryLock() {
		return
	}
	defer f.windows.mu.Unlock()
	if !alone || !slices.ContainsFunc(f.lastingHints(), func(h hint) bool { return sysLastingKind(h.advice) == aboutReading }) {
		f.readAloneLocked(alone)
	}
}

// readAloneLocked is readAlone whatever hints there are; the caller holds windows.mu.
func (f *fileMaps) readAloneLocked(alone bool) {
	f.lone.Store(alone)
	for _, m := range f.windows.live {
		if !m.cold {
			m.readAlone(alone)
		}
	}
}

// adviseError gives the system's answer to a hint that it does not know one form: a kernel that
// lacks a number says EINVAL (madvise(2)), and of a range that is mapped there is nothing else to say
// so about.
func adviseError(err error) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) {
		return fmt.Errorf("this system does not have the hint: %w: %w", errors.ErrUnsupported, err)
	}
	return err
}

const (
	readAheadStep = 128 << 10 // what Linux reads for one hint, at least
	maxReadAhead  = 64 << 20  // then the disk has enough to do, and the caller would wait for it
)

// readAheadLocked has the system start reading a range, mapped or not. The caller holds windows.mu.
func (f *fileMaps) readAheadLocked(s byteRange) error {
	info, err := f.stat()
	if err != nil {
		return err
	}
	s.to = min(s.to, info.Size())
	if s.from >= s.to {
		return nil
	}
	s.to = min(s.to, s.from+maxReadAhead)
	return f.descriptor.Load().do(func(fd uintptr) error {
		for ; s.from < s.to; s.from += readAheadStep {
			if err := system.readAhead(fd, s.from, min(s.to-s.from, readAheadStep)); err != nil {
				return err
			}
		}
		return nil
	})
}

// errNotLocked reports that the system does not keep pages in memory.
var errNotLocked = errors.New("cannot keep the pages in memory")

// notLocked says what to try where a limit was reached.
func notLocked(reason error) error {
	switch {
	case errors.Is(reason, errOverBudget):
		return fmt.Errorf("%w: %w (lock fewer ranges: each is a map of its own)", errNotLocked, reason)
	case sysIsShortage(reason), errors.Is(reason, syscall.EPERM):
		return fmt.Errorf("%w: %w (raise RLIMIT_MEMLOCK, see ulimit -l, or on Windows the minimum working set of "+
			"the process, or lock fewer bytes with LockMemory)", errNotLocked, reason)
	}
	return fmt.Errorf("%w: %w", errNotLocked, reason)
}

// lock keeps the pages of a range in memory, or none more than before if it fails.
func (f *fileMaps) lock(s byteRange) error {
	info, err := f.mappable()
	if err != nil {
		return err
	}
	if s.to > info.Size() {
		return io.EOF
	}
	if err := f.prefetch(s); err != nil {
		return err
	}
	w := &f.windows
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.locked
	after := with(before, s.pages())
	if err := f.cutLocked(f.lastingHints(), after); err != nil {
		return notLocked(err)
	}
	w.locked = after // so that no window is dropped for the next
	done, err := f.lockWindowsLocked(s)
	if err == nil {
		return nil
	}
	w.locked = before
	f.cutLocked(f.lastingHints(), before)
	if !f.host.config.LockPages {
		rest := []byteRange{s.pages()}
		for _, old := range before {
			rest = without(rest, old)
		}
		for _, m := range done {
			m.unlock(rest)
		}
	}
	return err
}

// lockWindowsLocked locks the pages of a range in all windows that have them, and returns those
// where it did, or tried to. The caller holds windows.mu.
func (f *fileMaps) lockWindowsLocked(s byteRange) (done []*mapping, err error) {
	for at := s.from; at < s.to; {
		m, err := f.mapWindowLocked(at, true)
		if err != nil {
			return done, err
		}
		limit := m.limit.Load()
		if at >= m.offset+limit {
			return done, io.EOF // the file has shrunk
		}
		done = append(done, m) // a lock that fails may have locked some
		if err := lockPart(m.part(s)); err != nil {
			if info, statErr := f.stat(); statErr == nil && s.to > info.Size() {
				return done, io.EOF
			}
			return done, notLocked(err)
		}
		at = m.offset + limit
	}
	return done, nil
}

// lockPart locks pages that prefetch has brought in before, and has them touched: where a lock takes pages
// as they are touched, those of a private map are not copied by it.
func lockPart(part []byte) error {
	if len(part) == 0 {
		return nil
	}
	if err := system.lockPages(part, filtered()); err != nil {
		return err
	}
	if !filtered() && system.populate(part) == nil {
		return nil
	}
	for at := int64(0); at < int64(len(part)); at += pageBytes {
		readable(&part[at])
	}
	return nil
}

func (m *mapping) unlock(ranges []byteRange) (err error) {
	for _, s := range ranges {
		if part := m.part(s); part != nil {
			err = join(err, system.unlockPages(part))
		}
	}
	return err
}

// unlock undoes lock for the pages of a range.
func (f *fileMaps) unlock(s byteRange) (err error) {
	s = s.pages()
	f.windows.mu.Lock()
	defer f.windows.mu.Unlock()
	after := without(f.windows.locked, s)
	if err := f.cutLocked(f.lastingHints(), after); err != nil {
		return err
	}
	f.windows.locked = after
	for _, m := range f.windows.live {
		err = join(err, m.unlock([]byteRange{s}))
	}
	return err
}

// lockPagesLocked locks what is to be locked of a new map, and fails if that is all of it and
// cannot be. The caller holds windows.mu.
func (f *fileMaps) lockPagesLocked(m *mapping) error {
	if f.host.config.LockPages {
		if err := lockPart(m.part(byteRange{m.offset, m.offset + m.limit.Load()})); err != nil {
			return notLocked(err)
		}
		return nil
	}
	if m.cutAt(cuts(m, f.lastingHints(), f.windows.locked)) != nil {
		return nil // as where the system does not allow so much to be locked
	}
	for _, s := range f.windows.locked {
		s.to = min(s.to, m.offset+m.limit.Load())
		lockPart(m.part(s))
	}
	return nil
}
