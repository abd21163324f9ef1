//go:build linux

package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Programs that only read find in every mode what there is, copy-on-write included, and leave it as
// it is. One of the files is a program, which is run.
func TestReading(t *testing.T) {
	needs(t, "git", "sqlite3")
	for name, value := range gitSettings {
		t.Setenv(name, value)
	}
	directory := t.TempDir()
	makeFiles(t, directory)
	run(t, directory, "", "git", "init", "-q", "-b", "main")
	run(t, directory, "", "git", "add", ".")
	run(t, directory, "", "git", "commit", "-q", "-m", "files")
	run(t, directory, "", "git", "gc", "-q")
	database := "CREATE TABLE lines (writer INT, number INT, text, PRIMARY KEY (writer, number));\n"
	for number := range 50 {
		database += insertion(1, number)
	}
	run(t, directory, database, "sqlite3", "database")
	program, err := os.ReadFile("/bin/echo")
	must(t, err)
	writeFile(t, directory, "program", program)
	must(t, os.Chmod(filepath.Join(directory, "program"), 0o755))

	before := contents(t, directory)
	var want string
	for _, mode := range modeNames() {
		t.Run(mode, func(t *testing.T) {
			p := show(t, mode, directory)
			found := contents(t, p.mountPoint) +
				run(t, p.mountPoint, "", "git", "-c", "core.fsmonitor=false", "--no-optional-locks", "fsck", "--full") +
				run(t, p.mountPoint, "", "git", "--no-optional-locks", "log", "--stat", "--format=%H") +
				run(t, p.mountPoint, "PRAGMA query_only=1;"+sqliteQuestions, "sqlite3", "database") +
				run(t, p.mountPoint, "", "./program", "the program runs")
			reads, _ := p.stop(t)
			if maps, _ := mapsAtOpen(mode); maps && reads == 0 {
				t.Error("maps have served no reads")
			}
			if !strings.HasPrefix(found, before) {
				t.Error("the files differ from those under the mount")
			}
			if mode == plainMode {
				want = found
			} else if found != want {
				t.Errorf("it reports\n%s\nand of plain files\n%s", found, want)
			}
		})
	}
	if after := contents(t, directory); after != before {
		t.Errorf("before it was\n%s\nand after reading\n%s", before, after)
	}
}

// contents lists the regular files below directory, with a digest of each.
func contents(t *testing.T, directory string) string {
	t.Helper()
	return list(t, directory, func(path string, info fs.FileInfo) string {
		file, err := os.Open(path)
		must(t, err)
		defer file.Close()
		digest := sha256.New()
		_, err = io.Copy(digest, file)
		must(t, err)
		return fmt.Sprintf("%v %d %x", info.Mode(), info.Size(), digest.Sum(nil))
	})
}

// sizes lists them with their sizes.
func sizes(t *testing.T, directory string) string {
	t.Helper()
	return list(t, directory, func(_ string, info fs.FileInfo) string { return fmt.Sprint(info.Size()) })
}

func list(t *testing.T, directory string, describe func(path string, info fs.FileInfo) string) string {
	t.Helper()
	var lines strings.Builder
	must(t, filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(directory, path)
		fmt.Fprintf(&lines, "%s: %s\n", name, describe(path, info))
		return err
	}))
	return lines.String()
}
