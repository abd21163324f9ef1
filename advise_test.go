package memmapfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
)

// Catches a hint that is taken for another one, refused where it should not be, or passed on where the
// range or the file is none.
func TestAdviseRangeChecksItsArguments(t *testing.T) {
	size := 8 * pageSize
	name := writeFile(t, testDir(t), "file", content(int(size)))
	fileSystem := mode{"", memmapfs.DefaultConfig()}.overOS(t)
	file := mustOpenMapped(t, fileSystem, name, os.O_RDONLY)
	for _, test := range []struct {
		off, n int64
		advice memmapfs.Advice
		want   error
	}{
		{-1, 1, memmapfs.AdviceNormal, memmapfs.ErrInvalidOffset},
		{0, -1, memmapfs.AdviceNormal, memmapfs.ErrInvalidOffset},
		{0, 1, -1, fs.ErrInvalid},
		{0, 1, memmapfs.AdviceNoHugePage + 1, fs.ErrInvalid},
		{0, 0, memmapfs.AdviceWillNeed, nil},
		{1, 1, memmapfs.AdviceWillNeed, nil},
		{0, math.MaxInt64, memmapfs.AdviceWillNeed, nil},
		{size + 1, math.MaxInt64, memmapfs.AdviceWillNeed, nil},
		{math.MaxInt64, math.MaxInt64, memmapfs.AdviceWillNeed, nil},
	} {
		err := file.AdviseRange(test.off, test.n, test.advice)
		if errors.Is(err, errors.ErrUnsupported) && !mappable() {
			continue
		}
		if !errors.Is(err, test.want) {
			t.Errorf("AdviseRange(%d, %d, %v): %v, want %v", test.off, test.n, test.advice, err, test.want)
		}
		if err != nil {
			checkPathError(t, "AdviseRange", err, name)
		}
	}
	seen := make(map[string]bool)
	for advice := memmapfs.AdviceNormal; advice <= memmapfs.AdviceNoHugePage; advice++ {
		if text := advice.String(); seen[text] || !strings.HasPrefix(text, "Advice") || strings.Contains(text, "(") {
			t.Errorf("%d is called %q", int(advice), text)
		} else {
			seen[text] = true
		}
	}
	if text := memmapfs.Advice(99).String(); text != "Advice(99)" {
		t.Errorf("an unknown advice is called %q", text)
	}

	empty := mustOpenMapped(t, fileSystem, writeFile(t, testDir(t), "empty", nil), os.O_RDONLY)
	if err := empty.AdviseRange(0, 1, memmapfs.AdviceWillNeed); !errors.Is(err, errors.ErrUnsupported) || mappable() && !errors.Is(err, memmapfs.ErrNotMapped) {
		t.Errorf("a hint for an empty file: %v", err)
	}
	file.Close()
	for name, call := range map[string]func() error{
		"AdviseRange":  func() error { return file.AdviseRange(-1, -1, 99) },
		"Prefetch":     func() error { return file.Prefetch(-1, 1) },
		"LockMemory":   func() error { return file.LockMemory(-1, 1) },
		"UnlockMemory": func() error { return file.UnlockMemory(-1, 1) },
		"PunchHole":    func() error { return file.PunchHole(-1, 1) },
		"Residency":    func() error { _, _, _, err := file.Residency(-1, 1); return err },
	} {
		if err := call(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

// Catches a number that destroys data and gets through, under any name and in any mode; and an error that
// does not say what to use instead. The destructive numbers of Linux are FREE, REMOVE, WIPEONFORK,
// DONTNEED_LOCKED, and behind COLLAPSE HWPOISON, SOFT_OFFLINE and GUARD_INSTALL.
func TestRawAdviceDestroysNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the numbers are those of Linux")
	}
	passed := make(map[int]bool)
	restore := memmapfs.HookAdvise(func(advise func(data []byte, advice int) error) func(data []byte, advice int) error {
		return func(data []byte, advice int) error {
			passed[advice] = true
			if advice >= 100 {
				return nil // they damage the machine's memory
			}
			return advise(data, advice)
		}
	})
	defer restore()
	eachMode(t, func(t *testing.T, m mode) {
		data := content(int(8*pageSize) + 100)
		name := writeFile(t, testDir(t), "file", data)
		file := mustOpenMapped(t, m.overOS(t), name, os.O_RDWR)
		forceMap(file)
		want := append([]byte(nil), data...)
		for i := range 2 { // the second is a store
			at := int(pageSize)*3 + i
			if _, err := file.WriteAt([]byte("written"), int64(at)); err != nil {
				t.Fatal(err)
			}
			copy(want[at:], "written")
		}
		clear(passed)
		for advice := -3; advice < 200; advice++ {
			err := file.Advise(advice)
			refused := errors.Is(err, fs.ErrInvalid) && strings.Contains(fmt.Sprint(err), "PunchHole")
			destroys := slices.Contains([]int{8, 9, 18, 24}, advice) || advice < 0 || advice > 25
			if refused != destroys || refused && passed[advice] {
				t.Errorf("advice %d: %v, passed on: %v", advice, err, passed[advice])
			}
			mustEqual(t, fmt.Sprint("after advice ", advice), readAll(t, file), want)
			file.Seek(0, 0)
			inFile := want
			if m.copyOnWrite() {
				inFile = data
			}
			mustEqual(t, fmt.Sprint("the file after advice ", advice), readNative(t, name), inFile)
		}
		for _, advice := range []int{0, 1, 2, 20, 21} {
			if !passed[advice] {
				t.Errorf("advice %d was not passed on", advice)
			}
		}
	}, wrapped)
}
