package hints_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// Catches a hint that is taken for another one, refused where it should not be, or passed on where the
// range or the file is none.
func TestAdviseRangeChecksItsArguments(t *testing.T) {
	size := 8 * testkit.PageSize
	name := testkit.WriteFile(t, testkit.TestDir(t), "file", testkit.Content(int(size)))
	fileSystem := testkit.Mode{Config: memmapfs.DefaultConfig()}.OverOS(t)
	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
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
		if errors.Is(err, errors.ErrUnsupported) && !testkit.Mappable() {
			continue
		}
		if !errors.Is(err, test.want) {
			t.Errorf("AdviseRange(%d, %d, %v): %v, want %v", test.off, test.n, test.advice, err, test.want)
		}
		if err != nil {
			testkit.CheckPathError(t, "AdviseRange", err, name)
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

	empty := testkit.MustOpenMapped(t, fileSystem, testkit.WriteFile(t, testkit.TestDir(t), "empty", nil), os.O_RDONLY)
	if err := empty.AdviseRange(0, 1, memmapfs.AdviceWillNeed); !errors.Is(err, errors.ErrUnsupported) || testkit.Mappable() && !errors.Is(err, memmapfs.ErrNotMapped) {
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
