package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/absfs/memmapfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eachEngine runs test with every engine in every mode, plain files first.
func eachEngine(t *testing.T, test func(t *testing.T, engine int, mode string)) {
	for engine := range engines {
		t.Run(engines[engine].name, func(t *testing.T) {
			t.Run(plainMode, func(t *testing.T) { test(t, engine, plainMode) })
			for _, mode := range modes {
				if mode.config.Mode != memmapfs.ModeCopyOnWrite {
					t.Run(mode.name, func(t *testing.T) { test(t, engine, mode.name) })
				}
			}
		})
	}
}

// within opens a database, and closes it and its filesystem after use.
func within(t *testing.T, engine int, mode, dir string, readOnly bool, use func(db database)) {
	t.Helper()
	files, closeFiles, err := filesIn(mode)
	must(t, err)
	db, err := engines[engine].open(files, dir, readOnly)
	must(t, err)
	use(db)
	must(t, db.close())
	must(t, closeFiles())
}

func mustHold(t *testing.T, db database, last int) {
	t.Helper()
	found, err := digest(db)
	must(t, err)
	if want := expected(last); found != want {
		t.Errorf("it holds %s, want %s", found, want)
	}
	must(t, read(db, 500, last))
}

// What is written is there: at once, after a compaction, after closing, and on plain files.
func TestDatabases(t *testing.T) {
	eachEngine(t, func(t *testing.T, engine int, mode string) {
		dir := t.TempDir()
		within(t, engine, mode, dir, false, func(db database) {
			must(t, fill(db, 0, 3000, func(int) {}))
			mustHold(t, db, 3000)
			must(t, db.compact())
			mustHold(t, db, 3000)
		})
		within(t, engine, mode, dir, false, func(db database) {
			mustHold(t, db, 3000)
			must(t, fill(db, 3000, 5000, func(int) {}))
			mustHold(t, db, 5000)
		})
		within(t, engine, plainMode, dir, false, func(db database) { mustHold(t, db, 5000) })
	})
}

// A database is read in every mode, copy-on-write included, also by two handles at the same time.
func TestReadOnly(t *testing.T) {
	for engine := range engines {
		t.Run(engines[engine].name, func(t *testing.T) {
			dir := t.TempDir()
			within(t, engine, plainMode, dir, false, func(db database) { must(t, fill(db, 0, 3000, func(int) {})) })
			for _, mode := range modes {
				t.Run(mode.name, func(t *testing.T) {
					within(t, engine, mode.name, dir, true, func(db database) {
						done := make(chan error)
						go func() { done <- read(db, 2000, 3000) }()
						mustHold(t, db, 3000)
						must(t, <-done)
					})
				})
			}
		})
	}
}

// What a killed process has written durably is there, and no part of a batch is there without the
// rest.
func TestKilled(t *testing.T) {
	if argument := os.Getenv(writerVariable); argument != "" {
		writeUntilKilled(t, argument)
		return
	}
	eachEngine(t, func(t *testing.T, engine int, mode string) {
		dir := t.TempDir()
		acknowledged := killWriter(t, engine, mode, dir)
		for _, mode := range []string{mode, plainMode} {
			within(t, engine, mode, dir, false, func(db database) { mustHoldBatches(t, db, acknowledged) })
		}
	})
}

const writerVariable = "MEMMAPFS_DATABASE_WRITER"

// writeUntilKilled is the process that is killed.
func writeUntilKilled(t *testing.T, argument string) {
	var engine int
	engineNumber, rest, _ := strings.Cut(argument, "\n")
	mode, dir, _ := strings.Cut(rest, "\n")
	engine, err := strconv.Atoi(engineNumber)
	must(t, err)
	within(t, engine, mode, dir, false, func(db database) {
		must(t, fill(db, 0, 1<<30, func(next int) { fmt.Printf("written %d\n", next) }))
	})
}

// killWriter kills a process that writes after a few batches, and returns how many records it has
// said to be durable.
func killWriter(t *testing.T, engine int, mode, dir string) (acknowledged int) {
	t.Helper()
	writer := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	writer.Env = append(os.Environ(), fmt.Sprintf("%s=%d\n%s\n%s", writerVariable, engine, mode, dir))
	output, err := writer.StdoutPipe()
	must(t, err)
	must(t, writer.Start())
	var lines strings.Builder
	for scanner := bufio.NewScanner(output); scanner.Scan(); {
		fmt.Fprintln(&lines, scanner.Text())
		if _, err := fmt.Sscanf(scanner.Text(), "written %d", &acknowledged); err == nil && acknowledged == 14*batchSize {
			must(t, writer.Process.Kill())
		}
	}
	var exit *exec.ExitError
	if err := writer.Wait(); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the writer ended by itself: %v\n%s", err, &lines)
	}
	return acknowledged
}

// mustHoldBatches demands a whole number of batches, at least those of the records before
// acknowledged.
func mustHoldBatches(t *testing.T, db database, acknowledged int) {
	t.Helper()
	last := 0
	must(t, db.each(func(number int, _ string) { last = max(last, number+1) }))
	if last < acknowledged || last%batchSize != 0 {
		t.Fatalf("the last record is %d; %d were durable, in batches of %d", last-1, acknowledged, batchSize)
	}
	mustHold(t, db, last)
}
