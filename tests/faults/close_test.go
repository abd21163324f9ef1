package faults_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// TestCloseRaces catches a Close that lets another call crash, hang, or end with half a result and no
// error, that loses a completed write, or that leaves a mapping, a descriptor or a goroutine behind.
func TestCloseRaces(t *testing.T) {
	rows := map[string]bool{
		"read-only": true, "read-write": true, "copy-on-write": true, "execute": true,
		"read-only windows of one page": true, "read-write windows of 64 KiB": true,
		"copy-on-write windows of 10000 bytes": true, "read-write sync periodic": true,
	}
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			rounds := 300
			switch {
			case testing.Short() && testkit.Emulated:
				rounds = 50
			case testing.Short() || testkit.RaceDetector:
				rounds = 150
			}
			race := newCloseRace(t, m)
			round := 0
			for ; (round < rounds || race.interrupted.Load() == 0 && round < 20*rounds) && !t.Failed(); round++ {
				race.run(round)
			}
			testkit.Report(t, "%d closes beside %d calls, of which %d ended with a result, %d with fs.ErrClosed and %d of these were under way",
				round, race.completed.Load()+race.refused.Load(), race.completed.Load(), race.refused.Load(), race.interrupted.Load())
			if race.interrupted.Load() == 0 {
				t.Error("no call was under way at a Close: the test tests nothing")
			}
		})
	}, func(m testkit.Mode) bool { return rows[m.Name] })
}

// The file of a closeRace: a head that nobody writes to, then a page for each way to write.
var (
	raceHead  = 40 * testkit.PageSize
	racePages = int64(4)
	raceSize  = raceHead + racePages*testkit.PageSize
)

// closeRace lets every method of a file run beside its Close.
type closeRace struct {
	t      *testing.T
	m      testkit.Mode
	name   string
	base   absfs.FileSystem
	random *rand.Rand

	completed, refused, interrupted atomic.Int64
}

func newCloseRace(t *testing.T, m testkit.Mode) *closeRace {
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.PatternFrom(0, int(raceSize)))
	return &closeRace{t: t, m: m, name: name, base: testkit.PlainFileSystem(t), random: rand.New(rand.NewPCG(1, 2))}
}

// call is one method call. It returns the call's error, and what is wrong with a result without one.
type call func() (err error, wrong string)

// must is a call whose only result is its error.
func must(method func() error) call {
	return func() (error, string) { return method(), "" }
}

// except is a call that may also fail with that error.
func except(allowed error, method func() error) call {
	return func() (error, string) {
		err := method()
		if errors.Is(err, allowed) {
			err = nil
		}
		return err, ""
	}
}

func (r *closeRace) run(round int) {
	t := r.t
	fileSystem := memmapfs.New(r.base, r.m.Config)
	opened, err := fileSystem.OpenFile(r.name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := opened.(*memmapfs.MappedFile)
	if round%4 != 0 {
		buffer := make([]byte, testkit.PageSize)
		for off := int64(0); off < raceSize; off += testkit.PageSize { // brings the windows
			file.ReadAt(buffer, off)
		}
		testkit.ForceMap(file)
	}

	// What a write that has ended well has written must be in the file afterwards.
	var mu sync.Mutex // guards written
	written := make(map[int64][]byte)
	value := []byte(fmt.Sprintf("round %d.", round))
	wrote := func(off int64) {
		mu.Lock()
		defer mu.Unlock()
		written[off] = value
	}
	count := func(n, want int, err error) (error, string) {
		if err == nil && n != want {
			return nil, fmt.Sprintf("%d of %d bytes", n, want)
		}
		return err, ""
	}
	calls := map[string]call{
		"ReadAt": func() (error, string) {
			p := make([]byte, raceHead)
			n, err := file.ReadAt(p, 0)
			if err == nil && testkit.NotPattern(p, 0, raceHead) >= 0 {
				return nil, "wrong bytes"
			}
			return count(n, len(p), err)
		},
		"WriteAt": func() (error, string) {
			n, err := file.WriteAt(value, raceHead)
			if err == nil {
				wrote(raceHead)
			}
			return count(n, len(value), err)
		},
		"View": func() (error, string) {
			wrong := "the function was not called"
			err := file.View(0, raceHead, func(b []byte) error {
				wrong = ""
				if testkit.NotPattern(b, 0, raceHead) >= 0 {
					wrong = "wrong bytes"
				}
				return nil
			})
			return err, wrong
		},
		"View to store": func() (error, string) {
			off := raceHead + testkit.PageSize
			err := file.View(off, int64(len(value)), func(b []byte) error {
				if r.m.ReadWrite() {
					copy(b, value)
				}
				return nil
			})
			if err == nil && r.m.ReadWrite() {
				wrote(off)
			}
			return err, ""
		},
		"Seek": func() (error, string) {
			_, err := file.Seek(0, io.SeekCurrent)
			return err, ""
		},
		"Stat": func() (error, string) {
			info, err := file.Stat()
			if testkit.OnWine && err == nil && info.Size() == raceSize+1 {
				return nil, "" // it makes a section by writing a byte behind the file
			}
			if err == nil && info.Size() != raceSize {
				return nil, fmt.Sprintf("size %d", info.Size())
			}
			return err, ""
		},
		"Data":        must(func() error { file.Data(); return nil }),
		"Mapped":      must(func() error { file.Mapped(); return nil }),
		"Name":        must(func() error { _ = file.Name(); return nil }),
		"Sync":        must(file.Sync),
		"SyncRange":   must(func() error { return file.SyncRange(raceHead, 2*testkit.PageSize) }),
		"SyncAsync":   must(file.SyncAsync),
		"Remap":       must(file.RemapAfterTruncation),
		"Truncate":    except(errors.ErrUnsupported, func() error { return testkit.UnlessHeld(file.Truncate(raceSize)) }),
		"by name":     must(func() error { return testkit.UnlessHeld(fileSystem.Truncate(r.name, raceSize)) }),
		"Sequential":  except(errors.ErrUnsupported, file.AdviseSequential),
		"Random":      except(errors.ErrUnsupported, file.AdviseRandom),
		"WillNeed":    except(errors.ErrUnsupported, file.AdviseWillNeed),
		"DontNeed":    except(errors.ErrUnsupported, file.AdviseDontNeed),
		"SyscallConn": except(errors.ErrUnsupported, func() error { _, err := file.SyscallConn(); return err }),
		"protection": must(func() error {
			file.EnableSIGBUSProtection()
			file.DisableSIGBUSProtection()
			return nil
		}),
	}

	// The position belongs to one call a round, or nobody could tell which bytes are the right ones.
	at := raceHead + 2*testkit.PageSize
	switch round % 5 {
	case 0:
		pos := int64(0)
		calls["Read"] = func() (error, string) {
			p := make([]byte, raceHead/8)
			n, err := file.Read(p)
			if err == nil && testkit.NotPattern(p[:n], pos, raceHead) >= 0 {
				return nil, "wrong bytes"
			}
			pos += int64(n)
			return count(min(n, 1), 1, err) // it may end early, as an io.Reader may; the next one says why
		}
	case 1:
		calls["WriteTo"] = func() (error, string) {
			wrong := ""
			n, err := file.WriteTo(&testkit.PatternWriter{Check: func(p []byte, off int64) {
				if off < raceHead && testkit.NotPattern(p[:min(int64(len(p)), raceHead-off)], off, raceHead) >= 0 {
					wrong = "wrong bytes"
				}
			}})
			if err == nil && n != raceSize {
				wrong = fmt.Sprintf("%d bytes", n)
			}
			file.Seek(0, io.SeekStart)
			return err, wrong
		}
	default:
		if _, err := file.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		write := []func() (int, error){
			func() (int, error) { return file.Write(value) },
			func() (int, error) { return file.WriteString(string(value)) },
			func() (int, error) {
				n, err := file.ReadFrom(bytes.NewReader(value))
				return int(n), err
			},
		}[round%5-2]
		calls["write at the position"] = func() (error, string) {
			n, err := write()
			if err == nil {
				wrote(at)
				at += int64(len(value))
			}
			return count(n, len(value), err)
		}
	}

	var closing atomic.Bool
	var goroutines testkit.Workers
	closed := make(chan error, 3)
	start := make(chan struct{})
	closeAfter := time.Duration(r.random.IntN(200)) * time.Microsecond
	for _, closer := range []func() error{file.Close, file.Close, fileSystem.Close} {
		goroutines.Start(func() {
			<-start
			for begun := time.Now(); time.Since(begun) < closeAfter; {
				runtime.Gosched()
			}
			closing.Store(true)
			closed <- closer()
		})
	}
	for name, call := range calls {
		goroutines.Start(func() {
			<-start
			for range 4 {
				before := closing.Load()
				err, wrong := call()
				var path *fs.PathError
				switch {
				case err == nil && wrong != "":
					t.Errorf("%s beside Close: %s", name, wrong)
				case err == nil:
					r.completed.Add(1)
				case errors.Is(err, fs.ErrClosed) && errors.As(err, &path):
					r.refused.Add(1)
					if !before {
						r.interrupted.Add(1)
					}
					return
				default:
					t.Errorf("%s beside Close: %T %v", name, err, err)
				}
			}
		})
	}
	close(start)
	testkit.MustFinish(t, "a call beside Close", goroutines.Wait)

	// Close gives nil once. That of the filesystem gives nil, having found the file closed or closed it.
	succeeded := 0
	for range 3 {
		if err := <-closed; err == nil {
			succeeded++
		} else if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Close: %v", err)
		}
	}
	if succeeded < 1 || succeeded > 2 {
		t.Errorf("%d of three closes gave nil", succeeded)
	}
	// The garbage collector would close and unmap in the end what is left.
	dir := filepath.Dir(osfs.ToNative(r.name))
	if left := append(testkit.MappedUnder(t, dir), testkit.OpenUnder(t, dir)...); len(left) > 0 {
		t.Errorf("left after Close: %v", left)
	}
	if !r.m.CopyOnWrite() {
		content := testkit.ReadNative(t, r.name)
		for off, value := range written {
			if !bytes.HasPrefix(content[off:], value) {
				t.Errorf("lost what was written at %d before Close: %q, want %q", off, content[off:off+int64(len(value))], value)
			}
		}
	}
}

// TestCloseRacesDirectory is TestCloseRaces for the methods of a directory. (On a file they would make
// its Seek fail: package os remembers that the file was read as a directory.)
func TestCloseRacesDirectory(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		for i := range 20 {
			testkit.WriteFile(t, dir, fmt.Sprint(i), nil)
		}
		fileSystem := memmapfs.New(testkit.PlainFileSystem(t), nil)
		rounds := 1000
		if testing.Short() || testkit.RaceDetector {
			rounds = 200
		}
		var completed, refused atomic.Int64
		for round := 0; round < rounds && !t.Failed(); round++ {
			directory := testkit.MustOpenMapped(t, fileSystem, osfs.FromNative(dir), os.O_RDONLY)
			calls := map[string]func() error{
				"Readdir":      func() error { _, err := directory.Readdir(1); return err },
				"Readdirnames": func() error { _, err := directory.Readdirnames(1); return err },
				"ReadDir":      func() error { _, err := directory.ReadDir(1); return err },
				"Stat":         func() error { _, err := directory.Stat(); return err },
			}
			if runtime.GOOS != "windows" { // which refuses to
				calls["Sync"] = directory.Sync
			}
			var goroutines testkit.Workers
			for name, call := range calls {
				goroutines.Start(func() {
					for range 4 {
						err := call()
						var path *fs.PathError
						switch {
						case err == nil, err == io.EOF:
							completed.Add(1)
						case errors.Is(err, fs.ErrClosed) && errors.As(err, &path):
							refused.Add(1)
						default:
							t.Errorf("%s of a directory beside Close: %T %v", name, err, err)
						}
					}
				})
			}
			goroutines.Start(func() {
				if err := directory.Close(); err != nil {
					t.Error("Close:", err)
				}
			})
			testkit.MustFinish(t, "a call beside Close of a directory", goroutines.Wait)
		}
		testkit.Report(t, "%d closes of a directory beside %d calls that ended with a result and %d with fs.ErrClosed",
			rounds, completed.Load(), refused.Load())
	})
}

// TestStaleSlices catches addresses given back too early: a slice from Data that outlives its map must
// fault for good, and may never show the bytes of a file that was mapped later.
func TestStaleSlices(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		fileSystem := memmapfs.New(testkit.PlainFileSystem(t), testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
		const sizes = 5
		var secrets [sizes]string // other files, of the sizes of those that end first
		for i := range secrets {
			secrets[i] = testkit.WriteFile(t, dir, fmt.Sprint("secret ", i), bytes.Repeat([]byte("s"), (i+1)*int(testkit.PageSize)))
		}

		// Each way to end the life of a slice.
		endings := map[string]func(file *memmapfs.MappedFile) error{
			"Close":                func(file *memmapfs.MappedFile) error { return file.Close() },
			"Truncate":             func(file *memmapfs.MappedFile) error { return file.Truncate(testkit.PageSize) },
			"RemapAfterTruncation": func(file *memmapfs.MappedFile) error { return file.RemapAfterTruncation() },
		}
		type staleSlice struct {
			ending string
			data   []byte
		}
		var stale []staleSlice
		for ending, end := range endings {
			for i := range 60 {
				name := testkit.WriteFile(t, dir, fmt.Sprint(ending, i), testkit.PatternFrom(0, (i%sizes+1)*int(testkit.PageSize)))
				file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
				data := file.Data()
				if testkit.FaultsWhenRead(data) {
					t.Fatal("a slice faults while it is valid")
				}
				if err := end(file); err != nil {
					t.Fatal(err)
				}
				stale = append(stale, staleSlice{ending, data})
				if ending != "Close" {
					testkit.ForceMap(file) // the new map is somewhere else
					file.Close()
				}
			}
		}

		others, faults := 5000, 0
		if testing.Short() {
			others = 1000
		}
		for other := range others {
			file := testkit.MustOpenMapped(t, fileSystem, secrets[other%sizes], os.O_RDONLY)
			if other%2 == 0 {
				testkit.ForceMap(file)
			} else if err := file.View(0, 1, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
			for _, slice := range stale[other%10*18 : other%10*18+18] {
				if !testkit.FaultsWhenRead(slice.data) {
					t.Fatalf("after %s and %d other files a slice can be read and begins with %q", slice.ending, other, slice.data[:8])
				}
				faults++
			}
			file.Close()
			if other%50 == 0 {
				runtime.GC()
			}
		}
		testkit.Report(t, "%d loads from %d stale slices beside %d other files, all faults", faults, len(stale), others)
	})
}

// ownedFile offers the descriptor of a file of its own.
type ownedFile struct {
	absfs.File
	descriptor *os.File
}

func (f ownedFile) SyscallConn() (syscall.RawConn, error) { return f.descriptor.SyscallConn() }

type ownedFiles struct {
	absfs.FileSystem
	opened *os.File
}

func (o *ownedFiles) OpenFile(name string, flags int, perm fs.FileMode) (absfs.File, error) {
	file, err := o.FileSystem.OpenFile(name, flags, perm)
	if err != nil {
		return nil, err
	}
	o.opened, err = os.OpenFile(osfs.ToNative(name), flags, perm)
	return ownedFile{file, o.opened}, err
}

// TestDescriptorClosedBelow catches an error that nobody can tell from others where the wrapped file is closed
// under the handle, by its owner or by a Close that runs beside.
func TestDescriptorClosedBelow(t *testing.T) {
	testkit.NeedMaps(t)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(1<<20))
		base, err := osfs.NewFS()
		if err != nil {
			t.Fatal(err)
		}
		files := &ownedFiles{FileSystem: base}
		file := testkit.AsMapped(t, testkit.MustOpen(t, m.Over(t, files), name, os.O_RDWR))
		if file.Data() == nil {
			t.Fatal("the file cannot be mapped")
		}
		if err := files.opened.Close(); err != nil {
			t.Fatal(err)
		}
		if err := file.PunchHole(0, 512<<10); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("PunchHole: %v", err)
		}
		file.Close()
	}, testkit.Mode.ReadWrite)
}
