//go:build darwin || dragonfly || freebsd || linux || netbsd || solaris || windows

package sharing_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/absfs/memmapfs"
)

// Catches an anonymous region that others do not share, that can be found, or that is not as
// long as asked.
func TestAnonymous(t *testing.T) {
	const size = 100_001
	region, err := memmapfs.CreateAnonymousMemory(size)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	if region.Size() != size || len(region.Data()) != size || !region.Created() {
		t.Errorf("%d bytes, Data %d", region.Size(), len(region.Data()))
	}
	for _, b := range region.Data() {
		if b != 0 {
			t.Fatal("it is not zero")
		}
	}
	copy(region.Data(), "from the parent")
	// Another handle stands here for another process where those cannot get files.
	other, err := memmapfs.SharedMemoryFromFile(region.File())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(other.Data()[:15]); got != "from the parent" || other.Size() != size || other.Created() {
		t.Errorf("%q in %d bytes", got, other.Size())
	}
	if err := errors.Join(region.Grow(2*size), other.Refresh()); err != nil || other.Size() != 2*size {
		t.Errorf("Grow: %v, %d bytes", err, other.Size())
	}
	other.Data()[2*size-1] = 5
	if region.Data()[2*size-1] != 5 {
		t.Error("what was grown is not shared")
	}
	if err := region.Lock(); err != nil {
		t.Fatal(err)
	}
	switch locked, err := other.TryLock(); {
	case errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "linux": // as documented
	case locked || err != nil:
		t.Errorf("TryLock of what is locked: %v %v", locked, err)
	}
	if err := errors.Join(region.Unlock(), other.Remove(), region.Remove()); err != nil {
		t.Error(err)
	}
	for _, size := range []int64{0, -1, 1 << 62} {
		if _, err := memmapfs.CreateAnonymousMemory(size); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, err := memmapfs.SharedMemoryFromFile(nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("no file: %v", err)
	}
}

// Catches a region that a child does not get, with its lock, its waiting and its growth.
func TestAnonymousInChild(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // os/exec passes no files on
	}
	region, err := memmapfs.CreateAnonymousMemory(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	child := meetStranger(t, func(process *exec.Cmd) { process.ExtraFiles = []*os.File{region.File()} })
	child.must("from file", 3)
	copy(region.Data()[8:], "parent")
	if got := child.ask("load", 8, 6); got != "parent" {
		t.Errorf("the child sees %q", got)
	}
	child.must("store", 8, "child.")
	if got := string(region.Data()[8:14]); got != "child." {
		t.Errorf("the parent sees %q", got)
	}
	child.tell("wait", 0, 0)
	word, err := region.Uint32(0)
	if err != nil {
		t.Fatal(err)
	}
	word.Store(1)
	if _, err := region.Wake(0, 1); err != nil {
		t.Error(err)
	}
	if answer := child.answer(); answer != "ok" {
		t.Errorf("waiting: %s", answer)
	}
	if err := region.Lock(); err != nil {
		t.Fatal(err)
	}
	if got := child.ask("try"); got == "true" || got != "false" && runtime.GOOS == "linux" {
		t.Errorf("TryLock in the child of what the parent has locked: %s", got)
	}
	if err := region.Unlock(); err != nil {
		t.Error(err)
	}
	child.must("grow", 1<<20)
	if err := region.Refresh(); err != nil || region.Size() != 1<<20 {
		t.Errorf("grown by the child: %v, %d bytes", err, region.Size())
	}
}
