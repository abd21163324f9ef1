package memmapfs_test

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/windows"
)

// onWine tells whether Windows is emulated by wine.
var onWine = windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil

// resizeOnHost has the host that runs wine change the size of a file, of which Windows is not asked.
func resizeOnHost(native string, size int64) error {
	onHost := os.Getenv("WINEPREFIX") + "/dosdevices/" + strings.ToLower(native[:1]) + strings.ReplaceAll(native[1:], `\`, "/")
	const program = `Z:\usr\bin\truncate`
	process, err := os.StartProcess(program, []string{program, "-s", fmt.Sprint(size), onHost}, new(os.ProcAttr))
	if err != nil {
		return err
	}
	process.Release() // wine cannot wait for programs of the host
	resized := func() bool {
		info, err := os.Stat(native)
		return err == nil && info.Size() == size
	}
	if !eventually(resized) {
		return fmt.Errorf("%s %s does not get its %d bytes", program, onHost, size)
	}
	return nil
}
