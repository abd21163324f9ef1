package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"math"

	"github.com/absfs/absfs"
)

// An index file has a header, a table of slots, and records:
//
//	header   magic, number of slots, checksum
//	slot     two cells, each: offset of a record, sequence number, checksum
//	record   length of key, length of value, offset of the next record, checksum, key, value
//
// A key belongs to the slot that its hash names. The valid cell with the higher sequence number
// leads to the slot's newest record, and each record to the one before; the first that has the key
// holds its value.
//
// A set writes a record at the end of the file, and flushes it; then it writes the older cell of the
// slot, and flushes that. Whenever the power fails, one cell is whole, and what it leads to was
// flushed before: the key has its old value or its new one. Records that are no longer led to stay
// in the file until it is built anew.
const (
	headerSize       = 24
	cellSize         = 24
	recordHeaderSize = 24
	maxLength        = 1 << 20 // of a key and of a value
)

var (
	magic = [8]byte{'k', 'v', 'i', 'n', 'd', 'e', 'x', 1}
	order = binary.LittleEndian
)

// index is an open index file. Any number of goroutines and processes may get; one may set at a time.
type index struct {
	file  absfs.File
	slots uint64
}

// create makes an empty index in file, which is empty. It is not durable before file.Sync.
func create(file absfs.File, slots uint64) (*index, error) {
	header := append(magic[:], make([]byte, headerSize-len(magic))...)
	order.PutUint64(header[8:], slots)
	order.PutUint32(header[16:], crc32.ChecksumIEEE(header[:16]))
	if err := file.Truncate(headerSize + int64(slots)*2*cellSize); err != nil {
		return nil, err
	}
	_, err := file.WriteAt(header, 0)
	return &index{file, slots}, err
}

// open reads the header of the index in file.
func open(file absfs.File) (*index, error) {
	header := make([]byte, headerSize)
	if _, err := file.ReadAt(header, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if [8]byte(header) != magic || order.Uint32(header[16:]) != crc32.ChecksumIEEE(header[:16]) {
		return nil, errors.New("not an index")
	}
	return &index{file, order.Uint64(header[8:])}, nil
}

// cell is one of the two places of a slot.
type cell struct{ record, sequence uint64 }

func (c cell) bytes() []byte {
	b := make([]byte, cellSize)
	order.PutUint64(b, c.record)
	order.PutUint64(b[8:], c.sequence)
	order.PutUint32(b[16:], crc32.ChecksumIEEE(b[:16]))
	return b
}

// slot returns the cell of key's slot that counts, zero if there is none yet, and the offset of the
// other one.
func (x *index) slot(key []byte) (newest cell, older int64, err error) {
	hash := fnv.New64a()
	hash.Write(key)
	offset := headerSize + int64(hash.Sum64()%x.slots)*2*cellSize
	b := make([]byte, 2*cellSize)
	if _, err := x.file.ReadAt(b, offset); err != nil {
		return cell{}, 0, err
	}
	older = offset
	for i := range int64(2) {
		b := b[i*cellSize:][:cellSize]
		read := cell{order.Uint64(b), order.Uint64(b[8:])}
		if bytes.Equal(read.bytes(), b) && read.sequence > newest.sequence {
			newest, older = read, offset+(1-i)*cellSize
		}
	}
	return newest, older, nil
}

// get returns the value of key, and whether it has one.
func (x *index) get(key []byte) (value []byte, found bool, err error) {
	newest, _, err := x.slot(key)
	if err != nil {
		return nil, false, err
	}
	for offset := newest.record; offset != 0; {
		header := make([]byte, recordHeaderSize)
		if offset > math.MaxInt64 {
			return nil, false, damaged(offset)
		}
		if _, err := x.file.ReadAt(header, int64(offset)); err != nil {
			return nil, false, err
		}
		keyLength, valueLength := order.Uint32(header), order.Uint32(header[4:])
		if keyLength > maxLength || valueLength > maxLength {
			return nil, false, damaged(offset)
		}
		b := make([]byte, keyLength+valueLength)
		if _, err := x.file.ReadAt(b, int64(offset)+recordHeaderSize); err != nil {
			return nil, false, err
		}
		if checksum(header, b) != order.Uint32(header[16:]) {
			return nil, false, damaged(offset)
		}
		if bytes.Equal(b[:keyLength], key) {
			return b[keyLength:], true, nil
		}
		offset = order.Uint64(header[8:])
	}
	return nil, false, nil
}

// set gives key a value. With durable it is on the disk when set returns.
func (x *index) set(key, value []byte, durable bool) error {
	if len(key) > maxLength || len(value) > maxLength {
		return fmt.Errorf("a key or a value has more than %d bytes", maxLength)
	}
	newest, older, err := x.slot(key)
	if err != nil {
		return err
	}
	end, err := x.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	record := make([]byte, recordHeaderSize, recordHeaderSize+len(key)+len(value))
	order.PutUint32(record, uint32(len(key)))
	order.PutUint32(record[4:], uint32(len(value)))
	order.PutUint64(record[8:], newest.record)
	record = append(append(record, key...), value...)
	order.PutUint32(record[16:], checksum(record[:recordHeaderSize], record[recordHeaderSize:]))

	if err := x.write(record, end, durable); err != nil {
		return err
	}
	return x.write(cell{uint64(end), newest.sequence + 1}.bytes(), older, durable)
}

func (x *index) write(b []byte, offset int64, durable bool) error {
	if _, err := x.file.WriteAt(b, offset); err != nil || !durable {
		return err
	}
	return x.file.Sync()
}

func checksum(header, contents []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(header[:16]), crc32.IEEETable, contents)
}

func damaged(offset uint64) error { return fmt.Errorf("the record at %d is damaged", offset) }
