package durability_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// Catches the loss of a background flush's error: bytes that a program believes to be safe are not.
// The next Sync or Close has to return it, and only that, or the program would handle it twice.
func TestBackgroundSyncError(t *testing.T) {
	writes := map[string]func(file *memmapfs.MappedFile) error{
		"WriteAt": func(file *memmapfs.MappedFile) error {
			_, err := file.WriteAt([]byte("bytes"), 0)
			return err
		},
		"Write": func(file *memmapfs.MappedFile) error {
			_, err := file.Write([]byte("bytes"))
			return err
		},
		"Truncate": func(file *memmapfs.MappedFile) error { return file.Truncate(10) },
		"Data": func(file *memmapfs.MappedFile) error {
			file.Data()[0]++
			return nil
		},
	}
	asynchronously := func(file *memmapfs.MappedFile) error { return file.SyncAsync() }
	nothing := func(*memmapfs.MappedFile) error { return nil }
	for _, test := range []struct {
		name   string
		config memmapfs.Config
		start  func(file *memmapfs.MappedFile) error // the flush
	}{
		{"SyncPeriodic", memmapfs.Config{SyncMode: memmapfs.SyncPeriodic, SyncInterval: time.Millisecond}, nothing},
		{"SyncAsync in SyncNever", memmapfs.Config{SyncMode: memmapfs.SyncNever}, asynchronously},
		{"SyncAsync in SyncLazy", memmapfs.Config{SyncMode: memmapfs.SyncLazy}, asynchronously},
		{"SyncAsync in SyncPeriodic", memmapfs.Config{SyncMode: memmapfs.SyncPeriodic, SyncInterval: time.Hour}, asynchronously},
	} {
		for way, write := range writes {
			for _, hidden := range []bool{false, true} {
				if hidden && way == "Data" || !hidden && !testkit.Mappable() {
					continue
				}
				for _, closes := range []string{"Sync", "Close", "MemMapFS.Close"} {
					t.Run(fmt.Sprint(test.name, "/", way, "/hidden ", hidden, "/", closes), func(t *testing.T) {
						base, failing := testkit.FailingSync(hidden)
						reported := make(chan error, 1)
						config := test.config
						config.Mode, config.MapFullFile = memmapfs.ModeReadWrite, true
						config.OnSyncError = func(name string, err error) {
							failing.Store(false) // so that it fails once
							select {
							case reported <- err:
							default:
								t.Errorf("a second report: %v", err)
							}
						}
						fileSystem := memmapfs.New(base, &config)
						defer fileSystem.Close()
						name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(100))
						file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
						failing.Store(true)
						if err := join(write(file), test.start(file)); err != nil {
							t.Fatal(err)
						}
						select {
						case err := <-reported:
							testkit.CheckSyncError(t, "OnSyncError", err, file.Name())
						case <-time.After(10 * time.Second):
							t.Fatal("OnSyncError is not called")
						}
						if closes == "Sync" {
							testkit.CheckSyncError(t, closes, file.Sync(), file.Name())
							for range 2 {
								if err := file.Sync(); err != nil {
									t.Errorf("the error was returned again: %v", err)
								}
							}
						} else {
							failed := fileSystem.Close
							if closes == "Close" {
								failed = file.Close
							}
							testkit.CheckSyncError(t, closes, failed(), file.Name())
						}
						if err := file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
							t.Errorf("Close: %v", err)
						}
						if err := fileSystem.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
							t.Errorf("closing the filesystem: %v", err)
						}
					})
				}
			}
		}
	}
}

func join(errs ...error) error { return errors.Join(errs...) }

// Catches a flush in the foreground whose error gets lost on the way.
func TestForegroundSyncError(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		for _, m := range testkit.Modes {
			if m.Plain() || m.CopyOnWrite() {
				continue
			}
			t.Run(fmt.Sprint(m.Name, "/hidden ", hidden), func(t *testing.T) {
				base, failing := testkit.FailingSync(hidden)
				config := *m.Config
				config.SyncInterval = time.Hour
				fileSystem := memmapfs.New(base, &config)
				defer fileSystem.Close()
				name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(100))
				file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)

				failing.Store(true)
				n, err := file.Write([]byte("bytes"))
				if config.SyncMode == memmapfs.SyncImmediate {
					testkit.CheckSyncError(t, "Write", err, file.Name())
				} else if err != nil {
					t.Errorf("Write: %v", err)
				}
				if n != 5 {
					t.Errorf("Write returned %d, want 5: the bytes are written, if not durable", n)
				}
				testkit.CheckSyncError(t, "Sync", file.Sync(), file.Name())
				testkit.CheckSyncError(t, "Sync again", file.Sync(), file.Name())
				failing.Store(false)
				if err := file.Sync(); err != nil {
					t.Errorf("Sync on a disk that works again: %v", err)
				}

				if _, err := file.WriteString("bytes"); err != nil {
					t.Error(err)
				}
				failing.Store(true)
				err = file.Close()
				if config.SyncMode == memmapfs.SyncLazy || config.SyncMode == memmapfs.SyncPeriodic {
					testkit.CheckSyncError(t, "Close", err, file.Name())
				} else if err != nil {
					t.Errorf("Close, which has nothing to flush: %v", err)
				}
				if _, err := file.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("after a Close that failed: %v, want fs.ErrClosed", err)
				}
			})
		}
	}
}

// Catches an error that several callers share, or none gets, when they race for it.
func TestBackgroundSyncErrorIsTakenOnce(t *testing.T) {
	for range 100 {
		base, failing := testkit.FailingSync(true)
		reported := make(chan struct{})
		fileSystem := memmapfs.New(base, &memmapfs.Config{
			SyncMode: memmapfs.SyncNever,
			OnSyncError: func(string, error) {
				failing.Store(false)
				close(reported)
			},
		})
		file := testkit.MustOpenMapped(t, fileSystem, testkit.WriteFile(t, t.TempDir(), "file", nil), os.O_RDWR)
		failing.Store(true)
		if err := file.SyncAsync(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-reported:
		case <-time.After(10 * time.Second):
			t.Fatal("OnSyncError is not called")
		}
		var taken atomic.Int32
		var callers sync.WaitGroup
		for _, call := range []func() error{file.Sync, file.Sync, file.Close} {
			callers.Add(1)
			go func() {
				defer callers.Done()
				if err := call(); errors.Is(err, syscall.EIO) {
					taken.Add(1)
				}
			}()
		}
		callers.Wait()
		if taken.Load() != 1 {
			t.Fatalf("%d of three callers got the error, want one", taken.Load())
		}
		fileSystem.Close()
	}
}

// Catches a SyncRange that reports success after a background flush has failed: the pages it is asked for
// are clean since then, and not on the disk. The error stays for Sync or Close.
func TestRangeAfterBackgroundSyncError(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		base, failing := testkit.FailingSync(hidden)
		reported := make(chan struct{})
		config := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)
		config.OnSyncError = func(string, error) {
			failing.Store(false)
			close(reported)
		}
		fileSystem := memmapfs.New(base, config)
		file := testkit.MustOpenMapped(t, fileSystem, testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(100)), os.O_RDWR)
		testkit.ForceMap(file)
		if _, err := file.WriteAt([]byte("bytes"), 0); err != nil {
			t.Fatal(err)
		}
		failing.Store(true)
		if err := file.SyncAsync(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-reported:
		case <-time.After(10 * time.Second):
			t.Fatal("OnSyncError is not called")
		}
		for range 2 {
			testkit.CheckSyncError(t, "SyncRange", file.SyncRange(0, 5), file.Name())
		}
		testkit.CheckSyncError(t, "Sync", file.Sync(), file.Name())
		if err := file.SyncRange(0, 5); err != nil {
			t.Errorf("SyncRange after the error was taken: %v", err)
		}
		if err := fileSystem.Close(); err != nil {
			t.Errorf("closing the filesystem: %v", err)
		}
	}
}
