package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"github.com/absfs/absfs"
	"github.com/syndtr/goleveldb/leveldb/storage"
)

// levelStorage is a storage.Storage of goleveldb whose files are those of an absfs.FileSystem.
// One process at a time may use the directory; nothing checks that.
type levelStorage struct {
	files  absfs.FileSystem
	dir    string // an absfs name
	locked atomic.Bool
}

// newLevelStorage returns the storage of a database in dir, which it makes.
func newLevelStorage(files absfs.FileSystem, dir string) (storage.Storage, error) {
	return &levelStorage{files: files, dir: dir}, files.MkdirAll(dir, 0o755)
}

func (s *levelStorage) Lock() (storage.Locker, error) {
	if !s.locked.CompareAndSwap(false, true) {
		return nil, storage.ErrLocked
	}
	return levelLock(func() { s.locked.Store(false) }), nil
}

type levelLock func()

func (unlock levelLock) Unlock() { unlock() }

func (s *levelStorage) Close() error { return nil }

func (s *levelStorage) Log(string) {}

func (s *levelStorage) name(fd storage.FileDesc) string { return path.Join(s.dir, fd.String()) }

// SetMeta replaces the file CURRENT, durably and as a whole.
func (s *levelStorage) SetMeta(fd storage.FileDesc) error {
	current := path.Join(s.dir, "CURRENT")
	next := fmt.Sprintf("%s.%d", current, fd.Num)
	file, err := s.open(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = file.WriteString(fd.String() + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := s.files.Rename(next, current); err != nil {
		return err
	}
	return s.syncDir()
}

func (s *levelStorage) syncDir() error {
	dir, err := s.files.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (s *levelStorage) GetMeta() (storage.FileDesc, error) {
	content, err := s.files.ReadFile(path.Join(s.dir, "CURRENT"))
	if errors.Is(err, fs.ErrNotExist) {
		return storage.FileDesc{}, os.ErrNotExist
	} else if err != nil {
		return storage.FileDesc{}, err
	}
	fd, ok := parseFileDesc(strings.TrimSuffix(string(content), "\n"))
	if !ok {
		return fd, &storage.ErrCorrupted{Err: fmt.Errorf("CURRENT holds %q", content)}
	}
	if _, err := s.files.Stat(s.name(fd)); errors.Is(err, fs.ErrNotExist) {
		return fd, os.ErrNotExist
	}
	return fd, nil
}

// parseFileDesc is the reverse of fd.String.
func parseFileDesc(name string) (fd storage.FileDesc, ok bool) {
	for _, fd.Type = range []storage.FileType{storage.TypeManifest, storage.TypeJournal, storage.TypeTable, storage.TypeTemp} {
		digits := strings.TrimPrefix(strings.TrimSuffix(name, path.Ext(name)), "MANIFEST-")
		if _, err := fmt.Sscanf(digits, "%d", &fd.Num); err == nil && fd.String() == name {
			return fd, true
		}
	}
	return storage.FileDesc{}, false
}

func (s *levelStorage) List(types storage.FileType) (fds []storage.FileDesc, err error) {
	entries, err := s.files.ReadDir(s.dir)
	for _, entry := range entries {
		if fd, ok := parseFileDesc(entry.Name()); ok && fd.Type&types != 0 {
			fds = append(fds, fd)
		}
	}
	return fds, err
}

func (s *levelStorage) open(name string, flag int) (absfs.File, error) {
	file, err := s.files.OpenFile(name, flag, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, os.ErrNotExist
	}
	return file, err
}

func (s *levelStorage) Open(fd storage.FileDesc) (storage.Reader, error) {
	return s.open(s.name(fd), os.O_RDONLY)
}

// Create returns a file that, if it lists the others, has its name synced with it.
func (s *levelStorage) Create(fd storage.FileDesc) (storage.Writer, error) {
	file, err := s.open(s.name(fd), os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil || fd.Type != storage.TypeManifest {
		return file, err
	}
	return levelManifest{file, s}, nil
}

type levelManifest struct {
	absfs.File
	storage *levelStorage
}

func (m levelManifest) Sync() error { return errors.Join(m.File.Sync(), m.storage.syncDir()) }

func (s *levelStorage) Remove(fd storage.FileDesc) error { return s.files.Remove(s.name(fd)) }

func (s *levelStorage) Rename(oldFD, newFD storage.FileDesc) error {
	return s.files.Rename(s.name(oldFD), s.name(newFD))
}
