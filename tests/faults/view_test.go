package faults_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// TestViewFault catches a View that hides a fault, or tells nothing about it, or the wrong offset.
func TestViewFault(t *testing.T) {
	rows := map[string]bool{
		"read-only": true, "read-write": true, "copy-on-write": true, "execute": true,
		"read-only windows of 64 KiB": true, "read-write windows of one page": true, "copy-on-write windows of one page": true,
	}
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			dir := testkit.TestDir(t)
			faults := 0
			for _, store := range []bool{false, true} {
				if store && !(m.ReadWrite() || m.CopyOnWrite() && !m.Windowed()) {
					continue
				}
				for _, wanted := range []int64{3*testkit.PageSize + 1, 5 * testkit.PageSize, testkit.ShrinkableSize - 1} {
					file := testkit.NewShrinkable(t, dir, m.Config)
					err := file.View(testkit.PageSize, testkit.ShrinkableSize-testkit.PageSize, func(b []byte) error {
						file.Resize(3 * testkit.PageSize)
						if b[0] != testkit.PatternAt(testkit.PageSize) || b[2*testkit.PageSize-1] != testkit.PatternAt(3*testkit.PageSize-1) {
							t.Error("the bytes that remain are not readable, or wrong")
						}
						if store {
							b[wanted-testkit.PageSize] = 1
						} else {
							testkit.Loaded.Store(uint32(b[wanted-testkit.PageSize]))
						}
						t.Error("an access past the end of the file goes through")
						return nil
					})
					var path *fs.PathError
					if !errors.Is(err, memmapfs.ErrSIGBUS) || !errors.As(err, &path) || path.Op != "view" || path.Path != file.Name() {
						t.Errorf("View: %T %v, want a *fs.PathError, op view, that wraps ErrSIGBUS", err, err)
					} else if testkit.Emulated && runtime.GOOS == "linux" {
						// qemu tells no address, so the offset is that of the page
					} else if !regexp.MustCompile(fmt.Sprintf(`\b%d\b`, wanted)).MatchString(path.Err.Error()) {
						t.Errorf("View: %v, want the offset %d in the text", err, wanted)
					}
					faults++

					// The handle goes on with what the file is now.
					p := make([]byte, testkit.ShrinkableSize)
					if n, err := file.ReadAt(p, 0); n != int(3*testkit.PageSize) || err != io.EOF {
						t.Errorf("ReadAt after the fault: %d bytes and error %v", n, err)
					}
					testkit.MustEqual(t, "the bytes after the fault", p[:3*testkit.PageSize], testkit.PatternFrom(0, int(3*testkit.PageSize)))
					if err := file.View(0, testkit.ShrinkableSize, nil); err != io.EOF {
						t.Errorf("View past the new end: %v, want io.EOF", err)
					}
					file.Resize(testkit.ShrinkableSize)
					err = file.View(testkit.PageSize, testkit.ShrinkableSize-testkit.PageSize, func(b []byte) error {
						if i := testkit.NotPattern(b, testkit.PageSize, 3*testkit.PageSize); i >= 0 {
							t.Errorf("after growth byte %d is %#x", testkit.PageSize+int64(i), b[i])
						}
						return nil
					})
					if err != nil {
						t.Errorf("View after growth: %v", err)
					}
					file.Close()
				}
			}
			testkit.Report(t, "%d faults in View, all returned as errors", faults)
		})
	}, func(m testkit.Mode) bool { return rows[m.Name] })
}

// TestViewPanics catches a View that swallows or changes a panic that is not a fault in its bytes.
func TestViewPanics(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		file := testkit.NewShrinkable(t, dir, testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
		other := testkit.NewShrinkable(t, dir, nil)
		stale := other.Data()
		other.Close()
		readOnly := testkit.NewShrinkable(t, dir, nil)

		own := &struct{ int }{}
		err := errors.New("the caller's own")
		var none map[string]int
		var pointer *int
		index := 1000
		panics := map[string]func(b []byte){
			"a pointer":                 func([]byte) { panic(own) },
			"an error":                  func([]byte) { panic(err) },
			"io.EOF":                    func([]byte) { panic(io.EOF) },
			"ErrSIGBUS":                 func([]byte) { panic(memmapfs.ErrSIGBUS) },
			"nil":                       func([]byte) { panic(nil) },
			"an index out of range":     func(b []byte) { testkit.Loaded.Store(uint32(b[:10][index])) },
			"a store into a nil map":    func([]byte) { none["a"] = 1 },
			"a nil pointer":             func([]byte) { testkit.Loaded.Store(uint32(*pointer)) },
			"a fault in another file":   func([]byte) { testkit.Loaded.Store(uint32(stale[testkit.PageSize])) },
			"a division":                func(b []byte) { testkit.Loaded.Store(uint32(1000 / len(none))) },
			"a store into another file": func([]byte) { readOnly.Data()[0] = 1 },
		}
		faults := 0
		for name, cause := range panics {
			before := debug.SetPanicOnFault(true)
			want := testkit.Recovered(func() { cause(make([]byte, 10)) })
			got := testkit.Recovered(func() {
				file.View(0, testkit.ShrinkableSize, func(b []byte) error {
					cause(b)
					return nil
				})
			})
			nested := testkit.Recovered(func() {
				file.View(0, testkit.PageSize, func([]byte) error {
					return file.View(testkit.PageSize, testkit.PageSize, func(b []byte) error {
						cause(b)
						return nil
					})
				})
			})
			if debug.SetPanicOnFault(before) != true {
				t.Errorf("%s: View leaves debug.SetPanicOnFault changed", name)
			}
			for _, got := range []any{got, nested} {
				if !samePanic(got, want) {
					t.Errorf("%s: View panics with %T %v, want %T %v", name, got, got, want, want)
				}
			}
			if _, isFault := want.(interface{ Addr() uintptr }); isFault {
				faults += 2
			}
		}
		if faults != 4 {
			t.Errorf("%d panics were faults, want 4", faults)
		}
		// Nothing stays guarded.
		for what, f := range map[string]func([]byte) error{
			"returns": func([]byte) error { return nil },
			"panics":  func([]byte) error { panic(own) },
		} {
			debug.SetPanicOnFault(false)
			testkit.Recovered(func() { file.View(0, 1, f) })
			if debug.SetPanicOnFault(false) {
				t.Errorf("a View whose function %s leaves debug.SetPanicOnFault on", what)
			}
		}
		file.Close()
		readOnly.Close()
		testkit.Report(t, "%d panics through View, %d of them faults in other memory, all came out unchanged", 2*len(panics), faults)
	})
}

// samePanic compares panic values: those of the caller for identity, those of the runtime by type, text
// and address.
func samePanic(a, b any) bool {
	first, ok := a.(runtime.Error)
	if !ok {
		return a == b
	}
	second, ok := b.(runtime.Error)
	if !ok || fmt.Sprintf("%T %v", first, first) != fmt.Sprintf("%T %v", second, second) {
		return false
	}
	address, ok := first.(interface{ Addr() uintptr })
	return !ok || address.Addr() == second.(interface{ Addr() uintptr }).Addr()
}

// TestViewNested catches a fault that the wrong View reports, and a guard that ends with an inner View.
func TestViewNested(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		files := []*testkit.Shrinkable{testkit.NewShrinkable(t, dir, nil), testkit.NewShrinkable(t, dir, testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever))}
		outer, inner := files[0], files[1]
		for _, file := range files {
			file.Resize(testkit.ShrinkableSize)
		}
		own := errors.New("the caller's own")
		isFault := func(err error, file *testkit.Shrinkable) bool {
			var path *fs.PathError
			return errors.Is(err, memmapfs.ErrSIGBUS) && errors.As(err, &path) && path.Path == file.Name()
		}

		// A fault in the inner bytes ends the inner View only.
		err := outer.View(0, testkit.ShrinkableSize, func(b []byte) error {
			err := inner.View(0, testkit.ShrinkableSize, func(b []byte) error {
				inner.Resize(testkit.PageSize)
				testkit.Loaded.Store(uint32(b[testkit.ShrinkableSize-1]))
				return nil
			})
			if !isFault(err, inner) {
				t.Errorf("the inner View: %v", err)
			}
			if testkit.NotPattern(b, 0, testkit.ShrinkableSize) >= 0 {
				t.Error("the outer bytes are wrong after the inner fault")
			}
			return own
		})
		if err != own {
			t.Errorf("the outer View: %v, want the function's own error", err)
		}

		// A fault in the outer bytes ends both, also when the inner function causes it, and also after the
		// inner View has ended.
		inner.Resize(testkit.ShrinkableSize)
		for _, inside := range []bool{true, false} {
			innerEnded := false
			err := outer.View(0, testkit.ShrinkableSize, func(b []byte) error {
				err := inner.View(0, testkit.ShrinkableSize, func([]byte) error {
					outer.Resize(testkit.PageSize)
					if inside {
						testkit.Loaded.Store(uint32(b[testkit.ShrinkableSize-1]))
					}
					return own
				})
				if err != own {
					t.Errorf("the inner View: %v", err)
				}
				innerEnded = true
				testkit.Loaded.Store(uint32(b[testkit.ShrinkableSize-1]))
				return nil
			})
			if !isFault(err, outer) || innerEnded == inside {
				t.Errorf("fault inside %v: the outer View gives %v, the inner ended %v", inside, err, innerEnded)
			}
			outer.Resize(testkit.ShrinkableSize)
		}

		// Of two Views of the same file too it is the one whose bytes faulted.
		err = inner.View(0, testkit.PageSize, func([]byte) error {
			err := inner.View(4*testkit.PageSize, testkit.PageSize, func(b []byte) error {
				inner.Resize(testkit.PageSize)
				testkit.Loaded.Store(uint32(b[0]))
				return nil
			})
			if !isFault(err, inner) {
				t.Errorf("the inner View of the same file: %v", err)
			}
			return own
		})
		if err != own {
			t.Errorf("the outer View of the same file: %v", err)
		}
		inner.Resize(testkit.ShrinkableSize)
		err = inner.View(4*testkit.PageSize, testkit.PageSize, func(b []byte) error {
			inner.View(0, testkit.PageSize, func([]byte) error {
				inner.Resize(testkit.PageSize)
				testkit.Loaded.Store(uint32(b[0]))
				return nil
			})
			t.Error("the inner View of the same file returns from a fault in the outer one's bytes")
			return nil
		})
		if !isFault(err, inner) {
			t.Errorf("the outer View of the same file: %v", err)
		}
		outer.Close()
		inner.Close()
		testkit.Report(t, "5 faults in nested Views, each returned by the View that they belong to")
	})
}

// TestViewGoexit catches a View that returns after runtime.Goexit, or keeps its bytes pinned.
func TestViewGoexit(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		file := testkit.NewShrinkable(t, testkit.TestDir(t), nil)
		const views = 100
		for range views {
			var returned, deferred bool
			var goroutine testkit.Workers
			goroutine.Start(func() {
				defer func() { deferred = true }()
				file.View(0, testkit.ShrinkableSize, func([]byte) error {
					runtime.Goexit()
					return nil
				})
				returned = true
			})
			goroutine.Wait()
			if returned || !deferred {
				t.Fatalf("after Goexit View returned: %v, deferred functions ran: %v", returned, deferred)
			}
		}
		if err := file.Close(); err != nil { // testDir sees a mapping that stays pinned
			t.Error(err)
		}
		testkit.Report(t, "%d Views ended by runtime.Goexit, no fault injected", views)
	})
}

// TestViewManyGoroutines catches guards and pins of one View that touch another's.
func TestViewManyGoroutines(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		healthy := testkit.NewShrinkable(t, dir, nil)
		shrunk := testkit.NewShrinkable(t, dir, nil)
		var faults atomic.Int64
		var goroutines testkit.Workers
		rounds := 300
		if testing.Short() {
			rounds = 50
		}
		for range rounds {
			shrunk.Resize(testkit.ShrinkableSize)
			shrunk.Warm()
			for goroutine := range 8 {
				goroutines.Start(func() {
					if goroutine%2 == 0 {
						err := healthy.View(0, testkit.ShrinkableSize, func(b []byte) error {
							if testkit.NotPattern(b, 0, testkit.ShrinkableSize) >= 0 {
								t.Error("wrong bytes in a file that nobody changes")
							}
							return nil
						})
						if err != nil {
							t.Errorf("View of a file that nobody changes: %v", err)
						}
						return
					}
					err := shrunk.View(0, testkit.ShrinkableSize, func(b []byte) error {
						shrunk.Resize(testkit.PageSize)
						testkit.Loaded.Store(uint32(b[testkit.ShrinkableSize-1]))
						return nil
					})
					switch {
					case errors.Is(err, memmapfs.ErrSIGBUS):
						faults.Add(1)
					case err != io.EOF:
						t.Errorf("View of a shrunk file: %v", err)
					}
				})
			}
			goroutines.Wait()
		}
		healthy.Close()
		shrunk.Close()
		testkit.Report(t, "%d faults in %d Views of 8 goroutines", faults.Load(), 8*rounds)
		if faults.Load() < int64(rounds) {
			t.Errorf("only %d faults", faults.Load())
		}
	})
}

// TestViewOutlivesClose catches a Close or RemapAfterTruncation that takes the bytes of a running View
// away, or waits for it, which inside the View's function would be for ever.
func TestViewOutlivesClose(t *testing.T) {
	rows := map[string]bool{
		"read-only": true, "read-write": true, "copy-on-write": true,
		"read-write windows of one page": true, "copy-on-write windows of 64 KiB": true,
	}
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			endings := map[string]func(file *memmapfs.MappedFile) error{
				"Close":                func(file *memmapfs.MappedFile) error { return file.Close() },
				"RemapAfterTruncation": func(file *memmapfs.MappedFile) error { return file.RemapAfterTruncation() },
			}
			for ending, end := range endings {
				dir := testkit.TestDir(t)
				file := testkit.NewShrinkable(t, dir, m.Config)
				var kept []byte
				testkit.MustFinish(t, ending+" beside View", func() {
					err := file.View(0, testkit.ShrinkableSize, func(b []byte) error {
						var goroutine testkit.Workers
						goroutine.Start(func() {
							if err := end(file.MappedFile); err != nil {
								t.Errorf("%s beside View: %v", ending, err)
							}
						})
						goroutine.Wait()
						for range 20 {
							runtime.GC()
							if i := testkit.NotPattern(b, 0, testkit.ShrinkableSize); i >= 0 {
								t.Errorf("after %s byte %d of a running View is %#x", ending, i, b[i])
							}
						}
						if m.ReadWrite() {
							b[0] = 0xEE
						}
						kept = b
						return nil
					})
					if err != nil {
						t.Errorf("View beside %s: %v", ending, err)
					}
				})
				if m.ReadWrite() {
					if content := testkit.ReadNative(t, osfs.FromNative(file.Native)); content[0] != 0xEE {
						t.Errorf("a store in a View after %s did not reach the file", ending)
					}
				}
				if !m.CopyOnWrite() || ending == "Close" {
					if !testkit.FaultsWhenRead(kept) {
						t.Errorf("the map is still there after %s and the end of the View", ending)
					}
				}
				if ending == "Close" {
					err := file.View(0, 1, func([]byte) error { return nil })
					if !errors.Is(err, fs.ErrClosed) {
						t.Errorf("View after Close: %v", err)
					}
				} else if err := file.View(0, 1, func([]byte) error { return nil }); err != nil {
					t.Errorf("View after %s: %v", ending, err)
				}
				file.Close()
			}
			testkit.Report(t, "%d Views outlived the end of their maps without a fault", len(endings))
		})
	}, func(m testkit.Mode) bool { return rows[m.Name] })
}

// TestViewTruncate catches a Truncate of the same handle that waits for a running View, takes away bytes
// that the file still has, or leaves the View's pages where the file has ended.
func TestViewTruncate(t *testing.T) {
	testkit.NeedShrinking(t) // see TestViewHoldsFile
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		for _, config := range []*memmapfs.Config{
			nil,
			testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever),
			testkit.Windowed(memmapfs.ModeReadWrite, testkit.PageSize),
		} {
			file := testkit.NewShrinkable(t, dir, config)
			testkit.MustFinish(t, "Truncate beside View", func() {
				err := file.View(0, testkit.ShrinkableSize, func(b []byte) error {
					if err := file.Truncate(2 * testkit.PageSize); err != nil {
						t.Errorf("Truncate inside View: %v", err)
					}
					if i := testkit.NotPattern(b[:2*testkit.PageSize], 0, testkit.ShrinkableSize); i >= 0 {
						t.Errorf("byte %d that the file still has is %#x", i, b[i])
					}
					testkit.Loaded.Store(uint32(b[2*testkit.PageSize]))
					t.Error("a byte past the new end can be read")
					return nil
				})
				if !errors.Is(err, memmapfs.ErrSIGBUS) {
					t.Errorf("View over the new end: %v", err)
				}
			})
			p := make([]byte, testkit.ShrinkableSize)
			if n, err := file.ReadAt(p, 0); n != int(2*testkit.PageSize) || err != io.EOF {
				t.Errorf("ReadAt after Truncate: %d bytes and error %v", n, err)
			}
			file.Close()
		}
		testkit.Report(t, "3 faults past the end that Truncate set, all returned by View")
	})
}
