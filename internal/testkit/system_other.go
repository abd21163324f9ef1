//go:build !windows

package testkit

import (
	"errors"
	"os"
)

// OnWine tells whether wine stands in for Windows.
const OnWine = false

func resizeOnHost(native string, size int64) error { return errors.ErrUnsupported }

// ZeroByWriting stands in for holes on wine only.
func ZeroByWriting(fd uintptr, offset, length int64) error { return errors.ErrUnsupported }

// OpenRemovable opens a file so that it can be removed and renamed while it is open.
func OpenRemovable(native string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(native, flag, perm)
}
