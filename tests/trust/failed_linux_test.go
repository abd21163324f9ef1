package trust_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// failures are ways in which a filesystem fails for good.
var failures = []struct {
	name, kind, options string
	fail                func(t testing.TB, dir string)
}{
	{"ext4 with errors=remount-ro", "ext4", "errors=remount-ro", testkit.TriggerError},
	{"ext4 shut down", "ext4", "", testkit.ShutDown},
	{"xfs shut down", "xfs", "", testkit.ShutDown},
}

// onFailing runs a test on a filesystem that it can let fail. The file has 16 pages.
func onFailing(t *testing.T, test func(t *testing.T, dir string, fail func())) {
	for _, failure := range failures {
		t.Run(failure.name, func(t *testing.T) {
			data := testkit.Content(int(16 * testkit.PageSize))
			dir := testkit.MountWith(t, failure.kind, failure.options, map[string][]byte{"plain": data, "mapped": data})
			test(t, dir, func() { failure.fail(t, dir) })
		})
	}
}

// storable opens the pair in a directory and writes to each page until writes are stores.
func storable(t *testing.T, dir string, syncMode memmapfs.SyncMode) *pair {
	t.Helper()
	config := testkit.Full(memmapfs.ModeReadWrite, syncMode)
	config.SyncInterval = time.Hour
	fileSystem := testkit.Mode{Config: config}.OverOS(t)
	p := &pair{t, testkit.MustOpen(t, testkit.PlainFileSystem(t), osfs.FromNative(filepath.Join(dir, "plain")), os.O_RDWR),
		testkit.MustOpenMapped(t, fileSystem, osfs.FromNative(filepath.Join(dir, "mapped")), os.O_RDWR)}
	p.warm()
	for range 3 {
		for page := range int64(16) {
			for _, file := range []interface {
				WriteAt(p []byte, off int64) (int, error)
			}{p.plain, p.mapped} {
				if _, err := file.WriteAt([]byte("written"), page*testkit.PageSize); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return p
}

// isRefusal reports whether a write or a flush was refused by a filesystem that has failed.
func isRefusal(err error) bool { return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO) }

// Catches stores that succeed for ever on a filesystem that has failed: the first flush says so, and after
// it each page is refused as the plain file refuses it.
func TestFailedFilesystemRefusesWrites(t *testing.T) {
	onFailing(t, func(t *testing.T, dir string, fail func()) {
		p := storable(t, dir, memmapfs.SyncNever)
		fail()
		p.mapped.WriteAt([]byte("lost"), 3*testkit.PageSize) // a store may still succeed
		if err := p.mapped.Sync(); !isRefusal(err) {
			t.Errorf("Sync after bytes were stored: %v", err)
		}
		refused := 0
		for page := range int64(16) {
			_, wantErr := p.plain.WriteAt([]byte("again"), page*testkit.PageSize)
			_, gotErr := p.mapped.WriteAt([]byte("again"), page*testkit.PageSize)
			if testkit.ErrorClass(gotErr) != testkit.ErrorClass(wantErr) {
				t.Errorf("page %d: WriteAt: %v, want %v", page, gotErr, wantErr)
			}
			if isRefusal(wantErr) {
				refused++
			}
		}
		if refused != 16 {
			t.Errorf("the plain file refuses %d pages of 16: the filesystem has not failed", refused)
		}
	})
}

// Catches bytes that can no longer reach the disk, and a Close that does not say so, in every SyncMode.
func TestFailedFilesystemAtClose(t *testing.T) {
	onFailing(t, func(t *testing.T, dir string, fail func()) {
		var pairs []*pair
		modes := []memmapfs.SyncMode{memmapfs.SyncNever, memmapfs.SyncLazy, memmapfs.SyncPeriodic}
		for _, mode := range modes {
			pairs = append(pairs, storable(t, dir, mode))
		}
		view := storable(t, dir, memmapfs.SyncNever)
		fail()
		for i, p := range pairs {
			_, err := p.mapped.WriteAt([]byte("lost"), 3*testkit.PageSize) // a store, or refused
			if closed := p.mapped.Close(); !isRefusal(err) && !isRefusal(closed) {
				t.Errorf("%v: WriteAt: %v, Close: %v", modes[i], err, closed)
			}
		}
		view.mapped.View(0, 10, func(b []byte) error { copy(b, "lost"); return nil })
		if err := view.mapped.Sync(); !isRefusal(err) {
			t.Errorf("Sync after bytes were stored in a View: %v", err)
		}
	})
}

// Catches a failed flush in the background after which writes are still stores.
func TestFailedFlushInTheBackground(t *testing.T) {
	onFailing(t, func(t *testing.T, dir string, fail func()) {
		failed := make(chan error, 1)
		config := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncPeriodic)
		config.OnSyncError = func(_ string, err error) {
			select {
			case failed <- err:
			default:
			}
		}
		fileSystem := memmapfs.New(testkit.PlainFileSystem(t), config)
		defer fileSystem.Close()
		p := openPair(t, fileSystem, osfs.FromNative(filepath.Join(dir, "mapped")), os.O_RDWR)
		p.warm()
		file := p.mapped
		write := func() error {
			_, err := file.WriteAt([]byte("again and again"), 100)
			return err
		}
		for range rounds {
			if err := write(); err != nil {
				t.Fatal(err)
			}
		}
		fail()
		testkit.MustFinish(t, "the flush in the background", func() {
			for {
				write()
				select {
				case <-failed:
					return
				default:
				}
			}
		})
		if err := write(); !isRefusal(err) {
			t.Errorf("WriteAt after a flush has failed: %v", err)
		}
		if err := file.Close(); !isRefusal(err) {
			t.Errorf("Close: %v", err)
		}
	})
}

// Catches ENOSPC that only appears as a fault: on a full disk a write to a hole is refused, and the reads of
// what was there go on.
func TestFullDiskRefusesWrites(t *testing.T) {
	disk := testkit.MountSmallDisk(t, "ext4")
	if disk == nil {
		return
	}
	native := filepath.Join(disk.Dir, "file")
	if err := os.WriteFile(native, testkit.Content(int(testkit.PageSize)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(native, 16*testkit.PageSize); err != nil {
		t.Fatal(err)
	}
	fileSystem := testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t)
	p := openPair(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
	p.warm()
	disk.Fill()
	for page := range int64(15) {
		off := (page + 1) * testkit.PageSize
		n, err := p.mapped.WriteAt([]byte("no room"), off)
		if wantN, wantErr := p.plain.WriteAt([]byte("no room"), off); n != wantN || fmt.Sprint(testkit.ErrorClass(err)) != testkit.ErrorClass(wantErr) {
			t.Errorf("page %d: %d, %v; want %d, %v", page+1, n, err, wantN, wantErr)
		}
	}
	p.same("on a full disk")
	p.mapped.Close()
	p.plain.Close()
	disk.Free()
}
