//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package sharing_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
)

// Catches a Wait that returns early, sleeps through a Wake of another process, or does not see what
// was stored before it.
func TestWaitForOtherProcess(t *testing.T) {
	region := regionIn(t, t.TempDir(), 4096)
	other := meetStranger(t)
	other.must("open", region.Path(), "readonly")
	word, err := region.Uint32(64)
	if err != nil {
		t.Fatal(err)
	}
	for round := range uint32(60) {
		other.tell("wait", 64, round)
		other.tell("load", 100, 4)
		if round%2 == 0 { // otherwise it may come too late to sleep
			woken := 0
			if runtime.GOOS == "linux" && !soon(func() bool { woken, err = region.Wake(64, 1); return woken == 1 || err != nil }) {
				t.Fatalf("nobody sleeps: %v", err)
			}
		}
		text := fmt.Sprintf("%04d", round)
		copy(region.Data()[100:], text)
		word.Store(round + 1)
		if _, err := region.Wake(64, math.MaxInt); err != nil {
			t.Fatal(err)
		}
		if got := other.answer() + other.answer(); got != "ok"+text {
			t.Fatalf("round %d: %q", round, got)
		}
	}
}

// Catches a Wait that goes on when its context or its handle ends, each at once.
func TestWaitEnds(t *testing.T) {
	region := regionIn(t, t.TempDir(), 4096)
	goroutines := runtime.NumGoroutine()
	late := 0
	for round := range 60 {
		handle := again(t, region)
		ctx, cancel := context.WithCancel(context.Background())
		const waiters = 3
		results := make(chan error)
		for range waiters {
			go func() { results <- handle.Wait(ctx, 8, 0) }()
		}
		if round%3 > 0 {
			time.Sleep(time.Millisecond) // most sleep by now; it is right in every order
		}
		want, start := context.Canceled, time.Now()
		if round%2 == 0 {
			want = fs.ErrClosed
			if err := handle.Close(); err != nil {
				t.Error(err)
			}
		} else {
			cancel()
		}
		for range waiters {
			if err := <-results; !errors.Is(err, want) {
				t.Fatalf("round %d: %v, want %v", round, err, want)
			}
		}
		if time.Since(start) > 700*time.Millisecond {
			late++
		}
		cancel()
		if err := handle.Close(); err != nil && round%2 == 1 {
			t.Error(err)
		}
	}
	if late > 6 { // the next look, without being woken, is after a second
		t.Errorf("%d times they ended late", late)
	}
	if !soon(func() bool { return runtime.NumGoroutine() <= goroutines }) {
		t.Errorf("%d goroutines, before %d", runtime.NumGoroutine(), goroutines)
	}
	if err := region.Wait(ended(), 8, 1); err != nil {
		t.Errorf("what has changed already: %v", err)
	}
	if err := region.Wait(ended(), 8, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// Catches a Wait that sleeps for ever because the one who stored was killed before its Wake.
func TestWakerKilled(t *testing.T) {
	const rounds = 60
	region := regionIn(t, t.TempDir(), 4*rounds)
	var waiters sync.WaitGroup
	errs := make(chan error, rounds)
	for round := range int64(rounds) {
		waiters.Add(1)
		go func() {
			defer waiters.Done()
			errs <- region.Wait(context.Background(), 4*round, 0)
		}()
	}
	storer := meetStranger(t)
	storer.must("open", region.Path(), "writable")
	for round := range rounds {
		if round%6 == 5 {
			storer.kill() // between the store and the Wake that there would be
			storer = meetStranger(t)
			storer.must("open", region.Path(), "writable")
		}
		storer.must("set", 4*round, 1)
	}
	storer.kill()
	within(t, 10*time.Second, "waiting", waiters.Wait)
	for range rounds {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// Catches offsets that are taken without a look, and waiting where nobody can store.
func TestWaitErrors(t *testing.T) {
	region := regionIn(t, t.TempDir(), 10)
	for _, off := range []int64{-4, 1, 2, 7, 8, 12, math.MaxInt64, math.MinInt64} {
		_, wakeErr := region.Wake(off, 1)
		for _, err := range []error{region.Wait(context.Background(), off, 0), wakeErr} {
			var path *fs.PathError
			if !errors.Is(err, memmapfs.ErrInvalidOffset) || !errors.As(err, &path) || path.Path != region.Path() {
				t.Errorf("at %d: %v", off, err)
			}
		}
	}
	if _, err := region.Wake(0, -1); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a negative number: %v", err)
	}
	if woken, err := region.Wake(4, 5); woken != 0 || err != nil {
		t.Errorf("nobody waits: %d %v", woken, err)
	}
	private, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
		Path: region.Path(), Size: 8, Mode: memmapfs.ModeCopyOnWrite,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := private.Wait(context.Background(), 0, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("copy-on-write: %v", err)
	}
	for _, closed := range []*memmapfs.SharedMemory{private, region} {
		if err := closed.Close(); err != nil {
			t.Error(err)
		}
		_, wakeErr := closed.Wake(0, 1)
		for _, err := range []error{closed.Wait(context.Background(), 0, 0), wakeErr} {
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
	}
}

// Catches a file that is truncated under those who wait, and kills them.
func TestWaitTruncated(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // it does not truncate a file that is mapped
	}
	size := 2 * int64(os.Getpagesize()) // the rest of the last page stays
	region := regionIn(t, t.TempDir(), size)
	last := size - 4
	waiting := make(chan error)
	go func() { waiting <- region.Wait(context.Background(), last, 0) }()
	time.Sleep(5 * time.Millisecond)
	other, err := memmapfs.OpenSharedMemory(region.Path(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.MappedFile().Truncate(100); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "Wait", func() {
		if err := <-waiting; err == nil {
			t.Error("Wait in a file that was truncated says that something was stored")
		}
	})
}

// Catches Data, Uint32 and Uint64 that give what faults after the map was taken away.
func TestDataAfterTruncate(t *testing.T) {
	for name, end := range map[string]func(file *memmapfs.MappedFile) error{
		"Truncate":             func(file *memmapfs.MappedFile) error { return file.Truncate(8192) },
		"RemapAfterTruncation": (*memmapfs.MappedFile).RemapAfterTruncation,
		"shorter, and longer": func(file *memmapfs.MappedFile) error {
			return errors.Join(file.Truncate(10), file.Truncate(8192))
		},
	} {
		for _, part := range []bool{false, true} {
			dir := t.TempDir()
			size := int64(8192)
			if part {
				regionIn(t, dir, size).Close()
				size = 4096
			}
			region := regionIn(t, dir, size)
			mapped := region.MappedFile()
			if err := end(mapped); err != nil {
				t.Fatal(err)
			}
			for round, use := range []func(){
				func() {},
				func() { mapped.View(0, 1, func([]byte) error { return nil }) },
				func() { mapped.Data() },
				func() { mapped.ReadAt(make([]byte, 10), 0) },
			} {
				use()
				if data := region.Data(); data != nil {
					if int64(len(data)) != size {
						t.Errorf("%s: %d bytes", name, len(data))
					}
					data[size-1]++ // a fault is the end of the test
				}
				narrow, narrowErr := region.Uint32(8)
				wide, wideErr := region.Uint64(16)
				if narrowErr == nil && wideErr == nil {
					narrow.Add(1)
					wide.Add(1)
				} else if !errors.Is(narrowErr, memmapfs.ErrNotMapped) || !errors.Is(wideErr, memmapfs.ErrNotMapped) {
					t.Errorf("%s, %d: %v, %v", name, round, narrowErr, wideErr)
				}
			}
			if err := mapped.Truncate(10); err != nil {
				t.Fatal(err)
			}
			if region.Data() != nil {
				t.Errorf("%s: the file is shorter than the region's Data", name)
			}
			region.Close()
		}
	}
}

// Catches growth that moves what was there, that others do not get, and slices from before that
// fault.
func TestGrow(t *testing.T) {
	dir := t.TempDir()
	const page = 1 << 16
	region := regionIn(t, dir, page)
	other := meetStranger(t)
	other.must("open", region.Path(), "writable")
	copy(region.Data(), "before")
	slices := [][]byte{region.Data()}
	for round := int64(2); round <= 30; round++ {
		size := round * page / 2
		if err := region.Grow(size); err != nil {
			t.Fatal(err)
		}
		data := region.Data()
		if got, want := int64(len(data)), max(size, page); got != want || region.Size() != want || cap(data) != len(data) {
			t.Fatalf("%d bytes, Size %d, want %d", got, region.Size(), want)
		}
		slices = append(slices, data)
		text := fmt.Sprintf("round %02d", round)
		copy(data[len(data)-10:], text)
		other.must("refresh")
		if got := other.ask("load", len(data)-10, 8); got != text {
			t.Errorf("after Refresh: %q", got)
		}
		other.must("store", 0, text)
		for i, old := range slices {
			if got := string(old[:8]); got != text {
				t.Fatalf("slice %d shows %q, want %q", i, got, text)
			}
		}
	}
	if err := region.Grow(100); err != nil || region.Size() != 15*page {
		t.Errorf("less than there is: %v, %d bytes", err, region.Size())
	}
	if err := errors.Join(region.Refresh(), region.Sync()); err != nil {
		t.Error(err)
	}
	reader, err := memmapfs.OpenSharedMemory(region.Path(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := reader.Grow(20 * page); !errors.Is(err, memmapfs.ErrWriteToReadOnlyMap) {
		t.Errorf("without writable: %v", err)
	}
	for _, size := range []int64{0, -1, math.MaxInt64} {
		if err := region.Grow(size); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("to %d: %v", size, err)
		}
	}
	if err := region.Close(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(region.Grow(30 * page)); !errors.Is(err, fs.ErrClosed) || !errors.Is(region.Refresh(), fs.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if region.Data() != nil {
		t.Error("Data after Close")
	}
}

// Catches the growth of a region that is the beginning of a larger file.
func TestGrowPart(t *testing.T) {
	dir := t.TempDir()
	whole := regionIn(t, dir, 10<<20)
	part := regionIn(t, dir, 5000)
	first := part.Data()
	for _, size := range []int64{5001, 3<<20 + 1, 10 << 20, 12 << 20} {
		if err := part.Grow(size); err != nil {
			t.Fatal(err)
		}
		data := part.Data()
		if int64(len(data)) != size {
			t.Fatalf("%d bytes, want %d", len(data), size)
		}
		first[0]++
		data[4999]++
		if size <= 10<<20 {
			data[size-1] = 9
		}
		if data[0] != first[0] || first[4999] != data[4999] || whole.Data()[0] != first[0] {
			t.Error("not the same memory")
		}
	}
	if err := whole.Refresh(); err != nil || whole.Size() != 12<<20 {
		t.Errorf("%v, %d bytes", err, whole.Size())
	}
	if err := errors.Join(part.Sync(), part.Close()); err != nil {
		t.Error(err)
	}
	if part.Data() != nil {
		t.Error("Data after Close")
	}
}

// Catches a creator that takes what was there, and handles that all believe to be the first.
func TestExclusiveAndCreated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "region")
	config := memmapfs.SharedMemoryConfig{Path: path, Size: 100, Exclusive: true}
	region, err := memmapfs.CreateSharedMemory(&config)
	if err != nil || !region.Created() {
		t.Fatalf("the first: %v", err)
	}
	defer region.Close()
	region.Data()[0] = 7
	if _, err := memmapfs.CreateSharedMemory(&config); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second: %v, want fs.ErrExist", err)
	}
	config.Exclusive = false
	second, err := memmapfs.CreateSharedMemory(&config)
	if err != nil || second.Created() || second.Data()[0] != 7 {
		t.Errorf("one that may find it: %v", err)
	}
	second.Close()
	if other := again(t, region); other.Created() {
		t.Error("one that has opened it says that it was created")
	}
}
