package main

import (
	"bytes"
	"fmt"
	"html"
	"time"
	"unicode/utf8"
)

// Where things are in the picture, in its units.
const (
	pictureWidth = 1000.0
	labelWidth   = 230.0 // left of the bands: the files' names
	valueWidth   = 170.0 // right of them: how much is in memory
	bandsWidth   = pictureWidth - labelWidth - valueWidth
	margin       = 16.0
	chartTop     = 64.0
	chartHeight  = 84.0
)

// levels are the colors of a block, from nothing in memory to all of it.
var levels = [...]string{"#eef0f4", "#ffe3a3", "#ffc667", "#fb9d3f", "#ee6f2d", "#d1432f", "#a12338", "#6b0f3c"}

const style = `<style>
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #333b49 }
.title { font-size: 17px; font-weight: 600 } .faint { fill: #7a8494 }
.end { text-anchor: end } .middle { text-anchor: middle }
</style>
`

// drawing is a picture being drawn.
type drawing struct {
	bytes.Buffer
	h     *history
	bands []*band
	band  float64 // height of one
	top   float64 // of the first
}

// svg draws the history: above, how much is in memory of all files, below, a band for each file.
// A band's columns are moments, and its rows the parts of the file from its start to its end. A
// single moment has no time to draw, so there the parts are the columns.
func (h *history) svg() []byte {
	d := &drawing{h: h, bands: h.sorted()}
	d.band = min(max(432/float64(max(len(d.bands), 1)), 18), 192)
	last := h.moments[len(h.moments)-1]
	d.top = chartTop
	if !d.single() {
		d.top += chartHeight + 22
	}
	axis := d.top + d.band*float64(len(d.bands)) + 4*float64(max(len(d.bands)-1, 0))
	height := axis + 40

	fmt.Fprintf(d, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g">`+"\n",
		pictureWidth, height, pictureWidth, height)
	d.WriteString(style)
	fmt.Fprintf(d, `<defs><pattern id="unseen" width="6" height="6" patternUnits="userSpaceOnUse"><path d="M0 6L6 0" stroke="#dde1e8"/></pattern></defs>`+"\n")
	fmt.Fprintf(d, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	d.text(margin, 32, "title", fmt.Sprintf("%s of %s in memory", human(last.resident), human(last.size)))
	d.text(margin, 50, "faint", h.last.Format(time.DateTime)+d.span())
	d.legend()
	if !d.single() {
		d.chart()
	}
	for i, b := range d.bands {
		d.file(b, d.top+float64(i)*(d.band+4))
	}
	if len(d.bands) == 0 {
		d.text(margin, axis+18, "faint", "There is no file of which the system tells what is in memory.")
	} else {
		d.axis(axis)
	}
	d.WriteString("</svg>\n")
	return d.Bytes()
}

func (d *drawing) text(x, y float64, class, text string) {
	fmt.Fprintf(d, `<text x="%.5g" y="%.5g" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(text))
}

func (d *drawing) rectangle(x, y, width, height float64, fill string) {
	fmt.Fprintf(d, `<rect x="%.5g" y="%.5g" width="%.4g" height="%.4g" fill="%s"/>`+"\n", x, y, width, height, fill)
}

func (d *drawing) single() bool { return len(d.h.moments) == 1 }

// span says what time the picture is about.
func (d *drawing) span() string {
	if d.single() {
		return ""
	}
	return fmt.Sprintf(", and the %v before. Each file is drawn from its start, above, to its end.",
		d.h.last.Sub(d.h.moments[0].at).Round(time.Second))
}

func (d *drawing) legend() {
	const size = 22.0
	x := pictureWidth - margin - 62 - size*float64(len(levels))
	d.text(x-8, 32, "end faint", "of each part in memory: none")
	for i, color := range levels {
		d.rectangle(x+float64(i)*size, 21, size, 13, color)
	}
	d.text(x+size*float64(len(levels))+8, 32, "faint", "all")
}

// at returns where moment i begins; the last one's end is that of moment len(moments).
func (d *drawing) at(i int) float64 {
	moments := d.h.moments
	if i == len(moments) {
		return labelWidth + bandsWidth
	}
	first, last := moments[0].at, moments[len(moments)-1].at
	length := last.Sub(first)
	length += length / time.Duration(max(len(moments)-1, 1)) // the last moment is as long as the others
	return labelWidth + bandsWidth*float64(moments[i].at.Sub(first))/float64(max(length, 1))
}

// chart draws how much is in memory of all files.
func (d *drawing) chart() {
	var most, size int64 = 1, 0
	for _, m := range d.h.moments {
		most, size = max(most, m.resident), max(size, m.size)
	}
	y := func(resident int64) float64 {
		return chartTop + chartHeight*(1-float64(resident)/float64(most))
	}
	d.text(labelWidth-10, chartTop+10, "end", "all files together")
	d.text(labelWidth-10, chartTop+26, "end faint", "most: "+human(most))
	d.rectangle(labelWidth, chartTop, bandsWidth, chartHeight, "#f8f9fb")
	fmt.Fprintf(d, `<path fill="#d1432f" fill-opacity=".18" stroke="none" d="M%g %g`, labelWidth, chartTop+chartHeight)
	var line bytes.Buffer
	for i, m := range d.h.moments {
		fmt.Fprintf(&line, "V%.5gH%.5g", y(m.resident), d.at(i+1))
	}
	fmt.Fprintf(d, `%sV%gZ"/>`+"\n", &line, chartTop+chartHeight)
	fmt.Fprintf(d, `<path fill="none" stroke="#d1432f" stroke-width="1.5" d="M%g %.5g%s"/>`+"\n",
		labelWidth, y(d.h.moments[0].resident), &line)
	last := d.h.moments[len(d.h.moments)-1]
	d.text(labelWidth+bandsWidth+10, y(last.resident)+10, "", human(last.resident))
}

// file draws the band of one file, whose upper edge is at y.
func (d *drawing) file(b *band, y float64) {
	middle := y + d.band/2 + 4
	fmt.Fprintf(d, `<g><title>%s</title>`+"\n", html.EscapeString(b.path))
	d.text(labelWidth-10, middle, "end", shortened(b.path, 30))
	d.text(labelWidth+bandsWidth+10, middle, "", fmt.Sprintf("%s of %s", human(b.now), human(b.size)))
	d.rectangle(labelWidth, y, bandsWidth, d.band, levels[0])
	d.WriteString(`<g shape-rendering="crispEdges">` + "\n")
	if d.single() {
		width := bandsWidth / blocks
		for part, block := range b.blocks[0] {
			d.block(block, labelWidth+float64(part)*width, y, width, d.band)
		}
	} else {
		d.overTime(b, y)
	}
	d.WriteString("</g></g>\n")
}

// overTime draws the blocks of a file: neighbours in time that look the same are one rectangle.
func (d *drawing) overTime(b *band, y float64) {
	merged := 1 // blocks drawn as one, so that a row can be seen
	for d.band/blocks*float64(merged) < 3 {
		merged *= 2
	}
	level := func(moment, part int) int {
		if b.blocks[moment] == nil {
			return -1
		}
		sum := 0
		for _, block := range b.blocks[moment][part : part+merged] {
			sum += int(block)
		}
		return levelOf(sum, merged)
	}
	height := d.band / blocks * float64(merged)
	for part := 0; part < blocks; part += merged {
		for from := 0; from < len(b.blocks); {
			to, same := from+1, level(from, part)
			for to < len(b.blocks) && level(to, part) == same {
				to++
			}
			x, top := d.at(from), y+float64(part/merged)*height
			switch {
			case same < 0:
				d.rectangle(x, top, d.at(to)-x, height, "#fff")
				d.rectangle(x, top, d.at(to)-x, height, "url(#unseen)")
			case same > 0:
				d.rectangle(x, top, d.at(to)-x, height, levels[same])
			}
			from = to
		}
	}
}

func (d *drawing) block(block uint8, x, y, width, height float64) {
	if level := levelOf(int(block), 1); level > 0 {
		d.rectangle(x, y, width, height, levels[level])
	}
}

// levelOf returns the color of blocks with this sum: the first for nothing, the last for all.
func levelOf(sum, count int) int {
	return (sum*(len(levels)-1) + 255*count - 1) / (255 * count)
}

// axis draws what the columns are.
func (d *drawing) axis(y float64) {
	if d.single() {
		d.text(labelWidth, y+18, "faint", "start of the file")
		d.text(labelWidth+bandsWidth, y+18, "end faint", "end of the file")
		return
	}
	first, last := d.h.moments[0].at, d.h.moments[len(d.h.moments)-1].at
	class := "faint"
	for i := range 5 {
		if i == 4 {
			class = "end faint"
		} else if i > 0 {
			class = "middle faint"
		}
		d.text(labelWidth+bandsWidth*float64(i)/4, y+18, class, first.Add(last.Sub(first)*time.Duration(i)/4).Format(time.TimeOnly))
	}
}

// shortened cuts a text to length characters, of which the end says most.
func shortened(text string, length int) string {
	if excess := utf8.RuneCountInString(text) - length; excess > 0 {
		return "…" + string([]rune(text)[excess+1:])
	}
	return text
}
