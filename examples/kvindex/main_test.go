package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/absfs/absfs"
)

// call runs the program and returns its exit status and what it printed.
func call(stdin string, arguments ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(arguments, strings.NewReader(stdin), &out, &err)
	return status, out.String(), err.String()
}

func mustCall(t *testing.T, stdin string, arguments ...string) (stdout string) {
	t.Helper()
	status, stdout, stderr := call(stdin, arguments...)
	if status != 0 || stderr != "" {
		t.Fatalf("%q: exit status %d, standard error %q", arguments, status, stderr)
	}
	return stdout
}

// An index has what a map has: many keys in few slots, keys given twice, empty ones, large values,
// and what was set afterwards.
func TestIndex(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index")
	random := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	var lines strings.Builder
	add := func(key, value string) {
		want[key] = value
		fmt.Fprintf(&lines, "%s\t%s\n", key, value)
	}
	for number := range 3_000 {
		add(fmt.Sprintf("key %d", random.IntN(2_000)), fmt.Sprintf("value %d", number))
	}
	add("", "of the empty key")
	add("empty", "")
	add("large", strings.Repeat("x", 100_000))
	mustCall(t, lines.String(), "-slots", "300", "build", path)
	for number := range 20 {
		key, value := fmt.Sprintf("key %d", random.IntN(3_000)), fmt.Sprintf("set %d", number)
		mustCall(t, "", "set", path, key, value)
		want[key] = value
	}

	arguments, wanted := []string{"get", path}, ""
	for key, value := range want {
		arguments = append(arguments, key)
		wanted += key + "\t" + value + "\n"
	}
	if got := mustCall(t, "", arguments...); got != wanted {
		t.Errorf("%d bytes, want %d", len(got), len(wanted))
	}
	status, stdout, stderr := call("", "get", path, "empty", "no key", "large")
	if status != exitNotFound || !strings.Contains(stderr, `"no key"`) || !strings.HasSuffix(stdout, "xx\n") {
		t.Errorf("exit status %d, standard error %q", status, stderr)
	}
}

// A build that fails leaves the index as it was, and nothing else.
func TestFailedBuild(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "index")
	mustCall(t, "key\tvalue\n", "build", path)
	status, _, stderr := call("key\tother\nno tab\n", "build", path)
	if status != exitFailure || !strings.Contains(stderr, "line 2 has no tab") {
		t.Errorf("exit status %d, standard error %q", status, stderr)
	}
	if got := mustCall(t, "", "get", path, "key"); got != "key\tvalue\n" {
		t.Errorf("%q", got)
	}
	if left, err := os.ReadDir(directory); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A set that was cut off by a power cut leaves the old value or the new one: at each point up to the
// flush of the record, whatever is left of the record; and after it, with any part of the cell.
func TestPowerCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index")
	mustCall(t, "key\tzeroth\nother\tstays\n", "-slots", "1", "build", path)
	mustCall(t, "", "set", path, "key", "old")
	before := read(t, path)
	mustCall(t, "", "set", path, "key", "new")
	after := read(t, path)

	check := func(what string, contents []byte, allowed ...string) {
		t.Helper()
		if err := os.WriteFile(path, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		err := with(path, os.O_RDWR, func(file absfs.File) error {
			index, err := open(file)
			if err != nil {
				return err
			}
			for key, allowed := range map[string][]string{"key": allowed, "other": {"stays"}} {
				value, found, err := index.get([]byte(key))
				if err != nil || !found || !strings.Contains(strings.Join(allowed, " "), string(value)) {
					t.Errorf("%s: %s is %q, %v, %v", what, key, value, found, err)
				}
			}
			// The next set has to work on what is left.
			if err := index.set([]byte("key"), []byte("next"), true); err != nil {
				return err
			}
			if value, _, err := index.get([]byte("key")); string(value) != "next" || err != nil {
				t.Errorf("%s: after a set: %q, %v", what, value, err)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for end := len(before); end <= len(after); end++ {
		cut := append(bytes.Clone(before), after[len(before):end]...)
		check(fmt.Sprintf("%d bytes of the record", end-len(before)), cut, "old")
		clear(cut[len(before):]) // the size arrived, the bytes did not
		check(fmt.Sprintf("%d zeros for the record", end-len(before)), cut, "old")
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		torn := bytes.Clone(after)
		for offset := headerSize; offset < headerSize+2*cellSize; offset++ {
			if random.IntN(2) == 0 {
				torn[offset] = before[offset]
			}
		}
		check("part of the cell", torn, "old", "new")
	}
	check("the whole", after, "new")
}

// recorded notes the order of writes and flushes.
type recorded struct {
	absfs.File
	calls []string
}

func (r *recorded) WriteAt(p []byte, off int64) (int, error) {
	what := "record"
	if off < headerSize+2*cellSize {
		what = "cell"
	}
	r.calls = append(r.calls, what)
	return r.File.WriteAt(p, off)
}

func (r *recorded) Sync() error {
	r.calls = append(r.calls, "sync")
	return r.File.Sync()
}

// TestPowerCut holds because of this order.
func TestOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index")
	mustCall(t, "", "-slots", "1", "build", path)
	err := with(path, os.O_RDWR, func(file absfs.File) error {
		recorded := &recorded{File: file}
		index, err := open(recorded)
		if err != nil {
			return err
		}
		err = index.set([]byte("key"), []byte("value"), true)
		if got := strings.Join(recorded.calls, " "); got != "record sync cell sync" {
			t.Error(got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	contents, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return contents
}

// writerVariable makes the test's program, started again, set keys in the index it names, until it is
// killed.
const writerVariable = "KVINDEX_TEST_WRITER"

const writtenKeys = 50

func TestMain(m *testing.M) {
	path := os.Getenv(writerVariable)
	if path == "" {
		os.Exit(m.Run())
	}
	err := with(path, os.O_RDWR, func(file absfs.File) error {
		index, err := open(file)
		for number := 1; err == nil; number++ {
			key := fmt.Sprintf("key %d", number%writtenKeys)
			if err = index.set([]byte(key), []byte(strconv.Itoa(number)), true); err == nil {
				fmt.Println(number)
			}
		}
		return err
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A process that is killed in the middle of a set leaves the values of the sets that have returned, and
// of the one under way the old or the new one. Readers in the meantime see no less.
func TestKilled(t *testing.T) {
	if runtime.GOOS == "js" || runtime.GOOS == "wasip1" {
		t.Skip("this system cannot start processes")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 10 {
		path := filepath.Join(t.TempDir(), "index")
		mustCall(t, "", "-slots", "8", "build", path)
		writer := exec.Command(program)
		writer.Env = append(os.Environ(), writerVariable+"="+path)
		output, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		returned, enough := 0, 1+random.IntN(300)
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if returned, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if returned == enough {
				checkWritten(t, path, returned, 1<<30) // the writer goes on meanwhile
				if err := writer.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := writer.Wait(); err == nil || returned < enough {
			t.Fatalf("round %d: the writer has ended by itself after %d sets: %v", round, returned, err)
		}
		checkWritten(t, path, returned, returned+1)
	}
}

// checkWritten demands of each key the last value of the first least sets, or a later one of the first
// most.
func checkWritten(t *testing.T, path string, least, most int) {
	t.Helper()
	err := with(path, os.O_RDONLY, func(file absfs.File) error {
		index, err := open(file)
		if err != nil {
			return err
		}
		for key := range writtenKeys {
			value, found, err := index.get(fmt.Appendf(nil, "key %d", key))
			if err != nil {
				return err
			}
			last := least - (least-key+writtenKeys)%writtenKeys // the last number set, if above 0
			number := 0
			if found {
				if number, err = strconv.Atoi(string(value)); err != nil {
					return err
				}
			}
			if number < last || number > most || found && number%writtenKeys != key {
				t.Errorf("key %d is %d; sets up to %d have returned", key, number, least)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// What is damaged is an error and not another value.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index")
	mustCall(t, "key\tvalue\n", "-slots", "1", "build", path)
	whole := read(t, path)
	for offset := range whole {
		contents := bytes.Clone(whole)
		contents[offset] ^= 0x40
		if err := os.WriteFile(path, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		if status, stdout, _ := call("", "get", path, "key"); status == 0 && stdout != "key\tvalue\n" {
			t.Errorf("with byte %d changed: %q", offset, stdout)
		}
	}
	for _, size := range []int{0, 3, headerSize, headerSize + cellSize, len(whole) - 1} {
		if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, stderr := call("", "get", path, "key"); status != exitFailure || !strings.HasPrefix(stderr, "kvindex: "+path) {
			t.Errorf("with %d bytes: exit status %d, standard error %q", size, status, stderr)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, arguments := range [][]string{
		{}, {"build"}, {"get", "index"}, {"set", "index", "key"}, {"-slots", "0", "build", "index"}, {"-unknown"},
	} {
		status, stdout, stderr := call("", arguments...)
		if status != exitFailure || stdout != "" || !strings.Contains(stderr, "usage: kvindex") {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", arguments, status, stdout, stderr)
		}
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if status, _, stderr := call("", "get", missing, "key"); status != exitFailure || !strings.Contains(stderr, missing) {
		t.Errorf("exit status %d, standard error %q", status, stderr)
	}
}
