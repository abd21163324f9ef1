package memmapfs

// Stats are the numbers of a MemMapFS at one moment. Those of one field are exact, unless its
// comment says otherwise; two fields may be of moments that lie a little apart. It marshals to
// JSON, so that expvar.Func can publish it.
//
// Calls that a map served are not counted: counting would cost a good part of their time.
type Stats struct {
	// FilesOpen is the number of files opened and not closed. A handle that the program dropped
	// without Close stays counted.
	FilesOpen int64 `json:"filesOpen"`
	// FilesMapped is how many of them are mapped.
	FilesMapped int64 `json:"filesMapped"`
	// WindowsMapped is the number of maps in use: one for each file that is mapped as a whole, and one
	// for each window. A map made for one View, or kept only because Data has handed out its bytes,
	// is not counted.
	WindowsMapped int64 `json:"windowsMapped"`
	// BytesMapped is the size of these maps, in memory or not.
	BytesMapped int64 `json:"bytesMapped"`
	// WindowsDropped is the number of windows taken away for others since New: because
	// Config.MaxWindows was reached, or because the file had grown.
	WindowsDropped int64 `json:"windowsDropped"`

	// Files opened since New whose calls are not served from a map, by the reason (see
	// MappedFile.MappingError). The policy, a type that offers no descriptor and the open flags are
	// looked at by the open, all else when a map would pay or somebody asks.
	NotMappedPolicy       int64 `json:"notMappedPolicy"`       // Config.Mapping is MapNever; on Windows also O_RDWR in other modes than ModeReadWrite
	NotMappedNoDescriptor int64 `json:"notMappedNoDescriptor"` // the wrapped file offers none, or it cannot be had
	NotMappedKind         int64 `json:"notMappedKind"`         // not a regular file, or opened in a way that maps cannot serve
	NotMappedFilesystem   int64 `json:"notMappedFilesystem"`   // on a filesystem of which a map may show other bytes
	NotMappedTransformed  int64 `json:"notMappedTransformed"`  // the wrapped file shows other bytes than the map
	NotMappedRefused      int64 `json:"notMappedRefused"`      // the system refuses the map

	// Reads that went to the wrapped file since New, in calls of its Read and ReadAt, by the reason.
	// That is the one for the first byte of the call, as it was just before.
	ReadsCold     int64 `json:"readsCold"`     // mapped, but not known to be in memory, or so long that the file is faster
	ReadsPastEnd  int64 `json:"readsPastEnd"`  // past the end of the file as the map knows it
	ReadsUnmapped int64 `json:"readsUnmapped"` // not mapped: the file cannot be, or no map has paid yet

	// Writes that went to the wrapped file since New, in calls of its Write and WriteAt, by the reason.
	WritesCold     int64 `json:"writesCold"`     // the first ones to a page since it was mapped, flushed or punched out, and after 5 seconds
	WritesPastEnd  int64 `json:"writesPastEnd"`  // growth, and all of O_APPEND
	WritesUnmapped int64 `json:"writesUnmapped"` // not mapped, or not so that it can be stored to
	WritesFlushed  int64 `json:"writesFlushed"`  // a flush follows each: SyncImmediate, O_SYNC

	// Faults is the number of faults in mapped memory caught since New. One that Close caused is none.
	Faults int64 `json:"faults"`
	// Flushes is the number of flushes begun since New, of a file or a mapped range of it: asked for,
	// after a write, in the background and at Close.
	Flushes int64 `json:"flushes"`
	// FlushErrors is how many of them have failed.
	FlushErrors int64 `json:"flushErrors"`
}

// Stats returns the numbers of this moment. It waits for nothing and may be called at any time,
// also after Close.
func (mfs *MemMapFS) Stats() Stats {
	c := &mfs.handles.counters
	s := Stats{
		FilesOpen:      c.open.Load(),
		WindowsDropped: c.windowsDropped.Load(),
		ReadsCold:      c.readsCold.Load(),
		ReadsPastEnd:   c.readsPastEnd.Load(),
		ReadsUnmapped:  c.readsUnmapped.Load(),
		WritesCold:     c.writesCold.Load(),
		WritesPastEnd:  c.writesPastEnd.Load(),
		WritesUnmapped: c.writesUnmapped.Load(),
		WritesFlushed:  c.writesFlush.Load(),
		Faults:         c.faults.Load(),
		Flushes:        c.flushes.Load(),
		FlushErrors:    c.flushErrors.Load(),

		NotMappedPolicy:       c.notMapped[refusedByPolicy].Load(),
		NotMappedNoDescriptor: c.notMapped[refusedNoDescriptor].Load(),
		NotMappedKind:         c.notMapped[refusedKind].Load(),
		NotMappedFilesystem:   c.notMapped[refusedByFilesystem].Load(),
		NotMappedTransformed:  c.notMapped[refusedTransformed].Load(),
		NotMappedRefused:      c.notMapped[refusedBySystem].Load(),
	}
	for _, f := range mfs.handles.files() {
		before := s.WindowsMapped
		f.maps.windows.each(func(m *mapping) { // without a lock: one may be held for as long as the disk takes
			s.WindowsMapped++
			s.BytesMapped += int64(len(m.data))
		})
		if s.WindowsMapped > before {
			s.FilesMapped++
		}
	}
	return s
}
