package fastpath_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/fastpath"
)

// TestPlan reads testdata/plan/*.txtar: the section "in" is the input, "rows" is what must come of it. With UPDATE=1 in
// the environment the sections are written anew.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			have := readable(fastpath.Plan(readInput(t, string(a.Files[0].Data))))
			if os.Getenv("UPDATE") == "1" {
				a.Files = append(a.Files[:1], txtar.File{Name: "rows", Data: []byte(have)})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := gocmp.Diff(string(a.Files[1].Data), have); diff != "" {
				t.Errorf("rows (-want +have):\n%s", diff)
			}
		})
	}
}

// readInput reads lines such as `endpoint 10.88.0.1 fla 1500 7` and `route 10.88.1.0/24 direct,192.0.2.2,eth0,1500`, of
// which the hops by a tunnel have the ends of the outer header behind.
func readInput(t *testing.T, text string) (in fastpath.Input) {
	t.Helper()
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch f[0] {
		case "sizes":
			in.Sizes = fastpath.Sizes{Endpoints: number(t, f[1]), Routes: number(t, f[2])}
		case "endpoint":
			a := fastpath.Attached{Address: addrOf(f[1]), Link: f[2], MAC: fastpath.MAC{2, 0, 0, 0, 0, 1}, MTU: number(t, f[3])}
			if len(f) > 4 {
				a.Realm = uint32(number(t, f[4]))
			}
			in.Endpoints = append(in.Endpoints, a)
		case "route":
			m := fastpath.Remote{Prefix: netip.MustParsePrefix(f[1])}
			for _, hop := range f[2:] {
				m.Hops = append(m.Hops, readHop(t, strings.Split(hop, ",")))
			}
			in.Routes = append(in.Routes, m)
		case "node":
			in.Nodes = append(in.Nodes, addrOf(f[1]))
		case "uplinks":
			in.Uplinks = f[1:]
		case "framed":
			in.Framed = f[1:]
		case "bare":
			in.Bare = f[1:]
		case "crosses":
			in.Settings.Flags |= fastpath.Crosses
		case "takes-vxlan":
			in.Settings.Flags |= fastpath.TakesVXLAN
			in.Settings.VNI, in.Settings.Port, in.Settings.Local4 = 88, 4789, addrOf("192.0.2.1")
		default:
			t.Fatalf("what is %q?", line)
		}
	}
	return in
}

func readHop(t *testing.T, f []string) fastpath.Hop {
	t.Helper()
	h := fastpath.Hop{Encap: fastpath.Encap(f[0]), Next: addrOf(f[1]), Link: f[2], MTU: number(t, f[3])}
	if len(f) > 4 {
		h.Local, h.End = addrOf(f[4]), addrOf(f[5])
	}
	if h.Encap == fastpath.VXLAN {
		h.MAC = fastpath.MAC{2, 0, 0, 0, 0, 9}
	}
	return h
}

func readable(r fastpath.Rows) string {
	var s strings.Builder
	writeTable(&s, "endpoint", r.Endpoints, netip.Addr.Compare)
	writeTable(&s, "side", r.Sides, strings.Compare)
	writeTable(&s, "route", r.Routes, netip.Prefix.Compare)
	writeTable(&s, "node", r.Nodes, netip.Addr.Compare)
	writeTable(&s, "settings", r.Settings, strings.Compare)
	hooks := func(a, b fastpath.Hook) int { return cmp.Or(cmp.Compare(a.Link, b.Link), cmp.Compare(a.Way, b.Way)) }
	for _, h := range slices.SortedFunc(maps.Keys(r.Hooks), hooks) {
		fmt.Fprintf(&s, "hook %v: %s\n", h, r.Hooks[h].Program)
	}
	for _, skip := range r.Skipped {
		fmt.Fprintf(&s, "skipped %v: %s\n", skip.Prefix, skip.Reason)
	}
	return s.String()
}

func writeTable[K comparable, V fmt.Stringer](s *strings.Builder, what string, rows map[K]V, order func(a, b K) int) {
	for _, k := range slices.SortedFunc(maps.Keys(rows), order) {
		fmt.Fprintf(s, "%s %v: %v\n", what, k, rows[k])
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestPlanNeverMisleads: whatever the sizes, the longest prefix that the table has for an address is the one that the
// inputs have for it, or says that the kernel has it; and no address of a link is there without the others.
func TestPlanNeverMisleads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in fastpath.Input
		in.Sizes = fastpath.Sizes{Endpoints: rapid.IntRange(1, 6).Draw(t, "endpoints"), Routes: rapid.IntRange(1, 8).Draw(t, "routes")}
		for range rapid.IntRange(0, 8).Draw(t, "addresses") {
			in.Endpoints = append(in.Endpoints, fastpath.Attached{
				Address: drawAddress(t), Link: fmt.Sprintf("l%d", rapid.IntRange(0, 4).Draw(t, "link")), MTU: 1500,
			})
		}
		for range rapid.IntRange(0, 16).Draw(t, "prefixes") {
			in.Routes = append(in.Routes, drawRemote(t))
		}
		slices.SortFunc(in.Routes, func(a, b fastpath.Remote) int { return a.Prefix.Compare(b.Prefix) })
		in.Routes = slices.CompactFunc(in.Routes, func(a, b fastpath.Remote) bool { return a.Prefix == b.Prefix })
		r := fastpath.Plan(in)
		for range 40 {
			a := drawAddress(t)
			if route, found := longest(r.Routes, a); found && route != (fastpath.Route{}) {
				if e := slices.IndexFunc(in.Endpoints, func(e fastpath.Attached) bool { return e.Address == a }); e >= 0 {
					if _, local := r.Endpoints[a]; !local {
						t.Fatalf("%v is here, and goes %v", a, route)
					}
				} else if want := wanted(in, a); route != want {
					t.Fatalf("%v goes %v, want %v", a, route, want)
				}
			}
		}
		if len(r.Routes) > in.Sizes.Routes || len(r.Endpoints) > in.Sizes.Endpoints || len(r.Sides) > in.Sizes.Endpoints {
			t.Fatalf("%d routes, %d addresses, %d links in %+v", len(r.Routes), len(r.Endpoints), len(r.Sides), in.Sizes)
		}
		for _, a := range in.Endpoints {
			_, side := r.Sides[a.Link]
			if e, there := r.Endpoints[a.Address]; side != (there && e.Link == a.Link) {
				t.Fatalf("%v of %s: side %v, address %v", a.Address, a.Link, side, there)
			}
		}
	})
}

func drawAddress(t *rapid.T) netip.Addr {
	return netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b") & 3, 0, rapid.Byte().Draw(t, "d") & 7})
}

func drawRemote(t *rapid.T) fastpath.Remote {
	p, err := drawAddress(t).Prefix(rapid.SampledFrom([]int{8, 15, 16, 29, 30, 32}).Draw(t, "bits"))
	if err != nil {
		t.Fatal(err)
	}
	m := fastpath.Remote{Prefix: p}
	for range rapid.SampledFrom([]int{0, 1, 1, 2, 9}).Draw(t, "hops") {
		next := netip.AddrFrom4([4]byte{192, 0, 2, byte(len(m.Hops) + 1)})
		encap := rapid.SampledFrom([]fastpath.Encap{fastpath.Direct, fastpath.Direct, "gre"}).Draw(t, "encap")
		m.Hops = append(m.Hops, fastpath.Hop{Link: "eth0", MTU: 1500, Encap: encap, Next: next})
	}
	return m
}

func longest(routes map[netip.Prefix]fastpath.Route, a netip.Addr) (best fastpath.Route, found bool) {
	bits := -1
	for p, r := range routes {
		if p.Contains(a) && p.Bits() > bits {
			best, bits, found = r, p.Bits(), true
		}
	}
	return best, found
}

// wanted is what the inputs say of an address, each of the prefixes planned alone.
func wanted(in fastpath.Input, a netip.Addr) fastpath.Route {
	bits, best := -1, fastpath.Remote{}
	for _, m := range in.Routes {
		if m.Prefix.Contains(a) && m.Prefix.Bits() > bits {
			best, bits = m, m.Prefix.Bits()
		}
	}
	return fastpath.Plan(fastpath.Input{Routes: []fastpath.Remote{best}}).Routes[best.Prefix]
}
