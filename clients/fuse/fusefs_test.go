//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// absfs's own server of FUSE serves mapped files as it serves plain ones. The directory is there
// before: with this go-fuse the server cannot make one.
func TestFusefs(t *testing.T) {
	needs(t, "fusermount3")
	onEach(t, func(t *testing.T, mode string) string {
		directory := t.TempDir()
		must(t, os.Mkdir(filepath.Join(directory, "directory"), 0o755))
		p := show(t, mode, directory, "-fusefs")
		name := func(i int) string { return filepath.Join(p.mountPoint, "directory", fmt.Sprint("file ", i)) }
		for i := range 40 {
			must(t, os.WriteFile(name(i), noise(i, 1+i*1500), 0o644))
		}
		found := contents(t, p.mountPoint)
		for i := 1; i < 40; i += 3 {
			file, err := os.OpenFile(name(i), os.O_RDWR, 0)
			must(t, err)
			_, err = file.WriteAt([]byte("changed"), int64(i*100))
			must(t, err)
			read := make([]byte, 300)
			n, err := file.ReadAt(read, int64(i*100-50))
			if n < 57 || !bytes.HasPrefix(read[50:], []byte("changed")) {
				t.Errorf("after a write: %d bytes, %v", n, err)
			}
			must(t, file.Close())
		}
		for i := 0; i < 40; i += 10 {
			must(t, os.Rename(name(i), name(i+100)))
			must(t, os.Remove(name(i+2)))
		}
		found += contents(t, p.mountPoint)
		p.end(t)
		return found + contents(t, p.directory)
	})
}
