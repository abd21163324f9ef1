package memmapfs

import (
	"fmt"
	"io/fs"
	"strconv"
	"time"
)

// DefaultWindowSize is the size in bytes of a window when Config.WindowSize is 0: 1 GiB.
const DefaultWindowSize = 1 << 30

const (
	defaultSyncInterval = 5 * time.Second
	defaultMaxWindows   = 64
)

// MappingMode says how files are mapped, and with it where writes go. What a handle
// may do is decided by the flags it was opened with, as on the wrapped filesystem.
type MappingMode int

const (
	// ModeReadOnly maps files shared and read-only. A handle opened for writing
	// writes to the file; on one opened with O_RDONLY every write fails with
	// ErrWriteToReadOnlyMap.
	ModeReadOnly MappingMode = iota
	// ModeReadWrite maps files shared, and writable where the handle was opened with
	// O_RDWR: a write to pages written a moment ago is a store into the map. All others
	// (growth, O_APPEND, O_WRONLY, the first ones to a page, also after each flush of the
	// file and after 5 seconds) go to the file.
	ModeReadWrite
	// ModeCopyOnWrite keeps all writes in the handle, whatever its open flags: they
	// never reach the file and are gone after Close. Truncate and growth are refused.
	// What was written by calls is kept whoever truncates the file meanwhile. A file
	// that was empty when it was opened has nothing to protect and is treated as in
	// ModeReadWrite.
	ModeCopyOnWrite
	// ModeExecute maps files private, readable and executable; otherwise it is ModeReadOnly.
	ModeExecute
)

var mappingModeNames = [...]string{"ModeReadOnly", "ModeReadWrite", "ModeCopyOnWrite", "ModeExecute"}

// String returns the name of the constant, or "MappingMode(n)" for an unknown mode.
func (m MappingMode) String() string {
	if m >= 0 && int(m) < len(mappingModeNames) {
		return mappingModeNames[m]
	}
	return "MappingMode(" + strconv.Itoa(int(m)) + ")"
}

// SyncMode says when written bytes survive a power cut without a call of Sync.
// Sync and SyncRange are durable in every SyncMode.
type SyncMode int

const (
	// SyncImmediate: when Write, WriteAt or WriteString returns. Only the written
	// range is flushed where it is mapped.
	SyncImmediate SyncMode = iota
	// SyncPeriodic: one Config.SyncInterval (and the flush) after the write, or when
	// Close returns. It covers bytes stored through Data and View.
	SyncPeriodic
	// SyncLazy: when Close returns. It covers bytes stored through Data and View.
	SyncLazy
	// SyncNever: not before Sync; the system writes the bytes back when it likes to.
	SyncNever
)

var syncModeNames = [...]string{"SyncImmediate", "SyncPeriodic", "SyncLazy", "SyncNever"}

// String returns the name of the constant, or "SyncMode(n)" for an unknown mode.
func (m SyncMode) String() string {
	if m >= 0 && int(m) < len(syncModeNames) {
		return syncModeNames[m]
	}
	return "SyncMode(" + strconv.Itoa(int(m)) + ")"
}

// MappingPolicy says of which files calls are served from maps. A wrapped file of a type that is
// not known, and that reads other bytes than its descriptor shows, is never mapped, whatever the
// policy is. One that begins to do so while it is open is found out after about five seconds.
type MappingPolicy int

const (
	// MapAuto: of files whose map is known to show what their calls show: on local filesystems
	// that keep one page cache, and on overlayfs where the handle was opened with O_RDWR.
	MapAuto MappingPolicy = iota
	// MapAlways: of all files that can be mapped. The caller vouches for it that nobody changes
	// these files behind their maps: not another machine, for files of a network, and nobody who
	// opens a file of a container's root filesystem for writing while it is mapped here. If
	// somebody does, reads give old bytes, for good, and old and new ones by turns.
	MapAlways
	// MapNever: of none. Only who asks for a map by name (Data, View, a hint, Prefetch,
	// LockMemory, RequireMapping) gets one.
	MapNever
)

var mappingPolicyNames = [...]string{"MapAuto", "MapAlways", "MapNever"}

// String returns the name of the constant, or "MappingPolicy(n)" for an unknown policy.
func (p MappingPolicy) String() string {
	if p >= 0 && int(p) < len(mappingPolicyNames) {
		return mappingPolicyNames[p]
	}
	return "MappingPolicy(" + strconv.Itoa(int(p)) + ")"
}

// Config says how a MemMapFS maps files. The zero Config is valid: read-only maps by
// windows of DefaultWindowSize, every write durable on return. New copies it, so later
// changes have no effect.
//
// No field changes what a file holds, but for ModeCopyOnWrite, which keeps writes out of it.
// Where nothing is mapped (see README.md) only SyncMode, SyncInterval, OnSyncError and
// RequireMapping have an effect, and Mode on writes.
//
//	field           zero value        unit      effect, and where
//	Mode            ModeReadOnly                all systems; ModeExecute as the system allows
//	Mapping         MapAuto                     where files are mapped
//	SyncMode        SyncImmediate               all systems
//	SyncInterval    5 seconds         time      all systems, with SyncPeriodic
//	OnSyncError     nil                         all systems, for flushes in the background
//	MapFullFile     false                       where files are mapped and the addresses suffice
//	WindowSize      1 GiB             bytes     where files are mapped, without MapFullFile
//	MaxWindows      64                windows   where files are mapped, without MapFullFile
//	RequireMapping  false                       all systems; see its comment
//	ColdReads       false                       where files are mapped, but on Windows
//	Preload         false                       where files are mapped; the system chooses how much
//	PreloadAsync    false                       where files are mapped
//	PopulatePages   false                       where files are mapped; page tables on Linux 5.14
//	UseHugePages    false                       Linux
//	LockPages       false                       where files are mapped, within RLIMIT_MEMLOCK
//	MapSync         false                       Linux, files on DAX, ModeReadWrite
//	NoCache         false                       macOS, files that offer their descriptor
type Config struct {
	// Mode says how files are mapped. Default: ModeReadOnly.
	Mode MappingMode

	// Mapping says of which files calls are served from maps. Default: MapAuto. Where a map may
	// show other bytes than the file (FUSE, network filesystems, read-only handles on overlayfs,
	// kinds that are not known), MapAuto lets all calls go to the file; MappedFile.MappingError
	// says so, and Stats counts it. For which files MapAlways is safe is told in
	// docs/PERFORMANCE.md. It has no effect on what Data and View lend, nor on Windows on handles
	// opened with O_RDWR in another mode than ModeReadWrite, whose calls always go to the file.
	Mapping MappingPolicy

	// SyncMode says when writes are made durable. Default: SyncImmediate;
	// DefaultConfig has SyncNever, which is what a plain file does.
	SyncMode SyncMode

	// SyncInterval is the time between two flushes. Default (0): 5 seconds. It has no
	// effect in other modes than SyncPeriodic; a negative one is an error.
	SyncInterval time.Duration

	// OnSyncError, if set, is called with the file's name when a flush in the background has
	// failed, in the goroutine that flushes and with no lock held: it may call any method but
	// MemMapFS.Close, which waits for it. The next Sync or Close of the file returns the error,
	// too. Default: nil. It has no effect in other modes than SyncPeriodic, except for SyncAsync.
	OnSyncError func(name string, err error)

	// MapFullFile maps each file as a whole; a file that does not fit the address
	// space is mapped by windows all the same. Default: false, windows of WindowSize;
	// DefaultConfig has true.
	MapFullFile bool

	// WindowSize is the number of bytes mapped at a time, rounded up to whole pages,
	// and from 2 MiB on down to a multiple of 2 MiB. Default (0): DefaultWindowSize.
	// It has no effect with MapFullFile, except for files that do not fit the address
	// space; a negative one is an error.
	WindowSize int64

	// MaxWindows is the number of windows that a file has mapped at a time, so that no file
	// has more than MaxWindows × WindowSize bytes mapped. The window not used for longest is
	// dropped first; when more windows are in use than that, reads go to the file rather than
	// map and unmap all the time. Default (0): 64. It has no effect with MapFullFile, except
	// for files that do not fit the address space; a negative one is an error.
	MaxWindows int

	// RequireMapping maps each regular file that can be read and is not empty when it is opened,
	// and lets the open fail, with an error wrapping ErrNotMapped that says why and what to try,
	// if it cannot be mapped. Whether calls are served from the map is up to Mapping. Default:
	// false, such a file works through the wrapped file.
	RequireMapping bool

	// ColdReads lets reads touch mapped pages that are not known to be in memory, as other
	// libraries do. Where all files are in memory that saves the questions about it. Where one
	// is not, the page fault stops a thread of the Go scheduler for as long as the disk takes.
	// Default: false, such a page is read through the file, whose wait the scheduler knows of.
	// It has no effect in ModeCopyOnWrite, nor on Windows, where what is mapped is always read
	// through the map.
	ColdReads bool

	// Preload maps a file when it is opened and asks the system to start reading it in, the
	// first 64 MiB of it, without waiting for that (AdviseWillNeed). Default: false. It has no
	// effect on files that cannot be mapped.
	Preload bool

	// PreloadAsync reads a file in, in the background, after the open has returned: what Prefetch
	// does for the whole file. Close stops it. Default: false. Together with Preload or
	// PopulatePages it wins: the open waits for neither. It has no effect on files that cannot be
	// mapped.
	PreloadAsync bool

	// PopulatePages maps a file when it is opened and reads it in before the open returns, so
	// that no later access waits for the disk; on Linux (5.14) it fills the page table too, so
	// that none has a page fault either. Default: false. With windows it reads in each window
	// when it is mapped. It has no effect on files that cannot be mapped.
	PopulatePages bool

	// UseHugePages asks for large pages where the system can back a file with them: maps of 2
	// MiB and more are aligned to 2 MiB, and advised (MADV_HUGEPAGE) before their pages are
	// read in. It is a hint and never an error. Default: false. It has an effect on Linux;
	// Windows has no large pages for maps of files. When it helps is told in
	// docs/PERFORMANCE.md.
	UseHugePages bool

	// LockPages keeps mapped pages in memory (LockMemory of each map as a whole). A file that
	// can be mapped is mapped when it is opened, and the open fails, with an error that says
	// what to try, if the system does not allow so much to be locked; later maps that cannot be
	// locked are not made, and calls go to the file. Default: false. It has no effect on files
	// that cannot be mapped.
	LockPages bool

	// MapSync maps files on storage that is addressed as memory (DAX) so that a page is only
	// stored to when the filesystem could find it after a power cut (MAP_SYNC). A program that
	// flushes the processor's caches itself can then do without Sync; the promises of Sync and
	// SyncMode need no such program and do not change. Default: false. It has an effect on
	// writable maps of ModeReadWrite, on Linux, on files on DAX; elsewhere files are mapped as
	// without it.
	MapSync bool

	// NoCache keeps what goes through the wrapped file out of the system's cache (F_NOCACHE).
	// What is mapped is in the cache all the same. Default: false. It has an effect on macOS,
	// on files that offer their descriptor (SyscallConn or Fd; the files of osfs 1.0.0 do not).
	// Windows has no such thing for files that are mapped: what FILE_FLAG_NO_BUFFERING does is
	// for reads and writes of whole sectors, and not for maps.
	NoCache bool
}

// DefaultConfig returns a new Config that changes nothing about a program but its
// speed: whole files are mapped read-only, writes go to the file, and nothing is
// flushed that a plain file would not flush (ModeReadOnly, SyncNever, MapFullFile).
func DefaultConfig() *Config {
	return &Config{Mode: ModeReadOnly, SyncMode: SyncNever, MapFullFile: true}
}

// validated returns a copy of c with defaults filled in, or an error that names the
// field and the value that cannot be.
func (c *Config) validated() (Config, error) {
	if c == nil {
		c = DefaultConfig()
	}
	valid := *c
	invalid := func(field string, value any) (Config, error) {
		return Config{}, fmt.Errorf("memmapfs: Config.%s cannot be %v: %w", field, value, fs.ErrInvalid)
	}
	switch {
	case c.Mode < 0 || int(c.Mode) >= len(mappingModeNames):
		return invalid("Mode", c.Mode)
	case c.Mapping < 0 || int(c.Mapping) >= len(mappingPolicyNames):
		return invalid("Mapping", c.Mapping)
	case c.SyncMode < 0 || int(c.SyncMode) >= len(syncModeNames):
		return invalid("SyncMode", c.SyncMode)
	case c.SyncInterval < 0:
		return invalid("SyncInterval", c.SyncInterval)
	case c.WindowSize < 0:
		return invalid("WindowSize", c.WindowSize)
	case c.MaxWindows < 0:
		return invalid("MaxWindows", c.MaxWindows)
	}
	if c.SyncInterval == 0 {
		valid.SyncInterval = defaultSyncInterval
	}
	if c.WindowSize == 0 {
		valid.WindowSize = DefaultWindowSize
	}
	if c.MaxWindows == 0 {
		valid.MaxWindows = defaultMaxWindows
	}
	return valid, nil
}
