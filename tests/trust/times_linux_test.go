package trust_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

var longAgo = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// setFromOutside sets the file's times as another program does.
func setFromOutside(t testing.TB, native string, to time.Time) {
	t.Helper()
	if err := os.Chtimes(native, to, to); err != nil {
		t.Fatal(err)
	}
}

func modified(t testing.TB, native string) time.Time {
	t.Helper()
	info, err := os.Stat(native)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// onTimed runs a test on filesystems that differ in when a store moves the modification time, with a file
// that is stored to already.
func onTimed(t *testing.T, test func(t *testing.T, file *memmapfs.MappedFile, native string)) {
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testkit.MountKind(t, kind, map[string][]byte{"file": testkit.Content(int(4 * testkit.PageSize))})
			native := filepath.Join(dir, "file")
			fileSystem := testkit.Mode{Config: testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncNever)}.OverOS(t)
			p := openPair(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
			p.warm() // that a store was inside the file is proved by the next page
			for range rounds {
				store(t, p.mapped)
			}
			test(t, p.mapped, native)
		})
	}
}

func store(t testing.TB, file *memmapfs.MappedFile) {
	t.Helper()
	if _, err := file.WriteAt([]byte("stored"), 100); err != nil {
		t.Fatal(err)
	}
}

// Catches a time that was set from outside after the last store, and that Sync or Close moves.
func TestTimeSetAfterAStoreStays(t *testing.T) {
	onTimed(t, func(t *testing.T, file *memmapfs.MappedFile, native string) {
		for _, sync := range []bool{true, false} {
			if sync {
				if err := file.Sync(); err != nil {
					t.Fatal(err)
				}
				store(t, file) // through the file, and then into the map
				store(t, file)
			}
			setFromOutside(t, native, longAgo)
			if err := file.Sync(); err != nil {
				t.Fatal(err)
			}
			if got := modified(t, native); !got.Equal(longAgo) {
				t.Errorf("synced before %v: Sync has moved the time to %v", sync, got)
			}
		}
		store(t, file)
		store(t, file)
		setFromOutside(t, native, longAgo)
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		if got := modified(t, native); !got.Equal(longAgo) {
			t.Errorf("Close has moved the time to %v", got)
		}
	})
}

// Catches a time that was set before a store, and that neither Sync nor Close moves.
func TestTimeSetBeforeAStoreMoves(t *testing.T) {
	onTimed(t, func(t *testing.T, file *memmapfs.MappedFile, native string) {
		ends := []struct {
			name string
			end  func() error
		}{{"Sync", file.Sync}, {"Close", file.Close}}
		for _, end := range ends {
			if err := file.Sync(); err != nil {
				t.Fatal(err)
			}
			store(t, file) // the page is dirty: the next store does not move the time by itself
			setFromOutside(t, native, longAgo)
			began := time.Now().Add(-50 * time.Millisecond) // the kernel's clock ticks coarsely
			if err := file.View(100, 6, func(b []byte) error { copy(b, "viewed"); return nil }); err != nil {
				t.Fatal(err)
			}
			if err := end.end(); err != nil {
				t.Fatal(err)
			}
			if got := modified(t, native); got.Before(began) {
				t.Errorf("%s has left the time at %v", end.name, got)
			}
		}
	})
}

const killedVariable = "MEMMAPFS_TRUST_KILLED"

// Catches a modification time that a killed process leaves older than its last flush, so that the changes
// are missed by whoever copies what is new.
func TestTimeAfterKill(t *testing.T) {
	if native := os.Getenv(killedVariable); native != "" {
		flushUntilKilled(t, native)
		return
	}
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testkit.MountKind(t, kind, map[string][]byte{"file": testkit.Content(int(4 * testkit.PageSize))})
			native := filepath.Join(dir, "file")
			child := testkit.ThisProgram(t, "-test.run=^TestTimeAfterKill$")
			child.Env = append(os.Environ(), killedVariable+"="+native)
			output, err := child.StdoutPipe()
			if err == nil {
				err = child.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			var last int64
			for range 20 {
				if _, err := fmt.Fscanln(output, &last); err != nil {
					t.Fatal(err)
				}
			}
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			child.Wait()
			if got := modified(t, native); got.Before(time.Unix(0, last).Add(-50 * time.Millisecond)) {
				t.Errorf("the time is %v, the last flush began at %v", got, time.Unix(0, last))
			}
		})
	}
}

// flushUntilKilled stores, has the flusher flush that, and says when the stores were.
func flushUntilKilled(t *testing.T, native string) {
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), testkit.Full(memmapfs.ModeReadWrite, memmapfs.SyncPeriodic))
	p := openPair(t, fileSystem, osfs.FromNative(native), os.O_RDWR)
	p.warm()
	file := p.mapped
	for {
		store(t, file)
		store(t, file)
		stored, before := time.Now(), fileSystem.Stats().Flushes
		for fileSystem.Stats().Flushes < before+2 { // the first may have begun before
			store(t, file)
		}
		fmt.Println(stored.UnixNano())
	}
}

// Catches documentation that does not say what happens to access times, which reads from a map do not move.
func TestAccessTimeIsDocumented(t *testing.T) {
	for _, name := range []string{"../../README.md", "../../mappedfile.go", "../../docs/SYSTEMS.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "access time") {
			return
		}
	}
	t.Error("no document has a word about the access time")
}
