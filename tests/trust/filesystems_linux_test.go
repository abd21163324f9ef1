package trust_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// eachKind runs a test on each kind of filesystem, with a file of 2 MiB.
func eachKind(t *testing.T, test func(t *testing.T, native string, data []byte, readOnly, lends bool)) {
	data := testkit.Content(2 << 20)
	for _, kind := range testkit.Kinds {
		t.Run(kind.Name, func(t *testing.T) {
			dir := testkit.MountKind(t, kind.Name, map[string][]byte{"file": data})
			test(t, filepath.Join(dir, "file"), data, kind.ReadOnly, kind.Lends)
		})
	}
}

// Catches a kind of filesystem that is mapped although a map of it may show other bytes, one that is
// not although it never does, and a policy without effect.
func TestPolicyOnEachFilesystem(t *testing.T) {
	eachKind(t, func(t *testing.T, native string, data []byte, _, lends bool) {
		for _, test := range []struct {
			mapping memmapfs.MappingPolicy
			served  bool
		}{{memmapfs.MapAuto, lends}, {memmapfs.MapAlways, true}, {memmapfs.MapNever, false}} {
			t.Run(test.mapping.String(), func(t *testing.T) {
				fileSystem := policy(test.mapping, memmapfs.ModeReadOnly).OverOS(t)
				p := openPair(t, fileSystem, osfs.FromNative(native), os.O_RDONLY)
				p.warm()
				mustServe(t, fileSystem, p.mapped, test.served)
				err := p.mapped.MappingError()
				if test.served != (err == nil) || err != nil && !errors.Is(err, memmapfs.ErrNotMapped) {
					t.Errorf("MappingError: %v", err)
				}
				stats := fileSystem.(*memmapfs.MemMapFS).Stats()
				wantPolicy, wantKind := int64(0), int64(0)
				switch {
				case test.mapping == memmapfs.MapNever:
					wantPolicy = 1
				case !test.served:
					wantKind = 1
					if !strings.Contains(err.Error(), "MapAlways") {
						t.Errorf("MappingError does not say what can be done: %v", err)
					}
				}
				if stats.NotMappedPolicy != wantPolicy || stats.NotMappedFilesystem != wantKind {
					t.Errorf("Stats: %d by policy, %d by filesystem; want %d, %d", stats.NotMappedPolicy, stats.NotMappedFilesystem, wantPolicy, wantKind)
				}
				p.sameAt("mapped", 5, 3000)
				p.sameAt("mapped", int64(len(data))-7, 30)
				// Who asks by name gets a map, and nothing is served from it that was not before.
				seen, err := viewAll(p.mapped, len(data))
				if err != nil {
					t.Fatal("View:", err)
				}
				testkit.MustEqual(t, "View", seen, data)
				testkit.MustEqual(t, "Data", p.mapped.Data(), data)
				mustServe(t, fileSystem, p.mapped, test.served)
			})
		}
	})
}

// Catches a handle opened for writing on overlayfs that is not mapped: it was copied up at its open.
func TestStoresOnEachFilesystem(t *testing.T) {
	eachKind(t, func(t *testing.T, native string, data []byte, readOnly, lends bool) {
		if readOnly || strings.Contains(t.Name(), "hugetlbfs") {
			return // nothing can be written to by calls
		}
		fileSystem := policy(memmapfs.MapAuto, memmapfs.ModeReadWrite).OverOS(t)
		p := openPair(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
		p.warm()
		mustServe(t, fileSystem, p.mapped, !strings.Contains(t.Name(), "fuse"))
		for i := range rounds {
			if _, err := p.mapped.WriteAt([]byte{byte(i), 1, 2, byte(i)}, int64(i)*100); err != nil {
				t.Fatal(err)
			}
			p.sameAt("written", int64(i)*100-2+2, 8)
		}
		p.sameAt("written", 0, rounds*100)
		other := testkit.Content(len(data) + 4096)[4096:]
		rewrite(t, native, other)
		p.sameAt("rewritten", 0, 100_000)
	})
}

// Catches bytes of yesterday on overlayfs, whose files become other ones when they are first opened for
// writing: by the program itself, by another, by the same MemMapFS; before the map was made, and after.
func TestOverlayCopiedUp(t *testing.T) {
	old := testkit.Content(4*int(testkit.PageSize) + 100)
	changes := []struct {
		name   string
		change func(t *testing.T, fileSystem *memmapfs.MemMapFS, native string) []byte
	}{
		{"rewritten by another", func(t *testing.T, _ *memmapfs.MemMapFS, native string) []byte {
			data := testkit.Content(len(old) + 1)[1:]
			rewrite(t, native, data)
			return data
		}},
		{"rewritten by another, its time set back", func(t *testing.T, _ *memmapfs.MemMapFS, native string) []byte {
			info, err := os.Stat(native)
			if err != nil {
				t.Fatal(err)
			}
			data := testkit.Content(len(old) + 1)[1:]
			rewrite(t, native, data)
			if err := os.Chtimes(native, info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
			return data
		}},
		{"grown by another", func(t *testing.T, _ *memmapfs.MemMapFS, native string) []byte {
			data := testkit.Content(3 * len(old))
			rewrite(t, native, data)
			return data
		}},
		{"cut by another", func(t *testing.T, _ *memmapfs.MemMapFS, native string) []byte {
			if err := os.Truncate(native, 500); err != nil {
				t.Fatal(err)
			}
			return bytes.Clone(old[:500])
		}},
		{"rewritten by the same MemMapFS", func(t *testing.T, fileSystem *memmapfs.MemMapFS, native string) []byte {
			data := testkit.Content(len(old) + 1)[1:]
			file := testkit.MustOpen(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
			for range rounds {
				if _, err := file.WriteAt(data, 0); err != nil {
					t.Fatal(err)
				}
			}
			return testkit.ReadNative(t, osfs.FromNative(native)) // all old, in ModeCopyOnWrite
		}},
		{"stored to by another MemMapFS", func(t *testing.T, _ *memmapfs.MemMapFS, native string) []byte {
			data := testkit.Content(len(old) + 1)[1:]
			other := testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t)
			file := testkit.MustOpenMapped(t, other, osfs.FromNative(native), os.O_RDWR)
			if err := file.View(0, int64(len(data)), func(b []byte) error { copy(b, data); return nil }); err != nil {
				t.Fatal(err)
			}
			return data
		}},
	}
	modes := []testkit.Mode{}
	for _, m := range testkit.Modes {
		if !m.Plain() {
			modes = append(modes, m)
		}
	}
	for _, m := range modes {
		files := make(map[string][]byte)
		for _, change := range changes {
			for _, first := range []string{"unmapped ", "mapped "} {
				for _, offers := range []string{"", "*os.File ", "embedding "} {
					files[first+offers+change.name] = old
				}
			}
		}
		t.Run(m.Name, func(t *testing.T) {
			dir := testkit.MountKind(t, "overlay", files)
			for _, change := range changes {
				for _, first := range []string{"unmapped ", "mapped "} {
					for _, offers := range []string{"", "*os.File ", "embedding "} {
						native := filepath.Join(dir, first+offers+change.name)
						fileSystem := m.OverOS(t).(*memmapfs.MemMapFS)
						if wrap := offering[offers]; wrap != nil {
							fileSystem = m.Over(t, openingFiles{testkit.PlainFileSystem(t), wrap}).(*memmapfs.MemMapFS)
						}
						p := openPair(t, fileSystem, osfs.FromNative(native), os.O_RDONLY)
						when := first + offers + change.name
						p.warm()
						if first == "mapped " {
							testkit.ForceMap(p.mapped)
							if _, err := viewAll(p.mapped, len(old)); err != nil {
								t.Fatal(err)
							}
						}
						data := change.change(t, fileSystem, native)
						p.same(when)
						p.warm()
						p.same(when)
						checkLent(t, when, p.mapped, data, !m.Windowed())
						rewrite(t, native, []byte("once more"))
						p.same(when + ", once more")
						copy(data, "once more")
						checkLent(t, when+", once more", p.mapped, data, !m.Windowed())
						p.mapped.Close()
						p.plain.Close()
					}
				}
			}
		})
	}
}

// offering are the ways in which wrapped files offer their descriptor.
var offering = map[string]func(file *os.File) absfs.File{
	"*os.File ":  asItIs,
	"embedding ": func(file *os.File) absfs.File { return embedding{file} },
}

// checkLent compares what View and Data show with today's file.
func checkLent(t *testing.T, when string, file *memmapfs.MappedFile, data []byte, whole bool) {
	t.Helper()
	seen, err := viewAll(file, len(data))
	if err != nil {
		t.Errorf("%s: View: %v", when, err)
	} else if difference := testkit.FirstDifference(seen, data); difference != "" {
		t.Errorf("%s: View: %s", when, difference)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	lent := file.Data()
	if !whole {
		data = data[:min(len(lent), len(data))]
	}
	if difference := testkit.FirstDifference(lent, data); difference != "" || len(lent) == 0 {
		t.Errorf("%s: Data: %s", when, difference)
	}
}

// Catches a region of yesterday: one that was opened before its file was copied up.
func TestOverlayRegion(t *testing.T) {
	old := testkit.Content(2 * int(testkit.PageSize))
	dir := testkit.MountKind(t, "overlay", map[string][]byte{"region": old, "created": old})
	native := filepath.Join(dir, "region")
	region, err := memmapfs.OpenSharedMemory(native, false)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	testkit.MustEqual(t, "the region", region.Data(), old)
	data := testkit.Content(len(old) + 1)[1:]
	rewrite(t, native, data)
	testkit.MustEqual(t, "the region after its file was copied up", region.Data(), data)
	created, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: filepath.Join(dir, "created"), Size: int64(len(old))})
	if err != nil {
		t.Fatal(err)
	}
	defer created.Close()
	rewrite(t, filepath.Join(dir, "created"), data)
	testkit.MustEqual(t, "a region that can be stored to", created.Data(), data)
}
