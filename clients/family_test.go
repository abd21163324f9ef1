package clients_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/basefs"
	"github.com/absfs/cowfs"
	"github.com/absfs/encryptfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/metricsfs"
	"github.com/absfs/osfs"
	"github.com/absfs/ptfs"
	"github.com/absfs/rofs"
)

// family are more filesystems of absfs that wrap another one: those that pass calls on, count
// them, refuse them, or send them to one of two places.
var family = []wrapper{
	{name: "ptfs", steps: 300, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		wrapped, err := ptfs.NewFS(base)
		return wrapped, dir, err
	}},
	{name: "metricsfs", steps: 300, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		return metricsfs.New(base), dir, nil
	}},
	{name: "rofs", steps: 300, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		if err := someFiles(dir); err != nil {
			return nil, "", err
		}
		wrapped, err := rofs.NewFS(withLinks(base))
		return absfs.ExtendFiler(wrapped), dir, err
	}},
	{name: "cowfs", steps: 300, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
		var layers [2]absfs.FileSystem
		for i, name := range []string{"primary", "secondary"} {
			layer := path.Join(dir, name)
			if err := base.Mkdir(layer, 0o755); err != nil {
				return nil, "", err
			}
			var err error
			if layers[i], err = basefs.NewFileSystem(base, layer); err != nil {
				return nil, "", err
			}
		}
		err := someFiles(path.Join(dir, "primary"))
		return absfs.ExtendFiler(cowfs.New(layers[0], layers[1])), "/", err
	}},
}

// someFiles makes files with the names that the random calls use.
func someFiles(dir string) error {
	for i := range 3 {
		name := filepath.Join(osfs.ToNative(dir), fmt.Sprintf("file %d", i))
		if err := os.WriteFile(name, noise(1+i*mebibyte*5/4), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withLinks gives a filesystem, if it has none, methods for symbolic links.
func withLinks(base absfs.FileSystem) absfs.SymlinkFileSystem {
	if linker, ok := base.(absfs.SymlinkFileSystem); ok {
		return linker
	}
	return absfs.ExtendSymlinkFiler(base)
}

func TestFamily(t *testing.T) {
	for _, wrapper := range family {
		wrapper.test(t, tree)
	}
}

// encryptfs keeps what is written in memory until a flush, and encrypts it with other salt each
// time.
var encrypted = wrapper{name: "encryptfs", careful: true, steps: 150, flushed: true, wrap: func(base absfs.FileSystem, dir string) (absfs.FileSystem, string, error) {
	wrapped, err := newEncrypted(base, 0)
	return wrapped, dir, err
}}

// newEncrypted encrypts files as a whole, or in chunks of a size.
func newEncrypted(base absfs.FileSystem, chunkSize int) (absfs.FileSystem, error) {
	return encryptfs.New(base, &encryptfs.Config{
		Cipher: encryptfs.CipherAES256GCM, ChunkSize: chunkSize, EnableSeek: chunkSize > 0,
		KeyProvider: encryptfs.NewPasswordKeyProviderPBKDF2([]byte("a password"), encryptfs.PBKDF2Params{
			Iterations: 1, HashFunc: encryptfs.SHA256, SaltSize: 32, KeySize: 32,
		}),
	})
}

func TestEncrypted(t *testing.T) {
	encrypted.test(t, func(t *testing.T, dir string) report { return decrypted(t, dir, 0) })
}

// decrypted is what is in the files below dir, read without a map.
func decrypted(t *testing.T, dir string, chunkSize int) (found report) {
	t.Helper()
	files, err := newEncrypted(plain(t), chunkSize)
	must(t, err)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, entry := range entries {
		file, err := files.Open(osfs.FromNative(filepath.Join(dir, entry.Name())))
		if err != nil {
			found.add("%s: %s", entry.Name(), class(err))
			continue
		}
		found.addContents(entry.Name(), file)
		must(t, file.Close())
	}
	return found
}

// Files that are encrypted in chunks are written once and read anywhere: more is beyond encryptfs
// 0.9.0, which panics. No plain text may reach the disk, above all not through a map over
// encryptfs.
func TestEncryptedChunks(t *testing.T) {
	const chunkSize = 64 << 10
	data := text(mebibyte + 12_345)
	client := func(t *testing.T, fileSystem absfs.FileSystem, dir string) (found report) {
		name := path.Join(osfs.FromNative(dir), "file")
		write(t, fileSystem, name, func(w absfs.File) error {
			_, err := w.Write(data)
			return err
		})
		file, _ := open(t, fileSystem, name)
		source := random()
		for range 300 {
			off := source.IntN(len(data) - 5000)
			p := make([]byte, 1+source.IntN(5000))
			n, err := file.ReadAt(p, int64(off))
			found.add("read %d at %d: %d, %s, %x", len(p), off, n, class(err), sum(p[:n]))
			if string(p[:n]) != string(data[off:off+n]) {
				t.Fatalf("other bytes at %d", off)
			}
		}
		must(t, file.Close())
		onDisk, err := os.ReadFile(filepath.Join(dir, "file"))
		must(t, err)
		if bytes.Contains(onDisk, data[:32]) || len(onDisk) <= len(data) {
			t.Fatal("plain text on the disk")
		}
		return append(found, decrypted(t, dir, chunkSize)...)
	}
	over, err := newEncrypted(plain(t), chunkSize)
	must(t, err)
	want := client(t, over, t.TempDir())
	eachMode(t, func(t *testing.T, fileSystem absfs.FileSystem) {
		over, err := newEncrypted(fileSystem, chunkSize)
		must(t, err)
		mustEqual(t, client(t, over, t.TempDir()), want)
	})
	for _, mode := range modes {
		if mode.config.RequireMapping || mode.config.Mode == memmapfs.ModeCopyOnWrite {
			continue // there is nothing to map, nor an empty file: a new one has a header
		}
		t.Run("under "+mode.name, func(t *testing.T) {
			encrypted, err := newEncrypted(plain(t), chunkSize)
			must(t, err)
			mapped := memmapfs.New(encrypted, &mode.config)
			mustEqual(t, client(t, mapped, t.TempDir()), want)
			must(t, mapped.Close())
		})
	}
}

// flipped is a filesystem whose files embed *os.File, with the methods for its descriptor, and
// change what is read and written. No map may show what is on the disk, nor store there what is
// not to be seen.
type flipped struct{ absfs.FileSystem }

type flippedFile struct{ *os.File }

func flip(p []byte) []byte {
	for i := range p {
		p[i] ^= 0x5a
	}
	return p
}

func (f flippedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	flip(p[:n])
	return n, err
}

func (f flippedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	flip(p[:n])
	return n, err
}

func (f flippedFile) Write(p []byte) (int, error) { return f.File.Write(flip(bytes.Clone(p))) }

func (f flippedFile) WriteAt(p []byte, off int64) (int, error) {
	return f.File.WriteAt(flip(bytes.Clone(p)), off)
}

func (f flippedFile) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

func (f flipped) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := os.OpenFile(osfs.ToNative(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return flippedFile{file}, nil
}

func (f flipped) Open(name string) (absfs.File, error) { return f.OpenFile(name, os.O_RDONLY, 0) }

func (f flipped) Create(name string) (absfs.File, error) {
	return f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// Many small calls at the same place are what makes a map pay.
func TestEmbeddedFile(t *testing.T) {
	const calls, size = 500, 4 * mebibyte
	client := func(t *testing.T, fileSystem absfs.FileSystem, dir string) (found report) {
		name := path.Join(osfs.FromNative(dir), "file")
		must(t, os.WriteFile(osfs.ToNative(name), noise(size), 0o644))
		file, err := fileSystem.OpenFile(name, os.O_RDWR, 0)
		if errors.Is(err, memmapfs.ErrNotMapped) {
			t.Skip("a map that is required is refused, too")
		}
		must(t, err)
		source := random()
		p := make([]byte, 64)
		for range calls {
			off := mebibyte/2 + source.Int64N(3*4096)
			n, err := file.ReadAt(p, off)
			found.add("read at %d: %d, %s, %x", off, n, class(err), p[:n])
		}
		for i := range calls {
			off := mebibyte/2 + source.Int64N(3*4096)
			n, err := file.WriteAt([]byte("written in plain"), off)
			found.add("write at %d: %d, %s", off, n, class(err))
			if i%5 == 0 {
				n, err = file.ReadAt(p, off-8)
				found.add("read at %d: %d, %s, %x", off-8, n, class(err), p[:n])
			}
		}
		must(t, file.Close())
		return append(found, tree(t, dir)...)
	}
	want := client(t, flipped{plain(t)}, t.TempDir())
	for _, mode := range modes {
		if mode.config.Mode == memmapfs.ModeCopyOnWrite {
			continue // what is written is not on the disk
		}
		t.Run(mode.name, func(t *testing.T) {
			mapped := memmapfs.New(flipped{plain(t)}, &mode.config)
			defer mapped.Close()
			mustEqual(t, client(t, mapped, t.TempDir()), want)
		})
	}
}
