//go:build !linux

package main

import (
	"errors"
	"os"
	"runtime"
)

// What is missing here leaves out the bare map, the cold rows and some costs.

func mapBare(path string, size int64) (data []byte, unmap func() error, err error) {
	return nil, nil, errors.ErrUnsupported
}

func dropFromCache(path string) error { return errors.ErrUnsupported }

func systemCall() error { return errors.ErrUnsupported }

func probePages(file *os.File) error { return errors.ErrUnsupported }

func minorFaults() int64 { return 0 }

func freeBytes(dir string) int64 { return -1 }

func availableMemory() int64 { return -1 }

func machine() (processor, kernel string) { return runtime.GOARCH, runtime.GOOS }
