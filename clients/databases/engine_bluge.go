package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
	"github.com/blugelabs/bluge"
	"github.com/blugelabs/bluge/index"
)

// blugeDatabase is an index whose documents are the records. It is searched through one reader,
// until something is written.
type blugeDatabase struct {
	writer *bluge.Writer // nil: only read

	mu     sync.Mutex // guards reader
	reader *bluge.Reader
}

func openBluge(files absfs.FileSystem, dir string, readOnly bool) (db database, err error) {
	config := bluge.DefaultConfigWithDirectory(func() index.Directory {
		return newBlugeDirectory(files, osfs.FromNative(dir))
	})
	opened := new(blugeDatabase)
	if readOnly {
		opened.reader, err = bluge.OpenReader(config)
	} else {
		opened.writer, err = bluge.OpenWriter(config)
	}
	return opened, err
}

func id(number int) bluge.Identifier { return bluge.Identifier(strconv.Itoa(number)) }

func word(number int) string { return fmt.Sprintf("word%d", number%97) }

func (db *blugeDatabase) write(store map[int]string, remove []int) error {
	batch := bluge.NewBatch()
	for number, record := range store {
		batch.Update(id(number), bluge.NewDocumentWithIdentifier(id(number)).AddField(bluge.NewTextField("text", record).StoreValue()))
	}
	for _, number := range remove {
		batch.Delete(id(number))
	}
	return errors.Join(db.writer.Batch(batch), db.forget())
}

// forget closes the reader.
func (db *blugeDatabase) forget() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	reader := db.reader
	db.reader = nil
	if reader == nil {
		return nil
	}
	return reader.Close()
}

func (db *blugeDatabase) current() (*bluge.Reader, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.reader != nil {
		return db.reader, nil
	}
	reader, err := db.writer.Reader()
	if err == nil {
		db.reader = reader
	}
	return reader, err
}

// get looks for the record's number and for a word in its text.
func (db *blugeDatabase) get(number int) (found string, err error) {
	query := bluge.NewBooleanQuery().AddMust(
		bluge.NewTermQuery(string(id(number))).SetField("_id"),
		bluge.NewTermQuery(word(number)).SetField("text"))
	err = db.search(bluge.NewTopNSearch(2, query), func(_ int, record string) { found += record })
	return found, err
}

func (db *blugeDatabase) each(fn func(number int, record string)) error {
	return db.search(bluge.NewAllMatches(bluge.NewMatchAllQuery()), fn)
}

func (db *blugeDatabase) search(request bluge.SearchRequest, fn func(number int, record string)) error {
	reader, err := db.current()
	if err != nil {
		return err
	}
	matches, err := reader.Search(context.Background(), request)
	for err == nil {
		match, nextErr := matches.Next()
		if match == nil || nextErr != nil {
			return nextErr
		}
		var number int
		var record string
		err = match.VisitStoredFields(func(field string, value []byte) bool {
			switch field {
			case "_id":
				number, _ = strconv.Atoi(string(value))
			case "text":
				record = string(value)
			}
			return true
		})
		fn(number, record)
	}
	return err
}

// compact does nothing: bluge merges segments when it likes to.
func (db *blugeDatabase) compact() error { return nil }

func (db *blugeDatabase) close() error {
	err := db.forget()
	if db.writer != nil {
		err = errors.Join(err, db.writer.Close())
	}
	return err
}
