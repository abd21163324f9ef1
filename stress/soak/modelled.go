package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// modelledFile is a file with a model of its contents.
type modelledFile struct {
	*run
	path string
	full bool // on a disk that may be full
	most int64
	log  operationLog
	over atomic.Bool

	// An owner holds mu for reading during an operation in its own part of the file. What changes
	// the size or the handles, or looks at all of the file, holds mu for writing.
	mu      sync.RWMutex
	handles []*handle
	content []byte // of the file
	// loose is set from when somebody outside has shrunk the file until every map has taken up the
	// size: maps may then show zeros from the end of the file to the end of its last page.
	loose bool
}

// handle is an open handle of a modelledFile.
type handle struct {
	*memmapfs.MappedFile
	mfs *memmapfs.MemMapFS
	description
	label   string
	private []byte // what the handle shows if its writes stay in it, otherwise nil
}

func (h *handle) String() string {
	if h == nil {
		return "nobody"
	}
	return h.label + " (" + h.description.String() + ")"
}

func (h *handle) writable() bool {
	return h.private != nil || h.flags&(os.O_WRONLY|os.O_RDWR) != 0
}

// contentOf returns the model of what the handle shows. Without a handle it is the file's.
func (f *modelledFile) contentOf(h *handle) []byte {
	if h != nil && h.private != nil {
		return h.private
	}
	return f.content
}

// owners is the number of goroutines that have a part of a file each. The parts meet inside a page.
const owners = 3

func (f *modelledFile) part(owner int) (from, to int64) {
	border := func(i int) int64 {
		if i == owners {
			return f.most
		}
		return f.most*int64(i)/owners + int64(7*i)
	}
	return border(owner), border(owner + 1)
}

// liveModelled is the life of a file that its handles share.
func liveModelled(s *run, random *rand.Rand, path string, full bool) {
	f := newModelledFile(s, random, path, full)
	shared := func(c memmapfs.Config) bool { return c.Mode != memmapfs.ModeCopyOnWrite }
	for range 1 + random.IntN(4) {
		f.handles = append(f.handles, f.newHandle(random, shared))
	}
	f.live(random, func(random *rand.Rand) { f.changeAll(random, shared) })
}

// liveModelledPrivate is the life of a file whose handles keep their writes.
func liveModelledPrivate(s *run, random *rand.Rand, path string, full bool) {
	f := newModelledFile(s, random, path, full)
	private := func(c memmapfs.Config) bool { return c.Mode == memmapfs.ModeCopyOnWrite }
	for range 1 + random.IntN(3) {
		f.handles = append(f.handles, f.newHandle(random, private))
	}
	f.live(random, func(random *rand.Rand) {
		switch i := random.IntN(len(f.handles)); random.IntN(6) {
		case 0:
			f.reopen(random, i, private)
		case 1:
			f.must(f.handles[i], "RemapAfterTruncation", f.handles[i].RemapAfterTruncation())
		default:
			f.compareAll(random, f.handles[i])
		}
	})
}

func newModelledFile(s *run, random *rand.Rand, path string, full bool) *modelledFile {
	f := &modelledFile{run: s, path: path, full: full}
	f.most = 200 + random.Int64N([]int64{3, 60, 600, 2000}[random.IntN(4)]*pageSize) // room for every owner
	f.content = make([]byte, 1+random.Int64N(f.most))
	file, err := os.Create(path)
	check(err)
	if full { // all of it is a hole: each page needs space when it is first written
		check(file.Truncate(int64(len(f.content))))
	} else {
		fill(random, f.content)
		_, err := file.Write(f.content)
		check(err)
	}
	check(file.Close())
	return f
}

func fill(random *rand.Rand, p []byte) {
	for i := 0; i < len(p); i += 8 {
		word := random.Uint64()
		for j := i; j < min(i+8, len(p)); j++ {
			p[j] = byte(word >> (8 * (j - i)))
		}
	}
}

// newHandle opens the file. The caller holds f.mu or is alone.
func (f *modelledFile) newHandle(random *rand.Rand, allowed func(memmapfs.Config) bool) *handle {
	flags := []int{os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_SYNC}[random.IntN(5)]
	h := &handle{}
	h.MappedFile, h.mfs, h.description = f.open(random, f.path, flags, allowed)
	if h.Mode == memmapfs.ModeCopyOnWrite {
		h.private = bytes.Clone(f.content)
	}
	h.label = fmt.Sprint("handle ", f.opens.Load())
	f.log.add(operation{"open", h.String(), 0, 0, fmt.Sprint("size ", len(f.content))})
	return h
}

// live runs the owners, and the changes that need all of the file, for a while.
func (f *modelledFile) live(random *rand.Rand, change func(random *rand.Rand)) {
	var group sync.WaitGroup
	for owner := range owners {
		random := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
		group.Add(1)
		go func() {
			defer group.Done()
			for !f.over.Load() {
				f.mu.RLock()
				f.own(random, owner)
				f.mu.RUnlock()
				f.operations.Add(1)
			}
		}()
	}
	end := time.Now().Add(time.Duration(200+random.IntN(3000)) * time.Millisecond)
	for time.Now().Before(end) && !f.stop.Load() {
		time.Sleep(time.Duration(random.IntN(4000)) * time.Microsecond)
		f.mu.Lock()
		change(random)
		f.mu.Unlock()
		f.operations.Add(1)
	}
	f.over.Store(true)
	group.Wait()
	for _, h := range f.handles {
		f.compareAll(random, h)
		f.must(h, "Close", h.Close())
	}
	f.compareFile("after all")
}

func (f *modelledFile) failed(off int64, format string, args ...any) {
	f.fail(f.path, &f.log, off, format, args...)
}

// must fails for an error that the operation cannot have.
func (f *modelledFile) must(h *handle, what string, err error) {
	f.log.add(operation{h.label, what, 0, 0, fmt.Sprint(err)})
	if err != nil {
		f.failed(0, "%s by %v: %v", what, h, err)
	}
}

// own does one operation in the owner's part of the file; f.mu is held for reading.
func (f *modelledFile) own(random *rand.Rand, owner int) {
	h := f.handles[random.IntN(len(f.handles))]
	from, to := f.part(owner)
	size := int64(len(f.content))
	who := fmt.Sprintf("owner %d, %s", owner, h.label)
	off, n := place(random, from, to)
	inside := min(off+n, size) - off // what a write may cover without changing the size
	switch choice := random.IntN(100); {
	case choice < 45:
		f.readAt(h, who, off, n)
	case choice < 50: // also where others write: the count and the error are certain
		off, n := place(random, 0, f.most)
		p := make([]byte, n)
		got, err := h.ReadAt(p, off)
		f.log.add(operation{who, "wide ReadAt", off, n, result(got, err)})
		if reason := f.wrongCount(off, n, got, err); reason != "" {
			f.failed(off, "ReadAt(%d bytes at %d) by %v: %s, size %d", n, off, h, reason, size)
		}
	case choice < 80 && inside > 0 && h.writable():
		f.writeAt(h, random, who, off, inside)
	case choice < 90 && inside > 0:
		f.view(h, random, who, off, inside)
	case choice < 91:
		f.must(h, "Sync", h.Sync())
	case choice < 94:
		f.must(h, "SyncRange", h.SyncRange(off, n))
	case choice < 95:
		f.must(h, "SyncAsync", h.SyncAsync())
	case choice < 97:
		hints := []func() error{h.AdviseRandom, h.AdviseSequential, h.AdviseWillNeed, h.AdviseDontNeed, h.AdviseFree, h.AdviseRemove, h.AdviseHugePage, h.AdviseNoHugePage}
		err := hints[random.IntN(len(hints))]()
		if err != nil && !errors.Is(err, memmapfs.ErrNotMapped) && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
			f.must(h, "advice", err)
		}
	default:
		info, err := h.Stat()
		f.log.add(operation{who, "Stat", 0, 0, fmt.Sprint(err)})
		if err != nil || info.Size() != size {
			f.failed(size, "Stat by %v: size %v, %v, want %d", h, info, err, size)
		}
	}
}

// place returns a range that starts in [from, to) and stays in it, often at one of its ends or at
// the edge of a page.
func place(random *rand.Rand, from, to int64) (off, n int64) {
	length := 1 + random.Int64N(max(1, min(to-from, []int64{16, 300, 5000, 100_000}[random.IntN(4)])))
	switch random.IntN(4) {
	case 0:
		off = from
	case 1:
		off = to - length
	case 2:
		off = from + random.Int64N(max(1, to-from))
		off -= off%pageSize + length/2
	default:
		off = from + random.Int64N(max(1, to-from))
	}
	off = max(from, min(off, to-1))
	return off, min(length, to-off)
}

func result(n int, err error) string { return fmt.Sprintf("= %d, %v", n, err) }

// wrongCount says what is wrong with the count and the error of a ReadAt of n bytes at off.
func (f *modelledFile) wrongCount(off, n int64, got int, err error) string {
	size := int64(len(f.content))
	least := max(0, min(size-off, n))
	most := least
	if f.loose {
		most = max(least, min((size+pageSize-1)/pageSize*pageSize-off, n))
	}
	switch {
	case int64(got) < least || int64(got) > most:
		return fmt.Sprintf("%d bytes, %v; want %d to %d", got, err, least, most)
	case int64(got) < n && err != io.EOF:
		return fmt.Sprintf("%d bytes, %v; want io.EOF", got, err)
	case int64(got) == n && err != nil:
		return fmt.Sprintf("%d bytes, %v; want nil", got, err)
	}
	return ""
}

// readAt reads a range that only this goroutine changes and compares it.
func (f *modelledFile) readAt(h *handle, who string, off, n int64) {
	p := make([]byte, n)
	got, err := h.ReadAt(p, off)
	f.log.add(operation{who, "ReadAt", off, n, result(got, err)})
	if reason := f.wrongCount(off, n, got, err); reason != "" {
		f.failed(off, "ReadAt(%d bytes at %d) by %v: %s, size %d", n, off, h, reason, len(f.content))
	}
	f.compare("ReadAt", h, p[:got], off, f.contentOf(h))
}

// compare compares bytes read at off with the model. Behind the end of the model there are zeros.
func (f *modelledFile) compare(what string, h *handle, p []byte, off int64, content []byte) {
	want := content[min(off, int64(len(content))):min(off+int64(len(p)), int64(len(content)))]
	f.compared.Add(int64(len(want)))
	if bytes.Equal(p[:len(want)], want) && zeros(p[len(want):]) {
		return
	}
	lost, first := int64(0), int64(-1)
	for i := range p {
		if i < len(want) && p[i] != want[i] || i >= len(want) && p[i] != 0 {
			if lost++; first < 0 {
				first = off + int64(i)
			}
		}
	}
	at := first - off
	f.failed(first, "%s by %v of %d bytes at %d: %d lost bytes, the first at %d (page %d + %d); size %d\n got % x\nwant % x",
		what, h, len(p), off, lost, first, first/pageSize, first%pageSize, len(content),
		p[at:min(at+32, int64(len(p)))], want[min(at, int64(len(want))):min(at+32, int64(len(want)))])
}

func zeros(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// writeAt writes inside the file, to a range that only this goroutine uses.
func (f *modelledFile) writeAt(h *handle, random *rand.Rand, who string, off, n int64) {
	p := make([]byte, n)
	fill(random, p)
	got, err := h.WriteAt(p, off)
	f.log.add(operation{who, "WriteAt", off, n, result(got, err)})
	f.wrote(h, "WriteAt", p, off, got, err)
}

// wrote takes a write into the model.
func (f *modelledFile) wrote(h *handle, what string, p []byte, off int64, got int, err error) {
	switch {
	case f.full && h != nil && h.private != nil && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, memmapfs.ErrSIGBUS)):
		f.refusals.Add(1)
		f.readBack(h, p, off, got)
		return
	case f.full && errors.Is(err, syscall.ENOSPC):
		f.refusals.Add(1)
		got = f.reached(h, what, p, off, got)
	case err != nil, got != len(p):
		f.failed(off, "%s(%d bytes at %d) by %v: %d, %v, size %d", what, len(p), off, h, got, err, len(f.content))
	}
	if end := off + int64(got); got > 0 && end > int64(len(f.content)) {
		f.resize(end)
	}
	copy(f.contentOf(h)[min(off, int64(len(f.content))):], p[:got])
}

// reached returns how many bytes of a refused write are in the file: those that were reported, and
// perhaps more up to the end of some page, because the WriteAt of an os.File leaves out the count of
// the system call that was cut short.
func (f *modelledFile) reached(h *handle, what string, p []byte, off int64, got int) int {
	file, err := os.Open(f.path)
	check(err)
	defer file.Close()
	now := make([]byte, len(p))
	n, err := file.ReadAt(now, off)
	if err != io.EOF {
		check(err)
	}
	before := make([]byte, len(p))
	copy(before, f.content[min(off, int64(len(f.content))):])
	for written := got; written <= n; written++ {
		if written > got && written < len(p) && (off+int64(written))%pageSize != 0 {
			continue
		}
		if bytes.Equal(now[:written], p[:written]) && bytes.Equal(now[written:n], before[written:n]) {
			return written
		}
	}
	f.failed(off, "%s(%d bytes at %d) by %v: refused after %d bytes, but the file has neither the old nor the new bytes", what, len(p), off, h, got)
	return 0
}

// readBack takes into the model what a private write that was refused after got bytes has left: behind
// these, each byte is the old or the new one.
func (f *modelledFile) readBack(h *handle, p []byte, off int64, got int) {
	now := make([]byte, len(p))
	if n, err := h.ReadAt(now, off); n != len(p) || err != nil {
		f.failed(off, "ReadAt(%d bytes at %d) by %v after a write that was refused: %d, %v", len(p), off, h, n, err)
	}
	for i, b := range now {
		if b != p[i] && (i < got || b != h.private[off+int64(i)]) {
			f.failed(off+int64(i), "WriteAt(%d bytes at %d) by %v: refused after %d bytes, but the byte at %d is neither the old nor the new one",
				len(p), off, h, got, off+int64(i))
		}
	}
	copy(h.private[off:], now)
}

// view compares a range inside the file, and stores to it where the mode allows it.
func (f *modelledFile) view(h *handle, random *rand.Rand, who string, off, n int64) {
	store := h.flags&os.O_SYNC == 0 && random.IntN(2) == 0 &&
		(h.Mode == memmapfs.ModeReadWrite && h.flags&os.O_RDWR != 0 || h.Mode == memmapfs.ModeCopyOnWrite && h.MapFullFile)
	seen, stored := make([]byte, 0, n), []byte(nil)
	if store {
		stored = make([]byte, n)
		fill(random, stored)
	}
	done := 0
	err := h.View(off, n, func(b []byte) error {
		seen = append(seen, b...)
		for store && done < len(b) { // page by page: a fault leaves a whole page as it was
			end := min(done+int(pageSize-(off+int64(done))%pageSize), len(b))
			copy(b[done:end], stored[done:end])
			done = end
		}
		return nil
	})
	f.log.add(operation{who, "View", off, n, fmt.Sprintf("stored %d, %v", done, err)})
	content := f.contentOf(h)
	switch {
	case errors.Is(err, memmapfs.ErrSIGBUS) && f.full:
		f.refusals.Add(1)
		if int64(len(seen)) < n {
			seen = nil // the fault was in reading
		}
	case err != nil:
		f.failed(off, "View(%d, %d) by %v: %v, size %d", off, n, h, err, len(content))
	}
	f.compare("View", h, seen, off, content)
	copy(content[off:], stored[:done])
}

// changeAll does one operation that changes the size or the handles, or looks at all of the file;
// f.mu is held.
func (f *modelledFile) changeAll(random *rand.Rand, allowed func(memmapfs.Config) bool) {
	i := random.IntN(len(f.handles))
	h := f.handles[i]
	size := int64(len(f.content))
	target := 1 + random.Int64N(f.most)
	if random.IntN(3) > 0 {
		target = max(1, target/pageSize*pageSize)
	}
	switch random.IntN(10) {
	case 0, 1:
		check(os.Truncate(f.path, target))
		f.truncations.Add(1)
		f.log.add(operation{"outside", "Truncate", target, 0, ""})
		f.loose = f.loose || target < size
		f.resize(target)
	case 2:
		if h.flags&os.O_RDWR == 0 {
			return
		}
		f.must(h, fmt.Sprint("Truncate ", target), h.Truncate(target))
		f.loose = f.loose || target < size && len(f.handles) > 1
		f.resize(target)
	case 3:
		f.must(h, fmt.Sprint("Truncate by name ", target), h.mfs.Truncate(osfs.FromNative(f.path), target))
		f.loose = f.loose || target < size && len(f.handles) > 1
		f.resize(target)
	case 4, 5:
		f.extend(random, h)
	case 6:
		f.reopen(random, i, allowed)
	case 7:
		for _, h := range f.handles {
			f.must(h, "RemapAfterTruncation", h.RemapAfterTruncation())
		}
		f.loose = false
	case 8:
		f.writeOutside(random)
	case 9:
		f.compareAll(random, h)
	}
}

func (f *modelledFile) resize(size int64) {
	if size <= int64(len(f.content)) {
		f.content = f.content[:size:size]
	} else {
		f.content = append(f.content, make([]byte, size-int64(len(f.content)))...)
	}
}

// extend writes over the end of the file, or past it, in one of several ways.
func (f *modelledFile) extend(random *rand.Rand, h *handle) {
	size := int64(len(f.content))
	if h.flags&os.O_RDWR == 0 || size >= f.most {
		return
	}
	if f.loose { // a store behind the end may be lost until the map has taken up the size
		f.must(h, "RemapAfterTruncation", h.RemapAfterTruncation())
	}
	off := max(0, size-random.Int64N(100))
	if random.IntN(4) == 0 {
		off = min(f.most-1, size+random.Int64N(3*pageSize))
	}
	p := make([]byte, 1+random.Int64N(min(f.most-off, 3*pageSize)))
	fill(random, p)
	var got int
	var err error
	what := "extending "
	switch random.IntN(4) {
	case 0:
		what += "WriteAt"
		got, err = h.WriteAt(p, off)
	case 1:
		what += "Seek and Write"
		if _, err = h.Seek(off, io.SeekStart); err == nil {
			got, err = h.Write(p)
		}
	case 2:
		what += "Seek and ReadFrom"
		if _, err = h.Seek(off, io.SeekStart); err == nil {
			var copied int64
			copied, err = h.ReadFrom(bytes.NewReader(p))
			got = int(copied)
		}
	case 3:
		what, off = "appending Write", size
		appending, err := h.mfs.OpenFile(osfs.FromNative(f.path), os.O_WRONLY|os.O_APPEND, 0)
		check(err)
		got, err = appending.Write(p)
		f.must(h, "Close after appending", appending.Close())
		f.finishExtending(h, what, p, off, got, err)
		return
	}
	f.finishExtending(h, what, p, off, got, err)
}

func (f *modelledFile) finishExtending(h *handle, what string, p []byte, off int64, got int, err error) {
	f.log.add(operation{h.label, what, off, int64(len(p)), result(got, err)})
	f.wrote(h, what, p, off, got, err)
}

func (f *modelledFile) reopen(random *rand.Rand, i int, allowed func(memmapfs.Config) bool) {
	f.must(f.handles[i], "Close", f.handles[i].Close())
	f.handles[i] = f.newHandle(random, allowed)
}

// writeOutside changes bytes around memmapfs, as another process would.
func (f *modelledFile) writeOutside(random *rand.Rand) {
	off, n := place(random, 0, int64(len(f.content)))
	p := make([]byte, n)
	fill(random, p)
	file, err := os.OpenFile(f.path, os.O_WRONLY, 0)
	check(err)
	got, err := file.WriteAt(p, off)
	check(file.Close())
	f.log.add(operation{"outside", "WriteAt", off, n, result(got, err)})
	f.wrote(nil, "WriteAt from outside", p, off, got, err)
}

// compareAll reads all of the file through the handle, in every way there is, and around it; f.mu
// is held.
func (f *modelledFile) compareAll(random *rand.Rand, h *handle) {
	who := h.label
	content := f.contentOf(h)
	p := make([]byte, len(content))
	got, err := h.ReadAt(p, 0)
	f.log.add(operation{who, "ReadAt of all", 0, int64(len(p)), result(got, err)})
	if got != len(p) || err != nil {
		f.failed(0, "ReadAt of all by %v: %d, %v, size %d", h, got, err, len(content))
	}
	f.compare("ReadAt of all", h, p, 0, content)

	from := random.Int64N(int64(len(content)))
	var sink bytes.Buffer
	for _, stream := range []struct {
		what string
		read func() (int64, error)
	}{
		{"Read to the end", func() (int64, error) {
			return io.CopyBuffer(&sink, struct{ io.Reader }{h}, make([]byte, 1+random.IntN(20_000)))
		}},
		{"WriteTo", func() (int64, error) { return h.WriteTo(&sink) }},
	} {
		sink.Reset()
		if _, err := h.Seek(from, io.SeekStart); err != nil {
			f.failed(from, "Seek(%d) by %v: %v", from, h, err)
		}
		n, err := stream.read()
		f.log.add(operation{who, stream.what, from, n, fmt.Sprint(err)})
		if err != nil || n != int64(sink.Len()) || from+n < int64(len(content)) ||
			from+n > int64(len(content)) && !(f.loose && from+n <= (int64(len(content))+pageSize-1)/pageSize*pageSize) {
			f.failed(from, "%s from %d by %v: %d bytes, %v, size %d", stream.what, from, h, n, err, len(content))
		}
		f.compare(stream.what, h, sink.Bytes(), from, content)
	}

	// A slice from Data is the caller's own risk: a hole on a full disk is a fault.
	if !f.full && random.IntN(4) == 0 {
		if _, err := h.Seek(from, io.SeekStart); err != nil {
			f.failed(from, "Seek(%d) by %v: %v", from, h, err)
		}
		data := h.Data()
		f.log.add(operation{who, "Data", from, int64(len(data)), ""})
		if data != nil {
			start := int64(0)
			if !h.MapFullFile {
				start = from - from%h.WindowSize
			}
			if want := min(int64(len(content))-start, windowOf(h, int64(len(content)))); int64(len(data)) != want {
				f.failed(from, "Data at %d by %v: %d bytes, want %d", from, h, len(data), want)
			}
			f.compare("Data", h, data, start, content)
		}
	}
	f.compareFile("meanwhile")
}

func windowOf(h *handle, size int64) int64 {
	if h.MapFullFile {
		return size
	}
	return h.WindowSize
}

// compareFile compares what is in the file.
func (f *modelledFile) compareFile(when string) {
	p, err := os.ReadFile(f.path)
	check(err)
	f.log.add(operation{"outside", "ReadFile", 0, int64(len(p)), when})
	if len(p) != len(f.content) {
		f.failed(int64(len(p)), "the file has %d bytes %s, want %d", len(p), when, len(f.content))
	}
	f.compare("os.ReadFile "+when, nil, p, 0, f.content)
}
