package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A contestant has the same colour in every chart. They differ for colour-blind readers, too.
var colours = map[string]color.Color{
	plain:   color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff},
	mapped:  color.RGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff},
	expMmap: color.RGBA{R: 0x56, G: 0xb4, B: 0xe9, A: 0xff},
	mmapGo:  color.RGBA{R: 0x00, G: 0x9e, B: 0x73, A: 0xff},
	aferoOS: color.RGBA{R: 0x99, G: 0x99, B: 0x99, A: 0xff},
}

// drawCharts draws what the results suffice for, and returns the files' names.
func drawCharts(results []result, dir string) (paths []string, err error) {
	var table []result
	curves := map[string][]result{}
	for _, r := range results {
		switch {
		case r.skipped != nil:
		case r.row.detail:
		case r.row.curve == "":
			table = append(table, r)
		default:
			curves[r.row.curve] = append(curves[r.row.curve], r)
		}
	}
	save := func(name string, chart *plot.Plot, width, height vg.Length) error {
		drawing, err := chart.WriterTo(width, height, "svg")
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if _, err := drawing.WriteTo(&text); err != nil {
			return err
		}
		path := filepath.Join(dir, name+".svg")
		paths = append(paths, path)
		// Where there is no Liberation Sans, Arial has letters of the same width.
		withArial := strings.ReplaceAll(text.String(), "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,sans-serif")
		return os.WriteFile(path, []byte(withArial), 0o644)
	}
	if len(table) > 0 {
		chart, err := ratioChart(table)
		if err == nil {
			err = save("ratios", chart, 22*vg.Centimeter, vg.Length(len(table))*0.75*vg.Centimeter+3*vg.Centimeter)
		}
		if err != nil {
			return paths, err
		}
	}
	for _, curve := range []string{hot, cold} {
		if len(curves[curve]) < 2 {
			continue
		}
		chart, err := curveChart(curve, curves[curve])
		if err == nil {
			err = save("working-set-"+curve, chart, 18*vg.Centimeter, 11*vg.Centimeter)
		}
		if err != nil {
			return paths, err
		}
	}
	return paths, nil
}

func newChart(title string) *plot.Plot {
	chart := plot.New()
	chart.Title.Text = title
	chart.BackgroundColor = color.White
	for _, text := range []*draw.TextStyle{
		&chart.Title.TextStyle, &chart.X.Label.TextStyle, &chart.Y.Label.TextStyle,
		&chart.X.Tick.Label, &chart.Y.Tick.Label, &chart.Legend.TextStyle,
	} {
		text.Font.Variant = "Sans"
	}
	chart.Title.TextStyle.Font.Size = font.Length(13)
	chart.Title.Padding = vg.Points(8)
	return chart
}

// ratioChart has two bars a row. Their length is the logarithm of the ratio: to the right of the
// line at 1 memmapfs is faster, to the left slower.
func ratioChart(results []result) (*plot.Plot, error) {
	chart := newChart("Time of others / time of memmapfs")
	chart.X.Label.Text = "right of 1: memmapfs is faster (logarithmic)"
	names := make([]string, len(results))
	most := 1.0
	for i := range results {
		names[len(results)-1-i] = results[i].row.name // the first at the top
	}
	thickness := vg.Points(6)
	for i, name := range []string{plain, expMmap} {
		values := make(plotter.Values, len(results))
		for j, r := range results {
			if ratio, ok := r.ratio[name]; ok {
				values[len(results)-1-j] = math.Log10(ratio)
				most = max(most, ratio)
			}
		}
		bars, err := plotter.NewBarChart(values, thickness)
		if err != nil {
			return nil, err
		}
		bars.Horizontal = true
		bars.Color = colours[name]
		bars.LineStyle.Width = 0
		bars.Offset = thickness / 2 * vg.Length(1-2*i)
		chart.Add(bars)
		chart.Legend.Add(name, bars)
	}
	chart.X.Min, chart.X.Max = min(chart.X.Min, -1), math.Log10(most)+0.2
	chart.X.Tick.Marker = plot.TickerFunc(func(low, high float64) []plot.Tick {
		var ticks []plot.Tick
		for _, ratio := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000} {
			if at := math.Log10(ratio); at >= low && at <= high {
				ticks = append(ticks, plot.Tick{Value: at, Label: fmt.Sprint(ratio)})
			}
		}
		return ticks
	})
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	chart.Add(grid)
	chart.NominalY(names...)
	chart.Y.Min, chart.Y.Max = -0.7, float64(len(results))-0.3
	chart.Legend.YOffs = vg.Points(4)
	chart.Legend.XOffs = -vg.Points(4)
	return chart, nil
}

// curveChart has a line per contestant: the time of a read by the size of the working set.
func curveChart(curve string, results []result) (*plot.Plot, error) {
	chart := newChart(fmt.Sprintf("Random reads of 64 bytes, page cache %s", curve))
	chart.X.Label.Text = "working set"
	chart.Y.Label.Text = "time of a read"
	for _, name := range contestantNames {
		var points plotter.XYs
		for _, r := range results {
			if nanosecond, ok := r.nanosecond[name]; ok {
				points = append(points, plotter.XY{X: float64(r.row.workingSet), Y: nanosecond})
			}
		}
		if len(points) < 2 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, dots.Color = colours[name], colours[name]
		line.Width = vg.Points(1.5)
		dots.Shape = draw.CircleGlyph{}
		chart.Add(line, dots)
		chart.Legend.Add(name, line, dots)
	}
	chart.X.Scale, chart.Y.Scale = plot.LogScale{}, plot.LogScale{}
	chart.X.Tick.Marker = plot.TickerFunc(func(low, high float64) []plot.Tick {
		var ticks []plot.Tick
		for _, r := range results {
			ticks = append(ticks, plot.Tick{Value: float64(r.row.workingSet), Label: sizeName(r.row.workingSet)})
		}
		return ticks
	})
	chart.X.Min, chart.X.Max = chart.X.Min/1.3, chart.X.Max*1.3
	chart.Y.Tick.Marker = plot.TickerFunc(func(low, high float64) []plot.Tick {
		var ticks []plot.Tick
		for at := time.Nanosecond; float64(at) <= high; at *= 10 {
			for factor := range 9 {
				tick := plot.Tick{Value: float64(at) * float64(factor+1)}
				if factor == 0 {
					tick.Label = at.String()
				}
				if tick.Value >= low && tick.Value <= high {
					ticks = append(ticks, tick)
				}
			}
		}
		return ticks
	})
	// Whole decades, and one more above for the legend.
	chart.Y.Min = math.Pow(10, math.Floor(math.Log10(chart.Y.Min)))
	chart.Y.Max = math.Pow(10, math.Ceil(math.Log10(chart.Y.Max))+1)
	chart.Add(plotter.NewGrid())
	chart.Legend.Top = true
	chart.Legend.Left = true
	return chart, nil
}
