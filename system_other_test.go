//go:build !windows

package memmapfs_test

import (
	"errors"
	"os"
)

const onWine = false

func resizeOnHost(native string, size int64) error { return errors.ErrUnsupported }

func zeroByWriting(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

// openRemovable opens a file so that it can be removed and renamed while it is open.
func openRemovable(native string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(native, flag, perm)
}
