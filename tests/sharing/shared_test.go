package sharing_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/absfs/memmapfs"
	"github.com/absfs/memmapfs/internal/testkit"
)

// Catches arguments that are taken without a look, errors that nobody can tell apart, and files and
// directories that a failed call leaves behind.
func TestSharedErrors(t *testing.T) {
	dir := testkit.TestDir(t)
	region := filepath.Join(dir, "new", "directory", "region")
	empty := filepath.Join(dir, "empty")
	sub := filepath.Join(dir, "sub")
	file := filepath.Join(dir, "file")
	for _, err := range []error{
		os.WriteFile(empty, nil, 0o600), os.Mkdir(sub, 0o700), os.WriteFile(file, []byte("content"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	valid := memmapfs.SharedMemoryConfig{Path: region, Size: 100}
	with := func(change func(config *memmapfs.SharedMemoryConfig)) func() (*memmapfs.SharedMemory, error) {
		config := valid
		change(&config)
		return func() (*memmapfs.SharedMemory, error) { return memmapfs.CreateSharedMemory(&config) }
	}
	opened := func(path string) func() (*memmapfs.SharedMemory, error) {
		return func() (*memmapfs.SharedMemory, error) { return memmapfs.OpenSharedMemory(path, true) }
	}
	for _, test := range []struct {
		name string
		call func() (*memmapfs.SharedMemory, error)
		want error
	}{
		{"no config", func() (*memmapfs.SharedMemory, error) { return memmapfs.CreateSharedMemory(nil) }, fs.ErrInvalid},
		{"no path", with(func(c *memmapfs.SharedMemoryConfig) { c.Path = "" }), fs.ErrInvalid},
		{"no size", with(func(c *memmapfs.SharedMemoryConfig) { c.Size = 0 }), fs.ErrInvalid},
		{"a negative size", with(func(c *memmapfs.SharedMemoryConfig) { c.Size = -1 }), fs.ErrInvalid},
		{"the largest size", with(func(c *memmapfs.SharedMemoryConfig) { c.Size = math.MaxInt64 }), fs.ErrInvalid},
		{"an unknown mode", with(func(c *memmapfs.SharedMemoryConfig) { c.Mode = 99 }), fs.ErrInvalid},
		{"an unknown sync mode", with(func(c *memmapfs.SharedMemoryConfig) { c.SyncMode = -1 }), fs.ErrInvalid},
		{"a negative interval", with(func(c *memmapfs.SharedMemoryConfig) { c.SyncInterval = -1 }), fs.ErrInvalid},
		{"permissions of a directory", with(func(c *memmapfs.SharedMemoryConfig) { c.Permissions = 0o755 | fs.ModeDir }), fs.ErrInvalid},
		{"creating a directory", with(func(c *memmapfs.SharedMemoryConfig) { c.Path = sub }), syscall.EISDIR},
		{"creating below a file", with(func(c *memmapfs.SharedMemoryConfig) { c.Path = filepath.Join(file, "region") }), nil},
		{"opening without a path", opened(""), fs.ErrInvalid},
		{"opening what is not there", opened(region), fs.ErrNotExist},
		{"opening an empty file", opened(empty), memmapfs.ErrNotMapped},
		{"opening a directory", opened(sub), syscall.EISDIR},
		{"reading a directory", func() (*memmapfs.SharedMemory, error) { return memmapfs.OpenSharedMemory(sub, false) }, syscall.EISDIR},
	} {
		shared, err := test.call()
		var path *fs.PathError
		if shared != nil || !errors.As(err, &path) || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %T %v, want a *fs.PathError for %v", test.name, err, err, test.want)
		}
	}
	for _, name := range []string{empty, file} {
		if info, err := os.Stat(name); err != nil || info.Size() > 7 {
			t.Errorf("%s: %v", name, err)
		}
	}
	testkit.MustHold(t, dir, "empty", "file", "sub")
}

// Catches a system without maps that leaves a file or a grown one behind.
func TestSharedWithoutMaps(t *testing.T) {
	if testkit.Mappable() {
		return // TestSharedErrors and the tests with a full disk see to it there
	}
	dir := testkit.TestDir(t)
	existing := filepath.Join(dir, "existing")
	if err := os.WriteFile(existing, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{existing, filepath.Join(dir, "new", "region")} {
		_, err := memmapfs.CreateSharedMemory(&memmapfs.SharedMemoryConfig{Path: path, Size: 100})
		if !errors.Is(err, memmapfs.ErrNotMapped) {
			t.Errorf("%s: %v, want ErrNotMapped", path, err)
		}
	}
	if info, err := os.Stat(existing); err != nil || info.Size() != 7 {
		t.Errorf("the existing file: %v %v", info, err)
	}
	testkit.MustHold(t, dir, "existing")
}

// Catches a region of a larger file that maps all of it, or less than its size: windows are rounded.
func TestSharedPartOfFile(t *testing.T) {
	for _, size := range []int64{1, testkit.PageSize, testkit.PageSize + 1, 2<<20 - 1, 2 << 20, 2<<20 + 1, 5<<20 + 3} {
		region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: size, SyncMode: memmapfs.SyncNever})
		if err := os.Truncate(region.Path(), 1<<32); err != nil {
			t.Fatal(err)
		}
		part := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: region.Path(), Size: size, SyncMode: memmapfs.SyncNever})
		if data := part.Data(); int64(len(data)) != size || int64(cap(data)) != size {
			t.Errorf("%d bytes with room for %d, want %d", len(data), cap(data), size)
		}
		part.Data()[size-1] = 7
		if region.Data()[size-1] != 7 {
			t.Errorf("the last of %d bytes is not shared", size)
		}
		if whole := int64(len(part.MappedFile().Data())); whole > size+4<<20 {
			t.Errorf("%d bytes are mapped for a region of %d", whole, size)
		}
		if info, err := part.MappedFile().Stat(); err != nil || info.Size() != 1<<32 {
			t.Errorf("the file: %v %v", info, err)
		}
		if err := errors.Join(part.Close(), region.Close()); err != nil {
			t.Error(err)
		}
	}
}

// Catches stores of a copy-on-write region that reach the file, and a file that they are refused in.
func TestSharedCopyOnWrite(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 2 * testkit.PageSize, Mode: memmapfs.ModeCopyOnWrite})
	copy(region.Data()[testkit.PageSize-2:], "mine")
	for _, b := range testkit.ReadNative(t, region.Path()) {
		if b != 0 {
			t.Fatal("a store into a copy-on-write region has reached the file")
		}
	}
	got := make([]byte, 4)
	if _, err := region.MappedFile().ReadAt(got, testkit.PageSize-2); err != nil || string(got) != "mine" {
		t.Errorf("the region shows %q %v", got, err)
	}
}

// Catches a read-only region that can be stored to, and methods that write to it all the same.
func TestSharedReadOnly(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: testkit.PageSize, SyncMode: memmapfs.SyncNever})
	copy(region.Data(), "content")
	reader, err := memmapfs.OpenSharedMemory(region.Path(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	faults := func(store func()) (fault any) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() { fault = recover() }()
		store()
		return nil
	}
	counter, err := reader.Uint64(8)
	if err != nil {
		t.Fatal(err)
	}
	for name, store := range map[string]func(){
		"Data":         func() { reader.Data()[0] = 'x' },
		"atomic value": func() { counter.Store(1) },
	} {
		if testkit.RaceDetector && name == "atomic value" {
			continue // the store is then C code, in which no fault can be caught
		}
		if fault := faults(store); fault == nil {
			t.Errorf("a store by %s went well in a read-only region", name)
		}
	}
	if got := counter.Load(); got != 0 {
		t.Errorf("the atomic value is %d", got)
	}
	mapped := reader.MappedFile()
	for name, write := range map[string]func() error{
		"Write":       func() error { _, err := mapped.Write([]byte("x")); return err },
		"WriteAt":     func() error { _, err := mapped.WriteAt([]byte("x"), 0); return err },
		"WriteString": func() error { _, err := mapped.WriteString("x"); return err },
		"Truncate":    func() error { return mapped.Truncate(1) },
	} {
		if err := write(); !errors.Is(err, memmapfs.ErrWriteToReadOnlyMap) {
			t.Errorf("%s of a read-only region: %v, want ErrWriteToReadOnlyMap", name, err)
		}
	}
	if got := string(reader.Data()[:7]); got != "content" {
		t.Errorf("the region holds %q", got)
	}
	if err := errors.Join(reader.Lock(), reader.Unlock()); err != nil {
		t.Errorf("Lock and Unlock of a read-only region: %v", err)
	}
	if err := reader.Sync(); err != nil && runtime.GOOS != "windows" {
		t.Errorf("Sync of a read-only region: %v", err)
	}
}

// Catches atomic values outside the region, across its end, or where a processor cannot have them.
func TestSharedAtomics(t *testing.T) {
	const size = 21
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: size, SyncMode: memmapfs.SyncNever})
	start := uintptr(unsafe.Pointer(unsafe.SliceData(region.Data())))
	for off := int64(-9); off < size+9; off++ {
		narrow, narrowErr := region.Uint32(off)
		wide, wideErr := region.Uint64(off)
		for _, value := range []struct {
			name    string
			address unsafe.Pointer
			err     error
			valid   bool
		}{
			{"Uint32", unsafe.Pointer(narrow), narrowErr, off >= 0 && off+4 <= size && off%4 == 0},
			{"Uint64", unsafe.Pointer(wide), wideErr, off >= 0 && off+8 <= size && off%8 == 0},
		} {
			switch {
			case value.valid && (value.err != nil || uintptr(value.address) != start+uintptr(off)):
				t.Errorf("%s(%d): %#x %v, want %#x", value.name, off, value.address, value.err, start+uintptr(off))
			case !value.valid && (!errors.Is(value.err, memmapfs.ErrInvalidOffset) || value.address != nil):
				t.Errorf("%s(%d): %v %v, want ErrInvalidOffset", value.name, off, value.address, value.err)
			}
		}
	}
	for _, off := range []int64{math.MaxInt64, math.MinInt64, math.MaxInt64 - 7} {
		if _, err := region.Uint64(off); !errors.Is(err, memmapfs.ErrInvalidOffset) {
			t.Errorf("Uint64(%d): %v, want ErrInvalidOffset", off, err)
		}
	}
}

// Catches methods that work, crash or hang after Close.
func TestSharedClosed(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: testkit.PageSize})
	path := region.Path()
	if err := errors.Join(region.Lock(), region.Close()); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Close":    region.Close,
		"Sync":     region.Sync,
		"Lock":     region.Lock,
		"RLock":    region.RLock,
		"TryLock":  func() error { _, err := region.TryLock(); return err },
		"TryRLock": func() error { _, err := region.TryRLock(); return err },
		"Unlock":   region.Unlock,
		"Uint32":   func() error { _, err := region.Uint32(0); return err },
		"Uint64":   func() error { _, err := region.Uint64(0); return err },
	} {
		err := call()
		testkit.CheckPathError(t, name, err, path)
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v, want fs.ErrClosed", name, err)
		}
	}
	if region.Data() != nil || region.Size() != testkit.PageSize || region.Path() != path {
		t.Errorf("after Close: %d bytes of data, size %d, path %q", len(region.Data()), region.Size(), region.Path())
	}
	again := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: path, Size: testkit.PageSize})
	if locked, err := again.TryLock(); !locked || err != nil {
		t.Errorf("TryLock after the holder's Close: %v %v", locked, err)
	}
	if err := errors.Join(again.Remove(), os.RemoveAll(path)); err != nil {
		t.Error(err)
	}
	if err := region.Remove(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove of what is gone: %v, want fs.ErrNotExist", err)
	}
}

// Catches a Data that hands out bytes of a map that Truncate has taken away.
func TestSharedTruncated(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: testkit.PageSize})
	if err := region.MappedFile().Truncate(10); err != nil {
		t.Fatal(err)
	}
	if data := region.Data(); data != nil {
		t.Errorf("Data has %d bytes after Truncate", len(data))
	}
}

// Catches a lock that does not keep goroutines apart that use one handle, or handles of one process.
func TestSharedLockInProcess(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 100, SyncMode: memmapfs.SyncNever})
	other := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: region.Path(), Size: 100, SyncMode: memmapfs.SyncNever})
	const times = 300
	var inside, most atomic.Int32
	var work sync.WaitGroup
	counts := make(map[*memmapfs.SharedMemory]*int) // by handle: the race detector knows of no lock of the system
	for i, handle := range []*memmapfs.SharedMemory{region, other, region, other} {
		if i < 2 {
			counts[handle] = new(int)
		}
		count, counter := counts[handle], handle.Data()
		work.Add(2)
		go func() {
			defer work.Done()
			for range times {
				if err := handle.Lock(); err != nil {
					t.Error(err)
					return
				}
				*count++
				value := int(counter[0]) | int(counter[1])<<8
				value++
				counter[0], counter[1] = byte(value), byte(value>>8)
				if n := inside.Load(); n != 0 {
					t.Errorf("%d are reading while one writes", n)
				}
				if err := handle.Unlock(); err != nil {
					t.Error(err)
				}
			}
		}()
		go func() {
			defer work.Done()
			for range times {
				if err := handle.RLock(); err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				_ = *count
				inside.Add(-1)
				if err := handle.Unlock(); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	testkit.MustFinish(t, "locking", work.Wait)
	for _, count := range counts {
		if *count != 2*times {
			t.Errorf("counted %d by one handle, want %d", *count, 2*times)
		}
	}
	if got := int(region.Data()[0]) | int(region.Data()[1])<<8; got != 4*times {
		t.Errorf("counted %d by both handles, want %d", got, 4*times)
	}
	if err := region.Unlock(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Unlock of a lock that is not held: %v, want fs.ErrInvalid", err)
	}
}

// Catches readers that keep each other out, and one Unlock that undoes several locks.
func TestSharedLockReaders(t *testing.T) {
	region := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 100, SyncMode: memmapfs.SyncNever})
	other := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: region.Path(), Size: 100, SyncMode: memmapfs.SyncNever})
	try := func(what string, call func() (bool, error), want bool) {
		t.Helper()
		if got, err := call(); got != want || err != nil {
			t.Errorf("%s: %v %v, want %v", what, got, err, want)
		}
	}
	try("the first reader", region.TryRLock, true)
	try("a second reader by the same handle", region.TryRLock, true)
	try("a reader by another handle", other.TryRLock, true)
	try("a writer beside readers", region.TryLock, false)
	if err := errors.Join(other.Unlock(), region.Unlock()); err != nil {
		t.Fatal(err)
	}
	try("a writer beside the last reader of another handle", other.TryLock, false)
	try("a writer beside the last reader of its own handle", region.TryLock, false)
	if err := region.Unlock(); err != nil {
		t.Fatal(err)
	}
	try("a writer alone", region.TryLock, true)
	try("a second writer by the same handle", region.TryLock, false)
	try("a reader by the writer's handle", region.TryRLock, false)
	try("a reader by another handle", other.TryRLock, false)
	if err := region.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := region.Unlock(); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("one Unlock too many: %v, want fs.ErrInvalid", err)
	}
	try("the other handle in the end", other.TryLock, true)
}

// Catches a Close that leaves a waiting Lock waiting, waits for it, or lets it have the lock later on.
func TestSharedCloseWhileLockWaits(t *testing.T) {
	holder := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Size: 100, SyncMode: memmapfs.SyncNever})
	waiting := testkit.CreateRegion(t, memmapfs.SharedMemoryConfig{Path: holder.Path(), Size: 100, SyncMode: memmapfs.SyncNever})
	if err := holder.RLock(); err != nil {
		t.Fatal(err)
	}
	// One waits for the other handle, the others for the one.
	ended := make(chan error)
	for range 3 {
		go func() { ended <- waiting.Lock() }()
	}
	// As long as none waits, TryRLock is granted beside the holder's RLock.
	if !testkit.Eventually(func() bool {
		locked, err := waiting.TryRLock()
		if locked {
			err = waiting.Unlock()
		}
		if err != nil {
			t.Fatal(err)
		}
		return !locked
	}) {
		t.Fatal("Lock does not wait")
	}
	testkit.MustFinish(t, "Close while Lock waits", func() {
		if err := waiting.Close(); err != nil {
			t.Error(err)
		}
		for range 3 {
			if err := <-ended; !errors.Is(err, fs.ErrClosed) {
				t.Errorf("Lock when its handle is closed: %v, want fs.ErrClosed", err)
			}
		}
	})
	if err := holder.Unlock(); err != nil {
		t.Fatal(err)
	}
	// What waits in the system still gets the lock, and gives it back.
	testkit.MustFinish(t, "Lock after a waiting handle was closed", func() {
		if err := errors.Join(holder.Lock(), holder.Unlock()); err != nil {
			t.Error(err)
		}
	})
}
