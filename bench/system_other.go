//go:build !linux

package main

import (
	"errors"
	"runtime"
)

// What is missing here leaves out the bare map and the cold rows.

func mapBare(path string, size int64) (data []byte, unmap func() error, err error) {
	return nil, nil, errors.ErrUnsupported
}

func dropFromCache(path string) error { return errors.ErrUnsupported }

func freeBytes(dir string) int64 { return -1 }

func availableMemory() int64 { return -1 }

func machine() (processor, kernel string) { return runtime.GOARCH, runtime.GOOS }
