//go:build !windows

package memmapfs_test

import "errors"

const onWine = false

func resizeOnHost(native string, size int64) error { return errors.ErrUnsupported }
