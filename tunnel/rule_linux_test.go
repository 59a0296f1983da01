package tunnel_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

func TestRulesComeBackAsTheyWerePut(t *testing.T) {
	h := newHost(t)
	h.IP("rule add from 10.88.0.0/16 lookup 88 priority 8800")
	h.IP("rule add from 203.0.113.0/24 lookup 99 priority 9900")
	h.IP("-6 rule add from 2001:db8:88::/48 lookup 99 priority 8800")
	foreign := world(h.Host)
	want := map[netip.Prefix]tunnel.Rule{
		prefix("10.88.0.0/16"):      {Table: tunnel.Table, Priority: tunnel.Priority},
		prefix("2001:db8:88::/48"):  {Table: tunnel.Table, Priority: tunnel.Priority},
		prefix("198.51.100.128/25"): {Table: 1000, Priority: 8801},
	}
	if have := list(t, h.k.Rules()); len(have) != 0 {
		t.Fatalf("foreign rules listed as ours: %v", have)
	}
	settle(t, h.k.Rules(), want)
	for p, r := range want {
		must(t, h.k.Rules().Put(t.Context(), p, r))
	}
	settle(t, h.k.Rules(), want)
	for _, hand := range []string{
		"rule del from 10.88.0.0/16 lookup 88 priority 8800 protocol 88",
		"-6 rule del from 2001:db8:88::/48 lookup 88 priority 8800",
		"rule add from 10.88.0.0/16 lookup 77 priority 7700 protocol 88",
		"rule add from 10.88.0.0/16 iif uplink lookup 88 priority 8800 protocol 88",
		"rule add from 10.88.0.0/16 blackhole priority 8800 protocol 88",
		"rule add from 203.0.113.128/25 lookup 77 priority 7700 protocol 88",
	} {
		h.IP(hand)
		settle(t, h.k.Rules(), want)
	}
	settle(t, h.k.Rules(), map[netip.Prefix]tunnel.Rule{})
	if diff := cmp.Diff(foreign, world(h.Host)); diff != "" {
		t.Errorf("foreign state changed:\n%s", diff)
	}
}

func TestSysctlsAreWrittenOnceAndInOrder(t *testing.T) {
	h := newHost(t)
	want := map[string]string{
		"net/ipv4/ip_forward":               "1",
		"net/ipv6/conf/all/forwarding":      "1",
		"net/ipv6/conf/uplink/accept_ra":    "2",
		"net/ipv6/conf/uplink/keep_addr_on": "1",
	}
	target := h.k.Sysctls(want)
	if err := target.Put(t.Context(), "net/ipv6/conf/uplink/keep_addr_on", "1"); !errors.Is(err, reconcile.ErrWaits) {
		t.Errorf("put a parameter that does not exist: %v", err)
	}
	delete(want, "net/ipv6/conf/uplink/keep_addr_on")
	old, err := h.k.ReadSysctl("net/ipv4/ip_forward")
	if err != nil || old != "0" {
		t.Fatalf("ip_forward at first: %q, %v", old, err)
	}
	// Forwarding by itself brings accept_ra first.
	must(t, target.Put(t.Context(), "net/ipv6/conf/all/forwarding", "1"))
	if ra := sysctl(t, h.Host, "net/ipv6/conf/uplink/accept_ra"); ra != "2" {
		t.Errorf("accept_ra = %s", ra)
	}
	settle(t, h.k.Sysctls(want), want)
	// Writing ip_forward resets accept_redirects; a value that is there is not written.
	h.Sysctl("net/ipv4/conf/uplink/accept_redirects", "1")
	must(t, target.Put(t.Context(), "net/ipv4/ip_forward", "1"))
	if v := sysctl(t, h.Host, "net/ipv4/conf/uplink/accept_redirects"); v != "1" {
		t.Errorf("accept_redirects = %s: ip_forward was written again", v)
	}
	must(t, target.Delete(t.Context(), "net/ipv4/ip_forward"))
}

// TestForwardingIsWhole: two programs that turn forwarding on at the same time can leave it on in name only.
func TestForwardingIsWhole(t *testing.T) {
	const path = "net/ipv4/ip_forward"
	h := newHost(t)
	target := h.k.Sysctls(map[string]string{path: "1"})
	whole := func() bool {
		return sysctl(t, h.Host, path) == "1" && sysctl(t, h.Host, "net/ipv4/conf/default/forwarding") == "1" &&
			sysctl(t, h.Host, "net/ipv4/conf/uplink/forwarding") == "1"
	}
	must(t, target.Put(t.Context(), path, "1"))
	if !whole() {
		t.Fatal("not turned on")
	}
	// A link that an administrator has left out stays so.
	h.Sysctl("net/ipv4/conf/uplink/forwarding", "0")
	h.Sysctl("net/ipv4/conf/default/forwarding", "0")
	if have, err := target.List(t.Context()); err != nil || have[path] != "1" {
		t.Errorf("with a link left out: %v, %v", have, err)
	}
	h.Sysctl("net/ipv4/conf/lo/forwarding", "0") // as the kernel leaves it behind
	if have, err := target.List(t.Context()); err != nil || have[path] != "0" {
		t.Errorf("torn: %v, %v", have, err)
	}
	must(t, target.Put(t.Context(), path, "1"))
	if !whole() {
		t.Error("not mended")
	}
}
