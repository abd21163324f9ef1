package contract_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
)

// Catches a page that is read by a fault although nobody asked for that, and ColdReads without effect.
func TestColdReads(t *testing.T) {
	if testkit.InMemory(os.TempDir()) {
		t.Skip("the files are in memory")
	}
	data := testkit.Content(int(256 * testkit.PageSize))
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
	for _, coldReads := range []bool{false, true} {
		config := memmapfs.DefaultConfig()
		config.ColdReads = coldReads
		fileSystem := testkit.Mode{Config: config}.OverOS(t)
		file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
		if err := testkit.DropFromCache(name); err != nil || !testkit.Mappable() {
			t.Skip("the file cannot be made cold, or is not mapped:", err)
		}
		testkit.ForceMap(file)
		p := make([]byte, 64)
		for page := int64(0); page < 256; page += 16 {
			if _, err := file.ReadAt(p, page*testkit.PageSize); err != nil || !bytes.Equal(p, data[page*testkit.PageSize:][:len(p)]) {
				t.Fatalf("page %d: %v", page, err)
			}
		}
		throughFile := fileSystem.(*memmapfs.MemMapFS).Stats().ReadsCold
		if coldReads && throughFile > 0 || !coldReads && throughFile == 0 {
			t.Errorf("ColdReads %v: %d reads through the file", coldReads, throughFile)
		}
	}
}

// Long reads go through the map and through the file by turns, and nobody may see which.
func TestLongReads(t *testing.T) {
	data := testkit.Content(3<<20 + 5)
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
	var throughFile, calls int
	observed := watched.New()
	observed.ReadAt = func(int, int64) { throughFile++ }
	file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.Over(t, observed).(*memmapfs.MemMapFS), name, os.O_RDONLY)
	if testkit.ForceMap(file); !file.Mapped() {
		return
	}
	if _, err := io.Copy(io.Discard, io.NewSectionReader(file, 0, int64(len(data)))); err != nil { // all pages are known
		t.Fatal(err)
	}
	throughFile = 0
	random := rand.New(rand.NewPCG(1, 2))
	for ; calls < 200; calls++ {
		p := make([]byte, 128<<10+random.IntN(2<<20))
		off := random.IntN(len(data) + 10)
		want := data[min(off, len(data)):]
		want = want[:min(len(want), len(p))]
		n, err := file.ReadAt(p, int64(off))
		if !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p)) {
			t.Fatalf("%d bytes at %d: %d, %v; want %d", len(p), off, n, err, len(want))
		}
	}
	if throughFile == 0 || throughFile == calls {
		t.Errorf("%d of %d reads went through the file", throughFile, calls)
	}
}
