package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// makeArchive writes an archive with files of both kinds, and returns their contents.
func makeArchive(t *testing.T) (path string, files map[string][]byte) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	files = map[string][]byte{
		"stored.bin":          noise,
		"empty":               {},
		"directory/page.html": []byte("<h1>A page</h1>"),
		"directory/log.txt":   bytes.Repeat([]byte("a line that can be compressed\n"), 100_000),
	}
	path = filepath.Join(t.TempDir(), "archive.zip")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	for name, contents := range files {
		method := zip.Store
		if name == "directory/log.txt" {
			method = zip.Deflate
		}
		writer, err := archive.CreateHeader(&zip.FileHeader{Name: name, Method: method, Modified: time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write(contents); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path, files
}

// Whole files, ranges, directories and what is missing are answered as http.FileServer does it
// for plain files.
func TestAnswers(t *testing.T) {
	path, files := makeArchive(t)
	archive, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	handler := http.FileServer(http.FS(archive))
	get := func(name, header string) *httptest.ResponseRecorder {
		request := httptest.NewRequest(http.MethodGet, "/"+name, nil)
		if header != "" {
			request.Header.Set("Range", header)
		}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		return answer
	}
	random := rand.New(rand.NewPCG(3, 4))
	for name, contents := range files {
		answer := get(name, "")
		if answer.Code != http.StatusOK || !bytes.Equal(answer.Body.Bytes(), contents) {
			t.Errorf("%s: status %d, %d bytes", name, answer.Code, answer.Body.Len())
		}
		if got := answer.Header().Get("Last-Modified"); got != "Sat, 01 Mar 2025 00:00:00 GMT" {
			t.Errorf("%s: last modified %q", name, got)
		}
		for range 20 {
			if len(contents) == 0 {
				break
			}
			first := random.IntN(len(contents))
			last := first + random.IntN(len(contents)-first)
			answer := get(name, fmt.Sprintf("bytes=%d-%d", first, last))
			if answer.Code != http.StatusPartialContent || !bytes.Equal(answer.Body.Bytes(), contents[first:last+1]) {
				t.Errorf("%s from %d to %d: status %d, %d bytes", name, first, last, answer.Code, answer.Body.Len())
			}
		}
		if answer := get(name, fmt.Sprintf("bytes=%d-", len(contents)+1)); len(contents) > 0 && answer.Code != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("%s past its end: status %d", name, answer.Code)
		}
	}
	// Two ranges, the second one before the first: what is compressed is begun again.
	answer := get("directory/log.txt", "bytes=3000-3003,2-5")
	if body := answer.Body.String(); answer.Code != http.StatusPartialContent || !strings.Contains(body, "\r\n\r\na li\r\n") || !strings.Contains(body, "\r\n\r\nline\r\n") {
		t.Errorf("two ranges: status %d, %q", answer.Code, body)
	}
	if answer := get("directory/", ""); !strings.Contains(answer.Body.String(), "page.html") {
		t.Errorf("directory: status %d, %q", answer.Code, answer.Body)
	}
	if answer := get("missing", ""); answer.Code != http.StatusNotFound {
		t.Errorf("missing: status %d", answer.Code)
	}
}

// A range of a stored file is read without what lies before it.
func TestStoredRangeIsRead(t *testing.T) {
	path, files := makeArchive(t)
	archive, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	counted := &countingReader{ReaderAt: archive.contents}
	archive.contents = counted
	request := httptest.NewRequest(http.MethodGet, "/stored.bin", nil)
	request.Header.Set("Range", "bytes=3000000-3000099")
	answer := httptest.NewRecorder()
	http.FileServer(http.FS(archive)).ServeHTTP(answer, request)
	if !bytes.Equal(answer.Body.Bytes(), files["stored.bin"][3000000:3000100]) || counted.bytes == 0 || counted.bytes > 2000 {
		t.Errorf("%d bytes answered, %d read", answer.Body.Len(), counted.bytes)
	}
}

type countingReader struct {
	io.ReaderAt
	bytes int
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.bytes += n
	return n, err
}

// needNetwork skips the test on a system without a network.
func needNetwork(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "js" || runtime.GOOS == "wasip1" {
		t.Skip("this system has no network")
	}
}

// The program serves over TCP and ends when it is interrupted.
func TestServe(t *testing.T) {
	needNetwork(t)
	path, files := makeArchive(t)
	interrupted, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	reader, writer := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		defer writer.Close()
		ended <- run(interrupted, []string{"-listen", "127.0.0.1:0", path}, writer, &stderr)
	}()
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		t.Fatal(err, stderr.String())
	}
	_, url, _ := strings.Cut(strings.TrimSpace(line), " at ")
	response, err := http.Get(url + "stored.bin")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Equal(body, files["stored.bin"]) || !strings.HasPrefix(line, "4 files of ") {
		t.Errorf("%q: %d bytes, %v", line, len(body), err)
	}
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	interrupt()
	if status := <-ended; status != 0 || stderr.Len() > 0 {
		t.Errorf("exit status %d, standard error %q", status, &stderr)
	}
}

func TestUsage(t *testing.T) {
	notAnArchive := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(notAnArchive, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		arguments []string
		status    int
		says      string
	}{
		{nil, exitUsage, "usage: zipserve"},
		{[]string{"one", "two"}, exitUsage, "usage: zipserve"},
		{[]string{"-help"}, 0, "usage: zipserve"},
		{[]string{"-unknown"}, exitUsage, "usage: zipserve"},
		{[]string{notAnArchive + ".missing"}, exitFailure, "zipserve: "},
		{[]string{notAnArchive}, exitFailure, "zipserve: " + notAnArchive},
	} {
		var stdout, stderr bytes.Buffer
		status := run(context.Background(), test.arguments, &stdout, &stderr)
		if status != test.status || stdout.Len() > 0 || !strings.Contains(stderr.String(), test.says) {
			t.Errorf("%q: exit status %d, standard output %q, standard error %q", test.arguments, status, &stdout, &stderr)
		}
	}
}
