package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/absfs/memmapfs"
)

// randomLoads loads eight bytes at a time: of maps by indexing them, in memmapfs a million times
// inside one View, in files with ReadAt.
func randomLoads(size int64, g goals) row {
	return row{name: fmt.Sprintf("random 8 B loads of %s, in View", sizeName(size)), goals: g, setup: func(w *workspace) ([]contestant, error) {
		path, err := w.fileHolding(size)
		if err != nil {
			return nil, err
		}
		contestants, err := readers(w, w.libraries.reading, path, size, func(file opened) func(t turn) (uint64, error) {
			buffer := make([]byte, 8)
			return func(t turn) (uint64, error) {
				sum := uint64(0)
				offsets := offsetsIn(size, len(buffer), t.number)
				for range t.operations {
					n, err := file.ReadAt(buffer, offsets.next())
					if n < len(buffer) {
						return 0, full(n, len(buffer), err)
					}
					sum += binary.LittleEndian.Uint64(buffer)
				}
				return sum, nil
			}
		})
		if err != nil {
			return nil, err
		}
		for i := range contestants {
			switch c := &contestants[i]; c.name {
			case mapped:
				c.work, err = loadsInView(w, path, size)
			case mmapGo:
				c.work, err = loadsOfMap(w, size, func() ([]byte, func() error, error) {
					data, err := mapMmapGo(path, os.O_RDONLY, 0)
					return data, data.Unmap, err
				})
			}
			if err != nil {
				return nil, err
			}
		}
		work, err := loadsOfMap(w, size, func() ([]byte, func() error, error) { return mapBare(path, size) })
		switch {
		case err == nil:
			contestants = append(contestants, contestant{name: bareMap, work: work})
		case !errors.Is(err, errors.ErrUnsupported):
			return nil, err
		}
		return contestants, nil
	}}
}

func sumOfLoads(data []byte, offsets *randomOffsets, loads int) uint64 {
	sum := uint64(0)
	for range loads {
		sum += binary.LittleEndian.Uint64(data[offsets.next():])
	}
	return sum
}

func touchPages(data []byte) error {
	sum := byte(0)
	for page := 0; page < len(data); page += os.Getpagesize() {
		sum += data[page]
	}
	runtime.KeepAlive(sum)
	return nil
}

func loadsInView(w *workspace, path string, size int64) (func(t turn) (uint64, error), error) {
	const loadsPerView = 1_000_000
	file, err := libraryOf(w.libraries.reading, mapped).open(path)
	if err != nil {
		return nil, err
	}
	w.later(file.close)
	view := file.ReaderAt.(*memmapfs.MappedFile).View
	return func(t turn) (uint64, error) {
		sum := uint64(0)
		offsets := offsetsIn(size, 8, t.number)
		for done := 0; done < t.operations; done += loadsPerView {
			err := view(0, size, func(data []byte) error {
				sum += sumOfLoads(data, &offsets, min(loadsPerView, t.operations-done))
				return nil
			})
			if err != nil {
				return 0, err
			}
		}
		return sum, nil
	}, view(0, size, touchPages)
}

func loadsOfMap(w *workspace, size int64, open func() (data []byte, unmap func() error, err error)) (func(t turn) (uint64, error), error) {
	data, unmap, err := open()
	if err != nil {
		return nil, err
	}
	w.later(unmap)
	return func(t turn) (uint64, error) {
		offsets := offsetsIn(size, 8, t.number)
		return sumOfLoads(data, &offsets, t.operations), nil
	}, touchPages(data[:size])
}
