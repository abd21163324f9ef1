package memmapfs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/absfs/osfs"
)

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
	if _, err := file.mapWindow(0, false); err != nil {
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
		_, err := file.mapWindow(5*window, false)
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
