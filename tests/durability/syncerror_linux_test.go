package durability_test

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
	"golang.org/x/sys/unix"
)

// failingDisk is an ext4 filesystem on a disk that can start to fail: its image is a sparse file in
// memory, which cannot take what has no place there yet when that memory is full.
type failingDisk struct {
	dir    string
	filler string
}

func newFailingDisk(t *testing.T) *failingDisk {
	t.Helper()
	root := t.TempDir()
	memory, dir := root+"/memory", root+"/disk"
	if err := errors.Join(os.Mkdir(memory, 0o700), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	testkit.UnmountAfterDeath(t, dir, memory)
	err := testkit.First(
		func() error { return testkit.Mount(t, memory, "-t", "tmpfs", "-o", "size=16m", "none") },
		// Without a journal a failed write does not end the filesystem's life.
		func() error { return testkit.MakeExt4(memory+"/image", 64<<20, "-O", "^has_journal") },
		func() error {
			return testkit.Mount(t, dir, "-t", "ext4", "-o", "loop,errors=continue", memory+"/image")
		},
	)
	if err != nil {
		t.Skipf("a disk that fails needs root, loop devices and mkfs.ext4: %v", err)
	}
	d := &failingDisk{dir, memory + "/filler"}
	t.Cleanup(func() { d.works(t) })
	return d
}

// fails lets every write fail that goes to a new place of the disk.
func (d *failingDisk) fails(t *testing.T) {
	t.Helper()
	file, err := os.Create(d.filler)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := file.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
}

// works lets the disk work again.
func (d *failingDisk) works(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.filler); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// prepare makes a file whose blocks the filesystem has chosen, but which the disk has never written.
func (d *failingDisk) prepare(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(filepath.Join(d.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Fallocate(int(file.Fd()), 0, 0, 16*testkit.PageSize); err != nil {
		t.Fatal(err)
	}
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
}

// Catches what a pretended failure cannot: that the error of a real disk, which the kernel tells once and
// to one caller only, is the background flush's and reaches the program.
func TestDiskFailsInTheBackground(t *testing.T) {
	d := newFailingDisk(t)
	for name, write := range map[string]func(file *memmapfs.MappedFile) error{
		"first write": func(file *memmapfs.MappedFile) error {
			_, err := file.WriteAt(testkit.Content(100), 3*testkit.PageSize)
			return err
		},
		"stored": func(file *memmapfs.MappedFile) error {
			testkit.ForceMap(file)
			if _, err := file.WriteAt(testkit.Content(100), 3*testkit.PageSize); err != nil {
				return err
			}
			_, err := file.WriteAt(testkit.Content(200), 3*testkit.PageSize)
			return err
		},
		"Data": func(file *memmapfs.MappedFile) error {
			copy(file.Data()[3*testkit.PageSize:], testkit.Content(100))
			return nil
		},
	} {
		for _, last := range []string{"Sync", "Close"} {
			t.Run(name+"/"+last, func(t *testing.T) {
				d.prepare(t, "file")
				defer os.Remove(filepath.Join(d.dir, "file"))
				reports := make(chan error, 100)
				config := testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncPeriodic)
				config.OnSyncError = func(_ string, err error) { reports <- err }
				fileSystem := memmapfs.New(testkit.PlainFileSystem(t), config)
				defer fileSystem.Close()
				file := testkit.MustOpenMapped(t, fileSystem, filepath.Join(d.dir, "file"), os.O_RDWR)
				defer file.Close()

				d.fails(t)
				defer d.works(t)
				if err := write(file); err != nil {
					t.Fatal(err)
				}
				var report error
				select {
				case report = <-reports:
				case <-time.After(10 * time.Second):
					t.Fatal("no background flush fails on a disk that fails")
				}
				d.works(t)
				if last == "Close" {
					err := file.Close()
					checkDiskError(t, "Close", err, report)
					return
				}
				checkDiskError(t, "Sync", file.Sync(), report)
				for range 2 {
					if err := file.Sync(); err != nil {
						t.Errorf("the error was returned again: %v", err)
					}
				}
				if err := file.Close(); err != nil {
					t.Errorf("the error was returned by Close again: %v", err)
				}
			})
		}
	}
}

// checkDiskError fails the test unless err is the kernel's error that the background flush reported.
func checkDiskError(t *testing.T, what string, err, report error) {
	t.Helper()
	var number syscall.Errno
	if !errors.As(report, &number) || !errors.Is(err, number) {
		t.Errorf("%s returned %v, want what the background flush reported: %v", what, fmt.Sprint(err), report)
	}
}
