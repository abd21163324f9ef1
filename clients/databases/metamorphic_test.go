package main

import (
	"bytes"
	"flag"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/cockroachdb/pebble/v2/metamorphic"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// What pebble's test tells the processes that it starts, and what it may be told.
var (
	runDir = flag.String("run-dir", "", "of pebble's metamorphic test: the run of this process")
	_      = flag.Bool("keep", false, "of pebble's metamorphic test: nothing")
	_      = flag.String("key-format", "", "of pebble's metamorphic test: nothing")
	_      = flag.Duration("op-timeout", 0, "of pebble's metamorphic test: nothing")
	seed   = flag.Uint64("metamorphic-seed", 9, "of pebble's metamorphic test: which operations")
	count  = flag.Uint64("metamorphic-operations", 200, "of pebble's metamorphic test: how many")
)

// Pebble's own test: random operations, in many processes with other options each, whose results
// have to be the same. Here each has its files in one of the modes, too; the first, with which
// all are compared, has plain ones.
func TestPebbleMetamorphic(t *testing.T) {
	options := []interface {
		metamorphic.RunOption
		metamorphic.RunOnceOption
	}{metamorphic.TestkeysKeyFormat, metamorphic.MultiInstance(1), metamorphic.MaxThreads(math.MaxInt), metamorphic.OpTimeout(2 * time.Minute)}
	if *runDir == "" {
		if testing.Short() {
			t.Skip("it starts a hundred processes")
		}
		all := []metamorphic.RunOption{metamorphic.Seed(*seed), metamorphic.UseDisk, metamorphic.OpCount(fixed(*count))}
		for _, option := range options {
			all = append(all, option)
		}
		metamorphic.RunAndCompare(t, t.TempDir(), all...)
		return
	}
	name := filepath.Base(*runDir)
	if name != "standard-000" {
		mode := modes[hash(name)%uint32(len(modes))]
		if mode.config.Mode == memmapfs.ModeCopyOnWrite {
			mode = modes[0]
		}
		files, closeFiles, err := filesIn(mode.name)
		must(t, err)
		defer func() { must(t, closeFiles()) }()
		vfs.Default = newPebbleFS(files)
	}
	withoutCrashes(t, filepath.Join(*runDir, "OPTIONS"))
	var once []metamorphic.RunOnceOption
	for _, option := range options {
		once = append(once, option)
	}
	metamorphic.RunOnce(t, *runDir, 0, filepath.Join(*runDir, "history"), once...)
}

// withoutCrashes takes the simulated power cuts out of a run's options: pebble has them for its
// files in memory alone, and panics with others.
func withoutCrashes(t *testing.T, name string) {
	options, err := os.ReadFile(name)
	must(t, err)
	must(t, os.WriteFile(name, bytes.ReplaceAll(options, []byte("  strictfs=true\n"), nil), 0o644))
}

// fixed is a random number that is always the same.
type fixed uint64

func (f fixed) Uint64(*rand.Rand) uint64 { return uint64(f) }

func hash(text string) uint32 {
	digest := fnv.New32()
	digest.Write([]byte(text))
	return digest.Sum32()
}
