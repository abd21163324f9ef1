package sharing_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"golang.org/x/sys/unix"
)

// Catches links that are followed to somebody's file, opens that wait for the other end of a
// pipe, and errors that do not say what is at the name.
func TestWhatStandsAtTheName(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(at("victim"), []byte("precious"), 0o600), os.Symlink(at("victim"), at("link")),
		os.Symlink(at("nothing"), at("dangling")), os.Symlink("loop", at("loop")), syscall.Mkfifo(at("pipe"), 0o600),
		os.Mkdir(at("real"), 0o700), os.Symlink("real", at("through")),
	); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		want error
		says string
	}{
		{"link", syscall.ELOOP, "victim"},
		{"dangling", syscall.ELOOP, "nothing"},
		{"loop", syscall.ELOOP, "loop"},
		{"pipe", memmapfs.ErrNotMapped, "regular"},
		{"real", syscall.EISDIR, ""},
	} {
		within(t, 10*time.Second, test.name, func() {
			_, createErr := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: at(test.name), Size: 4096, Permissions: 0o777})
			_, readErr := memmapfs.OpenSharedMemory(at(test.name), false)
			_, writeErr := memmapfs.OpenSharedMemory(at(test.name), true)
			for _, err := range []error{createErr, readErr, writeErr} {
				var path *fs.PathError
				if !errors.Is(err, test.want) || !errors.As(err, &path) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s: %v, want %v and %q", test.name, err, test.want, test.says)
				}
			}
		})
	}
	if _, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: at("dangling"), Size: 1}); !strings.Contains(fmt.Sprint(err), "there is nothing") {
		t.Errorf("a dangling link: %v", err)
	}
	if content, err := os.ReadFile(at("victim")); err != nil || string(content) != "precious" {
		t.Errorf("the file behind the link: %q %v", content, err)
	}
	if _, err := os.Lstat(at("nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("behind the dangling link: %v", err)
	}
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: at("through/region"), Size: 1})
	if err != nil {
		t.Fatalf("a directory behind a link: %v", err)
	}
	region.Close()
}

// Catches a file that another user has left at the name, or that allows others too much.
func TestForeignFile(t *testing.T) {
	stranger := meetStranger(t, asNobody(t))
	dir := commonDir(t)
	for _, test := range []struct {
		owner             int
		permissions, most os.FileMode
		says              string
	}{
		{nobody, 0o600, 0o600, "65534"},
		{nobody, 0o666, 0o666, "65534"},
		{0, 0o644, 0o600, "-rw-r--r--"},
		{0, 0o666, 0o644, "-rw-rw-rw-"},
		{0, 0o600, 0o600, ""},
		{0, 0o400, 0o644, ""},
		{nobody, 0o666, 0, ""},
	} {
		path := filepath.Join(dir, "region")
		if err := errors.Join(os.WriteFile(path, []byte("left here"), 0o600), os.Chown(path, test.owner, test.owner),
			os.Chmod(path, test.permissions)); err != nil {
			t.Fatal(err)
		}
		config := memmapfs.SharedMemoryConfig{Path: path, Size: 100, Permissions: test.most}
		region, err := memmapfs.CreateSharedMemory(&config)
		switch {
		case test.says == "" && err != nil:
			t.Errorf("%+v: %v", test, err)
		case test.says == "":
			region.Close()
		case !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), test.says):
			t.Errorf("%+v: %v", test, err)
		default:
			if info, err := os.Stat(path); err != nil || info.Size() != 9 {
				t.Errorf("it was changed: %v %v", info, err)
			}
			config.AllowForeign = true
			if region, err = memmapfs.CreateSharedMemory(&config); err != nil {
				t.Errorf("AllowForeign: %v", err)
			} else {
				region.Close()
			}
		}
		os.Remove(path)
	}
	// What belongs to root is as good as one's own.
	path := filepath.Join(dir, "of root")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	stranger.must("create", path, 100, 0o666)
	if answer := stranger.ask("create", path, 100, 0o644); !strings.Contains(answer, "-rw-rw-rw-") {
		t.Error(answer)
	}
}

// Catches creators that disturb each other when some are killed: regions of another size, holes,
// files that nobody can use any more, and more than one that believes to have made the region.
func TestCreatorsKilled(t *testing.T) {
	const creators, rounds, size = 12, 8, 3 << 20
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	for round := range rounds {
		path := filepath.Join(dir, fmt.Sprint(round), "region")
		all := make([]*stranger, creators)
		for i := range all {
			all[i] = meetStranger(t)
		}
		for i, s := range all {
			s.tell("create", path, size-i*1000, 0o600)
		}
		for i, s := range all {
			if i%3 == 0 {
				time.Sleep(time.Duration(random.IntN(500)) * time.Microsecond)
				s.kill()
			}
		}
		made := 0
		for i, s := range all {
			if i%3 == 0 {
				continue
			}
			if answer := s.answer(); answer != "ok" {
				t.Fatalf("round %d: %s", round, answer)
			}
			s.must("store", 1000+10*i, fmt.Sprintf("number %02d", i))
			if s.ask("created") == "true" {
				made++
			}
		}
		if made > 1 {
			t.Errorf("round %d: %d have made it", round, made)
		}
		last := all[creators-1]
		for i := range all {
			if i%3 != 0 {
				if got := last.ask("load", 1000+10*i, 9); got != fmt.Sprintf("number %02d", i) {
					t.Errorf("round %d: %q of %d", round, got, i)
				}
			}
		}
		for _, s := range all {
			s.kill()
		}
		region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: size, Permissions: 0o600, SyncMode: memmapfs.SyncNever})
		if err != nil {
			t.Fatalf("round %d, afterwards: %v", round, err)
		}
		if blocks, length := takenBy(t, path); length != size || blocks < size {
			t.Errorf("round %d: %d bytes with blocks for %d", round, length, blocks)
		}
		region.Close()
	}
}

// Catches blocks that a killed creator leaves behind the end of the file, where nobody finds them.
func TestKilledWhileGrowing(t *testing.T) {
	const large = 64 << 20
	dir := mounted(t, "tmpfs", "size=100m")
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for round := range 60 {
		path := filepath.Join(dir, "region")
		creator := meetStranger(t)
		creator.must("create", path, 4096, 0o600)
		creator.tell("create", path, large, 0o600)
		time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond)
		creator.kill()
		if blocks, size := takenBy(t, path); blocks > (size+4095)/4096*4096 || size != 4096 && size != large {
			t.Errorf("round %d: %d bytes with blocks for %d", round, size, blocks)
		}
		if round%10 == 0 {
			region := regionIn(t, dir, large)
			if blocks, size := takenBy(t, path); size != large || blocks < large {
				t.Errorf("round %d, the next creator: %d bytes with blocks for %d", round, size, blocks)
			}
			region.Close()
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// Catches creators that wait for a lock of the whole file, by whoever and of whatever kind.
func TestStrangersLocks(t *testing.T) {
	needReservation(t)
	path := filepath.Join(commonDir(t), "region")
	config := memmapfs.SharedMemoryConfig{Path: path, Size: 100, Permissions: 0o644, SyncMode: memmapfs.SyncNever}
	region, err := memmapfs.CreateSharedMemory(&config)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	size := int64(100)
	grows := func(what string) {
		t.Helper()
		start := time.Now()
		size += 100_000
		config.Size = size
		other, err := memmapfs.CreateSharedMemory(&config)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		err = errors.Join(region.Refresh(), other.Grow(size+50_000), region.Refresh(), other.Close())
		size += 50_000
		if region.Size() != size || err != nil {
			t.Errorf("%s: %d bytes, want %d; %v", what, region.Size(), size, err)
		}
		if blocks, _ := takenBy(t, path); blocks < size {
			t.Errorf("%s: blocks for %d of %d bytes", what, blocks, size)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: it took %v", what, took)
		}
	}
	stranger := meetStranger(t)
	for _, order := range [][]any{
		{"lockf", path, "write", 0, 0}, {"lockf", path, "read", 0, 0}, {"lockf", path, "write", 0, int64(1 << 40)}, {"flock", path},
	} {
		stranger.must(order...)
		if locked, err := region.TryLock(); err != nil || locked == (order[0] == "flock") {
			t.Errorf("TryLock beside %v: %v %v", order, locked, err)
		} else if locked {
			region.Unlock()
		}
		grows(fmt.Sprint(order))
		stranger.must("close files")
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	own := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &own); err != nil {
		t.Fatal(err)
	}
	grows("a lock of this process")
	file.Close()
}

// Catches creators that somebody can hold up who may only read.
func TestReadersLocks(t *testing.T) {
	needReservation(t)
	reader := meetStranger(t, asNobody(t))
	path := filepath.Join(commonDir(t), "region")
	region, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100, Permissions: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	for _, place := range [][2]int64{{growthByte, 1}, {0, 0}} {
		reader.must("lockf", path, "read", place[0], place[1])
		within(t, 5*time.Second, "growing beside a reader's lock", func() {
			if err := region.Grow(region.Size() + 100_000); err != nil {
				t.Errorf("%v: %v", place, err)
			}
		})
		reader.must("close files")
	}
}

// Catches what python's modules for locks do to a region.
func TestPythonLocks(t *testing.T) {
	needReservation(t)
	testkit.NotFiltered(t) // python3 would end by it
	python, err := exec.LookPath("python3")
	needs(t, "python3", err)
	region := regionIn(t, t.TempDir(), 100)
	for _, call := range []string{"lockf(f,fcntl.LOCK_EX)", "lockf(f,fcntl.LOCK_SH)", "flock(f,fcntl.LOCK_EX)"} {
		program := fmt.Sprintf("import fcntl,sys\nf=open(%q,'r+b')\nfcntl.%s\nprint('held',flush=True)\nsys.stdin.read()", region.Path(), call)
		holder := meet(t, exec.Command(python, "-c", program))
		if answer := holder.answer(); answer != "held" {
			t.Fatal(answer)
		}
		within(t, 5*time.Second, "creating beside "+call, func() {
			if err := region.Grow(region.Size() + 4096); err != nil {
				t.Errorf("%s: %v", call, err)
			}
		})
		if locked, err := region.TryLock(); err != nil || locked == strings.HasPrefix(call, "flock") {
			t.Errorf("TryLock beside %s: %v %v", call, locked, err)
		} else if locked {
			region.Unlock()
		}
		holder.kill()
	}
}

// Catches creators and openers that wait for ever for one that hangs, or do not wait at all, and
// one whose death they do not notice.
func TestCreatorHangs(t *testing.T) {
	t.Parallel()
	region := regionIn(t, t.TempDir(), 100)
	hanging := meetStranger(t)
	hanging.must("lock growth", region.Path())
	if err := hanging.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 4)
	attempts := []func() error{
		func() error {
			_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: region.Path(), Size: 100})
			return err
		},
		func() error { _, err := memmapfs.OpenSharedMemory(region.Path(), false); return err },
		func() error { return region.Grow(1000) },
	}
	start := time.Now()
	for _, attempt := range attempts {
		go func() { results <- attempt() }()
	}
	closing, err := os.OpenFile(region.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	passed, err := memmapfs.SharedMemoryFromFile(region.File())
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("SharedMemoryFromFile: %v %v", passed, err)
	}
	closing.Close()
	for range attempts {
		if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want os.ErrDeadlineExceeded", err)
		}
	}
	if took := time.Since(start); took < 9*time.Second || took > 15*time.Second {
		t.Errorf("it took %v, want 10 s", took)
	}
	go func() { results <- attempts[2]() }()
	time.Sleep(5 * time.Millisecond)
	hanging.kill()
	within(t, 5*time.Second, "growing when the creator is dead", func() {
		if err := <-results; err != nil {
			t.Error(err)
		}
	})
}

// Catches an open that takes part of a region which another process is just writing.
func TestOpenBesideCreator(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "region")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	creator, opener := meetStranger(t), meetStranger(t)
	creator.must("lock growth", path)
	creator.must("truncate", path, 1000)
	opener.tell("open", path, "readonly")
	opener.tell("size")
	for size := 2000; size <= 5000; size += 1000 {
		time.Sleep(3 * time.Millisecond)
		creator.must("truncate", path, size)
	}
	creator.must("close files")
	if got := opener.answer() + opener.answer(); got != "ok5000" {
		t.Errorf("%s, want all 5000 bytes", got)
	}
}

// Catches a full memory disk that is a fault, or that keeps what a failed creation has taken.
func TestFullSharedMemoryDisk(t *testing.T) {
	needReservation(t)
	for _, locked := range []bool{false, true} {
		dir := mounted(t, "tmpfs", "size=1m")
		region := regionIn(t, dir, 100<<10)
		if locked { // creators do without their lock
			stranger := meetStranger(t)
			stranger.must("lockf", region.Path(), "write", 0, 0)
			defer stranger.kill()
		}
		copy(region.Data(), "content")
		_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: region.Path(), Size: 2 << 20})
		if growErr := region.Grow(2 << 20); !errors.Is(err, syscall.ENOSPC) || !errors.Is(growErr, syscall.ENOSPC) {
			t.Errorf("%v, %v, want ENOSPC", err, growErr)
		}
		if _, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: filepath.Join(dir, "new"), Size: 2 << 20}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a new one: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the new one is left: %v", err)
		}
		if _, size := takenBy(t, region.Path()); size != 100<<10 || region.Size() != size || string(region.Data()[:7]) != "content" {
			t.Errorf("the file has %d bytes, the region %d", size, region.Size())
		}
		if !locked {
			if err := region.Grow(900 << 10); err != nil {
				t.Errorf("what there is room for: %v", err)
			}
			for i := range region.Data() {
				region.Data()[i] = 1
			}
		}
		region.Close()
	}
}
