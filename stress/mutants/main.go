// Command mutants makes wrong versions of package memmapfs, to find out whether its tests notice.
//
//	go run ./mutants -list ..            # the names of the mutants of the package in ..
//	go run ./mutants -make NAME DIR      # makes the package in DIR, a copy, into that mutant
//
// There is a mutant for each sys… function that Linux has, whose body is emptied: it returns zero
// values. Where that would not be wrong, or wrong in too crude a way, the function is changed in
// another way. There are mutants of every function that catches faults: one that does not, one
// that catches all other panics too, one that goes on catching after it has returned. And there are
// mutants of what keeps the order of events at the end of a file and of a handle.
package main

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// systemFiles hold the system calls of Linux.
var systemFiles = []string{"mmap_unix.go", "mmap_linux.go"}

// A mutant is one change to one function.
type mutant struct {
	name     string
	function string
	change   change
}

// A change returns what it changes in a function.
type change func(s *source, function *ast.FuncDecl) ([]edit, error)

// wrongSystemCalls are the mutants of system calls that do not just return zero values.
var wrongSystemCalls = []mutant{
	{"sysMap maps memory, not the file", "sysMap", withBody(`
		address, err := unix.MmapPtr(-1, 0, nil, uintptr(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return nil, err
		}
		return unsafe.Slice((*byte)(address), length), nil`)},
	{"sysMap ignores the offset", "sysMap", replacing("offset", "0")},
	{"sysMap never maps private", "sysMap", replacing("flags&mapPrivate != 0", "false")},
	{"sysMap always maps private", "sysMap", replacing("flags&mapPrivate != 0", "true")},
	{"sysMap always maps writable", "sysMap", replacing("flags&mapWrite != 0", "true")},
	{"sysMap never maps executable", "sysMap", replacing("flags&mapExecute != 0", "false")},
	{"sysMap never aligns", "sysMap", replacing("flags&mapAligned != 0", "false")},
	{"sysLockPages makes private copies", "sysLockPages", withBody(`return unix.Mlock(data)`)},
	{"sysPopulate makes private copies", "sysPopulate", replacing("unix.MADV_POPULATE_READ", "unix.MADV_POPULATE_WRITE")},
	{"sysMapAlignment is eight pages", "sysMapAlignment", withBody(`return 8 * unix.Getpagesize()`)},
	{"sysSyncMap does not wait", "sysSyncMap", replacing("unix.MS_SYNC", "unix.MS_ASYNC")},
	{"sysCachedPages says that all are", "sysCachedPages", withBody(`return (length + int64(unix.Getpagesize()) - 1) / int64(unix.Getpagesize()), nil`)},
	{"sysResidentMap says that all are", "sysResidentMap", withBody(`
		for i := range vec {
			vec[i] = 1
		}
		return nil`)},
	{"sysIsShortage is always true", "sysIsShortage", withBody(`return true`)},
}

// notEmptied are the functions for which returning zero values is no mutant: with a nil map the first
// use of any file would panic; the alignment counts only where it is more than a page; some have
// nothing to do on Linux; and the page past the end of a file is for emulators.
var notEmptied = []string{"sysMap", "sysMapAlignment", "sysNoCache", "sysIsHeldByMap", "sysMapPastEnd"}

// faultFunctions do what is left to do after a fault.
var faultFunctions = []string{"noteFault", "tellFault", "deliverFaults"}

// wrongOrders are the mutants of what keeps the order of events, and of what a shortage is met by.
var wrongOrders = []mutant{
	{"fileMaps.measure without its lock", "fileMaps.measure", without("f.sizing.Lock()", "defer f.sizing.Unlock()")},
	{"fileMaps.measure tells nobody", "fileMaps.measure", replacing("m.setLimit(size)", "m.limit.Add(size - size)")},
	{"fileMaps.isFileOf with a lock", "fileMaps.isFileOf", after("f.windows.mu.Lock()\ndefer f.windows.mu.Unlock()")},
	{"fileMaps.endTerm empty", "fileMaps.endTerm", empty},
	{"fileMaps.learnWritten in any term", "fileMaps.learnWritten", replacing("f.term == term", "true")},
	{"fileMaps.hide empty", "fileMaps.hide", empty},
	{"fileMaps.onDescriptorLocked tries once", "fileMaps.onDescriptorLocked", replacing("errors.Is(err, fs.ErrClosed)", "false")},
	{"fileMaps.widenLocked empty", "fileMaps.widenLocked", empty},
	{"mapping.reaches without proof", "mapping.reaches", withBody(`return true`)},
	{"mapping.proves without proof", "mapping.proves", withBody(`return true`)},
	{"mapping.unpin does not end", "mapping.unpin", replacing("m.pins == 0", "false")},
	{"mapping.release under a View", "mapping.release", replacing("m.pins > 0", "false")},
	{"openFile.hold does not", "openFile.hold", withBody(`return fn()`)},
	{"privateBytes.overlay after the end", "privateBytes.overlay", replacing("b.ended", "false")},
	{"privateBytes.makeRoomLocked empty", "privateBytes.makeRoomLocked", empty},
	{"privateBytes.mirrorLocked of all pages", "privateBytes.mirrorLocked", replacing("!own(at)", "!own(at) && false")},
	{"unsyncedBytes.flushAtClose without its lock", "unsyncedBytes.flushAtClose", without("u.flushing.Lock()", "defer u.flushing.Unlock()")},
	{"unsyncedBytes.settleViews empty", "unsyncedBytes.settleViews", empty},
	{"unsyncedBytes.settleViews without its lock", "unsyncedBytes.settleViews", without("u.settling.Lock()", "defer u.settling.Unlock()")},
	{"unsyncedBytes.timeWasSet empty", "unsyncedBytes.timeWasSet", empty},
	{"unsyncedBytes.mayBeWrittenBack empty", "unsyncedBytes.mayBeWrittenBack", empty},
	{"writesUnderWay.wait empty", "writesUnderWay.wait", empty},
	{"flusher.tick starts no more", "flusher.tick", replacing("b.done == b.seen", "false")},
	{"addressBudget.reclaim empty", "addressBudget.reclaim", empty},
	{"copyGuarded in one piece", "copyGuarded", replacing("n > pieceOfCopy", "false")},
}

func main() {
	list := flag.Bool("list", false, "print the names of the mutants of the package in the directory")
	name := flag.String("make", "", "the mutant to make")
	flag.Parse()
	if flag.NArg() != 1 || *list == (*name != "") {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*list, *name, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(list bool, name, directory string) error {
	mutants, err := mutantsOf(directory)
	if err != nil {
		return err
	}
	for _, m := range mutants {
		switch {
		case list:
			fmt.Println(m.name)
		case m.name == name:
			return m.make(directory)
		}
	}
	if !list {
		return fmt.Errorf("there is no mutant %q", name)
	}
	return nil
}

// mutantsOf returns the mutants of the package in the directory.
func mutantsOf(directory string) (mutants []mutant, err error) {
	var guards, orders []mutant
	err = eachFunction(directory, func(file string, s *source, function *ast.FuncDecl) error {
		name := function.Name.Name
		for _, wrong := range wrongOrders {
			if wrong.function == qualified(function) {
				orders = append(orders, wrong)
			}
		}
		if slices.Contains(systemFiles, filepath.Base(file)) && strings.HasPrefix(name, "sys") {
			if !slices.Contains(notEmptied, name) {
				mutants = append(mutants, mutant{name + " empty", name, empty})
			}
			for _, wrong := range wrongSystemCalls {
				if wrong.function == name {
					mutants = append(mutants, wrong)
				}
			}
		}
		if slices.Contains(faultFunctions, name) {
			guards = append(guards, mutant{name + " empty", name, empty})
		}
		if !slices.Contains(faultFunctions, name) && !calls(function, "SetPanicOnFault") {
			return nil
		}
		for _, m := range []mutant{
			{name + " does not catch faults", name, catching(true, "false")},
			{name + " goes on catching faults", name, catching(false, "true")},
			{name + " swallows other panics", name, withoutPanics},
		} {
			if _, err := m.change(s, function); err == nil { // it has what is changed
				guards = append(guards, m)
			}
		}
		return nil
	})
	return slices.Concat(mutants, guards, orders), err
}

// qualified returns the name of a function, of a method with its type in front.
func qualified(function *ast.FuncDecl) string {
	if function.Recv == nil {
		return function.Name.Name
	}
	receiver := function.Recv.List[0].Type
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	if name, ok := receiver.(*ast.Ident); ok {
		return name.Name + "." + function.Name.Name
	}
	return function.Name.Name
}

// eachFunction calls do for every function of the package in the directory that is built for Linux.
func eachFunction(directory string, do func(file string, s *source, function *ast.FuncDecl) error) error {
	linux := build.Default
	linux.GOOS, linux.GOARCH = "linux", "amd64"
	found, err := linux.ImportDir(directory, 0)
	if err != nil {
		return err
	}
	for _, name := range found.GoFiles {
		name = filepath.Join(directory, name)
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		s, err := parse(text)
		if err != nil {
			return err
		}
		for _, declaration := range s.tree.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && function.Body != nil {
				if err := do(name, s, function); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// make rewrites the file that has the function.
func (m mutant) make(directory string) error {
	made := false
	err := eachFunction(directory, func(file string, s *source, function *ast.FuncDecl) error {
		if function.Name.Name != m.function && qualified(function) != m.function {
			return nil
		}
		edits, err := m.change(s, function)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		text, err := withoutUnusedImports(s.edited(edits))
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		made = true
		return os.WriteFile(file, text, 0o666)
	})
	if err == nil && !made {
		err = fmt.Errorf("%s: there is no function %s", m.name, m.function)
	}
	return err
}

// source is the text of a file with its syntax tree.
type source struct {
	text  []byte
	files *token.FileSet
	tree  *ast.File
}

func parse(text []byte) (*source, error) {
	s := &source{text: text, files: token.NewFileSet()}
	var err error
	s.tree, err = parser.ParseFile(s.files, "", text, parser.ParseComments)
	return s, err
}

// edit puts text in place of the one from from up to to.
type edit struct {
	from, to token.Pos
	text     string
}

// of returns the text of a node.
func (s *source) of(node ast.Node) string {
	return string(s.text[s.files.Position(node.Pos()).Offset:s.files.Position(node.End()).Offset])
}

// edited returns the text with the edits, which do not overlap.
func (s *source) edited(edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return int(b.from - a.from) })
	text := slices.Clone(s.text)
	for _, e := range edits {
		text = slices.Replace(text, s.files.Position(e.from).Offset, s.files.Position(e.to).Offset, []byte(e.text)...)
	}
	return text
}

// withBody gives the function another body.
func withBody(body string) change {
	return func(s *source, function *ast.FuncDecl) ([]edit, error) {
		return []edit{{function.Body.Pos(), function.Body.End(), "{" + body + "\n}"}}, nil
	}
}

// empty makes the function return zero values.
func empty(s *source, function *ast.FuncDecl) ([]edit, error) {
	var values []string
	if results := function.Type.Results; results != nil {
		for _, field := range results.List {
			for range max(1, len(field.Names)) {
				values = append(values, "*new("+s.of(field.Type)+")")
			}
		}
	}
	return withBody("\nreturn "+strings.Join(values, ", "))(s, function)
}

// without takes statements away.
func without(statements ...string) change {
	return func(s *source, function *ast.FuncDecl) ([]edit, error) {
		var edits []edit
		ast.Inspect(function.Body, func(node ast.Node) bool {
			if statement, ok := node.(ast.Stmt); ok && slices.Contains(statements, s.of(statement)) {
				edits = append(edits, edit{statement.Pos(), statement.End(), ""})
				return false
			}
			return true
		})
		if len(edits) != len(statements) {
			return nil, fmt.Errorf("it does not have all of %q", statements)
		}
		return edits, nil
	}
}

// after puts statements in front of a function's own.
func after(statements string) change {
	return func(s *source, function *ast.FuncDecl) ([]edit, error) {
		return []edit{{function.Body.Lbrace + 1, function.Body.Lbrace + 1, "\n" + statements + "\n"}}, nil
	}
}

// replacing puts another expression in place of one.
func replacing(old, new string) change {
	return func(s *source, function *ast.FuncDecl) ([]edit, error) {
		var edits []edit
		ast.Inspect(function.Body, func(node ast.Node) bool {
			if expression, ok := node.(ast.Expr); ok && s.of(expression) == old {
				edits = append(edits, edit{expression.Pos(), expression.End(), new})
			}
			return true
		})
		if edits == nil {
			return nil, fmt.Errorf("it does not have %s", old)
		}
		return edits, nil
	}
}

// catching puts another argument into the calls of SetPanicOnFault: those that begin to catch faults,
// with the argument true, or the others, which end it.
func catching(begins bool, argument string) change {
	return func(s *source, function *ast.FuncDecl) ([]edit, error) {
		var edits []edit
		ast.Inspect(function.Body, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || s.of(call.Fun) != "debug.SetPanicOnFault" {
				return true
			}
			if old := s.of(call.Args[0]); (old == "true") == begins {
				// What the old argument was made of stays in use.
				edits = append(edits, edit{call.Args[0].Pos(), call.Args[0].End(), "[]bool{" + old + ", " + argument + "}[1]"})
			}
			return true
		})
		if edits == nil {
			return nil, errors.New("it has no such call of SetPanicOnFault")
		}
		return edits, nil
	}
}

// withoutPanics takes away the calls of panic.
func withoutPanics(s *source, function *ast.FuncDecl) ([]edit, error) {
	var edits []edit
	ast.Inspect(function.Body, func(node ast.Node) bool {
		if statement, ok := node.(*ast.ExprStmt); ok && strings.HasPrefix(s.of(statement), "panic(") {
			edits = append(edits, edit{statement.Pos(), statement.End(), ""})
		}
		return true
	})
	if edits == nil {
		return nil, errors.New("it has no call of panic")
	}
	return edits, nil
}

// calls reports whether the function calls one of that name.
func calls(function *ast.FuncDecl, name string) (found bool) {
	ast.Inspect(function.Body, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok && selector.Sel.Name == name {
			found = true
		}
		return true
	})
	return found
}

// withoutUnusedImports takes away the imports that a change has left without use.
func withoutUnusedImports(text []byte) ([]byte, error) {
	s, err := parse(text)
	if err != nil {
		return nil, err
	}
	used := make(map[string]bool)
	ast.Inspect(s.tree, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			used[s.of(selector.X)] = true
		}
		return true
	})
	var edits []edit
	for _, imported := range s.tree.Imports {
		file, err := strconv.Unquote(imported.Path.Value)
		if err != nil {
			return nil, err
		}
		name := path.Base(strings.TrimSuffix(file, "/v2"))
		if imported.Name != nil {
			name = imported.Name.Name
		}
		if !used[name] {
			edits = append(edits, edit{imported.Pos(), imported.End(), ""})
		}
	}
	return format.Source(s.edited(edits))
}
