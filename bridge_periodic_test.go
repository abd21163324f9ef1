//go:build go1.25

package memmapfs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/absfs/memmapfs/internal/testkit/watched"
	"github.com/absfs/osfs"
)

// The flusher, in time that passes while everything sleeps and at no other: see testing/synctest. A
// second takes no time, so these tests can demand exact ones.

const flushInterval = 5 * time.Second

// periodic is a filesystem in SyncPeriodic whose clock starts at 0.
type periodic struct {
	*testing.T
	fileSystem *MemMapFS
	observed   *watched.FS
	dir        string
	started    time.Time
	files      []*MappedFile // all that were opened: a handle that is garbage would be forgotten

	mu      sync.Mutex
	takes   time.Duration                             // each flush
	err     error                                     // of each flush
	flushes map[string][]time.Duration                // when they began, by the file's base name
	onError func(p *periodic, name string, err error) // OnSyncError
}

// inPeriodic runs a test, after which nothing may be left that runs or waits.
func inPeriodic(t *testing.T, config Config, test func(p *periodic)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := &periodic{T: t, observed: watched.New(), dir: dir, started: time.Now()}
		p.observed.Sync = p.sync
		p.forget()
		config.SyncMode = SyncPeriodic
		config.OnSyncError = func(name string, err error) {
			if p.onError != nil {
				p.onError(p, name, err)
			}
		}
		p.fileSystem = New(p.observed, &config)
		test(p)
		p.fail(nil)
		p.fileSystem.Close()
		synctest.Wait()
		if !p.rests() {
			t.Error("the flusher does not rest after Close")
		}
		runtime.KeepAlive(p.files)
	})
}

var wholeReadWrite = Config{Mode: ModeReadWrite, MapFullFile: true, SyncInterval: flushInterval}

// sync is the Sync of every file.
func (p *periodic) sync(name string, _ func() error) error {
	p.mu.Lock()
	name = filepath.Base(name)
	p.flushes[name] = append(p.flushes[name], time.Since(p.started))
	takes, err := p.takes, p.err
	p.mu.Unlock()
	time.Sleep(takes)
	return err
}

// fail lets every flush from now on fail with err, or succeed.
func (p *periodic) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// forget forgets the flushes so far.
func (p *periodic) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushes = make(map[string][]time.Duration)
}

// until sleeps until a second of the test, and until all is done that is to be done then.
func (p *periodic) until(second float64) {
	time.Sleep(at(second) - time.Since(p.started))
	synctest.Wait()
}

func at(second float64) time.Duration { return time.Duration(second * float64(time.Second)) }

// expect fails the test unless the file was flushed at these seconds, and at no others.
func (p *periodic) expect(name string, want ...float64) {
	p.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.EqualFunc(p.flushes[name], want, func(flush time.Duration, second float64) bool { return flush == at(second) }) {
		p.Errorf("at %v, %s was flushed at %v, want the seconds %v", time.Since(p.started), name, p.flushes[name], want)
	}
}

// rests reports whether the flusher has no timer and no goroutine.
func (p *periodic) rests() bool {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	p.fileSystem.handles.flusher.mu.Lock()
	defer p.fileSystem.handles.flusher.mu.Unlock()
	return p.fileSystem.handles.flusher.timer == nil && len(p.fileSystem.handles.flusher.due) == 0 && !strings.Contains(string(stacks), "(*flusher)")
}

// open opens a file of three pages, mapped, whose pages may be stored to and are not dirty.
func (p *periodic) open(name string) *MappedFile {
	p.Helper()
	native := filepath.Join(p.dir, name)
	data := make([]byte, 3*pageBytes)
	if err := os.WriteFile(native, data, 0o600); err != nil {
		p.Fatal(err)
	}
	file, err := p.fileSystem.OpenFile(osfs.FromNative(native), os.O_RDWR, 0)
	if err != nil {
		p.Fatal(err)
	}
	f := file.(*MappedFile)
	p.files = append(p.files, f)
	f.View(0, 1, func([]byte) error { return nil })
	p.write(f)
	if err := f.Sync(); err != nil {
		p.Fatal(err)
	}
	permit(f)
	p.forget()
	return f
}

// permit has the next writes to the first two pages of a file be stores, as they are after a write
// through the file, and no flush since.
func permit(f *MappedFile) {
	f.maps.windows.each(func(m *mapping) {
		m.written.add(0, 1)
		m.resident.add(0, 2)
	})
}

func (p *periodic) write(f *MappedFile) {
	p.Helper()
	if _, err := f.WriteAt([]byte("bytes"), 0); err != nil {
		p.Fatal(err)
	}
}

// waysToDirty are the ways to write to a file of which the flusher has to learn.
var waysToDirty = map[string]func(f *MappedFile) error{
	"WriteAt, stored": func(f *MappedFile) error {
		f.unsynced.stored.Store(false)
		permit(f)
		_, err := f.WriteAt([]byte("bytes"), 0)
		if !f.unsynced.stored.Load() {
			return errors.New("nothing was stored through the map")
		}
		return err
	},
	"WriteAt, first to the page": func(f *MappedFile) error {
		_, err := f.WriteAt([]byte("bytes"), 2*pageBytes)
		return err
	},
	"Write": func(f *MappedFile) error {
		_, err := f.Write([]byte("bytes"))
		return err
	},
	"WriteString": func(f *MappedFile) error {
		_, err := f.WriteString("bytes")
		return err
	},
	"ReadFrom": func(f *MappedFile) error {
		_, err := f.ReadFrom(strings.NewReader("bytes"))
		return err
	},
	"View":     func(f *MappedFile) error { return f.View(0, 1, func(b []byte) error { b[0]++; return nil }) },
	"Truncate": func(f *MappedFile) error { return f.Truncate(5) },
	"growth": func(f *MappedFile) error {
		_, err := f.WriteAt([]byte("bytes"), 10*pageBytes)
		return err
	},
}

// Catches a write that does not wake the flusher, a flush that comes late or again and again, and a
// timer for nothing.
func TestPeriodicFlushesOnce(t *testing.T) {
	skipWithoutMaps(t)
	for name, dirty := range waysToDirty {
		t.Run(name, func(t *testing.T) {
			inPeriodic(t, wholeReadWrite, func(p *periodic) {
				f := p.open("a")
				p.until(20)
				p.forget() // what open has written
				if !p.rests() {
					p.Error("the flusher does not rest before anything is written")
				}
				if err := dirty(f); err != nil {
					p.Fatal(err)
				}
				p.until(24.9)
				p.expect("a")
				p.until(25.1)
				p.expect("a", 25)
				if !p.rests() {
					p.Error("the flusher does not rest when nothing is dirty any more")
				}
				p.until(40)
				if err := dirty(f); err != nil {
					p.Fatal(err)
				}
				p.until(1000)
				p.expect("a", 25, 45)
			})
		})
	}
}

// Catches a zero SyncInterval that is taken at its word.
func TestPeriodicDefaultInterval(t *testing.T) {
	inPeriodic(t, Config{Mode: ModeReadWrite}, func(p *periodic) {
		f := p.open("a")
		p.until(20)
		p.forget()
		p.write(f)
		p.until(100)
		p.expect("a", 25)
	})
}

// Catches a flusher that forgets bytes stored through a slice from Data, of which it cannot know: it has
// to flush as long as the slice is valid, and no longer.
func TestPeriodicFlushesData(t *testing.T) {
	skipWithoutMaps(t)
	for name, end := range map[string]func(f *MappedFile) error{
		"Close":                (*MappedFile).Close,
		"Truncate":             func(f *MappedFile) error { return f.Truncate(0) },
		"RemapAfterTruncation": (*MappedFile).RemapAfterTruncation,
	} {
		t.Run(name, func(t *testing.T) {
			inPeriodic(t, wholeReadWrite, func(p *periodic) {
				f := p.open("a")
				p.until(20)
				p.forget()
				f.Data()[0]++
				p.until(36)
				p.expect("a", 25, 30, 35)
				if err := end(f); err != nil {
					p.Fatal(err)
				}
				p.until(50)
				if !p.rests() {
					p.Error("the flusher does not rest after the slice is gone")
				}
			})
		})
	}
}

// Catches an interval that is stretched by later writes, by other files or by a flush under way: each
// write has a flush that begins after it, no later than one interval.
func TestPeriodicKeepsInterval(t *testing.T) {
	skipWithoutMaps(t)
	for _, takes := range []time.Duration{0, time.Second} {
		for seed := range uint64(10) {
			t.Run(fmt.Sprint("flushes take ", takes, ", seed ", seed), func(t *testing.T) {
				inPeriodic(t, wholeReadWrite, func(p *periodic) {
					random := rand.New(rand.NewPCG(seed, 0))
					files := []*MappedFile{p.open("0"), p.open("1"), p.open("2")}
					p.takes = takes
					writes := make(map[string][]time.Duration)
					for range 100 {
						time.Sleep(time.Duration(random.IntN(2500)+1) * time.Millisecond)
						i := random.IntN(len(files))
						if random.IntN(2) == 0 {
							p.write(files[i])
						} else if err := files[i].View(0, 1, func(b []byte) error { b[0]++; return nil }); err != nil {
							p.Fatal(err)
						}
						name := fmt.Sprint(i)
						writes[name] = append(writes[name], time.Since(p.started))
					}
					time.Sleep(10 * flushInterval)
					synctest.Wait()
					if !p.rests() {
						p.Error("the flusher does not rest at the end")
					}
					p.mu.Lock()
					defer p.mu.Unlock()
					flushes := 0
					for name, times := range writes {
						flushes += len(p.flushes[name])
						for _, write := range times {
							// Flushes of other files, one after the other, may come between.
							late := write + flushInterval + time.Duration(len(files))*takes
							if !slices.ContainsFunc(p.flushes[name], func(flush time.Duration) bool { return flush >= write && flush <= late }) {
								p.Errorf("written at %v, flushed at %v", write, p.flushes[name])
							}
						}
					}
					if most := len(files) * (int(time.Since(p.started)/flushInterval) + 1); flushes > most {
						p.Errorf("%d flushes, at most %d were needed", flushes, most)
					}
				})
			})
		}
	}
}

// Catches a flush that takes the note away of bytes stored while it ran: it may not have seen them.
func TestPeriodicStoreDuringFlush(t *testing.T) {
	skipWithoutMaps(t)
	for name, dirty := range waysToDirty {
		t.Run(name, func(t *testing.T) {
			inPeriodic(t, wholeReadWrite, func(p *periodic) {
				f := p.open("a")
				p.until(20)
				p.forget()
				p.takes = 2 * time.Second
				p.write(f)
				p.until(26)
				p.expect("a", 25)
				if err := dirty(f); err != nil {
					p.Fatal(err)
				}
				p.until(100)
				p.expect("a", 25, 31)
			})
		})
	}
}

// Catches bytes stored in a View that are taken for none where the kernel does not tell what is dirty
// (cachestat(2) is missing before Linux 6.5).
func TestPeriodicViewWithoutCachestat(t *testing.T) {
	skipWithoutMaps(t)
	before := system.dirtyPages
	system.dirtyPages = func(uintptr) (int64, error) { return 0, errors.ErrUnsupported }
	t.Cleanup(func() { system.dirtyPages = before })
	inPeriodic(t, wholeReadWrite, func(p *periodic) {
		f := p.open("a")
		p.until(20)
		p.forget()
		if err := f.View(0, 1, func(b []byte) error { b[0]++; return nil }); err != nil {
			p.Fatal(err)
		}
		p.until(100)
		p.expect("a", 25)
	})
}

// Catches bytes stored in a View that are noted only when it ends, which may be much later.
func TestPeriodicFlushesInsideView(t *testing.T) {
	skipWithoutMaps(t)
	inPeriodic(t, wholeReadWrite, func(p *periodic) {
		f := p.open("a")
		p.until(20)
		p.forget()
		err := f.View(0, 1, func(b []byte) error {
			b[0]++
			p.until(26)
			p.expect("a", 25)
			b[0]++
			p.until(31)
			p.expect("a", 25, 30)
			b[0]++
			return nil
		})
		if err != nil {
			p.Fatal(err)
		}
		p.until(100)
		p.expect("a", 25, 30, 35)
	})
}

// Catches a failed flush after which the flusher believes that nothing is dirty, or that it has a timer
// when it has none.
func TestPeriodicGoesOnAfterFailure(t *testing.T) {
	failure := errors.New("the disk has failed")
	t.Run("in the background", func(t *testing.T) {
		inPeriodic(t, wholeReadWrite, func(p *periodic) {
			f := p.open("a")
			p.until(20)
			p.forget()
			p.fail(failure)
			p.write(f)
			p.until(32)
			p.expect("a", 25, 30)
			p.fail(nil)
			p.until(100)
			p.expect("a", 25, 30, 35)
			if err := f.Sync(); !errors.Is(err, failure) {
				p.Errorf("Sync: %v, want the error of the background", err)
			}
			if err := f.Sync(); err != nil {
				p.Errorf("Sync has returned the error twice: %v", err)
			}
		})
	})
	for name, first := range map[string]func(p *periodic, f *MappedFile){
		"in a Sync of a clean file": func(*periodic, *MappedFile) {},
		"in a Sync of a dirty file": (*periodic).write,
	} {
		t.Run(name, func(t *testing.T) {
			inPeriodic(t, wholeReadWrite, func(p *periodic) {
				f := p.open("a")
				p.until(20)
				first(p, f)
				p.fail(failure)
				if err := f.Sync(); !errors.Is(err, failure) {
					p.Errorf("Sync: %v, want its error", err)
				}
				p.fail(nil)
				p.forget()
				p.until(26)
				p.expect("a", 25) // what Sync could not
				p.write(f)
				p.until(100)
				p.expect("a", 25, 31)
				if err := f.Close(); err != nil {
					p.Errorf("Close has returned the error of Sync again: %v", err)
				}
			})
		})
	}
}

// Catches an OnSyncError that ends its goroutine, as FailNow of a test does, and with it the program or all flushes.
func TestPeriodicOnSyncErrorEndsItsGoroutine(t *testing.T) {
	skipWithoutMaps(t)
	inPeriodic(t, wholeReadWrite, func(p *periodic) {
		var names []string
		for i := range 2 * fewFlushes {
			names = append(names, fmt.Sprint(i))
		}
		for _, name := range names {
			p.open(name)
		}
		p.until(20)
		p.forget()
		p.onError = func(*periodic, string, error) { runtime.Goexit() }
		p.fail(errors.New("the disk has failed"))
		for _, f := range p.files {
			p.write(f)
		}
		p.until(32)
		p.fail(nil)
		p.until(100)
		for _, name := range names {
			p.expect(name, 25, 30, 35)
		}
	})
}

// Catches a failure that is reported late, with a lock held, in the wrong words, or too often.
func TestPeriodicOnSyncError(t *testing.T) {
	skipWithoutMaps(t)
	failure := errors.New("the disk has failed")
	for _, test := range []struct {
		name   string
		within func(f *MappedFile) error
		want   error
	}{
		{"Sync", (*MappedFile).Sync, failure},
		{"Close", (*MappedFile).Close, failure},
		{"SyncRange", func(f *MappedFile) error { return f.SyncRange(0, 5) }, failure},
		{"View", func(f *MappedFile) error { return f.View(0, 1, func([]byte) error { return nil }) }, nil},
	} {
		t.Run(test.name+" inside the call", func(t *testing.T) {
			inPeriodic(t, wholeReadWrite, func(p *periodic) {
				f := p.open("a")
				p.until(20)
				var reports []time.Duration
				p.onError = func(p *periodic, name string, err error) {
					reports = append(reports, time.Since(p.started))
					if name != f.Name() || !errors.Is(err, failure) {
						p.Errorf("OnSyncError(%q, %v), want %q and the error of the flush", name, err, f.Name())
					}
					p.fail(nil)
					if err := test.within(f); !errors.Is(err, test.want) {
						p.Errorf("%s: %v, want %v", test.name, err, test.want)
					}
				}
				p.fail(failure)
				p.write(f)
				p.until(100)
				if !slices.Equal(reports, []time.Duration{at(25)}) {
					p.Errorf("OnSyncError was called at %v, want 25 s", reports)
				}
			})
		})
	}
	t.Run("and the next Sync", func(t *testing.T) {
		inPeriodic(t, wholeReadWrite, func(p *periodic) {
			f := p.open("a")
			p.until(20)
			reports := 0
			p.onError = func(p *periodic, _ string, _ error) { reports++; p.fail(nil) }
			p.fail(failure)
			p.write(f)
			p.until(100)
			for i, want := range []error{failure, nil} {
				if err := f.Sync(); !errors.Is(err, want) {
					p.Errorf("%d. Sync: %v, want %v", i+1, err, want)
				}
			}
			if reports != 1 {
				p.Errorf("OnSyncError was called %d times, want 1", reports)
			}
			p.fail(failure)
			if err := f.Sync(); !errors.Is(err, failure) || reports != 1 {
				p.Errorf("Sync failed with %v and OnSyncError was called: it is for the background", err)
			}
		})
	})
}

// Catches a timer that outlives the last file, and a Close that leaves to it what it should do itself.
func TestPeriodicStopsWithLastFile(t *testing.T) {
	inPeriodic(t, wholeReadWrite, func(p *periodic) {
		a, b := p.open("a"), p.open("b")
		p.until(20)
		p.forget()
		p.write(a)
		p.write(b)
		p.until(21)
		if err := a.Close(); err != nil {
			p.Fatal(err)
		}
		p.expect("a", 21)
		if p.rests() {
			p.Error("the flusher rests while a file is dirty")
		}
		p.until(22)
		if err := b.Close(); err != nil {
			p.Fatal(err)
		}
		p.expect("b", 22)
		if !p.rests() {
			p.Error("the flusher does not rest after the last file")
		}
		p.until(100)
		p.expect("a", 21)
		p.expect("b", 22)
	})
}

// Catches a MemMapFS.Close that sits out the interval, or flushes nothing.
func TestPeriodicCloseOfFileSystem(t *testing.T) {
	skipWithoutMaps(t)
	inPeriodic(t, wholeReadWrite, func(p *periodic) {
		a, b := p.open("a"), p.open("b")
		p.until(20)
		p.forget()
		p.write(a)
		b.Data()[0]++
		p.until(21)
		if err := p.fileSystem.Close(); err != nil {
			p.Fatal(err)
		}
		p.until(21)
		p.expect("a", 21)
		p.expect("b", 21)
		if !p.rests() {
			p.Error("the flusher does not rest after Close")
		}
	})
}

// Catches a MemMapFS.Close that returns while OnSyncError still runs: what that uses may be gone then.
func TestPeriodicCloseWaitsForOnSyncError(t *testing.T) {
	inPeriodic(t, wholeReadWrite, func(p *periodic) {
		f := p.open("a")
		p.until(20)
		p.onError = func(p *periodic, _ string, _ error) {
			p.fail(nil)
			p.until(35)
		}
		p.fail(errors.New("the disk has failed"))
		p.write(f)
		p.until(26)
		p.fileSystem.Close()
		if now := time.Since(p.started); now != at(35) {
			p.Errorf("Close returned at %v, want 35 s", now)
		}
	})
}

// Catches a write that ends after the file was closed and starts a timer for it, which nobody stops.
func TestPeriodicWriteDuringClose(t *testing.T) {
	skipWithoutMaps(t)
	for name, write := range map[string]func(f *MappedFile){
		"WriteAt": func(f *MappedFile) { f.WriteAt([]byte("bytes"), 0) },
		"View":    func(f *MappedFile) { f.View(0, 1, func([]byte) error { time.Sleep(10 * time.Second); return nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			inPeriodic(t, wholeReadWrite, func(p *periodic) {
				p.observed.WriteAt = func(_ string, write func() (int, error)) (int, error) {
					n, err := write()
					time.Sleep(10 * time.Second)
					return n, err
				}
				f := p.open("a")
				f.maps.forget()
				f.maps.endTerm() // so that WriteAt goes to the wrapped file
				p.until(40)
				go write(f)
				p.until(45)
				f.Close()
				p.until(50.1)
				if !p.rests() {
					p.Error("the flusher does not rest: it has a timer for a closed file")
				}
				started := time.Now()
				p.fileSystem.Close()
				if waited := time.Since(started); waited != 0 {
					p.Errorf("Close of the filesystem took %v", waited)
				}
			})
		})
	}
}

// Catches a timer that is lost track of when a file is closed, and another one written to, in the moment
// in which the timer fires.
func TestPeriodicCloseAsTheTimerFires(t *testing.T) {
	// On one processor this goroutine, which the same moment wakes, most often runs before the flush.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for i := range 100 {
		inPeriodic(t, wholeReadWrite, func(p *periodic) {
			a, b := p.open("a"), p.open("b")
			p.until(20)
			p.forget()
			p.write(a)
			time.Sleep(flushInterval)
			a.Close()
			p.write(b)
			if i%2 == 0 {
				synctest.Wait()
			}
			started := time.Now()
			p.fileSystem.Close()
			if waited := time.Since(started); waited != 0 {
				p.Fatalf("Close of the filesystem took %v", waited)
			}
			if len(p.flushes["b"]) == 0 {
				p.Fatal("a file was not flushed at all")
			}
		})
	}
}

// Catches a SyncAsync that waits for the interval, or for the flush.
func TestPeriodicSyncAsync(t *testing.T) {
	inPeriodic(t, wholeReadWrite, func(p *periodic) {
		f := p.open("a")
		p.until(20)
		p.forget()
		p.takes = time.Second
		p.write(f)
		p.until(22)
		if err := f.SyncAsync(); err != nil {
			p.Fatal(err)
		}
		if now := time.Since(p.started); now != at(22) {
			p.Errorf("SyncAsync returned at %v, want 22 s", now)
		}
		p.until(100)
		p.expect("a", 22)
	})
}
