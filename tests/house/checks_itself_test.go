//go:build unix

package house_test

import (
	"fmt"
	"strings"
	"testing"
)

// Catches a checker that finds nothing: each file here has one mistake, and all that is allowed.
func TestCheckerFindsMistakes(t *testing.T) {
	long := func(lines int) string { return strings.Repeat("\t_ = 0\n", lines) }
	methods := "package house\n"
	for i := range mostMethods + 1 {
		methods += fmt.Sprintf("func (f *MappedFile) Method%d() {}\n", i)
	}
	for _, test := range []struct {
		what  string
		files map[string]string
		want  []string // what each mistake contains
	}{
		{"all that is allowed", map[string]string{
			"config.go":      "package house\n\n// " + strings.Repeat("x", 97) + "\ntype Config struct{ limit int }\n",
			"system.go":      "package house\n\nfunc call() {}\n",
			"mmap_linux.go":  "package house\n\nfunc sysMap(c Config) { call() }\n",
			"window.go":      "package house\n\nimport \"sync\"\n\ntype window struct {\n\t// mu guards all.\n\tmu sync.Mutex\n\trw sync.RWMutex // the rest\n}\n\nfunc (w *window) open() { sysMap(Config{limit: 1}) }\n",
			"mappedfile.go":  "package house\n\ntype MappedFile struct{ w window }\n\n// Long: it is a list.\nfunc (f *MappedFile) Open() {\n\tf.w.open()\n" + long(60) + "}\n",
			"memmapfs.go":    "// Long: it is generated.\n\npackage house\n\nfunc New() *MappedFile { return nil }\n" + strings.Repeat("\n", 500),
			"shared_wait.go": "package house\n\nfunc wait() { New().Open() }\n",
		}, nil},
		{"a function, a variable, a constant and a type of a floor above", map[string]string{
			"window.go":   "package house\n\nvar w = limit\n\nfunc open(c *cache) {\n\tmake1()\n\t_ = size\n}\n",
			"filemaps.go": "package house\n\nconst limit = 1\n\nvar size int\n\ntype cache struct{}\n\nfunc make1() {}\n",
		}, []string{
			"window.go:3, on floor 4, names limit of filemaps.go, on floor 5", "window.go:5, on floor 4, names cache",
			"window.go:6, on floor 4, names make1", "window.go:7, on floor 4, names size",
		}},
		{"a method, behind a field, an interface's twin and an atomic pointer", map[string]string{
			"mapping.go":    "package house\n\nimport \"sync/atomic\"\n\ntype owner[T any] struct{ of atomic.Pointer[T] }\n",
			"private.go":    "package house\n\nvar last owner[MappedFile]\n\nfunc f() { last.of.Load().Close() }\n",
			"mappedfile.go": "package house\n\ntype MappedFile struct{}\n\nfunc (f *MappedFile) Close() {}\n",
		}, []string{"private.go:3, on floor 6, names MappedFile", "private.go:5, on floor 6, names Close of mappedfile.go, on floor 7"}},
		{"an interface below is no use of what implements it", map[string]string{
			"mapping.go":    "package house\n\ntype closer interface{ Close() }\n\nfunc end(c closer) { c.Close() }\n",
			"mappedfile.go": "package house\n\ntype MappedFile struct{}\n\nfunc (f *MappedFile) Close() {}\n\nvar _ closer = (*MappedFile)(nil)\n",
		}, nil},
		{"a file of another system", map[string]string{
			"mmap_windows.go": "package house\n\nfunc sysMap() { guard() }\n",
			"mmap_other.go":   "//go:build !unix && !windows\n\npackage house\n\nfunc sysMap() { guard() }\n",
			"guard.go":        "package house\n\nfunc guard() {}\n",
		}, []string{"mmap_other.go:5, on floor 1, names guard", "mmap_windows.go:3, on floor 1, names guard"}},
		{"the ground floor uses nothing", map[string]string{
			"errors.go": "package house\n\nvar _ = call\n",
			"system.go": "package house\n\nfunc call() {}\n",
		}, []string{"errors.go:3, on floor 0, names call of system.go, on floor 1"}},
		{"a file that is not listed", map[string]string{"attic.go": "package house\n"}, []string{"attic.go is on no floor"}},
		{"a long file and a long function", map[string]string{
			"sync.go":     "package house\n" + strings.Repeat("\n", 500),
			"position.go": "package house\n\nfunc f() {\n" + long(59) + "}\n",
		}, []string{"position.go:3: f has 61 lines", "sync.go has 501 lines"}},
		{"a long comment", map[string]string{"config.go": "package house\n\n// " + strings.Repeat("x", 98) + "\n"},
			[]string{"config.go:3: a comment of 101 characters"}},
		{"locks without comments", map[string]string{
			"sync.go": "package house\n\nimport \"sync\"\n\nvar all struct {\n\tsync.Mutex\n\trw sync.RWMutex\n}\n",
		}, []string{"sync.go:6: a sync.Mutex", "sync.go:7: a sync.RWMutex"}},
		{"many methods", map[string]string{
			"mappedfile.go": "package house\n\ntype MappedFile struct{}\n", "view.go": methods,
		}, []string{"MappedFile has 76 methods"}},
	} {
		h, err := newHouse(test.files)
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.check()
		if err != nil {
			t.Fatal(err)
		}
		matches := len(got) == len(test.want)
		for i := 0; matches && i < len(got); i++ {
			matches = strings.HasPrefix(got[i], test.want[i])
		}
		if !matches {
			t.Errorf("%s: found\n\t%s\nwant\n\t%s", test.what, strings.Join(got, "\n\t"), strings.Join(test.want, "\n\t"))
		}
	}
}
