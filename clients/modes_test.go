// Package clients_test runs code of others, unchanged, on files of memmapfs, and on the same files of
// the plain filesystem. What it finds there has to be the same.
//
// It is a module of its own, so that github.com/absfs/memmapfs does not depend on that code.
package clients_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

const mebibyte = 1 << 20

// modes are the configurations under which every client runs. In those with RequireMapping a file is
// mapped from the first byte on; in the others it is mapped in the middle of the work, once that pays.
var modes = []struct {
	name   string
	config memmapfs.Config
}{
	{"whole file", memmapfs.Config{SyncMode: memmapfs.SyncNever, MapFullFile: true}},
	{"whole file mapped at open", memmapfs.Config{SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true, PopulatePages: true}},
	{"windows", memmapfs.Config{SyncMode: memmapfs.SyncNever, WindowSize: mebibyte}},
	{"two windows mapped at open", memmapfs.Config{SyncMode: memmapfs.SyncNever, WindowSize: mebibyte, MaxWindows: 2, RequireMapping: true}},
	{"read-write", memmapfs.Config{Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true}},
	{"read-write windows", memmapfs.Config{Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncPeriodic, SyncInterval: 20 * time.Millisecond, WindowSize: mebibyte}},
	{"copy-on-write", memmapfs.Config{Mode: memmapfs.ModeCopyOnWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true}},
	{"copy-on-write windows", memmapfs.Config{Mode: memmapfs.ModeCopyOnWrite, SyncMode: memmapfs.SyncNever, WindowSize: mebibyte}},
}

// report is what a client has found, line by line.
type report []string

func (r *report) add(format string, arguments ...any) {
	*r = append(*r, fmt.Sprintf(format, arguments...))
}

// addContents adds the size and the digest of all that reader has.
func (r *report) addContents(name string, reader io.Reader) {
	digest := sha256.New()
	size, err := io.Copy(digest, reader)
	r.add("%s: %d bytes, %x, %v", name, size, digest.Sum(nil)[:8], err)
}

// client reads and writes files below dir, and reports what it has found. What depends on the place or
// the time has no place in a report.
type client func(t *testing.T, fileSystem absfs.FileSystem, dir string) report

// compareReads demands that client reports the same of the files below dir in every mode.
func compareReads(t *testing.T, dir string, client client) {
	t.Helper()
	name := osfs.FromNative(dir)
	want := client(t, plain(t), name)
	if len(want) == 0 {
		t.Fatal("the client has found nothing")
	}
	eachMode(t, func(t *testing.T, fileSystem absfs.FileSystem) {
		mustEqual(t, client(t, fileSystem, name), want)
	})
}

// compareWrites demands that client, which gets an empty directory, reports the same in every mode and
// leaves the same files behind.
func compareWrites(t *testing.T, client client) {
	t.Helper()
	run := func(t *testing.T, fileSystem absfs.FileSystem) report {
		dir := t.TempDir()
		found := client(t, fileSystem, osfs.FromNative(dir))
		left := tree(t, dir)
		if len(left) == 0 {
			t.Fatal("the client has left no files")
		}
		return append(found, left...)
	}
	want := run(t, plain(t))
	eachMode(t, func(t *testing.T, fileSystem absfs.FileSystem) {
		mustEqual(t, run(t, fileSystem), want)
	})
}

// eachMode runs test as a subtest in each mode, over the plain filesystem.
func eachMode(t *testing.T, test func(t *testing.T, fileSystem absfs.FileSystem)) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			fileSystem := memmapfs.New(plain(t), &mode.config)
			test(t, fileSystem)
			if err := fileSystem.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func plain(t *testing.T) absfs.FileSystem {
	t.Helper()
	fileSystem, err := osfs.NewFS()
	must(t, err)
	return fileSystem
}

// tree describes each file and directory below dir.
func tree(t *testing.T, dir string) report {
	t.Helper()
	var found report
	must(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			found.add("%s: %v", name, info.Mode())
			return nil
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		found.addContents(fmt.Sprintf("%s: %v", name, info.Mode()), file)
		return nil
	}))
	return found
}

func mustEqual(t *testing.T, got, want report) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		line := func(r report) string {
			if i < len(r) {
				return r[i]
			}
			return "nothing"
		}
		if line(got) != line(want) {
			t.Fatalf("line %d of the report:\n%s\nwith the plain file:\n%s", i+1, line(got), line(want))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a file for reading, until the test ends.
func open(t *testing.T, fileSystem absfs.FileSystem, name string) (file absfs.File, size int64) {
	t.Helper()
	file, err := fileSystem.Open(name)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	info, err := file.Stat()
	must(t, err)
	return file, info.Size()
}

// write makes a file, and what is written to it, through fileSystem.
func write(t *testing.T, fileSystem absfs.FileSystem, name string, write func(w absfs.File) error) {
	t.Helper()
	file, err := fileSystem.Create(name)
	must(t, err)
	must(t, write(file))
	must(t, file.Close())
}

// random returns a source with a fixed seed: every mode has to be asked the same.
func random() *rand.Rand { return rand.New(rand.NewPCG(9, 5)) }

// noise returns bytes that do not compress; text returns some that do.
func noise(size int) []byte {
	data := make([]byte, size)
	source := random()
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	return data
}

func text(size int) []byte {
	words := []string{"map ", "page ", "window ", "file ", "fault ", "sync\n"}
	source := random()
	data := make([]byte, 0, size+8)
	for len(data) < size {
		data = append(data, words[source.IntN(len(words))]...)
	}
	return slices.Clip(data[:size])
}
