package tunnel_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
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

	"github.com/fairlead-net/fairlead/tunnel"
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
			have := readable(readInput(t, string(a.Files[0].Data)))
			if os.Getenv("UPDATE") == "1" {
				a.Files = append(a.Files[:1], txtar.File{Name: "rows", Data: []byte(have)})
				must(t, os.WriteFile(file, txtar.Format(a), 0o644))
				return
			}
			if diff := gocmp.Diff(string(a.Files[1].Data), have); diff != "" {
				t.Errorf("rows (-want +have):\n%s", diff)
			}
		})
	}
}

// readInput reads lines such as `hop 198.51.100.3 routed uplink 1500`. A next hop of a remote accepts VXLAN, unless it
// says so itself: 198.51.100.3=ipip,vxlan; so does the kernel.
func readInput(t *testing.T, text string) (in tunnel.Input) {
	t.Helper()
	in.Config = tunnel.Config{VNI: 88, Port: 4789}
	kernel := tunnel.SetOf(tunnel.VXLAN)
	defer func() { in.Underlay.Tunnels = kernel }()
	in.Hops = make(map[netip.Addr]tunnel.Hop)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch f[0] {
		case "mode":
			in.Config.Mode = tunnel.Mode(f[1])
		case "kernel":
			kernel = encaps(strings.Join(f[1:], ","))
		case "node":
			in.Underlay = tunnel.Underlay{Dev: f[1], MTU: integer(t, f[2]), Address: addr(f[3])}
			if len(f) > 4 {
				in.Underlay.Address6 = addr(f[4])
			}
		case "ra":
			in.Underlay.RA = f[1:]
		case "mtu":
			in.MTU = integer(t, f[1])
		case "pool":
			in.Pools = append(in.Pools, prefix(f[1]))
		case "block":
			in.Blocks = append(in.Blocks, prefix(f[1]))
		case "attached":
			in.Attached = append(in.Attached, tunnel.Attached{Dev: f[1], IP: addr(f[2]), MAC: tunnel.MAC{2, 1, 2, 3, 4, 5}})
		case "hop":
			hop := tunnel.Hop{Reachable: true, OnLink: f[2] == "on-link", Dev: f[3], MTU: integer(t, f[4])}
			if len(f) > 5 { // "path" and what it carries
				hop.PathMTU = integer(t, f[6])
			}
			in.Hops[addr(f[1])] = hop
		case "remote":
			r := tunnel.Remote{Prefix: prefix(f[1])}
			for _, nh := range f[2:] {
				r.Ends = append(r.Ends, endOf(nh))
			}
			in.Remotes = append(in.Remotes, r)
		default:
			t.Fatalf("input line %q", line)
		}
	}
	return in
}

// endOf reads a next hop and what it accepts.
func endOf(text string) tunnel.End {
	nh, accepts, told := strings.Cut(text, "=")
	if !told {
		accepts = "vxlan"
	}
	return tunnel.End{Addr: addr(nh), Accepts: encaps(accepts)}
}

func encaps(list string) (s tunnel.Encaps) {
	for e := range strings.SplitSeq(list, ",") {
		s |= tunnel.SetOf(tunnel.Encap(e))
	}
	return s
}

func integer(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// readable is the plan as text, one row on a line.
func readable(in tunnel.Input) string {
	r := tunnel.Plan(in)
	var b strings.Builder
	fmt.Fprintf(&b, "container mtu %d\n", tunnel.ContainerMTU(in))
	write(&b, "device %v: %v\n", r.Devices, cmp.Compare[string])
	write(&b, "fdb %v: %v\n", r.FDB, byText)
	write(&b, "neighbour %v: %v\n", r.Neighbours, byText)
	write(&b, "route %v: %v\n", r.Routes, func(a, b tunnel.RouteKey) int {
		return cmp.Or(-cmp.Compare(a.Table, b.Table), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	write(&b, "rule from %v: %v\n", r.Rules, byText)
	write(&b, "sysctl %v = %v\n", r.Sysctls, cmp.Compare[string])
	for _, p := range r.Paths {
		fmt.Fprintf(&b, "path %v: %s via %v dev %q mtu %d %s\n", p.Prefix, cmp.Or(string(p.Encap), "none"), p.Via, p.Dev, p.MTU, p.Reason)
	}
	return b.String()
}

func byText[K any](a, b K) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }

func write[K comparable, V any](b *strings.Builder, format string, rows map[K]V, order func(a, b K) int) {
	for _, k := range slices.SortedFunc(maps.Keys(rows), order) {
		fmt.Fprintf(b, format, k, rows[k])
	}
}

// drawInput makes up a site: nodes of one or both families, on-link or not or not reachable.
func drawInput(t *rapid.T) tunnel.Input {
	in := tunnel.Input{
		Config: tunnel.Config{
			Mode: rapid.SampledFrom(modes()).Draw(t, "mode"),
			VNI:  88, Port: 4789,
		},
		Pools:  []netip.Prefix{prefix("10.88.0.0/16"), prefix("2001:db8:88::/48")},
		Blocks: []netip.Prefix{prefix("10.88.1.0/24"), prefix("2001:db8:88:1::/64")},
		Underlay: tunnel.Underlay{
			Dev: "uplink", MTU: 1500, Address: addr("192.0.2.1"), Tunnels: tunnel.Encaps(rapid.IntRange(0, 7).Draw(t, "kernel")),
		},
		Hops: make(map[netip.Addr]tunnel.Hop),
	}
	if rapid.Bool().Draw(t, "dual") {
		in.Underlay.Address6 = addr("2001:db8:1::1")
	}
	var nodes []netip.Addr
	for i := range rapid.IntRange(0, 12).Draw(t, "nodes") {
		nh := netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 2)})
		if rapid.Bool().Draw(t, "six") {
			nh = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(i + 2)})
		}
		if rapid.IntRange(0, 4).Draw(t, "liar") == 0 { // it lies in what may be a block or a prefix of the site
			nh = netip.AddrFrom4([4]byte{10, 88, byte(i), 1})
		}
		nodes = append(nodes, nh)
		in.Hops[nh] = tunnel.Hop{
			Reachable: rapid.IntRange(0, 4).Draw(t, "reachable") > 0,
			OnLink:    rapid.Bool().Draw(t, "onlink"),
			Dev:       "uplink",
			MTU:       rapid.SampledFrom([]int{1400, 1500, 9000}).Draw(t, "mtu"),
			PathMTU:   rapid.SampledFrom([]int{0, 552, 1330, 1500}).Draw(t, "path mtu"),
		}
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "remotes") {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(i), 0}), 24)
		if i%2 == 1 {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0x88, 0, byte(i)}), 64)
		}
		r := tunnel.Remote{Prefix: p}
		for _, nh := range nodes {
			if rapid.Bool().Draw(t, "serves") {
				accepts := tunnel.Encaps(rapid.IntRange(0, 7).Draw(t, "accepts"))
				r.Ends = append(r.Ends, tunnel.End{Addr: nh, Accepts: accepts})
			}
		}
		in.Remotes = append(in.Remotes, r)
	}
	return in
}

func TestPlanDoesNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		first := readable(in)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r.Shuffle(len(in.Remotes), func(i, j int) { in.Remotes[i], in.Remotes[j] = in.Remotes[j], in.Remotes[i] })
		for _, m := range in.Remotes {
			r.Shuffle(len(m.Ends), func(i, j int) { m.Ends[i], m.Ends[j] = m.Ends[j], m.Ends[i] })
		}
		if diff := gocmp.Diff(first, readable(in)); diff != "" {
			t.Fatalf("another order, another plan:\n%s", diff)
		}
	})
}

// Every route stands on something, and everything is stood upon.
func TestPlanIsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		rows := tunnel.Plan(in)
		used := make(map[tunnel.NeighKey]bool)
		for k, r := range rows.Routes {
			for _, h := range r.Used() {
				if !tunnel.IsDevice(h.Dev) {
					continue
				}
				if _, ok := rows.Devices[h.Dev]; !ok {
					t.Fatalf("route %v: %v: no such device", k, r)
				}
				n := tunnel.NeighKey{Dev: h.Dev, IP: h.Via}
				if end, ok := leads(rows, n); !ok || in.Hops[end] == (tunnel.Hop{}) {
					t.Fatalf("route %v: %v leads to %v", k, r, end)
				}
				used[n] = true
			}
		}
		for n := range rows.Neighbours {
			if !used[n] {
				t.Fatalf("neighbour %v is of no use", n)
			}
		}
		for _, p := range rows.Paths {
			_, routed := rows.Routes[tunnel.RouteKey{Table: tunnel.Main, Prefix: p.Prefix}]
			if (p.Encap == "") == (p.Reason == "") || p.Encap != "" && (!routed || p.MTU == 0 || p.Dev == "") {
				t.Fatalf("path %+v", p)
			}
		}
		if len(rows.Paths) != len(in.Remotes) {
			t.Fatalf("%d paths of %d remotes", len(rows.Paths), len(in.Remotes))
		}
	})
}

// leads follows a gateway on a tunnel device to the tunnel end.
func leads(rows tunnel.Rows, n tunnel.NeighKey) (end netip.Addr, ok bool) {
	address, known := rows.Neighbours[n]
	switch n.Dev {
	case tunnel.DeviceIPIP:
		return n.IP, !known
	case tunnel.DeviceGRE:
		return netip.AddrFrom4([4]byte(address[:4])), known
	default:
		end, ok = rows.FDB[tunnel.FDBKey{Dev: n.Dev, MAC: address}]
		return end, ok && tunnel.VTEPMAC(end) == address
	}
}

// The routes of a plan do not change what it was made from: where they lead to a next hop, the kernel calls it
// unreachable from then on, and the next plan must be the same.
func TestPlanStandsOnItsOwnRoutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		first := readable(in)
		routes := tunnel.Plan(in).Routes
		maps.DeleteFunc(in.Hops, func(nh netip.Addr, _ tunnel.Hop) bool {
			for k := range routes {
				if k.Table == tunnel.Main && k.Prefix.Contains(nh) {
					return true
				}
			}
			return false
		})
		if diff := gocmp.Diff(first, readable(in)); diff != "" {
			t.Fatalf("the plan does not stand:\n%s", diff)
		}
	})
}

// BenchmarkPlan plans a site of 1,000 peers, their prefixes of three lengths.
func BenchmarkPlan(b *testing.B) {
	in := tunnel.Input{
		Config:   tunnel.Config{Mode: tunnel.ModeAuto, VNI: 88, Port: 4789},
		Underlay: tunnel.Underlay{Dev: "uplink", MTU: 1500, Address: addr("192.0.2.1"), Tunnels: tunnel.SetOf(tunnel.VXLAN)},
		Hops:     make(map[netip.Addr]tunnel.Hop),
	}
	for i := range 1000 {
		nh := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		in.Hops[nh] = tunnel.Hop{Reachable: true, Dev: "uplink", MTU: 1500}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24+i%3)
		in.Remotes = append(in.Remotes, tunnel.Remote{Prefix: p, Ends: []tunnel.End{{Addr: nh, Accepts: tunnel.SetOf(tunnel.VXLAN)}}})
	}
	for b.Loop() {
		tunnel.Plan(in)
	}
}
