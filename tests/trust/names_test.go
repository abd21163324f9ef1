package trust_test

import (
	"errors"
	"os"
	"testing"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// losses are ways in which a file loses its name.
var losses = map[string]func(native string) error{
	"renamed": func(native string) error { return os.Rename(native, native+".old") },
	"removed": os.Remove,
	"replaced": func(native string) error {
		if err := os.WriteFile(native+".new", testkit.Content(20_000), 0o644); err != nil {
			return err
		}
		return os.Rename(native+".new", native)
	},
}

// Catches bytes of another file that has the name now, a View that fails without a reason, and a file that
// offers its descriptor and is not mapped for want of a name.
func TestNameLostBeforeTheMap(t *testing.T) {
	testkit.NeedShrinking(t) // Windows takes no name away from an open file
	for how, lose := range losses {
		for offers, over := range map[string]bool{"osfs.File": false, "*os.File": true} {
			t.Run(how+", "+offers, func(t *testing.T) {
				testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
					data := testkit.Content(3*int(testkit.PageSize) + 100)
					name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
					fileSystem := m.OverOS(t)
					if over {
						fileSystem = m.Over(t, openingFiles{testkit.PlainFileSystem(t), asItIs})
					}
					p := openPair(t, fileSystem, name, os.O_RDWR)
					if err := lose(osfs.ToNative(name)); err != nil {
						t.Fatal(err)
					}
					p.warm()
					p.same("after it has lost its name")
					seen, err := viewAll(p.mapped, len(data))
					if over && testkit.Mappable() {
						if err != nil {
							t.Fatal("View:", err)
						}
						testkit.MustEqual(t, "View", seen, data)
						return
					}
					if !errors.Is(err, memmapfs.ErrNotMapped) || p.mapped.Data() != nil {
						t.Errorf("View: %v, want ErrNotMapped", err)
					}
					why := p.mapped.MappingError()
					stats := fileSystem.(*memmapfs.MemMapFS).Stats()
					if !errors.Is(why, memmapfs.ErrNotMapped) || testkit.Mappable() && stats.NotMappedNoDescriptor != 1 {
						t.Errorf("MappingError: %v; %d counted", why, stats.NotMappedNoDescriptor)
					}
				}, testkit.Wrapped)
			})
		}
	}
}

// Catches a View that fails, or a slice from Data that faults, because a window was dropped for a map that
// then could not be made: the file has lost its name and has grown since.
func TestNameLostAfterTheMap(t *testing.T) {
	testkit.NeedShrinking(t)
	testkit.NeedMaps(t)
	for how, lose := range losses {
		if how == "removed" {
			continue // it cannot be grown by another name
		}
		t.Run(how, func(t *testing.T) {
			testkit.EachMode(t, func(t *testing.T, m testkit.Mode) {
				data := testkit.Content(3*int(testkit.PageSize) + 100)
				name := testkit.WriteFile(t, testkit.TestDir(t), "file", data)
				native := osfs.ToNative(name)
				if err := os.Link(native, native+".link"); err != nil {
					t.Skip("this filesystem has no links: ", err)
				}
				p := openPair(t, m.OverOS(t), name, os.O_RDONLY)
				p.warm()
				lent := p.mapped.Data()
				mustView := func(when string, n int) {
					t.Helper()
					seen, err := viewAll(p.mapped, n)
					if err != nil {
						t.Fatalf("View %s: %v", when, err)
					}
					testkit.MustEqual(t, "View "+when, seen, data[:n])
				}
				mustView("before", int(testkit.PageSize))
				if err := lose(native); err != nil {
					t.Fatal(err)
				}
				mustView("after", int(testkit.PageSize))
				data = testkit.Content(40*int(testkit.PageSize) + 7)
				rewrite(t, native+".link", data)
				p.same("grown")
				for range rounds {
					mustView("grown", int(testkit.PageSize))
					viewAll(p.mapped, len(data)) // may be refused
					mustView("after one that may be refused", int(testkit.PageSize))
					p.sameAt("grown", int64(len(data))-20, 30)
				}
				testkit.MustEqual(t, "the slice from Data", lent, data[:len(lent)])
			}, testkit.Wrapped, testkit.NotCopyOnWrite)
		})
	}
}
