//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package sharing_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
)

// threadsAndFiles counts what a lock could leave behind, where the system tells.
func threadsAndFiles(t *testing.T) (threads, files int) {
	t.Helper()
	for of, count := range map[string]*int{"task": &threads, "fd": &files} {
		entries, err := os.ReadDir("/proc/self/" + of)
		if err != nil {
			return 0, 0
		}
		*count = len(entries)
	}
	return threads, files
}

// Catches a lock that goes on waiting when its context ends, or leaves a thread, a descriptor or a
// goroutine behind when it stops.
func TestLockContextEnds(t *testing.T) {
	region := regionIn(t, t.TempDir(), 100)
	holder := meetStranger(t)
	holder.must("open", region.Path(), "writable")
	holder.must("lock")
	lock := func(ctx context.Context, round int) error {
		if round%2 == 0 {
			return region.RLockContext(ctx)
		}
		return region.LockContext(ctx)
	}
	threads, files := 0, 0
	goroutines := runtime.NumGoroutine()
	for round := range 60 {
		if round == 10 {
			threads, files = threadsAndFiles(t)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- lock(ctx, round) }()
		if round%3 == 0 {
			runtime.Gosched()
		}
		cancel()
		start := time.Now()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("round %d: %v", round, err)
		}
		if late := time.Since(start); late > time.Second {
			t.Errorf("round %d: %v late", round, late)
		}
	}
	if err := lock(ended(), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	nowThreads, nowFiles := threadsAndFiles(t)
	if nowThreads > threads+5 || nowFiles > files || !soon(func() bool { return runtime.NumGoroutine() <= goroutines+1 }) {
		t.Errorf("%d threads and %d files, before %d and %d; %d goroutines, before %d",
			nowThreads, nowFiles, threads, files, runtime.NumGoroutine(), goroutines)
	}
	holder.must("unlock")
	if err := errors.Join(lock(context.Background(), 1), region.Unlock(), lock(context.Background(), 0), region.Unlock()); err != nil {
		t.Errorf("a lock that is free: %v", err)
	}
}

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Catches a Close that leaves those waiting who have a context.
func TestCloseEndsLockContext(t *testing.T) {
	region := regionIn(t, t.TempDir(), 100)
	if err := region.Lock(); err != nil {
		t.Fatal(err)
	}
	other := again(t, region)
	ended := make(chan error)
	for i := range 4 {
		go func() {
			if i%2 == 0 {
				ended <- other.LockContext(context.Background())
			} else {
				ended <- other.RLockContext(context.Background())
			}
		}()
	}
	time.Sleep(5 * time.Millisecond) // some of them wait by now; it is right in every order
	within(t, 10*time.Second, "Close", func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		for range 4 {
			if err := <-ended; !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%v, want fs.ErrClosed", err)
			}
		}
	})
}

// Catches a holder that dies and is not reported, is reported twice, or takes the lock with it.
func TestOwnerDied(t *testing.T) {
	region := regionIn(t, t.TempDir(), 100)
	if err := region.ReportOwnerDeath(8); err != nil {
		t.Fatal(err)
	}
	reader, err := memmapfs.OpenSharedMemory(region.Path(), false)
	if err == nil {
		err = reader.ReportOwnerDeath(8)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	died := func(what string, err error, want bool) {
		t.Helper()
		if errors.Is(err, memmapfs.ErrOwnerDied) != want || err != nil && !want {
			t.Fatalf("%s: %v; the death of the owner is expected: %v", what, err, want)
		}
	}
	for round := range 60 {
		holder := meetStranger(t)
		holder.must("open", region.Path(), "writable")
		holder.must("report death", 8)
		if round%4 == 3 {
			holder.must("rlock")
			holder.kill()
			died("Lock after a reader", region.LockContext(context.Background()), false)
			died("Unlock", region.Unlock(), false)
			continue
		}
		holder.must("lock")
		holder.must("store", 0, "half")
		holder.kill()
		for range round % 3 { // they cannot mend it
			died("RLock of a reader", reader.RLock(), true)
			died("Unlock", reader.Unlock(), false)
			died("Lock of a reader", reader.Lock(), true)
			died("Unlock", reader.Unlock(), false)
		}
		switch round % 3 {
		case 0:
			died("Lock", region.Lock(), true)
		case 1:
			died("LockContext", region.LockContext(context.Background()), true)
		default:
			locked, err := region.TryLock()
			died("TryLock", err, true)
			if !locked {
				t.Error("TryLock does not say that the lock is held")
			}
		}
		if locked, err := again(t, region).TryLock(); locked || err != nil {
			t.Errorf("the lock is not held with ErrOwnerDied: %v %v", locked, err)
		}
		died("Unlock", region.Unlock(), false)
		died("the next Lock", region.Lock(), false)
		died("Unlock", region.Unlock(), false)
		died("RLock", reader.RLock(), false)
		died("Unlock", reader.Unlock(), false)
	}
}

// Catches marks that are left by an Unlock or a Close, made where nobody asked, or in other bytes.
func TestOwnerWord(t *testing.T) {
	region := regionIn(t, t.TempDir(), 16)
	other := again(t, region)
	word, err := region.Uint32(4)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{1, 2, 13, 16, 1 << 40} {
		if err := region.ReportOwnerDeath(off); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("a word at %d: %v", off, err)
		}
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(region.Lock())
	if word.Load() != 0 {
		t.Error("a mark that nobody asked for")
	}
	must(region.Unlock(), region.ReportOwnerDeath(4), other.ReportOwnerDeath(4), region.Lock())
	if word.Load() != uint32(os.Getpid()) {
		t.Errorf("the mark is %d", word.Load())
	}
	must(region.Unlock())
	if word.Load() != 0 {
		t.Error("Unlock leaves the mark")
	}
	must(other.Lock(), other.Close())
	if word.Load() != 0 {
		t.Error("Close leaves the mark")
	}
	must(region.Lock(), region.Unlock(), region.RLock())
	if word.Load() != 0 {
		t.Error("RLock marks")
	}
	must(region.Unlock(), region.ReportOwnerDeath(-1))
	word.Store(77)
	must(region.Lock(), region.Unlock())
	if got := string(region.Data()[:4]) + string(region.Data()[8:]); got != string(make([]byte, 12)) || word.Load() != 77 {
		t.Errorf("the region holds %q", region.Data())
	}
	config := memmapfs.SharedMemoryConfig{Path: region.Path(), Size: 16, ReportOwnerDeath: true, OwnerWord: 4}
	configured, err := memmapfs.CreateSharedMemory(&config)
	must(err)
	if err := configured.Lock(); !errors.Is(err, memmapfs.ErrOwnerDied) {
		t.Errorf("by the configuration: %v", err)
	}
	must(configured.Close())
	for _, change := range []func(){func() { config.OwnerWord = 14 }, func() { config.OwnerWord, config.Mode = 0, memmapfs.ModeCopyOnWrite }} {
		change()
		if _, err := memmapfs.CreateSharedMemory(&config); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", config, err)
		}
	}
}
