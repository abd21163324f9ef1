//go:build linux

package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const gitFiles = 1000

// gitSettings keep the machine's configuration out, and the commits' names the same each time.
var gitSettings = map[string]string{
	"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
	"GIT_AUTHOR_NAME": "author", "GIT_AUTHOR_EMAIL": "author@example.com", "GIT_AUTHOR_DATE": "2025-03-04T05:06:07Z",
	"GIT_COMMITTER_NAME": "author", "GIT_COMMITTER_EMAIL": "author@example.com", "GIT_COMMITTER_DATE": "2025-03-04T05:06:07Z",
}

// A repository of a thousand files: committed, changed, packed, checked, cloned, and checked
// again under the mount.
func TestGit(t *testing.T) {
	needs(t, "git")
	for name, value := range gitSettings {
		t.Setenv(name, value)
	}
	onEach(t, func(t *testing.T, mode string) string {
		p := show(t, mode, t.TempDir())
		repository := filepath.Join(p.mountPoint, "repository")
		git := func(arguments ...string) string { return run(t, repository, "", "git", arguments...) }
		must(t, os.Mkdir(repository, 0o755))
		git("init", "-q", "-b", "main")
		makeFiles(t, repository)
		git("add", ".")
		git("commit", "-q", "-m", "files")
		changeFiles(t, repository)
		git("commit", "-q", "-a", "-m", "changes")
		git("gc", "-q", "--prune=now")
		git("reset", "-q", "--hard", "HEAD~1")
		git("merge", "-q", "--ff-only", "HEAD@{1}")
		found := git("fsck", "--full", "--strict") + git("status", "--short") + git("log", "--format=%H %T %s", "--shortstat")
		run(t, p.mountPoint, "", "git", "clone", "-q", "--no-local", "repository", "clone")
		found += run(t, filepath.Join(p.mountPoint, "clone"), "", "git", "fsck", "--full", "--strict")
		p.stop(t)

		under := func(name string, arguments ...string) string {
			return run(t, filepath.Join(p.directory, name), "", "git", arguments...)
		}
		for _, name := range []string{"repository", "clone"} {
			found += under(name, "fsck", "--full", "--strict") + under(name, "status", "--short") +
				under(name, "ls-tree", "-r", "HEAD:directory 1") + under(name, "rev-parse", "HEAD")
		}
		return found
	})
}

// makeFiles makes small and not so small files; one in nine is of noise, which does not compress.
func makeFiles(t *testing.T, directory string) {
	for i := range gitFiles {
		data := []byte(strings.Repeat(fmt.Sprintf("line of file %d\n", i), 1+i*i%700))
		if i%9 == 0 {
			data = noise(i, 1+i*31%9000)
		}
		writeFile(t, directory, fmt.Sprintf("directory %d/file %d", i%10, i), data)
	}
	writeFile(t, directory, "large", noise(0, 3*mebibyte+5))
}

func changeFiles(t *testing.T, directory string) {
	for i := 0; i < gitFiles; i += 7 {
		file, err := os.OpenFile(filepath.Join(directory, fmt.Sprintf("directory %d/file %d", i%10, i)), os.O_RDWR, 0)
		must(t, err)
		_, err = file.WriteAt([]byte("changed"), int64(i))
		must(t, err)
		must(t, file.Truncate(int64(i+3)))
		must(t, file.Close())
	}
}

// noise returns bytes that do not compress, always the same for a seed.
func noise(seed, size int) []byte {
	data := make([]byte, 0, size+sha256.Size)
	for block := 0; len(data) < size; block++ {
		sum := sha256.Sum256(fmt.Append(nil, seed, block))
		data = append(data, sum[:]...)
	}
	return data[:size]
}
