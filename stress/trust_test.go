//go:build linux

package stress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/stress/badfs"
)

// fuseKinds are the ways in which a FUSE server has its files cached.
var fuseKinds = []struct {
	name   string
	direct bool // read and written past the page cache
	mapped bool // maps can be had by name
	badfs.Options
}{
	{"cached", false, true, badfs.Options{Revalidate: true}},
	{"cached, with collected writes", false, true, badfs.Options{Revalidate: true, Writeback: true}},
	{"direct", true, false, badfs.Options{Revalidate: true}},
	{"direct with maps", true, true, badfs.Options{Revalidate: true, DirectMaps: true}},
}

// auto is a configuration as programs have it that say nothing of maps.
func auto(c config) memmapfs.Config {
	c.Mapping = memmapfs.MapAuto
	return c.Config
}

func create(t testing.TB, m *mounted, name string, direct bool) {
	t.Helper()
	if direct {
		must(t, m.CreateUnmappable(name, fileSize))
	} else {
		must(t, m.Create(name, fileSize))
	}
}

// Catches bytes of a map that the server has changed since: of a FUSE file each call is to give what the
// plain file gives.
func TestServerChangesContents(t *testing.T) {
	for _, kind := range fuseKinds {
		t.Run(kind.name, func(t *testing.T) {
			m := mount(t, kind.Options)
			for i, c := range configs() {
				name := fmt.Sprint("file", i)
				create(t, m, name, kind.direct)
				flags := os.O_RDONLY
				if i%2 == 1 {
					flags = os.O_RDWR
				}
				plain := open(t, plainFileSystem(t), m.name(name), flags)
				mapped := openMapped(t, auto(c), m.name(name), flags)
				for round := range int64(4) {
					for range 100 { // a map would be made meanwhile
						if _, err := mapped.ReadAt(make([]byte, 64), 5*pageSize); err != nil {
							t.Fatal(err)
						}
					}
					sameAnswers(t, c.name, plain, mapped)
					if err := mapped.MappingError(); !errors.Is(err, memmapfs.ErrNotMapped) {
						t.Errorf("%s: MappingError: %v, want ErrNotMapped", c.name, err)
					}
					err := mapped.View(0, 10, func([]byte) error { return nil })
					if kind.mapped && err != nil || !kind.mapped && !errors.Is(err, memmapfs.ErrNotMapped) {
						t.Errorf("%s: View: %v", c.name, err)
					}
					must(t, m.Replace(name, fileSize+1+round))
					sameAnswers(t, c.name+", contents changed", plain, mapped)
				}
			}
		})
	}
}

// sameAnswers compares what both files have, all over and to the end.
func sameAnswers(t *testing.T, when string, plain, mapped absfs.File) {
	t.Helper()
	for _, s := range spans() {
		var answers [2]string
		for i, file := range []absfs.File{plain, mapped} {
			p := make([]byte, s.n)
			n, err := file.ReadAt(p, s.off)
			answers[i] = outcome(t, n, err, p)
		}
		if answers[0] != answers[1] {
			t.Fatalf("%s: %v: %s, want %s", when, s, answers[1], answers[0])
		}
	}
	var all [2][]byte
	for i, file := range []absfs.File{plain, mapped} {
		_, err := file.Seek(0, io.SeekStart)
		must(t, err)
		all[i], err = io.ReadAll(struct{ io.Reader }{file})
		must(t, err)
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Fatalf("%s: Read to the end gives other bytes", when)
	}
}

// Catches a WriteAt that returns before its bytes are with the server.
func TestStoresReachTheServer(t *testing.T) {
	for _, kind := range fuseKinds {
		if kind.Writeback {
			continue // there the kernel keeps those of the plain file, too
		}
		t.Run(kind.name, func(t *testing.T) {
			m := mount(t, kind.Options)
			for i, c := range configs() {
				if c.Mode != memmapfs.ModeReadWrite {
					continue
				}
				name := fmt.Sprint("file", i)
				create(t, m, name, kind.direct)
				mapped := openMapped(t, auto(c), m.name(name), os.O_RDWR)
				mapped.View(0, 10, func([]byte) error { return nil })
				for round := range 100 {
					p := []byte(fmt.Sprintf("round %d", round))
					off := int64(round%3) * pageSize
					_, err := mapped.WriteAt(p, off)
					must(t, err)
					stored, err := m.Stored(name)
					must(t, err)
					if !bytes.Equal(stored[off:][:len(p)], p) {
						t.Fatalf("%s: the server has %q after WriteAt of %q", c.name, stored[off:][:len(p)], p)
					}
				}
			}
		})
	}
}

const inProcessVariable = "BADFS_IN_PROCESS"

// Catches a program that waits for itself: it serves the filesystem whose files it reads and writes, on
// one processor, and drops what the kernel has cached of them, so that an access through a map would
// wait for a server that cannot run.
func TestServerInTheSameProcess(t *testing.T) {
	if root := os.Getenv(inProcessVariable); root != "" {
		serveAndUse(t, root)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "mounted"), 0o755))
	limited, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	child := exec.CommandContext(limited, os.Args[0], "-test.run=^TestServerInTheSameProcess$", "-test.v")
	child.Env = append(os.Environ(), inProcessVariable+"="+root)
	output, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS") {
		t.Errorf("%v %v\n%s", err, limited.Err(), output)
	}
	exec.Command("umount", "-l", filepath.Join(root, "mounted")).Run()
}

func serveAndUse(t *testing.T, root string) {
	runtime.GOMAXPROCS(1)
	m := &mounted{directory: filepath.Join(root, "mounted"), socket: filepath.Join(root, "orders")}
	lifeline, end := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- badfs.Serve(m.directory, m.socket, badfs.Options{Revalidate: true}, lifeline) }()
	starting, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	m.Disk, err = badfs.Dial(starting, m.socket)
	must(t, err)
	for i, c := range configs() {
		name := fmt.Sprint("file", i)
		must(t, m.Create(name, fileSize))
		file := openMapped(t, auto(c), m.name(name), os.O_RDWR)
		p := make([]byte, 64)
		for round := range int64(300) {
			off := round * 37 % (fileSize - 64)
			_, err := file.ReadAt(p, off)
			must(t, err)
			if c.Mode != memmapfs.ModeReadOnly && c.Mode != memmapfs.ModeExecute {
				_, err = file.WriteAt(p, off)
				must(t, err)
			}
			if round%20 == 0 {
				must(t, m.Forget(name))
			}
		}
		must(t, file.Close())
	}
	m.Hangup()
	end.Close()
	must(t, <-ended)
}
