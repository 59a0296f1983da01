package tunnel_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/tunnel"
)

// TestLegs reads testdata/leg/*.txtar, which say what TestPlan's say, and what legs depend on besides.
func TestLegs(t *testing.T) {
	files, err := filepath.Glob("testdata/leg/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			must(t, err)
			have := readableLegs(readLegInput(t, string(a.Files[0].Data)))
			if os.Getenv("UPDATE") == "1" {
				a.Files = append(a.Files[:1], txtar.File{Name: "legs", Data: []byte(have)})
				must(t, os.WriteFile(file, txtar.Format(a), 0o644))
				return
			}
			if diff := gocmp.Diff(string(a.Files[1].Data), have); diff != "" {
				t.Errorf("legs (-want +have):\n%s", diff)
			}
		})
	}
}

// readLegInput takes the lines that readInput does not know.
func readLegInput(t *testing.T, text string) tunnel.Input {
	t.Helper()
	var others strings.Builder
	var lines [][]string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if slices.Contains([]string{"via", "uplinks", "bare", "beside", "foreign"}, f[0]) {
			lines = append(lines, f)
			continue
		}
		others.WriteString(line)
	}
	in := readInput(t, others.String())
	for _, f := range lines {
		switch f[0] {
		case "via": // a next hop, and the neighbour
			hop := in.Hops[addr(f[1])]
			hop.Via = addr(f[2])
			in.Hops[addr(f[1])] = hop
		case "uplinks":
			in.Underlay.Uplinks = f[1:]
		case "bare":
			in.Underlay.Bare = f[1:]
		case "beside":
			in.Beside = encaps(strings.Join(f[1:], ","))
		case "foreign": // a prefix and the metric
			in.Underlay.Foreign = append(in.Underlay.Foreign, tunnel.Foreign{Prefix: prefix(f[1]), Metric: integer(t, f[2])})
		}
	}
	in.Underlay.Foreign = tunnel.SortForeign(in.Underlay.Foreign)
	return in
}

func readableLegs(in tunnel.Input) string {
	var b strings.Builder
	fmt.Fprintf(&b, "accepts %v\ncontainer mtu %d\n", in.Accepts(), tunnel.ContainerMTU(in))
	for _, p := range tunnel.Plan(in).Paths {
		fmt.Fprintf(&b, "path %v: %s mtu %d %s\n", p.Prefix, cmp.Or(string(p.Encap), "none"), p.MTU, p.Reason)
		for _, l := range p.Legs {
			fmt.Fprintf(&b, "\t%s via %v dev %s mtu %d", l.Encap, l.Next, l.Dev, l.MTU)
			if l.Encap != tunnel.Direct {
				fmt.Fprintf(&b, " from %v to %v", l.Local, l.End)
			}
			if l.MAC != (tunnel.MAC{}) {
				fmt.Fprintf(&b, " mac %v", l.MAC)
			}
			fmt.Fprintln(&b)
		}
		if p.Slow != "" {
			fmt.Fprintf(&b, "\tslow: %s\n", p.Slow)
		}
	}
	return b.String()
}

// drawLegInput makes up a site with what legs depend on.
func drawLegInput(t *rapid.T) tunnel.Input {
	in := drawInput(t)
	in.Beside = rapid.SampledFrom([]tunnel.Encaps{0, tunnel.SetOf(tunnel.IPIP), tunnel.SetOf(tunnel.IPIP, tunnel.VXLAN)}).Draw(t, "beside")
	in.Underlay.Uplinks = []string{"point", "uplink"}
	in.Underlay.Bare = []string{"point"}
	for _, nh := range slices.SortedFunc(keys(in.Hops), netip.Addr.Compare) {
		h := in.Hops[nh]
		h.Dev = rapid.SampledFrom([]string{"uplink", "uplink", "uplink", "point", "inner"}).Draw(t, "dev")
		h.Via = nh
		if !h.OnLink {
			gateways := []netip.Addr{addr("192.0.2.254"), addr("fe80::1"), {}}
			h.Via = rapid.SampledFrom(gateways).Draw(t, "via")
		}
		in.Hops[nh] = h
	}
	for range rapid.IntRange(0, 3).Draw(t, "foreign") {
		in.Underlay.Foreign = append(in.Underlay.Foreign, drawForeign(t))
	}
	in.Underlay.Foreign = tunnel.SortForeign(in.Underlay.Foreign)
	return in
}

func drawForeign(t *rapid.T) tunnel.Foreign {
	a := netip.AddrFrom4([4]byte{10, 88, byte(rapid.IntRange(0, 12).Draw(t, "net")), byte(rapid.IntRange(0, 3).Draw(t, "host")) << 6})
	bits := rapid.IntRange(17, 32).Draw(t, "bits")
	if rapid.Bool().Draw(t, "foreign six") {
		a = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0x88, 0, byte(rapid.IntRange(0, 12).Draw(t, "net"))})
		bits = rapid.SampledFrom([]int{48, 63, 64, 65, 128}).Draw(t, "bits six")
	}
	metric := rapid.SampledFrom([]int{0, 87, 88, 89, 1024}).Draw(t, "metric")
	return tunnel.Foreign{Prefix: netip.PrefixFrom(a, bits).Masked(), Metric: metric}
}

func keys[K comparable, V any](m map[K]V) func(yield func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// What is beside the kernel changes nothing that the kernel shall hold, nor what is said of its paths, and never gives
// containers more room.
func TestAForwarderBesideChangesNothingOfTheKernels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawLegInput(t)
		alone := in
		alone.Beside, alone.Underlay.Uplinks, alone.Underlay.Bare, alone.Underlay.Foreign = 0, nil, nil, nil
		with, without := tunnel.Plan(in), tunnel.Plan(alone)
		for _, rows := range []tunnel.Rows{with, without} {
			for i := range rows.Paths {
				rows.Paths[i].Legs, rows.Paths[i].Slow = nil, ""
			}
		}
		if diff := gocmp.Diff(without, with, compareValues); diff != "" {
			t.Fatalf("rows without a forwarder, and with one:\n%s", diff)
		}
		if before, after := tunnel.ContainerMTU(alone), tunnel.ContainerMTU(in); after > before {
			t.Fatalf("the MTU of containers grows from %d to %d", before, after)
		}
		if in.Accepts() != alone.Accepts()|in.Beside&in.Config.Mode.Tunnels() {
			t.Fatalf("accepts %v with %v beside, %v without", in.Accepts(), in.Beside, alone.Accepts())
		}
	})
}

// Legs are what a kernel would do that has all the tunnels, told in the words of the wire. Where there is a way and no leg,
// a word says why.
func TestLegsAreTheWaysOfAKernelThatHasAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawLegInput(t)
		full := in
		full.Underlay.Tunnels |= in.Beside
		able := tunnel.Plan(full)
		for i, p := range tunnel.Plan(in).Paths {
			whole := able.Paths[i]
			if (len(p.Legs) > 0 || p.Slow != "") != (whole.Encap != "") || len(p.Legs) > 0 && p.Slow != "" {
				t.Fatalf("%+v, where all are there: %+v", p, whole)
			}
			if len(p.Legs) == 0 {
				continue
			}
			if len(p.Legs) != len(whole.Via) {
				t.Fatalf("%d legs for the next hops %v", len(p.Legs), whole.Via)
			}
			least := p.Legs[0].MTU
			for j, l := range p.Legs {
				checkLeg(t, in, whole, whole.Via[j], l)
				least = min(least, l.MTU)
			}
			if least != whole.MTU {
				t.Fatalf("%v: %d bytes by legs, %d by the route", p.Prefix, least, whole.MTU)
			}
		}
	})
}

func checkLeg(t *rapid.T, in tunnel.Input, path tunnel.Path, nh netip.Addr, l tunnel.Leg) {
	hop := in.Hops[nh]
	want := tunnel.Leg{Dev: "uplink", Next: hop.Via, Encap: path.Encap, MTU: l.MTU}
	if path.Encap != tunnel.Direct {
		want.Local, want.End = in.Underlay.Address, nh
		if nh.Is6() {
			want.Local = in.Underlay.Address6
		}
	}
	if path.Encap == tunnel.VXLAN {
		want.MAC = tunnel.VTEPMAC(nh)
	}
	if l != want || !l.Next.IsValid() || hop.Dev != "uplink" || l.Encap == tunnel.GRE || l.End.IsValid() && l.Local.Is4() != l.Next.Is4() {
		t.Fatalf("%v by %+v: leg %+v, want %+v", path.Prefix, hop, l, want)
	}
}

// Whatever the routes of others are, Cut finds what going through all of them finds.
func TestCutFindsEveryRouteThatWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(drawForeign), 0, 30).Draw(t, "routes")
		u := tunnel.Underlay{Foreign: tunnel.SortForeign(slices.Clone(all))}
		p := drawForeign(t).Prefix
		want := slices.ContainsFunc(all, func(f tunnel.Foreign) bool {
			narrower := f.Prefix.Bits() > p.Bits() && p.Contains(f.Prefix.Addr())
			return narrower || f.Prefix == p && f.Metric <= tunnel.Metric
		})
		if have := u.Cut(p); have != want {
			t.Fatalf("%v cut by %v: %v", p, all, have)
		}
	})
}

// No address is inside a path with legs when the kernel has a narrower route for it that is not by legs.
func TestLegsAreOfNoAddressThatANarrowerRouteHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawLegInput(t)
		for i, m := range in.Remotes {
			if rapid.Bool().Draw(t, "nested") {
				bits := m.Prefix.Bits() + rapid.IntRange(1, 4).Draw(t, "longer")
				m.Prefix = netip.PrefixFrom(m.Prefix.Addr(), bits)
				m.Ends = in.Remotes[rapid.IntRange(0, i).Draw(t, "like")].Ends
				in.Remotes = append(in.Remotes, m)
			}
		}
		rows := tunnel.Plan(in)
		legged := make(map[netip.Prefix]bool)
		for _, p := range rows.Paths {
			legged[p.Prefix] = len(p.Legs) > 0
		}
		for p, has := range legged {
			for k := range rows.Routes {
				narrower := k.Prefix.Bits() > p.Bits() && p.Contains(k.Prefix.Addr())
				if has && k.Table == tunnel.Main && narrower && !legged[k.Prefix] {
					t.Fatalf("%v has legs, and the kernel a route to %v", p, k.Prefix)
				}
			}
		}
	})
}

func TestLegsDoNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawLegInput(t)
		first := readableLegs(in)
		slices.Reverse(in.Remotes)
		for _, m := range in.Remotes {
			slices.Reverse(m.Ends)
		}
		if diff := gocmp.Diff(first, readableLegs(in)); diff != "" {
			t.Fatalf("another order, other legs:\n%s", diff)
		}
	})
}
