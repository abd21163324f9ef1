package memmapfs_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/absfs/memmapfs"
	"github.com/absfs/osfs"
)

// check stops an example at its first error. A program would return the error.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// checkHint is check for a hint. Not every system has every hint, and a program is right
// without it.
func checkHint(err error) {
	if !errors.Is(err, errors.ErrUnsupported) {
		check(err)
	}
}

// temporaryFile writes contents to a new file in a directory of its own. It
// returns the file's path, in the form that osfs uses on every system, and a
// function that removes file and directory.
func temporaryFile(contents []byte) (path string, remove func()) {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	native := filepath.Join(directory, "file")
	check(os.WriteFile(native, contents, 0o644))
	return osfs.FromNative(native), func() { check(os.RemoveAll(directory)) }
}

// The wrapped filesystem is used as before: open, read, close.
func Example() {
	directory, err := os.MkdirTemp("", "memmapfs-example")
	check(err)
	defer func() { check(os.RemoveAll(directory)) }()
	greeting := filepath.Join(directory, "greeting.txt")
	check(os.WriteFile(greeting, []byte("Hello, memory-mapped filesystem!"), 0o644))

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())

	file, err := filesystem.Open(osfs.FromNative(greeting))
	check(err)
	contents, err := io.ReadAll(file)
	check(err)
	check(file.Close())

	fmt.Printf("Read %d bytes: %s\n", len(contents), contents)
	// Output: Read 32 bytes: Hello, memory-mapped filesystem!
}

// A private copy of a file is edited in memory, and the file stays as it is. Only the pages that are
// written to take memory.
func ExampleConfig_copyOnWrite() {
	path, remove := temporaryFile([]byte("name = old\n"))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:        memmapfs.ModeCopyOnWrite,
		SyncMode:    memmapfs.SyncNever,
		MapFullFile: true,
	})
	file, err := filesystem.Open(path) // read-only is enough: nothing reaches the file
	check(err)
	_, err = file.WriteAt([]byte("new"), 7)
	check(err)
	edited, err := io.ReadAll(file)
	check(err)
	_, err = file.WriteAt([]byte("longer"), 7)
	check(file.Close())

	kept, readError := os.ReadFile(osfs.ToNative(path))
	check(readError)
	fmt.Printf("In the handle: %s", edited)
	fmt.Printf("In the file:   %s", kept)
	fmt.Println("Growth is refused:", errors.Is(err, errors.ErrUnsupported))
	// Output:
	// In the handle: name = new
	// In the file:   name = old
	// Growth is refused: true
}

// With SyncPeriodic a power cut loses no more than what was written in the last interval and during the
// flush. A flush that fails is heard of at once, and again from the next Sync or Close.
func ExampleConfig_durability() {
	path, remove := temporaryFile(nil)
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:         memmapfs.ModeReadWrite,
		SyncMode:     memmapfs.SyncPeriodic,
		SyncInterval: time.Second,
		MapFullFile:  true,
		OnSyncError: func(name string, err error) {
			fmt.Println("not on disk:", name, err)
		},
	})
	file, err := filesystem.OpenFile(path, os.O_RDWR, 0)
	check(err)
	for i := range 3 {
		_, err = fmt.Fprintln(file, "entry", i)
		check(err)
	}
	check(file.Close()) // all of it is on disk

	contents, err := os.ReadFile(osfs.ToNative(path))
	check(err)
	fmt.Printf("%s", contents)
	// Output:
	// entry 0
	// entry 1
	// entry 2
}

// However large a file is, no more than MaxWindows windows of it are mapped at a time.
func ExampleConfig_hugeFile() {
	const fileSize, windowSize, maxWindows = 32 << 20, 1 << 20, 4 // bytes; 32 MiB stand for a terabyte
	contents := make([]byte, fileSize)
	for offset := 0; offset < fileSize; offset += windowSize {
		binary.LittleEndian.PutUint64(contents[offset:], uint64(offset))
	}
	path, remove := temporaryFile(contents)
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:       memmapfs.ModeReadOnly,
		SyncMode:   memmapfs.SyncNever,
		WindowSize: windowSize,
		MaxWindows: maxWindows,
	})
	file, err := filesystem.Open(path)
	check(err)

	right, mostMapped := 0, int64(0)
	number := make([]byte, 8)
	for i := range int64(1000) {
		offset := i * 7 % (fileSize / windowSize) * windowSize
		_, err = file.ReadAt(number, offset)
		check(err)
		if binary.LittleEndian.Uint64(number) == uint64(offset) {
			right++
		}
		mostMapped = max(mostMapped, filesystem.Stats().BytesMapped)
	}
	check(file.Close())

	fmt.Println("Right numbers:", right)
	fmt.Println("Within the budget:", mostMapped <= maxWindows*windowSize)
	// Output:
	// Right numbers: 1000
	// Within the budget: true
}

// Files of a container's image are on overlayfs, where MapAuto serves no read-only handle from a map.
// MapAlways does, for a directory whose files nobody changes while they are open: the caller vouches
// for that. Files that are changed are used through a filesystem of their own, without it.
func ExampleConfig_mapAlways() {
	path, remove := temporaryFile(make([]byte, 1<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	models := memmapfs.New(base, &memmapfs.Config{
		SyncMode:    memmapfs.SyncNever,
		MapFullFile: true,
		Mapping:     memmapfs.MapAlways,
	})
	file, err := models.Open(path)
	check(err)
	model := file.(*memmapfs.MappedFile)
	if reason := model.MappingError(); reason != nil && !errors.Is(reason, memmapfs.ErrNotMapped) {
		check(reason)
	}
	header := make([]byte, 4096)
	_, err = model.ReadAt(header, 0) // the same bytes, from a map or from the file
	check(err)
	check(model.Close())

	fmt.Println("On a filesystem that maps are not trusted on:", models.Stats().NotMappedFilesystem)
	// Output: On a filesystem that maps are not trusted on: 0
}

// Small windows keep the mapped part of a file small, however large the file is.
func ExampleConfig_memoryOptimized() {
	path, remove := temporaryFile(make([]byte, 1<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:        memmapfs.ModeReadOnly,
		SyncMode:    memmapfs.SyncNever,
		MapFullFile: false,
		WindowSize:  256 << 10, // bytes
	})

	file, err := filesystem.Open(path)
	check(err)
	checkHint(file.(*memmapfs.MappedFile).AdviseSequential())
	check(file.Close())

	fmt.Println("File opened with memory-optimized configuration")
	// Output: File opened with memory-optimized configuration
}

// A file that is read and written all over, and need not be on disk before it
// is closed, can be mapped whole with its pages brought in ahead of use.
func ExampleConfig_performanceTuning() {
	path, remove := temporaryFile(make([]byte, 1<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:          memmapfs.ModeReadWrite,
		SyncMode:      memmapfs.SyncLazy, // on disk when Close returns
		MapFullFile:   true,
		PopulatePages: true,
	})

	file, err := filesystem.OpenFile(path, os.O_RDWR, 0)
	check(err)
	checkHint(file.(*memmapfs.MappedFile).AdviseRandom())
	check(file.Close())

	fmt.Println("File opened with high-performance configuration")
	// Output: File opened with high-performance configuration
}

// Hints follow what the program is about to do; they change how fast a call
// is, never its result.
func ExampleMappedFile_accessPatterns() {
	path, remove := temporaryFile(make([]byte, 1<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)

	// From the beginning to the end: read ahead.
	checkHint(mapped.AdviseSequential())
	_, err = io.Copy(io.Discard, mapped)
	check(err)

	// Here and there: reading ahead would be in vain.
	checkHint(mapped.AdviseRandom())
	record := make([]byte, 4096)
	for _, offset := range []int64{500_000, 0, 1_000_000, 250_000} {
		_, err = mapped.ReadAt(record, offset)
		check(err)
	}

	// Done: the system may use the memory for something else.
	checkHint(mapped.AdviseDontNeed())
	check(mapped.Close())

	fmt.Println("Applied access pattern hints")
	// Output: Applied access pattern hints
}

// One part of a file can be used in another way than the rest: here an index in front of records.
func ExampleMappedFile_AdviseRange() {
	const indexSize = 64 << 10 // bytes
	path, remove := temporaryFile(bytes.Repeat([]byte("record. "), 1<<17))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)
	information, err := mapped.Stat()
	check(err)

	// The index is needed at once, and often. A record is needed alone.
	check(mapped.Prefetch(0, indexSize))
	checkHint(mapped.AdviseRange(indexSize, information.Size()-indexSize, memmapfs.AdviceRandom))

	record := make([]byte, 8)
	_, err = mapped.ReadAt(record, 100*indexSize/8)
	check(err)
	check(file.Close())

	fmt.Printf("Read %q\n", record)
	// Output: Read "record. "
}

// A file of records of one size, read and updated in place at random, as a database does. The updates
// are on disk when Sync returns.
func ExampleMappedFile_Sync() {
	const records, recordSize = 1000, 64 // bytes
	path, remove := temporaryFile(make([]byte, records*recordSize))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:        memmapfs.ModeReadWrite,
		SyncMode:    memmapfs.SyncNever, // Sync says when
		MapFullFile: true,
	})
	accounts, err := filesystem.OpenFile(path, os.O_RDWR, 0)
	check(err)
	add := func(record int64, amount uint64) {
		balance := make([]byte, 8)
		_, err := accounts.ReadAt(balance, record*recordSize)
		check(err)
		binary.LittleEndian.PutUint64(balance, binary.LittleEndian.Uint64(balance)+amount)
		_, err = accounts.WriteAt(balance, record*recordSize)
		check(err)
	}
	for i := range int64(5000) {
		add(i*7919%records, 1)
	}
	check(accounts.Sync())

	// One record can be made durable without the others.
	add(42, 100)
	check(accounts.(*memmapfs.MappedFile).SyncRange(42*recordSize, recordSize))
	check(accounts.Close())

	contents, err := os.ReadFile(osfs.ToNative(path))
	check(err)
	for _, record := range []int{0, 42, 999} {
		fmt.Println("Record", record, "has", binary.LittleEndian.Uint64(contents[record*recordSize:]))
	}
	// Output:
	// Record 0 has 5
	// Record 42 has 105
	// Record 999 has 5
}

// A log is read as any other file is: nothing in the loop knows of maps.
func ExampleMappedFile_logScanning() {
	var log bytes.Buffer
	for i := range 10_000 {
		level := "INFO"
		if i%1000 == 999 {
			level = "ERROR"
		}
		fmt.Fprintf(&log, "%05d %s something happened\n", i, level)
	}
	path, remove := temporaryFile(log.Bytes())
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)

	found := 0
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if bytes.Contains(lines.Bytes(), []byte(" ERROR ")) {
			found++
		}
	}
	check(lines.Err())
	check(file.Close())

	fmt.Println("Lines with an error:", found)
	// Output: Lines with an error: 10
}

// Huge pages are a request: where the system has none to give, the file is
// opened and read all the same.
func ExampleMappedFile_hugePages() {
	path, remove := temporaryFile(make([]byte, 4<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:          memmapfs.ModeReadOnly,
		MapFullFile:   true,
		UseHugePages:  true,
		PopulatePages: true,
	})

	file, err := filesystem.Open(path)
	check(err)
	checkHint(file.(*memmapfs.MappedFile).AdviseHugePage())
	check(file.Close())

	fmt.Println("File opened with huge pages support")
	// Output: File opened with huge pages support
}

// The position may move to any place of the file; no window has to be chosen.
func ExampleMappedFile_windowedSeek() {
	path, remove := temporaryFile(make([]byte, 10<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:        memmapfs.ModeReadOnly,
		SyncMode:    memmapfs.SyncNever,
		MapFullFile: false,
		WindowSize:  2 << 20, // bytes
	})
	file, err := filesystem.Open(path)
	check(err)

	record := make([]byte, 10)
	for _, offset := range []int64{0, 5 << 20, 9 << 20} {
		_, err = file.Seek(offset, io.SeekStart)
		check(err)
		count, err := io.ReadFull(file, record)
		check(err)
		fmt.Printf("At offset %d: read %d bytes\n", offset, count)
	}
	check(file.Close())
	// Output:
	// At offset 0: read 10 bytes
	// At offset 5242880: read 10 bytes
	// At offset 9437184: read 10 bytes
}

// Data gives the mapped bytes themselves. It gives nil where nothing can be
// mapped, and there the file is read in the ordinary way.
func ExampleMappedFile_Data() {
	path, remove := temporaryFile([]byte("Direct memory access!"))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)

	data := file.(*memmapfs.MappedFile).Data()
	if data == nil {
		data, err = io.ReadAll(file)
		check(err)
	}
	fmt.Printf("Direct access: %s\n", data)

	// The slice must not be used after this.
	check(file.Close())
	// Output: Direct access: Direct memory access!
}

// A file is mapped when that is of use, not when it is opened. No method but
// Data and View depends on it.
func ExampleMappedFile_Mapped() {
	path, remove := temporaryFile([]byte("contents"))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)

	fmt.Println("Mapped after Open:", mapped.Mapped())
	data := mapped.Data() // nil on systems without maps
	fmt.Println("Mapped if Data could map it:", mapped.Mapped() == (data != nil))

	check(mapped.Close())
	fmt.Println("Mapped after Close:", mapped.Mapped())
	// Output:
	// Mapped after Open: false
	// Mapped if Data could map it: true
	// Mapped after Close: false
}

// ReadAt leaves the position of the file where it is.
func ExampleMappedFile_ReadAt() {
	path, remove := temporaryFile([]byte("0123456789ABCDEF"))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)

	letters := make([]byte, 6)
	count, err := file.ReadAt(letters, 10)
	check(err)
	check(file.Close())

	fmt.Printf("Read %d bytes from offset 10: %s\n", count, letters)
	// Output: Read 6 bytes from offset 10: ABCDEF
}

// Seek and Read work as they do for an os.File.
func ExampleMappedFile_Seek() {
	path, remove := temporaryFile([]byte("Hello, World!"))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)

	_, err = file.Seek(7, io.SeekStart)
	check(err)
	rest, err := io.ReadAll(file)
	check(err)
	check(file.Close())

	fmt.Printf("After seeking to 7, read %d bytes: %s\n", len(rest), rest)
	// Output: After seeking to 7, read 6 bytes: World!
}

// View lends the bytes of a range to a function without copying them. Should
// the file lose them meanwhile, because someone truncates it or the disk fails,
// View returns an error where a slice from Data would end the program.
func ExampleMappedFile_View() {
	path, remove := temporaryFile([]byte("first\nsecond\nthird\n"))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)
	information, err := file.Stat()
	check(err)

	lines := 0
	count := func(contents []byte) error {
		lines = bytes.Count(contents, []byte("\n"))
		return nil
	}
	err = file.(*memmapfs.MappedFile).View(0, information.Size(), count)
	if errors.Is(err, memmapfs.ErrNotMapped) {
		// This system or this file has no maps: count in a copy.
		contents, readError := io.ReadAll(file)
		check(readError)
		err = count(contents)
	}
	check(err)
	check(file.Close())

	fmt.Println("Lines:", lines)
	// Output: Lines: 3
}

// A configuration needs only the fields that differ from the zero value.
func ExampleNew_customConfig() {
	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:     memmapfs.ModeReadOnly,
		SyncMode: memmapfs.SyncNever,
	})
	check(filesystem.Close())

	fmt.Println("Created memmapfs with custom config")
	// Output: Created memmapfs with custom config
}

// In a container most files lie on an overlay filesystem, of which a map may show
// an old file once somebody has opened it for writing. So MapAuto serves no calls
// from maps of files opened there for reading. For files that nobody changes while
// they are open, such as those that came with the container's image, the program
// can vouch, and has the speed of maps.
func ExampleMappingPolicy() {
	path, remove := temporaryFile([]byte("part of the image"))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	config := memmapfs.DefaultConfig()
	config.Mapping = memmapfs.MapAlways
	filesystem := memmapfs.New(base, config)
	file, err := filesystem.Open(path)
	check(err)

	buffer := make([]byte, 5)
	for range 1000 {
		_, err = file.ReadAt(buffer, 12)
		check(err)
	}
	if reason := file.(*memmapfs.MappedFile).MappingError(); reason != nil && !errors.Is(reason, errors.ErrUnsupported) {
		fmt.Println("not mapped:", reason)
	}
	check(file.Close())

	fmt.Printf("%s\n", buffer)
	// Output: image
}

// Reads go over the edges of windows unnoticed.
func ExampleNew_windowedMapping() {
	path, remove := temporaryFile(make([]byte, 10<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:        memmapfs.ModeReadOnly,
		SyncMode:    memmapfs.SyncNever,
		MapFullFile: false,
		WindowSize:  2 << 20, // bytes
	})
	file, err := filesystem.Open(path)
	check(err)

	total := 0
	buffer := make([]byte, 5000) // not a divisor of the window's size
	for {
		count, err := file.Read(buffer)
		total += count
		if err == io.EOF {
			break
		}
		check(err)
	}
	check(file.Close())

	fmt.Printf("Read %d bytes from large file using windowed mapping\n", total)
	// Output: Read 10485760 bytes from large file using windowed mapping
}

// With SyncImmediate every write is on disk when it returns, whichever window
// it falls into, one or two.
func ExampleNew_windowedWrite() {
	path, remove := temporaryFile(make([]byte, 1<<20))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, &memmapfs.Config{
		Mode:        memmapfs.ModeReadWrite,
		SyncMode:    memmapfs.SyncImmediate,
		MapFullFile: false,
		WindowSize:  256 << 10, // bytes
	})
	file, err := filesystem.OpenFile(path, os.O_RDWR, 0)
	check(err)

	text := []byte("WINDOW")
	offsets := []int64{0, 256<<10 - 3, 768 << 10} // the second lies in two windows
	for _, offset := range offsets {
		_, err = file.WriteAt(text, offset)
		check(err)
	}
	check(file.Close())

	contents, err := os.ReadFile(osfs.ToNative(path))
	check(err)
	if bytes.Count(contents, text) == len(offsets) {
		fmt.Printf("Wrote to %d positions using windowed mapping\n", len(offsets))
	}
	// Output: Wrote to 3 positions using windowed mapping
}

// Every method survives a fault in the map without any handler. A handler is for
// programs that want to know of it.
func ExampleSIGBUSHandler() {
	path, remove := temporaryFile(make([]byte, 1024))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	file, err := filesystem.Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)

	memmapfs.GetSIGBUSHandler().OnSIGBUS(func(faulted *memmapfs.MappedFile, fault error) {
		if faulted != mapped {
			return // a file registered elsewhere in the program
		}
		fmt.Println("Fault, mapping what is left of the file:", fault)
		if err := faulted.RemapAfterTruncation(); err != nil {
			fmt.Println(err)
		}
	})
	mapped.EnableSIGBUSProtection()
	fmt.Println("SIGBUS protection enabled")

	// Had someone truncated the file, the callback would run during this call.
	_, err = io.Copy(io.Discard, mapped)
	check(err)

	mapped.DisableSIGBUSProtection()
	check(mapped.Close())
	// Output: SIGBUS protection enabled
}

// Numbers of a filesystem can be published beside a program's own, and read at /debug/vars.
func ExampleMemMapFS_Stats() {
	path, remove := temporaryFile([]byte("Hello"))
	defer remove()
	base, err := osfs.NewFS()
	check(err)
	filesystem := memmapfs.New(base, memmapfs.DefaultConfig())
	expvar.Publish("files", expvar.Func(func() any { return filesystem.Stats() }))

	file, err := filesystem.Open(path)
	check(err)
	_, err = file.ReadAt(make([]byte, 5), 0)
	check(err)

	var published struct{ FilesOpen, ReadsUnmapped int }
	check(json.Unmarshal([]byte(expvar.Get("files").String()), &published))
	fmt.Printf("%+v\n", published)
	check(file.Close())
	// Output: {FilesOpen:1 ReadsUnmapped:1}
}

// An index lookup reads many small places of a file at once: here the entries of an index, and then
// the records that these tell. What is in memory is copied under one guard, and what is not is
// asked for at once, in place of one after the other.
func ExampleMappedFile_ReadBatch() {
	const entrySize = 8 // of the index, which comes first: where a record lies and how long it is
	names := []string{"ant", "bee", "crane", "dolphin", "eagle", "fox", "gnu", "heron"}
	index, records := make([]byte, 0, entrySize*len(names)), []byte(nil)
	for _, name := range names {
		at := entrySize*len(names) + len(records)
		index = binary.LittleEndian.AppendUint32(index, uint32(at))
		index = binary.LittleEndian.AppendUint32(index, uint32(len(name)))
		records = append(records, name...)
	}
	path, remove := temporaryFile(append(index, records...))
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	file, err := memmapfs.New(base, memmapfs.DefaultConfig()).Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)

	wanted := []int{6, 1, 3}
	batch := make([]memmapfs.ReadRequest, len(wanted))
	for i, number := range wanted {
		batch[i] = memmapfs.ReadRequest{P: make([]byte, entrySize), Off: int64(entrySize * number)}
	}
	check(mapped.ReadBatch(batch))
	for i, entry := range batch {
		at, length := binary.LittleEndian.Uint32(entry.P), binary.LittleEndian.Uint32(entry.P[4:])
		batch[i] = memmapfs.ReadRequest{P: make([]byte, length), Off: int64(at)}
	}
	check(mapped.ReadBatch(batch))
	for i, record := range batch {
		fmt.Printf("%d: %s\n", wanted[i], record.P[:record.N])
	}
	check(mapped.Close())
	// Output:
	// 6: gnu
	// 1: bee
	// 3: dolphin
}

// A file of vectors, one behind the other in the byte order of the processor, is searched where it
// lies for the two that are nearest to another.
func ExampleViewSlice() {
	const dimensions = 4
	type vector [dimensions]float32
	var contents []byte
	for i := range 1000 {
		for dimension := range dimensions {
			value := float32(i) * float32(dimension+1) / 1000
			contents = binary.NativeEndian.AppendUint32(contents, math.Float32bits(value))
		}
	}
	path, remove := temporaryFile(contents)
	defer remove()

	base, err := osfs.NewFS()
	check(err)
	file, err := memmapfs.New(base, memmapfs.DefaultConfig()).Open(path)
	check(err)
	mapped := file.(*memmapfs.MappedFile)

	wanted := vector{0.4996, 1, 1.5, 2}
	first, second := -1, -1
	nearest := func(vectors []vector) error {
		leastSquare, nextSquare := float32(math.Inf(1)), float32(math.Inf(1))
		for i := range vectors {
			square := float32(0)
			for dimension, value := range vectors[i] {
				square += (value - wanted[dimension]) * (value - wanted[dimension])
			}
			switch {
			case square < leastSquare:
				second, nextSquare = first, leastSquare
				first, leastSquare = i, square
			case square < nextSquare:
				second, nextSquare = i, square
			}
		}
		return nil
	}
	count := len(contents) / (4 * dimensions)
	err = memmapfs.ViewSlice(mapped, 0, count, nearest)
	if errors.Is(err, memmapfs.ErrNotMapped) {
		// This system or this file has no maps: search in a copy.
		vectors := make([]vector, count)
		check(binary.Read(mapped, binary.NativeEndian, vectors))
		err = nearest(vectors)
	}
	check(err)
	fmt.Println("The nearest vectors are", first, "and", second)
	check(mapped.Close())
	// Output: The nearest vectors are 500 and 499
}
