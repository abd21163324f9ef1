//go:build linux

package stress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/stress/badfs"
	"github.com/absfs/osfs"
	"golang.org/x/sys/unix"
)

// The environment of a process that this test binary starts: a server of badfs, which has both of
// the first two and those of the next that stand for its options, or the child of a test, which has both of the
// last two.
const (
	serverDirectory = "BADFS_SERVE"
	serverSocket    = "BADFS_SOCKET"
	serverReadAhead = "BADFS_READ_AHEAD"
	serverWriteback = "BADFS_WRITEBACK"
	serverFresh     = "BADFS_REVALIDATE"
	serverMaps      = "BADFS_DIRECT_MAPS"
	childDirectory  = "BADFS_DIRECTORY"
	childSocket     = "BADFS_CHILD_SOCKET"
)

func TestMain(m *testing.M) {
	if directory := os.Getenv(serverDirectory); directory != "" {
		options := badfs.Options{
			Writeback:  os.Getenv(serverWriteback) != "",
			Revalidate: os.Getenv(serverFresh) != "",
			DirectMaps: os.Getenv(serverMaps) != "",
		}
		if os.Getenv(serverReadAhead) == "" {
			options.ReadAhead = 1
		}
		if err := badfs.Serve(directory, os.Getenv(serverSocket), options, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "badfs:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var pageSize = int64(os.Getpagesize())

// mounted is a badfs with the means to change it.
type mounted struct {
	*badfs.Disk
	directory, socket string
}

func (m *mounted) native(name string) string { return filepath.Join(m.directory, name) }

func (m *mounted) name(name string) string { return osfs.FromNative(m.native(name)) }

// set makes faults the ones of the file, and drops what the kernel has cached of it.
func (m *mounted) set(t *testing.T, name string, faults badfs.Faults) {
	t.Helper()
	must(t, m.Set(name, faults))
	must(t, m.Forget(name))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mount starts a server in a process of its own. The filesystem is unmounted when the test ends,
// and by the server itself should this process end before.
func mount(t *testing.T, options badfs.Options) *mounted {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this system has no FUSE: ", err)
	}
	m := &mounted{directory: t.TempDir(), socket: filepath.Join(t.TempDir(), "orders")}
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), serverDirectory+"="+m.directory, serverSocket+"="+m.socket)
	if options.ReadAhead != 1 {
		server.Env = append(server.Env, serverReadAhead+"=1")
	}
	if options.Writeback {
		server.Env = append(server.Env, serverWriteback+"=1")
	}
	if options.Revalidate {
		server.Env = append(server.Env, serverFresh+"=1")
	}
	if options.DirectMaps {
		server.Env = append(server.Env, serverMaps+"=1")
	}
	var complaints bytes.Buffer
	server.Stderr = &complaints
	lifeline, err := server.StdinPipe()
	must(t, err)
	must(t, server.Start())
	starting, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	ended := make(chan struct{})
	go func() {
		server.Wait()
		cancel()
		close(ended)
	}()
	t.Cleanup(func() {
		lifeline.Close()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			server.Process.Kill() // its connection with the kernel ends, and every call that waits
			<-ended
			unix.Unmount(m.directory, unix.MNT_DETACH)
		}
		if text := strings.TrimSpace(complaints.String()); text != "" {
			t.Log(text)
		}
	})
	if m.Disk, err = badfs.Dial(starting, m.socket); err != nil {
		<-starting.Done()
		if text := strings.TrimSpace(complaints.String()); strings.Contains(text, syscall.EPERM.Error()) {
			t.Skip("mounting is not allowed here: ", text)
		}
		t.Fatal(err)
	}
	t.Cleanup(m.Hangup)
	return m
}

// inChild runs test in a child process, so that a fault that nothing catches is a failure of this
// test and not the end of the run.
func inChild(t *testing.T, options badfs.Options, test func(t *testing.T, m *mounted), environment ...string) {
	t.Helper()
	if directory := os.Getenv(childDirectory); directory != "" {
		m := &mounted{directory: directory, socket: os.Getenv(childSocket)}
		var err error
		if m.Disk, err = badfs.Dial(context.Background(), m.socket); err != nil {
			t.Fatal(err)
		}
		defer m.Hangup()
		test(t, m)
		return
	}
	m := mount(t, options)
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	child.Env = append(os.Environ(), childDirectory+"="+m.directory, childSocket+"="+m.socket)
	child.Env = append(child.Env, environment...)
	output, err := child.CombinedOutput()
	for line := range strings.Lines(string(output)) {
		if err != nil || strings.HasPrefix(line, "    ") && !strings.HasPrefix(strings.TrimSpace(line), "---") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if err != nil {
		t.Error("the child process:", err)
	}
}

// config is a memmapfs.Config with a name.
type config struct {
	name string
	memmapfs.Config
}

const windowPages = 16

// configs are configurations that map files of FUSE although a map may show other bytes: what is tested
// with them is what happens in maps.
func configs() []config {
	whole := func(mode memmapfs.MappingMode) memmapfs.Config {
		return memmapfs.Config{Mode: mode, Mapping: memmapfs.MapAlways, SyncMode: memmapfs.SyncNever, MapFullFile: true}
	}
	windows := func(mode memmapfs.MappingMode) memmapfs.Config {
		return memmapfs.Config{Mode: mode, Mapping: memmapfs.MapAlways, SyncMode: memmapfs.SyncNever, WindowSize: windowPages * pageSize}
	}
	return []config{
		{"read-only", whole(memmapfs.ModeReadOnly)},
		{"read-write", whole(memmapfs.ModeReadWrite)},
		{"copy-on-write", whole(memmapfs.ModeCopyOnWrite)},
		{"execute", whole(memmapfs.ModeExecute)},
		{"read-only in windows", windows(memmapfs.ModeReadOnly)},
		{"read-write in windows", windows(memmapfs.ModeReadWrite)},
		{"copy-on-write in windows", windows(memmapfs.ModeCopyOnWrite)},
	}
}

func plainFileSystem(t testing.TB) absfs.FileSystem {
	t.Helper()
	plain, err := osfs.NewFS()
	must(t, err)
	return plain
}

func open(t testing.TB, fileSystem absfs.FileSystem, name string, flags int) absfs.File {
	t.Helper()
	file, err := fileSystem.OpenFile(name, flags, 0)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func openMapped(t testing.TB, c memmapfs.Config, name string, flags int) *memmapfs.MappedFile {
	t.Helper()
	mapped := open(t, memmapfs.New(plainFileSystem(t), &c), name, flags).(*memmapfs.MappedFile)
	mapped.EnableSIGBUSProtection()
	return mapped
}

// faultsCaught counts the faults of files that openMapped has opened.
var faultsCaught = func() *atomic.Int64 {
	count := new(atomic.Int64)
	memmapfs.GetSIGBUSHandler().OnSIGBUS(func(*memmapfs.MappedFile, error) { count.Add(1) })
	return count
}()

// warm reads the whole file until all of it is mapped and known to be in memory.
func warm(t testing.TB, m *mounted, name string, file *memmapfs.MappedFile, size int64) {
	t.Helper()
	p := make([]byte, windowPages*pageSize)
	var before badfs.Counts
	for round := 0; round < 100; round++ {
		for off := int64(0); off < size; off += int64(len(p)) {
			if _, err := file.ReadAt(p[:min(int64(len(p)), size-off)], off); err != nil {
				t.Fatal(err)
			}
			file.View(off, 1, func([]byte) error { return nil }) // maps it if it is not mapped
		}
		counts, err := m.Count(name)
		must(t, err)
		if round > 1 && counts == before {
			break
		}
		before = counts
	}
	if !file.Mapped() {
		t.Fatal("the file is not mapped: the test would show nothing")
	}
}

// outcome reduces a result to what a caller can tell: the count, the kind of error, the bytes.
func outcome(t testing.TB, n int, err error, p []byte) string {
	t.Helper()
	kind := "nil"
	var path *fs.PathError
	switch {
	case err == io.EOF:
		kind = "EOF"
	case err != nil && !errors.As(err, &path):
		kind = "not a *fs.PathError: " + err.Error()
	case errors.Is(err, syscall.EIO):
		kind = "EIO"
	case err != nil:
		kind = err.Error()
	}
	return fmt.Sprintf("%d bytes, %s, sum %08x", n, kind, checksum(p[:max(n, 0)]))
}

func checksum(p []byte) (sum uint32) {
	for _, b := range p {
		sum = sum*31 + uint32(b)
	}
	return sum
}

// span is a range of a file, in bytes.
type span struct{ off, n int64 }

func (s span) String() string {
	return fmt.Sprintf("%d bytes at page %d + %d", s.n, s.off/pageSize, s.off%pageSize)
}

// The file of the tests below: some bad pages, alone, together, at a window's edge and at the end.
const filePages = 40

var (
	fileSize = filePages*pageSize - 1000
	badPages = []int64{5, 6, windowPages - 1, 20, 2 * windowPages, filePages - 1}
)

// spans are ranges with all, some and none of their pages bad.
func spans() (all []span) {
	for page := int64(0); page < filePages; page++ {
		all = append(all, span{page * pageSize, min(pageSize, fileSize-page*pageSize)}, span{page*pageSize + 100, 8})
	}
	return append(all,
		span{0, fileSize}, span{0, fileSize + 1}, // with pages before the first bad one
		span{4*pageSize + 5, 3 * pageSize}, // into bad pages and out again
		span{6*pageSize + 4000, 200},       // out of a bad page
		span{4*pageSize - 1, pageSize + 1}, // up to a bad page
		span{14 * pageSize, 2 * pageSize},  // over a window's edge
		span{10 * pageSize, 20 * pageSize}, // several windows
		span{fileSize - 10, 20},            // past the end
		span{fileSize, 1}, span{21 * pageSize, 11 * pageSize},
	)
}

// Pages that cannot be read from the beginning: the answers are those of the plain file.
func TestUnreadablePages(t *testing.T) {
	for _, readAhead := range []int{0, 1} {
		t.Run(fmt.Sprintf("read-ahead %d", readAhead), func(t *testing.T) {
			m := mount(t, badfs.Options{ReadAhead: readAhead})
			compared := 0
			for i, c := range configs() {
				name := fmt.Sprint("file", i)
				must(t, m.Create(name, fileSize))
				must(t, m.Set(name, badfs.Faults{BadReads: badPages}))
				plain := open(t, plainFileSystem(t), m.name(name), os.O_RDONLY)
				for _, mapFirst := range []bool{false, true} {
					mapped := openMapped(t, c.Config, m.name(name), os.O_RDONLY)
					if mapFirst && mapped.Data() == nil {
						t.Fatal("not mapped")
					}
					compared += compareReads(t, m, name, c.name, plain, mapped, nil)
				}
			}
			t.Logf("%d reads gave what the plain file gives", compared)
		})
	}
}

// compareReads compares both files' answers for all spans, and returns how many there were. The
// page cache is empty before each; prepare, unless nil, then warms the second file.
func compareReads(t *testing.T, m *mounted, name, what string, plain, mapped absfs.File, prepare func()) int {
	t.Helper()
	for _, s := range spans() {
		p, q := make([]byte, s.n), make([]byte, s.n)
		must(t, m.Forget(name))
		n, err := plain.ReadAt(p, s.off)
		want := outcome(t, n, err, p)
		must(t, m.Forget(name))
		if prepare != nil {
			prepare()
		}
		n, err = mapped.ReadAt(q, s.off)
		if got := outcome(t, n, err, q); got != want {
			t.Errorf("%s: ReadAt of %v: %s, want %s", what, s, got, want)
		}
	}
	return len(spans())
}

// Pages that were mapped and in memory, then lost by the kernel, and bad from then on: each read gives what the
// plain file gives, also after the library has met so many lost pages that it believes in none for a while.
func TestPagesThatGoBad(t *testing.T) {
	inChild(t, badfs.Options{ReadAhead: 1}, func(t *testing.T, m *mounted) {
		contents := badfs.Contents(fileSize)
		for i, c := range configs() {
			name := fmt.Sprint("file", i)
			must(t, m.Create(name, fileSize))
			plain := open(t, plainFileSystem(t), m.name(name), os.O_RDONLY)
			faultsBefore := faultsCaught.Load()
			for _, page := range badPages {
				readGoesBad(t, m, name, c, plain, span{page * pageSize, min(pageSize, fileSize-page*pageSize)})
				readGoesBad(t, m, name, c, plain, span{page*pageSize + 100, 8})
			}

			mapped := openMapped(t, c.Config, m.name(name), os.O_RDONLY)
			prepare := func() {
				must(t, m.Set(name, badfs.Faults{}))
				warm(t, m, name, mapped, fileSize)
				m.set(t, name, badfs.Faults{BadReads: badPages})
			}
			must(t, m.Set(name, badfs.Faults{BadReads: badPages}))
			compared := compareReads(t, m, name, c.name, plain, mapped, prepare)
			caught := faultsCaught.Load() - faultsBefore

			// When the disk is well again, so is the file.
			must(t, m.Set(name, badfs.Faults{}))
			p := make([]byte, fileSize)
			if _, err := mapped.ReadAt(p, 0); err != nil || !bytes.Equal(p, contents) {
				t.Errorf("%s: reading after the disk has recovered: %v, right bytes: %t", c.name, err, bytes.Equal(p, contents))
			}
			t.Logf("%s: %d reads gave what the plain file gives, %d faults survived", c.name, compared, caught)
		}
	})
}

// readGoesBad reads the span until a map serves it, by a handle that has met no lost page yet. Then the kernel
// loses the pages, and they are bad: the next read faults, and gives what the plain file gives.
func readGoesBad(t *testing.T, m *mounted, name string, c config, plain absfs.File, s span) {
	t.Helper()
	must(t, m.Set(name, badfs.Faults{}))
	fileSystem := memmapfs.New(plainFileSystem(t), &c.Config)
	mapped := open(t, fileSystem, m.name(name), os.O_RDONLY).(*memmapfs.MappedFile)
	defer mapped.Close()
	mapped.EnableSIGBUSProtection()
	p := make([]byte, s.n)
	throughFile := func() int64 {
		stats := fileSystem.Stats()
		return stats.ReadsCold + stats.ReadsUnmapped + stats.ReadsPastEnd
	}
	for reads, before := 0, int64(-1); before != throughFile(); reads++ {
		if reads == 1<<16 {
			t.Fatalf("%s: no map serves a read of %v", c.name, s)
		}
		if next := s.off - s.off%pageSize + pageSize; next < fileSize { // proves that the file has the span, if that ends in a zero
			_, err := mapped.ReadAt(make([]byte, 1), next)
			must(t, err)
		}
		before = throughFile()
		_, err := mapped.ReadAt(p, s.off)
		must(t, err)
	}
	m.set(t, name, badfs.Faults{BadReads: badPages})
	n, err := plain.ReadAt(p, s.off)
	want := outcome(t, n, err, p)
	before := faultsCaught.Load()
	n, err = mapped.ReadAt(p, s.off)
	if got := outcome(t, n, err, p); got != want {
		t.Errorf("%s: ReadAt of %v: %s, want %s", c.name, s, got, want)
	}
	if faultsCaught.Load() == before {
		t.Errorf("%s: a read of %v, which a map served before, has not faulted", c.name, s)
	}
}

// Read, Seek and WriteTo walk over a file that goes bad under them as over the plain one.
func TestStreamsOverPagesThatGoBad(t *testing.T) {
	inChild(t, badfs.Options{ReadAhead: 1}, func(t *testing.T, m *mounted) {
		for i, c := range configs() {
			name := fmt.Sprint("file", i)
			must(t, m.Create(name, fileSize))
			walk := func(file absfs.File, prepare func()) (steps []string) {
				note := func(what string, n int64, err error) {
					position, seekErr := file.Seek(0, io.SeekCurrent)
					steps = append(steps, fmt.Sprintf("%s: %s, position %d %v", what, outcome(t, 0, err, nil), position, seekErr), fmt.Sprint(n))
				}
				prepare()
				p := make([]byte, 3*pageSize)
				for range 2 * filePages { // a bad page is passed over after the second error
					n, err := file.Read(p)
					steps = append(steps, outcome(t, n, err, p))
					note("Read", int64(n), err)
					if err == io.EOF {
						break
					}
					if err != nil {
						position, err := file.Seek(pageSize, io.SeekCurrent)
						note("Seek", position, err)
					}
				}
				position, err := file.Seek(3*pageSize, io.SeekStart)
				note("Seek", position, err)
				prepare()
				var sink bytes.Buffer
				n, err := io.Copy(&sink, struct{ io.Reader }{file})
				note("io.Copy", n, err)
				return append(steps, fmt.Sprint(checksum(sink.Bytes())))
			}
			plain := open(t, plainFileSystem(t), m.name(name), os.O_RDONLY)
			mapped := openMapped(t, c.Config, m.name(name), os.O_RDONLY)
			want := walk(plain, func() { m.set(t, name, badfs.Faults{BadReads: badPages}) })
			got := walk(mapped, func() {
				must(t, m.Set(name, badfs.Faults{}))
				warm(t, m, name, mapped, fileSize)
				m.set(t, name, badfs.Faults{BadReads: badPages})
			})
			if !slices.Equal(got, want) {
				for i := range max(len(got), len(want)) {
					if i >= len(got) || i >= len(want) || got[i] != want[i] {
						t.Errorf("%s: step %d of %d, want %d:\n got %v\nwant %v", c.name, i, len(got), len(want), got[i:min(i+1, len(got))], want[i:min(i+1, len(want))])
						break
					}
				}
			}
		}
	})
}

// View gives the good pages, and ErrSIGBUS when its function touches a bad one.
func TestViewOfBadPages(t *testing.T) {
	inChild(t, badfs.Options{ReadAhead: 1}, func(t *testing.T, m *mounted) {
		contents := badfs.Contents(fileSize)
		survived := 0
		for i, c := range configs() {
			name := fmt.Sprint("file", i)
			must(t, m.Create(name, fileSize))
			must(t, m.Set(name, badfs.Faults{BadReads: badPages}))
			mapped := openMapped(t, c.Config, m.name(name), os.O_RDONLY)
			for page := int64(0); page < filePages; page++ {
				n := min(pageSize, fileSize-page*pageSize)
				var seen []byte
				err := mapped.View(page*pageSize, n, func(b []byte) error {
					seen = bytes.Clone(b)
					return nil
				})
				var path *fs.PathError
				switch bad := slices.Contains(badPages, page); {
				case bad && (!errors.Is(err, memmapfs.ErrSIGBUS) || !errors.As(err, &path)):
					t.Errorf("%s: View of bad page %d: %v, want ErrSIGBUS in a *fs.PathError", c.name, page, err)
				case bad:
					survived++
				case err != nil || !bytes.Equal(seen, contents[page*pageSize:][:n]):
					t.Errorf("%s: View of page %d: %v, right bytes: %t", c.name, page, err, bytes.Equal(seen, contents[page*pageSize:][:n]))
				}
			}
		}
		t.Logf("%d faults survived", survived)
	})
}

// What is lost is reported, no later than the plain file would: by the write where a SyncMode
// promises durability at once, otherwise by Sync or by Close.
func TestUnwritablePages(t *testing.T) {
	const page = 3
	syncModes := []memmapfs.SyncMode{memmapfs.SyncImmediate, memmapfs.SyncPeriodic, memmapfs.SyncLazy, memmapfs.SyncNever}
	for _, writeback := range []bool{false, true} {
		t.Run(fmt.Sprintf("writeback %t", writeback), func(t *testing.T) {
			m := mount(t, badfs.Options{ReadAhead: 1, Writeback: writeback})
			files := 0
			// calls writes to the bad page, calls Sync if it is to, and Close, and tells which of
			// them reported an error. First the page is made hot, if it is to be.
			calls := func(fileSystem absfs.FileSystem, hot, sync bool) (failed [3]bool) {
				name := fmt.Sprint("file", files)
				files++
				must(t, m.Create(name, fileSize))
				file := open(t, fileSystem, m.name(name), os.O_RDWR)
				p := bytes.Repeat([]byte{'x'}, 100)
				if hot {
					if mapped, ok := file.(*memmapfs.MappedFile); ok {
						warm(t, m, name, mapped, fileSize)
					}
					for range 2 {
						_, err := file.WriteAt(p, page*pageSize)
						must(t, err)
						must(t, file.Sync())
					}
				}
				must(t, m.Set(name, badfs.Faults{BadWrites: []int64{page}}))
				check := func(what string, err error) bool {
					var path *fs.PathError
					if err != nil && (!errors.Is(err, syscall.EIO) || !errors.As(err, &path)) {
						t.Errorf("%s: %v, want EIO in a *fs.PathError", what, err)
					}
					return err != nil
				}
				n, err := file.WriteAt(p, page*pageSize)
				failed[0] = check("WriteAt", err)
				if err == nil && n != len(p) {
					t.Errorf("WriteAt: %d bytes, nil", n)
				}
				if sync {
					failed[1] = check("Sync", file.Sync())
				}
				failed[2] = check("Close", file.Close())
				return failed
			}
			for _, hot := range []bool{false, true} {
				for _, sync := range []bool{false, true} {
					plain := calls(plainFileSystem(t), hot, sync)
					for _, whole := range []bool{true, false} {
						for _, syncMode := range syncModes {
							what := fmt.Sprintf("%v, whole %t, hot %t, with Sync %t", syncMode, whole, hot, sync)
							config := memmapfs.Config{Mode: memmapfs.ModeReadWrite, SyncMode: syncMode, SyncInterval: time.Hour, MapFullFile: whole, WindowSize: windowPages * pageSize}
							mapped := calls(memmapfs.New(plainFileSystem(t), &config), hot, sync)
							if mapped == [3]bool{} && plain != mapped {
								t.Errorf("%s: nothing reports the lost bytes; with the plain file [WriteAt Sync Close] does: %v", what, plain)
							}
							if sync && !mapped[0] && !mapped[1] {
								t.Errorf("%s: Sync said nothing of the lost bytes", what)
							}
							if syncMode == memmapfs.SyncImmediate && !mapped[0] {
								t.Errorf("%s: WriteAt said nothing of the lost bytes", what)
							}
							t.Logf("%s: [WriteAt Sync Close] report %v, of the plain file %v", what, mapped, plain)
						}
					}
				}
			}
		})
	}
}

// A write to a page that cannot be read gives what the plain file gives, and never a crash.
func TestWritesToUnreadablePages(t *testing.T) {
	inChild(t, badfs.Options{ReadAhead: 1}, func(t *testing.T, m *mounted) {
		for i, c := range configs() {
			if c.Mode != memmapfs.ModeReadWrite && c.Mode != memmapfs.ModeCopyOnWrite {
				continue
			}
			for _, hot := range []bool{false, true} {
				for j, s := range []span{{5 * pageSize, pageSize}, {5*pageSize + 10, 100}, {4*pageSize + 10, 3 * pageSize}} {
					what := fmt.Sprintf("%s, hot %t, %v", c.name, hot, s)
					write := func(fileSystem absfs.FileSystem, name string) (string, []byte) {
						must(t, m.Create(name, fileSize))
						file := open(t, fileSystem, m.name(name), os.O_RDWR)
						p := bytes.Repeat([]byte{'x'}, int(s.n))
						if mapped, ok := file.(*memmapfs.MappedFile); ok {
							mapped.EnableSIGBUSProtection()
							warm(t, m, name, mapped, fileSize)
						}
						if hot {
							_, err := file.WriteAt(p, s.off)
							must(t, err)
							must(t, file.Sync())
							_, err = file.WriteAt(p, s.off) // the next one may be a store
							must(t, err)
						}
						m.set(t, name, badfs.Faults{BadReads: badPages})
						n, err := file.WriteAt(p, s.off)
						result := outcome(t, n, err, p)
						m.set(t, name, badfs.Faults{})
						contents := make([]byte, fileSize)
						_, err = file.ReadAt(contents, 0)
						must(t, err)
						must(t, file.Close())
						return result, contents
					}
					before := faultsCaught.Load()
					got, gotContents := write(memmapfs.New(plainFileSystem(t), &c.Config), fmt.Sprint("mapped", i, hot, j))
					caught := faultsCaught.Load() - before
					if c.Mode == memmapfs.ModeCopyOnWrite {
						// The plain file has no such writes. An error is right where the page must
						// be read; the error of the disk is the one that says why.
						if strings.Contains(got, "EIO") {
							continue
						}
						if !strings.Contains(got, "nil") {
							t.Errorf("%s: %s, want EIO", what, got)
						} else if want := bytes.Repeat([]byte{'x'}, int(s.n)); !bytes.Equal(gotContents[s.off:][:s.n], want) {
							t.Errorf("%s: %s, but the bytes are not there", what, got)
						}
						continue
					}
					want, wantContents := write(plainFileSystem(t), fmt.Sprint("plain", i, hot, j))
					if got != want || !bytes.Equal(gotContents, wantContents) {
						t.Errorf("%s: %s, want %s; same contents after it: %t", what, got, want, bytes.Equal(gotContents, wantContents))
					}
					if hot && caught == 0 {
						t.Errorf("%s: no fault: the test shows nothing", what)
					}
				}
			}
		}
	})
}

// A private write that reaches into a page that cannot be read leaves the private bytes beside it
// alone, whether it succeeds or not.
func TestPrivateBytesBesideUnreadablePages(t *testing.T) {
	inChild(t, badfs.Options{ReadAhead: 1}, func(t *testing.T, m *mounted) {
		for i, c := range configs() {
			if c.Mode != memmapfs.ModeCopyOnWrite {
				continue
			}
			for _, viewed := range []bool{false, true} {
				name := fmt.Sprint("file", i, viewed)
				must(t, m.Create(name, fileSize))
				file := openMapped(t, c.Config, m.name(name), os.O_RDWR)
				if viewed {
					must(t, file.View(0, 1, func([]byte) error { return nil }))
				}
				want := badfs.Contents(fileSize)
				copy(want[4*pageSize:], "written before")
				_, err := file.WriteAt([]byte("written before"), 4*pageSize)
				must(t, err)
				m.set(t, name, badfs.Faults{BadReads: badPages})
				p := bytes.Repeat([]byte{'x'}, int(2*pageSize))
				n, err := file.WriteAt(p, 4*pageSize+100) // into pages 5 and 6
				m.set(t, name, badfs.Faults{})
				for range 2 { // the first read may teach something wrong
					got := make([]byte, fileSize)
					_, readErr := file.ReadAt(got, 0)
					must(t, readErr)
					for at := range got {
						in := at - int(4*pageSize+100)
						inside := in >= 0 && in < len(p)
						if got[at] != want[at] && !(inside && got[at] == 'x') || inside && in < n && got[at] != 'x' {
							t.Fatalf("%s, viewed %t: WriteAt = %d, %v; then the byte at page %d + %d is %q, want %q",
								c.name, viewed, n, err, int64(at)/pageSize, int64(at)%pageSize, got[at], want[at])
						}
					}
				}
			}
		}
	})
}

// Readers of pages that hang must hold up the rest of the program no longer than readers of the
// plain file do.
func TestSlowPages(t *testing.T) {
	const readers, delay = 32, time.Second
	inChild(t, badfs.Options{ReadAhead: 1}, func(t *testing.T, m *mounted) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
		const size = 4 * readers * 4096
		slow := make([]int64, readers)
		for i := range slow {
			slow[i] = int64(2 * i)
		}
		files := 0
		// stall returns the longest that a goroutine sleeping a millisecond at a time was held up,
		// and one reading a good page, while the readers wait for the slow pages of a new file.
		stall := func(fileSystem absfs.FileSystem) (sleeper, reader time.Duration) {
			name := fmt.Sprint("file", files)
			files++
			must(t, m.Create(name, size))
			file := open(t, fileSystem, m.name(name), os.O_RDONLY)
			must(t, m.Set(name, badfs.Faults{SlowReads: slow, Delay: delay}))
			// The pages between the slow ones are in memory and known to be: whoever concludes from
			// them on the others is wrong.
			for round := 0; round < 3; round++ {
				for page := int64(1); page < size/pageSize; page += 2 {
					if _, err := file.ReadAt(make([]byte, 8), page*pageSize); err != nil {
						t.Fatal(err)
					}
				}
			}
			if mapped, ok := file.(*memmapfs.MappedFile); ok && !mapped.Mapped() {
				t.Fatal("not mapped")
			}
			var stop atomic.Bool
			var others, waiting sync.WaitGroup
			others.Add(2)
			go func() {
				defer others.Done()
				for !stop.Load() {
					start := time.Now()
					time.Sleep(time.Millisecond)
					sleeper = max(sleeper, time.Since(start)-time.Millisecond)
				}
			}()
			go func() {
				defer others.Done()
				for !stop.Load() {
					start := time.Now()
					if _, err := file.ReadAt(make([]byte, 8), size-pageSize); err != nil {
						t.Error(err)
					}
					reader = max(reader, time.Since(start))
					time.Sleep(100 * time.Microsecond)
				}
			}()
			start := time.Now()
			for _, page := range slow {
				waiting.Add(1)
				go func() {
					defer waiting.Done()
					if _, err := file.ReadAt(make([]byte, 8), page*pageSize); err != nil {
						t.Error(err)
					}
				}()
			}
			waiting.Wait()
			if waited := time.Since(start); waited < delay {
				t.Errorf("the readers waited for %v: no page was slow", waited)
			}
			stop.Store(true)
			others.Wait()
			return sleeper, reader
		}
		plainSleeper, plainReader := stall(plainFileSystem(t))
		t.Logf("plain file: a sleeper is late by %v, a reader of a good page waits %v", plainSleeper, plainReader)
		all := configs()
		crowded := all[0]
		crowded.name += " beside many mapped files"
		for _, c := range append(all, crowded) {
			if c.name == crowded.name {
				mapMany(t)
			}
			sleeper, reader := stall(memmapfs.New(plainFileSystem(t), &c.Config))
			t.Logf("%s: a sleeper is late by %v, a reader of a good page waits %v", c.name, sleeper, reader)
			// A fault on a slow page would cost at least the delay. The rest is for a busy machine.
			if sleeper > max(3*plainSleeper, delay/4) {
				t.Fatalf("%s: a sleeper was late by %v, beside the plain file by %v", c.name, sleeper, plainSleeper)
			}
			if reader > max(3*plainReader, delay/4) {
				t.Fatalf("%s: a reader of a good page waited %v, beside the plain file %v", c.name, reader, plainReader)
			}
		}
	})
}

// A filesystem that refuses maps: nothing is mapped and everything works.
func TestRefusedMaps(t *testing.T) {
	m := mount(t, badfs.Options{ReadAhead: 1})
	for i, c := range configs() {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprint("file", i)
			must(t, m.CreateUnmappable(name, fileSize))
			must(t, m.Set(name, badfs.Faults{BadReads: badPages}))
			plain := open(t, plainFileSystem(t), m.name(name), os.O_RDONLY)
			mapped := openMapped(t, c.Config, m.name(name), os.O_RDONLY)
			unmapped := func() {
				t.Helper()
				if mapped.Mapped() {
					t.Fatal("mapped")
				}
				if mapped.Data() != nil {
					t.Fatal("Data gives something")
				}
				err := mapped.View(0, 1, func([]byte) error { t.Error("View calls its function"); return nil })
				var path *fs.PathError
				if !errors.Is(err, memmapfs.ErrNotMapped) || !errors.As(err, &path) || path.Op != "view" {
					t.Fatalf("View: %v, want ErrNotMapped", err)
				}
			}
			unmapped()
			compareReads(t, m, name, c.name, plain, mapped, nil)
			unmapped()

			// Another client of the filesystem changes the file: the next read shows it.
			must(t, m.Set(name, badfs.Faults{}))
			must(t, m.Replace(name, 2*fileSize))
			p, want := make([]byte, fileSize), badfs.Contents(2 * fileSize)[:fileSize]
			if n, err := mapped.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
				t.Errorf("ReadAt after a change by others: %d, %v, new bytes: %t", n, err, bytes.Equal(p, want))
			}

			writer := openMapped(t, c.Config, m.name(name), os.O_RDWR)
			for range 40 {
				n, err := writer.WriteAt([]byte("written"), 7*pageSize-3)
				if n != 7 || err != nil {
					t.Fatal(n, err)
				}
			}
			copy(want[7*pageSize-3:], "written")
			if n, err := writer.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
				t.Errorf("ReadAt of what was written: %d, %v, right bytes: %t", n, err, bytes.Equal(p, want))
			}
			must(t, writer.Sync())
			must(t, writer.SyncRange(0, fileSize))
			if writer.Mapped() {
				t.Error("mapped")
			}
			must(t, writer.Close())
			stored, err := m.Stored(name)
			must(t, err)
			if reached := bytes.Equal(stored, want); reached != (c.Mode != memmapfs.ModeCopyOnWrite) {
				t.Errorf("what was written is in the file: %t", reached)
			}
		})
	}
}

// A flush in the background that fails is reported by the next Sync, or by Close, once.
func TestFailedBackgroundFlush(t *testing.T) {
	m := mount(t, badfs.Options{ReadAhead: 1})
	files := 0
	for _, failing := range []string{"fsync", "write"} {
		for _, reportedBy := range []string{"Sync", "Close"} {
			for _, hot := range []bool{false, true} {
				if failing == "write" && !hot {
					continue // WriteAt itself reports that
				}
				files++
				t.Run(fmt.Sprintf("%s fails, %s reports, hot %t", failing, reportedBy, hot), func(t *testing.T) {
					failedBackgroundFlush(t, m, fmt.Sprint("file", files), failing, reportedBy, hot)
				})
			}
		}
	}
}

func failedBackgroundFlush(t *testing.T, m *mounted, name, failing, reportedBy string, hot bool) {
	must(t, m.Create(name, fileSize))
	told := make(chan error, 1000)
	mapped := openMapped(t, memmapfs.Config{
		Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncPeriodic, MapFullFile: true,
		SyncInterval: 20 * time.Millisecond, OnSyncError: func(_ string, err error) { told <- err },
	}, m.name(name), os.O_RDWR)
	write := func(text string) {
		t.Helper()
		if n, err := mapped.WriteAt([]byte(text), 0); n != len(text) || err != nil {
			t.Fatalf("WriteAt: %d, %v", n, err)
		}
	}
	if hot {
		warm(t, m, name, mapped, fileSize)
		write("first touch")
		must(t, mapped.Sync())
	}
	faults := badfs.Faults{BadSyncs: 1}
	if failing == "write" {
		faults = badfs.Faults{BadWrites: []int64{0}}
	}
	must(t, m.Set(name, faults))
	if hot {
		must(t, mapped.View(0, 5, func(b []byte) error { copy(b, "hello"); return nil }))
	} else {
		write("hello")
	}
	select {
	case err := <-told:
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("OnSyncError was told %v, want EIO", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no flush has failed")
	}
	must(t, m.Set(name, badfs.Faults{}))
	reports := func(what string, err error, want bool) {
		t.Helper()
		var path *fs.PathError
		switch {
		case want && (!errors.Is(err, syscall.EIO) || !errors.As(err, &path)):
			t.Errorf("%s: %v, want EIO in a *fs.PathError", what, err)
		case !want && err != nil:
			t.Errorf("%s: %v, want nil", what, err)
		}
	}
	if reportedBy == "Sync" {
		reports("the first Sync after the failed flush", mapped.Sync(), true)
		reports("the second Sync", mapped.Sync(), false)
	}
	reports("Close", mapped.Close(), reportedBy == "Close")
	if failing == "fsync" {
		stored, err := m.Stored(name)
		must(t, err)
		if !bytes.HasPrefix(stored, []byte("hello")) {
			t.Error("what was written has not reached the disk")
		}
	}
}
