package clients_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/absnfs"
	"github.com/absfs/basefs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	"github.com/willscott/go-nfs-client/nfs"
	"github.com/willscott/go-nfs-client/nfs/rpc"
)

// A tree served by absnfs is the same to a client of NFS, whether its files are mapped or not,
// and what the client writes is in the files. All is in a directory: the client asks for ".",
// which absnfs refuses, to make something in the root.
func TestNFS(t *testing.T) {
	client := func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		data := noise(2*mebibyte + 4321)
		must(t, os.Mkdir(filepath.Join(osfs.ToNative(dir), "tree"), 0o755))
		must(t, os.WriteFile(filepath.Join(osfs.ToNative(dir), "tree", "there"), data, 0o644))
		target := mountNFS(t, fileSystem, dir)
		var found report
		readNFS(t, target, "tree/there", int64(len(data)), &found)
		overwriteNFS(t, target, "tree/there", &found)
		readNFS(t, target, "tree/there", int64(len(data)), &found)

		_, err := target.Mkdir("tree/directory", 0o755)
		found.add("mkdir: %v", err)
		made, err := target.OpenFile("tree/directory/made", 0o644)
		must(t, err)
		for offset := 0; offset < len(data); offset += 50_000 {
			n, err := made.Write(data[offset:min(offset+50_000, len(data))])
			found.add("write at %d: %d, %v", offset, n, err)
		}
		must(t, made.Close())
		readNFS(t, target, "tree/directory/made", int64(len(data)), &found)
		must(t, target.Setattr("tree/directory/made", nfs.Sattr3{Size: nfs.SetSize{SetIt: true, Size: 123_456}}))
		readNFS(t, target, "tree/directory/made", 123_456, &found)
		must(t, target.Rename("tree/directory/made", "tree/moved"))
		must(t, target.RmDir("tree/directory"))
		return found
	}
	run := func(t *testing.T, fileSystem absfs.FileSystem) report {
		dir := t.TempDir()
		found := client(t, fileSystem, osfs.FromNative(dir))
		return append(found, tree(t, dir)...)
	}
	want := run(t, plain(t))
	for _, mode := range modes {
		if mode.config.Mode == memmapfs.ModeCopyOnWrite {
			continue // each request has a handle of its own, and what it writes is gone with it
		}
		t.Run(mode.name, func(t *testing.T) {
			fileSystem := memmapfs.New(plain(t), &mode.config)
			mustEqual(t, run(t, fileSystem), want)
			must(t, fileSystem.Close())
		})
	}
}

// mountNFS serves dir, an absfs name, on the loopback network until the end of the test.
func mountNFS(t *testing.T, fileSystem absfs.FileSystem, dir string) *nfs.Target {
	t.Helper()
	exported, err := basefs.NewFS(withLinks(fileSystem), dir)
	must(t, err)
	handler, err := absnfs.New(exported, absnfs.ExportOptions{Squash: "none"})
	must(t, err)
	server, err := absnfs.NewServer(absnfs.ServerOptions{Hostname: "127.0.0.1", UseRecordMarking: true})
	must(t, err)
	server.SetHandler(handler)
	must(t, server.Listen())
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		handler.Close()
	})
	client, err := rpc.DialTCP("tcp", fmt.Sprintf("127.0.0.1:%d", server.GetPort()), false)
	must(t, err)
	t.Cleanup(func() { client.Close() })
	mount := nfs.Mount{Client: client}
	target, err := mount.Mount("/", rpc.NewAuthUnix("client", 0, 0).Auth())
	must(t, err)
	return target
}

// readNFS reads all of a file, and parts of it.
func readNFS(t *testing.T, target *nfs.Target, name string, size int64, found *report) {
	t.Helper()
	file, err := target.Open(name)
	must(t, err)
	found.addContents(name, io.LimitReader(file, 2*size))
	source := random()
	for range 200 {
		p := make([]byte, 1+source.IntN(9000))
		off := source.Int64N(size)
		n, err := file.ReadAt(p, off)
		found.add("%s: read %d at %d: %d, %v, %x", name, len(p), off, n, err, sum(p[:n]))
	}
}

// overwriteNFS writes here and there, and past the end.
func overwriteNFS(t *testing.T, target *nfs.Target, name string, found *report) {
	t.Helper()
	file, err := target.OpenFile(name, 0o644)
	must(t, err)
	source := random()
	for i := range 60 {
		off := source.Int64N(2 * mebibyte)
		_, err := file.Seek(off, io.SeekStart)
		must(t, err)
		n, err := file.Write(noise(1 + i*97))
		found.add("%s: write %d at %d: %d, %v", name, 1+i*97, off, n, err)
	}
	must(t, file.Close())
}
