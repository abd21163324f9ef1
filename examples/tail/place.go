package main

import (
	"bytes"
	"io"
)

// rememberedBytes are kept of what was passed: the first and the last ones.
const rememberedBytes = 4 << 10

// place is how far a file was read, and by what the file can be known again. The size does not
// tell that a log was cut: it may have grown past the place since.
type place struct {
	offset int64
	head   []byte // the first bytes of the file
	tail   []byte // the bytes before offset
}

// placeAt returns the place at offset of file.
func placeAt(file io.ReaderAt, offset int64) (place, error) {
	n := min(offset, rememberedBytes)
	p := place{offset: offset, head: make([]byte, n), tail: make([]byte, n)}
	if n == 0 {
		return p, nil
	}
	if _, err := file.ReadAt(p.head, 0); err != nil {
		return p, err
	}
	_, err := file.ReadAt(p.tail, offset-n)
	return p, err
}

// pass moves the place behind b.
func (p *place) pass(b []byte) {
	if missing := rememberedBytes - len(p.head); missing > 0 {
		p.head = append(p.head, b[:min(missing, len(b))]...)
	}
	p.tail = append(p.tail, b[max(0, len(b)-rememberedBytes):]...)
	if excess := len(p.tail) - rememberedBytes; excess > 0 {
		p.tail = append(p.tail[:0], p.tail[excess:]...)
	}
	p.offset += int64(len(b))
}

// in reports whether file has the bytes that were passed, as far as it reaches, and whether it
// reaches to the place.
func (p *place) in(file io.ReaderAt) (same, whole bool, err error) {
	begins, _, err := hasAt(file, 0, p.head)
	if err != nil || !begins {
		return false, false, err
	}
	ends, whole, err := hasAt(file, p.offset-int64(len(p.tail)), p.tail)
	return ends, whole, err
}

// hasAt reports whether file has wanted at offset, as far as it reaches, and whether it reaches
// so far.
func hasAt(file io.ReaderAt, offset int64, wanted []byte) (has, whole bool, err error) {
	got := make([]byte, len(wanted))
	n, err := file.ReadAt(got, offset)
	if err == io.EOF {
		err = nil
	}
	return bytes.Equal(got[:n], wanted[:n]), n == len(wanted), err
}
