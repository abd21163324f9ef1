// Quickstart reads one file through the plain filesystem and through memmapfs,
// checks that both give the same bytes, and prints how fast each of them was.
//
// Without an argument it makes a file of log-like lines and removes it at the
// end. A file given as argument is only read.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130

	rounds         = 4 // even, so that each side goes first equally often
	sequentialSize = 64 << 10
	randomSize     = 64
	pieceSize      = 64 << 10 // longer lines are counted in pieces
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: quickstart [-reads NUMBER] [-size MEBIBYTES] [FILE]")
		flags.PrintDefaults()
	}
	reads := flags.Int("reads", 1_000_000, "random reads from each filesystem")
	size := flags.Int64("size", 256, "size in MiB of the file made when none is given")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if flags.NArg() > 1 || *reads < 1 || *size < 1 || *size > 1<<20 {
		flags.Usage()
		return exitUsage
	}

	// The first interrupt ends the work and removes the file, a second one
	// ends the program.
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(interrupted, stop)

	err := compare(interrupted, flags.Arg(0), *size<<20, *reads, stdout, newProgress(stderr))
	switch {
	case interrupted.Err() != nil:
		fmt.Fprintln(stderr, "quickstart: interrupted")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "quickstart:", err)
		return exitFailure
	}
	return 0
}

// compare does the work and prints the result. An empty path asks for a file of
// the given size, made for the purpose.
func compare(interrupted context.Context, path string, size int64, reads int, stdout io.Writer, report *progress) (err error) {
	defer report.clear()
	if path == "" {
		directory, makeError := os.MkdirTemp("", "memmapfs-quickstart")
		if makeError != nil {
			return makeError
		}
		defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
		path = filepath.Join(directory, "log")
		report.show("making a file of %d MiB", size>>20)
		if err := makeLog(interrupted, path, size); err != nil {
			return err
		}
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}

	base, err := osfs.NewFS()
	if err != nil {
		return err
	}
	mapping := memmapfs.New(base, memmapfs.DefaultConfig())
	defer mapping.Close()

	size, err = sizeToRead(base, path)
	if err != nil {
		return err
	}
	plain, err := base.Open(osfs.FromNative(path))
	if err != nil {
		return err
	}
	defer plain.Close()
	file, err := mapping.Open(osfs.FromNative(path))
	if err != nil {
		return err
	}
	defer file.Close()
	mapped := file.(*memmapfs.MappedFile) // what memmapfs opens always is one

	// One pass first, so that the disk is not what the rounds measure.
	report.show("reading the file once")
	if _, err := checksum(interrupted, plain, size); err != nil {
		return err
	}

	workloads := []*workload{
		{
			name: fmt.Sprintf("read all, %d KiB a call", sequentialSize>>10),
			rate: func(perSecond float64) string { return fmt.Sprintf("%9.0f MiB/s", perSecond/(1<<20)) },
			work: func(file absfs.File, round int) (uint64, int64, error) {
				sum, err := checksum(interrupted, file, size)
				return uint64(sum), size, err
			},
		},
		{
			name: fmt.Sprintf("random reads of %d bytes", randomSize),
			rate: func(perSecond float64) string { return fmt.Sprintf("%9.2f million/s", perSecond/1e6) },
			work: randomReads(interrupted, size, reads),
		},
		{
			name: "count lines, bufio.Scanner",
			rate: func(perSecond float64) string { return fmt.Sprintf("%9.0f MiB/s", perSecond/(1<<20)) },
			work: func(file absfs.File, round int) (uint64, int64, error) {
				lines, err := countLines(interrupted, file, size)
				return lines, size, err
			},
		},
	}
	for round := range rounds {
		for _, workload := range workloads {
			report.show("round %d of %d: %s", round+1, rounds, workload.name)
			if err := workload.measure(round, plain, mapped); err != nil {
				return err
			}
		}
	}
	report.clear()

	fmt.Fprintf(stdout, "%s: %d bytes\n\n", path, size)
	table := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "workload\tosfs\tmemmapfs\tratio")
	for _, workload := range workloads {
		fmt.Fprintln(table, workload.row())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nBoth gave the same: checksum %08x, %d lines, the same bytes in %d random reads.\n",
		workloads[0].result, workloads[2].result, reads)

	if data := mapped.Data(); data == nil {
		fmt.Fprintln(stdout, "mapped: nothing; on this system, or for this file, memmapfs reads as osfs does")
	} else {
		fmt.Fprintf(stdout, "mapped: %d bytes\n", len(data))
	}
	fmt.Fprintln(stdout, "resident memory:", residentMemory())
	return nil
}

// sizeToRead returns the size of the regular file at path.
func sizeToRead(filesystem absfs.FileSystem, path string) (int64, error) {
	// Stat comes before Open, which would wait for the writer of a named pipe.
	information, err := filesystem.Stat(osfs.FromNative(path))
	switch {
	case err != nil:
		return 0, err
	case information.IsDir():
		return 0, fmt.Errorf("%s is a directory", path)
	case !information.Mode().IsRegular():
		return 0, fmt.Errorf("%s is not a regular file", path)
	case information.Size() == 0:
		return 0, fmt.Errorf("%s is empty", path)
	}
	return information.Size(), nil
}

// A workload is something done to the plain and to the mapped file in turn.
type workload struct {
	name string
	rate func(perSecond float64) string
	// work returns what it found, which must be the same for both files, and how
	// much it did, in the unit that rate takes.
	work func(file absfs.File, round int) (result uint64, amount int64, err error)

	result uint64           // of the last round
	amount int64            // of all rounds, for one file
	spent  [2]time.Duration // of all rounds, on the plain and the mapped file
}

// measure does one round on both files.
func (w *workload) measure(round int, plain, mapped absfs.File) error {
	files := [2]absfs.File{plain, mapped}
	var results [2]uint64
	var amount int64
	for turn := range files {
		index := (round + turn) % len(files)
		start := time.Now()
		result, done, err := w.work(files[index], round)
		w.spent[index] += time.Since(start)
		if err != nil {
			return err
		}
		results[index], amount = result, done
	}
	if results[0] != results[1] {
		return fmt.Errorf("results differ in %q: %x from osfs, %x from memmapfs (has the file been written to meanwhile?)",
			w.name, results[0], results[1])
	}
	w.result = results[0]
	w.amount += amount
	return nil
}

// row is the workload's line of the table.
func (w *workload) row() string {
	var seconds [2]float64
	for index, spent := range w.spent {
		seconds[index] = max(spent, time.Microsecond).Seconds()
	}
	amount := float64(w.amount)
	return fmt.Sprintf("%s\t%s\t%s\t%.2f", w.name,
		w.rate(amount/seconds[0]), w.rate(amount/seconds[1]), seconds[0]/seconds[1])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum reads the first size bytes of file from the beginning.
func checksum(interrupted context.Context, file absfs.File, size int64) (uint32, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	sum := uint32(0)
	buffer := make([]byte, sequentialSize)
	for position := int64(0); position < size; {
		if err := interrupted.Err(); err != nil {
			return 0, err
		}
		count, err := file.Read(buffer[:min(int64(len(buffer)), size-position)])
		sum = crc32.Update(sum, castagnoli, buffer[:count])
		position += int64(count)
		if err != nil && position < size {
			return 0, shortened(position, size, err)
		}
	}
	return sum, nil
}

// randomReads prepares offsets, the same for both files, and returns the work of
// one round: its share of the reads.
func randomReads(interrupted context.Context, size int64, reads int) func(absfs.File, int) (uint64, int64, error) {
	length := min(randomSize, size)
	offsets := make([]int64, reads)
	random := rand.New(rand.NewPCG(1, 2))
	for index := range offsets {
		offsets[index] = random.Int64N(size - length + 1)
	}
	seed := maphash.MakeSeed()
	buffer := make([]byte, length)

	return func(file absfs.File, round int) (sum uint64, amount int64, err error) {
		share := offsets[round*reads/rounds : (round+1)*reads/rounds]
		for index, offset := range share {
			if index%1024 == 0 && interrupted.Err() != nil {
				return 0, 0, interrupted.Err()
			}
			if count, err := file.ReadAt(buffer, offset); count < len(buffer) {
				return 0, 0, shortened(offset+int64(count), size, err)
			}
			sum = bits.RotateLeft64(sum, 1) ^ maphash.Bytes(seed, buffer)
		}
		return sum, int64(len(share)), nil
	}
}

// countLines counts the lines in the first size bytes of file. A last line
// without a newline counts too.
func countLines(interrupted context.Context, file absfs.File, size int64) (lines uint64, err error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	scanner := bufio.NewScanner(io.LimitReader(file, size))
	scanner.Buffer(make([]byte, 4*pieceSize), 4*pieceSize)
	scanner.Split(splitLines)
	position, tokens, ended := int64(0), 0, true
	for scanner.Scan() {
		if tokens++; tokens%1024 == 0 && interrupted.Err() != nil {
			return 0, interrupted.Err()
		}
		line := scanner.Bytes()
		position += int64(len(line))
		if ended = line[len(line)-1] == '\n'; ended {
			lines++
		}
	}
	if !ended {
		lines++
	}
	if position < size {
		return 0, shortened(position, size, scanner.Err())
	}
	return lines, nil
}

// splitLines is bufio.ScanLines with two differences: a line keeps its newline,
// and one of more than pieceSize bytes comes in pieces, so that it need not fit
// the scanner's buffer.
func splitLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if end := bytes.IndexByte(data, '\n') + 1; end > 0 {
		return end, data[:end], nil
	}
	if len(data) >= pieceSize || atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// shortened reports that a file gave less than the size it had in the beginning.
func shortened(position, size int64, err error) error {
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading stopped at byte %d of %d: %w", position, size, err)
}

// makeLog writes about size bytes of log-like lines to a new file.
func makeLog(interrupted context.Context, path string, size int64) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()

	random := rand.New(rand.NewPCG(3, 4))
	levels := []string{"DEBUG", "INFO", "INFO", "INFO", "WARN", "ERROR"}
	start := time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC)
	chunk := make([]byte, 0, 1<<20)
	for written, line := int64(0), 0; written < size; {
		if err := interrupted.Err(); err != nil {
			return err
		}
		chunk = chunk[:0]
		for len(chunk) < cap(chunk)-256 && written+int64(len(chunk)) < size {
			chunk = start.Add(time.Duration(line)*time.Millisecond).AppendFormat(chunk, "2006-01-02T15:04:05.000Z")
			chunk = fmt.Appendf(chunk, " %-5s request=%08x path=/items/%d status=%d bytes=%d\n",
				levels[random.IntN(len(levels))], random.Uint32(), random.IntN(1e6), 200+random.IntN(5)*100, random.IntN(1e5))
			line++
		}
		count, err := file.Write(chunk)
		if err != nil {
			return err
		}
		written += int64(count)
	}
	return nil
}

// residentMemory says how much of this process is in memory, as far as the
// system tells.
func residentMemory() string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "not available on this system"
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(status)) {
		if name, value, found := strings.Cut(line, ":"); found {
			fields[name] = strings.TrimSpace(value)
		}
	}
	whole, files := fields["VmRSS"], fields["RssFile"]
	if whole == "" || files == "" {
		return "not available on this system"
	}
	return fmt.Sprintf("%s, of which %s are pages of files (VmRSS, RssFile)", whole, files)
}

// progress shows on a terminal what goes on. Elsewhere it shows nothing.
type progress struct {
	terminal io.Writer // nil if there is none
	width    int       // of what is shown
}

func newProgress(stderr io.Writer) *progress {
	if file, ok := stderr.(*os.File); ok {
		if information, err := file.Stat(); err == nil && information.Mode()&os.ModeCharDevice != 0 {
			return &progress{terminal: file}
		}
	}
	return &progress{}
}

func (p *progress) show(format string, arguments ...any) {
	if p.terminal == nil {
		return
	}
	p.clear()
	text := fmt.Sprintf(format, arguments...)
	fmt.Fprint(p.terminal, text)
	p.width = len(text)
}

func (p *progress) clear() {
	if p.width > 0 {
		fmt.Fprintf(p.terminal, "\r%*s\r", p.width, "")
		p.width = 0
	}
}
