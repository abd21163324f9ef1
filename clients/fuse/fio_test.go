//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// fioJobs write blocks with a checksum in each, and read them back: in order with sizes that fit
// no page, anywhere with mixed sizes, with reads between the writes, over what is there, with
// many flushes, and through a map of the file on FUSE. No file is there before, so all of them
// grow.
const fioJobs = `
[global]
thread
ioengine=psync
fallocate=none
size=3m
nrfiles=2
verify=crc32c
verify_fatal=1
randseed=9
[in-order]
rw=write
bs=999
size=1998000
[mixed-sizes]
rw=randwrite
bsrange=512-64k
[reads-between]
rw=randrw
bsrange=1k-16k
verify_backlog=64
[again-and-again]
rw=randwrite
bs=4k
loops=3
norandommap=0
[flushed]
rw=write
bsrange=512-8k
size=1m
fsync=100
end_fsync=1
[by-map]
rw=randwrite
bs=4k
ioengine=mmap
`

// Every block that fio writes is read back as it was written: at once, by another process through
// the mount, and under the mount.
func TestFio(t *testing.T) {
	needs(t, "fio")
	jobs := filepath.Join(t.TempDir(), "jobs")
	must(t, os.WriteFile(jobs, []byte(fioJobs), 0o644))
	onEach(t, func(t *testing.T, mode string) string {
		p := show(t, mode, t.TempDir())
		run(t, p.mountPoint, "", "fio", jobs)
		// It does not find its own reads between writes a second time, on no filesystem.
		again := []string{"--verify_only", "--section=in-order", "--section=mixed-sizes", "--section=again-and-again",
			"--section=flushed", "--section=by-map", jobs}
		run(t, p.mountPoint, "", "fio", again...)
		reads, writes := p.stop(t)
		if mapsReads, mapsWrites := mapsAtOpen(mode); mapsReads && reads == 0 || mapsWrites && writes == 0 {
			t.Errorf("maps have served %d reads and %d writes", reads, writes)
		}
		run(t, p.directory, "", "fio", again...)
		return sizes(t, p.directory)
	})
}

// A checksum that does not fit is an error, or the test above would say nothing.
func TestFioFindsDamage(t *testing.T) {
	needs(t, "fio")
	directory := t.TempDir()
	arguments := []string{"--name=job", "--size=1m", "--rw=write", "--bs=4k", "--ioengine=psync", "--verify=crc32c", "--verify_fatal=1"}
	run(t, directory, "", "fio", arguments...)
	names, err := filepath.Glob(filepath.Join(directory, "job*"))
	must(t, err)
	file, err := os.OpenFile(names[0], os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("damage"), 500_000)
	must(t, err)
	must(t, file.Close())
	check, cancel := program(directory, "fio", append(arguments, "--verify_only")...)
	defer cancel()
	if output, err := check.CombinedOutput(); err == nil {
		t.Errorf("fio does not see a damaged block:\n%s", output)
	}
}
