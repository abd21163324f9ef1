package clients_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/absfs/absfs"
	"github.com/absfs/memmapfs"
	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/oschwald/maxminddb-golang/v2"
)

// address returns an address in the n-th /24 network.
func address(n uint32, host byte) [4]byte {
	return [4]byte{1 + byte(n>>16), byte(n >> 8), byte(n), host}
}

// A database of several windows, made by its vendor's own writer, is looked up in the bytes that View
// and Data lend.
func TestMaxMind(t *testing.T) {
	const networks = 100_000
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test", RecordSize: 28, BuildEpoch: 1, IncludeReservedNetworks: true})
	must(t, err)
	for n := range uint32(networks) {
		address := address(n, 0)
		must(t, tree.Insert(
			&net.IPNet{IP: net.IP(address[:]), Mask: net.CIDRMask(24, 32)},
			mmdbtype.Map{"number": mmdbtype.Uint32(n), "name": mmdbtype.String(fmt.Sprintf("network %d", n))},
		))
	}
	dir := t.TempDir()
	native, err := os.Create(filepath.Join(dir, "test.mmdb"))
	must(t, err)
	size, err := tree.WriteTo(native)
	must(t, err)
	must(t, native.Close())
	if size < 2*mebibyte {
		t.Fatalf("the database has %d bytes: no more than two windows", size)
	}

	lookUp := func(t *testing.T, data []byte) (found report) {
		database, err := maxminddb.OpenBytes(data)
		must(t, err)
		defer database.Close()
		found.add("%+v", database.Metadata)
		source := random()
		for range 5000 {
			n := uint32(source.IntN(networks * 5 / 4)) // some are not in it
			ip := netip.AddrFrom4(address(n, byte(source.IntN(256))))
			var record struct {
				Number uint32 `maxminddb:"number"`
				Name   string `maxminddb:"name"`
			}
			result := database.Lookup(ip)
			err := result.Decode(&record)
			found.add("%v: %v %v %+v %v", ip, result.Found(), result.Prefix(), record, err)
			if want := fmt.Sprintf("network %d", n); n < networks && record.Name != want {
				t.Errorf("%v: %+v, want %s", ip, record, want)
			}
		}
		found.add("verified: %v", database.Verify())
		return found
	}
	compareReads(t, dir, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		file, size := open(t, fileSystem, path.Join(dir, "test.mmdb"))
		mapped, ok := file.(*memmapfs.MappedFile)
		if !ok {
			data, err := io.ReadAll(file)
			must(t, err)
			return lookUp(t, data)
		}
		var found report
		must(t, mapped.View(0, size, func(data []byte) error {
			found = lookUp(t, data)
			return nil
		}))
		if data := mapped.Data(); int64(len(data)) == size { // not a window
			mustEqual(t, lookUp(t, data), found)
		}
		return found
	})
}
