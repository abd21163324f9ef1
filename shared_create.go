package memmapfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// SharedMemoryConfig says what CreateSharedMemory creates.
type SharedMemoryConfig struct {
	// Path of the file, in the system's own form. It must be set; directories that are
	// missing are made. A link at its end is not followed, but an error.
	Path string

	// Size of the region in bytes. It must be positive. A smaller file grows to it; a larger
	// one keeps its size, and its first Size bytes are the region.
	Size int64

	// Mode is ModeCopyOnWrite for a region whose stores stay in this process; with every
	// other mode stores reach all processes that have the region.
	Mode MappingMode

	// SyncMode says when stores are made durable. They are visible to other processes at
	// once in every mode. SyncImmediate cannot see stores: it acts as SyncLazy for them.
	SyncMode SyncMode

	// SyncInterval is the time between two flushes in seconds. Default (0): 5. It has no
	// effect in other modes than SyncPeriodic; a negative one is an error.
	SyncInterval int

	// Permissions that the file gets if it is created, whatever the umask; of existing files
	// they are left alone. Default (0): 0644, less what the umask takes away. Other bits than
	// fs.ModePerm are an error. On Windows only the owner's right to write has an effect.
	//
	// If they are set, they are also the most that a file may allow that was there already, and
	// it must belong to this user or to root: see AllowForeign. Set 0600, and in directories that
	// everybody may write (/dev/shm, /tmp) always set something.
	Permissions os.FileMode

	// AllowForeign takes an existing file whoever it belongs to and whatever it allows. Without
	// it, and with Permissions set, such a file is an error that matches fs.ErrPermission and
	// says what is wrong. Windows has no number for an owner: there the owner is not looked at.
	AllowForeign bool

	// Exclusive makes a file that is there already an error that matches fs.ErrExist.
	Exclusive bool

	// ReportOwnerDeath has Lock report a holder that died: see the method of that name, which it
	// calls with OwnerWord. The four bytes at OwnerWord are then not the user's.
	ReportOwnerDeath bool

	// OwnerWord is an offset in the region, a multiple of 4. Default (0): its first four bytes.
	// It has no effect without ReportOwnerDeath.
	OwnerWord int64

	// PopulatePages reads the region in before CreateSharedMemory returns. Linux only.
	PopulatePages bool
}

// CreateSharedMemory maps the file at config.Path as shared memory, and creates it if it does
// not exist. An existing file is grown to config.Size, with zeros, and never shrunk. Processes
// that do so at the same time all get the one region: nobody has to be first. Created tells who
// was.
//
// The region has its blocks on the disk when CreateSharedMemory returns, so that a full disk
// is an error here and not a fault at some later store. Filesystems that cannot reserve blocks
// (and all on other systems than Linux) get zeros written where the file grows; holes in what
// the file had before stay holes there. What a filesystem gives back (by compression, by
// writing copies of blocks that a snapshot shares) it may miss later. A process that is killed
// meanwhile leaves the file with its new size, and the next one that creates the region reserves
// what is missing.
//
// While one process changes the size of the file the others wait, for 10 seconds at most; then
// the error matches os.ErrDeadlineExceeded. On Linux they know each other by a lock of fcntl(2)
// (F_OFD_SETLK) on the one byte at 1<<62 of the file, for which one must be allowed to write the
// file. Nobody waits for other locks, such as those of Lock, flock(2) or lockf(3): where one
// covers that byte, creators do without theirs. Then one that finds the disk full may leave
// blocks behind the end of the file to the next, and a filesystem that cannot reserve blocks is
// an error after 10 seconds. Elsewhere the lock is of the file's directory (flock(2)) or of the
// file (LockFileEx), and who may only read can hold creators up: they end with the error.
//
// After an error a file or a directory that was not there before is gone again, and an existing
// file has its size. An empty path, a size that is not positive or does not fit the address
// space, and other values that cannot be match fs.ErrInvalid; what is at the path and no
// regular file, and systems and filesystems without maps, ErrNotMapped, but a directory is
// syscall.EISDIR and a link syscall.ELOOP.
func CreateSharedMemory(config *SharedMemoryConfig) (*SharedMemory, error) {
	if config == nil {
		config = new(SharedMemoryConfig)
	}
	mapping, err := config.mapping()
	if err != nil {
		return nil, wrapError("create", config.Path, err)
	}
	var shared *SharedMemory
	for range createAttempts {
		shared, err = createRegion(config, mapping)
		if !errors.Is(err, errOvertaken) {
			break
		}
	}
	if err == nil && config.ReportOwnerDeath {
		if err = shared.ReportOwnerDeath(config.OwnerWord); err != nil {
			shared.Close()
			return nil, err
		}
	}
	return shared, wrapError("create", config.Path, err)
}

// createAttempts bounds how often a creator begins anew because others remove what it works on.
const createAttempts = 100

// maxRegion is more than any processor can address. It keeps an absurd size from filling a disk.
const maxRegion = 1 << 56

// errOvertaken reports that another process has created or removed the file meanwhile.
var errOvertaken = errors.New("the file was created and removed again and again")

// mapping checks c and returns how its file is to be mapped as a whole.
func (c *SharedMemoryConfig) mapping() (*Config, error) {
	if c.Path == "" {
		return nil, fmt.Errorf("shared memory needs a path: %w", fs.ErrInvalid)
	}
	if err := checkRegionSize(c.Size); err != nil {
		return nil, err
	}
	switch {
	case c.Permissions&^fs.ModePerm != 0:
		return nil, fmt.Errorf("shared memory cannot have the permissions %v: %w", c.Permissions, fs.ErrInvalid)
	case int64(c.SyncInterval) > math.MaxInt64/int64(time.Second) || c.SyncInterval < 0:
		return nil, fmt.Errorf("shared memory cannot be flushed every %d seconds: %w", c.SyncInterval, fs.ErrInvalid)
	case c.ReportOwnerDeath && (c.OwnerWord < 0 || c.OwnerWord%4 != 0 || c.OwnerWord > c.Size-4):
		return nil, fmt.Errorf("%w: the owner's word at %d of %d bytes", ErrInvalidOffset, c.OwnerWord, c.Size)
	case c.ReportOwnerDeath && c.Mode == ModeCopyOnWrite:
		return nil, fmt.Errorf("other processes do not see who locks a copy-on-write region: %w", fs.ErrInvalid)
	}
	mapping := &Config{
		Mode:          c.Mode,
		SyncMode:      c.SyncMode,
		SyncInterval:  time.Duration(c.SyncInterval) * time.Second,
		MapFullFile:   true,
		PopulatePages: c.PopulatePages,
	}
	if _, err := mapping.validated(); err != nil {
		return nil, err
	}
	if c.Mode != ModeCopyOnWrite {
		mapping.Mode = ModeReadWrite
	}
	return mapping, nil
}

func checkRegionSize(size int64) error {
	if size <= 0 || size > maxRegion || int64(int(size)) != size {
		return fmt.Errorf("shared memory cannot have a size of %d bytes: %w", size, fs.ErrInvalid)
	}
	return nil
}

// createRegion is one attempt of CreateSharedMemory.
func createRegion(config *SharedMemoryConfig, mapping *Config) (shared *SharedMemory, err error) {
	made, err := makeDirectories(filepath.Dir(config.Path))
	defer func() {
		if err != nil {
			for _, directory := range made {
				os.Remove(directory) // fails if somebody has put something there
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	file, created, err := openOrCreate(config)
	if err != nil {
		return nil, err
	}
	lock, err := lockGrowth(file, config.Path, nil)
	if err != nil {
		abandon(file, config.Path, created)
		return nil, err
	}
	// From here on no other creator changes the size of the file or removes it.
	info, err := file.Stat()
	if err == nil {
		shared, err = growRegion(file, info, config, mapping, lock)
	}
	if info == nil || info.Size() > 0 || !lock.held {
		created = nil // another creator has made use of it
	}
	if err != nil && created != nil && removeSame(config.Path, created) == nil {
		created = nil
	}
	if unlockErr := lock.unlock(); err == nil && unlockErr != nil {
		shared.Close()
		return nil, unlockErr
	}
	if err != nil {
		abandon(file, config.Path, created)
	}
	return shared, err
}

// abandon closes a file and removes it unless created is nil. Windows removes no file that is
// open.
func abandon(file *os.File, path string, created os.FileInfo) {
	file.Close()
	if created != nil {
		removeSame(path, created)
	}
}

// removeSame removes the file at path if it is the one that info describes.
func removeSame(path string, info os.FileInfo) error {
	found, err := sysStat(path)
	if err == nil && !os.SameFile(found, info) {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	return os.Remove(path)
}

// makeDirectories makes a directory and those above it that are missing. It returns what was
// missing, the deepest first.
func makeDirectories(directory string) (missing []string, err error) {
	for at := directory; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return missing, os.MkdirAll(directory, 0o755)
		}
		missing = append(missing, at)
	}
}

// openOrCreate opens the file for reading and writing, or creates it with its permissions and
// returns what describes it then.
func openOrCreate(config *SharedMemoryConfig) (file *os.File, created os.FileInfo, err error) {
	file, err = openRegionFile(config.Path, os.O_RDWR)
	if !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = config.checkExisting(file)
		}
		if err != nil && file != nil {
			file.Close()
		}
		return file, nil, err
	}
	permissions := config.Permissions
	if permissions == 0 {
		permissions = 0o644
	}
	file, err = os.OpenFile(config.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, permissions)
	switch {
	case errors.Is(err, fs.ErrExist) && config.Exclusive:
		return nil, nil, err
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("%w: %w", errOvertaken, err)
	case err != nil:
		return nil, nil, err
	}
	created, err = file.Stat()
	if err == nil && config.Permissions != 0 {
		err = file.Chmod(permissions)
	}
	if err != nil {
		abandon(file, config.Path, created)
		return nil, nil, err
	}
	return file, created, nil
}

// openRegionFile opens the file at path, but no link there.
func openRegionFile(path string, flag int) (*os.File, error) {
	if sysOpenNofollow == 0 { // Windows follows what is there without being asked
		if found, err := sysStat(path); err == nil && found.Mode()&(fs.ModeSymlink|fs.ModeIrregular) != 0 {
			return nil, linkError(path)
		}
	}
	file, err := os.OpenFile(path, flag|sysOpenNonblock|sysOpenNofollow, 0)
	if err == nil {
		return file, nil
	}
	if found, statErr := sysStat(path); statErr == nil && found.Mode()&fs.ModeSymlink != 0 {
		return nil, linkError(path)
	}
	return nil, err
}

// linkError says what is wrong with the link at path.
func linkError(path string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return fmt.Errorf("%w: no link, mount point or the like is followed: give the path of the file itself", syscall.ELOOP)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: it is a link to %q, where there is nothing, and links are not followed: "+
			"remove it, or give the path of the file itself", syscall.ELOOP, target)
	}
	return fmt.Errorf("%w: it is a link to %q, and links are not followed: give the path of the file itself",
		syscall.ELOOP, target)
}

// checkExisting returns why a file that was there already is not to be used.
func (c *SharedMemoryConfig) checkExisting(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if c.Exclusive {
		return fs.ErrExist
	}
	if err := checkRegular(info); err != nil || c.Permissions == 0 || c.AllowForeign {
		return err
	}
	if owner, known := sysOwner(info); known && owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%w: the file belongs to the user with the number %d, neither to this one (%d) nor to root: "+
			"remove it, choose another directory, or set AllowForeign if that user is trusted", fs.ErrPermission, owner, os.Geteuid())
	}
	// Windows knows one bit, and shows it as three.
	if _, known := sysOwner(info); known && info.Mode().Perm()&^c.Permissions != 0 {
		return fmt.Errorf("%w: the file has the permissions %v, more than the %v asked for: "+
			"change or remove it, or set AllowForeign", fs.ErrPermission, info.Mode().Perm(), c.Permissions)
	}
	return nil
}

// growRegion gives the file, which info describes, its size and its blocks, and maps it.
func growRegion(file *os.File, info os.FileInfo, config *SharedMemoryConfig, mapping *Config, lock growthLocked) (*SharedMemory, error) {
	if err := checkRegular(info); err != nil {
		return nil, err
	}
	if config.Exclusive && info.Size() > 0 {
		return nil, fmt.Errorf("another process has made the region first: %w", fs.ErrExist)
	}
	if found, err := sysStat(config.Path); err != nil || !os.SameFile(found, info) {
		return nil, errOvertaken // by a creator that has failed, or by Remove
	}
	if err := growFile(file, config.Path, info.Size(), config.Size, lock, nil); err != nil {
		return nil, err
	}
	return mapRegion(file, regionFile{
		path: config.Path, named: true, info: info, mapping: mapping, flag: os.O_RDWR, created: info.Size() == 0,
	}, max(info.Size(), config.Size), config.Size)
}

func checkRegular(info os.FileInfo) error {
	switch {
	case info.IsDir():
		return syscall.EISDIR
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: not a regular file", ErrNotMapped)
	}
	return nil
}
