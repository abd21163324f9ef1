package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Catches advice that names a row which is no longer there. In ../docs/PERFORMANCE.md the beginning
// of a row's name stands for the row; what follows "..." is left out of the comparison.
func TestRowsNamedInTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/PERFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	all := rows(fullSizes)
	firstWord := func(name string) string { return strings.SplitN(name, " ", 2)[0] }
	named := 0
	prose := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(string(text), "")
	for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(prose, -1) {
		name := strings.Join(strings.Fields(match[1]), " ")
		if !slices.ContainsFunc(all, func(r row) bool { return firstWord(r.name) == firstWord(name) }) {
			continue
		}
		named++
		beginning, _, _ := strings.Cut(name, "...")
		if !slices.ContainsFunc(all, func(r row) bool { return strings.HasPrefix(r.name, beginning) }) {
			t.Errorf("there is no row %q", name)
		}
	}
	if named < 20 {
		t.Errorf("%d rows are named, want 20 at least: are they still marked as code?", named)
	}
}
