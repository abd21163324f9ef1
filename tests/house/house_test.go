//go:build unix

package house_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Catches a part that reaches up into what stands on it, and one that has grown too large to be read.
func TestHouse(t *testing.T) {
	names, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(name)] = string(text)
	}
	if len(texts) == 0 {
		t.Fatal("the package is not there")
	}
	h, err := newHouse(texts)
	if err != nil {
		t.Fatal(err)
	}
	found, err := h.check()
	if err != nil {
		t.Fatal(err)
	}
	for _, mistake := range found {
		t.Error(mistake)
	}
}
