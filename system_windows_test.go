package memmapfs_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/absfs/memmapfs"
	"golang.org/x/sys/windows"
)

// onWine tells whether Windows is emulated by wine.
var onWine = windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil

// resizeOnHost has the host that runs wine change the size of a file, of which Windows is not asked.
func resizeOnHost(native string, size int64) error {
	onHost := func(native string) string {
		return os.Getenv("WINEPREFIX") + "/dosdevices/" + strings.ToLower(native[:1]) + strings.ReplaceAll(native[1:], `\`, "/")
	}
	mark, err := os.CreateTemp("", "resizing")
	if err != nil {
		return err
	}
	defer os.Remove(mark.Name())
	mark.Close()
	const shell = `Z:\bin\sh`
	program, err := windows.UTF16PtrFromString(shell)
	if err != nil {
		return err
	}
	command, err := windows.UTF16PtrFromString(windows.ComposeCommandLine([]string{shell, "-c",
		`truncate -s "$1" "$2" && rm "$3"`, "sh", fmt.Sprint(size), onHost(native), onHost(mark.Name())}))
	if err != nil {
		return err
	}
	// Of a program of the host wine gives no handles, but leaves in process what was there: they may
	// be neither waited for nor closed, as package os would.
	var process windows.ProcessInformation
	startup := windows.StartupInfo{Cb: uint32(unsafe.Sizeof(windows.StartupInfo{}))}
	err = windows.CreateProcess(program, command, nil, nil, false, 0, nil, nil, &startup, &process)
	if err != nil {
		return err
	}
	resized := func() bool {
		_, err := os.Stat(mark.Name())
		return errors.Is(err, os.ErrNotExist)
	}
	if !eventually(resized) {
		return fmt.Errorf("%s does not get its %d bytes", onHost(native), size)
	}
	return nil
}

// zeroByWriting has a range read as zeros as a hole in it would.
func zeroByWriting(fd uintptr, offset, length int64) error {
	at := windows.Overlapped{Offset: uint32(offset), OffsetHigh: uint32(offset >> 32)}
	var written uint32
	return windows.WriteFile(windows.Handle(fd), make([]byte, length), &written, &at)
}

// openRemovable opens a file so that it can be removed and renamed while it is open. It knows the flags
// that the tests use.
func openRemovable(native string, flag int, perm os.FileMode) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(native)
	if err != nil {
		return nil, err
	}
	access, creation := uint32(windows.GENERIC_READ), uint32(windows.OPEN_EXISTING)
	if flag&os.O_RDWR != 0 {
		access |= windows.GENERIC_WRITE
	}
	if flag&os.O_TRUNC != 0 {
		creation = windows.TRUNCATE_EXISTING
	}
	const shared = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	handle, err := windows.CreateFile(name, access, shared, nil, creation, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: native, Err: err}
	}
	return os.NewFile(uintptr(handle), native), nil
}

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
	dir := testDir(t)
	name := writeFile(t, dir, "file", content(windowSize*count))
	config := windowed(memmapfs.ModeReadWrite, windowSize)
	config.MaxWindows = count
	file := mustOpenMapped(t, mode{"windows", config}.overOS(t), name, os.O_RDWR)
	forceMap(file)
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
	dir := testDir(t)
	name := writeFile(t, dir, "file", content(100_000))
	eachMode(t, func(t *testing.T, m mode) {
		file := mustOpenMapped(t, m.overOS(t), name, os.O_RDWR)
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
			checkPathError(t, what, err, name)
		}
	}, wrapped)
}
