package systems_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"unsafe"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"golang.org/x/sys/windows"
)

func handlesOfProcess() (n uint32, err error) {
	done, _, err := windows.NewLazySystemDLL("kernel32.dll").NewProc("GetProcessHandleCount").
		Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&n)))
	if done == 0 {
		return 0, err
	}
	return n, nil
}

// TestNoHandlePerView catches a section handle that stays open as long as its view.
func TestNoHandlePerView(t *testing.T) {
	const windowSize, count = 64 << 10, 200
	dir := testkit.TestDir(t)
	name := testkit.WriteFile(t, dir, "file", testkit.Content(windowSize*count))
	config := testkit.Windowed(memmapfs.ModeReadWrite, windowSize)
	config.MaxWindows = count
	file := testkit.MustOpenMapped(t, testkit.Mode{Name: "windows", Config: config}.OverOS(t), name, os.O_RDWR)
	testkit.ForceMap(file)
	before, err := handlesOfProcess()
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(count) {
		if _, err := file.Seek(i*windowSize, io.SeekStart); err != nil || len(file.Data()) != windowSize {
			t.Fatal("window", i, "is not mapped:", err)
		}
	}
	after, err := handlesOfProcess()
	if err != nil {
		t.Fatal(err)
	}
	if after > before+20 {
		t.Errorf("%d handles before %d windows were mapped, %d after", before, count, after)
	}
}

// TestHintsOnWindows catches a hint that is not passed on, and one that pretends to be.
func TestHintsOnWindows(t *testing.T) {
	dir := testkit.TestDir(t)
	name := testkit.WriteFile(t, dir, "file", testkit.Content(100_000))
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		file := testkit.MustOpenMapped(t, m.OverOS(t), name, os.O_RDWR)
		if err := file.AdviseWillNeed(); err != nil {
			t.Error("AdviseWillNeed:", err)
		}
		for what, hint := range map[string]func() error{
			"AdviseSequential": file.AdviseSequential, "AdviseRandom": file.AdviseRandom,
			"AdviseDontNeed": file.AdviseDontNeed, "AdviseFree": file.AdviseFree, "AdviseRemove": file.AdviseRemove,
			"AdviseHugePage": file.AdviseHugePage, "AdviseNoHugePage": file.AdviseNoHugePage,
			"Advise": func() error { return file.Advise(1) },
		} {
			err := hint()
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: %v, want errors.ErrUnsupported", what, err)
			}
			testkit.CheckPathError(t, what, err, name)
		}
	}, testkit.Wrapped)
}
