//go:build linux

package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/absfs/absfs"
	"github.com/absfs/basefs"
	"github.com/absfs/fusefs"
	"github.com/absfs/osfs"
)

// serveByFusefs is serve with the server of absfs's own fusefs, version 0.9.0. Of two requests
// for one handle at the same time it may mix up the places, so it is for small files.
func serveByFusefs(files absfs.FileSystem, directory, mountPoint string) error {
	shown, err := basefs.NewFileSystem(files, osfs.FromNative(directory))
	if err != nil {
		return err
	}
	options := fusefs.DefaultMountOptions(mountPoint)
	options.AllowOther = os.Getuid() == 0
	server, err := fusefs.Mount(shown, options)
	if err != nil {
		return fmt.Errorf("mount %s: %w", mountPoint, err)
	}
	fmt.Printf("serving %s at %s, by fusefs\n", directory, mountPoint)
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	<-interrupts
	return server.Unmount()
}
