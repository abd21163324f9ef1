//go:build unix

// Package house_test checks how the package is built: that its files stand on one another in floors, and
// that none of them is longer than a reader can hold.
package house_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// floors are the files of the package, from the ground up. A file names types, functions, methods,
// variables and constants of its own floor and of those below. A file that is not there is no mistake; a
// file that is not in the list is one.
var floors = []string{
	0: "config.go errors.go", // used by all
	1: "system.go mmap_*.go advise_linux.go",
	2: "guard.go pageset.go budget.go",
	3: "mapping.go",
	4: "window.go demand.go descriptor.go trust.go",
	5: "filemaps.go makemap.go residency.go loading.go hints.go",
	6: "private.go private_refresh.go position.go sync.go flusher.go",
	7: "mappedfile.go stream.go handles.go view.go advise.go sigbus.go",
	8: "memmapfs.go",
	9: "shared.go shared_open.go shared_create.go shared_lock.go shared_wait.go",
}

// What a reader can hold.
const (
	longestFile     = 500 // lines
	longestFunction = 60  // lines
	longestComment  = 100 // characters, in config.go
	mostMethods     = 75  // of MappedFile
)

// longMark begins the line that says why something is longer.
const longMark = "// Long: "

// systems stand for all: together they build every file.
var systems = []string{
	"linux/amd64", "darwin/arm64", "freebsd/amd64", "netbsd/amd64", "openbsd/amd64", "dragonfly/amd64",
	"solaris/amd64", "aix/ppc64", "windows/amd64", "js/wasm", "wasip1/wasm",
}

// house is a package, file by file.
type house struct {
	set     *token.FileSet
	texts   map[string]string // by the file's name
	trees   map[string]*ast.File
	imports types.Importer
}

func newHouse(texts map[string]string) (*house, error) {
	h := &house{set: token.NewFileSet(), texts: texts, trees: make(map[string]*ast.File)}
	h.imports = &standardOnly{importer.ForCompiler(h.set, "source", nil), make(map[string]*types.Package)}
	for name, text := range texts {
		tree, err := parser.ParseFile(h.set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		h.trees[name] = tree
	}
	return h, nil
}

// standardOnly imports packages of the standard library, whose generic types and functions return what
// they are given. All others are taken for empty: no type of this package comes out of them.
type standardOnly struct {
	source types.Importer
	empty  map[string]*types.Package
}

func (i *standardOnly) Import(name string) (*types.Package, error) {
	if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
		if imported, err := i.source.Import(name); err == nil || name == "sync/atomic" {
			return imported, err // that one is where most of the package's pointers come from
		}
	}
	if i.empty[name] == nil {
		i.empty[name] = types.NewPackage(name, path.Base(name))
		i.empty[name].MarkComplete()
	}
	return i.empty[name], nil
}

// floorOf returns the floor that a file is listed on, or -1.
func floorOf(name string) int {
	for floor, files := range floors {
		for _, pattern := range strings.Fields(files) {
			if match, _ := path.Match(pattern, name); match {
				return floor
			}
		}
	}
	return -1
}

// check returns everything that is wrong, in order.
func (h *house) check() ([]string, error) {
	found, err := h.upwardUses()
	if err != nil {
		return nil, err
	}
	for name := range h.texts {
		if floorOf(name) < 0 {
			found = append(found, name+" is on no floor")
		}
		found = append(found, h.tooLong(name)...)
		found = append(found, h.locksWithoutComment(name)...)
	}
	if methods := h.methods("MappedFile"); methods > mostMethods {
		found = append(found, fmt.Sprintf("MappedFile has %d methods, more than %d", methods, mostMethods))
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// upwardUses returns what a file names of a floor above its own, on any system.
func (h *house) upwardUses() (found []string, err error) {
	for _, system := range systems {
		files, err := h.builtOn(system)
		if err != nil {
			return nil, err
		}
		// Errors are not fatal: what other modules and other systems declare is missing here.
		config := types.Config{Importer: h.imports, Error: func(error) {}, FakeImportC: true}
		if _, err := h.imports.Import("sync/atomic"); err != nil {
			return nil, fmt.Errorf("without the source of the standard library uses would be missed: %w", err)
		}
		uses := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
		checked, _ := config.Check("house", h.set, files, uses)
		for identifier, used := range uses.Uses {
			if generic, ok := used.(*types.Func); ok {
				used = generic.Origin()
			}
			if used.Pkg() != checked || used.Parent() != checked.Scope() && !isMethod(used) {
				continue
			}
			at, declared := h.set.Position(identifier.Pos()), h.set.Position(used.Pos()).Filename
			if here, there := floorOf(at.Filename), floorOf(declared); here >= 0 && here < there {
				found = append(found, fmt.Sprintf("%s:%d, on floor %d, names %s of %s, on floor %d",
					at.Filename, at.Line, here, used.Name(), declared, there))
			}
		}
	}
	return found, nil
}

func isMethod(object types.Object) bool {
	function, ok := object.(*types.Func)
	return ok && function.Signature().Recv() != nil
}

// builtOn returns the files that are built on a system.
func (h *house) builtOn(system string) (files []*ast.File, err error) {
	context := build.Default
	context.GOOS, context.GOARCH, _ = strings.Cut(system, "/")
	context.CgoEnabled = false
	context.OpenFile = func(name string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader([]byte(h.texts[path.Base(name)]))), nil
	}
	for name, tree := range h.trees {
		built, err := context.MatchFile("/", name)
		if err != nil {
			return nil, err
		}
		if built {
			files = append(files, tree)
		}
	}
	return files, nil
}

// tooLong returns what of a file is longer than it may be and does not say why.
func (h *house) tooLong(name string) (found []string) {
	tree, lines := h.trees[name], strings.Split(strings.TrimSuffix(h.texts[name], "\n"), "\n")
	line := func(at token.Pos) int { return h.set.Position(at).Line }
	explained := slices.ContainsFunc(lines[:line(tree.Package)], func(line string) bool { return strings.HasPrefix(line, longMark) })
	if len(lines) > longestFile && !explained {
		found = append(found, fmt.Sprintf("%s has %d lines, more than %d, and no line %q before its package clause", name, len(lines), longestFile, longMark+"why"))
	}
	for _, declaration := range tree.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		first, last := line(function.Type.Func), line(function.End())
		explained := first > 1 && strings.HasPrefix(lines[first-2], longMark)
		if last-first+1 > longestFunction && !explained {
			found = append(found, fmt.Sprintf("%s:%d: %s has %d lines, more than %d, and no line %q above it",
				name, first, function.Name.Name, last-first+1, longestFunction, longMark+"why"))
		}
	}
	for i, text := range lines {
		text = strings.TrimSpace(text)
		if length := utf8.RuneCountInString(text); name == "config.go" && strings.HasPrefix(text, "//") && length > longestComment {
			found = append(found, fmt.Sprintf("%s:%d: a comment of %d characters, more than %d", name, i+1, length, longestComment))
		}
	}
	return found
}

// locksWithoutComment returns the locks of a file that do not say what they guard.
func (h *house) locksWithoutComment(name string) (found []string) {
	ast.Inspect(h.trees[name], func(node ast.Node) bool {
		structure, ok := node.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range structure.Fields.List {
			kind := types.ExprString(field.Type)
			if (kind == "sync.Mutex" || kind == "sync.RWMutex") && field.Doc == nil && field.Comment == nil {
				found = append(found, fmt.Sprintf("%s:%d: a %s that does not say what it guards", name, h.set.Position(field.Pos()).Line, kind))
			}
		}
		return true
	})
	return found
}

// methods returns how many methods a type has, those of all systems together.
func (h *house) methods(receiver string) int {
	names := make(map[string]bool)
	for _, tree := range h.trees {
		for _, declaration := range tree.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if ok && function.Recv != nil && strings.TrimPrefix(types.ExprString(function.Recv.List[0].Type), "*") == receiver {
				names[function.Name.Name] = true
			}
		}
	}
	return len(names)
}
