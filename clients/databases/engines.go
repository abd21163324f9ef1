package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
	"github.com/cockroachdb/pebble/v2"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"
)

// database is what is asked of each of the engines: records, known by a number.
type database interface {
	// write stores and deletes records, durably and all or none of them.
	write(store map[int]string, remove []int) error
	// get returns a record, or "" if it is not there.
	get(number int) (string, error)
	// each calls fn with every record; digest needs them in the order of their numbers.
	each(fn func(number int, record string)) error
	compact() error
	close() error
}

// engines are the databases, each with a cache so small that reads come from the files.
var engines = []struct {
	name string
	open func(files absfs.FileSystem, dir string, readOnly bool) (database, error)
}{
	{"pebble", openPebble},
	{"goleveldb", openLevel},
	{"bluge", openBluge},
}

const cacheSize = 1 << 20

func key(number int) []byte { return fmt.Appendf(nil, "record %09d", number) }

func numberOf(key []byte) (number int) {
	fmt.Sscanf(string(key), "record %d", &number)
	return number
}

// record returns what is stored for a number.
func record(number int) string {
	sum := sha256.Sum256(fmt.Append(nil, number))
	return strings.TrimSpace(strings.Repeat(fmt.Sprintf("word%d %x ", number%97, sum[:6+number%20]), 4+number%5))
}

type pebbleDatabase struct{ *pebble.DB }

func openPebble(files absfs.FileSystem, dir string, readOnly bool) (database, error) {
	cache := pebble.NewCache(cacheSize)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{
		FS: newPebbleFS(files), ReadOnly: readOnly, Cache: cache, MemTableSize: 1 << 20,
		Logger: quiet{}, FormatMajorVersion: pebble.FormatNewest,
	})
	return pebbleDatabase{db}, err
}

// quiet leaves out what pebble has to tell, unless it is the last.
type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(text string, a ...any) { panic(fmt.Sprintf(text, a...)) }

func (db pebbleDatabase) write(store map[int]string, remove []int) error {
	batch := db.NewBatch()
	for number, record := range store {
		if err := batch.Set(key(number), []byte(record), nil); err != nil {
			return err
		}
	}
	for _, number := range remove {
		if err := batch.Delete(key(number), nil); err != nil {
			return err
		}
	}
	return batch.Commit(pebble.Sync)
}

func (db pebbleDatabase) get(number int) (string, error) {
	value, closer, err := db.Get(key(number))
	if errors.Is(err, pebble.ErrNotFound) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	defer closer.Close()
	return string(value), nil
}

func (db pebbleDatabase) each(fn func(number int, record string)) error {
	all, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	for more := all.First(); more; more = all.Next() {
		fn(numberOf(all.Key()), string(all.Value()))
	}
	return errors.Join(all.Error(), all.Close())
}

func (db pebbleDatabase) compact() error {
	return db.Compact(context.Background(), []byte("a"), []byte("z"), false)
}

// close checks that the levels fit each other before.
func (db pebbleDatabase) close() error { return errors.Join(db.CheckLevels(nil), db.Close()) }

type levelDatabase struct {
	*leveldb.DB
	storage io.Closer
}

func openLevel(files absfs.FileSystem, dir string, readOnly bool) (database, error) {
	storage, err := newLevelStorage(files, osfs.FromNative(dir))
	if err != nil {
		return nil, err
	}
	db, err := leveldb.Open(storage, &opt.Options{
		ReadOnly: readOnly, Strict: opt.StrictAll, BlockCacheCapacity: cacheSize, WriteBuffer: 1 << 20,
	})
	return levelDatabase{db, storage}, err
}

func (db levelDatabase) write(store map[int]string, remove []int) error {
	batch := new(leveldb.Batch)
	for number, record := range store {
		batch.Put(key(number), []byte(record))
	}
	for _, number := range remove {
		batch.Delete(key(number))
	}
	return db.Write(batch, &opt.WriteOptions{Sync: true})
}

func (db levelDatabase) get(number int) (string, error) {
	value, err := db.Get(key(number), nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		err = nil
	}
	return string(value), err
}

func (db levelDatabase) each(fn func(number int, record string)) error {
	all := db.NewIterator(nil, nil)
	defer all.Release()
	for all.Next() {
		fn(numberOf(all.Key()), string(all.Value()))
	}
	return all.Error()
}

func (db levelDatabase) compact() error { return db.CompactRange(util.Range{}) }
func (db levelDatabase) close() error   { return errors.Join(db.Close(), db.storage.Close()) }
