package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// file is what is needed of a mapped file.
type file interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// follower follows the file that has a path, whichever it is.
type follower struct {
	path     string
	open     func(path string) (file, error)
	write    func(b []byte) error
	warn     func(text string)
	patience time.Duration // so long a file is followed that has lost the path, after its last byte

	current  *stream // nil while there was no file yet
	previous []*stream
}

// stream is a file that is followed.
type stream struct {
	place
	file     file
	identity fs.FileInfo
	buffer   []byte
	atStart  bool      // nothing but zeros was seen
	last     time.Time // when the last byte was seen
}

// newStream returns a stream that begins with the first byte.
func newStream(opened file) (*stream, error) {
	info, err := opened.Stat()
	if err != nil {
		return nil, err
	}
	return &stream{file: opened, identity: info, buffer: make([]byte, 64<<10), atStart: true, last: time.Now()}, nil
}

// poll writes what was logged since the last call. It reports whether there is more already.
func (f *follower) poll() (more bool, err error) {
	err = f.reopen()
	if f.current == nil {
		return false, err
	}
	more, drainErr := f.drain(f.current)
	err = errors.Join(err, drainErr, f.drainPrevious())
	kept := f.previous[:0]
	for _, s := range f.previous {
		if time.Since(s.last) < f.patience {
			kept = append(kept, s)
		} else {
			s.file.Close()
		}
	}
	f.previous = kept
	return more, err
}

// reopen looks whether another file has the path now. The one before stays open: its writer may
// not have noticed.
func (f *follower) reopen() error {
	info, err := os.Stat(f.path)
	if err == nil && f.current != nil && os.SameFile(f.current.identity, info) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.path)
	}
	opened, err := f.open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // rotated, and the next file is not made yet
	} else if err != nil {
		return err
	}
	s, err := newStream(opened)
	if err != nil || f.current != nil && os.SameFile(f.current.identity, s.identity) {
		return errors.Join(err, opened.Close())
	}
	if f.current != nil {
		f.current.last = s.last
		f.previous = append(f.previous, f.current)
	}
	f.current = s
	return nil
}

func (f *follower) drainPrevious() error {
	for _, s := range f.previous {
		for more := true; more; {
			var err error
			if more, err = f.drain(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain writes what is behind the place of s, and reports whether it has left something.
func (f *follower) drain(s *stream) (more bool, err error) {
	for range 256 {
		// The size first: what is read behind the end is not the file's, even if it has grown by
		// then.
		info, err := s.file.Stat()
		if err != nil {
			return false, err
		}
		n := int(max(0, min(int64(len(s.buffer)), info.Size()-s.offset)))
		if n, err = s.file.ReadAt(s.buffer[:n], s.offset); err != nil && err != io.EOF {
			return false, err
		}
		// A writer that writes to the new file is done with the old one: what that has is older.
		if s == f.current && n > 0 {
			if err := f.drainPrevious(); err != nil {
				return false, err
			}
		}
		// Only now is it known whether the bytes are those behind the place. If the file was cut
		// before they were read, it is shorter, or has others before them.
		same, whole, err := s.in(s.file)
		if err != nil {
			return false, err
		}
		if !same || !whole {
			if err := f.writeCopied(s); err != nil {
				return false, err
			}
			s.place, s.atStart = place{}, true
			continue
		}
		if n == 0 {
			return false, nil
		}
		if err := f.pass(s, s.buffer[:n]); err != nil {
			return false, err
		}
	}
	return true, nil
}

// pass writes b and moves the place behind it. Zeros at the start of a file are not written: a
// writer that does not append leaves them when the file is cut before its position.
func (f *follower) pass(s *stream, b []byte) error {
	s.last = time.Now()
	text := b
	if s.atStart {
		text = bytes.TrimLeft(b, "\x00")
		s.atStart = len(text) == 0
	}
	if len(text) > 0 {
		if err := f.write(text); err != nil {
			return err
		}
	}
	s.place.pass(b)
	return nil
}

// writeCopied writes what s had behind its place when it was cut, from the copy that was made
// before.
func (f *follower) writeCopied(s *stream) error {
	copied, err := f.findCopy(s)
	if err != nil {
		return err
	}
	if copied == nil {
		f.warn(fmt.Sprintf("%s was cut, and no copy of it is beside it: what was logged behind byte %d just before is not shown", f.path, s.offset))
		return nil
	}
	defer copied.Close()
	for {
		n, err := copied.ReadAt(s.buffer, s.offset)
		if n > 0 {
			if err := f.pass(s, s.buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// findCopy returns the newest file beside that of s that has the same contents, or nil if there
// is none.
func (f *follower) findCopy(s *stream) (file, error) {
	directory, base := filepath.Split(f.path)
	entries, err := os.ReadDir(filepath.Clean(directory))
	if err != nil {
		return nil, err
	}
	var newest file
	var modified time.Time
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !strings.HasPrefix(entry.Name(), base) {
			continue
		}
		opened, err := f.open(filepath.Join(directory, entry.Name()))
		if err != nil {
			continue // the rotation goes on
		}
		info, err := opened.Stat()
		same := false
		if err == nil && !os.SameFile(info, s.identity) && (newest == nil || info.ModTime().After(modified)) {
			same, _, err = s.in(opened)
		}
		if err != nil || !same {
			opened.Close()
			continue
		}
		if newest != nil {
			newest.Close()
		}
		newest, modified = opened, info.ModTime()
	}
	return newest, nil
}

func (f *follower) close() {
	if f.current != nil {
		f.previous = append(f.previous, f.current)
	}
	for _, s := range f.previous {
		s.file.Close()
	}
	f.current, f.previous = nil, nil
}
