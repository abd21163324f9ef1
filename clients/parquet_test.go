package clients_test

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"

	"github.com/absfs/absfs"
	"github.com/parquet-go/parquet-go"
)

const rows = 1_000_000

type row struct {
	ID      int64   `parquet:"id,delta"`
	Name    string  `parquet:"name,dict,snappy"`
	Reading float64 `parquet:"reading"`
	Note    string  `parquet:"note,optional,zstd"`
}

func rowAt(i int64) row {
	r := row{ID: i, Name: fmt.Sprintf("sensor %d", i%1000), Reading: float64(i) * 1.25}
	if i%10 == 0 {
		r.Note = fmt.Sprintf("row %d", i)
	}
	return r
}

func writeParquet(w io.Writer, rows int64) error {
	writer := parquet.NewGenericWriter[row](w, parquet.MaxRowsPerRowGroup(200_000), parquet.PageBufferSize(16<<10))
	batch := make([]row, 10_000)
	for first := int64(0); first < rows; first += int64(len(batch)) {
		for i := range batch {
			batch[i] = rowAt(first + int64(i))
		}
		if _, err := writer.Write(batch); err != nil {
			return err
		}
	}
	return writer.Close()
}

// A file of a million rows is read at random by several readers of one open file.
func TestParquetReader(t *testing.T) {
	dir := t.TempDir()
	native, err := os.Create(filepath.Join(dir, "rows.parquet"))
	must(t, err)
	must(t, writeParquet(native, rows))
	must(t, native.Close())

	compareReads(t, dir, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		opened, size := open(t, fileSystem, path.Join(dir, "rows.parquet"))
		file, err := parquet.OpenFile(opened, size)
		must(t, err)
		var found report
		found.add("%d rows in %d groups of %d bytes", file.NumRows(), len(file.RowGroups()), size)
		found.add("%v", file.Schema())

		const readers, reads = 4, 40
		offsets := random()
		seeks := make([]int64, readers*reads)
		for i := range seeks {
			seeks[i] = offsets.Int64N(rows - 3)
		}
		read := make([]report, readers)
		var group sync.WaitGroup
		for number := range read {
			group.Add(1)
			go func() {
				defer group.Done()
				reader := parquet.NewGenericReader[row](file)
				defer reader.Close()
				batch := make([]row, 3)
				for _, seek := range seeks[number*reads : (number+1)*reads] {
					if err := reader.SeekToRow(seek); err != nil {
						read[number].add("seek %d: %v", seek, err)
						continue
					}
					count, err := reader.Read(batch)
					read[number].add("row %d: %+v, %v", seek, batch[:count], err)
					for i := range batch[:count] {
						if want := rowAt(seek + int64(i)); batch[i] != want {
							t.Errorf("row %d is %+v, want %+v", seek+int64(i), batch[i], want)
						}
					}
				}
			}()
		}
		group.Wait()
		for _, one := range read {
			found = append(found, one...)
		}
		return found
	})
}

func TestParquetWriter(t *testing.T) {
	compareWrites(t, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		name := path.Join(dir, "rows.parquet")
		write(t, fileSystem, name, func(file absfs.File) error { return writeParquet(file, rows/10) })
		return nil
	})
}
