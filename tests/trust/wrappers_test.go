package trust_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// openingFiles is the operating system's filesystem whose files are made by wrap.
type openingFiles struct {
	absfs.FileSystem
	wrap func(file *os.File) absfs.File
}

func (s openingFiles) Open(name string) (absfs.File, error) { return s.OpenFile(name, os.O_RDONLY, 0) }

func (s openingFiles) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := os.OpenFile(osfs.ToNative(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return s.wrap(file), nil
}

func asItIs(file *os.File) absfs.File { return file }

// embedding offers the descriptor of the file that it embeds, and adds nothing.
type embedding struct{ *os.File }

// transforming offers it, too, but alters what is read and written where a function says so. Its own
// position is the file's.
type transforming struct {
	*os.File
	alterRead, alterWrite func(p []byte, off int64)
}

func (f *transforming) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.alterRead(p[:max(n, 0)], off)
	return n, err
}

func (f *transforming) Read(p []byte) (int, error) {
	at, _ := f.Seek(0, io.SeekCurrent)
	n, err := f.File.Read(p)
	f.alterRead(p[:max(n, 0)], at)
	return n, err
}

func (f *transforming) WriteAt(p []byte, off int64) (int, error) {
	altered := bytes.Clone(p)
	f.alterWrite(altered, off)
	return f.File.WriteAt(altered, off)
}

func (f *transforming) Write(p []byte) (int, error) {
	at, _ := f.Seek(0, io.SeekCurrent)
	altered := bytes.Clone(p)
	f.alterWrite(altered, at)
	return f.File.Write(altered)
}

func (f *transforming) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

func nothing([]byte, int64) {}

// flip alters all bytes.
func flip(p []byte, _ int64) {
	for i := range p {
		p[i] ^= 0x20
	}
}

// flipIn alters the bytes of a range.
func flipIn(from, to int64) func(p []byte, off int64) {
	return func(p []byte, off int64) {
		for i := range p {
			if at := off + int64(i); at >= from && at < to {
				p[i] ^= 0x20
			}
		}
	}
}

// moved has a header in front of what it shows: both its places and its length are other ones.
type moved struct {
	*os.File
	header, trailer int64
}

func (f *moved) end() int64 {
	info, err := f.File.Stat()
	if err != nil {
		return 0
	}
	return info.Size() - f.header - f.trailer
}

func (f *moved) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return f.File.ReadAt(p, off)
	}
	left := max(f.end()-off, 0)
	n, err := f.File.ReadAt(p[:min(int64(len(p)), left)], off+f.header)
	if n < len(p) && err == nil {
		err = io.EOF
	}
	return n, err
}

func (f *moved) Read(p []byte) (int, error) {
	at, _ := f.Seek(0, io.SeekCurrent)
	n, err := f.ReadAt(p, at)
	f.Seek(at+int64(n), io.SeekStart)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *moved) WriteAt(p []byte, off int64) (int, error) { return f.File.WriteAt(p, off+f.header) }

func (f *moved) Write(p []byte) (int, error) {
	at, _ := f.Seek(0, io.SeekCurrent)
	n, err := f.WriteAt(p, at)
	f.Seek(at+int64(n), io.SeekStart)
	return n, err
}

// doubled shows each byte twice, so that its contents are longer than the file on the disk.
type doubled struct{ *os.File }

func (f *doubled) ReadAt(p []byte, off int64) (int, error) {
	raw := make([]byte, len(p)/2+2)
	n, err := f.File.ReadAt(raw, off/2)
	shown := make([]byte, 0, 2*n)
	for _, b := range raw[:n] {
		shown = append(shown, b, b)
	}
	copied := 0
	if off%2 < int64(len(shown)) {
		copied = copy(p, shown[off%2:])
	}
	if copied == len(p) {
		return copied, nil
	}
	return copied, err
}

func (f *doubled) Read(p []byte) (int, error) {
	at, _ := f.Seek(0, io.SeekCurrent)
	n, err := f.ReadAt(p, at)
	f.Seek(at+int64(n), io.SeekStart)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *doubled) Stat() (os.FileInfo, error) {
	info, err := f.File.Stat()
	return longer{info}, err
}

type longer struct{ os.FileInfo }

func (i longer) Size() int64 { return 2 * i.FileInfo.Size() }

// keeping reads what it was given to write, and keeps that from the file as long as it is open.
type keeping struct {
	*os.File
	kept map[int64]byte
}

func (f *keeping) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	for i := range max(n, 0) {
		if b, ok := f.kept[off+int64(i)]; ok {
			p[i] = b
		}
	}
	return n, err
}

func (f *keeping) Read(p []byte) (int, error) {
	at, _ := f.Seek(0, io.SeekCurrent)
	n, err := f.ReadAt(p, at)
	f.Seek(at+int64(n), io.SeekStart)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *keeping) WriteAt(p []byte, off int64) (int, error) {
	for i, b := range p {
		f.kept[off+int64(i)] = b
	}
	return len(p), nil
}

func (f *keeping) Write(p []byte) (int, error) {
	at, _ := f.Seek(0, io.SeekCurrent)
	n, err := f.WriteAt(p, at)
	f.Seek(at+int64(n), io.SeekStart)
	return n, err
}

// wrappers are types that embed *os.File and do not show what it has.
func wrappers(size int64) map[string]func(file *os.File) absfs.File {
	page := testkit.PageSize
	transform := func(read, write func([]byte, int64)) func(file *os.File) absfs.File {
		return func(file *os.File) absfs.File { return &transforming{file, read, write} }
	}
	return map[string]func(file *os.File) absfs.File{
		"all of it":                 transform(flip, flip),
		"a few bytes of a page":     transform(flipIn(3*page+700, 3*page+703), flipIn(3*page+700, 3*page+703)),
		"one byte at the start":     transform(flipIn(0, 1), flipIn(0, 1)),
		"one byte in the last page": transform(flipIn(size-60, size-59), flipIn(size-60, size-59)),
		"what is written":           transform(nothing, flip),
		"what is read":              transform(flip, nothing),
		"what is kept":              func(file *os.File) absfs.File { return &keeping{file, make(map[int64]byte)} },
		"a header":                  func(file *os.File) absfs.File { return &moved{file, 16, 0} },
		"a trailer":                 func(file *os.File) absfs.File { return &moved{file, 0, 200} },
		"a trailer of pages":        func(file *os.File) absfs.File { return &moved{file, 0, 2 * page} },
		"longer":                    func(file *os.File) absfs.File { return &doubled{file} },
	}
}

// Catches a map that stands for a file whose type embeds *os.File and shows something else: bytes read
// from it, bytes stored there, a length.
func TestTransformingFiles(t *testing.T) {
	size := 6*testkit.PageSize + 100
	for what, wrap := range wrappers(size) {
		t.Run(what, func(t *testing.T) {
			testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
				dir := testkit.TestDir(t)
				data := testkit.Content(int(size))
				plainName, name := testkit.WriteFile(t, dir, "plain", data), testkit.WriteFile(t, dir, "mapped", data)
				over := openingFiles{testkit.PlainFileSystem(t), wrap}
				p := &pair{t, testkit.MustOpen(t, over, plainName, os.O_RDWR), testkit.MustOpenMapped(t, m.Over(t, over), name, os.O_RDWR)}
				p.warm()
				if !m.CopyOnWrite() {
					p.write([]byte("first"), 0, true) // which no read at the position came before
				}
				p.same("read")
				p.warm()
				p.same("read again")
				if m.CopyOnWrite() {
					return
				}
				for i := range 3 * rounds {
					p.write(testkit.Content(1+i%40), int64(i*331)%(size-300), i%3 == 0)
				}
				p.same("written")
				testkit.MustEqual(t, "on the disk", testkit.ReadNative(t, name), testkit.ReadNative(t, plainName))
			}, testkit.Wrapped)
		})
	}
}

// write writes to both files, by WriteAt or at the position, and compares what they read there.
func (p *pair) write(b []byte, off int64, atPosition bool) {
	p.t.Helper()
	write := func(file absfs.File) (int, error) {
		if !atPosition {
			return file.WriteAt(b, off)
		}
		if _, err := file.Seek(off, io.SeekStart); err != nil {
			return 0, err
		}
		return file.Write(b)
	}
	want, wantErr := write(p.plain)
	got, gotErr := write(p.mapped)
	if got != want || gotErr != wantErr {
		p.t.Fatalf("writing at %d: %d, %v; want %d, %v", off, got, gotErr, want, wantErr)
	}
	p.sameAt("written", off, len(b)+3)
}

// Catches View and Data that lend the bytes on the disk of a file that shows others, and a reason
// that is not said.
func TestTransformingFilesAreNotLent(t *testing.T) {
	testkit.NeedMaps(t)
	size := 6 * testkit.PageSize
	for _, what := range []string{"all of it", "one byte at the start", "a header", "longer"} {
		wrap := wrappers(size)[what]
		for _, mapping := range []memmapfs.MappingPolicy{memmapfs.MapAuto, memmapfs.MapAlways} {
			m := policy(mapping, memmapfs.ModeReadOnly)
			name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(size)))
			fileSystem := m.Over(t, openingFiles{testkit.PlainFileSystem(t), wrap}).(*memmapfs.MemMapFS)
			file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
			if _, err := viewAll(file, 100); !errors.Is(err, memmapfs.ErrNotMapped) {
				t.Errorf("%s, %v: View: %v, want ErrNotMapped", what, mapping, err)
			}
			if file.Data() != nil || file.Mapped() {
				t.Errorf("%s, %v: it is mapped", what, mapping)
			}
			if err := file.MappingError(); !errors.Is(err, memmapfs.ErrNotMapped) || fileSystem.Stats().NotMappedTransformed != 1 {
				t.Errorf("%s, %v: MappingError: %v; %d counted", what, mapping, err, fileSystem.Stats().NotMappedTransformed)
			}
		}
	}
}

// Catches a file that is not compared again: one that begins to transform what it reads is found out when
// what is known of its pages has become old, at the latest.
func TestTransformingAfterAWhile(t *testing.T) {
	testkit.NeedMaps(t)
	var begun atomic.Bool
	alter := func(p []byte, off int64) {
		if begun.Load() {
			flip(p, off)
		}
	}
	size := 6 * testkit.PageSize
	data := testkit.Content(int(size))
	m := policy(memmapfs.MapAuto, memmapfs.ModeReadWrite)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
	over := openingFiles{testkit.PlainFileSystem(t), func(file *os.File) absfs.File { return &transforming{file, alter, alter} }}
	p := &pair{t, testkit.MustOpen(t, over, name, os.O_RDWR), testkit.MustOpenMapped(t, m.Over(t, over), name, os.O_RDWR)}
	p.warm()
	p.same("before")
	if err := p.mapped.MappingError(); err != nil {
		t.Fatal("it is not mapped before it transforms: ", err)
	}
	begun.Store(true)
	found := testkit.Eventually(func() bool {
		b := make([]byte, 8)
		_, err := p.mapped.ReadAt(b, testkit.PageSize)
		flip(b, 0)
		return err == nil && bytes.Equal(b, data[testkit.PageSize:][:8])
	})
	if !found {
		t.Error("it was not found out")
	}
	p.same("after")
	if _, err := p.mapped.WriteAt([]byte("written"), 50); err != nil {
		t.Fatal(err)
	}
	p.same("written")
}

// Catches bytes written at the position that are read from the map, although the file reads them as others: before
// that write it has read what the map shows.
func TestTransformingWrites(t *testing.T) {
	testkit.NeedKnownPages(t)
	upper := func(p []byte, _ int64) { copy(p, bytes.ToUpper(p)) }
	for _, mode := range []memmapfs.MappingMode{memmapfs.ModeReadOnly, memmapfs.ModeReadWrite} {
		size := 6 * testkit.PageSize
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", bytes.Repeat([]byte{'1'}, int(size)))
		over := openingFiles{testkit.PlainFileSystem(t), func(file *os.File) absfs.File { return &transforming{file, upper, nothing} }}
		p := &pair{t, testkit.MustOpen(t, over, name, os.O_RDWR),
			testkit.MustOpenMapped(t, policy(memmapfs.MapAuto, mode).Over(t, over), name, os.O_RDWR)}
		testkit.ForceMap(p.mapped)
		for range 3 {
			if _, err := p.mapped.ReadAt(make([]byte, size), 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		if n, err := p.mapped.Write([]byte("written")); n != 7 || err != nil {
			t.Fatal(n, err)
		}
		p.same("after Write in " + mode.String())
	}
}

// Catches files that are not mapped although they show what their descriptor has: of types that are known,
// and of one that adds nothing.
func TestTransparentFiles(t *testing.T) {
	testkit.NeedMaps(t)
	size := 6 * testkit.PageSize
	plain := testkit.PlainFileSystem(t)
	for what, over := range map[string]absfs.FileSystem{
		"osfs.File":   plain,
		"*os.File":    openingFiles{plain, asItIs},
		"embedding":   openingFiles{plain, func(file *os.File) absfs.File { return embedding{file} }},
		"MappedFile":  policy(memmapfs.MapAuto, memmapfs.ModeReadWrite).Over(t, openingFiles{plain, asItIs}),
		"transparent": openingFiles{plain, func(file *os.File) absfs.File { return &transforming{file, nothing, nothing} }},
	} {
		t.Run(what, func(t *testing.T) {
			name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(size)))
			fileSystem := policy(memmapfs.MapAuto, memmapfs.ModeReadWrite).Over(t, over)
			p := &pair{t, testkit.MustOpen(t, plain, name, os.O_RDWR), testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)}
			if testkit.Emulated && !testkit.OnWine { // a first touch may be found dearer there than all calls of this test
				testkit.ForceMap(p.mapped)
			}
			p.warm()
			p.same("warm")
			mustServe(t, fileSystem, p.mapped, true)
			stats := fileSystem.(*memmapfs.MemMapFS).Stats
			// The first one goes to the file, and where a first touch of a page is dear those before it pays. What is
			// known of pages is forgotten when others empty the page cache: then it begins anew.
			throughFile, unmapped := int64(0), int64(0)
			for range 5 {
				before := stats()
				for range rounds {
					if _, err := p.mapped.WriteAt([]byte("stored"), 500); err != nil {
						t.Fatal(err)
					}
				}
				after := stats()
				unmapped = after.WritesUnmapped - before.WritesUnmapped
				throughFile = after.WritesCold - before.WritesCold + unmapped
				if throughFile <= 3 && unmapped == 0 {
					break
				}
				p.warm()
			}
			if throughFile > 3 || unmapped > 0 {
				t.Errorf("%d writes went to the file", throughFile)
			}
			p.same("stored")
		})
	}
}
