package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/absfs/memmapfs"
)

// writers has each library open its own copy of the file and overwrite it until that is as fast as
// it gets.
func writers(w *workspace, from []library, size int64, work func(file editor) func(t turn) error) ([]contestant, error) {
	var contestants []contestant
	for _, l := range from {
		path, err := w.ownFile(l.name, size)
		if err != nil {
			return nil, err
		}
		file, err := l.edit(path)
		if err != nil {
			return nil, err
		}
		w.later(file.Close)
		if err := overwrite(file, path); err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		write := work(file)
		contestants = append(contestants, contestant{name: l.name, work: func(t turn) (uint64, error) {
			if err := write(t); err != nil || !t.check {
				return 0, err
			}
			written, err := os.ReadFile(path)
			return digest(0, written, true), err
		}})
	}
	return contestants, nil
}

// overwrite is warm for a file to be written to. The contents stay the same.
func overwrite(file editor, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	block := max(len(data)/64, 1)
	for range 2 {
		for offset := 0; offset < len(data); offset += block {
			if _, err := file.WriteAt(data[offset:min(offset+block, len(data))], int64(offset)); err != nil {
				return err
			}
		}
	}
	if file, ok := file.(*memmapfs.MappedFile); ok && !file.Mapped() {
		return errors.New("has not mapped the file, so there is nothing to measure: does another -dir help?")
	}
	return nil
}

func writeRandom(size int64, length int) func(file editor) func(t turn) error {
	return func(file editor) func(t turn) error {
		buffer := make([]byte, length)
		return func(t turn) error {
			offsets := offsetsIn(size, length, t.number)
			for i := range t.operations {
				binary.LittleEndian.PutUint64(buffer, uint64(i))
				if _, err := file.WriteAt(buffer, offsets.next()); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

func randomWriteAt(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("random WriteAt %s of %s", sizeName(int64(length)), sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return writers(w, w.libraries.writing, size, writeRandom(size, length))
	}}
}

func sequentialOverwrite(length, size int64, g goals) row {
	return row{name: fmt.Sprintf("sequential overwrite, Write %s", sizeName(length)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return writers(w, w.libraries.writing, size, func(file editor) func(t turn) error {
			buffer := make([]byte, length)
			return func(t turn) error {
				for i := range t.operations {
					if i%int(size/length) == 0 {
						if _, err := file.Seek(0, io.SeekStart); err != nil {
							return err
						}
					}
					binary.LittleEndian.PutUint64(buffer, uint64(i))
					if _, err := file.Write(buffer); err != nil {
						return err
					}
				}
				return nil
			}
		})
	}}
}

func createAppend(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("create, append %s by %s, close", sizeName(size), sizeName(int64(length))), goals: g, operations: 1, setup: func(w *workspace) ([]contestant, error) {
		var contestants []contestant
		for _, l := range w.libraries.writing {
			if l.create == nil {
				continue
			}
			path := filepath.Join(w.dir, "created-"+l.name)
			remove := func() error {
				if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
					return err
				}
				return nil
			}
			w.later(remove)
			buffer := make([]byte, length)
			contestants = append(contestants, contestant{name: l.name, before: remove, work: func(t turn) (uint64, error) {
				file, err := l.create(path)
				if err != nil {
					return 0, err
				}
				for i := range int(size) / length {
					binary.LittleEndian.PutUint64(buffer, stamp(int64(i)))
					if _, err := file.Write(buffer); err != nil {
						return 0, errors.Join(err, file.Close())
					}
				}
				if err := file.Close(); err != nil || !t.check {
					return 0, err
				}
				written, err := os.ReadFile(path)
				return digest(0, written, true), err
			}})
		}
		return contestants, nil
	}}
}

func durableWriteAt(length int, size int64, g goals) row {
	return row{name: fmt.Sprintf("WriteAt %s made durable", sizeName(int64(length))), goals: g, setup: func(w *workspace) ([]contestant, error) {
		return writers(w, w.libraries.durable, size, writeRandom(size, length))
	}}
}
