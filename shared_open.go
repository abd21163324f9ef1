package memmapfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/absfs/absfs"
)

// OpenSharedMemory maps the existing file at path, all of it, as shared memory; the path is in
// the system's own form, and a link at its end is not followed. Without writable every store into
// the region is a fault, and methods of MappedFile that write fail with ErrWriteToReadOnlyMap;
// Lock works. Stores are made durable by Sync and by Close (SyncLazy).
//
// If another process is growing the file, OpenSharedMemory waits until it is done: see
// CreateSharedMemory. A missing file matches fs.ErrNotExist, an empty one, such as there is for a
// moment when another process creates the region, ErrNotMapped. For other errors see
// CreateSharedMemory.
//
// On overlayfs, the filesystem of containers, a file from below is moved up when it is first opened
// for writing, and maps made before go on showing the old one. So without writable it is opened
// for writing for a moment. If that is not allowed, and the kernel does not say that the file was
// moved already, the error matches ErrNotMapped and says so.
func OpenSharedMemory(path string, writable bool) (*SharedMemory, error) {
	shared, err := openRegion(path, writable)
	return shared, wrapError("open", path, err)
}

func openRegion(path string, writable bool) (*SharedMemory, error) {
	if path == "" {
		return nil, fmt.Errorf("shared memory needs a path: %w", fs.ErrInvalid)
	}
	flag, mode := os.O_RDONLY, ModeReadOnly
	if writable {
		flag, mode = os.O_RDWR, ModeReadWrite
	}
	file, err := openRegionFile(path, flag)
	if err == nil && !writable {
		file, err = openInPlace(file, path)
	}
	if err != nil {
		return nil, err
	}
	shared, err := regionOfFile(file, regionFile{path: path, named: true, flag: flag,
		mapping: &Config{Mode: mode, SyncMode: SyncLazy, MapFullFile: true}})
	if err != nil {
		file.Close()
	}
	return shared, err
}

// openInPlace returns the file, which is open for reading only, or opened again once it is where
// those find it who open it for writing.
func openInPlace(file *os.File, path string) (*os.File, error) {
	moves, err := sysReplacesMapped(file.Fd())
	if err != nil || !moves {
		return file, err
	}
	file.Close()
	momentary, err := openRegionFile(path, os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("%w: overlayfs replaces the file when it is first opened for writing, and this process "+
			"may not do that: open it with writable once, or keep the region on another filesystem: %w", ErrNotMapped, err)
	}
	file, err = openRegionFile(path, os.O_RDONLY)
	return file, join(err, momentary.Close())
}

// regionOfFile maps all of an open file.
func regionOfFile(file *os.File, region regionFile) (*SharedMemory, error) {
	info, err := file.Stat()
	if err == nil {
		err = checkRegular(info)
	}
	if err == nil {
		info, err = settledSize(file, region.path, nil)
	}
	if err == nil && info.Size() == 0 {
		err = fmt.Errorf("%w: the file is empty", ErrNotMapped)
	}
	if err != nil {
		return nil, err
	}
	region.info = info
	return mapRegion(file, region, info.Size(), info.Size())
}

// CreateAnonymousMemory makes a region of size bytes that has no name, so that nobody else finds
// it, and that is gone with the last process that has it. It is shared with a child by its File
// and opened there by SharedMemoryFromFile. Nothing is written to a disk by Sync or Close.
//
// On Linux it is a file of memfd_create(2) that nobody can make shorter: no process can make
// another one's accesses fault. Elsewhere it is a file in os.TempDir without a name (on Windows
// one that is deleted with its last handle), with zeros written to it.
//
// Errors are those of CreateSharedMemory.
func CreateAnonymousMemory(size int64) (*SharedMemory, error) {
	shared, err := createAnonymous(size)
	return shared, wrapError("create", "anonymous", err)
}

func createAnonymous(size int64) (*SharedMemory, error) {
	if err := checkRegionSize(size); err != nil {
		return nil, err
	}
	file, err := anonymousFile()
	if err != nil {
		return nil, err
	}
	if err = reserve(file, 0, size); err == nil {
		err = sysSealSize(file.Fd())
	}
	var info os.FileInfo
	if err == nil {
		info, err = file.Stat()
	}
	var shared *SharedMemory
	if err == nil {
		shared, err = mapRegion(file, regionFile{path: file.Name(), info: info, flag: os.O_RDWR, created: true,
			mapping: &Config{Mode: ModeReadWrite, SyncMode: SyncNever, MapFullFile: true}}, size, size)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return shared, nil
}

func anonymousFile() (*os.File, error) {
	fd, path, err := sysAnonymousFile()
	if err == nil {
		return os.NewFile(fd, path), nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	file, err := os.CreateTemp("", "memmapfs")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// SharedMemoryFromFile maps all of an open file as shared memory: that of an anonymous region or
// any other, such as a child gets by exec.Cmd.ExtraFiles and makes of it by os.NewFile. It is
// writable if the file was opened for reading and writing. The file stays the caller's and may be
// closed at once. Path is the file's name, and Remove is no more than Close.
//
// The file is opened once more where that can be (/proc on Linux, and Windows). Where it cannot,
// Lock fails with errors.ErrUnsupported, because the system's lock would be the same for the
// process that has passed the file on.
func SharedMemoryFromFile(file *os.File) (*SharedMemory, error) {
	if file == nil {
		return nil, wrapError("open", "", fs.ErrInvalid)
	}
	shared, err := regionFromFile(file)
	return shared, wrapError("open", file.Name(), err)
}

func regionFromFile(file *os.File) (*SharedMemory, error) {
	info, err := file.Stat()
	if err == nil {
		err = checkRegular(info)
	}
	if err != nil {
		return nil, err
	}
	flag, err := sysAccessMode(file.Fd())
	if errors.Is(err, errors.ErrUnsupported) {
		err = notMapped(err)
	}
	if err == nil && flag != os.O_RDONLY && flag != os.O_RDWR {
		err = fmt.Errorf("%w: the file is open for writing only", ErrNotMapped)
	}
	if err != nil {
		return nil, err
	}
	fd, err := sysReopenRegion(file.Fd(), flag)
	apart := err == nil
	if !apart {
		if fd, err = sysDuplicate(file.Fd()); err != nil {
			return nil, err
		}
	}
	mode := ModeReadWrite
	if flag == os.O_RDONLY {
		mode = ModeReadOnly
	}
	own := os.NewFile(fd, file.Name())
	shared, err := regionOfFile(own, regionFile{path: file.Name(), flag: flag, lockless: !apart,
		mapping: &Config{Mode: mode, SyncMode: SyncLazy, MapFullFile: true}})
	if err != nil {
		own.Close()
	}
	return shared, err
}

// oneFile is a filesystem that opens one file, which is open already. A MappedFile asks nothing
// else of it.
type oneFile struct {
	absfs.FileSystem
	file *os.File
}

func (o oneFile) OpenFile(string, int, os.FileMode) (absfs.File, error) { return o.file, nil }

// growFile grows the file, which has a size of old, to size if that is more, with blocks for all of
// it. After an error the file has its old size.
func growFile(file *os.File, path string, old, size int64, lock growthLocked, closing <-chan struct{}) error {
	if lock.held || old >= size {
		return reserve(file, old, size)
	}
	// Somebody's lock of the whole file keeps creators from having theirs. So nothing is done by
	// which they could harm each other.
	err := system.reserve(file.Fd(), size)
	if err == nil {
		err = system.extend(file.Fd(), size)
	}
	again, lockErr := growthLocked{}, error(nil)
	if errors.Is(err, errors.ErrUnsupported) {
		again, lockErr = waitForGrowth(file, path, closing, false)
	} else {
		again, lockErr = lockGrowth(file, path, closing)
	}
	if lockErr != nil || !again.held {
		return join(err, lockErr)
	}
	// It is to be had after all: a creator that has failed meanwhile may have cut the file.
	info, err := file.Stat()
	if err == nil {
		err = reserve(file, info.Size(), size)
	}
	return join(err, again.unlock())
}

// reserve is growFile under the lock. Where it can be undone it grows before it reserves: a process
// that is killed leaves no blocks where nobody finds them.
func reserve(file *os.File, old, size int64) (err error) {
	growsFirst := old < size && sysGrowsFirst(file.Fd())
	if growsFirst {
		err = file.Truncate(size)
	}
	if err == nil {
		err = system.reserve(file.Fd(), size)
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		err = writeZeros(file, old, size)
	case err == nil && old < size && !growsFirst:
		err = file.Truncate(size)
	}
	if err != nil && old < size {
		file.Truncate(old) // gives back the blocks behind the end, too
	}
	return err
}

// writeZeros writes zeros to [off, end) of the file.
func writeZeros(file *os.File, off, end int64) error {
	zeros := make([]byte, 1<<20)
	for off < end {
		n, err := file.WriteAt(zeros[:min(end-off, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// growthPatience is how long a creator waits for another one.
const growthPatience = 10 * time.Second

var errGrowthHeld = fmt.Errorf("another process has been creating or growing the region for %v, or hangs: "+
	"end it, or try again: %w", growthPatience, os.ErrDeadlineExceeded)

// growthLocked is the lock of those who change the size of a file.
type growthLocked struct {
	lock uintptr
	held bool // unset if somebody else's lock of the whole file keeps creators from having theirs
}

func (l growthLocked) unlock() error {
	if !l.held {
		return nil
	}
	return sysUnlockGrowth(l.lock)
}

// lockGrowth waits until no other creator changes the size of the file.
func lockGrowth(file *os.File, path string, closing <-chan struct{}) (growthLocked, error) {
	return waitForGrowth(file, path, closing, true)
}

// waitForGrowth is lockGrowth; without coverable it waits for the locks of others, too.
func waitForGrowth(file *os.File, path string, closing <-chan struct{}, coverable bool) (growthLocked, error) {
	pause := pauses{longest: growthPause}
	for start := time.Now(); ; pause.sleep(closing, nil) {
		lock, err := system.lockGrowth(file.Fd(), filepath.Dir(path))
		switch {
		case err == nil:
			return growthLocked{lock, true}, nil
		case err == syscall.EBUSY && coverable:
			return growthLocked{}, nil
		case err == syscall.EBUSY && time.Since(start) > growthPatience:
			return growthLocked{}, fmt.Errorf("the filesystem cannot reserve blocks, and another program has locked the whole file: %w",
				os.ErrDeadlineExceeded)
		case err == syscall.EAGAIN && time.Since(start) > growthPatience:
			return growthLocked{}, errGrowthHeld
		case err == syscall.EAGAIN, err == syscall.EBUSY:
		case errors.Is(err, errors.ErrUnsupported):
			return growthLocked{}, notMapped(err)
		default:
			return growthLocked{}, err
		}
		if isClosed(closing) {
			return growthLocked{}, fs.ErrClosed
		}
	}
}

const growthPause = 10 * time.Millisecond

// settledSize returns the size of the file when nobody is changing it.
func settledSize(file *os.File, path string, closing <-chan struct{}) (os.FileInfo, error) {
	pause := pauses{longest: growthPause}
	free := false
	for start := time.Now(); ; {
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		held, err := system.growthHeld(file.Fd(), filepath.Dir(path))
		switch {
		case err != nil: // a filesystem without locks: nobody can have grown it
			return info, nil
		case !held && free:
			return info, nil
		case !held: // but it may have been when the size was asked for
			free = true
			continue
		case time.Since(start) > growthPatience:
			return nil, errGrowthHeld
		}
		free = false
		pause.sleep(closing, nil)
		if isClosed(closing) {
			return nil, fs.ErrClosed
		}
	}
}
