package testkit

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// OnWine tells whether Windows is emulated by wine.
var OnWine = windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil

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
	if !Eventually(resized) {
		return fmt.Errorf("%s does not get its %d bytes", onHost(native), size)
	}
	return nil
}

// ZeroByWriting has a range read as zeros as a hole in it would.
func ZeroByWriting(fd uintptr, offset, length int64) error {
	at := windows.Overlapped{Offset: uint32(offset), OffsetHigh: uint32(offset >> 32)}
	var written uint32
	return windows.WriteFile(windows.Handle(fd), make([]byte, length), &written, &at)
}

// OpenRemovable opens a file so that it can be removed and renamed while it is open. It knows the flags
// that the tests use.
func OpenRemovable(native string, flag int, perm os.FileMode) (*os.File, error) {
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
