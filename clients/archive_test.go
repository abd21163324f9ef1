package clients_test

import (
	"archive/tar"
	"archive/zip"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"

	"github.com/absfs/absfs"
)

// members are what is put into archives: sizes around the window of 1 MiB, stored and compressed.
var members = []struct {
	name   string
	method uint16
	data   []byte
}{
	{"empty", zip.Store, nil},
	{"stored/small", zip.Store, noise(100)},
	{"stored/large", zip.Store, noise(5*mebibyte + 1)},
	{"deflated/small", zip.Deflate, text(3000)},
	{"deflated/large", zip.Deflate, text(9 * mebibyte)},
	{"deflated/noise", zip.Deflate, noise(2 * mebibyte)},
}

func writeZip(w io.Writer) error {
	archive := zip.NewWriter(w)
	for _, member := range members {
		entry, err := archive.CreateHeader(&zip.FileHeader{Name: member.name, Method: member.method})
		if err != nil {
			return err
		}
		if _, err := entry.Write(member.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

// Members are read one after the other, and all at the same time, through one open file.
func TestZipReader(t *testing.T) {
	dir := t.TempDir()
	native, err := os.Create(filepath.Join(dir, "archive.zip"))
	must(t, err)
	must(t, writeZip(native))
	must(t, native.Close())

	compareReads(t, dir, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		file, size := open(t, fileSystem, path.Join(dir, "archive.zip"))
		archive, err := zip.NewReader(file, size)
		must(t, err)
		var found report
		read := func(member *zip.File) (found report) {
			contents, err := member.Open()
			if err != nil {
				found.add("%s: %v", member.Name, err)
				return found
			}
			defer contents.Close()
			found.addContents(member.Name, contents)
			return found
		}
		for _, member := range archive.File {
			found = append(found, read(member)...)
		}
		together := make([]report, 4*len(archive.File))
		var group sync.WaitGroup
		for i := range together {
			group.Add(1)
			go func() {
				defer group.Done()
				together[i] = read(archive.File[i%len(archive.File)])
			}()
		}
		group.Wait()
		for _, one := range together {
			found = append(found, one...)
		}
		// zip.Reader is an io/fs filesystem itself.
		contents, err := archive.Open("deflated")
		must(t, err)
		info, err := contents.Stat()
		found.add("%v, %v", info.IsDir(), err)
		return found
	})
}

func TestZipWriter(t *testing.T) {
	compareWrites(t, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		name := path.Join(dir, "archive.zip")
		write(t, fileSystem, name, func(file absfs.File) error { return writeZip(file) })
		return nil
	})
}

// A tar archive is made of a tree by AddFS, and read again with seeks over the members.
func TestTar(t *testing.T) {
	dir := t.TempDir()
	for _, member := range members {
		name := filepath.Join(dir, "tree", member.name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, member.data, 0o644))
	}
	made := 0
	compareReads(t, dir, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		files, err := fileSystem.Sub(path.Join(dir, "tree"))
		must(t, err)
		made++
		name := path.Join(dir, fmt.Sprintf("archive %d.tar", made))
		write(t, fileSystem, name, func(file absfs.File) error {
			archive := tar.NewWriter(file)
			if err := archive.AddFS(files); err != nil {
				return err
			}
			return archive.Close()
		})
		file, _ := open(t, fileSystem, name)
		var found report
		archive := tar.NewReader(file)
		for {
			header, err := archive.Next()
			if err == io.EOF {
				break
			}
			must(t, err)
			found.add("%s: %d bytes, %v", header.Name, header.Size, header.FileInfo().Mode())
			if header.Name != "stored/large" { // Next seeks over it
				found.addContents(header.Name, archive)
			}
		}
		return found
	})
}
