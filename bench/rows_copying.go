package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// copyTo has each contestant copy the file to what open opens for it; arrived tells the sum over
// what has come.
func copyTo(name string, size int64, g goals, open func(w *workspace) (to io.Writer, arrived func(t turn) (uint64, error), err error)) row {
	return row{name: fmt.Sprintf("io.Copy of %s to %s", sizeName(size), name), goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.stampedFile(size)
		if err != nil {
			return nil, err
		}
		var failed error
		contestants, err := readers(w, w.libraries.reading, path, size, func(file opened) func(t turn) (uint64, error) {
			to, arrived, err := open(w)
			failed = errors.Join(failed, err)
			return func(t turn) (uint64, error) {
				sum := uint64(0)
				for range t.operations {
					if _, err := file.stream.Seek(0, io.SeekStart); err != nil {
						return 0, err
					}
					n, err := io.Copy(to, file.stream)
					if err := errors.Join(full(int(n), int(size), io.ErrShortWrite), err); err != nil {
						return 0, err
					}
					one, err := arrived(t)
					if err != nil {
						return 0, err
					}
					sum += one
				}
				return sum, nil
			}
		})
		return contestants, errors.Join(err, failed)
	}}
}

func copyToBuffer(size int64, g goals) row {
	return copyTo("a bytes.Buffer", size, g, func(w *workspace) (io.Writer, func(t turn) (uint64, error), error) {
		buffer := new(bytes.Buffer)
		buffer.Grow(int(size) + bytes.MinRead)
		return buffer, func(t turn) (uint64, error) {
			defer buffer.Reset()
			return digest(0, buffer.Bytes(), t.check), nil
		}, nil
	})
}

// copyToNull leaves out mmap-go: the device takes the whole map in one call, and nobody reads a
// byte of it.
func copyToNull(size int64, g goals) row {
	r := copyTo(os.DevNull, size, g, func(w *workspace) (io.Writer, func(t turn) (uint64, error), error) {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err == nil {
			w.later(null.Close)
		}
		return null, func(t turn) (uint64, error) { return 0, nil }, err
	})
	setup := r.setup
	r.setup = func(w *workspace) ([]contestant, error) {
		contestants, err := setup(w)
		return slices.DeleteFunc(contestants, func(c contestant) bool { return c.name == mmapGo }), err
	}
	return r
}

// copyToDiscard drops what it gets without looking at it: what is left is the time of the reads, in
// the buffer that io.Discard brings. mmap-go is left out for the reason above.
func copyToDiscard(size int64, g goals) row {
	r := copyTo("io.Discard", size, g, func(w *workspace) (io.Writer, func(t turn) (uint64, error), error) {
		return io.Discard, func(t turn) (uint64, error) { return 0, nil }, nil
	})
	setup := r.setup
	r.setup = func(w *workspace) ([]contestant, error) {
		contestants, err := setup(w)
		return slices.DeleteFunc(contestants, func(c contestant) bool { return c.name == mmapGo }), err
	}
	return r
}

func copyToTCP(size int64, g goals) row {
	return copyTo("TCP", size, g, func(w *workspace) (io.Writer, func(t turn) (uint64, error), error) {
		connection, received, err := loopback(w, size)
		return connection, func(t turn) (uint64, error) {
			checksum, ok := <-received
			if !ok {
				return 0, io.ErrUnexpectedEOF
			}
			return checksum, nil
		}, err
	})
}
