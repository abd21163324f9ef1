package hints_test

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// asNobody runs work with the rights of a user who owns nothing.
func asNobody(t *testing.T, work func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("another user's rights take root")
	}
	var skip error
	var started testkit.Workers
	started.Start(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its rights
		const nobody = 65534
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			skip = errno
			return
		}
		work()
	})
	started.Wait()
	if skip != nil {
		t.Skipf("another user's rights take root: %v", skip)
	}
}

// The kernel tells a process that neither owns the file nor may write it that all of it is in memory.
func TestResidencyOfOthers(t *testing.T) {
	testkit.NotEmulated(t, "qemu has no cachestat(2), so the descriptor is not kept")
	name := testkit.ColdFile(t)
	file := testkit.MustOpenMapped(t, testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t), name, os.O_RDONLY)
	testkit.ForceMap(file) // which opens what nobody could not
	asNobody(t, func() {
		if _, total, trusted, err := file.Residency(0, testkit.ColdFileSize); trusted || err != nil || total != testkit.PagesOf(testkit.ColdFileSize) {
			t.Errorf("Residency of somebody else's file: total %d, trusted %v, %v", total, trusted, err)
		}
	})
	if err := os.Chmod(osfs.ToNative(name), 0o666); err != nil {
		t.Fatal(err)
	}
	testkit.DropAlone(t, name)
	asNobody(t, func() {
		if resident, _, trusted, err := file.Residency(0, testkit.ColdFileSize); !trusted || err != nil || resident != 0 {
			t.Errorf("Residency of a file that may be written: %d, trusted %v, %v", resident, trusted, err)
		}
	})
}

// Catches a prefetch that brings in nothing, or all, or that readers do not learn of.
func TestPrefetch(t *testing.T) {
	testkit.NotEmulated(t, testkit.QemuSwallowsAdvice)
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		name := testkit.ColdFile(t)
		fileSystem := m.OverOS(t).(*memmapfs.MemMapFS)
		file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDWR)
		if err := file.AdviseRandom(); err != nil { // else the system reads ahead
			t.Fatal(err)
		}
		from, n := int64(3*testkit.PageSize+5), int64(5<<20)
		if err := file.Prefetch(from, n); err != nil {
			t.Fatal(err)
		}
		if resident := testkit.ResidentBytesOf(t, file, from, n); resident != testkit.PagesOf(from+n)-3*testkit.PageSize {
			t.Errorf("%d bytes of %d are resident", resident, n)
		}
		if !m.Windowed() { // else not all of it is mapped
			if rest := testkit.ResidentBytesOf(t, file, from+n+testkit.PageSize, testkit.ColdFileSize); rest == testkit.PagesOf(testkit.ColdFileSize)-testkit.PagesOf(from+n)-testkit.PageSize {
				t.Errorf("%d bytes behind the range are resident", rest)
			}
			before := fileSystem.Stats()
			data := testkit.Content(testkit.ColdFileSize)
			p := make([]byte, 1000)
			for at := from; at+1000 < from+n; at += 1000 {
				if _, err := file.ReadAt(p, at); err != nil {
					t.Fatal(err)
				}
				testkit.MustEqual(t, "ReadAt", p, data[at:at+1000])
			}
			after := fileSystem.Stats()
			if after.ReadsCold != before.ReadsCold || after.ReadsUnmapped != before.ReadsUnmapped {
				t.Errorf("reads that went to the file: %+v, before %+v", after, before)
			}
		}
		if err := file.Prefetch(0, 1<<62); err != nil {
			t.Error("more than all:", err)
		}
		if resident := testkit.ResidentBytesOf(t, file, 0, testkit.ColdFileSize); resident != testkit.PagesOf(testkit.ColdFileSize) {
			t.Errorf("%d bytes are resident of all", resident)
		}
		if err := file.Prefetch(testkit.ColdFileSize, 1); err != nil {
			t.Error("behind the end:", err)
		}
		if err := file.Prefetch(0, -1); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Error("a negative length:", err)
		}
	}, testkit.Wrapped)
}

// Private pages are made by writing to them and by nothing else: brought in or locked, a page goes on
// showing what others write to the file.
func TestPrivateMapsFollowTheFile(t *testing.T) {
	for what, bringIn := range map[string]func(file *memmapfs.MappedFile) error{
		"PopulatePages": func(*memmapfs.MappedFile) error { return nil },
		"Prefetch":      func(file *memmapfs.MappedFile) error { return file.Prefetch(0, 1<<20) },
		"LockMemory":    func(file *memmapfs.MappedFile) error { return file.LockMemory(0, 4*testkit.PageSize) },
		"Advise":        func(file *memmapfs.MappedFile) error { return file.Advise(23) }, // MADV_POPULATE_WRITE
	} {
		t.Run(what, func(t *testing.T) {
			if what == "LockMemory" {
				testkit.NotEmulated(t, "qemu has no mlock2(2)")
			}
			config := testkit.Full(memmapfs.ModeCopyOnWrite, memmapfs.SyncNever)
			config.PopulatePages = what == "PopulatePages"
			data := testkit.Content(int(8 * testkit.PageSize))
			name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
			file := testkit.MustOpenMapped(t, testkit.Mode{Config: config}.OverOS(t), name, os.O_RDWR)
			if err := bringIn(file); err != nil {
				t.Fatal(err)
			}
			native, err := os.OpenFile(osfs.ToNative(name), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := native.WriteAt([]byte("by somebody else"), 10); err != nil {
				t.Fatal(err)
			}
			native.Close()
			copy(data[10:], "by somebody else")
			testkit.MustEqual(t, "the file", testkit.ReadAll(t, file), data)
			if !file.Mapped() {
				t.Error("not mapped")
			}
			if copies := testkit.Kilobytes(t, osfs.ToNative(name), "Anonymous"); copies != 0 {
				t.Errorf("%d KiB of private copies", copies)
			}
		})
	}
}
