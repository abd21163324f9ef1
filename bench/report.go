package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// describe says where the numbers were measured.
func describe() []string {
	processor, kernel := machine()
	memory := ""
	if bytes := availableMemory(); bytes >= 0 {
		memory = fmt.Sprintf(", %.0f GiB of memory available", float64(bytes)/(1<<30))
	}
	return []string{
		fmt.Sprintf("Machine: %s, %d cores%s", processor, runtime.NumCPU(), memory),
		fmt.Sprintf("System: %s, %s, %s", kernel, runtime.GOARCH, runtime.Version()),
	}
}

// describeRun says how they were measured.
func describeRun(command string, p pace) []string {
	return []string{
		fmt.Sprintf("Command: %s", command),
		fmt.Sprintf("Date: %s; medians of %d rounds, in each of which every contestant has up to %d turns of %v",
			time.Now().UTC().Format(time.DateOnly), p.rounds, p.turns, p.length),
	}
}

// others are the contestants whose time is compared with that of memmapfs.
var others = slices.DeleteFunc(slices.Clone(contestantNames), func(name string) bool { return name == mapped })

// ratioCell is a contestant's ratio, with the goal if it is below that.
func ratioCell(r result, name string) (text string, below bool) {
	ratio, ok := r.ratio[name]
	if !ok {
		return "-", false
	}
	goal := 0.0
	switch name {
	case plain:
		goal = r.row.goals.plain
	case bareMap:
		goal = r.row.goals.bare
	}
	return withGoal(ratio, goal)
}

// shareCell is the share of the better one, with the goal if it is below that.
func shareCell(r result) (text string, below bool) {
	if r.share == 0 {
		return "-", false
	}
	return withGoal(r.share, r.row.goals.better)
}

func withGoal(ratio, goal float64) (text string, below bool) {
	if text = ratioText(ratio); ratio < goal {
		return fmt.Sprintf("%s < %.3g", text, goal), true
	}
	return text, false
}

func ratioText(ratio float64) string {
	switch {
	case ratio < 10:
		return fmt.Sprintf("%.2f", ratio)
	case ratio < 100:
		return fmt.Sprintf("%.1f", ratio)
	}
	return fmt.Sprintf("%.0f", ratio)
}

// nanosecondCell is the time of an operation.
func nanosecondCell(r result, name string) string {
	nanosecond, ok := r.nanosecond[name]
	switch {
	case !ok:
		return "-"
	case nanosecond < 100:
		return fmt.Sprintf("%.1f", nanosecond)
	}
	return grouped(nanosecond)
}

// grouped writes 1234567 as 1,234,567.
func grouped(number float64) string {
	digits := fmt.Sprintf("%.0f", number)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// table prints results for a terminal, one line at a time.
type table struct{ format string }

func newTable(rows []row) table {
	width := 0
	for _, r := range rows {
		width = max(width, len(r.name))
	}
	return table{fmt.Sprintf("%%-%ds", width) + strings.Repeat("  %12s", len(others)+1) + strings.Repeat("  %14s", 2)}
}

func (t table) head() string {
	above, below := []any{"time of another / time of memmapfs"}, []any{""}
	for _, name := range others {
		above, below = append(above, ""), append(below, name)
	}
	above, below = append(above, "", "nanoseconds:", ""), append(below, "better one", plain, mapped)
	return strings.TrimRight(fmt.Sprintf(t.format, above...), " ") + "\n" + fmt.Sprintf(t.format, below...)
}

func (t table) line(r result) string {
	if r.skipped != nil {
		return fmt.Sprintf("%s  %v", r.row.name, r.skipped)
	}
	cells := []any{r.row.name}
	for _, name := range others {
		text, _ := ratioCell(r, name)
		cells = append(cells, text)
	}
	share, _ := shareCell(r)
	return fmt.Sprintf(t.format, append(cells, share, nanosecondCell(r, plain), nanosecondCell(r, mapped))...)
}

// summary names the rows below their goal, and those in which the map does not help.
func summary(results []result) string {
	var below, noHelp []string
	for _, r := range results {
		_, belowPlain := ratioCell(r, plain)
		_, belowBare := ratioCell(r, bareMap)
		_, belowBetter := shareCell(r)
		if belowPlain || belowBare || belowBetter {
			below = append(below, r.row.name)
		}
		if helpsLittle(r) {
			noHelp = append(noHelp, r.row.name)
		}
	}
	var text strings.Builder
	list := func(sentence string, names []string) {
		if len(names) > 0 {
			fmt.Fprintf(&text, "%s\n\n- %s\n\n", sentence, strings.Join(names, "\n- "))
		}
	}
	list("Below the goal:", below)
	list("Rows that are to take the same time, and do not:", cliffs(results))
	list("Where memmapfs is at most a tenth faster than osfs, or not at all:", noHelp)
	return text.String()
}

// cliffs names the rows that are to be alike, and are not.
func cliffs(results []result) (found []string) {
	groups := map[string][]result{}
	for _, r := range results {
		if name := r.row.goals.alike; name != "" && r.skipped == nil {
			groups[name] = append(groups[name], r)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		faster := func(one, other result) int { return cmp.Compare(one.nanosecond[mapped], other.nanosecond[mapped]) }
		least, most := slices.MinFunc(groups[name], faster), slices.MaxFunc(groups[name], faster)
		if spread := most.nanosecond[mapped] / least.nanosecond[mapped]; spread > alikeSpread {
			found = append(found, fmt.Sprintf("around %s: %s ns in %q, %s ns in %q, a factor of %.2f, want %.2f at most", name,
				nanosecondCell(least, mapped), least.row.name, nanosecondCell(most, mapped), most.row.name, spread, alikeSpread))
		}
	}
	return found
}

// markdown is the report as a file that lies in dir, with the charts.
func (b *bench) markdown(dir string, charts []string) string {
	var text strings.Builder
	for _, line := range b.surroundings {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Command" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&text, "- %s: %s\n", name, value)
	}
	fmt.Fprint(&text, "\nTime of another / time of memmapfs: above 1, memmapfs is faster. The page cache is hot unless the row says cold.\n"+
		"The better one is the faster one of the plain file (osfs) and a bare map (x/exp/mmap, or a slice of a map); its column is its\n"+
		"time / time of memmapfs. A number below the goal for its row is bold, with the goal behind it.\n\n")
	var table, curves []result
	for _, r := range b.results {
		if r.row.curve == "" {
			table = append(table, r)
		} else {
			curves = append(curves, r)
		}
	}
	fmt.Fprint(&text, markdownTable("workload", table, others...))
	fmt.Fprint(&text, "\n", summary(table))
	if len(curves) > 0 {
		fmt.Fprint(&text, "Random reads of 64 bytes, by how much of the file they touch:\n\n", markdownTable("working set", curves, others...), "\n")
	}
	for _, chart := range charts {
		if relative, err := filepath.Rel(dir, chart); err == nil {
			chart = relative
		}
		title := strings.TrimSuffix(filepath.Base(chart), ".svg")
		fmt.Fprintf(&text, "![%s](%s)\n\n", title, filepath.ToSlash(chart))
	}
	return strings.TrimRight(text.String(), "\n") + "\n"
}

// A section is the part of a file that the program writes, between two lines. What is outside of
// them is left as it is.
type section struct{ begin, end string }

func sectionOf(flag string) section {
	return section{
		"<!-- written by bench -" + flag + ": begin -->\n",
		"<!-- written by bench -" + flag + ": end -->\n",
	}
}

var (
	readmeSection   = sectionOf("readme")
	markdownSection = sectionOf("markdown")
)

// replace puts text between the lines of document that are for it.
func (s section) replace(document, text string) (string, error) {
	before, rest, found := strings.Cut(document, s.begin)
	_, after, ended := strings.Cut(rest, s.end)
	if !found || !ended {
		return "", fmt.Errorf("there is no place for the table: the lines %q and %q", s.begin, s.end)
	}
	return before + s.begin + text + s.end + after, nil
}

// write puts text into a file. One that is not there is made, if that is wanted.
func (s section) write(path, text string, create bool) error {
	document, err := os.ReadFile(path)
	if create && errors.Is(err, os.ErrNotExist) {
		document, err = []byte(s.begin+s.end), nil
	}
	if err != nil {
		return err
	}
	changed, err := s.replace(string(document), text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}

// check reports what write will report for want of a place, before anything is measured.
func (s section) check(path string) error {
	document, err := os.ReadFile(path)
	if path == "" || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = s.replace(string(document), "")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readme is the part of the report that a README has room for: how many times faster than the plain
// file.
func (b *bench) readme() string {
	var text strings.Builder
	for _, line := range b.surroundings {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Command" {
			value = "`" + value + "`, in `bench/`"
		}
		fmt.Fprintf(&text, "%s: %s.  \n", name, value)
	}
	fmt.Fprint(&text, "\n| workload | times faster than osfs | ns |\n|---|---:|---:|\n")
	for _, r := range b.results {
		if r.row.curve != "" || r.row.detail {
			continue
		}
		if r.skipped != nil {
			fmt.Fprintf(&text, "| %s: %v |\n", r.row.name, r.skipped)
			continue
		}
		faster := "-"
		if ratio, ok := r.ratio[plain]; ok {
			faster = ratioText(ratio)
		}
		fmt.Fprintf(&text, "| %s | %s | %s |\n", r.row.name, faster, nanosecondCell(r, mapped))
	}
	fmt.Fprint(&text, "\nBelow 1 osfs is faster. All rows, beside other libraries: [BENCHMARKS.md](docs/BENCHMARKS.md).\n")
	return text.String()
}

// helpsLittle reports whether memmapfs is at most a tenth faster than the plain file.
func helpsLittle(r result) bool {
	ratio, ok := r.ratio[plain]
	return ok && ratio < 1.1 && r.row.curve == ""
}

// markdownTable leaves out a column in which no row has a number.
func markdownTable(first string, results []result, names ...string) string {
	columns := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return !slices.ContainsFunc(results, func(r result) bool { _, ok := r.ratio[name]; return ok })
	})
	var text strings.Builder
	fmt.Fprintf(&text, "| %s |", first)
	for _, name := range columns {
		fmt.Fprintf(&text, " %s |", name)
	}
	fmt.Fprintf(&text, " better one | %s, ns | %s, ns |\n|---|%s\n", plain, mapped, strings.Repeat("---:|", len(columns)+3))
	for _, r := range results {
		if r.skipped != nil {
			fmt.Fprintf(&text, "| %s: %v |\n", r.row.name, r.skipped)
			continue
		}
		fmt.Fprintf(&text, "| %s |", r.row.name)
		for _, name := range columns {
			fmt.Fprintf(&text, " %s |", bold(ratioCell(r, name)))
		}
		fmt.Fprintf(&text, " %s |", bold(shareCell(r)))
		fmt.Fprintf(&text, " %s | %s |\n", nanosecondCell(r, plain), nanosecondCell(r, mapped))
	}
	return text.String()
}

// bold makes a number that is below its goal bold.
func bold(cell string, below bool) string {
	if below {
		return "**" + cell + "**"
	}
	return cell
}
