package main

import (
	"bytes"
	"io"
	"os"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	mmapgo "github.com/edsrzf/mmap-go"
	"github.com/spf13/afero"
	"golang.org/x/exp/mmap"
)

// The contestants, in the order of the table's columns.
const (
	plain   = "osfs"
	mapped  = "memmapfs"
	expMmap = "x/exp/mmap"
	mmapGo  = "mmap-go"
	aferoOS = "afero"
	bareMap = "bare map" // a slice of mapped memory, without a library
)

var contestantNames = []string{plain, mapped, expMmap, mmapGo, aferoOS, bareMap}

// A library opens files in its own way. What it cannot do is nil.
type library struct {
	name   string
	open   func(path string) (opened, error)         // for reading
	edit   func(path string) (editor, error)         // for overwriting
	create func(path string) (io.WriteCloser, error) // a new file, for writing
}

// opened is a file open for reading.
type opened struct {
	io.ReaderAt
	stream io.ReadSeeker
	close  func() error
}

type editor interface {
	io.WriterAt
	io.WriteSeeker
	io.Closer
}

// Libraries by what they are to do. memmapfs is configured for each, the others have no choice.
type libraries struct {
	reading  []library
	windowed []library // with windows of windowSize bytes, where there is such a thing
	writing  []library
	durable  []library // WriteAt returns when the bytes are on disk
}

const windowSize = 1 << 20

func newLibraries() (libraries, error) {
	base, err := osfs.NewFS()
	if err != nil {
		return libraries{}, err
	}
	mapping := func(mode memmapfs.MappingMode, sync memmapfs.SyncMode, windowSize int64) *memmapfs.MemMapFS {
		return memmapfs.New(base, &memmapfs.Config{
			Mode: mode, SyncMode: sync, MapFullFile: windowSize == 0, WindowSize: windowSize,
		})
	}
	defaults := memmapfs.New(base, memmapfs.DefaultConfig())
	windowed := mapping(memmapfs.ModeReadOnly, memmapfs.SyncNever, windowSize)
	writing := mapping(memmapfs.ModeReadWrite, memmapfs.SyncNever, 0)
	immediate := mapping(memmapfs.ModeReadWrite, memmapfs.SyncImmediate, 0)

	overOS := fromAfero(afero.NewOsFs())
	return libraries{
		reading: []library{
			fromAbsfs(plain, base),
			fromAbsfs(mapped, defaults),
			{name: expMmap, open: openExpMmap},
			{name: mmapGo, open: openMmapGo},
			overOS,
		},
		windowed: []library{fromAbsfs(plain, base), fromAbsfs(mapped, windowed), overOS},
		writing: []library{
			fromAbsfs(plain, base),
			fromAbsfs(mapped, writing),
			{name: mmapGo, edit: editMmapGo},
			overOS,
		},
		durable: []library{
			syncEachWrite(fromAbsfs(plain, base)),
			fromAbsfs(mapped, immediate),
			syncEachWrite(library{name: mmapGo, edit: editMmapGo}),
			syncEachWrite(overOS),
		},
	}, nil
}

func fromAbsfs(name string, fileSystem absfs.FileSystem) library {
	return library{
		name: name,
		open: func(path string) (opened, error) {
			file, err := fileSystem.Open(osfs.FromNative(path))
			if err != nil {
				return opened{}, err
			}
			return opened{file, file, file.Close}, nil
		},
		edit: func(path string) (editor, error) {
			return fileSystem.OpenFile(osfs.FromNative(path), os.O_RDWR, 0)
		},
		create: func(path string) (io.WriteCloser, error) {
			return fileSystem.Create(osfs.FromNative(path))
		},
	}
}

func fromAfero(fileSystem afero.Fs) library {
	return library{
		name: aferoOS,
		open: func(path string) (opened, error) {
			file, err := fileSystem.Open(path)
			if err != nil {
				return opened{}, err
			}
			return opened{file, file, file.Close}, nil
		},
		edit: func(path string) (editor, error) {
			return fileSystem.OpenFile(path, os.O_RDWR, 0)
		},
		create: func(path string) (io.WriteCloser, error) {
			return fileSystem.Create(path)
		},
	}
}

func openExpMmap(path string) (opened, error) {
	reader, err := mmap.Open(path)
	if err != nil {
		return opened{}, err
	}
	return opened{reader, io.NewSectionReader(reader, 0, int64(reader.Len())), reader.Close}, nil
}

func openMmapGo(path string) (opened, error) {
	data, err := mapMmapGo(path, os.O_RDONLY, mmapgo.RDONLY)
	if err != nil {
		return opened{}, err
	}
	reader := bytes.NewReader(data)
	return opened{reader, reader, data.Unmap}, nil
}

func mapMmapGo(path string, flag, protection int) (mmapgo.MMap, error) {
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return mmapgo.Map(file, protection, 0)
}

func editMmapGo(path string) (editor, error) {
	data, err := mapMmapGo(path, os.O_RDWR, mmapgo.RDWR)
	if err != nil {
		return nil, err
	}
	return &stores{data: data}, nil
}

// stores makes an editor of a writable map.
type stores struct {
	data     mmapgo.MMap
	position int64
}

func (s *stores) WriteAt(p []byte, offset int64) (int, error) {
	return copy(s.data[offset:], p), nil
}

func (s *stores) Write(p []byte) (int, error) {
	n, err := s.WriteAt(p, s.position)
	s.position += int64(n)
	return n, err
}

func (s *stores) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		panic("unused")
	}
	s.position = offset
	return offset, nil
}

func (s *stores) Sync() error { return s.data.Flush() }

func (s *stores) Close() error { return s.data.Unmap() }

// syncEachWrite returns l with a Sync after each WriteAt.
func syncEachWrite(l library) library {
	return library{name: l.name, edit: func(path string) (editor, error) {
		file, err := l.edit(path)
		if err != nil {
			return nil, err
		}
		return syncedEditor{file, file.(interface{ Sync() error }).Sync}, nil
	}}
}

type syncedEditor struct {
	editor
	sync func() error
}

func (s syncedEditor) WriteAt(p []byte, offset int64) (int, error) {
	n, err := s.editor.WriteAt(p, offset)
	if err == nil {
		err = s.sync()
	}
	return n, err
}
