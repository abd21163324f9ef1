package faults_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// TestViewPanicsWithNil catches a panic(nil) that View swallows where recover does not tell it from none.
func TestViewPanicsWithNil(t *testing.T) {
	testkit.InChild(t, func(t *testing.T) {
		file := testkit.NewShrinkable(t, testkit.TestDir(t), testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever))
		returned := false
		func() {
			defer func() { recover() }()
			file.View(0, 10, func([]byte) error {
				var none any
				panic(none)
			})
			returned = true
		}()
		if returned {
			t.Error("View returns after its function has panicked")
		}
		if err := file.View(0, 10, func([]byte) error { return nil }); err != nil {
			t.Errorf("View afterwards: %v", err)
		}
		testkit.Report(t, "1 panic(nil) went through")
	}, func(child *exec.Cmd) {
		child.Env = append(child.Env, "GODEBUG=panicnil=1,"+os.Getenv("GODEBUG"))
	})
}
