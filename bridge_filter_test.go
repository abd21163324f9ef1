package memmapfs

import (
	"io/fs"
	"syscall"
	"testing"
)

// Catches a process that is ended by a filter of system calls because no descriptor was left to ask
// whether there is one.
func TestFilterIsNotForgotten(t *testing.T) {
	before := system.filtered
	t.Cleanup(func() {
		system.filtered = before
		filterAsked.Store(0)
	})
	for _, step := range []struct {
		never bool // asked before
		set   bool
		err   error
		want  bool
	}{
		{true, true, nil, true},
		{false, false, syscall.EMFILE, true},
		{false, false, nil, false},
		{false, false, syscall.EMFILE, false},
		{true, false, syscall.EMFILE, true},
		{true, false, nil, false},
		{true, false, fs.ErrNotExist, false}, // a system without /proc
	} {
		system.filtered = func() (bool, error) { return step.set, step.err }
		filterAsked.Store(-1 << 62)
		if step.never {
			filterAsked.Store(0)
		}
		if got := filtered(); got != step.want {
			t.Errorf("%+v: %v", step, got)
		}
	}
}
