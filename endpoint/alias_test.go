package endpoint

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAliasReads(t *testing.T) {
	r := Row{
		Name: "web 1", HostIf: HostIf("web 1"), NetNS: "/run/netns/web 1", IfName: "eth0", NSInode: 4026532345,
		IP4: netip.MustParseAddr("10.88.1.5"), IP6: netip.MustParseAddr("2001:db8:88::5"), MTU: 1450,
	}
	r.MAC = ContainerMAC(r.IP4)
	want := "fairlead web%201 eth0 10.88.1.5,2001:db8:88::5 02:58:0a:58:01:05 4026532345 /run/netns/web%201"
	if got := r.alias(); got != want {
		t.Errorf("alias = %s\n   want %s", got, want)
	}
}

// Names as long as the agent takes them come back whole with the paths that container engines use.
func TestAliasHoldsLongNames(t *testing.T) {
	for _, path := range []string{"/run/netns/" + strings.Repeat("n", 128), "/proc/4194304/ns/net", "/run/docker/netns/0123456789ab"} {
		r := Row{
			Name: strings.Repeat("n", 128), NetNS: path, IfName: "fifteen-letters", NSInode: 4294967295,
			IP4: netip.MustParseAddr("255.255.255.255"), IP6: netip.MustParseAddr("2001:db8:8888:8888:8888:8888:8888:8888"),
		}
		r.MAC = ContainerMAC(r.IP4)
		if r.truncated() {
			t.Errorf("%s does not fit: %s", path, r.alias())
		}
	}
}

// A row comes back whole whenever it fits; when it does not, what is left still fits and still belongs to its link.
func TestAliasComesBackOrIsHashed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Row{
			Name:    rapid.StringN(1, -1, 400).Draw(t, "name"),
			NetNS:   "/" + rapid.StringN(0, -1, 400).Draw(t, "path"),
			IfName:  rapid.StringMatching(`[a-z][a-z0-9_.-]{0,14}`).Draw(t, "ifname"),
			NSInode: rapid.Uint64().Draw(t, "inode"),
		}
		if rapid.Bool().Draw(t, "v4") {
			r.IP4 = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "ip4")))
		}
		b6 := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip6"))
		if b6[0] = 0x20; rapid.Bool().Draw(t, "v6") || !r.IP4.IsValid() {
			r.IP6 = netip.AddrFrom16(b6)
		}
		r.MAC = ContainerMAC(r.addrs()[0])
		if rapid.Bool().Draw(t, "other mac") {
			r.MAC[5]++
		}
		if rapid.Bool().Draw(t, "named") {
			r.NetNS = namedNetNS + "/" + r.Name
		}
		if rapid.Bool().Draw(t, "handed over") {
			r.NetNS, r.NSInode = "", 0
			if r.IP4.IsValid() {
				r.Gateway4 = netip.AddrFrom4([4]byte{169, 254, b6[1], b6[2]})
			}
			if r.IP6.IsValid() {
				r.Gateway6 = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: b6[3]})
			}
		}
		s := r.alias()
		if len(s) > aliasMax {
			t.Fatalf("alias of %d bytes: %q", len(s), s)
		}
		got, err := parseAlias(s)
		if err != nil {
			t.Fatal(err)
		}
		if !got.names(HostIf(r.Name)) {
			t.Fatalf("alias %q does not name the link of %q", s, r.Name)
		}
		if r.truncated() {
			got.Name, got.NetNS = r.Name, r.NetNS
		}
		if got != r {
			t.Fatalf("alias %q\n got %+v\nwant %+v", s, got, r)
		}
	})
}

func TestAliasOfStrangersIsNotOurs(t *testing.T) {
	for _, s := range []string{
		"", "fairlead", "uplink to rack 7", "fairlead a b c d e f", "fairlead %zz eth0 10.88.0.1 02:58:0a:58:00:01 1 /x",
		"fairlead a eth0 10.88.0.1 02:58:0a:58:00:01:ff:ff 1 /x", "fairlead a eth0 , 02:58:0a:58:00:01 1 /x",
	} {
		if r, err := parseAlias(s); err == nil {
			t.Errorf("parseAlias(%q) = %+v", s, r)
		}
	}
}

func TestRowCheckRefusesWhatTheKernelMustNotSee(t *testing.T) {
	good := Row{Name: "a", HostIf: HostIf("a"), NetNS: "/run/netns/a", IfName: "eth0", MTU: 1500,
		IP4: netip.MustParseAddr("10.88.0.1"), MAC: MAC{2}}
	if err := good.check(HostIf("a")); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*Row){
		"does not belong": func(r *Row) { r.Name = "b" },
		"absolute":        func(r *Row) { r.NetNS = "a" },
		"interface name":  func(r *Row) { r.IfName = "all" },
		"no address":      func(r *Row) { r.IP4 = netip.Addr{} },
		"not an IPv4":     func(r *Row) { r.IP4 = netip.MustParseAddr("::1") },
		"not an IPv6":     func(r *Row) { r.IP6 = netip.MustParseAddr("10.88.0.1") },
		"hardware":        func(r *Row) { r.MAC = MAC{1} },
		"want 1280":       func(r *Row) { r.IP6, r.MTU = netip.MustParseAddr("2001:db8::1"), 1279 },
		"want 68":         func(r *Row) { r.MTU = 0 },
	} {
		r := good
		spoil(&r)
		if err := r.check(HostIf("a")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check = %v, want %q", err, want)
		}
	}
	for _, name := range []string{"", "..", ".", "a/b", "../all", "lo", "default", "sixteen-letters-", "a b", "ä", "x\x00"} {
		if plainIfName(name) {
			t.Errorf("plainIfName(%q)", name)
		}
	}
}
