package clients_test

import (
	"encoding/csv"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/absfs/absfs"
)

// A table of several windows is written by encoding/csv and read again, record by record, with
// quotes, line ends and empty fields in it; then from records in its middle on.
func TestCSV(t *testing.T) {
	compareWrites(t, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		var found report
		name := path.Join(dir, "table.csv")
		var offsets []int64
		write(t, fileSystem, name, func(file absfs.File) error {
			table := csv.NewWriter(file)
			source := random()
			for i := range 60_000 {
				if i%1000 == 0 {
					table.Flush()
					offset, err := file.Seek(0, io.SeekCurrent)
					if err != nil {
						return err
					}
					offsets = append(offsets, offset)
				}
				if err := table.Write([]string{
					fmt.Sprint(i), strings.Repeat("x", source.IntN(60)), `"quoted", and` + "\nin two lines", "", fmt.Sprint(source.Float64()),
				}); err != nil {
					return err
				}
			}
			table.Flush()
			return table.Error()
		})
		found.add("%v", offsets)

		file, _ := open(t, fileSystem, name)
		records, err := csv.NewReader(file).ReadAll()
		must(t, err)
		found.add("%d records", len(records))
		for _, record := range records {
			found.add("%q", record)
		}
		source := random()
		for range 200 {
			_, err := file.Seek(offsets[source.IntN(len(offsets))], io.SeekStart)
			must(t, err)
			record, err := csv.NewReader(file).Read()
			found.add("%q %v", record, err)
		}
		return found
	})
}
