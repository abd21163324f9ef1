package clients_test

import (
	"bytes"
	"debug/buildinfo"
	"debug/dwarf"
	"debug/elf"
	"debug/gosym"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"github.com/absfs/absfs"
)

// A Go program, as the go command builds it, is taken apart: sections, symbols, line tables and what
// is known of its modules.
func TestELF(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(1) }\n"), 0o644))
	build := exec.Command("go", "build", "-o", "program", "main.go")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0", "GOFLAGS=")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}

	compareReads(t, dir, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		var found report
		file, _ := open(t, fileSystem, path.Join(dir, "program"))
		program, err := elf.NewFile(file)
		must(t, err)
		for _, section := range program.Sections {
			if section.Type != elf.SHT_NOBITS {
				found.addContents(section.Name, section.Open())
			}
		}
		symbols, err := program.Symbols()
		must(t, err)
		for _, symbol := range symbols {
			found.add("%+v", symbol)
		}

		data, err := program.DWARF()
		must(t, err)
		for reader := data.Reader(); ; {
			entry, err := reader.Next()
			must(t, err)
			if entry == nil {
				break
			}
			if entry.Tag == dwarf.TagSubprogram {
				found.add("%v %v", entry.Offset, entry.Val(dwarf.AttrName))
			}
		}

		lines, err := program.Section(".gopclntab").Data()
		must(t, err)
		table, err := gosym.NewTable(nil, gosym.NewLineTable(lines, program.Section(".text").Addr))
		must(t, err)
		source, line, function := table.PCToLine(table.LookupFunc("main.main").Entry)
		found.add("%s:%d %s", filepath.Base(source), line, function.Name)

		information, err := buildinfo.Read(file)
		must(t, err)
		found.add("%v", information)
		if !bytes.Contains([]byte(information.String()), []byte("CGO_ENABLED=0")) {
			t.Errorf("build information: %v", information)
		}
		return found
	})
}
