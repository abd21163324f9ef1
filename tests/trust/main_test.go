// Package trust_test asks when a map may stand for the file: everything here has the plain file beside it.
package trust_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// rounds is how often a call is repeated where a map may come to serve it: more than a map is made after.
const rounds = 64

// pair is one file, opened through the plain filesystem and through memmapfs.
type pair struct {
	t      testing.TB
	plain  absfs.File
	mapped *memmapfs.MappedFile
}

func openPair(t testing.TB, fileSystem absfs.FileSystem, name string, flags int) *pair {
	t.Helper()
	return &pair{t, testkit.MustOpen(t, testkit.PlainFileSystem(t), name, flags), testkit.MustOpenMapped(t, fileSystem, name, flags)}
}

// warm reads all of the mapped file by short calls until a map serves them, if one will.
func (p *pair) warm() {
	p.t.Helper()
	info, err := p.mapped.Stat()
	if err != nil {
		p.t.Fatal(err)
	}
	b := make([]byte, 512)
	for range max(rounds<<10/int(info.Size()+1), 3) {
		for off := int64(0); off < info.Size(); off += 1024 {
			if _, err := p.mapped.ReadAt(b, off); err != nil && err != io.EOF {
				p.t.Fatal(err)
			}
		}
	}
}

// same compares what both files answer, at every quarter of a page and to the end.
func (p *pair) same(when string) {
	p.t.Helper()
	want, wantErr := p.plain.Stat()
	got, gotErr := p.mapped.Stat()
	if wantErr != nil || gotErr != nil || want.Size() != got.Size() {
		p.t.Fatalf("%s: Stat: %v, %v; want %v, %v", when, got, gotErr, want, wantErr)
	}
	for off := int64(0); off <= want.Size()+testkit.PageSize; off += testkit.PageSize / 4 {
		p.sameAt(when, off, int(testkit.PageSize/4))
		p.sameAt(when, off+13, 8)
	}
	p.sameAt(when, max(want.Size()-3, 0), 10)
	p.sameToEnd(when)
}

func (p *pair) sameAt(when string, off int64, n int) {
	p.t.Helper()
	want, got := make([]byte, n), make([]byte, n)
	wantN, wantErr := p.plain.ReadAt(want, off)
	gotN, gotErr := p.mapped.ReadAt(got, off)
	if gotN != wantN || gotErr != wantErr && testkit.ErrorClass(gotErr) != testkit.ErrorClass(wantErr) || !bytes.Equal(got[:gotN], want[:wantN]) {
		p.t.Fatalf("%s: ReadAt of %d bytes at %d: %d, %v, %.16x; want %d, %v, %.16x", when, n, off,
			gotN, gotErr, got[:gotN], wantN, wantErr, want[:wantN])
	}
}

func (p *pair) sameToEnd(when string) {
	p.t.Helper()
	answers := [2][]byte{}
	for i, file := range []absfs.File{p.plain, p.mapped} {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			p.t.Fatal(err)
		}
		var err error
		if answers[i], err = io.ReadAll(struct{ io.Reader }{file}); err != nil {
			p.t.Fatalf("%s: reading file %d to the end: %v", when, i, err)
		}
	}
	testkit.MustEqual(p.t, when+": Read to the end", answers[1], answers[0])
}

// mustServe fails the test unless calls are served from a map, or are not, as wanted: Stats
// counts those that are not.
func mustServe(t testing.TB, fileSystem absfs.FileSystem, file *memmapfs.MappedFile, served bool) {
	t.Helper()
	readsThrough := func(n int) int64 {
		t.Helper()
		before := fileSystem.(*memmapfs.MemMapFS).Stats()
		for range n {
			if _, err := file.ReadAt(make([]byte, 8), 100); err != nil {
				t.Fatal(err)
			}
		}
		after := fileSystem.(*memmapfs.MemMapFS).Stats()
		return after.ReadsCold + after.ReadsPastEnd + after.ReadsUnmapped - before.ReadsCold - before.ReadsPastEnd - before.ReadsUnmapped
	}
	for tries := 0; served && tries < 10_000 && readsThrough(1) > 0; tries++ { // where first touches are dear, they pay late
	}
	through := readsThrough(rounds)
	if served && through > 0 || !served && through != rounds {
		t.Errorf("%d of %d reads went to the file, served from a map is to be %v; MappingError: %v", through, rounds, served, file.MappingError())
	}
}

// policy is a configuration that maps whole files by a policy.
func policy(mapping memmapfs.MappingPolicy, mode memmapfs.MappingMode) testkit.Mode {
	config := testkit.Full(mode, memmapfs.SyncNever)
	config.Mapping = mapping
	return testkit.Mode{Name: mapping.String(), Config: config}
}

// viewAll returns what View shows of the first n bytes.
func viewAll(file *memmapfs.MappedFile, n int) (seen []byte, err error) {
	err = file.View(0, int64(n), func(b []byte) error {
		seen = bytes.Clone(b)
		return nil
	})
	return seen, err
}

// rewrite opens the file at a native name for writing and changes all of it in place, as another program
// would.
func rewrite(t testing.TB, native string, data []byte) {
	t.Helper()
	file, err := os.OpenFile(native, os.O_RDWR, 0)
	if err == nil {
		_, err = file.WriteAt(data, 0)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}
