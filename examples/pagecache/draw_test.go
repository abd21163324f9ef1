package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func mustBeXML(t *testing.T, picture []byte) {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(picture))
	for {
		if _, err := decoder.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
	}
}

// However long it goes on and however many files come and go, the history stays small, and it has
// the whole time.
func TestHistoryStaysSmall(t *testing.T) {
	start := time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC)
	h := new(history)
	for second := range 10_000 {
		l := &look{at: start.Add(time.Duration(second) * time.Second), resident: int64(second), size: 10_000}
		for i := range 20 {
			f := file{path: fmt.Sprint("file ", (second/100+i)%500), known: true, size: 1 << 20, resident: int64(second%1000+1) << 10}
			for part := range f.blocks {
				f.blocks[part] = uint8(part * 8)
			}
			l.top = append(l.top, f)
		}
		h.add(l)
		if len(h.moments) > maxMoments || len(h.bands) > maxBands {
			t.Fatalf("after %d looks: %d moments, %d bands", second, len(h.moments), len(h.bands))
		}
		for _, b := range h.bands {
			if len(b.blocks) != len(h.moments) {
				t.Fatalf("after %d looks: %s has %d moments of %d", second, b.path, len(b.blocks), len(h.moments))
			}
		}
	}
	if n := len(h.moments); n < maxMoments/3 || h.moments[0].at != start || h.moments[n-1].at.Before(start.Add(9800*time.Second)) {
		t.Errorf("%d moments from %v to %v", n, h.moments[0].at, h.moments[n-1].at)
	}
	picture := h.svg()
	mustBeXML(t, picture)
	if len(picture) > 2<<20 || bytes.Count(picture, []byte("<title>")) != maxBands || !bytes.Contains(picture, []byte("2h46m39s before")) {
		t.Errorf("the picture has %d bytes: %.2000s", len(picture), picture)
	}
}

// A block of a file that is only partly in memory has a color between those for nothing and all.
func TestColors(t *testing.T) {
	for block, wanted := range map[int]int{0: 0, 1: 1, 254: len(levels) - 1, 255: len(levels) - 1, 128: 4} {
		if got := levelOf(block, 1); got != wanted {
			t.Errorf("%d of 255 in memory: color %d, want %d", block, got, wanted)
		}
	}
	h := new(history)
	f := file{path: "half", known: true, size: 64 << 10, resident: 32 << 10}
	for i := range blocks / 2 {
		f.blocks[i] = 255
	}
	h.add(&look{top: []file{f}, resident: f.resident, size: f.size})
	picture := string(h.svg())
	if strings.Count(picture, `fill="`+levels[len(levels)-1]+`"`) != blocks/2+1 || !strings.Contains(picture, "32.0 KiB of 64.0 KiB in memory") {
		t.Errorf("half of a file in memory is drawn as\n%s", picture)
	}
	if got := bar(f.blocks[:]); got != strings.Repeat("█", 16)+strings.Repeat("·", 16) {
		t.Errorf("half of a file in memory is the bar %q", got)
	}
	if got := bar([]uint8{0, 1, 84, 85, 170, 254, 255}); got != "·░░▒▓▓█" {
		t.Errorf("bar of all shades: %q", got)
	}
}

func TestNumbers(t *testing.T) {
	for bytes, wanted := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.00 KiB", 10 << 10: "10.0 KiB", 100 << 10: "100 KiB", 1023 << 10: "1.00 MiB",
		999 << 10: "999 KiB", 5 << 40: "5.00 TiB", 1<<63 - 1: "8.00 EiB",
	} {
		if got := human(bytes); got != wanted {
			t.Errorf("%d bytes are written %q, want %q", bytes, got, wanted)
		}
	}
	for n, wanted := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != wanted {
			t.Errorf("%d is written %q", n, got)
		}
	}
	for part, wanted := range map[int64]string{0: "0%", 1: "<1%", 500: "50%", 999: ">99%", 1000: "100%"} {
		if got := percent(part, 1000); got != wanted {
			t.Errorf("%d of 1000 is written %q", part, got)
		}
	}
	for size := int64(1); size > 0; size *= 3 {
		if part(size, 0) != 0 || part(size, blocks) != size || part(size, 7) > part(size, 8) {
			t.Errorf("parts of %d bytes: %d to %d", size, part(size, 0), part(size, blocks))
		}
	}
}
