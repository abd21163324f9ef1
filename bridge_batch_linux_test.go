package memmapfs_test

import (
	"os"
	"slices"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/memmapfs/internal/testkit/watched"
)

// Catches a batch that waits for each of its cold reads before it asks for the next, that asks for what
// is in memory, and that reads what is in memory through the file.
func TestReadBatchAsksAhead(t *testing.T) {
	testkit.NeedMaps(t)
	var calls []int64 // offsets asked for; those read are negative
	restore := memmapfs.HookReadAhead(func(call func(fd uintptr, offset, length int64) error) func(fd uintptr, offset, length int64) error {
		return func(fd uintptr, offset, length int64) error {
			calls = append(calls, offset)
			return call(fd, offset, length)
		}
	})
	defer restore()
	observed := watched.New()
	observed.ReadAt = func(_ int, off int64) { calls = append(calls, -off) }
	name, data := testkit.ColdFile(t), testkit.Content(testkit.ColdFileSize)
	fileSystem := testkit.Mode{Config: memmapfs.DefaultConfig()}.Over(t, observed).(*memmapfs.MemMapFS)
	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
	testkit.ForceMap(file)

	batchAt := func(offs ...int64) []int64 {
		t.Helper()
		calls = nil
		batch := make([]memmapfs.ReadRequest, len(offs))
		for i, off := range offs {
			batch[i] = memmapfs.ReadRequest{P: make([]byte, 16), Off: off}
		}
		if err := file.ReadBatch(batch); err != nil {
			t.Fatal(err)
		}
		for _, r := range batch {
			testkit.MustEqual(t, "a read", r.P, data[r.Off:][:16])
		}
		return calls
	}
	a, b, c := 8*testkit.PageSize, 24*testkit.PageSize, 40*testkit.PageSize
	if got, want := batchAt(a, b, c), []int64{a, b, c, -a, -b, -c}; !slices.Equal(got, want) {
		t.Errorf("cold: calls at %d, want all asked for and then read, %d", got, want)
	}
	testkit.ReadAll(t, file)
	testkit.ReadAll(t, file)
	if got := batchAt(a, b, c); len(got) > 0 {
		t.Errorf("hot: calls at %d, want none", got)
	}
}
