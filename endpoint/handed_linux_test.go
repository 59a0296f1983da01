package endpoint_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nettest"
)

// handedRow is a dual-stack endpoint whose inside somebody else takes.
func handedRow(l *lab, name string, n int) endpoint.Row {
	r := l.row(name, l.host, n)
	r.NetNS, r.NSInode, r.IfName = "", 0, endpoint.PeerIf(name)
	r.Gateway4, r.Gateway6 = netip.MustParseAddr("169.254.88.2"), netip.MustParseAddr("fe80::58:2")
	return r
}

// takeOver does to the inside of a pair what Docker does.
func takeOver(l *lab, c *nettest.Host, r endpoint.Row) {
	l.t.Helper()
	l.host.IP("link set " + r.IfName + " netns " + netnsName(c))
	c.Batch("link set "+r.IfName+" name eth0", "addr add "+r.IP4.String()+"/32 dev eth0",
		"link set eth0 up", "link set lo up", "route add "+r.Gateway4.String()+" dev eth0", "route add default via "+r.Gateway4.String(),
		"-6 addr add "+r.IP6.String()+"/128 dev eth0 nodad", "-6 route add "+r.Gateway6.String()+" dev eth0",
		"-6 route add default via "+r.Gateway6.String()+" dev eth0")
}

func TestHandedOver(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	l.host.Batch("link add up0 type veth peer name up1", "link set up0 up", "link set up1 up", "addr add 192.0.2.1/24 dev up0",
		"-6 addr add 2001:db8:1::1/64 dev up0 nodad")
	r := handedRow(l, "web", 1)
	l.put(r)
	got, _ := l.list(r)
	sameRow(t, r, got)
	wantLoose(t, l, r, true)
	if out := show(l.host, "-o link show "+r.IfName); strings.Contains(out, ",UP") || !strings.Contains(out, r.MAC.String()) {
		t.Errorf("the inside should wait down, with its hardware address: %s", out)
	}
	takeOver(l, c, r)
	wantLoose(t, l, r, false)
	l.hostRoutes(r)
	for _, there := range []string{"192.0.2.1", "2001:db8:1::1", r.Gateway4.String()} {
		datagram(t, c, l.host, there)
	}
	datagram(t, l.host, c, r.IP4.String())
	datagram(t, l.host, c, r.IP6.String())
	if from := show(l.host, "route get "+r.IP4.String()); strings.Contains(from, "169.254") {
		t.Errorf("the host would speak as the gateway: %s", from)
	}
	index := ifindex(l.host, r.HostIf)
	for _, disturb := range []string{
		"addr del 169.254.88.2/32 dev " + r.HostIf, "-6 addr del fe80::58:2/64 dev " + r.HostIf, "link set " + r.HostIf + " down",
	} {
		l.host.Batch(disturb)
		drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r})
		if got, _ := l.list(r); err != nil || got == r && !slices.Equal(drifted, []string{r.HostIf}) {
			t.Errorf("after %s: Inspect = %v, %v", disturb, drifted, err)
		}
		if err := l.links.Mend(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r}); err != nil || len(drifted) != 0 {
			t.Errorf("mended: Inspect = %v, %v", drifted, err)
		}
		l.hostRoutes(r)
		datagram(t, c, l.host, "192.0.2.1")
		datagram(t, c, l.host, "2001:db8:1::1")
	}
	quiet := watch(t, l.host, c)
	l.put(r)
	quiet()
	if again := ifindex(l.host, r.HostIf); again != index {
		t.Errorf("the link was made anew: index %s, then %s", index, again)
	}
	if err := l.links.Delete(t.Context(), r.HostIf); err != nil {
		t.Fatal(err)
	}
	if out := show(c, "-o link show"); strings.Contains(out, "eth0") {
		t.Errorf("the inside is still there: %s", out)
	}
	wantLoose(t, l, r, true)
}

func wantLoose(t *testing.T, l *lab, r endpoint.Row, want bool) {
	t.Helper()
	loose, err := l.links.Loose(t.Context(), []string{r.HostIf})
	if err != nil || loose[r.HostIf] != want {
		t.Errorf("Loose = %v, %v, want %v", loose, err, want)
	}
}

// A row with another address or hardware address is another pair: the old one has the old ones inside.
func TestHandedOverAnew(t *testing.T) {
	l := newLab(t)
	r := handedRow(l, "web", 1)
	l.put(r)
	index := ifindex(l.host, r.HostIf)
	r.MAC = endpoint.MAC{2, 3, 4, 5, 6, 7}
	l.put(r)
	if ifindex(l.host, r.HostIf) == index {
		t.Error("the pair is the old one")
	}
	got, _ := l.list(r)
	sameRow(t, r, got)
}

func TestHandedOverBesideAStranger(t *testing.T) {
	l := newLab(t)
	r := handedRow(l, "web", 1)
	l.host.IP("link add " + r.IfName + " type bridge")
	err := l.links.Put(t.Context(), r.HostIf, r)
	if err == nil || !strings.Contains(err.Error(), "ip link del "+r.IfName) {
		t.Errorf("Put = %v", err)
	}
	if _, there := l.list(r); there {
		t.Error("half a pair is left")
	}
}
