package faults_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// TestHandler catches callbacks that do not come, come when nobody asked for them, or come with a lock
// held; and a RemapAfterTruncation that does not take up the file's size.
func TestHandler(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		dir := testkit.TestDir(t)
		handler := memmapfs.GetSIGBUSHandler()
		config := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)

		var react func(file *memmapfs.MappedFile, err error) // what the callback does
		calls, total := 0, 0
		handler.OnSIGBUS(nil) // no effect
		handler.OnSIGBUS(func(file *memmapfs.MappedFile, err error) {
			calls++
			var path *fs.PathError
			if !errors.Is(err, memmapfs.ErrSIGBUS) || !errors.As(err, &path) {
				t.Errorf("callback with %T %v, want a *fs.PathError that wraps ErrSIGBUS", err, err)
			}
			if react != nil {
				react(file, err)
			}
		})

		// Every call that meets a fault, with the result that the file gives.
		off := 5 * testkit.PageSize
		value := []byte("value")
		faulting := map[string]func(file *testkit.Shrinkable) string{
			"ReadAt": func(file *testkit.Shrinkable) string {
				n, err := file.ReadAt(make([]byte, 8), off)
				return fmt.Sprint(n, err)
			},
			"Read": func(file *testkit.Shrinkable) string {
				n, err := file.Read(make([]byte, 8))
				return fmt.Sprint(n, err)
			},
			"WriteTo": func(file *testkit.Shrinkable) string {
				n, err := file.WriteTo(io.Discard)
				return fmt.Sprint(n, err)
			},
			"WriteAt": func(file *testkit.Shrinkable) string {
				n, err := file.WriteAt(value, off)
				return fmt.Sprint(n, err)
			},
			"Write": func(file *testkit.Shrinkable) string {
				n, err := file.Write(value)
				return fmt.Sprint(n, err)
			},
			"WriteString": func(file *testkit.Shrinkable) string {
				n, err := file.WriteString(string(value))
				return fmt.Sprint(n, err)
			},
			"ReadFrom": func(file *testkit.Shrinkable) string {
				n, err := file.ReadFrom(bytes.NewReader(value))
				return fmt.Sprint(n, err)
			},
			"View": func(file *testkit.Shrinkable) string {
				err := file.View(off, 1, func(b []byte) error {
					testkit.Loaded.Store(uint32(b[0]))
					return nil
				})
				return fmt.Sprint(errors.Is(err, memmapfs.ErrSIGBUS))
			},
		}
		results := map[string]string{
			"ReadAt": "0 EOF", "Read": "0 EOF", "WriteTo": "0 <nil>", "WriteAt": "5 <nil>", "Write": "5 <nil>",
			"WriteString": "5 <nil>", "ReadFrom": "5 <nil>", "View": "true",
		}
		// fault makes that call on a file that has just been shrunk, and returns how many callbacks came.
		fault := func(name string, file *testkit.Shrinkable) int {
			t.Helper()
			if _, err := file.Seek(off, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			file.Resize(testkit.PageSize)
			before := calls
			testkit.MustFinish(t, name, func() {
				if got := faulting[name](file); got != results[name] {
					t.Errorf("%s of a shrunk file: %s, want %s", name, got, results[name])
				}
			})
			total += calls - before
			return calls - before
		}
		check := func(what string, got, want int) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %d callbacks, want %d", what, got, want)
			}
		}

		// Only while enabled and registered, and by every call.
		for name := range faulting {
			again := func(file *testkit.Shrinkable) {
				file.Resize(testkit.ShrinkableSize)
				file.Warm()
			}
			file := testkit.NewShrinkable(t, dir, config)
			check(name+", neither enabled nor registered", fault(name, file), 0)
			again(file)
			handler.Register(file.MappedFile)
			check(name+", registered and not enabled", fault(name, file), 0)
			again(file)
			handler.Enable()
			check(name+", registered and enabled", fault(name, file), 1)
			again(file)
			check(name+", a second time", fault(name, file), 1)
			again(file)
			handler.Unregister(file.MappedFile)
			check(name+", unregistered", fault(name, file), 0)
			again(file)
			handler.Register(file.MappedFile)
			handler.Disable()
			check(name+", disabled", fault(name, file), 0)
			again(file)
			file.EnableSIGBUSProtection()
			check(name+" after EnableSIGBUSProtection", fault(name, file), 1)
			again(file)
			file.DisableSIGBUSProtection()
			check(name+" after DisableSIGBUSProtection", fault(name, file), 0)
			other := testkit.NewShrinkable(t, dir, config)
			check(name+" of another file", fault(name, other), 0)
			other.Close()
			file.Close()
			handler.Disable()
		}

		// A callback may call any method, and the call that met the fault still gives its result.
		reactions := map[string]func(file *memmapfs.MappedFile, err error){
			"RemapAfterTruncation": func(file *memmapfs.MappedFile, _ error) {
				if err := file.RemapAfterTruncation(); err != nil {
					t.Errorf("RemapAfterTruncation in a callback: %v", err)
				}
			},
			"Close": func(file *memmapfs.MappedFile, _ error) {
				if err := file.Close(); err != nil {
					t.Errorf("Close in a callback: %v", err)
				}
			},
			"everything": func(file *memmapfs.MappedFile, _ error) {
				p := make([]byte, 8)
				pos, err := file.Seek(0, io.SeekCurrent)
				if err != nil {
					t.Error(err)
				}
				file.Read(p)
				file.ReadAt(p, off)
				file.Data()
				file.Mapped()
				file.Sync()
				file.Stat()
				file.AdviseWillNeed()
				file.View(0, 8, func([]byte) error { return nil })
				file.DisableSIGBUSProtection()
				file.EnableSIGBUSProtection()
				handler.Disable()
				handler.Enable()
				handler.OnSIGBUS(func(*memmapfs.MappedFile, error) {})
				file.WriteAt([]byte("reaction"), 0)
				file.SyncRange(0, 8)
				file.Seek(pos, io.SeekStart)
			},
			"Truncate": func(file *memmapfs.MappedFile, _ error) {
				if err := file.Truncate(testkit.PageSize); err != nil {
					t.Errorf("Truncate in a callback: %v", err)
				}
			},
		}
		for name, reaction := range reactions {
			for call := range faulting {
				file := testkit.NewShrinkable(t, dir, config)
				file.EnableSIGBUSProtection()
				react = reaction
				check(call+" with a callback that calls "+name, fault(call, file), 1)
				react = nil
				if name == "Close" {
					if _, err := file.Stat(); !errors.Is(err, fs.ErrClosed) {
						t.Errorf("after Close in a callback Stat gives %v", err)
					}
				}
				file.Close()
			}
		}

		// RemapAfterTruncation takes up the file's size, smaller and larger.
		file := testkit.NewShrinkable(t, dir, config)
		for _, pages := range []int64{8, 3, 12, 1, 9} {
			before := file.Data()
			size := pages * testkit.PageSize
			pattern := testkit.PatternFrom(0, int(size))
			file.Resize(size)
			testkit.WriteAround(t, file.Native, pattern)
			if err := file.RemapAfterTruncation(); err != nil {
				t.Errorf("RemapAfterTruncation to %d pages: %v", pages, err)
			}
			if !testkit.FaultsWhenRead(before) {
				t.Error("a slice from before RemapAfterTruncation can be read")
			}
			testkit.MustEqual(t, "Data after RemapAfterTruncation", file.Data(), pattern)
			p := make([]byte, size+1)
			if n, err := file.ReadAt(p, 0); n != int(size) || err != io.EOF {
				t.Errorf("ReadAt after RemapAfterTruncation to %d pages: %d bytes and error %v", pages, n, err)
			}
		}
		file.Close()
		testkit.Report(t, "%d callbacks, %d faults survived with a callback that called methods of the file", total, len(reactions)*len(faulting))
	})
}
