package differential_test

import (
	"testing"

	"github.com/absfs/memmapfs/internal/testkit"
)

// Catches what is different on overlayfs, where files become other ones when they are first opened for
// writing: each row begins with files of the lower layer, one after the other.
func TestDifferentialOnOverlay(t *testing.T) {
	files := make(map[string][]byte)
	for _, m := range testkit.Modes {
		for n := range 12 {
			files[layerFile(m, n)] = testkit.Content(int(testkit.PageSize)*(n+1)*3/2 + 123)
		}
	}
	runDifferential(t, world{dir: testkit.MountKind(t, "overlay", files), momentary: true, layer: files})
}

// Catches what is different on FUSE.
func TestDifferentialOnFUSE(t *testing.T) {
	runDifferential(t, world{dir: testkit.MountKind(t, "fuse", nil), noHoles: true})
}
