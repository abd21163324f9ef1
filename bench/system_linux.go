package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mapBare maps the first size bytes of the file, as unix.Mmap does it.
func mapBare(path string, size int64) (data []byte, unmap func() error, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	data, err = unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	return data, func() error { return unix.Munmap(data) }, err
}

// dropFromCache takes the file out of the page cache, and fails if much of it stays there. Nothing
// may have it mapped.
func dropFromCache(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil { // changed pages would stay
		return err
	}
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	pages := info.Size() / int64(os.Getpagesize())
	var cached unix.Cachestat_t
	err = unix.Cachestat(uint(file.Fd()), &unix.CachestatRange{Len: uint64(info.Size())}, &cached, 0)
	if err == nil && int64(cached.Cache) > pages/100 {
		return fmt.Errorf("%d of %d pages stay in the page cache", cached.Cache, pages)
	}
	return nil
}

// systemCall makes a system call that does next to nothing.
func systemCall() error {
	unix.Getppid()
	return nil
}

// probePages asks what of a file is in the page cache.
func probePages(file *os.File) error {
	var cached unix.Cachestat_t
	err := unix.Cachestat(uint(file.Fd()), &unix.CachestatRange{Len: costMapSize}, &cached, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return nil
}

// minorFaults returns how many faults of this process so far have not waited for a disk.
func minorFaults() int64 {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return int64(usage.Minflt)
}

// freeBytes returns the space left where dir is, or -1 if that is unknown.
func freeBytes(dir string) int64 {
	var stat unix.Statfs_t
	if unix.Statfs(dir, &stat) != nil {
		return -1
	}
	return int64(stat.Bavail) * int64(stat.Bsize)
}

// availableMemory returns the bytes that can be used without swapping, or -1 if that is unknown.
func availableMemory() int64 {
	kibibytes := int64(-1)
	if _, err := fmt.Sscanf(procField("/proc/meminfo", "MemAvailable"), "%d", &kibibytes); err != nil {
		return -1
	}
	return kibibytes << 10
}

// machine names the processor and the kernel.
func machine() (processor, kernel string) {
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		kernel = "Linux " + string(bytes.TrimRight(name.Release[:], "\x00"))
	}
	return procField("/proc/cpuinfo", "model name"), kernel
}

// procField returns the first value of that name in a file of lines "name: value".
func procField(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
