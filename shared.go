package memmapfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

// SharedMemory is a handle on a region of memory that several processes share: a file, mapped.
// The processes have to agree on who stores where and when, by Lock, by the atomic values that
// Uint32 and Uint64 give, or by means of their own. Wait and Wake let one sleep until another
// has stored something.
//
// All methods may be called at the same time from many goroutines. Errors are *fs.PathError.
type SharedMemory struct {
	regionFile
	regionPart // the first one

	bytes     atomic.Pointer[regionBytes]
	lock      regionLock
	ownerWord atomic.Int64 // its offset plus 1, or 0
	sleepers  sleepers
	closing   chan struct{} // closed by the first Close

	resize sync.Mutex    // guards later and changes of bytes; locks of MappedFile are taken under it
	later  []*regionPart // maps of more of the file, by Grow and Refresh
}

// regionFile is what is known of a region's file. It does not change.
type regionFile struct {
	path     string
	named    bool // the file is at the path, as far as we are concerned
	info     os.FileInfo
	flag     int     // that the file was opened with
	mapping  *Config // of the whole file
	created  bool
	lockless bool // the system's lock would be shared with another process
}

// regionPart is the file mapped as a whole, or its first bytes.
type regionPart struct {
	mfs        *MemMapFS
	file       *MappedFile
	descriptor *os.File
	whole      bool
}

// regionBytes are the bytes that Data hands out, and where they come from.
type regionBytes struct {
	part *regionPart
	data []byte
}

// mapRegion maps the first size bytes of the file, which has fileSize bytes. After an error the
// file is for the caller to close.
func mapRegion(file *os.File, described regionFile, fileSize, size int64) (*SharedMemory, error) {
	part, data, err := described.mapPart(file, fileSize, size)
	if err != nil {
		return nil, err
	}
	sm := &SharedMemory{regionFile: described, regionPart: *part, closing: make(chan struct{})}
	sm.bytes.Store(&regionBytes{&sm.regionPart, data})
	sm.lock.init(func() (uintptr, error) {
		if sm.lockless {
			return 0, fmt.Errorf("its lock would be that of the process that has passed the file on: %w", errors.ErrUnsupported)
		}
		return system.openLock(file.Fd(), sm.path)
	})
	return sm, nil
}

// mapPart maps the first size bytes of the file: as a whole, or as one window.
func (r *regionFile) mapPart(file *os.File, fileSize, size int64) (*regionPart, []byte, error) {
	mapping := *r.mapping
	whole := fileSize <= size || mapping.Mode == ModeCopyOnWrite
	if !whole {
		mapping.MapFullFile = false
		mapping.WindowSize = size
		if size > hugePageBytes { // see windowBytes
			mapping.WindowSize = (size + hugePageBytes - 1) / hugePageBytes * hugePageBytes
		}
	}
	mfs := New(oneFile{file: file}, &mapping)
	opened, err := mfs.OpenFile(r.path, r.flag, 0)
	if err != nil {
		return nil, nil, err
	}
	part := &regionPart{mfs, opened.(*MappedFile), file, whole}
	data := part.file.Data()
	if int64(len(data)) < size {
		part.close()
		return nil, nil, ErrNotMapped
	}
	return part, data[:size:size], nil
}

func (p *regionPart) close() error {
	err := p.file.Close()
	p.mfs.Close()
	return err
}

// shows reports whether the part still has a map that begins at data.
func (p *regionPart) shows(data []byte) bool {
	if !p.file.Mapped() {
		return false
	}
	same := false
	err := p.file.View(0, 1, func(first []byte) error {
		same = unsafe.SliceData(first) == unsafe.SliceData(data)
		return nil
	})
	return same && err == nil
}

// Data returns the region. Stores are visible to other processes at once, without Sync. The
// slice stays valid until Close, Remove, or Truncate of the MappedFile; after that an access
// faults, for as long as the comment of MappedFile.Data says. Data then returns nil; after a
// Truncate that leaves the file as long as the region it may return the region as it is now,
// which is another slice. Grow and Refresh leave earlier slices valid: they show the same bytes.
//
// An access to the slice is the caller's own: if the file is truncated or its disk fails, the
// program dies. View of the MappedFile is the safe form.
func (sm *SharedMemory) Data() []byte {
	for {
		bytes := sm.bytes.Load()
		if bytes.part.shows(bytes.data) {
			return bytes.data
		}
		if data, known := sm.dataAnew(bytes); known {
			return data
		}
	}
}

// dataAnew returns the region when the map of bytes is gone. It does not know if others have found
// that out.
func (sm *SharedMemory) dataAnew(bytes *regionBytes) (data []byte, known bool) {
	sm.resize.Lock()
	defer sm.resize.Unlock()
	if bytes != sm.bytes.Load() {
		return nil, false
	}
	if !bytes.part.whole {
		return nil, true
	}
	size := len(bytes.data)
	if data = bytes.part.file.Data(); len(data) < size {
		return nil, true
	}
	sm.bytes.Store(&regionBytes{bytes.part, data[:size:size]})
	return data[:size:size], true
}

// Size returns the size of the region in bytes, after Close and Truncate as before them.
func (sm *SharedMemory) Size() int64 { return int64(len(sm.bytes.Load().data)) }

// Path returns the path that the region was created or opened with. An anonymous region has one
// that leads nowhere.
func (sm *SharedMemory) Path() string { return sm.path }

// Created reports whether the region was made by this handle: its file was not there, or was
// empty. Of all handles on one region that are created at the same time it is true for one, which
// may fill the region in. That may have failed half-way before, by a process that was killed: then
// it is true for nobody.
func (sm *SharedMemory) Created() bool { return sm.created }

// File returns the region's open file, to pass to a child process by exec.Cmd.ExtraFiles (on
// Windows by syscall.SysProcAttr.AdditionalInheritedHandles), which opens it with
// SharedMemoryFromFile. It ends with Close of the region, and must not be closed otherwise.
func (sm *SharedMemory) File() *os.File { return sm.descriptor }

// MappedFile returns the file behind the region, for hints, View, and access by calls. What its
// calls write and what is stored through Data is the same. Truncate on it ends the region.
func (sm *SharedMemory) MappedFile() *MappedFile { return sm.file }

// Uint32 returns the four bytes at offset off as an atomic value that all processes share, in
// the byte order of the processor. It is valid as long as the slice from Data; in a region
// opened without writable it can be loaded, and a store is a fault. An offset that is not a
// multiple of 4, or outside the region, gives ErrInvalidOffset; after Truncate the error is
// ErrNotMapped.
func (sm *SharedMemory) Uint32(off int64) (*atomic.Uint32, error) {
	address, err := sm.at(off, 4)
	return (*atomic.Uint32)(address), sm.wrap("uint32", err)
}

// Uint64 is Uint32 for the eight bytes at offset off, which is a multiple of 8 on every system.
// Processors that can change only 32 bits at a time have no such value to share: on 32-bit
// MIPS it fails with errors.ErrUnsupported, and on ARM before version 7 it is not atomic
// between processes.
func (sm *SharedMemory) Uint64(off int64) (*atomic.Uint64, error) {
	if runtime.GOARCH == "mips" || runtime.GOARCH == "mipsle" {
		return nil, sm.wrap("uint64", errors.ErrUnsupported)
	}
	address, err := sm.at(off, 8)
	return (*atomic.Uint64)(address), sm.wrap("uint64", err)
}

// at returns the address of n bytes at off, which is a multiple of n.
func (sm *SharedMemory) at(off, n int64) (unsafe.Pointer, error) {
	data := sm.Data()
	switch {
	case data == nil && isClosed(sm.closing):
		return nil, fs.ErrClosed
	case data == nil:
		return nil, sm.gone()
	}
	if err := checkWord(off, n, int64(len(data))); err != nil {
		return nil, err
	}
	return unsafe.Pointer(&data[off]), nil
}

func checkWord(off, n, size int64) error {
	switch {
	case off < 0 || off > size-n:
		return fmt.Errorf("%w: %d bytes at %d of %d", ErrInvalidOffset, n, off, size)
	case off%n != 0:
		return fmt.Errorf("%w: %d is not a multiple of %d", ErrInvalidOffset, off, n)
	}
	return nil
}

// gone says why there is no Data.
func (sm *SharedMemory) gone() error {
	if _, err := sm.file.Stat(); err != nil {
		return err
	}
	return fmt.Errorf("%w: the file was truncated", ErrNotMapped)
}

func (sm *SharedMemory) wrap(op string, err error) error { return wrapError(op, sm.path, err) }

// Grow makes the region size bytes long, and the file if it is shorter: see CreateSharedMemory for
// its blocks, for other processes that do so, and for errors. Slices and atomic values from
// before stay valid; Data gives the longer one. Other handles have it after Refresh. A size
// below Size does nothing.
//
// A region opened without writable gives ErrWriteToReadOnlyMap, one of ModeCopyOnWrite
// errors.ErrUnsupported. Close waits for a Grow until the system has done its part.
func (sm *SharedMemory) Grow(size int64) error { return sm.wrap("grow", sm.grow(size)) }

func (sm *SharedMemory) grow(size int64) error {
	if err := checkRegionSize(size); err != nil {
		return err
	}
	sm.resize.Lock()
	defer sm.resize.Unlock()
	switch {
	case isClosed(sm.closing):
		return fs.ErrClosed
	case sm.mapping.Mode == ModeCopyOnWrite:
		return errCopyOnWriteSize
	case sm.flag == os.O_RDONLY:
		return ErrWriteToReadOnlyMap
	case size <= sm.Size():
		return nil
	}
	lock, err := lockGrowth(sm.descriptor, sm.path, sm.closing)
	if err != nil {
		return err
	}
	info, err := sm.descriptor.Stat()
	if err == nil {
		err = growFile(sm.descriptor, sm.path, info.Size(), size, lock, sm.closing)
	}
	if err = join(err, lock.unlock()); err != nil {
		return err
	}
	return sm.reachLocked(max(info.Size(), size), size)
}

// Refresh makes the region as long as its file is now, which another handle may have grown. If
// that is growing just now Refresh waits for it: see OpenSharedMemory. Slices and atomic values
// from before stay valid. A file shorter than the region gives ErrNotMapped, and a region of
// ModeCopyOnWrite errors.ErrUnsupported.
func (sm *SharedMemory) Refresh() error { return sm.wrap("refresh", sm.refresh()) }

func (sm *SharedMemory) refresh() error {
	sm.resize.Lock()
	defer sm.resize.Unlock()
	switch {
	case isClosed(sm.closing):
		return fs.ErrClosed
	case sm.mapping.Mode == ModeCopyOnWrite:
		return errCopyOnWriteSize
	}
	info, err := settledSize(sm.descriptor, sm.path, sm.closing)
	switch {
	case err != nil:
		return err
	case info.Size() < sm.Size():
		return fmt.Errorf("%w: the file was truncated to %d bytes, and the region has %d", ErrNotMapped, info.Size(), sm.Size())
	case info.Size() == sm.Size():
		return nil
	}
	return sm.reachLocked(info.Size(), info.Size())
}

// reachLocked makes the region size bytes of the file's fileSize; the caller holds sm.resize.
func (sm *SharedMemory) reachLocked(fileSize, size int64) error {
	part := sm.bytes.Load().part
	if part.whole {
		data := part.file.Data()
		if int64(len(data)) < size {
			return sm.gone()
		}
		sm.bytes.Store(&regionBytes{part, data[:size:size]})
		return nil
	}
	fd, err := sysDuplicate(sm.descriptor.Fd())
	if err != nil {
		return err
	}
	file := os.NewFile(fd, sm.descriptor.Name())
	part, data, err := sm.mapPart(file, fileSize, size)
	if err != nil {
		file.Close()
		return err
	}
	sm.later = append(sm.later, part)
	sm.bytes.Store(&regionBytes{part, data})
	return nil
}

// Sync makes the stores so far, of all processes, durable. They are visible without it. Windows
// allows it only to a region opened with writable.
func (sm *SharedMemory) Sync() error {
	err := sm.file.Sync()
	sm.resize.Lock()
	defer sm.resize.Unlock()
	for _, part := range sm.later {
		err = join(err, part.file.Sync())
	}
	return err
}

// Close takes the region, and the lock if it has it, away from this handle, and ends what waits by
// it with fs.ErrClosed. The file stays, with its contents, and other handles and processes go on.
// A SyncMode other than SyncNever makes the contents durable first. The second Close gives
// fs.ErrClosed.
func (sm *SharedMemory) Close() error {
	if !sm.sleepers.close(sm.closing) {
		return sm.wrap("close", fs.ErrClosed)
	}
	sm.unmark()
	lockErr := sm.lock.close()
	sm.resize.Lock()
	defer sm.resize.Unlock()
	err := sm.regionPart.close()
	for _, part := range sm.later {
		err = join(err, part.close())
	}
	return join(err, sm.wrap("close", lockErr))
}

// Remove closes the handle if it is open and deletes the file, with whatever error of that.
// Processes that have the region go on undisturbed; who creates it at the same path gets
// another one. If the path has another file by now it stays, and the error matches
// fs.ErrNotExist. Windows deletes no file that is open somewhere: the error says so, and the
// last process to call Remove deletes it. Of a region without a path (CreateAnonymousMemory,
// SharedMemoryFromFile) nothing is deleted.
func (sm *SharedMemory) Remove() error {
	err := sm.Close()
	if errors.Is(err, fs.ErrClosed) {
		err = nil
	}
	if !sm.named {
		return err
	}
	return join(err, removeSame(sm.path, sm.info))
}
