package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"expvar"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/absfs/memmapfs"
)

// statsPage shows the numbers. It loads nothing from elsewhere.
//
//go:embed stats.html
var statsPage []byte

// service is an archive that is served, and what is counted of that.
type service struct {
	archive  *archive
	interval time.Duration // of the numbers that the page gets
	requests atomic.Int64
	bytes    atomic.Int64 // of the answers' bodies
}

// served is the service whose numbers are published.
var served atomic.Pointer[service]

// A name can be published once in a program, and for good. MemMapFS.Stats marshals to JSON as it
// is.
func init() {
	expvar.Publish("zipserve", expvar.Func(func() any {
		if s := served.Load(); s != nil {
			return s.numbers().Zipserve
		}
		return nil
	}))
	expvar.Publish("memmapfs", expvar.Func(func() any {
		if s := served.Load(); s != nil {
			return s.numbers().Memmapfs
		}
		return nil
	}))
}

// numbers is what the page gets.
type numbers struct {
	Zipserve struct {
		Requests int64 `json:"requests"`
		Bytes    int64 `json:"bytes"`
	} `json:"zipserve"`
	Memmapfs memmapfs.Stats `json:"memmapfs"`
}

func (s *service) numbers() (n numbers) {
	n.Zipserve.Requests = s.requests.Load()
	n.Zipserve.Bytes = s.bytes.Load()
	n.Memmapfs = s.archive.filesystem.Stats()
	return n
}

// handler serves the archive, and with stats the numbers below /debug/.
func (s *service) handler(stats bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.counted(http.FileServer(http.FS(s.archive))))
	if stats {
		served.Store(s)
		mux.Handle("GET /debug/vars", expvar.Handler())
		mux.HandleFunc("GET /debug/stats", s.page)
		mux.HandleFunc("GET /debug/stats/events", s.events)
	}
	return mux
}

func (s *service) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(statsPage))
}

// events sends the numbers again and again, as server-sent events, until the reader goes or the
// server ends.
func (s *service) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	connection := http.NewResponseController(w)
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	for {
		text, err := json.Marshal(s.numbers())
		if err != nil {
			return
		}
		fmt.Fprintf(w, "data: %s\n\n", text)
		if err := connection.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// counted counts what next answers.
func (s *service) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		next.ServeHTTP(&countingWriter{w, &s.bytes}, r)
	})
}

type countingWriter struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
