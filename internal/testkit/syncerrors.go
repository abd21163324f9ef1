package testkit

import (
	"errors"
	"io/fs"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs/internal/testkit/watched"
)

// FailingSync is a filesystem whose files can be told to fail their Sync.
func FailingSync(hidden bool) (fileSystem *watched.FS, failing *atomic.Bool) {
	failing = new(atomic.Bool)
	fileSystem = watched.New()
	fileSystem.Hidden = hidden
	fileSystem.Sync = func(name string, sync func() error) error {
		if failing.Load() {
			return &fs.PathError{Op: "sync", Path: name, Err: syscall.EIO}
		}
		return sync()
	}
	return fileSystem, failing
}

// CheckSyncError fails the test unless err is the failure of a flush.
func CheckSyncError(t *testing.T, what string, err error, name string) {
	t.Helper()
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%s returned %v, want the error of the flush", what, err)
		return
	}
	CheckPathError(t, what, err, name)
}
