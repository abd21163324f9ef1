package durability_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"golang.org/x/sys/unix"
)

// TestPowerCut catches every promise of durability that is not kept: after each way to write, at the
// moment when its bytes and the file's size are promised to be durable, the power is cut.
func TestPowerCut(t *testing.T) {
	d := testkit.NewDisk(t)
	for _, mapping := range testkit.Mappings {
		for _, moment := range testkit.Moments {
			t.Run(mapping.Name+"/"+moment.Name, func(t *testing.T) {
				for _, ways := range testkit.Together(mapping, moment) {
					for way, difference := range d.Lose(t, mapping, moment, ways) {
						if difference != "" {
							t.Errorf("%s: %s", way, difference)
						}
					}
				}
			})
		}
	}
}

// TestPowerCutLosesUnsynced proves that the disk of these tests loses what nobody flushed: else every
// promise would seem to be kept. It also catches a SyncNever that flushes, at the price it is there to
// avoid.
func TestPowerCutLosesUnsynced(t *testing.T) {
	d := testkit.NewDisk(t)
	closed := testkit.Moment{
		SyncMode: memmapfs.SyncNever,
		Covers:   testkit.Everything,
		Reach:    func(t *testing.T, file *memmapfs.MappedFile, _ testkit.Written) { testkit.MustClose(t, file) },
	}
	for _, mapping := range testkit.Mappings {
		if !mapping.Thorough {
			continue
		}
		t.Run(mapping.Name, func(t *testing.T) {
			for _, ways := range testkit.Together(mapping, closed) {
				for way, difference := range d.Lose(t, mapping, closed, ways) {
					if difference == "" {
						t.Errorf("%s: what was not flushed has survived the power cut", way)
					}
				}
			}
		})
	}
	t.Run("written to the disk, the disk not flushed", func(t *testing.T) {
		name := filepath.Join(d.Dir, "direct")
		if err := os.WriteFile(name, make([]byte, testkit.PageSize), 0o600); err != nil {
			t.Fatal(err)
		}
		d.Settle(t)
		file, err := os.OpenFile(name, os.O_WRONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		aligned, err := unix.Mmap(-1, 0, int(testkit.PageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(aligned)
		copy(aligned, "bytes")
		if _, err := file.WriteAt(aligned, 0); err != nil {
			t.Fatal(err)
		}
		d.Cut(t, func(dir string) {
			if bytes.Equal(testkit.MustReadFile(t, filepath.Join(dir, "direct")), aligned) {
				t.Error("what lay in the disk's cache has survived the power cut")
			}
		})
	})
}
