//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// journals are sqlite's ways to commit: with -shm mapped by all its processes, and by overwriting
// the database in place. The last one reads the database through a map of its own.
var journals = []struct{ name, pragmas string }{
	{"wal", "PRAGMA journal_mode=WAL;"},
	{"delete", "PRAGMA journal_mode=DELETE;"},
	{"truncate and mmap", "PRAGMA journal_mode=TRUNCATE; PRAGMA mmap_size=100000000;"},
}

const (
	sqliteWriters = 3
	sqliteCommits = 12
	// sqliteSettings are for each session: the small cache has pages of a transaction written
	// before its commit.
	sqliteSettings = ".timeout 60000\n.bail on\nPRAGMA cache_size=20;\n"
)

// Writers at the same time lose nothing, a writer that is killed leaves what it has committed and
// nothing else, and the files under the mount are then as good as those in it.
func TestSQLite(t *testing.T) {
	needs(t, "sqlite3")
	for _, journal := range journals {
		t.Run(journal.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, mode string) string {
				p := show(t, mode, t.TempDir())
				session := func(input string) string {
					return run(t, p.mountPoint, sqliteSettings+journal.pragmas+input, "sqlite3", "database")
				}
				session("CREATE TABLE lines (writer INT, number INT, text, PRIMARY KEY (writer, number)); CREATE INDEX texts ON lines (text);")
				writeTogether(t, session)
				killWriter(t, p, journal.pragmas, nil)
				found := session(sqliteQuestions)
				session("DELETE FROM lines WHERE number % 3 = 0; VACUUM;")
				found += session(sqliteQuestions)
				p.stop(t)
				left := run(t, p.directory, sqliteSettings+journal.pragmas+sqliteQuestions, "sqlite3", "database")
				if !strings.HasSuffix(found, left) {
					t.Errorf("through the mount it is\n%s\nand under it\n%s", found, left)
				}
				if !strings.Contains(left, "integrity ok\n") {
					t.Errorf("the check says\n%s", left)
				}
				return found
			})
		})
	}
}

// What is committed is in the file, and not in the server: it is there when the server is killed.
func TestSQLiteServerKilled(t *testing.T) {
	needs(t, "sqlite3")
	onEach(t, func(t *testing.T, mode string) string {
		p := show(t, mode, t.TempDir())
		const pragmas = "PRAGMA journal_mode=DELETE;"
		run(t, p.mountPoint, pragmas+"CREATE TABLE lines (writer INT, number INT, text, PRIMARY KEY (writer, number));", "sqlite3", "database")
		killWriter(t, p, pragmas, func() { p.kill(t) })
		return run(t, p.directory, sqliteQuestions, "sqlite3", "database")
	})
}

// sqliteQuestions ask for everything, in an order that does not depend on who was first.
const sqliteQuestions = `
SELECT 'integrity ' || integrity_check FROM pragma_integrity_check;
SELECT count(*), sum(number), sum(length(text)) FROM lines;
SELECT hex(sha3) FROM (SELECT sha3_query('SELECT * FROM lines ORDER BY writer, number') AS sha3);
SELECT hex(sha3) FROM (SELECT sha3_query('SELECT text FROM lines ORDER BY text') AS sha3);
`

// insertion is a transaction of a few rows.
func insertion(writer, number int) string {
	var rows []string
	for row := range 8 {
		text := strings.Repeat(fmt.Sprintf("%d/%d/%d ", writer, number, row), 5+(number*37+row*101)%150)
		rows = append(rows, fmt.Sprintf("(%d, %d, '%s')", writer, number*8+row, text))
	}
	return "BEGIN IMMEDIATE; INSERT INTO lines VALUES " + strings.Join(rows, ", ") + "; COMMIT;\n"
}

// writeTogether has several writers, and one who reads in between.
func writeTogether(t *testing.T, session func(input string) string) {
	var group sync.WaitGroup
	together := func(f func()) {
		group.Add(1)
		go func() {
			defer group.Done()
			f()
		}()
	}
	for writer := range sqliteWriters {
		together(func() {
			var input strings.Builder
			for number := range sqliteCommits {
				input.WriteString(insertion(writer, number))
			}
			session(input.String())
		})
	}
	together(func() {
		// Each transaction has eight rows.
		answer := session(strings.Repeat("SELECT 'a part of a transaction' FROM lines GROUP BY writer, number/8 HAVING count(*) <> 8;\n", 20))
		if strings.Contains(answer, "part") {
			t.Errorf("a reader between the writers sees %s", answer)
		}
	})
	group.Wait()
}

// killWriter kills a writer in the middle of a large transaction, when all before it are
// committed. It calls meanwhile before the kill.
func killWriter(t *testing.T, p *place, pragmas string, meanwhile func()) {
	t.Helper()
	writer, cancel := program(p.mountPoint, "sqlite3", filepath.Join(p.mountPoint, "database"))
	defer cancel()
	input, err := writer.StdinPipe()
	must(t, err)
	output, err := writer.StdoutPipe()
	must(t, err)
	must(t, writer.Start())
	answers := bufio.NewScanner(output)
	ask := func(question, answer string) {
		t.Helper()
		_, err := io.WriteString(input, question+"\nSELECT '"+answer+"';\n")
		must(t, err)
		for answers.Scan() {
			if answers.Text() == answer {
				return
			}
		}
		t.Fatalf("no answer %q", answer)
	}
	ask(sqliteSettings+pragmas, "ready")
	for number := range sqliteCommits {
		ask(insertion(100, number), fmt.Sprint("committed ", number))
	}
	ask(`BEGIN IMMEDIATE;
		UPDATE lines SET text = text || 'never committed';
		INSERT INTO lines SELECT 200, value, 'never committed' FROM generate_series(1, 5000);`, "in the middle")
	if meanwhile != nil {
		meanwhile()
	}
	must(t, writer.Process.Kill())
	if _, killed := writer.Wait().(*exec.ExitError); !killed {
		t.Error("the writer has ended by itself")
	}
}
