// Zipserve serves the files in a zip archive over HTTP, without unpacking it.
//
// Files that are stored without compression are served straight from the mapped archive: a
// request for a range reads that range and nothing else, and nothing checks their checksum.
// Files that are compressed are decompressed for each request up to the end of the range,
// because that is the only way to it.
//
// What MemMapFS.Stats counts is published by expvar at /debug/vars, and shown as it moves at
// /debug/stats, a page that needs no other server.
package main

import (
	"archive/zip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(interrupted, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It serves until interrupted is done, and
// returns the exit status.
func run(interrupted context.Context, arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("zipserve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: zipserve [flags] ARCHIVE\n\nIt serves the files in ARCHIVE until it is interrupted.\n\n")
		flags.PrintDefaults()
	}
	listen := flags.String("listen", "127.0.0.1:8080", "serve at this `HOST:PORT`")
	stats := flags.Bool("stats", true, "serve numbers to everybody too: a page at /debug/stats, and expvar's /debug/vars")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return exitUsage
	}
	if err := serve(interrupted, flags.Arg(0), *listen, *stats, stdout); err != nil {
		fmt.Fprintln(stderr, "zipserve:", err)
		return exitFailure
	}
	return 0
}

// serve serves the archive at path, and with stats the numbers, until interrupted is done.
func serve(interrupted context.Context, path, address string, stats bool, stdout io.Writer) error {
	archive, err := open(path)
	if err != nil {
		return err
	}
	defer archive.Close()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%d files of %s at http://%s/\n", len(archive.members), path, listener.Addr())
	if stats {
		text += fmt.Sprintf("numbers at http://%s/debug/stats\n", listener.Addr())
	}
	fmt.Fprint(stdout, text)

	service := &service{archive: archive, interval: 400 * time.Millisecond}
	server := &http.Server{
		Handler:           service.handler(stats),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return interrupted }, // ends what has no end
	}
	stopped := make(chan error, 1)
	go func() {
		<-interrupted.Done()
		patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(patience) // lets the answers under way end
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// archive is a zip archive as a filesystem whose files can seek, as http.FileServer needs it.
type archive struct {
	filesystem *memmapfs.MemMapFS
	file       fs.File
	contents   io.ReaderAt
	directory  *zip.Reader
	members    map[string]*zip.File
}

// open opens the archive at path.
func open(path string) (_ *archive, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	base, err := osfs.NewFS()
	if err != nil {
		return nil, err
	}
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	defer func() {
		if err != nil {
			filesystem.Close()
		}
	}()
	// What is asked for by way of io/fs is mapped as well.
	files, err := filesystem.Sub(osfs.FromNative(filepath.Dir(path)))
	if err != nil {
		return nil, err
	}
	file, err := files.Open(filepath.Base(path))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	contents := file.(*memmapfs.MappedFile) // what memmapfs opens always is one
	directory, err := zip.NewReader(contents, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	members := make(map[string]*zip.File)
	for _, member := range directory.File {
		if !member.FileInfo().IsDir() {
			members[member.Name] = member
		}
	}
	return &archive{filesystem, file, contents, directory, members}, nil
}

func (a *archive) Close() error { return errors.Join(a.file.Close(), a.filesystem.Close()) }

// Open opens a file or a directory of the archive.
func (a *archive) Open(name string) (fs.File, error) {
	opened, err := a.directory.Open(name)
	member := a.members[name]
	if err != nil || member == nil { // a directory
		return opened, err
	}
	if member.Method == zip.Store {
		start, err := member.DataOffset()
		if err != nil {
			return nil, errors.Join(err, opened.Close())
		}
		return &seekable{opened, io.NewSectionReader(a.contents, start, int64(member.UncompressedSize64))}, nil
	}
	return &seekable{opened, &unpacker{member: member, unpacked: opened}}, nil
}

// seekable is a file of the archive that reads and seeks by other means.
type seekable struct {
	fs.File
	io.ReadSeeker
}

func (s *seekable) Read(p []byte) (int, error) { return s.ReadSeeker.Read(p) }

func (s *seekable) Close() error {
	if unpacker, ok := s.ReadSeeker.(*unpacker); ok {
		return unpacker.unpacked.Close()
	}
	return s.File.Close()
}

// unpacker seeks in a compressed file: forwards by decompressing what lies between, backwards by
// beginning again.
type unpacker struct {
	member   *zip.File
	unpacked io.ReadCloser // what it decompresses, which is at offset at
	at       int64
	position int64 // of the next Read
}

func (u *unpacker) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += u.position
	case io.SeekEnd:
		offset += int64(u.member.UncompressedSize64)
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	u.position = offset
	return offset, nil
}

func (u *unpacker) Read(p []byte) (int, error) {
	if u.position < u.at {
		again, err := u.member.Open()
		if err != nil {
			return 0, err
		}
		u.unpacked.Close()
		u.unpacked, u.at = again, 0
	}
	skipped, err := io.CopyN(io.Discard, u.unpacked, u.position-u.at)
	u.at += skipped
	if err != nil {
		return 0, err
	}
	n, err := u.unpacked.Read(p)
	u.at += int64(n)
	u.position = u.at
	return n, err
}
