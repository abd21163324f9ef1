//go:build unix || windows

package durability_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
	"github.com/absfs/osfs"
)

// killedChild names the file that a child process is to write to, and the row of killedConfigs.
const killedChild = "MEMMAPFS_KILLED_CHILD"

var killedConfigs = map[string]*memmapfs.Config{
	"as a whole":           {Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true},
	"windows of one page":  {Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncNever, WindowSize: 1, MaxWindows: 4},
	"read-only maps":       {Mode: memmapfs.ModeReadOnly, SyncMode: memmapfs.SyncNever, MapFullFile: true},
	"as a whole, periodic": {Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncPeriodic, SyncInterval: time.Millisecond, MapFullFile: true},
}

const (
	killedPages  = 16 // that the file has at the start
	killedRecord = 64 // bytes; several records share a page
)

// killedWrite is the write of a number: where it goes and its bytes.
func killedWrite(number int) (off int64, line []byte) {
	perPage := int(testkit.PageSize) / killedRecord
	slot := number % (killedPages * perPage)
	if number%5 == 4 {
		slot = killedPages*perPage + number/5 // growth
	}
	// Neighbouring numbers go to different pages.
	if slot < killedPages*perPage {
		slot = slot%killedPages*perPage + slot/killedPages
	}
	text := fmt.Sprintf("record %d ", number)
	return int64(slot) * killedRecord, []byte(text + strings.Repeat("x", killedRecord-1-len(text)) + "\n")
}

// Catches bytes that a program has written and still holds in its own memory when it is killed: a
// plain file has none, and a map has none either if every write ends in it or in the file.
func TestKilled(t *testing.T) {
	if order := os.Getenv(killedChild); order != "" {
		config, name, _ := strings.Cut(order, "|")
		writeUntilKilled(killedConfigs[config], name)
	}
	for name, config := range killedConfigs {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				file := testkit.WriteFile(t, testkit.TestDir(t), "file", make([]byte, killedPages*testkit.PageSize))
				written := killChild(t, name+"|"+file, 200+rand.IntN(2000))
				checkKilled(t, config, file, written)
			}
		})
	}
}

// killChild runs a child until it has acknowledged that many writes, kills it, and returns how many it
// has acknowledged in all.
func killChild(t *testing.T, order string, enough int) (acknowledged int) {
	t.Helper()
	child := testkit.ThisProgram(t, "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), killedChild+"="+order)
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// The child ends when its input does, so that it cannot outlive this process.
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		number, ok := strings.CutPrefix(lines.Text(), "written ")
		if !ok {
			t.Fatalf("the child says %q", lines.Text())
		}
		if acknowledged, err = strconv.Atoi(number); err != nil {
			t.Fatal(err)
		}
		if acknowledged == enough {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil || acknowledged < enough {
		t.Fatalf("the child ended by itself after %d writes: %v", acknowledged, err)
	}
	return acknowledged
}

// checkKilled looks for the writes up to the last one acknowledged, plainly and through a map. The one
// after it may be there, in part or not at all.
func checkKilled(t *testing.T, config *memmapfs.Config, name string, last int) {
	t.Helper()
	want := make(map[int64][]byte)
	for number := 1; number <= last; number++ {
		off, line := killedWrite(number)
		want[off] = line
	}
	under, _ := killedWrite(last + 1)
	delete(want, under)

	plain := testkit.ReadNative(t, name)
	fileSystem := memmapfs.New(testkit.PlainFileSystem(t), config)
	defer fileSystem.Close()
	file := testkit.MustOpenMapped(t, fileSystem, name, os.O_RDONLY)
	defer file.Close()
	testkit.ForceMap(file)
	for off, line := range want {
		end := min(off+killedRecord, int64(len(plain)))
		if got := plain[min(off, end):end]; string(got) != string(line) {
			t.Fatalf("at %d after %d writes: %q, want %q", off, last, got, line)
		}
		got := make([]byte, killedRecord)
		if _, err := file.ReadAt(got, off); err != nil || string(got) != string(line) {
			t.Fatalf("at %d after %d writes, mapped: %q %v, want %q", off, last, got, err, line)
		}
	}
}

// writeUntilKilled is the child: it writes in every way, and tells its parent after each write.
func writeUntilKilled(config *memmapfs.Config, name string) {
	go func() {
		os.Stdin.Read(make([]byte, 1))
		os.Exit(1)
	}()
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, filepath.Base(osfs.ToNative(name)), err)
			os.Exit(1)
		}
	}
	plain, err := osfs.NewFS()
	fail(err)
	fileSystem := memmapfs.New(plain, config)
	opened, err := fileSystem.OpenFile(name, os.O_RDWR, 0)
	fail(err)
	file := opened.(*memmapfs.MappedFile)
	stores := config.Mode == memmapfs.ModeReadWrite && testkit.Mappable()
	for number := 1; ; number++ {
		off, line := killedWrite(number)
		switch way := number % 4; {
		case off >= killedPages*testkit.PageSize, way == 0, !stores:
			_, err = file.WriteAt(line, off)
		case way == 1:
			if _, err = file.Seek(off, 0); err == nil {
				_, err = file.Write(line)
			}
		case way == 2:
			err = file.View(off, killedRecord, func(b []byte) error {
				copy(b, line)
				return nil
			})
		default:
			if _, err = file.Seek(off, 0); err == nil {
				data := file.Data()
				if config.MapFullFile {
					data = data[off:]
				} else {
					data = data[off%testkit.MapAlignment:]
				}
				copy(data, line)
			}
		}
		fail(err)
		_, err = fmt.Println("written", number)
		fail(err)
	}
}
