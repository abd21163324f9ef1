package main

import (
	"strings"
	"testing"
)

// A file is known by its first bytes and by those before the place, in whatever parts they were
// passed.
func TestPlace(t *testing.T) {
	banner := strings.Repeat("the same banner\n", 1000)
	for _, step := range []int{1, 100, rememberedBytes, 1 << 20} {
		var p place
		for _, passed := range []string{banner, "first\n"} {
			for len(passed) > 0 {
				n := min(step, len(passed))
				p.pass([]byte(passed[:n]))
				passed = passed[n:]
			}
		}
		if p.offset != int64(len(banner))+6 || len(p.head) != rememberedBytes || len(p.tail) != rememberedBytes {
			t.Fatalf("passed by %d bytes: at %d with %d and %d bytes", step, p.offset, len(p.head), len(p.tail))
		}
		for text, wanted := range map[string]bool{
			banner + "first\n":         true,
			banner + "first\nand more": true,
			banner + "other\n":         false,
			banner + "firs":            true, // shorter
			banner[:100]:               true,
			"":                         true,
			"The same":                 false,
			"T" + banner[1:] + "first": false,
		} {
			got, whole, err := p.in(strings.NewReader(text))
			if got != wanted || got && whole != (len(text) >= int(p.offset)) || err != nil {
				t.Errorf("passed by %d bytes, %.20q of %d bytes: %v, %v, %v", step, text, len(text), got, whole, err)
			}
		}
	}
}
