//go:build linux

package testkit

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// Moment is when a promise is due.
type Moment struct {
	Name     string
	SyncMode memmapfs.SyncMode
	interval time.Duration
	Covers   func(way WayToWrite) bool
	Reach    func(t *testing.T, file *memmapfs.MappedFile, what Written)
	later    bool // it is due some time after reach
}

const (
	soon  = 20 * time.Millisecond
	never = time.Hour
)

// Everything covers every way to write.
func Everything(WayToWrite) bool { return true }

func throughMap(way WayToWrite) bool { return way.throughMap }

// Moments are all moments at which a promise is due.
var Moments = []Moment{
	{Name: "Sync", SyncMode: memmapfs.SyncNever, Covers: Everything,
		Reach: func(t *testing.T, file *memmapfs.MappedFile, _ Written) { mustSync(t, file) }},
	{Name: "SyncRange", SyncMode: memmapfs.SyncNever,
		Covers: func(way WayToWrite) bool { return !way.unranged },
		Reach: func(t *testing.T, file *memmapfs.MappedFile, what Written) {
			if err := file.SyncRange(what.off, what.n); err != nil {
				t.Fatal(err)
			}
		}},
	{Name: "SyncImmediate", SyncMode: memmapfs.SyncImmediate,
		Covers: func(way WayToWrite) bool { return way.writeMethod },
		Reach:  func(*testing.T, *memmapfs.MappedFile, Written) {}},
	{Name: "SyncPeriodic", SyncMode: memmapfs.SyncPeriodic, interval: soon, Covers: Everything, later: true,
		Reach: func(*testing.T, *memmapfs.MappedFile, Written) {}},
	{Name: "Close in SyncPeriodic", SyncMode: memmapfs.SyncPeriodic, interval: never, Covers: Everything,
		Reach: func(t *testing.T, file *memmapfs.MappedFile, _ Written) { MustClose(t, file) }},
	{Name: "Close in SyncLazy", SyncMode: memmapfs.SyncLazy, Covers: Everything,
		Reach: func(t *testing.T, file *memmapfs.MappedFile, _ Written) { MustClose(t, file) }},

	{Name: "Sync in SyncImmediate", SyncMode: memmapfs.SyncImmediate,
		Covers: func(way WayToWrite) bool { return !way.writeMethod },
		Reach:  func(t *testing.T, file *memmapfs.MappedFile, _ Written) { mustSync(t, file) }},
	{Name: "Sync in SyncPeriodic", SyncMode: memmapfs.SyncPeriodic, interval: never,
		Covers: throughMap,
		Reach:  func(t *testing.T, file *memmapfs.MappedFile, _ Written) { mustSync(t, file) }},
	{Name: "Sync in SyncLazy", SyncMode: memmapfs.SyncLazy,
		Covers: throughMap,
		Reach:  func(t *testing.T, file *memmapfs.MappedFile, _ Written) { mustSync(t, file) }},
	{Name: "SyncAsync", SyncMode: memmapfs.SyncNever, later: true,
		Covers: func(way WayToWrite) bool { return way.Name == "Data" || way.Name == "growth" },
		Reach: func(t *testing.T, file *memmapfs.MappedFile, _ Written) {
			if err := file.SyncAsync(); err != nil {
				t.Fatal(err)
			}
		}},
}

// MustClose fails the test unless the file closes well.
func MustClose(t *testing.T, file io.Closer) {
	t.Helper()
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// Mapping is a way to map a file whose writes reach the file.
type Mapping struct {
	Name     string
	Config   memmapfs.Config
	flags    int  // to open the file with
	Thorough bool // has a power cut for each way to change a file's size
}

// Mappings are all ways to map a file whose writes reach it.
var Mappings = []Mapping{
	{Name: "ReadWrite", Config: memmapfs.Config{Mode: memmapfs.ModeReadWrite, MapFullFile: true}, Thorough: true},
	{Name: "ReadWrite, windows of 64 KiB", Config: memmapfs.Config{Mode: memmapfs.ModeReadWrite, WindowSize: 64 << 10}},
	{Name: "ReadWrite, windows of a page", Config: memmapfs.Config{Mode: memmapfs.ModeReadWrite, WindowSize: 1}, Thorough: true},
	{Name: "ReadOnly", Config: memmapfs.Config{Mode: memmapfs.ModeReadOnly, MapFullFile: true}},
	{Name: "ReadOnly, windows of 64 KiB", Config: memmapfs.Config{Mode: memmapfs.ModeReadOnly, WindowSize: 64 << 10}},
	{Name: "Execute", Config: memmapfs.Config{Mode: memmapfs.ModeExecute, MapFullFile: true}},
	{Name: "CopyOnWrite of a new file", Config: memmapfs.Config{Mode: memmapfs.ModeCopyOnWrite, MapFullFile: true}, flags: os.O_TRUNC},
}

// Together returns the ways whose bytes a moment covers, in groups for one power cut each. What changes
// a file's size is in a group of its own: the flush of one file takes the sizes of the others with
// it, but not the bytes that were written over others. Where that has been tried often enough, all
// ways are one group.
func Together(mapping Mapping, moment Moment) (groups [][]WayToWrite) {
	groups = make([][]WayToWrite, 1)
	for _, way := range WaysToWrite {
		switch {
		case !moment.Covers(way), way.throughMap && mapping.Config.Mode != memmapfs.ModeReadWrite:
		case way.resizes && mapping.Thorough:
			groups = append(groups, []WayToWrite{way})
		default:
			groups[0] = append(groups[0], way)
		}
	}
	return groups
}

// Lose writes a file in each of the ways and cuts the power at the moment when they are promised to be
// durable. It returns how each file that is left differs from the one that was written; empty when
// it does not.
func (d *Disk) Lose(t *testing.T, mapping Mapping, moment Moment, ways []WayToWrite) map[string]string {
	t.Helper()
	for range 3 {
		if differences, reliable := d.tryLose(t, mapping, moment, ways); reliable {
			return differences
		}
	}
	t.Fatal("the kernel keeps writing back by itself: nothing can be said")
	return nil
}

func (d *Disk) tryLose(t *testing.T, mapping Mapping, moment Moment, ways []WayToWrite) (differences map[string]string, reliable bool) {
	t.Helper()
	config := mapping.Config
	config.SyncMode, config.SyncInterval = moment.SyncMode, moment.interval
	fileSystem := memmapfs.New(PlainFileSystem(t), &config)
	defer fileSystem.Close()
	want := make(map[string][]byte)
	var files []*memmapfs.MappedFile
	for i, way := range ways {
		name := WriteFile(t, d.Dir, fmt.Sprint("file", i), fileContent)
		defer os.Remove(osfs.ToNative(name))
		opened, err := fileSystem.OpenFile(name, os.O_RDWR|way.flags|mapping.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close() // of its own: a handle that is garbage before the filesystem is closed stays mapped
		file := AsMapped(t, opened)
		if mapping.flags&os.O_TRUNC != 0 {
			if _, err := file.Write(fileContent); err != nil {
				t.Fatal(err)
			}
		}
		files = append(files, file)
	}
	d.Settle(t)
	for i, way := range ways {
		mayStore := moment.SyncMode != memmapfs.SyncImmediate && (way.flags|mapping.flags)&(os.O_APPEND|os.O_SYNC) == 0
		what := way.writeOnce(t, fileSystem, files[i], mayStore)
		moment.Reach(t, files[i], what)
		want[fmt.Sprint("file", i)] = what.content
	}
	for due := time.Now().Add(moment.interval); ; {
		differences = make(map[string]string)
		missing := 0
		reliable = d.Cut(t, func(dir string) {
			for i, way := range ways {
				name := fmt.Sprint("file", i)
				differences[way.Name] = FirstDifference(MustReadFile(t, filepath.Join(dir, name)), want[name])
				if differences[way.Name] != "" {
					missing++
				}
			}
		})
		// How long a flush takes is not promised.
		if missing == 0 || !moment.later || time.Now().After(due.Add(4*time.Second)) {
			return differences, reliable
		}
		time.Sleep(moment.interval)
	}
}
