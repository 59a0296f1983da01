package bgp

import (
	"fmt"
	"net/netip"
	"testing"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestEncapsAreReadFromExtendedCommunities has what GoBGP may report; what it makes of bytes is held by the sessions of
// the other tests.
func TestEncapsAreReadFromExtendedCommunities(t *testing.T) {
	tunnel := func(number uint32) *anypb.Any { return pack(t, &api.EncapExtended{TunnelType: number}) }
	with := func(all ...*anypb.Any) []*anypb.Any {
		return []*anypb.Any{pack(t, &api.OriginAttribute{}), pack(t, &api.ExtendedCommunitiesAttribute{Communities: all})}
	}
	broken := &anypb.Any{TypeUrl: tunnel(8).GetTypeUrl(), Value: []byte{0xff}}
	cases := []struct {
		name       string
		attributes []*anypb.Any
		want       Encaps
	}{
		{"no attributes", nil, 0},
		{"no communities", []*anypb.Any{pack(t, &api.OriginAttribute{})}, 0},
		{"none in them", with(), 0},
		{"GRE", with(tunnel(2)), GRE},
		{"IP-in-IP", with(tunnel(7)), IPIP},
		{"VXLAN", with(tunnel(8)), VXLAN},
		{"all, in any order", with(tunnel(8), tunnel(2), tunnel(7)), GRE | IPIP | VXLAN},
		{"repeated", with(tunnel(7), tunnel(7), tunnel(7)), IPIP},
		{"unknown ones", with(tunnel(0), tunnel(1), tunnel(99), tunnel(0x0107), tunnel(0x10008)), 0},
		{"unknown beside known", with(tunnel(99), tunnel(8)), VXLAN},
		{"others", with(
			pack(t, &api.TwoOctetAsSpecificExtended{IsTransitive: true, SubType: 2, Asn: 64512, LocalAdmin: 8}),
			pack(t, &api.OpaqueExtended{Value: []byte{0x0c, 0, 0, 0, 0, 0, 8}}), pack(t, &api.ColorExtended{Color: 8}),
			pack(t, &api.UnknownExtended{Type: 3, Value: []byte{0x0c, 0, 0, 0, 0, 0, 8}}), tunnel(7)), IPIP},
		{"broken beside whole", with(broken, tunnel(8)), VXLAN},
		{"nothing where one should be", with(&anypb.Any{}, tunnel(8)), VXLAN},
		{"the attribute is broken", []*anypb.Any{{TypeUrl: with()[1].GetTypeUrl(), Value: []byte{0xff}}}, 0},
		{"twice the attribute", append(with(tunnel(7)), with(tunnel(8))...), IPIP | VXLAN},
		{"nil", []*anypb.Any{nil}, 0},
	}
	for _, c := range cases {
		if got := encaps(c.attributes); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestEverySetOfEncapsIsToldAndRead(t *testing.T) {
	for set := Encaps(0); set <= GRE|IPIP|VXLAN; set++ {
		for prefix, hop := range map[string]string{
			"10.88.1.0/24": "192.0.2.1", "10.88.2.0/24": "2001:db8::1", "2001:db8:88::/64": "::ffff:192.0.2.1",
		} {
			a := Announcement{Prefix: netip.MustParsePrefix(prefix), NextHop: netip.MustParseAddr(hop), Encaps: set}
			p, err := a.encode()
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode(p)
			want := path{prefix: a.Prefix, nextHop: a.NextHop.Unmap(), encaps: set}
			if err != nil || got != want {
				t.Errorf("%+v: %+v, %v", a, got, err)
			}
			communities := 0
			for _, attribute := range p.GetPattrs() {
				if attribute.MessageIs(&api.ExtendedCommunitiesAttribute{}) {
					communities++
				}
			}
			if (communities > 0) != (set > 0) {
				t.Errorf("%+v: %d attributes of extended communities", a, communities)
			}
		}
	}
}

// told is a hop of the reflector with this number; all of them have the same next hop.
func told(reflector byte, set Encaps) hop {
	return hop{
		nextHop: netip.AddrFrom4([4]byte{192, 0, 2, 9}), peer: netip.AddrFrom4([4]byte{192, 0, 2, reflector}), encaps: set,
	}
}

func TestTunnelsThatSeveralPeersTellOfOneNextHop(t *testing.T) {
	cases := []struct {
		name string
		told []Encaps
		want Encaps
	}{
		{"the same", []Encaps{IPIP | VXLAN, IPIP | VXLAN}, IPIP | VXLAN},
		{"one fewer", []Encaps{IPIP | VXLAN, VXLAN}, VXLAN},
		{"one more", []Encaps{VXLAN, IPIP | VXLAN}, VXLAN},
		{"one is silent", []Encaps{0, IPIP | VXLAN}, IPIP | VXLAN},
		{"the other is", []Encaps{VXLAN, 0}, VXLAN},
		{"all are", []Encaps{0, 0}, 0},
		{"nothing in common", []Encaps{IPIP, VXLAN}, IPIP | VXLAN},
		{"three", []Encaps{GRE | IPIP, 0, IPIP | VXLAN}, IPIP},
		{"three with nothing in common", []Encaps{GRE, VXLAN, GRE}, GRE | VXLAN},
	}
	prefix := netip.MustParsePrefix("10.88.9.0/24")
	for _, c := range cases {
		r := make(rib)
		for shift := range c.told { // in whatever order they come
			var paths []path
			for i := range c.told {
				n := (i + shift) % len(c.told)
				h := told(byte(n), c.told[n])
				paths = append(paths, path{prefix: prefix, nextHop: h.nextHop, peer: h.peer, encaps: h.encaps})
			}
			if changed := r.fold(paths, nil); changed != (shift == 0) {
				t.Errorf("%s, told %d times: changed %v", c.name, shift+1, changed)
			}
			got := r.routes(func(netip.Addr) string { return "" })
			want := fmt.Sprintf("[{10.88.9.0/24 [192.0.2.9] [192.0.2.0] [%d] }]", c.want)
			if fmt.Sprint(got) != want {
				t.Errorf("%s: %v, want %s", c.name, got, want)
			}
		}
	}
}

// TestKeptHopLeavesTheOthers: of two reflectors one does not come back, and the other tells all along.
func TestKeptHopLeavesTheOthers(t *testing.T) {
	prefix := netip.MustParsePrefix("10.88.9.0/24")
	first, second := told(1, IPIP|VXLAN), told(2, IPIP|VXLAN)
	tell := func(h hop) path { return path{prefix: prefix, nextHop: h.nextHop, peer: h.peer, encaps: h.encaps} }
	all := func(netip.Prefix, hop) bool { return true }
	show := func(r rib) string { return fmt.Sprint(r.routes(func(netip.Addr) string { return "" })) }
	r := make(rib)
	steps := []struct {
		name string
		do   func() bool // whether it made a difference
		want string
		made bool
	}{
		{"both tell", func() bool { return r.fold([]path{tell(first), tell(second)}, nil) }, "[192.0.2.1] [6]", true},
		{"the first restarts", func() bool { return r.fold([]path{tell(second)}, all) }, "[192.0.2.1] [6]", false},
		{"the node drops a tunnel", func() bool { return r.fold([]path{tell(told(2, VXLAN))}, all) }, "[192.0.2.1] [4]", true},
		{"the first is forgotten", func() bool { changed, _ := r.release(all); return changed }, "[192.0.2.2] [4]", true},
		{"the second restarts", func() bool { return r.fold([]path{{prefix: prefix, withdrawn: true}}, all) }, "[192.0.2.2] [4]", false},
		{"it is forgotten", func() bool { changed, _ := r.release(all); return changed }, "", true},
	}
	for _, s := range steps {
		made, want := s.do(), "[]"
		if s.want != "" {
			want = "[{10.88.9.0/24 [192.0.2.9] " + s.want + " }]"
		}
		if got := show(r); got != want || made != s.made {
			t.Fatalf("%s: %s, made a difference: %v; want %s, %v", s.name, got, made, want, s.made)
		}
	}
}

// TestPathThatCanNotBeReadIsNoPath: what the peer said before is void.
func TestPathThatCanNotBeReadIsNoPath(t *testing.T) {
	a := Announcement{Prefix: netip.MustParsePrefix("10.88.2.0/24"), NextHop: netip.MustParseAddr("192.0.2.2"), Encaps: VXLAN}
	p, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	p.NeighborIp = "192.0.2.2"
	p.Pattrs = nil
	got, err := decode(p)
	if err == nil || !got.withdrawn || got.prefix != a.Prefix || got.peer != a.NextHop {
		t.Errorf("%+v, %v", got, err)
	}
	p.Nlri = &anypb.Any{}
	if got, err := decode(p); err == nil || got.prefix.IsValid() {
		t.Errorf("%+v, %v", got, err)
	}
}
