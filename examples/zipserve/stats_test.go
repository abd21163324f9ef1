package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What is answered is counted, and published by expvar.
func TestNumbersArePublished(t *testing.T) {
	path, files := makeArchive(t)
	archive, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	handler := (&service{archive: archive, interval: time.Hour}).handler(true)
	get := func(path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		return answer
	}
	published := func() (n numbers) {
		if err := json.Unmarshal(get("/debug/vars").Body.Bytes(), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := published()
	for range 3 {
		get("/stored.bin")
	}
	after := published()
	if after.Zipserve.Requests != before.Zipserve.Requests+3 || after.Zipserve.Bytes != before.Zipserve.Bytes+3*int64(len(files["stored.bin"])) {
		t.Errorf("answers: before %+v, after %+v", before.Zipserve, after.Zipserve)
	}
	reads := func(n numbers) int64 { return n.Memmapfs.ReadsCold + n.Memmapfs.ReadsUnmapped }
	if before.Memmapfs.FilesOpen != 1 || reads(after) <= reads(before) {
		t.Errorf("memmapfs: before %+v, after %+v", before.Memmapfs, after.Memmapfs)
	}
}

// The page names no other server, and its browser would refuse to ask one.
func TestPageIsAlone(t *testing.T) {
	handler := (&service{archive: new(archive)}).handler(true)
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/debug/stats", nil))
	if answer.Code != http.StatusOK || !strings.HasPrefix(answer.Header().Get("Content-Security-Policy"), "default-src 'none';") ||
		regexp.MustCompile(`https?:|//[a-z]|@import|src=`).Match(answer.Body.Bytes()) {
		t.Errorf("status %d, header %v, page\n%s", answer.Code, answer.Header(), answer.Body)
	}
}

// Without -stats there is nothing but the archive.
func TestNoStats(t *testing.T) {
	path, _ := makeArchive(t)
	archive, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	for _, path := range []string{"/debug/vars", "/debug/stats", "/debug/stats/events"} {
		answer := httptest.NewRecorder()
		(&service{archive: archive}).handler(false).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		if answer.Code != http.StatusNotFound {
			t.Errorf("%s: status %d", path, answer.Code)
		}
	}
}

// The numbers come again and again while the server runs, and do not keep it from ending.
func TestEvents(t *testing.T) {
	needNetwork(t)
	path, _ := makeArchive(t)
	interrupted, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	reader, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		defer writer.Close()
		ended <- run(interrupted, []string{"-listen", "127.0.0.1:0", path}, writer, io.Discard)
	}()
	lines := bufio.NewReader(reader)
	lines.ReadString('\n')
	line, err := lines.ReadString('\n')
	_, url, found := strings.Cut(strings.TrimSpace(line), "numbers at ")
	if err != nil || !found {
		t.Fatal(line, err)
	}
	response, err := http.Get(url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	events := bufio.NewScanner(response.Body)
	for seen := 0; seen < 2; {
		if !events.Scan() {
			t.Fatal("the events have ended: ", events.Err())
		}
		if text, is := strings.CutPrefix(events.Text(), "data: "); is {
			var n numbers
			if err := json.Unmarshal([]byte(text), &n); err != nil || n.Memmapfs.FilesOpen != 1 {
				t.Errorf("event %q: %v", text, err)
			}
			seen++
		}
	}
	started := time.Now()
	interrupt()
	if status := <-ended; status != 0 || time.Since(started) > 4*time.Second {
		t.Errorf("exit status %d after %v", status, time.Since(started))
	}
}
