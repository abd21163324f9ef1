package memmapfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/osfs"
)

// Catches a required map that is not made at once, one that is required where there is nothing to map,
// and an error that leaves the reader alone with an errno.
func TestRequireMapping(t *testing.T) {
	skipWithoutMaps(t)
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig()
	config.RequireMapping = true
	mfs := New(base, config)
	t.Cleanup(func() { mfs.Close() })
	dir := t.TempDir()
	full, empty := filepath.Join(dir, "full"), filepath.Join(dir, "empty")
	for native, data := range map[string]string{full: "content", empty: ""} {
		if err := os.WriteFile(native, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	open := func(native string, flag int) (*MappedFile, error) {
		file, err := mfs.OpenFile(osfs.FromNative(native), flag, 0)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { file.Close() })
		return file.(*MappedFile), nil
	}

	if file, err := open(full, os.O_RDONLY); err != nil || !file.Mapped() {
		t.Errorf("a file that can be mapped: %v, %v", file, err)
	}
	for native, flag := range map[string]int{empty: os.O_RDONLY, dir: os.O_RDONLY, full: os.O_WRONLY} {
		if file, err := open(native, flag); err != nil || file.Mapped() {
			t.Errorf("%s, which has nothing to map: %v, %v", native, file, err)
		}
	}

	mapFile := system.mapFile
	t.Cleanup(func() { system.mapFile = mapFile })
	for reason, advice := range map[syscall.Errno]string{
		syscall.ENOMEM: "vm.max_map_count",
		syscall.EMFILE: "RLIMIT_NOFILE",
		syscall.ENODEV: "",
	} {
		system.mapFile = func(uintptr, int64, int, int) ([]byte, error) { return nil, reason }
		_, err := open(full, os.O_RDONLY)
		var path *fs.PathError
		if !errors.As(err, &path) || path.Op != "open" || !errors.Is(err, ErrNotMapped) || !errors.Is(err, reason) ||
			!strings.Contains(err.Error(), advice) {
			t.Errorf("open when a map fails with %v: %v, want a *fs.PathError that names %q", reason, err, advice)
		}
	}
	if n := len(mfs.handles.files()); n != 1 {
		t.Errorf("%d files are known after failed opens, want the one that is mapped", n)
	}
}

func skipWithoutMaps(t *testing.T) {
	t.Helper()
	if _, err := sysMap(^uintptr(0), 0, 1, 0); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("nothing is mapped on this system")
	}
}

// Catches a reader that waits while a window is being mapped elsewhere in the file: the system call
// that maps is held up, and all other reads have to go on, in windows that are mapped and through the
// file.
func TestReadersDoNotWaitForAMap(t *testing.T) {
	skipWithoutMaps(t)
	base, err := osfs.NewFS()
	if err != nil {
		t.Fatal(err)
	}
	const window = 64 << 10
	native := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(native, make([]byte, 16*window), 0o644); err != nil {
		t.Fatal(err)
	}
	mfs := New(base, &Config{WindowSize: window, SyncMode: SyncNever})
	t.Cleanup(func() { mfs.Close() })
	opened, err := mfs.Open(osfs.FromNative(native))
	if err != nil {
		t.Fatal(err)
	}
	file := opened.(*MappedFile)
	if _, err := file.maps.mapWindow(0); err != nil {
		t.Fatal(err)
	}

	mapFile := system.mapFile
	mapping, goOn := make(chan struct{}), make(chan struct{})
	system.mapFile = func(fd uintptr, offset int64, length, flags int) ([]byte, error) {
		close(mapping)
		<-goOn
		return mapFile(fd, offset, length, flags)
	}
	t.Cleanup(func() { system.mapFile = mapFile })
	mapped := make(chan error)
	go func() {
		_, err := file.maps.mapWindow(5 * window)
		mapped <- err
	}()
	<-mapping

	read := make(chan error)
	go func() {
		p := make([]byte, 100)
		for i := 0; i < 1000; i++ {
			if _, err := file.ReadAt(p, int64(i%16)*window); err != nil {
				read <- err
				return
			}
		}
		read <- nil
	}()
	select {
	case err := <-read:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("a read waits for a window that is being mapped")
	}
	close(goOn)
	if err := <-mapped; err != nil {
		t.Error(err)
	}
}
