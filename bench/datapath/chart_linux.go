package main

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
)

// Measures of the chart, in its own units.
const (
	chartWidth = 960
	nameWidth  = 270 // of the names of ways
	scale      = 520 // of a ratio of 1
	barHeight  = 14
	rowHeight  = 20
	headHeight = 34
)

// chart is the ratios as an SVG: a group for each load, a bar for each way with the range of the rounds on it, and a line
// where the hosts are.
func (r *result) chart() string {
	ways := slices.DeleteFunc(slices.Clone(r.ways), func(w *way) bool { return !w.shown(speeds) })
	var body strings.Builder
	y := 30
	for _, k := range kinds() {
		by, ratio := "by cost", economy
		if k == stream {
			by, ratio = "by rate", func(t taken) float64 { return t.rate / t.base.rate }
		}
		y += headHeight
		fmt.Fprintf(&body, `<text class="head" x="10" y="%d">%s, %s</text>`+"\n", y-12, k, by)
		top := y
		for _, w := range ways {
			r.bar(&body, w.name, each(w.taken[k], ratio), y)
			y += rowHeight
		}
		fmt.Fprintf(&body, `<line class="hosts" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", nameWidth+scale, top-4, nameWidth+scale, y)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<style>.fast{fill:#0b7285}.kernel{fill:#74b9c7}.peer{fill:#adb5bd}.range{stroke:#212529;stroke-width:1}.hosts{stroke:#c92a2a;stroke-dasharray:4 3}.head{font-weight:bold;font-size:14px}text{fill:#212529}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="10" y="22" font-size="15">Containers, their hosts = 1 (the dashed line): medians of %d rounds, with their range. More is better.</text>
%s</svg>
`, chartWidth, y+16, chartWidth, y+16, r.plan.rounds, body.String())
}

// bar is one way's.
func (r *result) bar(b *strings.Builder, name string, values []float64, y int) {
	var label strings.Builder
	_ = xml.EscapeText(&label, []byte(name)) // into memory
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", nameWidth-8, y+11, &label)
	if len(values) == 0 {
		return
	}
	class := "peer"
	switch {
	case !strings.HasPrefix(name, "Fairlead"):
	case strings.HasSuffix(name, "fast path"):
		class = "fast"
	default:
		class = "kernel"
	}
	at := func(v float64) float64 { return nameWidth + scale*min(v, 1.2) }
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>`+"\n", class, nameWidth, y, at(median(values))-nameWidth, barHeight)
	fmt.Fprintf(b, `<line class="range" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", at(slices.Min(values)), y+barHeight/2, at(slices.Max(values)), y+barHeight/2)
	fmt.Fprintf(b, `<text x="%.1f" y="%d">%.2f</text>`+"\n", at(max(median(values), slices.Max(values)))+6, y+11, median(values))
}
