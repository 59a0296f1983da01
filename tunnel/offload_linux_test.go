package tunnel_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/tunnel"
)

// pair is two hosts with a VXLAN device each, and a network card between them that can be sick.
type pair struct {
	a, b host
	card *nettest.Card
}

func newPair(t *testing.T) pair {
	t.Helper()
	middle := nettest.NewHost(t, "card")
	p := pair{a: host{Host: nettest.NewHost(t, "a")}, b: host{Host: nettest.NewHost(t, "b")}}
	for h, own := range map[*host]string{&p.a: "192.0.2.1", &p.b: "192.0.2.2"} {
		nettest.Wire(t, h.Host, "uplink", middle, "to-"+h.Name)
		h.IP("addr add " + own + "/24 dev uplink")
		h.IP("-6 addr add 2001:db8:1::" + own[len(own)-1:] + "/64 dev uplink nodad")
		h.k = open(t, h.Host)
		settle(t, h.k.Devices(), map[string]tunnel.Device{tunnel.DeviceVXLAN: device(own)})
	}
	p.card = middle.Card("to-a", "to-b")
	mac := tunnel.VTEPMAC(addr("192.0.2.2"))
	must(t, p.a.k.Neighbours().Put(t.Context(), tunnel.NeighKey{Dev: tunnel.DeviceVXLAN, IP: addr("192.0.2.2")}, mac))
	must(t, p.a.k.FDB().Put(t.Context(), tunnel.FDBKey{Dev: tunnel.DeviceVXLAN, MAC: mac}, addr("192.0.2.2")))
	eventually(t, "the cable has settled", func() bool { _, err := p.a.Try("ping", "-c1", "-W1", "192.0.2.2"); return err == nil })
	return p
}

// wants probes from a to b, which must not take longer than is said.
func (p pair) wants(t *testing.T, want tunnel.Verdict) {
	t.Helper()
	begun := time.Now()
	got, err := p.a.k.ProbeOffload(t.Context(), tunnel.DeviceVXLAN, addr("192.0.2.1"), addr("192.0.2.2"))
	if err != nil || got != want {
		t.Errorf("verdict %s, %v, want %s", got, err, want)
	}
	if took := time.Since(begun); took > 4*time.Second { // 2 s, and a machine that has other things to do
		t.Errorf("took %v", took)
	}
}

func (p pair) offload(t *testing.T, want tunnel.Offload) {
	t.Helper()
	if got, err := p.a.k.ReadOffload(tunnel.DeviceVXLAN); err != nil || got != want {
		t.Errorf("checksum offload %s, %v, want %s", got, err, want)
	}
}

func TestASoundCardIsFoundGood(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	wire := p.a.Tap("uplink")
	p.wants(t, tunnel.VerdictGood)
	seen := wire.Stop()
	out := 0
	for packet, n := range seen {
		if src, dst := packet.Ends(); src == addr("192.0.2.1") && dst == addr("192.0.2.2") && packet.Src == src {
			out += n
			if packet.InnerSrc != src {
				t.Errorf("not in the tunnel: %v", packet)
			}
		}
	}
	if out != 2 { // a small and a large one
		t.Errorf("%d questions:\n%s", out, nettest.Print(seen))
	}
}

func TestASickCardIsFoundBadAndDoesNoHarmWithTheOffloadOff(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	// Behind the tunnel: b's answer comes in the open, where the card does its work.
	p.b.IP("addr add 10.88.2.7/32 dev lo")
	p.b.Serve(addr("10.88.2.7"))
	p.a.IP("route add 10.88.2.7/32 via 192.0.2.2 dev flvxlan onlink src 192.0.2.1")
	p.card.Set(nettest.Corrupting)
	p.wants(t, tunnel.VerdictBad)
	if sight, err := p.a.Ask(addr("10.88.2.7")); err == nil {
		t.Fatalf("the card spoils nothing: %v", sight)
	}
	must(t, p.a.k.SetOffload(tunnel.DeviceVXLAN, tunnel.OffloadOff))
	p.offload(t, tunnel.OffloadOff)
	if _, err := p.a.Ask(addr("10.88.2.7")); err != nil {
		t.Errorf("with the offload off: %v", err)
	}
	p.wants(t, tunnel.VerdictUnknown) // there is nothing to be found out any more
	p.card.Set(nettest.Sound)
	p.wants(t, tunnel.VerdictUnknown)
	p.offload(t, tunnel.OffloadOff) // a test changes nothing
}

func TestACardThatSpoilsLargePacketsOnlyIsFoundBad(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	// What the kernel knows of the path must not make it cut the question to pieces, which it would sum up itself.
	p.a.IP("rule add oif flvxlan lookup 77")
	p.a.IP("route add 192.0.2.2/32 dev flvxlan mtu 1400 table 77")
	p.card.Set(nettest.Overrun)
	p.wants(t, tunnel.VerdictBad)
}

func TestWhoIsSilentProvesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		health nettest.Health
		spoil  func(p pair)
		want   tunnel.Verdict
	}{
		"dead path":                 {nettest.Deaf, func(pair) {}, tunnel.VerdictUnknown},
		"no such peer":              {nettest.Sound, func(p pair) { p.a.IP("neigh del 192.0.2.2 dev flvxlan") }, tunnel.VerdictUnknown},
		"peer has no tunnel":        {nettest.Sound, func(p pair) { p.b.IP("link del flvxlan") }, tunnel.VerdictUnknown},
		"peer drops":                {nettest.Corrupting, func(p pair) { p.b.Run("iptables", "-A", "INPUT", "-i", "flvxlan", "-j", "DROP") }, tunnel.VerdictUnknown},
		"we take only what is ours": {nettest.Sound, takesRelated, tunnel.VerdictGood},
		"peer's filter is loose":    {nettest.Sound, loose, tunnel.VerdictGood},
		"peer answers only twice":   {nettest.Corrupting, answersTwice, tunnel.VerdictUnknown},
		"full frames are lost":      {nettest.Sound, func(p pair) { p.b.IP("link set uplink mtu 1350") }, tunnel.VerdictGood},
		"the path carries less":     {nettest.Sound, func(p pair) { p.a.IP("route add 192.0.2.2/32 dev uplink mtu 1400") }, tunnel.VerdictGood},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.card.Set(c.health)
			c.spoil(p)
			p.wants(t, c.want)
		})
	}
}

// TestAFirewallThatRejectsProvesNothing: it answers before the checksum is looked at.
func TestAFirewallThatRejectsProvesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.b.Run("iptables", "-A", "INPUT", "-i", "flvxlan", "-j", "REJECT", "--reject-with", "icmp-admin-prohibited")
	for _, h := range []nettest.Health{nettest.Sound, nettest.Corrupting} {
		p.card.Set(h)
		v, err := p.a.k.ProbeOffload(t.Context(), tunnel.DeviceVXLAN, addr("192.0.2.1"), addr("192.0.2.2"))
		if v != tunnel.VerdictUnknown || !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("verdict %s, %v", v, err)
		}
	}
}

// takesRelated makes a a host with a firewall that lets in only what belongs to what went out.
func takesRelated(p pair) {
	p.a.Run("iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
	p.a.Run("iptables", "-P", "INPUT", "DROP")
}

// loose makes b filter as the plan wants it on a host that is strict elsewhere. Its answers to the tunnel go in the open.
func loose(p pair) {
	p.b.Sysctl("net/ipv4/conf/all/rp_filter", "1")
	p.b.Sysctl("net/ipv4/conf/flvxlan/rp_filter", "2")
}

// answersTwice lets b give an answer in 25 s. The kernel gives who is new what it had saved in a minute: two, and the third
// is due 15 s later.
func answersTwice(p pair) { p.b.Sysctl("net/ipv4/icmp_ratelimit", "25000") }

func TestAProbeEndsWithItsContextAndNeedsItsDevice(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.card.Set(nettest.Deaf)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begun := time.Now()
	if v, _ := p.a.k.ProbeOffload(ctx, tunnel.DeviceVXLAN, addr("192.0.2.1"), addr("192.0.2.2")); v != tunnel.VerdictUnknown {
		t.Errorf("a probe that was called off says %s", v)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("called off, and took %v", took)
	}
	for _, c := range []struct{ dev, from, peer, complaint string }{
		{"flvxlan6", "192.0.2.1", "192.0.2.2", "no such device"},
		{"flvxlan", "192.0.2.9", "192.0.2.2", "cannot assign requested address"},
		{"flvxlan", "2001:db8:1::1", "2001:db8:1::2", ""},
	} {
		v, err := p.a.k.ProbeOffload(t.Context(), c.dev, netip.MustParseAddr(c.from), netip.MustParseAddr(c.peer))
		if said := errorText(err); v != tunnel.VerdictUnknown || !strings.Contains(said, c.complaint) || c.complaint == "" && said != "" {
			t.Errorf("%s to %s: %s, %q, want an error with %q", c.dev, c.peer, v, said, c.complaint)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTheOffloadIsReadAndSetAsEthtoolSees(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	shown := func(feature string) string {
		for line := range strings.Lines(p.a.Run("ethtool", "-k", tunnel.DeviceVXLAN)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), feature+": "); ok {
				return strings.Fields(rest)[0]
			}
		}
		return ""
	}
	for _, o := range []tunnel.Offload{tunnel.OffloadOn, tunnel.OffloadOff, tunnel.OffloadOff, tunnel.OffloadOn} {
		must(t, p.a.k.SetOffload(tunnel.DeviceVXLAN, o))
		p.offload(t, o)
		for _, feature := range []string{"tx-checksumming", "tx-tcp-segmentation"} {
			if got := shown(feature); got != string(o) {
				t.Errorf("turned %s: ethtool says %s is %q", o, feature, got)
			}
		}
	}
	p.a.Run("ethtool", "-K", tunnel.DeviceVXLAN, "tx", "off")
	p.offload(t, tunnel.OffloadOff)
	if _, err := p.a.k.ReadOffload("flvxlan6"); err == nil {
		t.Error("read of a device that is not there")
	}
}
