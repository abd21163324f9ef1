package main

import (
	"time"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// modes are the configurations that databases run on, after the plain files.
var modes = []struct {
	name   string
	config memmapfs.Config
}{
	{"default", *memmapfs.DefaultConfig()},
	{"windows", memmapfs.Config{SyncMode: memmapfs.SyncLazy, WindowSize: 1 << 20, MaxWindows: 4}},
	{"read-write", memmapfs.Config{Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true}},
	{"read-write windows", memmapfs.Config{Mode: memmapfs.ModeReadWrite, SyncMode: memmapfs.SyncPeriodic, SyncInterval: 20 * time.Millisecond, WindowSize: 1 << 20}},
	{"copy-on-write", memmapfs.Config{Mode: memmapfs.ModeCopyOnWrite, SyncMode: memmapfs.SyncNever, MapFullFile: true, RequireMapping: true}},
}

const plainMode = "plain"

// filesIn returns the filesystem of a mode, and how to close it.
func filesIn(mode string) (files absfs.FileSystem, closeFiles func() error, err error) {
	plain, err := osfs.NewFS()
	for _, known := range modes {
		if err == nil && known.name == mode {
			mapped := memmapfs.New(plain, &known.config)
			return mapped, mapped.Close, nil
		}
	}
	return plain, func() error { return nil }, err
}
