//go:build unix

package testkit

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Nobody is a user who is not root and owns nothing.
const Nobody = 65534

// DirForAll returns a new directory that all users may enter.
func DirForAll(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path := dir; strings.HasPrefix(path, filepath.Clean(os.TempDir())+"/"); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// RunAsNobody has root run a test again in a process of an ordinary user, whom the variable tells the
// directory to use.
func RunAsNobody(t *testing.T, test, variable, dir string) {
	t.Helper()
	// The test's binary may lie in a directory that the other user cannot enter.
	child := exec.Command("/proc/self/exe", "-test.run=^"+test+"$", "-test.v")
	if emulator := os.Getenv(emulatorVariable); emulator != "" {
		binary, err := os.Open(child.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer binary.Close()
		child = exec.Command(emulator, append([]string{"/proc/self/fd/3"}, child.Args[1:]...)...)
		child.ExtraFiles = []*os.File{binary}
	} else if runtime.GOOS != "linux" {
		child.Path = os.Args[0]
	}
	child.Dir = dir
	child.Env = append(os.Environ(), variable+"="+dir, "PWD="+dir)
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody}}
	output, err := child.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("the other user may not run the test's binary: %v", err)
	}
	if err != nil || !bytes.Contains(output, []byte("--- PASS: "+test)) {
		t.Errorf("%v\n%s", err, output)
	}
}
