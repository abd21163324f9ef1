//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package memmapfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/absfs/memmapfs"
)

// peerVariable is set in a process that serves as a peer.
const peerVariable = "MEMMAPFS_SHARED_PEER"

// peer is another process with a region. It does what it is told, one line at a time.
type peer struct {
	t       testing.TB
	process *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Scanner
}

// startPeer starts a process, which ends with the test.
func startPeer(t testing.TB) *peer {
	t.Helper()
	process := thisProgram(t, "-test.run=^TestSharedVisibility$")
	process.Env = append(os.Environ(), peerVariable+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	process.Stderr = os.Stderr
	orders, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	p := &peer{t, process, orders, bufio.NewScanner(output)}
	t.Cleanup(func() {
		orders.Close() // the peer ends with its input
		process.Wait()
	})
	return p
}

func startPeers(t testing.TB, n int) []*peer {
	t.Helper()
	peers := make([]*peer, n)
	for i := range peers {
		peers[i] = startPeer(t)
	}
	return peers
}

func (p *peer) tell(order string, args ...any) {
	p.t.Helper()
	for _, arg := range args {
		order += fmt.Sprint("\t", arg)
	}
	if _, err := fmt.Fprintln(p.orders, order); err != nil {
		p.t.Fatal(err)
	}
}

// answer waits for the answer to the order that is the oldest without one.
func (p *peer) answer() (answer string) {
	p.t.Helper()
	mustFinish(p.t, "the other process", func() {
		if p.answers.Scan() {
			answer = p.answers.Text()
		} else {
			answer = "the process has ended"
		}
	})
	return answer
}

func (p *peer) ask(order string, args ...any) string {
	p.t.Helper()
	p.tell(order, args...)
	return p.answer()
}

// must gives orders that have to go well.
func (p *peer) must(order string, args ...any) {
	p.t.Helper()
	if answer := p.ask(order, args...); answer != "ok" {
		p.t.Fatalf("%s %v in the other process: %s", order, args, answer)
	}
}

// kill ends the process as a crash does.
func (p *peer) kill() {
	p.t.Helper()
	if err := p.process.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.process.Wait(); err == nil {
		p.t.Fatal("the process ended by itself")
	}
}

// servePeer is the life of a peer.
func servePeer() {
	orders := bufio.NewScanner(os.Stdin)
	served := new(servant)
	for orders.Scan() {
		fields := strings.Split(orders.Text(), "\t")
		answer, err := served.do(fields[0], fields[1:])
		if err != nil {
			answer = fmt.Sprintf("%T %v", err, err)
		}
		fmt.Println(answer)
	}
	os.Exit(0)
}

type servant struct{ region *memmapfs.SharedMemory }

func (s *servant) do(order string, args []string) (answer string, err error) {
	number := func(i int) int {
		n, parseErr := strconv.Atoi(args[i])
		err = errors.Join(err, parseErr)
		return n
	}
	answer = "ok"
	tried := func(locked bool, lockErr error) {
		answer, err = strconv.FormatBool(locked), lockErr
	}
	if s.region == nil && order != "create" && order != "open" {
		return "", errors.New("there is no region")
	}
	switch order {
	case "create":
		s.region, err = memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{
			Path: args[0], Size: int64(number(1)), SyncMode: memmapfs.SyncNever,
		})
	case "open":
		s.region, err = memmapfs.OpenSharedMemory(args[0], args[1] == "writable")
	case "store":
		copy(s.region.Data()[number(0):], args[1])
	case "load":
		answer = string(s.region.Data()[number(0):][:number(1)])
	case "size":
		answer = strconv.FormatInt(s.region.Size(), 10)
	case "lock":
		err = s.region.Lock()
	case "lock and load": // what is there as soon as the lock is
		if err = s.region.Lock(); err == nil {
			answer = string(s.region.Data()[number(0):][:number(1)])
		}
	case "rlock":
		err = s.region.RLock()
	case "trylock":
		tried(s.region.TryLock())
	case "tryrlock":
		tried(s.region.TryRLock())
	case "unlock":
		err = s.region.Unlock()
	case "count": // under the lock, by a load and a store that know nothing of each other
		counter := s.region.Data()[number(0):]
		for range number(1) {
			if err = s.region.Lock(); err != nil {
				return "", err
			}
			value := int(counter[0]) | int(counter[1])<<8
			value++
			counter[0], counter[1] = byte(value), byte(value>>8)
			if err = s.region.Unlock(); err != nil {
				return "", err
			}
		}
	case "add": // by turns, 32 and 64 bits wide
		var narrow *atomic.Uint32
		var wide *atomic.Uint64
		if narrow, err = s.region.Uint32(int64(number(0))); err != nil {
			return "", err
		}
		if wide, err = s.region.Uint64(int64(number(0)) + 8); err != nil {
			return "", err
		}
		for range number(1) {
			narrow.Add(1)
			wide.Add(1<<32 + 1)
		}
	case "produce":
		var queue *ring
		if queue, err = newRing(s.region); err != nil {
			return "", err
		}
		for i := range number(0) {
			for message := ringMessage(i); !queue.send(message); {
			}
		}
	case "sync":
		err = s.region.Sync()
	case "close":
		err = s.region.Close()
	case "remove":
		err = s.region.Remove()
	default:
		err = errors.New("unknown order " + order)
	}
	return answer, err
}

// mustCreate creates a region, which is closed when the test ends unless the test does it.
func mustCreate(t testing.TB, path string, size int64) *memmapfs.SharedMemory {
	t.Helper()
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: size, SyncMode: memmapfs.SyncNever})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { region.Close() })
	return region
}

// eachRegionDir runs a test on the disk, and in memory where there is a filesystem for it.
func eachRegionDir(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("disk", func(t *testing.T) { test(t, testDir(t)) })
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
	if os.Getenv(peerVariable) != "" {
		servePeer()
	}
	skipUnlessMappable(t)
	eachRegionDir(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "region")
		size := 3*pageSize + 5
		region := mustCreate(t, path, size)
		writer, reader := startPeer(t), startPeer(t)
		writer.must("open", path, "writable")
		reader.must("open", path, "readonly")
		if got := writer.ask("size"); got != strconv.FormatInt(size, 10) {
			t.Errorf("opened with a size of %s, want %d", got, size)
		}
		for _, off := range []int64{0, pageSize - 3, 2 * pageSize, size - 6} {
			copy(region.Data()[off:], "parent")
			for _, p := range []*peer{writer, reader} {
				if got := p.ask("load", off, 6); got != "parent" {
					t.Errorf("stored at %d, seen in the other process: %q", off, got)
				}
			}
			writer.must("store", off, "child.")
			if got := string(region.Data()[off:][:6]); got != "child." {
				t.Errorf("stored at %d by the other process, seen: %q", off, got)
			}
			got := make([]byte, 6)
			if _, err := region.MappedFile().ReadAt(got, off); err != nil || string(got) != "child." {
				t.Errorf("stored at %d by the other process, read by a call: %q %v", off, got, err)
			}
			if got := reader.ask("load", off, 6); got != "child." {
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
		if got := reader.ask("load", 0, 6); got != "child." {
			t.Errorf("stored copy-on-write, seen in another process: %q", got)
		}
		writer.must("sync")
		for _, err := range []error{private.Close(), region.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
		if got := string(readNative(t, path)[:6]); got != "child." {
			t.Errorf("the file holds %q", got)
		}
		reader.must("close") // Windows removes no file that is open
		writer.must("remove")
	})
}

// Catches a lock that keeps only handles of one process apart, that is for one holder where many may
// have it, or that Unlock and Close do not give back.
func TestSharedLockBetweenProcesses(t *testing.T) {
	skipUnlessMappable(t)
	path := filepath.Join(testDir(t), "region")
	region := mustCreate(t, path, pageSize)
	other, reader := startPeer(t), startPeer(t)
	other.must("open", path, "writable")
	reader.must("open", path, "readonly")
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
	expect("TryLock while another process writes", other.ask("trylock"), "false")
	expect("TryRLock while another process writes", reader.ask("tryrlock"), "false")
	must(region.Unlock())
	expect("TryRLock of a free lock", reader.ask("tryrlock"), "true")
	must(region.RLock())
	expect("TryRLock while others read", other.ask("tryrlock"), "true")
	other.must("unlock")
	expect("TryLock while others read", other.ask("trylock"), "false")
	reader.must("close")
	expect("TryLock while another process reads", other.ask("trylock"), "false")
	must(region.Unlock())
	expect("TryLock when all have let go, by Close too", other.ask("trylock"), "true")
	if locked, err := region.TryRLock(); locked || err != nil {
		t.Errorf("TryRLock while another process writes: %v %v", locked, err)
	}

	// A waiter gets the lock from Unlock.
	copy(region.Data(), "early")
	reader.must("open", path, "readonly")
	reader.tell("lock and load", 0, 5)
	waitForWaiter(t, path)
	copy(region.Data(), "later")
	other.must("unlock")
	expect("the waiter sees", reader.answer(), "later")
}

// Catches a lock that outlives its holder.
func TestSharedLockHolderKilled(t *testing.T) {
	skipUnlessMappable(t)
	path := filepath.Join(testDir(t), "region")
	region := mustCreate(t, path, pageSize)
	for _, kind := range []string{"lock", "rlock"} {
		holder, waiter := startPeer(t), startPeer(t)
		holder.must("open", path, "writable")
		waiter.must("open", path, "writable")
		copy(region.Data(), "early")
		holder.must(kind)
		if locked, err := region.TryLock(); locked || err != nil {
			t.Fatalf("TryLock while another process holds the lock by %s: %v %v", kind, locked, err)
		}
		waiter.tell("lock and load", 0, 5)
		waitForWaiter(t, path)
		copy(region.Data(), "later")
		holder.kill()
		if got := waiter.answer(); got != "later" {
			t.Errorf("the waiter saw %q, want what was stored before the holder was killed", got)
		}
		waiter.kill()
		mustFinish(t, "Lock after its holder was killed", func() {
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
	skipUnlessMappable(t)
	const processes, times = 8, 500
	path := filepath.Join(testDir(t), "region")
	region := mustCreate(t, path, pageSize)
	peers := startPeers(t, processes)
	for _, p := range peers {
		p.must("open", path, "writable")
	}
	for _, p := range peers {
		p.tell("count", 100, times)
	}
	for _, p := range peers {
		if got := p.answer(); got != "ok" {
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
	skipUnlessMappable(t)
	const processes, times = 4, 1_000_000
	eachRegionDir(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "region")
		region := mustCreate(t, path, pageSize)
		peers := startPeers(t, processes)
		for _, p := range peers {
			p.must("create", path, pageSize)
		}
		for _, p := range peers {
			p.tell("add", 64, times)
		}
		for _, p := range peers {
			if got := p.answer(); got != "ok" {
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

// ringMessage is a message of the number, with a length of its own.
func ringMessage(number int) []byte {
	return []byte(fmt.Sprintf("%d:%s", number, strings.Repeat("x", number%97)))
}

// Catches a ring, and with it an order of stores and atomic values, that works between goroutines only.
func TestSharedRingBetweenProcesses(t *testing.T) {
	skipUnlessMappable(t)
	const messages = 100_000
	path := filepath.Join(testDir(t), "region")
	region := mustCreate(t, path, 2*pageSize)
	producer := startPeer(t)
	producer.must("open", path, "writable")
	queue, err := newRing(region)
	if err != nil {
		t.Fatal(err)
	}
	producer.tell("produce", messages)
	buffer := make([]byte, 200)
	mustFinish(t, "receiving", func() {
		for i := 0; i < messages; {
			if n, ok := queue.receive(buffer); ok {
				if got, want := string(buffer[:n]), string(ringMessage(i)); got != want {
					t.Errorf("message %d: %q, want %q", i, got, want)
					return
				}
				i++
			}
		}
	})
	if got := producer.answer(); got != "ok" {
		t.Error(got)
	}
}

// Catches creators that take each other's file away, make two regions of one path, leave a size that is
// not the largest, or clear what another one has stored.
func TestSharedCreateAtOnce(t *testing.T) {
	skipUnlessMappable(t)
	const processes, rounds = 8, 20
	dir := testDir(t)
	peers := startPeers(t, processes)
	for round := range rounds {
		path := filepath.Join(dir, fmt.Sprint("round", round), "made", "region")
		size := func(i int) int64 { return int64((i*5+round)%processes+1) * 1000 }
		for i, p := range peers {
			p.tell("create", path, size(i))
			p.tell("store", i*100, fmt.Sprint("process", i))
		}
		for i, p := range peers {
			for range 2 {
				if got := p.answer(); got != "ok" {
					t.Fatalf("round %d, process %d: %s", round, i, got)
				}
			}
		}
		for i, p := range peers {
			if got := p.ask("size"); got != fmt.Sprint(size(i)) {
				t.Errorf("round %d, process %d: a region of %s bytes, want %d", round, i, got, size(i))
			}
			for j := range peers {
				if got, want := p.ask("load", j*100, 8), fmt.Sprint("process", j); got != want {
					t.Fatalf("round %d: process %d sees %q, want %q", round, i, got, want)
				}
			}
		}
		if info, err := os.Stat(path); err != nil || info.Size() != processes*1000 {
			t.Errorf("round %d: %v %v, want %d bytes", round, info.Size(), err, processes*1000)
		}
		for _, p := range peers {
			p.must("close")
		}
	}
}

// Catches creators that come to grief when the file is removed, again and again, while they create it.
func TestSharedCreateAndRemoveAtOnce(t *testing.T) {
	skipUnlessMappable(t)
	if runtime.GOOS == "windows" {
		return // see testRemoveOfOpenFile
	}
	const processes, rounds = 4, 100
	path := filepath.Join(testDir(t), "region")
	peers := startPeers(t, processes)
	for range rounds {
		for _, p := range peers {
			p.tell("create", path, pageSize)
			p.tell("store", 0, "mine")
			p.tell("remove")
		}
	}
	removed := 0
	for range rounds {
		for _, p := range peers {
			for range 2 {
				if got := p.answer(); got != "ok" {
					t.Fatal(got)
				}
			}
			switch got := p.answer(); {
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
	skipUnlessMappable(t)
	path := filepath.Join(testDir(t), "region")
	region := mustCreate(t, path, 2*pageSize)
	victim, survivor := startPeer(t), startPeer(t)
	for _, p := range []*peer{victim, survivor} {
		p.must("create", path, 2*pageSize)
	}
	victim.must("store", pageSize, "last words")
	victim.must("lock")
	victim.tell("add", 0, 1_000_000_000) // it is killed in the middle of that
	counter, err := region.Uint32(0)
	if err != nil {
		t.Fatal(err)
	}
	if !eventually(func() bool { return counter.Load() > 0 }) {
		t.Fatal("the other process does not begin")
	}
	victim.kill()
	last := counter.Load()
	if got := survivor.ask("load", pageSize, 10); got != "last words" {
		t.Errorf("what the killed process had stored: %q", got)
	}
	survivor.must("lock")
	survivor.must("add", 0, 10)
	survivor.must("unlock")
	if got := counter.Load(); got != last+10 {
		t.Errorf("the counter is at %d, want %d", got, last+10)
	}
	again := startPeer(t) // in the victim's place
	again.must("create", path, 2*pageSize)
	if got := again.ask("load", pageSize, 10); got != "last words" {
		t.Errorf("a new process sees %q", got)
	}
}

// Catches a creation that shrinks, clears or replaces a region that others have.
func TestSharedGrowth(t *testing.T) {
	skipUnlessMappable(t)
	path := filepath.Join(testDir(t), "region")
	small := mustCreate(t, path, pageSize)
	peers := startPeers(t, 2)
	for _, p := range peers {
		p.must("open", path, "writable")
	}
	copy(small.Data(), "first page")
	if err := small.Lock(); err != nil { // growing needs no lock of the user's
		t.Fatal(err)
	}
	peers[0].must("create", path, 5*pageSize)
	if err := small.Unlock(); err != nil {
		t.Fatal(err)
	}
	if got := peers[0].ask("load", 0, 10); got != "first page" {
		t.Errorf("after growth: %q", got)
	}
	peers[0].must("store", 0, "grown page")
	peers[0].must("store", 4*pageSize, "the new end")
	if got := string(small.Data()[:10]); got != "grown page" {
		t.Errorf("a handle from before the growth sees %q", got)
	}
	if got := peers[1].ask("size"); got != fmt.Sprint(pageSize) {
		t.Errorf("a handle from before the growth has %s bytes, want %d", got, pageSize)
	}
	again := mustCreate(t, path, pageSize)
	if again.Size() != pageSize || int64(len(again.Data())) != pageSize || int64(cap(again.Data())) != pageSize {
		t.Errorf("%d bytes, data %d with room for %d, of a larger file; want %d",
			again.Size(), len(again.Data()), cap(again.Data()), pageSize)
	}
	if got := peers[0].ask("load", 4*pageSize, 11); got != "the new end" {
		t.Errorf("after a creation with a smaller size: %q", got)
	}
	whole, err := memmapfs.OpenSharedMemory(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(whole.Data()[4*pageSize:][:11]); got != "the new end" || whole.Size() != 5*pageSize {
		t.Errorf("opened: %d bytes with %q", whole.Size(), got)
	}
	if err := whole.Close(); err != nil {
		t.Error(err)
	}
}

// Catches a Remove that disturbs others, or takes away what is not its own.
func TestSharedRemove(t *testing.T) {
	skipUnlessMappable(t)
	if runtime.GOOS == "windows" {
		testRemoveOfOpenFile(t)
		return
	}
	path := filepath.Join(testDir(t), "region")
	region := mustCreate(t, path, pageSize)
	peers := startPeers(t, 2)
	for _, p := range peers {
		p.must("open", path, "writable")
	}
	if err := region.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	peers[0].must("store", 0, "undisturbed")
	if got := peers[1].ask("load", 0, 11); got != "undisturbed" {
		t.Errorf("after Remove the others see %q", got)
	}
	peers[0].must("lock")
	if got := peers[1].ask("trylock"); got != "false" {
		t.Errorf("TryLock after Remove, while another process has the lock: %s", got)
	}
	if err := region.Remove(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove of what is gone: %v", err)
	}
	next := mustCreate(t, path, pageSize)
	if next.Data()[0] != 0 {
		t.Error("the region created after Remove is the old one")
	}
	if got := peers[0].ask("remove"); !strings.Contains(got, "not exist") {
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
	path := filepath.Join(testDir(t), "region")
	region := mustCreate(t, path, pageSize)
	other := startPeer(t)
	other.must("open", path, "writable")
	if err := region.Remove(); err == nil {
		t.Error("Remove has deleted a file that another process has open")
	}
	other.must("store", 0, "undisturbed")
	other.must("remove")
	if err := region.Remove(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove of what is gone: %v", err)
	}
}

// waitForWaiter returns when a process waits for the lock of the file, where the system tells.
func waitForWaiter(t *testing.T, path string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return
	}
	if !eventually(func() bool { return len(waiters(t, path, "FLOCK")) > 0 }) {
		t.Fatal("nobody waits for the lock")
	}
}

// waiters returns the lines of /proc/locks for those who wait for a lock of that kind on the file, as in
// "1: -> FLOCK  ADVISORY  WRITE 123 fe:00:4711 0 EOF".
func waiters(t *testing.T, path, kind string) (found []string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	// The inode's number, by reflection because its field is there on Unix only.
	inode := fmt.Sprintf(":%d ", reflect.ValueOf(info.Sys()).Elem().FieldByName("Ino").Uint())
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "-> "+kind) && strings.Contains(line, inode) {
			found = append(found, line)
		}
	}
	return found
}
