// Command soak loads memmapfs with everything at once: many files in all modes, windows and sync
// modes, several goroutines and handles a file, truncations from outside, a full disk, and closes
// in the middle of it all. It compares what is read, and what the files hold in the end, with a
// model, and exits with status 1 at the first difference.
//
//	go run ./soak -duration 60s
//
// There are two kinds of files. A modelled file has a copy in memory that says what each call must
// return, byte by byte: each goroutine owns a part of the file, and whatever changes the size waits
// until the goroutines pause. A chaotic file has no such order: everything races with everything,
// Close included, and each result must be one that is possible, bytes of another file or offset
// not being among them.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

func main() {
	duration := flag.Duration("duration", time.Minute, "how long to run")
	dir := flag.String("dir", "", "directory for the files; by default a new one for temporary files")
	seed := flag.Uint64("seed", 0, "seed of the random choices; 0 takes a new one. The order in which goroutines run is not repeatable")
	every := flag.Duration("every", 5*time.Second, "time between two reports")
	flag.Parse()
	if flag.NArg() > 0 || *duration <= 0 || *every <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	if err := soak(*dir, *duration, *every, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// run is one run of the program.
type run struct {
	seed    uint64
	started time.Time
	stop    atomic.Bool

	operations  atomic.Int64
	faults      atomic.Int64
	files       atomic.Int64
	opens       atomic.Int64
	truncations atomic.Int64 // from outside
	refusals    atomic.Int64 // for want of space
	compared    atomic.Int64 // bytes, with the model

	failing sync.Mutex // taken once, by the first that fails
}

// patience is the time without any operation after which the run has failed.
const patience = time.Minute

func soak(dir string, duration, every time.Duration, seed uint64) error {
	work, err := os.MkdirTemp(dir, "memmapfs-soak-")
	if err != nil {
		return err
	}
	s := &run{seed: seed, started: time.Now()}
	fmt.Printf("seed %d, %v, files in %s\n", seed, duration, work)
	memmapfs.GetSIGBUSHandler().OnSIGBUS(func(*memmapfs.MappedFile, error) { s.faults.Add(1) })

	var slots sync.WaitGroup
	slot := 0
	start := func(dir string, full bool, count int, live func(s *run, random *rand.Rand, path string, full bool)) {
		for range count {
			slot++
			random, number := rand.New(rand.NewPCG(seed, uint64(slot))), slot
			slots.Add(1)
			go func() {
				defer slots.Done()
				for life := 0; !s.stop.Load(); life++ {
					path := filepath.Join(dir, fmt.Sprintf("file-%d-%d", number, life))
					s.files.Add(1)
					live(s, random, path, full)
					check(os.Remove(path))
				}
			}()
		}
	}
	start(work, false, 8, liveModelled)
	start(work, false, 2, liveModelledPrivate)
	start(work, false, 5, liveChaotic)
	small, reason := smallDisk()
	if small == "" {
		fmt.Println("no full disk:", reason)
	} else {
		start(small, true, 4, liveModelled)
		start(small, true, 2, liveModelledPrivate)
		start(small, true, 3, liveChaotic)
	}

	s.reportUntil(time.Now().Add(duration), every)
	s.stop.Store(true)
	slots.Wait()
	for _, mfs := range filesystems {
		mfs.Close()
	}
	if left := leftBehind(); left != "" {
		return fmt.Errorf("left behind, seed %d:\n%s", seed, left)
	}
	s.report("in the end")
	return os.RemoveAll(work)
}

func (s *run) reportUntil(end time.Time, every time.Duration) {
	next := time.Now().Add(every)
	before, since := int64(0), time.Now()
	for moment := time.Now(); moment.Before(end); moment = time.Now() {
		time.Sleep(min(end.Sub(moment), 100*time.Millisecond))
		if operations := s.operations.Load(); operations != before {
			before, since = operations, time.Now()
		} else if time.Since(since) > patience {
			stacks := make([]byte, 4<<20)
			fmt.Fprintf(os.Stderr, "%s\n", stacks[:runtime.Stack(stacks, true)])
			s.fail("", nil, 0, "no operation has ended for %v", patience)
		}
		if time.Now().After(next) {
			next = next.Add(every)
			s.report(time.Since(s.started).Round(time.Second).String())
		}
	}
}

// report prints the counts. No byte is lost so far: the first would have ended the program.
func (s *run) report(when string) {
	fmt.Printf("%s: %s operations, %s faults survived, %s files opened %s times, %s truncations from outside, "+
		"%s writes refused by a full disk, %s bytes compared, 0 lost bytes\n",
		when, grouped(s.operations.Load()), grouped(s.faults.Load()), grouped(s.files.Load()), grouped(s.opens.Load()),
		grouped(s.truncations.Load()), grouped(s.refusals.Load()), grouped(s.compared.Load()))
}

// fail ends the program. The files stay for whoever looks for the reason.
func (s *run) fail(path string, log *operationLog, off int64, format string, args ...any) {
	s.failing.Lock()
	fmt.Fprintf(os.Stderr, "FAILED after %v, seed %d", time.Since(s.started).Round(time.Millisecond), s.seed)
	if path != "" {
		fmt.Fprintf(os.Stderr, ", file %s", path)
	}
	fmt.Fprintf(os.Stderr, "\n%s\n", fmt.Sprintf(format, args...))
	if log != nil {
		fmt.Fprint(os.Stderr, log.about(off))
	}
	os.Exit(1)
}

// check ends the program for an error of the machine that it runs on.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// operation is an entry of an operationLog.
type operation struct {
	who, what string
	off, n    int64
	result    string
}

// operationLog keeps the last operations of a file.
type operationLog struct {
	mu    sync.Mutex // guards the fields below
	last  [4096]operation
	count int
}

func (l *operationLog) add(o operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[l.count%len(l.last)] = o
	l.count++
}

// about describes the last operations that touched the byte at off or all of the file, and the
// last ones of all.
func (l *operationLog) about(off int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 40
	line := func(i int) string {
		o := l.last[i%len(l.last)]
		return fmt.Sprintf("%8d  %s: %s(%d, %d) %s\n", i, o.who, o.what, o.off, o.n, o.result)
	}
	var touching []string
	for i := l.count - 1; i >= max(0, l.count-len(l.last)) && len(touching) < most; i-- {
		o := l.last[i%len(l.last)]
		everywhere := o.n == 0 && o.what != "Stat" && !strings.HasPrefix(o.what, "Sync")
		if everywhere || o.off <= off && off < o.off+o.n {
			touching = append(touching, line(i))
		}
	}
	slices.Reverse(touching)
	var text strings.Builder
	fmt.Fprintf(&text, "the last operations on the byte at %d, or on all of the file:\n%s", off, strings.Join(touching, ""))
	fmt.Fprintf(&text, "the last operations of all:\n")
	for i := max(0, l.count-most); i < l.count; i++ {
		text.WriteString(line(i))
	}
	return text.String()
}

// description of a handle: how its filesystem maps, and how it was opened.
type description struct {
	memmapfs.Config
	flags int
}

func (d description) String() string {
	layout := "whole"
	if !d.MapFullFile {
		layout = fmt.Sprintf("%d windows of %d", d.MaxWindows, d.WindowSize)
	}
	return fmt.Sprintf("%v %v %s flags %#x", d.Mode, d.SyncMode, layout, d.flags)
}

var pageSize = int64(os.Getpagesize())

// configs are all modes, in one piece and in windows so small that they come and go. Durable
// writes are slow and fewer.
var configs = func() (all []memmapfs.Config) {
	modes := []memmapfs.MappingMode{memmapfs.ModeReadOnly, memmapfs.ModeReadWrite, memmapfs.ModeReadWrite, memmapfs.ModeCopyOnWrite, memmapfs.ModeExecute}
	syncModes := []memmapfs.SyncMode{memmapfs.SyncNever, memmapfs.SyncNever, memmapfs.SyncLazy, memmapfs.SyncPeriodic, memmapfs.SyncImmediate}
	for _, mode := range modes {
		for _, syncMode := range syncModes {
			c := memmapfs.Config{Mode: mode, SyncMode: syncMode, SyncInterval: 50 * time.Millisecond}
			c.MapFullFile = true
			all = append(all, c)
			c.MapFullFile, c.WindowSize, c.MaxWindows = false, 4*pageSize, 3
			all = append(all, c)
			c.WindowSize, c.MaxWindows, c.PopulatePages = 64*pageSize, 0, true
			all = append(all, c)
		}
	}
	return all
}()

// filesystems has a filesystem for each of configs: handles with the same config share it.
var filesystems = func() (all []*memmapfs.MemMapFS) {
	plain, err := osfs.NewFS()
	check(err)
	for i := range configs {
		all = append(all, memmapfs.New(plain, &configs[i]))
	}
	return all
}()

// open opens the file by a config that is allowed.
func (s *run) open(random *rand.Rand, path string, flags int, allowed func(memmapfs.Config) bool) (*memmapfs.MappedFile, *memmapfs.MemMapFS, description) {
	for {
		i := random.IntN(len(configs))
		if !allowed(configs[i]) {
			continue
		}
		file, err := filesystems[i].OpenFile(osfs.FromNative(path), flags, 0)
		check(err)
		mapped := file.(*memmapfs.MappedFile)
		mapped.EnableSIGBUSProtection()
		s.opens.Add(1)
		return mapped, filesystems[i], description{configs[i], flags}
	}
}

// leftBehind describes the maps and descriptors of this program's files that are left when all are
// closed. The garbage collector gives some of them back.
func leftBehind() string {
	if runtime.GOOS != "linux" {
		return ""
	}
	ours := func(text string) bool { return strings.Contains(text, "/file-") }
	var left []string
	for range 100 {
		runtime.GC()
		left = nil
		maps, err := os.ReadFile("/proc/self/maps")
		check(err)
		for line := range strings.Lines(string(maps)) {
			if ours(line) {
				left = append(left, "mapped: "+line)
			}
		}
		descriptors, err := os.ReadDir("/proc/self/fd")
		check(err)
		for _, descriptor := range descriptors {
			if name, err := os.Readlink("/proc/self/fd/" + descriptor.Name()); err == nil && ours(name) {
				left = append(left, "open: "+name+"\n")
			}
		}
		if len(left) == 0 {
			return ""
		}
		time.Sleep(10 * time.Millisecond)
	}
	return strings.Join(left[:min(len(left), 20)], "")
}

// grouped writes a count with a separator at the thousands.
func grouped(n int64) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
