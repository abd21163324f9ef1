package sharing_test

import (
	"os"
	"strings"
	"testing"
)

// Catches code in the guide that is not the code that is run.
func TestSharedGuide(t *testing.T) {
	read := func(name string) string {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(content), "\r\n", "\n")
	}
	examples := read("../../example_shared_test.go") + read("../../example_ring_test.go")
	_, rest, found := strings.Cut(read("../../docs/IPC.md"), "```go\n")
	for snippets := 0; ; snippets++ {
		if !found {
			if snippets < 5 {
				t.Errorf("%d snippets, want 5", snippets)
			}
			return
		}
		snippet, after, _ := strings.Cut(rest, "```\n")
		if !strings.Contains(examples, snippet) {
			t.Errorf("not in the examples:\n%s", snippet)
		}
		_, rest, found = strings.Cut(after, "```go\n")
	}
}
