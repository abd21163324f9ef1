package trust_test

import (
	"os"

	"github.com/absfs/absfs"
	"github.com/absfs/osfs"
)

// openingFiles is the operating system's filesystem whose files are made by wrap.
type openingFiles struct {
	absfs.FileSystem
	wrap func(file *os.File) absfs.File
}

func (s openingFiles) Open(name string) (absfs.File, error) { return s.OpenFile(name, os.O_RDONLY, 0) }

func (s openingFiles) OpenFile(name string, flag int, perm os.FileMode) (absfs.File, error) {
	file, err := os.OpenFile(osfs.ToNative(name), flag, perm)
	if err != nil {
		return nil, err
	}
	return s.wrap(file), nil
}

func asItIs(file *os.File) absfs.File { return file }
