//go:build !linux

package memmapfs_test

import "errors"

func dropFromCache(native string) error { return errors.ErrUnsupported }
