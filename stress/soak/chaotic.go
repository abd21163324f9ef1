package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// chaoticFile is a file to which everybody does everything at any time. Each byte written to it is
// one of a few that belong to the file and the offset, so that bytes from elsewhere are noticed.
type chaoticFile struct {
	*run
	path    string
	number  uint64
	full    bool
	most    int64
	log     operationLog
	over    atomic.Bool
	handles [4]atomic.Pointer[handle]
}

// stamps is the number of different bytes that an offset can hold, a zero not counted.
const stamps = 4

// stamp returns one of the bytes that the offset can hold.
func (f *chaoticFile) stamp(off int64, which int) byte {
	word := (uint64(off) + f.number<<40) * 0x9e3779b97f4a7c15
	return byte(word>>(8*which+24))>>1 | 1
}

func (f *chaoticFile) stamped(random *rand.Rand, off, n int64) []byte {
	p, which := make([]byte, n), random.IntN(stamps)
	for i := range p {
		p[i] = f.stamp(off+int64(i), which)
	}
	return p
}

// checkBytes fails for bytes that nobody has written at their offsets.
func (f *chaoticFile) checkBytes(what string, h *handle, p []byte, off int64) {
	f.compared.Add(int64(len(p)))
next:
	for i, b := range p {
		if b == 0 {
			continue
		}
		for which := range stamps {
			if b == f.stamp(off+int64(i), which) {
				continue next
			}
		}
		f.fail(f.path, &f.log, off+int64(i), "%s by %v: byte %#x at %d was never written there\n%x", what, h, b, off+int64(i), p[i:min(i+32, len(p))])
	}
}

// checkError fails for an error that the operation cannot have, whatever happens meanwhile.
func (f *chaoticFile) checkError(what string, h *handle, err error, also ...error) {
	if err == nil || err == io.EOF {
		return
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		for _, possible := range append(also, fs.ErrClosed) {
			if errors.Is(err, possible) {
				return
			}
		}
		if f.full && errors.Is(err, syscall.ENOSPC) {
			f.refusals.Add(1)
			return
		}
	}
	f.fail(f.path, &f.log, 0, "%s by %v: impossible error %T %v", what, h, err, err)
}

// liveChaotic is the life of a chaoticFile.
func liveChaotic(s *run, random *rand.Rand, path string, full bool) {
	f := &chaoticFile{run: s, path: path, number: random.Uint64N(1 << 20), full: full}
	f.most = 1 + random.Int64N([]int64{3, 40, 400}[random.IntN(3)]*pageSize)
	size := 1 + random.Int64N(f.most)
	file, err := os.Create(path)
	check(err)
	if full {
		check(file.Truncate(size))
	} else {
		_, err := file.Write(f.stamped(random, 0, size))
		check(err)
	}
	check(file.Close())
	for i := range f.handles {
		f.handles[i].Store(f.newHandle(random))
	}

	var group sync.WaitGroup
	for range 4 {
		random := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
		group.Add(1)
		go func() {
			defer group.Done()
			for !f.over.Load() {
				f.anything(random)
				f.operations.Add(1)
			}
		}()
	}
	end := time.Now().Add(time.Duration(200+random.IntN(3000)) * time.Millisecond)
	for time.Now().Before(end) && !s.stop.Load() {
		time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
		f.fromOutside(random)
	}
	f.over.Store(true)
	group.Wait()
	f.afterStorm()
}

func (f *chaoticFile) newHandle(random *rand.Rand) *handle {
	h := &handle{}
	flags := []int{os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND}[random.IntN(6)]
	h.MappedFile, h.mfs, h.description = f.open(random, f.path, flags, func(memmapfs.Config) bool { return true })
	h.label = fmt.Sprint("handle ", f.opens.Load())
	f.log.add(operation{"open", h.String(), 0, 0, ""})
	return h
}

// fromOutside truncates the file, or writes to it, as another process would.
func (f *chaoticFile) fromOutside(random *rand.Rand) {
	size := random.Int64N(f.most)
	if random.IntN(3) == 0 {
		size = size / pageSize * pageSize
	}
	if random.IntN(4) > 0 {
		check(os.Truncate(f.path, size))
		f.truncations.Add(1)
		f.log.add(operation{"outside", "Truncate", size, 0, ""})
		return
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY, 0)
	check(err)
	n, err := file.WriteAt(f.stamped(random, size, 1+random.Int64N(f.most-size)), size)
	if !f.full {
		check(err)
	}
	check(file.Close())
	f.log.add(operation{"outside", "WriteAt", size, int64(n), ""})
}

// anything does any operation on any handle.
func (f *chaoticFile) anything(random *rand.Rand) {
	i := random.IntN(len(f.handles))
	h := f.handles[i].Load()
	off, n := place(random, 0, f.most)
	done := func(what string, count int64, err error) {
		f.log.add(operation{h.label, what, off, n, fmt.Sprintf("= %d, %v", count, err)})
	}
	// What a handle refuses because of its flags and its mode, at any time.
	refused := []error{memmapfs.ErrWriteToReadOnlyMap, syscall.EBADF}
	if h.Mode == memmapfs.ModeCopyOnWrite {
		refused = append(refused, errors.ErrUnsupported, memmapfs.ErrSIGBUS)
	}
	switch choice := random.IntN(100); {
	case choice < 35:
		p := make([]byte, n)
		got, err := h.ReadAt(p, off)
		done("ReadAt", int64(got), err)
		f.checkError("ReadAt", h, err, syscall.EBADF)
		if int64(got) < n && err == nil || int64(got) > n {
			f.fail(f.path, &f.log, off, "ReadAt(%d bytes at %d) by %v: %d, %v", n, off, h, got, err)
		}
		f.checkBytes("ReadAt", h, p[:got], off)
	case choice < 60:
		if h.flags&os.O_APPEND != 0 {
			return // refused, and by package os without a *fs.PathError
		}
		got, err := h.WriteAt(f.stamped(random, off, n), off)
		done("WriteAt", int64(got), err)
		f.checkError("WriteAt", h, err, refused...)
		if int64(got) < n && err == nil || int64(got) > n {
			f.fail(f.path, &f.log, off, "WriteAt(%d bytes at %d) by %v: %d, %v", n, off, h, got, err)
		}
	case choice < 75:
		store := h.flags&(os.O_RDWR|os.O_APPEND) == os.O_RDWR && random.IntN(2) == 0 &&
			(h.Mode == memmapfs.ModeReadWrite || h.Mode == memmapfs.ModeCopyOnWrite && h.MapFullFile)
		var seen []byte
		err := h.View(off, n, func(b []byte) error {
			seen = bytes.Clone(b)
			if store {
				copy(b, f.stamped(random, off, n))
			}
			return nil
		})
		done("View", int64(len(seen)), err)
		f.checkError("View", h, err, memmapfs.ErrSIGBUS, memmapfs.ErrNotMapped, syscall.EBADF)
		f.checkBytes("View", h, seen, off)
	case choice < 80: // the position is shared: where these bytes lie, nobody knows
		_, err := h.Seek(off, io.SeekStart)
		f.checkError("Seek", h, err)
		got, err := h.Read(make([]byte, n))
		done("Read", int64(got), err)
		f.checkError("Read", h, err, syscall.EBADF)
	case choice < 82:
		var sink counter
		got, err := h.WriteTo(&sink)
		done("WriteTo", got, err)
		f.checkError("WriteTo", h, err, syscall.EBADF)
		if got != int64(sink) {
			f.fail(f.path, &f.log, 0, "WriteTo by %v: %d bytes, wrote %d", h, got, sink)
		}
	case choice < 84:
		err := []func() error{h.Sync, h.SyncAsync, func() error { return h.SyncRange(off, n) }}[random.IntN(3)]()
		done("Sync", 0, err)
		f.checkError("Sync", h, err)
	case choice < 86:
		err := []func() error{h.AdviseDontNeed, h.AdviseFree, h.AdviseRandom, h.AdviseSequential, h.AdviseWillNeed}[random.IntN(5)]()
		done("advice", 0, err)
		f.checkError("advice", h, err, memmapfs.ErrNotMapped, errors.ErrUnsupported, syscall.EINVAL)
	case choice < 89:
		err := h.RemapAfterTruncation()
		done("RemapAfterTruncation", 0, err)
		f.checkError("RemapAfterTruncation", h, err)
	case choice < 92:
		size := random.Int64N(f.most)
		err := []func() error{
			func() error { return h.Truncate(size) },
			func() error { return h.mfs.Truncate(osfs.FromNative(f.path), size) },
			func() error { return h.mfs.Chmod(osfs.FromNative(f.path), 0o644) },
			func() error { return h.PunchHole(off, n) },
		}[random.IntN(4)]()
		done("Truncate, Chmod or PunchHole", 0, err)
		f.checkError("Truncate, Chmod or PunchHole", h, err, append(refused, syscall.EINVAL, errors.ErrUnsupported)...)
	case choice < 96:
		info, err := h.Stat()
		done("Stat", 0, err)
		f.checkError("Stat", h, err)
		if err == nil && info.Size() > f.most {
			f.fail(f.path, &f.log, 0, "Stat by %v: %d bytes, and nobody writes past %d", h, info.Size(), f.most)
		}
		h.Data() // an access to it would be this program's own risk
		h.Mapped()
	default: // Close, while others use the handle
		next := f.newHandle(random)
		if !f.handles[i].CompareAndSwap(h, next) {
			h = next // another goroutine was faster
		}
		err := h.Close()
		done("Close", 0, err)
		f.checkError("Close", h, err)
	}
}

// counter is an io.Writer that counts.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// afterStorm checks that handles and file agree, now that it is quiet.
func (f *chaoticFile) afterStorm() {
	content, err := os.ReadFile(f.path)
	check(err)
	f.checkBytes("os.ReadFile", nil, content, 0)
	for i := range f.handles {
		h := f.handles[i].Load()
		if h.Mode != memmapfs.ModeCopyOnWrite && h.flags&os.O_WRONLY == 0 {
			f.checkError("RemapAfterTruncation", h, h.RemapAfterTruncation())
			for _, way := range []string{"before", "with"} { // unmapped, and with a map
				p := make([]byte, len(content)+1)
				n, err := h.ReadAt(p, 0)
				if n != len(content) || err != io.EOF || !bytes.Equal(p[:n], content) {
					f.fail(f.path, &f.log, 0, "after the storm, %s a map: ReadAt by %v: %d, %v, want the %d bytes of the file, same bytes: %t",
						way, h, n, err, len(content), bytes.Equal(p[:n], content))
				}
				h.Data()
			}
		}
		f.checkError("Close", h, h.Close())
	}
}
