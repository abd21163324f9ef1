package main

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// describe says where and how the numbers were measured.
func describe(command string, p pace) []string {
	processor, kernel := machine()
	memory := ""
	if bytes := availableMemory(); bytes >= 0 {
		memory = fmt.Sprintf(", %.0f GiB of memory available", float64(bytes)/(1<<30))
	}
	return []string{
		fmt.Sprintf("Machine: %s, %d cores%s", processor, runtime.NumCPU(), memory),
		fmt.Sprintf("System: %s, %s, %s", kernel, runtime.GOARCH, runtime.Version()),
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
	switch {
	case ratio < 10:
		text = fmt.Sprintf("%.2f", ratio)
	case ratio < 100:
		text = fmt.Sprintf("%.1f", ratio)
	default:
		text = fmt.Sprintf("%.0f", ratio)
	}
	if goal := r.row.goals.least(name); ratio < goal {
		return fmt.Sprintf("%s < %v", text, goal), true
	}
	return text, false
}

// nanosecondCell writes 1234567 as 1,234,567.
func nanosecondCell(r result, name string) string {
	nanosecond, ok := r.nanosecond[name]
	switch {
	case !ok:
		return "-"
	case nanosecond < 100:
		return fmt.Sprintf("%.1f", nanosecond)
	}
	digits := fmt.Sprintf("%.0f", nanosecond)
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
	return table{fmt.Sprintf("%%-%ds", width) + strings.Repeat("  %12s", len(others)) + strings.Repeat("  %14s", 2)}
}

func (t table) head() string {
	above, below := []any{"time of another / time of memmapfs"}, []any{""}
	for _, name := range others {
		above, below = append(above, ""), append(below, name)
	}
	above, below = append(above, "nanoseconds:", ""), append(below, plain, mapped)
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
	return fmt.Sprintf(t.format, append(cells, nanosecondCell(r, plain), nanosecondCell(r, mapped))...)
}

// summary counts the rows below their goal, and names those in which the map does not help.
func summary(results []result) string {
	var below, noHelp []string
	for _, r := range results {
		missed := false
		for _, name := range others {
			_, isBelow := ratioCell(r, name)
			missed = missed || isBelow
		}
		if missed {
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
	list("Where memmapfs is at most a tenth faster than osfs, or not at all:", noHelp)
	return text.String()
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
		"A ratio below the goal for its row is bold, with the goal behind it.\n\n")
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

// Between these lines of a file stands what readme returns.
const (
	readmeBegin = "<!-- written by bench -readme: begin -->\n"
	readmeEnd   = "<!-- written by bench -readme: end -->\n"
)

// readme is the part of the report that a README has room for: the table, with the two libraries that
// matter most.
func (b *bench) readme() string {
	var text strings.Builder
	for _, line := range b.surroundings {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Command" {
			value = "`" + value + "`, in `bench/`"
		}
		fmt.Fprintf(&text, "%s: %s.  \n", name, value)
	}
	table := slices.DeleteFunc(slices.Clone(b.results), func(r result) bool { return r.row.curve != "" })
	fmt.Fprint(&text, "\n", markdownTable("Workload: time of another / time of memmapfs", table, plain, expMmap, bareMap))
	var noHelp []string
	for _, r := range table {
		if helpsLittle(r) {
			noHelp = append(noHelp, r.row.name)
		}
	}
	fmt.Fprintf(&text, "\nBold is below the project's goal for the row. Where a map helps by less than a tenth, or not at all: %s.\n",
		strings.Join(noHelp, "; "))
	return text.String()
}

// replaceReadme puts section between the lines of document that readme is for.
func replaceReadme(document, section string) (string, error) {
	before, rest, found := strings.Cut(document, readmeBegin)
	_, after, ended := strings.Cut(rest, readmeEnd)
	if !found || !ended {
		return "", fmt.Errorf("there is no place for the table: the lines %q and %q", readmeBegin, readmeEnd)
	}
	return before + readmeBegin + section + readmeEnd + after, nil
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
	fmt.Fprintf(&text, " %s, ns | %s, ns |\n|---|%s\n", plain, mapped, strings.Repeat("---:|", len(columns)+2))
	for _, r := range results {
		if r.skipped != nil {
			fmt.Fprintf(&text, "| %s: %v |\n", r.row.name, r.skipped)
			continue
		}
		fmt.Fprintf(&text, "| %s |", r.row.name)
		for _, name := range columns {
			cell, below := ratioCell(r, name)
			if below {
				cell = "**" + cell + "**"
			}
			fmt.Fprintf(&text, " %s |", cell)
		}
		fmt.Fprintf(&text, " %s | %s |\n", nanosecondCell(r, plain), nanosecondCell(r, mapped))
	}
	return text.String()
}
