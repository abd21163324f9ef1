package memmapfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/absfs/osfs"
)

// A map may stand for the file only where it is the file. Whether it is rests on three things:
// the caller's policy, the kind of filesystem, and for files of a type that is not known a
// comparison of what the map shows with what the file's own ReadAt gives.

// refusal says why no call is served from a map of the file.
type refusal struct {
	reason int   // one of those below
	err    error // wraps ErrNotMapped
	byName bool  // who asks for a map by name gets none either
}

// The reasons of refusals, as Stats counts them.
const (
	refusedByPolicy     = iota // Config.Mapping is MapNever
	refusedNoDescriptor        // the wrapped file offers none, or it cannot be had
	refusedKind                // no regular file, or opened in a way that maps cannot serve
	refusedByFilesystem        // it may show a map other bytes than calls
	refusedTransformed         // the wrapped file shows other bytes than the map
	refusedBySystem            // it refuses the map
	refusalReasons             // their number
)

var (
	errNoDescriptor = &sentinel{"the file offers no descriptor (SyscallConn or Fd)", errors.ErrUnsupported}
	errNotRegular   = errors.New("not a regular file")
	errOpenFlags    = errors.New("opened without the right to read, or with flags that maps know nothing of")
	errMapNever     = errors.New("Config.Mapping is MapNever")
	errTransformed  = errors.New("the file's ReadAt gives other bytes than the file on the disk has")
	errModeAndCalls = errors.New("on this system a handle that writes has to be in ModeReadWrite to be served from a map")
)

func refuse(reason int, err error, byName bool) *refusal {
	return &refusal{reason: reason, err: notMapped(err), byName: byName}
}

// refuseOpened says what can be said of a file without looking at it: whether one opened so is
// ever mapped.
func (o *openFile) refuseOpened() *refusal {
	switch {
	case !o.offersDescriptor():
		return refuse(refusedNoDescriptor, errNoDescriptor, true)
	case o.flag&^understoodFlags != 0, o.access() != os.O_RDONLY && o.access() != os.O_RDWR:
		return refuse(refusedKind, errOpenFlags, true)
	case o.host.config.Mapping == MapNever:
		return refuse(refusedByPolicy, errMapNever, false)
	}
	return nil
}

// filesystem is what is known of the filesystem that a file is on.
type filesystem struct {
	kind int
	name string
}

// filesystem asks which filesystem the file is on.
func (d *descriptor) filesystem() (found filesystem) {
	d.do(func(fd uintptr) error {
		kind, name, err := system.filesystem(fd)
		if err == nil {
			found = filesystem{kind, name}
		}
		return err
	})
	if found.name == "" {
		found.name = "a filesystem of an unknown kind"
	}
	return found
}

// refuseFilesystem says whether calls may be served from a map of a file of this kind of
// filesystem.
func (o *openFile) refuseFilesystem(found filesystem) *refusal {
	switch {
	case o.host.config.Mapping == MapAlways:
		return nil
	case found.kind == filesystemOnePage, found.kind == filesystemFillsHole:
		return nil
	case found.kind == filesystemOverlay && o.access() == os.O_RDWR:
		return nil // it was copied up when it was opened (Documentation/filesystems/overlayfs.rst)
	}
	return refuse(refusedByFilesystem, fmt.Errorf("a map of a file on %s may show other bytes than the file "+
		"(if nobody changes the files behind the map, Config.Mapping can be MapAlways)", found.name), false)
}

// isTransparent reports whether the wrapped file is of a type that is known to show the bytes
// that its descriptor shows.
func (o *openFile) isTransparent() bool {
	switch o.file.(type) {
	case *osfs.File, *os.File, interface{ showsItsDescriptor() }:
		return true
	}
	return false
}

const (
	comparedPlaces = 16
	comparedBytes  = 256 // at each place
)

// showsSame reports whether the file's ReadAt gives the bytes that a map of it has, at places spread
// over the map: its first and last bytes, and some in between. The map has limit bytes of the file.
func (o *openFile) showsSame(m *mapping, limit int64) (bool, error) {
	step, length := max(limit/comparedPlaces, comparedBytes), int64(comparedBytes)
	compared, failed := 0, error(nil)
	for start := int64(0); start < limit; start += step {
		n := min(length, limit-start)
		if start+step >= limit {
			start = limit - n
		}
		same, err := o.showsSameAt(m, start, int(n))
		switch {
		case err != nil:
			failed = err // a bad sector says nothing of the others
		case !same:
			return false, nil
		default:
			compared++
		}
		if start == limit-n {
			break
		}
	}
	if compared == 0 && failed != nil {
		return false, failed
	}
	return true, nil
}

// comparisons is how often a comparison is tried: somebody may write between its two halves.
const comparisons = 4

func (o *openFile) showsSameAt(m *mapping, start int64, n int) (bool, error) {
	fromFile, fromMap := make([]byte, n), make([]byte, n)
	for range comparisons {
		read, err := o.file.ReadAt(fromFile, m.offset+start)
		if err != nil && err != io.EOF {
			return false, err
		}
		if read == n && m.copyOut(fromMap, start) == nil && bytes.Equal(fromFile, fromMap) {
			return true, nil
		}
		info, statErr := o.stat()
		if statErr != nil {
			return false, statErr
		}
		// The file may have been shrunk. If it has not, it has to end where it says that it does,
		// and the map has to reach that far.
		n = int(min(int64(n), max(info.Size()-m.offset-start, 0)))
		if read >= n && m.copyOut(fromMap[:n], start) == nil && bytes.Equal(fromFile[:n], fromMap[:n]) {
			return true, nil
		}
	}
	return false, nil
}

// hasChanged reports whether a file was changed between the moments at which two descriptions of it
// were made. Its modification time alone may have been set back.
func hasChanged(before, now os.FileInfo) bool {
	return !before.ModTime().Equal(now.ModTime()) || before.Size() != now.Size() ||
		sysChangeTime(before.Sys()) != sysChangeTime(now.Sys())
}
