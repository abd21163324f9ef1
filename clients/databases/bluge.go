package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/blugelabs/bluge/index"
	segment "github.com/blugelabs/bluge_segment_api"
)

// blugeDirectory is an index.Directory of bluge whose files are those of an absfs.FileSystem. A
// segment is searched in the bytes of the map, where there is one of all its file, and in a copy
// otherwise. One writer at a time may use the directory; nothing checks that.
type blugeDirectory struct {
	files absfs.FileSystem
	dir   string // an absfs name
}

// newBlugeDirectory returns the directory of an index in dir, for bluge.DefaultConfigWithDirectory.
func newBlugeDirectory(files absfs.FileSystem, dir string) index.Directory {
	return &blugeDirectory{files, dir}
}

func (d *blugeDirectory) name(kind string, id uint64) string {
	return path.Join(d.dir, fmt.Sprintf("%012x", id)+kind)
}

func (d *blugeDirectory) Setup(readOnly bool) error {
	if readOnly {
		_, err := d.files.Stat(d.dir)
		return err
	}
	return d.files.MkdirAll(d.dir, 0o755)
}

// List returns the numbers of the files of a kind, the highest first.
func (d *blugeDirectory) List(kind string) (ids []uint64, err error) {
	entries, err := d.files.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if digits, ok := strings.CutSuffix(entry.Name(), kind); ok {
			id, err := strconv.ParseUint(digits, 16, 64)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uint64) int { return cmp.Compare(b, a) })
	return ids, nil
}

// Load returns a file's bytes, which are valid until the closer is closed.
func (d *blugeDirectory) Load(kind string, id uint64) (*segment.Data, io.Closer, error) {
	file, err := d.files.Open(d.name(kind, id))
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	if mapped, ok := file.(*memmapfs.MappedFile); ok {
		if data := mapped.Data(); int64(len(data)) == info.Size() && len(data) > 0 {
			// In one call what would be a page fault for every few pages. It is no error if it
			// fails.
			_ = mapped.Prefetch(0, info.Size())
			return segment.NewDataBytes(data), file, nil
		}
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(file, data)
	return segment.NewDataBytes(data), nil, errors.Join(err, file.Close())
}

// Persist writes a file that is durable on return, or not there.
func (d *blugeDirectory) Persist(kind string, id uint64, w index.WriterTo, closeCh chan struct{}) error {
	name := d.name(kind, id)
	file, err := d.files.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = w.WriteTo(file, closeCh)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, d.files.Remove(name))
	}
	return nil
}

func (d *blugeDirectory) Remove(kind string, id uint64) error {
	return d.files.Remove(d.name(kind, id))
}

func (d *blugeDirectory) Stats() (items, bytes uint64) {
	entries, _ := d.files.ReadDir(d.dir)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && !entry.IsDir() {
			items++
			bytes += uint64(info.Size())
		}
	}
	return items, bytes
}

// Sync makes the names of the files durable.
func (d *blugeDirectory) Sync() error {
	dir, err := d.files.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d *blugeDirectory) Lock() error   { return nil }
func (d *blugeDirectory) Unlock() error { return nil }
