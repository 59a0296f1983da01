package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// some is a result of two rounds: ways with ratios of rate and cost to their hosts.
func some(ways map[string]float64) *result {
	r := &result{gauge: &gauge{event: "cycles"}, plan: plan{rounds: 2}, bases: map[bool]*way{false: {name: "cable"}, true: {name: "router"}}}
	for _, w := range all() {
		ratio, there := ways[w.name]
		if !there {
			w.missing = errors.New("left out | of this\ntest, /in/some/file.go")
		}
		for _, k := range kinds() {
			for _, noise := range []float64{0.99, 1.01} {
				if there {
					w.taken[k] = append(w.taken[k], taken{sample{rate: ratio * noise * 1000, cost: 10 / ratio / noise}, sample{rate: 1000, cost: 10}})
				}
			}
		}
		r.ways = append(r.ways, w)
	}
	return r
}

func TestRatiosAreThoseToTheHostsOrToTheOtherWay(t *testing.T) {
	r := some(map[string]float64{fastVXLAN: 0.9, flannelVXLAN: 0.5})
	for _, c := range []struct {
		target
		want float64
	}{
		{target{way: fastVXLAN, load: stream}, 0.9},
		{target{way: fastVXLAN, load: tcpRR, against: flannelVXLAN}, 1.8},
	} {
		for name, of := range map[string]func(taken) float64{"cost": economy, "rate": func(t taken) float64 { return t.rate / t.base.rate }} {
			if got := median(r.ratios(c.target, of)); math.Abs(got-c.want) > 0.001 {
				t.Errorf("%s of %+v is %.3f, want %.3f", name, c.target, got, c.want)
			}
		}
	}
	if got := r.ratios(target{way: fastVXLAN, load: tcpRR, against: dockerOverlay}, economy); len(got) > 0 {
		t.Errorf("against a way that was left out there are ratios %v", got)
	}
}

func TestVerdicts(t *testing.T) {
	hosts, peer := target{least: 0.9}, target{least: 1.8, against: flannelVXLAN}
	for _, c := range []struct {
		target
		got  float64
		want string
	}{
		{hosts, 0.9, "reached"}, {hosts, 0.87, "missed by less than 0.04"}, {hosts, 0.8, "missed"},
		{peer, 1.8, "reached"}, {peer, 1.79, "missed"},
	} {
		if got := c.verdict([]float64{c.got}); got != c.want {
			t.Errorf("%.2f of %.2f is %q, want %q", c.got, c.least, got, c.want)
		}
	}
	if got := hosts.verdict(nil); got != "not measured" {
		t.Errorf("nothing is %q", got)
	}
}

func TestReportSaysWhatIsMissing(t *testing.T) {
	text := some(map[string]float64{fastVXLAN: 0.9, mappingName("iptables", 1): 0.7}).report()
	for _, want := range []string{
		"| " + flannelVXLAN + " | left out / of this |\n",
		"| " + fastVXLAN + " | TCP stream | hosts | 0.84 | 0.90 (0.89 to 0.91) | 0.90 (0.89 to 0.91) | reached |\n",
		"| " + fastDirect + " | TCP_RR | hosts | 0.90 |  |  | not measured |\n",
		"| iptables | 1 | 700 | 0.70",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

func TestReasonsNameNoDirectories(t *testing.T) {
	if got, want := short(errors.New("read /tmp/lab-1/a/fairlead.toml:3:1: unknown\nmore")), "read fairlead.toml:3:1: unknown"; got != want {
		t.Errorf("short gives %q, want %q", got, want)
	}
}

func TestChartIsXML(t *testing.T) {
	chart := some(map[string]float64{fastVXLAN: 0.9, dockerOverlay: 0.4}).chart()
	bars := 0
	for d := xml.NewDecoder(strings.NewReader(chart)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, chart)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if want := 2*len(kinds()) + 1; bars != want { // and the ground
		t.Errorf("the chart has %d rectangles, want %d", bars, want)
	}
}
