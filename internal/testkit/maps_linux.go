package testkit

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// AddressSpace returns the size of the process's virtual memory in bytes.
func AddressSpace(t *testing.T) int64 {
	t.Helper()
	sizes, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var pages int64
	if _, err := fmt.Sscan(string(sizes), &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// MapCount returns the number of lines of /proc/self/maps.
func MapCount(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "\n")
}

// MapInfo is what the kernel says of a map.
type MapInfo struct {
	Address  int64
	Offset   int64 // in the file
	Bytes    int64
	Kilobyte map[string]int64 // by the names in /proc/self/smaps
	Flags    []string
}

// MapsOf returns the maps that this process has of the file, in the order of their offsets.
func MapsOf(t testing.TB, native string) (maps []MapInfo) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		key, isKey := strings.CutSuffix(fields[0], ":")
		switch {
		case !isKey: // the first line of a map
			if ours = strings.HasSuffix(strings.TrimSpace(line), " "+native); ours {
				from, to, _ := strings.Cut(fields[0], "-")
				start, _ := strconv.ParseInt(from, 16, 64)
				end, _ := strconv.ParseInt(to, 16, 64)
				offset, _ := strconv.ParseInt(fields[2], 16, 64)
				maps = append(maps, MapInfo{start, offset, end - start, make(map[string]int64), nil})
			}
		case ours && key == "VmFlags":
			maps[len(maps)-1].Flags = fields[1:]
		case ours && len(fields) == 3:
			maps[len(maps)-1].Kilobyte[key], _ = strconv.ParseInt(fields[1], 10, 64)
		}
	}
	slices.SortFunc(maps, func(a, b MapInfo) int { return int(a.Offset - b.Offset) })
	return maps
}

// Kilobytes adds up one number of all maps of the file.
func Kilobytes(t testing.TB, native, key string) (sum int64) {
	t.Helper()
	for _, m := range MapsOf(t, native) {
		sum += m.Kilobyte[key]
	}
	return sum
}
