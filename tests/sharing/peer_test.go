//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package sharing_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// eachRegionDir runs a test on the disk, and in memory where there is a filesystem for it.
func eachRegionDir(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("disk", func(t *testing.T) { test(t, testkit.TestDir(t)) })
	dir, err := os.MkdirTemp("/dev/shm", "memmapfs-test")
	if err != nil {
		return
	}
	t.Run("memory", func(t *testing.T) {
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		test(t, dir)
	})
}

// Catches maps that are private, and stores that wait for a Sync.
func TestSharedVisibility(t *testing.T) {
	testkit.NeedMaps(t)
	eachRegionDir(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "region")
		size := 3*testkit.PageSize + 5
		region := testkit.MustCreate(t, path, size)
		writer, reader := testkit.StartPeer(t), testkit.StartPeer(t)
		writer.Must("open", path, "writable")
		reader.Must("open", path, "readonly")
		if got := writer.Ask("size"); got != strconv.FormatInt(size, 10) {
			t.Errorf("opened with a size of %s, want %d", got, size)
		}
		for _, off := range []int64{0, testkit.PageSize - 3, 2 * testkit.PageSize, size - 6} {
			copy(region.Data()[off:], "parent")
			for _, p := range []*testkit.Peer{writer, reader} {
				if got := p.Ask("load", off, 6); got != "parent" {
					t.Errorf("stored at %d, seen in the other process: %q", off, got)
				}
			}
			writer.Must("store", off, "child.")
			if got := string(region.Data()[off:][:6]); got != "child." {
				t.Errorf("stored at %d by the other process, seen: %q", off, got)
			}
			got := make([]byte, 6)
			if _, err := region.MappedFile().ReadAt(got, off); err != nil || string(got) != "child." {
				t.Errorf("stored at %d by the other process, read by a call: %q %v", off, got, err)
			}
			if got := reader.Ask("load", off, 6); got != "child." {
				t.Errorf("stored at %d by one process, seen in another: %q", off, got)
			}
		}
		private, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
			Path: path, Size: size, Mode: memmapfs.ModeCopyOnWrite,
		})
		if err != nil {
			t.Fatal(err)
		}
		copy(private.Data(), "secret")
		if got := reader.Ask("load", 0, 6); got != "child." {
			t.Errorf("stored copy-on-write, seen in another process: %q", got)
		}
		writer.Must("sync")
		for _, err := range []error{private.Close(), region.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
		if got := string(testkit.ReadNative(t, path)[:6]); got != "child." {
			t.Errorf("the file holds %q", got)
		}
		reader.Must("close") // Windows removes no file that is open
		writer.Must("remove")
	})
}

// Catches a lock that keeps only handles of one process apart, that is for one holder where many may
// have it, or that Unlock and Close do not give back.
func TestSharedLockBetweenProcesses(t *testing.T) {
	testkit.NeedMaps(t)
	path := filepath.Join(testkit.TestDir(t), "region")
	region := testkit.MustCreate(t, path, testkit.PageSize)
	other, reader := testkit.StartPeer(t), testkit.StartPeer(t)
	other.Must("open", path, "writable")
	reader.Must("open", path, "readonly")
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	must(region.Lock())
	expect("TryLock while another process writes", other.Ask("trylock"), "false")
	expect("TryRLock while another process writes", reader.Ask("tryrlock"), "false")
	must(region.Unlock())
	expect("TryRLock of a free lock", reader.Ask("tryrlock"), "true")
	must(region.RLock())
	expect("TryRLock while others read", other.Ask("tryrlock"), "true")
	other.Must("unlock")
	expect("TryLock while others read", other.Ask("trylock"), "false")
	reader.Must("close")
	expect("TryLock while another process reads", other.Ask("trylock"), "false")
	must(region.Unlock())
	expect("TryLock when all have let go, by Close too", other.Ask("trylock"), "true")
	if locked, err := region.TryRLock(); locked || err != nil {
		t.Errorf("TryRLock while another process writes: %v %v", locked, err)
	}

	// A waiter gets the lock from Unlock.
	copy(region.Data(), "early")
	reader.Must("open", path, "readonly")
	reader.Tell("lock and load", 0, 5)
	waitForWaiter(t, path)
	copy(region.Data(), "later")
	other.Must("unlock")
	expect("the waiter sees", reader.Answer(), "later")
}

// Catches a lock that outlives its holder.
func TestSharedLockHolderKilled(t *testing.T) {
	testkit.NeedMaps(t)
	path := filepath.Join(testkit.TestDir(t), "region")
	region := testkit.MustCreate(t, path, testkit.PageSize)
	for _, kind := range []string{"lock", "rlock"} {
		holder, waiter := testkit.StartPeer(t), testkit.StartPeer(t)
		holder.Must("open", path, "writable")
		waiter.Must("open", path, "writable")
		copy(region.Data(), "early")
		holder.Must(kind)
		if locked, err := region.TryLock(); locked || err != nil {
			t.Fatalf("TryLock while another process holds the lock by %s: %v %v", kind, locked, err)
		}
		waiter.Tell("lock and load", 0, 5)
		waitForWaiter(t, path)
		copy(region.Data(), "later")
		holder.Kill()
		if got := waiter.Answer(); got != "later" {
			t.Errorf("the waiter saw %q, want what was stored before the holder was killed", got)
		}
		waiter.Kill()
		testkit.MustFinish(t, "Lock after its holder was killed", func() {
			if err := region.Lock(); err != nil {
				t.Error(err)
			}
		})
		if err := region.Unlock(); err != nil {
			t.Error(err)
		}
	}
}

// Catches a lock that lets two in.
func TestSharedLockCounts(t *testing.T) {
	testkit.NeedMaps(t)
	const processes, times = 8, 500
	path := filepath.Join(testkit.TestDir(t), "region")
	region := testkit.MustCreate(t, path, testkit.PageSize)
	peers := testkit.StartPeers(t, processes)
	for _, p := range peers {
		p.Must("open", path, "writable")
	}
	for _, p := range peers {
		p.Tell("count", 100, times)
	}
	for _, p := range peers {
		if got := p.Answer(); got != "ok" {
			t.Error(got)
		}
	}
	counter := region.Data()[100:]
	if got := int(counter[0]) | int(counter[1])<<8; got != processes*times {
		t.Errorf("counted %d, want %d", got, processes*times)
	}
}

// Catches atomic values that are atomic within a process only, or are not where they should be.
func TestSharedAtomicsBetweenProcesses(t *testing.T) {
	testkit.NeedMaps(t)
	const processes, times = 4, 1_000_000
	eachRegionDir(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "region")
		region := testkit.MustCreate(t, path, testkit.PageSize)
		peers := testkit.StartPeers(t, processes)
		for _, p := range peers {
			p.Must("create", path, testkit.PageSize)
		}
		for _, p := range peers {
			p.Tell("add", 64, times)
		}
		for _, p := range peers {
			if got := p.Answer(); got != "ok" {
				t.Error(got)
			}
		}
		narrow, err := region.Uint32(64)
		if err != nil {
			t.Fatal(err)
		}
		wide, err := region.Uint64(72)
		if err != nil {
			t.Fatal(err)
		}
		if got := narrow.Load(); got != processes*times {
			t.Errorf("32 bits: %d, want %d", got, processes*times)
		}
		if got, want := wide.Load(), uint64(processes*times)*(1<<32+1); got != want {
			t.Errorf("64 bits: %#x, want %#x", got, want)
		}
		clear(region.Data()[64:68])
		clear(region.Data()[72:80])
		if at := slices.IndexFunc(region.Data(), func(b byte) bool { return b != 0 }); at >= 0 {
			t.Errorf("a byte beside the atomic values has changed, at %d", at)
		}
	})
}

// Catches creators that take each other's file away, make two regions of one path, leave a size that is
// not the largest, or clear what another one has stored.
func TestSharedCreateAtOnce(t *testing.T) {
	testkit.NeedMaps(t)
	const processes, rounds = 8, 20
	dir := testkit.TestDir(t)
	peers := testkit.StartPeers(t, processes)
	for round := range rounds {
		path := filepath.Join(dir, fmt.Sprint("round", round), "made", "region")
		size := func(i int) int64 { return int64((i*5+round)%processes+1) * 1000 }
		for i, p := range peers {
			p.Tell("create", path, size(i))
			p.Tell("store", i*100, fmt.Sprint("process", i))
		}
		for i, p := range peers {
			for range 2 {
				if got := p.Answer(); got != "ok" {
					t.Fatalf("round %d, process %d: %s", round, i, got)
				}
			}
		}
		for i, p := range peers {
			if got := p.Ask("size"); got != fmt.Sprint(size(i)) {
				t.Errorf("round %d, process %d: a region of %s bytes, want %d", round, i, got, size(i))
			}
			for j := range peers {
				if got, want := p.Ask("load", j*100, 8), fmt.Sprint("process", j); got != want {
					t.Fatalf("round %d: process %d sees %q, want %q", round, i, got, want)
				}
			}
		}
		if info, err := os.Stat(path); err != nil || info.Size() != processes*1000 {
			t.Errorf("round %d: %v %v, want %d bytes", round, info.Size(), err, processes*1000)
		}
		for _, p := range peers {
			p.Must("close")
		}
	}
}

// Catches creators that come to grief when the file is removed, again and again, while they create it.
func TestSharedCreateAndRemoveAtOnce(t *testing.T) {
	testkit.NeedMaps(t)
	if runtime.GOOS == "windows" {
		return // see testRemoveOfOpenFile
	}
	const processes, rounds = 4, 100
	path := filepath.Join(testkit.TestDir(t), "region")
	peers := testkit.StartPeers(t, processes)
	for range rounds {
		for _, p := range peers {
			p.Tell("create", path, testkit.PageSize)
			p.Tell("store", 0, "mine")
			p.Tell("remove")
		}
	}
	removed := 0
	for range rounds {
		for _, p := range peers {
			for range 2 {
				if got := p.Answer(); got != "ok" {
					t.Fatal(got)
				}
			}
			switch got := p.Answer(); {
			case got == "ok":
				removed++
			case strings.Contains(got, "*fs.PathError"): // another one was first, or has it open (Windows)
			default:
				t.Fatal(got)
			}
		}
	}
	if removed == 0 {
		t.Error("nobody has removed the file")
	}
	os.Remove(path)
}

// Catches a region that is shared only as long as all live.
func TestSharedPeerKilled(t *testing.T) {
	testkit.NeedMaps(t)
	path := filepath.Join(testkit.TestDir(t), "region")
	region := testkit.MustCreate(t, path, 2*testkit.PageSize)
	victim, survivor := testkit.StartPeer(t), testkit.StartPeer(t)
	for _, p := range []*testkit.Peer{victim, survivor} {
		p.Must("create", path, 2*testkit.PageSize)
	}
	victim.Must("store", testkit.PageSize, "last words")
	victim.Must("lock")
	victim.Tell("add", 0, 1_000_000_000) // it is killed in the middle of that
	counter, err := region.Uint32(0)
	if err != nil {
		t.Fatal(err)
	}
	if !testkit.Eventually(func() bool { return counter.Load() > 0 }) {
		t.Fatal("the other process does not begin")
	}
	victim.Kill()
	last := counter.Load()
	if got := survivor.Ask("load", testkit.PageSize, 10); got != "last words" {
		t.Errorf("what the killed process had stored: %q", got)
	}
	survivor.Must("lock")
	survivor.Must("add", 0, 10)
	survivor.Must("unlock")
	if got := counter.Load(); got != last+10 {
		t.Errorf("the counter is at %d, want %d", got, last+10)
	}
	again := testkit.StartPeer(t) // in the victim's place
	again.Must("create", path, 2*testkit.PageSize)
	if got := again.Ask("load", testkit.PageSize, 10); got != "last words" {
		t.Errorf("a new process sees %q", got)
	}
}

// Catches a creation that shrinks, clears or replaces a region that others have.
func TestSharedGrowth(t *testing.T) {
	testkit.NeedMaps(t)
	path := filepath.Join(testkit.TestDir(t), "region")
	small := testkit.MustCreate(t, path, testkit.PageSize)
	peers := testkit.StartPeers(t, 2)
	for _, p := range peers {
		p.Must("open", path, "writable")
	}
	copy(small.Data(), "first page")
	if err := small.Lock(); err != nil { // growing needs no lock of the user's
		t.Fatal(err)
	}
	peers[0].Must("create", path, 5*testkit.PageSize)
	if err := small.Unlock(); err != nil {
		t.Fatal(err)
	}
	if got := peers[0].Ask("load", 0, 10); got != "first page" {
		t.Errorf("after growth: %q", got)
	}
	peers[0].Must("store", 0, "grown page")
	peers[0].Must("store", 4*testkit.PageSize, "the new end")
	if got := string(small.Data()[:10]); got != "grown page" {
		t.Errorf("a handle from before the growth sees %q", got)
	}
	if got := peers[1].Ask("size"); got != fmt.Sprint(testkit.PageSize) {
		t.Errorf("a handle from before the growth has %s bytes, want %d", got, testkit.PageSize)
	}
	again := testkit.MustCreate(t, path, testkit.PageSize)
	if again.Size() != testkit.PageSize || int64(len(again.Data())) != testkit.PageSize || int64(cap(again.Data())) != testkit.PageSize {
		t.Errorf("%d bytes, data %d with room for %d, of a larger file; want %d",
			again.Size(), len(again.Data()), cap(again.Data()), testkit.PageSize)
	}
	if got := peers[0].Ask("load", 4*testkit.PageSize, 11); got != "the new end" {
		t.Errorf("after a creation with a smaller size: %q", got)
	}
	whole, err := memmapfs.OpenSharedMemory(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(whole.Data()[4*testkit.PageSize:][:11]); got != "the new end" || whole.Size() != 5*testkit.PageSize {
		t.Errorf("opened: %d bytes with %q", whole.Size(), got)
	}
	if err := whole.Close(); err != nil {
		t.Error(err)
	}
}

// Catches a Remove that disturbs others, or takes away what is not its own.
func TestSharedRemove(t *testing.T) {
	testkit.NeedMaps(t)
	if runtime.GOOS == "windows" {
		testRemoveOfOpenFile(t)
		return
	}
	path := filepath.Join(testkit.TestDir(t), "region")
	region := testkit.MustCreate(t, path, testkit.PageSize)
	peers := testkit.StartPeers(t, 2)
	for _, p := range peers {
		p.Must("open", path, "writable")
	}
	if err := region.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	peers[0].Must("store", 0, "undisturbed")
	if got := peers[1].Ask("load", 0, 11); got != "undisturbed" {
		t.Errorf("after Remove the others see %q", got)
	}
	peers[0].Must("lock")
	if got := peers[1].Ask("trylock"); got != "false" {
		t.Errorf("TryLock after Remove, while another process has the lock: %s", got)
	}
	if err := region.Remove(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove of what is gone: %v", err)
	}
	next := testkit.MustCreate(t, path, testkit.PageSize)
	if next.Data()[0] != 0 {
		t.Error("the region created after Remove is the old one")
	}
	if got := peers[0].Ask("remove"); !strings.Contains(got, "not exist") {
		t.Errorf("Remove when the path has another file: %s", got)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file that somebody else has created: %v", err)
	}
	if err := next.Remove(); err != nil {
		t.Error(err)
	}
}

// Windows deletes no file that is open. Remove has to say so, and to work once the others are gone.
func testRemoveOfOpenFile(t *testing.T) {
	path := filepath.Join(testkit.TestDir(t), "region")
	region := testkit.MustCreate(t, path, testkit.PageSize)
	other := testkit.StartPeer(t)
	other.Must("open", path, "writable")
	if err := region.Remove(); err == nil {
		t.Error("Remove has deleted a file that another process has open")
	}
	other.Must("store", 0, "undisturbed")
	other.Must("remove")
	if err := region.Remove(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove of what is gone: %v", err)
	}
}

// waitForWaiter returns when a process waits for the lock of the file, where the system tells.
func waitForWaiter(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat("/proc/locks"); err != nil || runtime.GOOS != "linux" {
		return
	}
	if !testkit.Eventually(func() bool { return len(testkit.Waiters(t, path, "FLOCK")) > 0 }) {
		t.Fatal("nobody waits for the lock")
	}
}
