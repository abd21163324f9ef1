//go:build linux

package stress

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// Pages that are in the page cache are read from the map, without a system call, although this
// process has never read them: the kernel is asked which they are. That holds also where so many
// files are mapped that they cannot all keep a descriptor for such questions.
func TestWarmPagesAreReadFromTheMap(t *testing.T) {
	const pages = 4096
	native := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(native, make([]byte, pages*pageSize), 0o644))
	file, err := os.Open(native)
	must(t, err)
	defer file.Close()
	var cached unix.Cachestat_t
	if err := unix.Cachestat(uint(file.Fd()), &unix.CachestatRange{}, &cached, 0); err != nil {
		t.Skip("this kernel does not tell what is in memory: ", err)
	}
	if cached.Cache < pages {
		t.Skipf("%d of %d pages are in memory", cached.Cache, pages)
	}
	for _, crowded := range []bool{false, true} {
		if crowded {
			mapMany(t)
		}
		for _, c := range configs() {
			if !c.MapFullFile {
				c.WindowSize = 2 << 20
			}
			mapped := openMapped(t, c.Config, osfs.FromNative(native), os.O_RDWR)
			must(t, mapped.View(0, 1, func([]byte) error { return nil }))
			p := make([]byte, 8)
			before := readCalls(t)
			for _, page := range rand.Perm(pages) {
				if _, err := mapped.ReadAt(p, int64(page)*pageSize); err != nil {
					t.Fatal(err)
				}
			}
			calls := readCalls(t) - before
			t.Logf("%s, crowded %t: %d system calls for %d reads", c.name, crowded, calls, pages)
			if calls > pages*9/10 {
				t.Errorf("%s, crowded %t: %d reads of pages in memory took %d system calls", c.name, crowded, pages, calls)
			}
			must(t, mapped.Close())
		}
	}
}

// mapMany has a hundred files mapped until the test ends.
func mapMany(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for i := range 100 {
		native := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.WriteFile(native, []byte("one of many"), 0o644))
		mapped := openMapped(t, *memmapfs.DefaultConfig(), osfs.FromNative(native), os.O_RDONLY)
		must(t, mapped.View(0, 1, func([]byte) error { return nil }))
	}
}

// readCalls returns how many system calls of this process have read something.
func readCalls(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	found := regexp.MustCompile(`(?m)^syscr: (\d+)$`).FindSubmatch(text)
	if found == nil {
		t.Skip("this kernel does not count system calls")
	}
	calls, err := strconv.Atoi(string(found[1]))
	must(t, err)
	return calls
}
