package durability_test

import (
	"path/filepath"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// Catches a Sync, a Close or an interval that leaves stores into a region to a power cut, and a size
// that is not durable with them.
func TestSharedPowerCut(t *testing.T) {
	d := testkit.NewDisk(t)
	for _, test := range []struct {
		name    string
		config  memmapfs.SharedMemoryConfig
		flush   func(region *memmapfs.SharedMemory) error
		durable bool
	}{
		{"Sync", memmapfs.SharedMemoryConfig{SyncMode: memmapfs.SyncNever}, (*memmapfs.SharedMemory).Sync, true},
		{"Close in SyncLazy", memmapfs.SharedMemoryConfig{SyncMode: memmapfs.SyncLazy}, (*memmapfs.SharedMemory).Close, true},
		{"Close in SyncImmediate", memmapfs.SharedMemoryConfig{}, (*memmapfs.SharedMemory).Close, true},
		{"nothing", memmapfs.SharedMemoryConfig{SyncMode: memmapfs.SyncNever},
			func(*memmapfs.SharedMemory) error { return nil }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			size := 5*testkit.PageSize + 7
			reliable := false
			for attempt := 0; attempt < 3 && !reliable; attempt++ {
				config := test.config
				config.Path, config.Size = filepath.Join(d.Dir, "region"), testkit.PageSize
				first := testkit.CreateRegion(t, config)
				d.Settle(t)
				config.Size = size
				region := testkit.CreateRegion(t, config)
				want := testkit.Content(int(size))
				copy(region.Data(), want)
				if err := test.flush(region); err != nil {
					t.Fatal(err)
				}
				difference := ""
				reliable = d.Cut(t, func(dir string) {
					difference = testkit.FirstDifference(testkit.MustReadFile(t, filepath.Join(dir, "region")), want)
				})
				if reliable && (difference == "") != test.durable {
					t.Errorf("after a power cut: %q; durable should be %v", difference, test.durable)
				}
				region.Close()
				if err := first.Remove(); err != nil {
					t.Fatal(err)
				}
			}
			if !reliable {
				t.Fatal("the kernel keeps writing back by itself: nothing can be said")
			}
		})
	}
}
