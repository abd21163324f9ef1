// Bench measures memmapfs beside the plain filesystem and other ways to read and write files by
// maps.
//
//	go run .
//
// prints a table. See README.md for how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	pick := flags.String("run", "", "measure only the rows whose name matches this regular `expression`")
	quick := flags.Bool("quick", false, "less than a minute in all, with smaller files and less precise")
	rounds := flags.Int("rounds", 0, "measure each row this `number` of times and take the median (default 7, or 3 with -quick)")
	dir := flags.String("dir", os.TempDir(), "make the files in a new directory inside this `directory`, and remove it at the end")
	markdown := flags.String("markdown", "", "put the tables as Markdown into this `file`, too: a new one, or between the two lines that are there for them")
	readme := flags.String("readme", "", "put the table into this `file`, between the two lines that are there for it")
	svg := flags.String("svg", "", "draw charts into this `directory`")
	onlyCosts := flags.Bool("costs", false, "print what calls, faults and maps cost on this machine, and what follows, and measure nothing else")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	picked, err := regexp.Compile(*pick)
	if err != nil || flags.NArg() > 0 || *rounds < 0 {
		fmt.Fprintln(stderr, "bench: -rounds is at least 1, -run a regular expression, and there are no arguments but flags")
		flags.Usage()
		return exitUsage
	}
	p, s := pace{rounds: 7, turns: 5, length: 20 * time.Millisecond}, fullSizes
	if *quick {
		p, s = pace{rounds: 3, turns: 2, length: 5 * time.Millisecond}, quickSizes
	}
	if *rounds > 0 {
		p.rounds = *rounds
	}

	// The first interrupt ends the work and removes the files, a second one ends the program.
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(interrupted, stop)

	b := bench{
		picked: picked, pace: p, sizes: s.within(availableMemory()),
		stdout: stdout, progress: newProgress(stderr),
		command: "go run ." + quoted(arguments),
	}
	if *onlyCosts {
		err = printCosts(&b, *dir)
	} else if err = errors.Join(markdownSection.check(*markdown), readmeSection.check(*readme)); err == nil {
		err = b.run(interrupted, *dir)
	}
	if err == nil && !*onlyCosts || len(b.results) > 0 {
		err = errors.Join(err, b.write(*markdown, *readme, *svg))
	}
	switch {
	case interrupted.Err() != nil:
		fmt.Fprintln(stderr, "bench: interrupted")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "bench:", err)
		return exitFailure
	}
	return 0
}

type bench struct {
	picked   *regexp.Regexp
	pace     pace
	sizes    sizes
	stdout   io.Writer
	progress *progress
	command  string

	surroundings []string // lines that say where and how it was measured
	results      []result
}

// run measures the rows picked, and prints each when it is done.
func (b *bench) run(interrupted context.Context, parent string) (err error) {
	defer b.progress.clear()
	var chosen []row
	for _, r := range rows(b.sizes) {
		if b.picked.MatchString(r.name) {
			chosen = append(chosen, r)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no row matches %q", b.picked)
	}
	libraries, err := newLibraries()
	if err != nil {
		return err
	}
	parent, err = filepath.Abs(parent)
	if err != nil {
		return err
	}
	if err := b.checkSpace(parent); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, "memmapfs-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w := &workspace{interrupted: interrupted, dir: dir, libraries: libraries, sizes: b.sizes}

	machineCosts, err := measureCosts(dir)
	if err != nil {
		return err
	}
	b.surroundings = append(append(describe(), machineCosts.line()), describeRun(b.command, b.pace)...)
	table := newTable(chosen)
	fmt.Fprintf(b.stdout, "%s\n\n%s\n", strings.Join(b.surroundings, "\n"), table.head())
	for i, r := range chosen {
		found, err := measure(interrupted, r, w, b.pace, func(format string, arguments ...any) {
			b.progress.show("%d of %d, %s: %s", i+1, len(chosen), r.name, fmt.Sprintf(format, arguments...))
		})
		b.progress.clear()
		if errors.Is(err, errSkip) {
			found, err = result{row: r, skipped: err}, nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		b.results = append(b.results, found)
		fmt.Fprintln(b.stdout, table.line(found))
	}
	fmt.Fprint(b.stdout, "\n", summary(b.results))
	return nil
}

// checkSpace says what the files need, and fails if that is not there.
func (b *bench) checkSpace(dir string) error {
	need, free := b.sizes.space(), freeBytes(dir)
	if free < 0 {
		fmt.Fprintf(b.stdout, "The files need up to %s in %s.\n", roughly(need), dir)
		return nil
	}
	fmt.Fprintf(b.stdout, "The files need up to %s in %s, where %s are free.\n", roughly(need), dir, roughly(free))
	if free < need {
		return errors.New("too little space: choose another directory with -dir, or try -quick")
	}
	return nil
}

// quoted returns the arguments as one types them, each behind a space.
func quoted(arguments []string) string {
	var text strings.Builder
	for _, argument := range arguments {
		if argument == "" || strings.ContainsAny(argument, " |&;()<>*?$^[]{}\\\"'") {
			argument = "'" + strings.ReplaceAll(argument, "'", `'\''`) + "'"
		}
		text.WriteString(" " + argument)
	}
	return text.String()
}

func roughly(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

// write makes the files that were asked for.
func (b *bench) write(markdown, readme, svg string) error {
	var charts []string
	if svg != "" {
		if err := os.MkdirAll(svg, 0o755); err != nil {
			return err
		}
		var err error
		if charts, err = drawCharts(b.results, svg); err != nil {
			return err
		}
	}
	if readme != "" {
		if err := readmeSection.write(readme, b.readme(), false); err != nil {
			return err
		}
	}
	if markdown == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(markdown), 0o755); err != nil {
		return err
	}
	return markdownSection.write(markdown, b.markdown(filepath.Dir(markdown), charts), true)
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
