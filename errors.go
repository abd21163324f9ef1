package memmapfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// The errors of this package. They reach the caller inside an *fs.PathError;
// test for them with errors.Is.
var (
	// ErrNotMapped reports that an operation needs a map and the file has none and
	// cannot get one: it has no descriptor (memfs), is not a regular file, shows other
	// bytes than its descriptor, or its filesystem refuses maps. Empty files have no
	// map either; what asks for bytes of one reports io.EOF.
	// The rest of the error's text says which, and what to try. In MappingError it also
	// says that no call is served from a map.
	ErrNotMapped error = &sentinel{"file is not memory-mapped", errors.ErrUnsupported}

	// ErrInvalidOffset reports a negative offset or a negative length.
	// It matches fs.ErrInvalid too.
	ErrInvalidOffset error = &sentinel{"invalid offset", fs.ErrInvalid}

	// ErrInvalidWhence reports a whence that Seek does not know.
	// It matches fs.ErrInvalid too.
	ErrInvalidWhence error = &sentinel{"invalid whence", fs.ErrInvalid}

	// ErrWriteToReadOnlyMap reports a write to a handle that was opened read-only
	// in ModeReadOnly or ModeExecute: open the file with OpenFile and os.O_RDWR, or
	// use ModeCopyOnWrite for writes that stay in the handle. It matches
	// fs.ErrPermission too.
	ErrWriteToReadOnlyMap error = &sentinel{"cannot write to read-only mapping", fs.ErrPermission}

	// ErrSIGBUS reports an access fault in mapped memory: the file was truncated,
	// its disk is full or failed, the mapping was taken away by Close, or bytes that
	// may only be read were stored to.
	ErrSIGBUS error = &sentinel{"fault in mapped memory: the file was truncated, its disk failed or is full, or the bytes may only be read", nil}
)

// errCopyOnWriteSize refuses what would change the size of a copy-on-write file.
var errCopyOnWriteSize = &sentinel{"a copy-on-write file cannot change its size", errors.ErrUnsupported}

// errBadBuffer is what the system says of a buffer that cannot be accessed.
const errBadBuffer = syscall.EFAULT

// errOverBudget reports that a map would take more than this package's share of the process.
var errOverBudget = errors.New("this process has as many maps as it may")

// errEmptyPool reports that a file of hugetlbfs needs more huge pages than are free.
var errEmptyPool = errors.New("hugetlbfs has not so many huge pages free")

// sentinel is an error that also matches the standard library's error of its kind.
type sentinel struct {
	text string
	kind error
}

func (e *sentinel) Error() string { return e.text }

func (e *sentinel) Is(target error) bool { return e.kind != nil && target == e.kind }

// wrapError gives err the operation and the path it belongs to. It leaves alone
// nil, io.EOF, and what the wrapped filesystem has wrapped already.
func wrapError(op, path string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	switch err.(type) {
	case *fs.PathError:
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// join returns the errors that are not nil: one as it is, two as errors.Join.
func join(first, second error) error {
	switch {
	case first == nil:
		return second
	case second == nil:
		return first
	}
	return errors.Join(first, second)
}

// because adds a sentinel to err, inside its *fs.PathError if it has one.
func because(err, sentinel error) error {
	if pathError, ok := err.(*fs.PathError); ok {
		return &fs.PathError{Op: pathError.Op, Path: pathError.Path, Err: because(pathError.Err, sentinel)}
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

// notMapped says why a file cannot be mapped, and what to try if a limit was reached.
func notMapped(reason error) error {
	switch {
	case errors.Is(reason, ErrNotMapped):
		return reason
	case errors.Is(reason, errOverBudget):
		return fmt.Errorf("%w: %w (map fewer files, or set Config.MaxWindows and WindowSize lower)", ErrNotMapped, reason)
	case errors.Is(reason, syscall.EACCES):
		return fmt.Errorf("%w: %w (the process may not open the file any more: has it given up rights since it opened it?)",
			ErrNotMapped, reason)
	case errors.Is(reason, errEmptyPool):
		return fmt.Errorf("%w: %w (give the pool more pages, see vm.nr_hugepages)", ErrNotMapped, reason)
	case errors.Is(reason, syscall.ENOMEM):
		return fmt.Errorf("%w: %w (out of maps, see vm.max_map_count, or of address space, see RLIMIT_AS: "+
			"map fewer files, or set Config.MaxWindows and WindowSize lower)", ErrNotMapped, reason)
	case errors.Is(reason, syscall.EMFILE):
		return fmt.Errorf("%w: %w (raise RLIMIT_NOFILE)", ErrNotMapped, reason)
	}
	return fmt.Errorf("%w: %w", ErrNotMapped, reason)
}
