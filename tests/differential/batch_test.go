package differential_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// FuzzReadBatch lets the fuzzer write a batch, what comes before it, and the mode, and compares the
// batch with single reads of the plain file.
func FuzzReadBatch(f *testing.F) {
	for row := range testkit.Modes {
		data := []byte{byte(row), byte(row)}
		for i := range 300 {
			data = append(data, byte(i*i+row), byte(i*7))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		m := testkit.Modes[int(data[0])%len(testkit.Modes)]
		if m.Plain() {
			m = testkit.Modes[1]
		}
		newBatchComparison(t, m, &recordedChoices{data[1:]}).run()
	})
}

// batchComparison is a mapped file, and what it has to hold.
type batchComparison struct {
	t      testing.TB
	m      testkit.Mode
	choose choices
	file   *memmapfs.MappedFile
	want   []byte
}

func newBatchComparison(t testing.TB, m testkit.Mode, choose choices) *batchComparison {
	c := &batchComparison{t: t, m: m, choose: choose}
	c.want = testkit.Content(choose.below(int(6*testkit.PageSize)) + 1)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", c.want)
	c.file = testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
	return c
}

func (c *batchComparison) run() {
	for !c.choose.exhausted() {
		switch c.choose.below(8) {
		case 0:
			testkit.ForceMap(c.file)
		case 1:
			if _, err := c.file.ReadAt(make([]byte, len(c.want)), 0); err != nil {
				c.t.Fatal(err)
			}
		case 2:
			c.write()
		default:
			c.batch(c.choose.below(100))
		}
	}
}

// write changes some bytes inside the file.
func (c *batchComparison) write() {
	off := c.choose.below(len(c.want))
	p := bytes.Repeat([]byte{byte(c.choose.below(256))}, min(c.choose.below(200), len(c.want)-off))
	if _, err := c.file.WriteAt(p, int64(off)); err != nil {
		c.t.Fatal(err)
	}
	copy(c.want[off:], p)
}

func (c *batchComparison) batch(reads int) {
	batch := make([]memmapfs.ReadRequest, reads)
	for i := range batch {
		batch[i].P = make([]byte, c.choose.below(256))
		batch[i].Off = int64(c.choose.below(len(c.want)+300) - 20)
	}
	failed := c.file.ReadBatch(batch)
	negative := false
	for i, r := range batch {
		if r.Off < 0 {
			negative = true
			if r.N != 0 || !errors.Is(r.Err, memmapfs.ErrInvalidOffset) {
				c.t.Errorf("%s: read %d at %d: %d, %v, want %v", c.m.Name, i, r.Off, r.N, r.Err, memmapfs.ErrInvalidOffset)
			}
			continue
		}
		want := make([]byte, len(r.P))
		n, err := bytes.NewReader(c.want).ReadAt(want, r.Off)
		if len(r.P) == 0 {
			n, err = 0, nil // as package os has it
		}
		if r.N != n || r.Err != err || !bytes.Equal(r.P[:n], want[:n]) {
			c.t.Errorf("%s: read %d, %d bytes at %d of %d: %d, %v, want %d, %v; %s", c.m.Name, i, len(r.P), r.Off, len(c.want),
				r.N, r.Err, n, err, testkit.FirstDifference(r.P[:min(n, r.N)], want[:min(n, r.N)]))
		}
	}
	if (failed != nil) != negative || failed == io.EOF {
		c.t.Errorf("%s: the batch returns %v; negative offsets: %v", c.m.Name, failed, negative)
	}
}
