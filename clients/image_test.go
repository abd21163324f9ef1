package clients_test

import (
	"bufio"
	"bytes"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"path"
	"slices"
	"testing"

	"github.com/absfs/absfs"
)

// Pictures larger than a window are encoded to files and decoded from them, buffered and not.
func TestImages(t *testing.T) {
	picture := image.NewRGBA(image.Rect(0, 0, 1000, 800))
	source := random()
	for y := range 800 {
		for x := range 1000 {
			picture.SetRGBA(x, y, color.RGBA{uint8(source.Uint32()), uint8(x), uint8(y), 255})
		}
	}
	paletted := image.NewPaletted(picture.Bounds(), palette.WebSafe)
	draw.Draw(paletted, paletted.Bounds(), picture, image.Point{}, draw.Src)
	formats := []struct {
		name   string
		encode func(w io.Writer) error
	}{
		{"png", func(w io.Writer) error { return (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(w, picture) }},
		{"jpeg", func(w io.Writer) error { return jpeg.Encode(w, picture, &jpeg.Options{Quality: 95}) }},
		{"gif", func(w io.Writer) error { return gif.Encode(w, paletted, nil) }},
	}
	compareWrites(t, func(t *testing.T, fileSystem absfs.FileSystem, dir string) report {
		var found report
		for _, format := range formats {
			name := path.Join(dir, format.name)
			write(t, fileSystem, name, func(file absfs.File) error { return format.encode(file) })
			for _, buffered := range []bool{false, true} {
				file, _ := open(t, fileSystem, name)
				var reader io.Reader = file
				if buffered {
					reader = bufio.NewReader(file)
				}
				config, format, err := image.DecodeConfig(reader)
				found.add("%s: %d by %d, %v", format, config.Width, config.Height, err)
				_, err = file.Seek(0, io.SeekStart)
				must(t, err)
				if buffered {
					reader = bufio.NewReader(file)
				}
				decoded, format, err := image.Decode(reader)
				must(t, err)
				switch decoded := decoded.(type) {
				case *image.RGBA:
					found.addContents(format, bytes.NewReader(decoded.Pix))
				case *image.YCbCr:
					found.addContents(format, bytes.NewReader(slices.Concat(decoded.Y, decoded.Cb, decoded.Cr)))
				case *image.Paletted:
					found.addContents(format, bytes.NewReader(decoded.Pix))
				default:
					t.Fatalf("%s is decoded to a %T", format, decoded)
				}
			}
		}
		return found
	})
}
