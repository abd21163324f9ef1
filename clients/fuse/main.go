//go:build linux

// Fuse shows a directory at a mount point, with the files mapped by memmapfs in one of the modes,
// or as they are. So any program can run on mapped files, and beside it on plain ones.
//
//	go run ./fuse -mode "read-write" directory mountpoint
//
// It serves until it is interrupted or the mount point is unmounted.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// plainMode is the name of the mode without maps.
const plainMode = "plain"

const mebibyte = 1 << 20

// longestRequest is the number of bytes that the kernel asks for at most. It is small, so that
// maps serve many requests: the longer one is, the less a map can save.
const longestRequest = 8 << 10

// modes are the configurations that files can be served in. Copy-on-write is for programs that
// only read: what they write is gone when the file is closed.
var modes = []struct {
	name   string
	config memmapfs.Config
}{
	{"default", *memmapfs.DefaultConfig()},
	{"windows", memmapfs.Config{SyncMode: memmapfs.SyncLazy, WindowSize: mebibyte, MaxWindows: 4}},
	{"execute", memmapfs.Config{Mode: memmapfs.ModeExecute, SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true, PopulatePages: true}},
	{"read-write", memmapfs.Config{Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true, PopulatePages: true}},
	{"read-write windows", memmapfs.Config{Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncPeriodic, SyncInterval: 100 * time.Millisecond, WindowSize: mebibyte, MaxWindows: 4}},
	{"copy-on-write", memmapfs.Config{Mode: memmapfs.ModeCopyOnWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true, PopulatePages: true}},
}

func modeNames() []string {
	names := []string{plainMode}
	for _, mode := range modes {
		names = append(names, mode.name)
	}
	return names
}

func main() {
	mode := flag.String("mode", "default", "how files are served: "+strings.Join(modeNames(), ", "))
	byFusefs := flag.Bool("fusefs", false, "serve by absfs's own fusefs")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: fuse [-mode name] [-fusefs] directory mountpoint\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(*mode, *byFusefs, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, "fuse:", err)
		os.Exit(1)
	}
}

// serve shows directory at mountPoint. Once programs can use it, it prints a line that begins
// with "serving".
func serve(mode string, byFusefs bool, directory, mountPoint string) (err error) {
	served, err := filesIn(mode)
	if err != nil {
		return err
	}
	files := &counted{FileSystem: served}
	if mapped, ok := served.(*memmapfs.MemMapFS); ok {
		defer func() { err = errors.Join(err, mapped.Close()) }()
	}
	directory, err = filepath.Abs(directory)
	if err != nil {
		return err
	}
	if err := notOnFUSE(directory); err != nil {
		return err
	}
	syscall.Umask(0) // the kernel has taken the program's into account
	if byFusefs {
		return serveByFusefs(files, directory, mountPoint)
	}
	root, err := newRoot(files, directory)
	if err != nil {
		return err
	}
	remember := time.Second // how long the kernel may believe what it was told of names and attributes
	server, err := fs.Mount(mountPoint, root, &fs.Options{
		EntryTimeout: &remember, AttrTimeout: &remember, NullPermissions: true,
		MountOptions: fuse.MountOptions{
			AllowOther: os.Getuid() == 0, Options: []string{"default_permissions"}, DirectMount: true,
			FsName: directory, Name: "memmapfs", MaxWrite: longestRequest, MaxReadAhead: longestRequest,
		},
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w", mountPoint, err)
	}
	fmt.Printf("serving %s at %s, mode %s\n", directory, mountPoint, mode)

	waitForEnd(server)
	files.report()
	return nil
}

// waitForEnd returns when the mount point is unmounted, by an interrupt or by others. An
// interrupt while programs use it does nothing.
func waitForEnd(server *fuse.Server) {
	ended := make(chan struct{})
	go func() {
		server.Wait()
		close(ended)
	}()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	for {
		select {
		case <-ended:
			return
		case <-interrupts:
			unmounted := make(chan error, 1)
			go func() { unmounted <- server.Unmount() }()
			select {
			case err := <-unmounted:
				if err != nil {
					fmt.Fprintln(os.Stderr, "fuse: unmount:", err)
				}
			case <-time.After(copiesEnd): // it is, here
				return
			}
		}
	}
}

// copiesEnd is how long after it is unmounted a filesystem is served on, for whoever has a copy
// of the mount: a process with a mount namespace made meanwhile may keep one for as long as it
// lives.
const copiesEnd = 2 * time.Second

// report prints how many of the reads and writes a map has served.
func (c *counted) report() {
	reads, writes := c.reads.Load(), c.writes.Load()
	var byMap struct{ reads, writes int64 }
	if mapped, ok := c.FileSystem.(*memmapfs.MemMapFS); ok {
		stats := mapped.Stats()
		byMap.reads = reads - stats.ReadsCold - stats.ReadsPastEnd - stats.ReadsUnmapped
		byMap.writes = writes - stats.WritesCold - stats.WritesPastEnd - stats.WritesUnmapped - stats.WritesFlushed
	}
	fmt.Printf("served %d reads, %d by maps; %d writes, %d by maps\n", reads, byMap.reads, writes, byMap.writes)
}

// filesIn returns the filesystem of the given mode.
func filesIn(mode string) (absfs.FileSystem, error) {
	plain, err := osfs.NewFS()
	if err != nil || mode == plainMode {
		return plain, err
	}
	for _, known := range modes {
		if known.name == mode {
			return memmapfs.New(plain, &known.config), nil
		}
	}
	return nil, fmt.Errorf("there is no mode %q; the modes are %q", mode, modeNames())
}

// notOnFUSE fails if directory is itself served by FUSE, perhaps by this program: a page fault in
// a map of such a file waits for its server while it keeps a thread of this one from the
// scheduler.
func notOnFUSE(directory string) error {
	const fuseSuperMagic = 0x65735546
	var stat syscall.Statfs_t
	if err := syscall.Statfs(directory, &stat); err != nil {
		return &os.PathError{Op: "statfs", Path: directory, Err: err}
	}
	if int64(stat.Type) == fuseSuperMagic {
		return fmt.Errorf("%s lies on FUSE, whose files must not be mapped by a server of FUSE", directory)
	}
	return nil
}
