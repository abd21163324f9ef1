//go:build !linux

package testkit

import (
	"errors"
	"testing"

	"github.com/absfs/memmapfs"
)

// DropFromCache works on Linux only.
func DropFromCache(native string) error { return errors.ErrUnsupported }

// CheckPreload needs Residency, which has an answer on Linux only.
func CheckPreload(t *testing.T, _ func(c *memmapfs.Config), _, _ bool) { t.Helper() }
