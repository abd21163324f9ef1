package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// print writes a table of the files that the look kept, and a line for all of them.
func (l *look) print(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%9s  %9s  %5s  %-*s  %s\n", "In memory", "of", "share", blocks, "from start to end", "file")
	for _, f := range l.top {
		if f.known {
			row(out, f.resident, f.size, bar(f.blocks[:]), f.path)
		} else {
			fmt.Fprintf(out, "%9s  %9s  %5s  %-*s  %s\n", "?", human(f.size), "", blocks, "", f.path)
		}
	}
	summary := "all of " + counted(int64(l.files))
	if l.files > len(l.top) {
		summary += fmt.Sprintf(", %s of them not shown", grouped(int64(l.files-len(l.top))))
	}
	row(out, l.resident, l.size, strings.Repeat(" ", blocks), summary)
	return out.Flush()
}

func row(w io.Writer, resident, size int64, bar, text string) {
	share := ""
	if size > 0 {
		share = percent(resident, size)
	}
	fmt.Fprintf(w, "%9s  %9s  %5s  %s  %s\n", human(resident), human(size), share, bar, text)
}

// bar draws how much of each part of a file is in memory.
func bar(blocks []uint8) string {
	var text strings.Builder
	for _, block := range blocks {
		switch {
		case block == 0:
			text.WriteRune('·')
		case block < 255:
			text.WriteRune([]rune("░▒▓")[int(block)*3/255])
		default:
			text.WriteRune('█')
		}
	}
	return text.String()
}

// percent is 0% and 100% only for nothing and all.
func percent(part, whole int64) string {
	share := 100 * float64(part) / float64(whole)
	switch {
	case part > 0 && share < 1:
		return "<1%"
	case part < whole && share > 99:
		return ">99%"
	}
	return fmt.Sprintf("%.0f%%", share)
}

// human writes a size in bytes with three digits.
func human(bytes int64) string {
	if bytes < 1024 {
		return strconv.FormatInt(bytes, 10) + " B"
	}
	size, unit := float64(bytes)/1024, 0
	for size >= 999.5 && unit < 5 {
		size, unit = size/1024, unit+1
	}
	decimals := 0
	if size < 9.995 {
		decimals = 2
	} else if size < 99.95 {
		decimals = 1
	}
	return strconv.FormatFloat(size, 'f', decimals, 64) + " " + string("KMGTPE"[unit]) + "iB"
}

// counted writes a number of files.
func counted(n int64) string {
	if n == 1 {
		return "1 file"
	}
	return grouped(n) + " files"
}

// grouped writes a number with commas.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
