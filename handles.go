package memmapfs

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/absfs/absfs"
)

// handles are the open files of one MemMapFS, as far as it has to find them: those that were ever
// mapped, and those with writes to flush. They are held weakly, so that a handle dropped without
// Close is collected, as an os.File is.
type handles struct {
	host
	flusher flusher

	changing sync.Mutex // held while several files' windows.mu are: see withoutMaps; all locks of files are taken under it

	mu     sync.Mutex // guards the fields below; no lock is taken under it
	open   weakList[MappedFile]
	ageing *time.Timer
	wanted bool // somebody has registered since the clock last looked for maps
	age    ageClock
}

// openFile makes a MappedFile of file, which was opened with flag.
func (h *handles) openFile(file absfs.File, flag int) (*MappedFile, error) {
	f := &MappedFile{handles: h}
	f.maps.openFile = openFile{file: file, host: &h.host, registry: f, flag: flag}
	f.maps.compares = !f.maps.isTransparent()
	f.unsynced.maps, f.unsynced.flusher = &f.maps, &h.flusher
	f.maps.windows.size = wholeFile
	f.maps.windows.budget = h.config.MaxWindows
	if !h.config.MapFullFile {
		f.maps.windows.size = h.config.WindowSize
	}
	if err := f.setMode(); err != nil {
		return nil, err
	}
	if r := f.maps.refuseOpened(); r != nil {
		f.maps.refuse(r)
	}
	if flag&os.O_TRUNC != 0 {
		h.resized(f.maps.stat)
	}
	if h.config.NoCache && f.maps.offersDescriptor() {
		f.maps.bypassCache()
	}
	if err := f.mapAtOpen(); err != nil {
		f.maps.closed.Store(true)
		h.forget(f)
		f.maps.end()
		f.maps.closeDescriptor()
		return nil, err
	}
	h.counters.open.Add(1)
	return f, nil
}

// setMode settles how the file is mapped and where writes go.
func (f *MappedFile) setMode() error {
	config, flag := &f.handles.config, f.maps.flag
	mode := config.Mode
	if mode == ModeCopyOnWrite {
		info, err := f.maps.file.Stat()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && info.Size() > 0 {
			f.private = &privateBytes{maps: &f.maps}
			f.maps.hidden = new(hiddenPages)
			f.unsynced.stays = true
			f.position.owned.Store(true)
		} else {
			mode = ModeReadWrite
		}
	}
	f.maps.writable = f.maps.access() == os.O_RDWR && mode == ModeReadWrite
	f.mayStore = f.maps.writable && flag&(os.O_APPEND|os.O_SYNC) == 0 && config.SyncMode != SyncImmediate
	if !sysMapsAgreeWithIO && f.maps.access() == os.O_RDWR && !f.maps.writable && f.private == nil {
		// What is mapped is read and written through maps alone there, and its maps are read-only.
		f.maps.refuse(refuse(refusedByPolicy, errModeAndCalls, false))
	}
	return nil
}

// register enters f, and reports false if it or the filesystem is closed.
func (h *handles) register(f *MappedFile) bool {
	f.maps.known.Store(true) // before closed is looked at: Close does it the other way round
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed.Load() || f.maps.closed.Load() {
		return false
	}
	h.startAgeingLocked()
	if f.place == nil {
		f.place = h.open.add(f)
	}
	return true
}

// forget takes f, which is being closed, out again.
func (h *handles) forget(f *MappedFile) {
	h.flusher.remove(&f.unsynced)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open.remove(f.place)
}

// files returns the files that were registered. It may wait for a collection of garbage.
func (h *handles) files() []*MappedFile { return h.open.values(&h.mu) }

// each calls fn for every open file that was ever mapped and is the one that stat describes. No lock
// is held: one file's may be held for as long as its disk hangs.
func (h *handles) each(stat func() (os.FileInfo, error), fn func(f *MappedFile)) {
	if h.mapped.Load() == 0 {
		return
	}
	info, err := stat()
	if err != nil {
		return
	}
	for _, f := range h.files() {
		if f.maps.isFileOf(info) {
			fn(f)
		}
	}
}

// resized has all maps of the file that stat describes ask for its size anew.
func (h *handles) resized(stat func() (os.FileInfo, error)) {
	h.each(stat, func(f *MappedFile) { f.maps.measure() })
}

// withoutMaps calls change, which makes the file that each of infos describes smaller, or takes it
// away from its name. Where a map keeps the system from doing that, these files have no map of this
// filesystem meanwhile, but for those that a View uses; they are mapped again on need.
func (h *handles) withoutMaps(change func() error, infos ...func() (os.FileInfo, error)) error {
	if !sysMapsHoldFiles || h.mapped.Load() == 0 {
		return heldByMap(change())
	}
	var targets []os.FileInfo
	for _, info := range infos {
		if target, err := info(); err == nil {
			targets = append(targets, target)
		}
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	for _, f := range h.files() {
		if !slices.ContainsFunc(targets, f.maps.isFileOf) {
			continue
		}
		if f.private != nil && !f.private.letGo() {
			continue
		}
		f.maps.windows.mu.Lock()
		defer f.maps.windows.mu.Unlock() // after change
		f.maps.unmapLocked()
		f.unsynced.endExposure()
	}
	return heldByMap(change())
}

// heldByMap adds to the system's refusal to change a mapped file what to do about it.
func heldByMap(err error) error {
	if err == nil || !sysIsHeldByMap(err) {
		return err
	}
	return because(err, errHeldByMap)
}

var errHeldByMap = errors.New("a View of the file is running, or another process or MemMapFS has it mapped: end that and try again")

// ageClock says when what is known of pages is to be forgotten, and when nothing is to be learnt: while
// the memory is too small for what is read, a page that was just seen in it is gone again in a moment.
type ageClock struct {
	majorFaults int64         // of the process, when it was last asked
	forgotten   time.Time     // when everything was last forgotten
	termEnded   time.Time     // when the permission to store last ended
	faulted     time.Time     // when a major fault was last seen
	lost        time.Time     // when pages were last found to be lost
	losses      int           // so often, each time soon after the one before
	mute        time.Duration // for how long nothing was learnt, the last time
	muteEnds    time.Time     // when that ends, or ended
}

// The clock ticks faster while the process waits for the disk in faults, and for a while after.
const (
	calmTick    = 250 * time.Millisecond
	alarmedTick = 50 * time.Millisecond
	calmAfter   = 2 * time.Second // without a major fault
)

// Nothing is learnt for a time after so many major faults between two ticks, or after a few in several ticks, soon
// one after the other, and for twice that time when learning has led to them once more.
const (
	faultsToMute = 8
	lossesToMute = 3
	soonLost     = 5 * alarmedTick
	firstMute    = time.Second
	longestMute  = 30 * time.Second
	trialTime    = time.Second // after it, in which one lost page is enough for the next

	remembersMute = time.Minute // after its end
)

// startAgeingLocked has the maps forget from time to time what may have become false. The caller holds
// h.mu.
func (h *handles) startAgeingLocked() {
	h.wanted = true
	if h.ageing == nil && !h.closed.Load() {
		now := time.Now()
		faults, _ := system.majorFaults()
		h.age.majorFaults, h.age.forgotten, h.age.termEnded = faults, now, now
		h.age.faulted = now // nobody knows yet whether the memory is large enough
		h.ageing = time.AfterFunc(alarmedTick, h.tick)
	}
}

// tick forgets what has become too old.
func (h *handles) tick() {
	h.mu.Lock()
	clock := h.age
	h.wanted = false
	h.mu.Unlock()
	now := time.Now()
	files := h.files()
	forget, endTerm := clock.tick(now, system.majorFaults, func() (lost, proved bool) {
		for _, f := range files {
			fileLost, fileProved := f.maps.hasLost()
			lost, proved = lost || fileLost, proved || fileProved
			if proved {
				break
			}
		}
		return lost, proved
	})
	h.mute.Store(now.Before(clock.muteEnds))
	trial := clock.onTrial(now)
	trialEnds := h.trial.Swap(trial) && !trial
	any := false
	for _, f := range files {
		if !f.maps.windows.any() {
			continue
		}
		any = true
		if forget || endTerm && f.maps.compares { // a type that is not known may begin to transform
			f.maps.forget()
		}
		if endTerm {
			f.maps.endTerm()
		}
		f.maps.readAlone(trial)
		if trialEnds {
			f.maps.windows.each(f.maps.askAnew)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.age = clock
	switch {
	case h.closed.Load():
	case !any && !h.wanted:
		h.ageing = nil
	case clock.alarmed(now):
		h.ageing.Reset(alarmedTick)
	default:
		h.ageing.Reset(calmTick)
	}
}

// tick says what is to be forgotten now: everything, when a minute has passed or the process has waited
// for the disk in a fault and pages have been lost, and the permission to store.
func (c *ageClock) tick(now time.Time, majorFaults func() (int64, error), lost func() (lost, proved bool)) (forget, endTerm bool) {
	if faults, err := majorFaults(); err == nil && faults != c.majorFaults {
		many := faults-c.majorFaults >= faultsToMute
		c.majorFaults, c.faulted = faults, now
		var proved bool
		forget, proved = lost() // or they are of the program's own maps
		if proved || forget && many {
			c.noteLoss(now, many)
		}
	}
	if now.Sub(c.forgotten) >= residencyAge {
		forget = true
	}
	if forget {
		c.forgotten = now
	}
	if now.Sub(c.termEnded) >= storeTerm {
		c.termEnded, endTerm = now, true
	}
	return forget, endTerm
}

// noteLoss takes note that pages were lost, many or some, and has nothing learnt for a time if that goes on.
func (c *ageClock) noteLoss(now time.Time, many bool) {
	if now.Sub(c.lost) > soonLost {
		c.losses = 0
	}
	c.lost = now
	c.losses++
	if !many && c.losses < lossesToMute && !c.onTrial(now) || !now.After(c.muteEnds) {
		return
	}
	if now.Sub(c.muteEnds) > remembersMute {
		c.mute = firstMute / 2
	}
	c.mute = min(2*c.mute, longestMute)
	c.muteEnds = now.Add(c.mute)
	c.losses = 0
}

// onTrial reports whether nothing is learnt, or was until just now: what is lost then says that the memory is
// still too small.
func (c *ageClock) onTrial(now time.Time) bool { return now.Sub(c.muteEnds) < trialTime }

// alarmed reports whether the clock is to tick faster.
func (c *ageClock) alarmed(now time.Time) bool {
	return now.Sub(c.faulted) < calmAfter || now.Sub(c.muteEnds) < remembersMute
}

// stopAgeing ends the clock.
func (h *handles) stopAgeing() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ageing != nil {
		h.ageing.Stop()
	}
}

// close closes the files that are registered, and waits for flushes in the background.
func (h *handles) close() error {
	h.mu.Lock()
	if h.closed.Load() {
		h.mu.Unlock()
		return fs.ErrClosed
	}
	h.closed.Store(true)
	h.mu.Unlock()
	h.stopAgeing()
	var err error
	for _, f := range h.files() {
		if closeErr := f.close(false); !errors.Is(closeErr, fs.ErrClosed) {
			err = join(err, closeErr)
		}
	}
	h.flusher.close()
	return err
}
