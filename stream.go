package memmapfs

import (
	"io"
	"io/fs"
	"math"
	"os"
	"unsafe"
)

// Reading and writing at the handle's position.

// Read reads up to len(p) bytes from the position on and moves it. At the end of the file it
// returns 0 and io.EOF. Calls of Read, Write and Seek on one handle follow one after the other
// once the file is mapped.
func (f *MappedFile) Read(p []byte) (n int, err error) {
	if !f.position.owned.Load() && !f.ownsPosition() && f.position.throughFile(func() { n, err = f.readUnmapped(p) }) {
		return n, f.wrap("read", err)
	}
	n, err = f.read(p)
	f.deliverFaults()
	return n, f.wrap("read", err)
}

// read reads at the handle's own position, and moves it.
func (f *MappedFile) read(p []byte) (n int, err error) {
	f.position.mu.Lock()
	defer f.position.mu.Unlock()
	switch {
	case f.position.at > math.MaxInt64-int64(len(p)):
		// What a system says of a position with which the length makes no offset is its own: the end of
		// the file, or an error.
		if f.maps.isClosed() {
			return 0, fs.ErrClosed
		}
		if _, err = f.maps.file.Seek(f.position.at, io.SeekStart); err == nil {
			n, err = f.maps.file.Read(p)
			n = countIn(p, n)
		}
	case f.maps.readHot(p, f.position.at):
		n = len(p)
	default:
		if n, err = f.readAt(p, f.position.at); n > 0 {
			err = nil // the next Read meets it again
		}
	}
	f.position.at += int64(n)
	return n, err
}

// readUnmapped reads from the wrapped file at its own position.
func (f *MappedFile) readUnmapped(p []byte) (int, error) {
	if f.maps.isClosed() {
		return 0, fs.ErrClosed
	}
	f.maps.demand.note(len(p))
	f.maps.host.counters.readsUnmapped.Add(1)
	return f.maps.file.Read(p)
}

// ownsPosition reports whether the position is this handle's. It takes it over when the file has a
// map that serves calls, or gets one because it pays now.
func (f *MappedFile) ownsPosition() bool {
	if !f.maps.windows.any() || !f.maps.trusted.Load() {
		if !f.maps.callsPay() {
			return false
		}
		at, err := f.maps.file.Seek(0, io.SeekCurrent)
		if err != nil {
			if !f.maps.isClosed() {
				f.maps.refuse(refuse(refusedKind, errNotRegular, true)) // a pipe
			}
			return false
		}
		if !f.maps.tryMap(at) {
			return false
		}
	}
	return f.position.take(f.maps.file) == nil
}

// Write writes p at the position, or at the end of the file with O_APPEND, and moves the
// position behind it. Whether the bytes are durable then is up to the SyncMode. In
// ModeCopyOnWrite they stay in the handle, and a write past the end of the file is refused as a
// whole, with an error wrapping errors.ErrUnsupported. In ModeReadOnly and ModeExecute a handle
// opened with O_RDONLY gives ErrWriteToReadOnlyMap.
func (f *MappedFile) Write(p []byte) (n int, err error) {
	if !f.position.owned.Load() && !(f.maps.writable && f.ownsPosition()) &&
		f.position.throughFile(func() { n, err = f.writeUnmapped(p) }) {
		return n, f.wrap("write", err)
	}
	n, err = f.write(p)
	f.deliverFaults()
	return n, f.wrap("write", err)
}

// write writes p at the handle's own position, and moves it.
func (f *MappedFile) write(p []byte) (int, error) {
	f.position.mu.Lock()
	defer f.position.mu.Unlock()
	if len(p) > 0 && (f.private != nil || f.maps.flag&os.O_APPEND == 0) {
		n, err := f.writeAt(p, f.position.at)
		f.position.at += int64(n)
		return n, err
	}
	if err := f.writable(); err != nil || f.private != nil {
		return 0, err
	}
	return f.writeAtFilePosition(p)
}

// writeAtFilePosition is write for what only the wrapped file's Write does: to append, and to say
// what a write of nothing gives. The caller holds position.mu.
func (f *MappedFile) writeAtFilePosition(p []byte) (int, error) {
	if err := f.unsynced.beginWrite(); err != nil {
		return 0, err
	}
	defer f.unsynced.endWrite()
	f.maps.countWrite(math.MaxInt64) // the end, wherever it is
	if sysAppendsAtPosition {
		if _, err := f.maps.file.Seek(f.position.at, io.SeekStart); err != nil {
			return 0, err
		}
	}
	term := f.maps.beginWrite()
	n, err := f.maps.file.Write(p)
	if n = countIn(p, n); n > 0 {
		if at, seekErr := f.maps.file.Seek(0, io.SeekCurrent); seekErr == nil {
			f.position.at = at
			f.maps.learnWritten(at-int64(n), p[:n], term)
		}
		err = join(err, f.unsynced.wrote(f.position.at-int64(n), n))
	}
	return n, err
}

// writeUnmapped is readUnmapped for a write.
func (f *MappedFile) writeUnmapped(p []byte) (int, error) {
	if err := f.writable(); err != nil {
		return 0, err
	}
	if err := f.unsynced.beginWrite(); err != nil {
		return 0, err
	}
	defer f.unsynced.endWrite()
	f.maps.demand.note(len(p))
	f.maps.countWrite(0)
	n, err := f.maps.file.Write(p)
	if f.maps.compares {
		f.maps.forget() // others may have mapped the file; what it has written has to be compared
	}
	if n > 0 {
		if f.maps.compares { // what was written, and where, is to be compared
			f.maps.forget()
		}
		err = join(err, f.unsynced.wrote(0, 0))
	}
	return n, err
}

// WriteString is Write for the bytes of s.
func (f *MappedFile) WriteString(s string) (int, error) {
	return f.Write(unsafe.Slice(unsafe.StringData(s), len(s)))
}

// Seek sets the position for the next Read or Write and returns it. It may lie past the end of
// the file. Errors are the wrapped file's. They match ErrInvalidOffset too if offset is
// negative and counts from the start of the file, and ErrInvalidWhence if whence is unknown and
// the file's error is syscall.EINVAL.
func (f *MappedFile) Seek(offset int64, whence int) (int64, error) {
	at, err := f.seek(offset, whence)
	return at, f.wrap("seek", err)
}

func (f *MappedFile) seek(offset int64, whence int) (at int64, err error) {
	unmapped := f.position.throughFile(func() {
		if f.maps.isClosed() {
			err = fs.ErrClosed
			return
		}
		at, err = f.maps.file.Seek(offset, whence)
		err = seekError(err, offset, whence)
	})
	if unmapped {
		return at, err
	}
	return f.position.seek(&f.maps.openFile, offset, whence, func(off int64) bool {
		m := f.maps.windows.at(off)
		return m != nil && m.holds(off)
	})
}

// WriteTo writes the file from the position to its end to w, and moves the position. The bytes
// are read like any others, so w never sees mapped memory. It returns how many bytes w has
// taken, and the first error of either side; the end of the file is none.
func (f *MappedFile) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, struct{ io.Reader }{f})
	return n, err
}

// ReadFrom writes to the file what r has, until its io.EOF, as Write does. It returns how many
// bytes it has written, and the first error of either side but io.EOF.
func (f *MappedFile) ReadFrom(r io.Reader) (int64, error) {
	if err := f.writable(); err != nil {
		return 0, f.wrap("write", err)
	}
	return io.Copy(struct{ io.Writer }{f}, r)
}
