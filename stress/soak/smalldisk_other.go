//go:build !linux

package main

// smallDisk would make a filesystem that is soon full.
func smallDisk() (dir, reason string) { return "", "it is made on Linux only" }
