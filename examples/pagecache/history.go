package main

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	maxMoments = 160 // looks that are drawn; with more, every second one is forgotten
	maxBands   = 24  // files that are drawn
)

// history is what looks have seen, thinned out so that it stays small however long it goes on.
type history struct {
	moments []moment
	bands   map[string]*band // by path
	every   int              // one of so many looks is kept
	skipped int
	last    time.Time
}

// moment is what one look has seen of all files.
type moment struct {
	at             time.Time
	resident, size int64
}

// band is one file in all moments. A moment that has not seen it has nil.
type band struct {
	path   string
	size   int64
	now    int64 // in memory, at the last look that saw it
	most   int64 // in memory, at any look
	blocks []*[blocks]uint8
}

// add takes a look in.
func (h *history) add(l *look) {
	h.last = l.at
	if h.bands == nil {
		h.bands, h.every = make(map[string]*band), 1
	}
	if h.skipped++; h.skipped < h.every && len(h.moments) > 0 {
		return
	}
	h.skipped = 0
	h.moments = append(h.moments, moment{l.at, l.resident, l.size})
	for i := range l.top {
		f := &l.top[i]
		if !f.known || f.size == 0 {
			continue
		}
		b := h.bands[f.path]
		if b == nil {
			b = &band{path: f.path, blocks: make([]*[blocks]uint8, len(h.moments)-1)}
			h.bands[f.path] = b
		}
		b.size, b.now, b.most = f.size, f.resident, max(b.most, f.resident)
		b.blocks = append(b.blocks, &f.blocks)
	}
	for _, b := range h.bands {
		if len(b.blocks) < len(h.moments) {
			b.blocks = append(b.blocks, nil)
		}
	}
	for _, b := range h.sorted()[min(maxBands, len(h.bands)):] {
		delete(h.bands, b.path)
	}
	if len(h.moments) > maxMoments {
		h.every *= 2
		h.moments = everySecond(h.moments)
		for _, b := range h.bands {
			b.blocks = everySecond(b.blocks)
		}
	}
}

// everySecond returns every second element, the first included.
func everySecond[T any](all []T) []T {
	kept := all[:0]
	for i := 0; i < len(all); i += 2 {
		kept = append(kept, all[i])
	}
	clear(all[len(kept):])
	return kept
}

// sorted returns the files, the one of which most was in memory first.
func (h *history) sorted() []*band {
	bands := make([]*band, 0, len(h.bands))
	for _, b := range h.bands {
		bands = append(bands, b)
	}
	slices.SortFunc(bands, func(a, b *band) int {
		return cmp.Or(cmp.Compare(b.most, a.most), cmp.Compare(b.size, a.size), cmp.Compare(a.path, b.path))
	})
	return bands
}

// save draws the history into the file at path. Who reads it meanwhile sees the picture before.
func (h *history) save(path string) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".pagecache-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // if it did not get its name
	_, err = file.Write(h.svg())
	if err := errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
