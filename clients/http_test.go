package clients_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/absfs/absfs"
)

// files is the filesystem that a server serves: dir, by way of io/fs.
func files(t *testing.T, fileSystem absfs.FileSystem, dir string) fs.FS {
	t.Helper()
	sub, err := fileSystem.Sub(dir)
	must(t, err)
	return sub
}

// ask sends a request and reports the answer.
func ask(t *testing.T, url, method string, header ...string) (found report) {
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Error(err)
		return nil
	}
	request.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer response.Body.Close()
	found.add("%s %s %q: %s, %d bytes", method, request.URL.Path, header, response.Status, response.ContentLength)
	for _, name := range []string{"Accept-Ranges", "Content-Range", "Last-Modified"} {
		found.add("%s: %s", name, response.Header.Get(name))
	}
	kind, parameters, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	found.add("Content-Type: %s", kind)
	if kind != "multipart/byteranges" {
		found.addContents("body", response.Body)
		return found
	}
	for parts := multipart.NewReader(response.Body, parameters["boundary"]); ; {
		part, err := parts.NextPart()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Error(err)
			return found
		}
		found.addContents(part.Header.Get("Content-Range"), part)
	}
}

// A file server answers requests for whole files, for ranges, and for what is not there, one after the
// other and at the same time.
func TestFileServer(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "directory"), 0o755))
	for name, data := range map[string][]byte{
		"large.bin": noise(5*mebibyte + 123), "page.html": []byte("<p>page</p>"), "empty": nil, "directory/text.txt": text(2 * mebibyte),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		changed := time.Date(2025, 3, 4, 5, 6, 7, 0, time.UTC)
		must(t, os.Chtimes(filepath.Join(dir, name), changed, changed))
	}
	requests := [][]string{
		{"large.bin", "GET"},
		{"large.bin", "HEAD"},
		{"large.bin", "GET", "Range", "bytes=0-0"},
		{"large.bin", "GET", "Range", "bytes=1048570-1048583"},
		{"large.bin", "GET", "Range", "bytes=1000000-4200000"},
		{"large.bin", "GET", "Range", "bytes=-1"},
		{"large.bin", "GET", "Range", "bytes=5000000-"},
		{"large.bin", "GET", "Range", "bytes=5243002-9999999"},
		{"large.bin", "GET", "Range", "bytes=5243003-"},
		{"large.bin", "GET", "Range", "bytes=7-3"},
		{"large.bin", "GET", "Range", "bytes=0-9,2097150-2097160,-5"},
		{"large.bin", "GET", "If-Modified-Since", "Tue, 04 Mar 2025 05:06:07 GMT"},
		{"large.bin", "GET", "Range", "bytes=5-9", "If-Range", "Tue, 04 Mar 2025 05:06:07 GMT"},
		{"large.bin", "GET", "Range", "bytes=5-9", "If-Range", "Tue, 04 Mar 2025 05:06:08 GMT"},
		{"page.html", "GET"},
		{"empty", "GET"},
		{"empty", "GET", "Range", "bytes=0-"},
		{"directory/text.txt", "GET", "Range", "bytes=1048500-1048700"},
		{"directory/", "GET"},
		{"directory", "GET"},
		{"missing", "GET"},
	}
	compareReads(t, dir, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		server := httptest.NewServer(http.FileServer(http.FS(files(t, fileSystem, dir))))
		defer server.Close()
		one := func(request []string) report {
			return ask(t, server.URL+"/"+request[0], request[1], request[2:]...)
		}
		var found report
		for _, request := range requests {
			found = append(found, one(request)...)
		}
		together := make([]report, len(requests))
		var group sync.WaitGroup
		for i, request := range requests {
			group.Add(1)
			go func() {
				defer group.Done()
				together[i] = one(request)
			}()
		}
		group.Wait()
		for _, one := range together {
			found = append(found, one...)
		}
		return found
	})
}

// One open file serves many requests: each through a reader of its own, and as a body that a client
// sends.
func TestServeContent(t *testing.T) {
	dir := t.TempDir()
	data := noise(3*mebibyte + 1)
	must(t, os.WriteFile(filepath.Join(dir, "file"), data, 0o644))
	compareReads(t, dir, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		file, size := open(t, fileSystem, path.Join(dir, "file"))
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				body, err := io.ReadAll(r.Body)
				if err != nil || !bytes.Equal(body, data) {
					http.Error(w, "another body", http.StatusBadRequest)
				}
				return
			}
			http.ServeContent(w, r, "file", time.Time{}, io.NewSectionReader(file, 0, size))
		}))
		defer server.Close()
		var found report
		source := random()
		for range 50 {
			first := source.Int64N(size)
			last := first + source.Int64N(size-first)
			found = append(found, ask(t, server.URL, "GET", "Range", fmt.Sprintf("bytes=%d-%d", first, last))...)
		}
		response, err := http.Post(server.URL, "application/octet-stream", io.NopCloser(file))
		must(t, err)
		found.addContents(response.Status, response.Body)
		must(t, response.Body.Close())
		if response.StatusCode != http.StatusOK {
			t.Error(response.Status)
		}
		return found
	})
}
