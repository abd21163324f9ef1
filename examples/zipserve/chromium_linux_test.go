package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// browser is a Chromium that is driven through pipes, by the DevTools protocol: messages of JSON,
// with a zero byte after each.
type browser struct {
	t       *testing.T
	write   *os.File
	read    *bufio.Reader
	sent    int
	session string // of its one page
}

// startBrowser starts Chromium with no network but loopback. It skips the test where there is
// none.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no Chromium: ", err)
	}
	commandsRead, commandsWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answersRead, answersWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
		"--user-data-dir="+t.TempDir(), "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank")
	command.ExtraFiles = []*os.File{commandsRead, answersWrite} // 3 and 4
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	commandsRead.Close()
	answersWrite.Close()
	b := &browser{t: t, write: commandsWrite, read: bufio.NewReader(answersRead)}
	hang := time.AfterFunc(time.Minute, func() { command.Process.Kill() })
	t.Cleanup(func() {
		b.session = ""
		b.call("Browser.close", nil, nil)
		command.Wait()
		hang.Stop()
		commandsWrite.Close()
		answersRead.Close()
	})
	var targets struct {
		TargetInfos []struct{ TargetID, Type string }
	}
	var attached struct{ SessionID string }
	b.call("Target.getTargets", nil, &targets)
	for _, target := range targets.TargetInfos {
		if target.Type == "page" {
			b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
		}
	}
	if b.session = attached.SessionID; b.session == "" {
		t.Skip("Chromium does not start here")
	}
	return b
}

// call calls a method and stores its result.
func (b *browser) call(method string, parameters, result any) {
	b.t.Helper()
	b.sent++
	message := map[string]any{"id": b.sent, "method": method}
	if parameters != nil {
		message["params"] = parameters
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.write.Write(append(text, 0)); err != nil {
		return
	}
	for {
		text, err := b.read.ReadBytes(0)
		if err != nil {
			return // it has ended
		}
		var answer struct {
			ID     int
			Error  *struct{ Message string }
			Result json.RawMessage
		}
		if err := json.Unmarshal(text[:len(text)-1], &answer); err != nil {
			b.t.Fatal(err)
		}
		if answer.ID != b.sent {
			continue // an event
		}
		if answer.Error != nil {
			b.t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
		return
	}
}

// evaluate returns the value of an expression in the page, which is a text.
func (b *browser) evaluate(expression string) string {
	b.t.Helper()
	var answer struct {
		Result struct{ Value string }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression}, &answer)
	return answer.Result.Value
}

// wait waits until the value of an expression is wanted.
func (b *browser) wait(expression, wanted string) {
	b.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for got := ""; ; time.Sleep(10 * time.Millisecond) {
		if got = b.evaluate(expression); got == wanted {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s is %q, want %q; the page is\n%s", expression, got, wanted, b.evaluate("document.querySelector('main').innerText"))
		}
	}
}

// In a browser without a network the page shows the numbers, they rise with the load, and it says
// when the server is gone.
func TestPageInBrowser(t *testing.T) {
	b := startBrowser(t)
	path, _ := makeArchive(t)
	archive, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	server := httptest.NewServer((&service{archive: archive, interval: 20 * time.Millisecond}).handler(true))
	defer server.Close()

	text := func(id, class string) string {
		return fmt.Sprintf("document.querySelector('#%s .%s')?.textContent", id, class)
	}
	b.call("Page.navigate", map[string]any{"url": server.URL + "/debug/stats"}, nil)
	b.wait("document.getElementById('state').className", "live")
	b.wait(text("zipserve-requests", "value"), "0")
	b.wait(text("memmapfs-filesOpen", "value"), "1")
	for range 25 {
		response, err := http.Get(server.URL + "/stored.bin")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	b.wait(text("zipserve-requests", "value"), "25")
	b.wait(text("zipserve-requests", "since"), "+25")
	b.wait(text("zipserve-bytes", "since")+"?.startsWith('+') ? 'risen' : ''", "risen")
	b.wait("["+text("memmapfs-readsCold", "since")+","+text("memmapfs-readsUnmapped", "since")+"].join('').startsWith('+') ? 'risen' : ''", "risen")
	b.wait("document.querySelector('#zipserve-requests polyline').points.length > 1 ? 'drawn' : ''", "drawn")

	loaded := b.evaluate("performance.getEntriesByType('resource').map(entry => entry.name).join(' ')")
	for _, url := range strings.Fields(loaded) {
		if !strings.HasPrefix(url, server.URL) {
			t.Errorf("the page has loaded %s", url)
		}
	}
	server.CloseClientConnections()
	server.Listener.Close()
	b.wait("document.getElementById('state').className", "")
}
