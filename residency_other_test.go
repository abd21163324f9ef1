//go:build !linux

package memmapfs_test

import (
	"testing"

	"github.com/absfs/memmapfs"
)

// testPreload needs Residency, which has an answer on Linux only.
func testPreload(t *testing.T, _ func(c *memmapfs.Config), _, _ bool) { t.Helper() }
