package limits_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// TestManyOpens catches second descriptors that take what opens need: of 1,024 descriptors osfs opens 950
// files, and so does every mode, with each file mapped and used. What needs a descriptor again that was
// given back has it, or does without.
func TestManyOpens(t *testing.T) {
	testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
		testkit.InChild(t, func(t *testing.T) {
			const files = 950
			limit := syscall.Rlimit{Cur: 1024, Max: 1024}
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			dir := testkit.TestDir(t)
			names := sparseFiles(t, dir, files, 256*testkit.Kibibyte, 0, 128*testkit.Kibibyte)
			fileSystem := m.OverOS(t)
			use := func(file absfs.File, i int) {
				t.Helper()
				buffer := make([]byte, 8)
				for _, at := range []int64{0, 128 * testkit.Kibibyte, 64 * testkit.Kibibyte} {
					for range 20 {
						if _, err := file.ReadAt(buffer, at); err != nil {
							t.Fatalf("file %d: %v", i, err)
						}
					}
				}
				if _, err := file.WriteAt([]byte("written"), 4096); err != nil {
					t.Fatalf("file %d: %v", i, err)
				}
			}
			var open []absfs.File
			for i, name := range names {
				file, err := fileSystem.OpenFile(name, os.O_RDWR, 0)
				if err != nil {
					t.Fatalf("open number %d: %v", i, err)
				}
				open = append(open, file)
				if i == 500 && canStillOpen(t) < 300 {
					t.Error("the program itself cannot open 300 files beside 500")
				}
				if i < 850 { // the others are opened while second descriptors stand in the way
					use(file, i)
				}
			}
			second := 0
			for i, file := range open {
				use(file, i)
				if !m.Plain() {
					f := testkit.AsMapped(t, file)
					if data := f.Data(); len(data) > 0 { // the window at the position, or all
						second++
					}
					f.Residency(0, testkit.PageSize)
				}
				if i%100 == 0 {
					if err := file.Sync(); err != nil {
						t.Errorf("file %d: %v", i, err)
					}
				}
			}
			if !m.Plain() && second < files {
				t.Errorf("%d files of %d are mapped", second, files)
			}
			for i, file := range open {
				if err := file.Close(); err != nil {
					t.Fatalf("close number %d: %v", i, err)
				}
			}
			testkit.Report(t, "%s: %d files open; no fault injected", m.Name, files)
		})
	}, func(m testkit.Mode) bool {
		return hasTime() || m.Plain() || m.Name == "read-only" || m.Name == "read-write" || m.Name == "copy-on-write windows of 64 KiB"
	})
}

// canStillOpen counts the files that a program can open beside those of the filesystem under test.
func canStillOpen(t *testing.T) int {
	t.Helper()
	var more []*os.File
	defer func() {
		for _, file := range more {
			file.Close()
		}
	}()
	for {
		file, err := os.Open(os.DevNull)
		if err != nil {
			return len(more)
		}
		more = append(more, file)
	}
}
