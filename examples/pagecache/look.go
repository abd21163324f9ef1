package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// blocks is the number of parts of a file that are drawn.
const blocks = 32

// cache is what the program works on.
type cache struct {
	filesystem *memmapfs.MemMapFS
	paths      []string
	top        int // files that a look keeps, 0 for all
	order      func(a, b file) int
	locked     []*memmapfs.MappedFile
}

// file is a file as a look has found it. Sizes are in bytes of whole pages.
type file struct {
	path     string
	resident int64
	size     int64
	known    bool          // resident can be believed
	blocks   [blocks]uint8 // how much of each part is in memory, 0 to 255
}

func (f file) share() float64 { return float64(f.resident) / float64(max(f.size, 1)) }

// orders are the values of -sort.
var orders = map[string]func(a, b file) int{
	"memory": func(a, b file) int {
		return cmp.Or(cmp.Compare(b.resident, a.resident), cmp.Compare(b.size, a.size), strings.Compare(a.path, b.path))
	},
	"size":  func(a, b file) int { return cmp.Or(cmp.Compare(b.size, a.size), strings.Compare(a.path, b.path)) },
	"share": func(a, b file) int { return cmp.Or(cmp.Compare(b.share(), a.share()), strings.Compare(a.path, b.path)) },
	"name":  func(a, b file) int { return strings.Compare(a.path, b.path) },
}

// look is what was found in one pass over all files.
type look struct {
	at             time.Time
	files          int   // looked at
	resident, size int64 // of those that are known
	top            []file
	untrusted      int // files of which the system does not say the truth to this user
	unsupported    int // files of which it says nothing
	failed         int
	failure        error // the first
}

// look passes over all files.
func (c *cache) look(interrupted context.Context) *look {
	l := &look{at: time.Now()}
	trim := func() {
		slices.SortFunc(l.top, c.order)
		if c.top > 0 && len(l.top) > c.top {
			l.top = l.top[:c.top]
		}
	}
	c.walk(interrupted, l.fail, func(path string, info fs.FileInfo) error {
		l.files++
		found := file{path: path, known: true}
		if info.Size() > 0 {
			err := c.ask(&found)
			if errors.Is(err, errors.ErrUnsupported) {
				l.unsupported++
				found = file{path: path, size: info.Size()}
			} else if err != nil {
				return err
			} else if !found.known {
				l.untrusted++
			}
		}
		if found.known {
			l.resident += found.resident
			l.size += found.size
		}
		if l.top = append(l.top, found); c.top > 0 && len(l.top) >= 4*c.top {
			trim()
		}
		return nil
	})
	trim()
	for i := range l.top {
		if interrupted.Err() == nil {
			c.askBlocks(&l.top[i])
		}
	}
	return l
}

func (l *look) fail(err error) {
	l.failed++
	if l.failure == nil {
		l.failure = err
	}
}

// notes says, a line each, what is not known.
func (l *look) notes() (notes []string) {
	note := func(count int, format string, arguments ...any) {
		if count > 0 {
			notes = append(notes, fmt.Sprintf("pagecache: "+counted(int64(count))+" "+format+"\n", arguments...))
		}
	}
	note(l.failed, "could not be looked at; the first: %v", l.failure)
	note(l.untrusted, "not counted: the system tells what is in memory of a file only to its owner and to who may write it")
	note(l.unsupported, "not counted: the system does not tell what is in memory of it")
	return notes
}

// ask finds out how much of a file is in memory.
func (c *cache) ask(f *file) (err error) {
	opened, err := c.open(f.path)
	if err != nil {
		return err
	}
	defer opened.Close()
	f.resident, f.size, f.known, err = opened.Residency(0, 1<<62)
	return err
}

// askBlocks finds out which parts of a file are in memory. A file that is gone has none.
func (c *cache) askBlocks(f *file) {
	if !f.known || f.resident == 0 {
		return
	}
	if f.resident == f.size {
		for i := range f.blocks {
			f.blocks[i] = 255
		}
		return
	}
	opened, err := c.open(f.path)
	if err != nil {
		return
	}
	defer opened.Close()
	for i := range int64(blocks) {
		from, to := part(f.size, i), part(f.size, i+1)
		resident, total, _, err := opened.Residency(from, max(to-from, 1))
		if err == nil && total > 0 {
			f.blocks[i] = uint8((resident*255 + total - 1) / total) // a single page shows
		}
	}
}

// part returns where part i of a file begins. It does not overflow, however large the file is.
func part(size, i int64) int64 { return size/blocks*i + size%blocks*i/blocks }

func (c *cache) open(path string) (*memmapfs.MappedFile, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	opened, err := c.filesystem.Open(osfs.FromNative(path))
	if err != nil {
		return nil, err
	}
	return opened.(*memmapfs.MappedFile), nil // what memmapfs opens always is one
}

// walk calls visit for every regular file at and below the paths, once for each, and fail for
// each error, of visit too.
func (c *cache) walk(interrupted context.Context, fail func(error), visit func(path string, info fs.FileInfo) error) {
	visited := make(map[identity]bool) // files that may be met again
	for _, root := range c.paths {
		resolved, err := filepath.EvalSymlinks(root)
		if err != nil {
			fail(err)
			continue
		}
		err = filepath.WalkDir(resolved, func(path string, entry fs.DirEntry, err error) error {
			if interrupted.Err() != nil {
				return fs.SkipAll
			}
			if err == nil && !entry.Type().IsRegular() {
				if path == resolved && !entry.IsDir() {
					fail(fmt.Errorf("%s is neither a regular file nor a directory", root))
				}
				return nil
			}
			var info fs.FileInfo
			if err == nil {
				info, err = entry.Info()
			}
			if err == nil {
				if id, names := identify(info); names > 1 || names == 1 && len(c.paths) > 1 {
					if visited[id] {
						return nil
					}
					visited[id] = true
				}
				err = visit(path, info)
			}
			if err != nil && (path == resolved || !errors.Is(err, os.ErrNotExist)) { // others may remove files meanwhile
				fail(err)
			}
			return nil
		})
		if err != nil {
			fail(err)
		}
	}
}
