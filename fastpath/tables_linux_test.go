package fastpath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/reconcile"
)

func direct(next string) Route {
	return Route{Hops: [MaxHops]Hop{{Link: "up0", MTU: 1500, Encap: Direct, Next: ip(next)}}}
}

// uplink makes a link that leads nowhere.
func (r tableRig) uplink() {
	r.t.Helper()
	r.IP("link add up0 type veth peer name up1")
}

// TestTablesHoldWhatIsPut goes through the life of rows of every table.
func TestTablesHoldWhatIsPut(t *testing.T) {
	r := newTableRig(t)
	r.uplink()
	r.endpoint("fla")
	r.endpoint("flb")
	tb := r.open(Sizes{})
	mac := MAC{2, 1, 2, 3, 4, 5}
	settle(t, tb.Endpoints(), map[netip.Addr]Endpoint{
		ip("10.88.0.1"): {Link: "fla", MAC: mac, MTU: 1500}, ip("fd00:88::1"): {Link: "fla", MAC: mac, MTU: 1500},
		ip("10.88.0.2"): {Link: "flb", MTU: 1400, Realm: 7},
	})
	settle(t, tb.Sides(), map[string]Side{"fla": {MAC: mac}, "flb": {}})
	wrapped := Route{Hops: [MaxHops]Hop{
		{Link: "up0", MTU: 1480, Encap: IPIP, Next: ip("192.0.2.254"), Local: ip("192.0.2.1"), End: ip("198.51.100.3")},
		{Link: "up1", MTU: 1450, Encap: VXLAN, Next: ip("2001:db8::1"), Local: ip("2001:db8::2"), End: ip("2001:db8::3"), MAC: mac},
	}}
	settle(t, tb.Routes(), map[netip.Prefix]Route{
		cidr("10.88.1.0/24"): direct("192.0.2.2"), cidr("10.88.0.0/16"): wrapped, cidr("10.88.1.128/25"): {},
		cidr("fd00:88:1::/64"): wrapped, cidr("::/0"): direct("fe80::2"), cidr("0.0.0.0/0"): direct("192.0.2.3"),
	})
	settle(t, tb.Nodes(), map[netip.Addr]Node{ip("192.0.2.2"): {}, ip("2001:db8::3"): {}})
	settle(t, tb.Settings(), map[string]Settings{SettingsKey: {
		Flags: TakesIPIP | TakesVXLAN, VNI: 88, Port: 4789, Local4: ip("192.0.2.1"), Local6: ip("2001:db8::2"), MAC4: mac, MAC6: mac,
	}})
	settle(t, tb.Endpoints(), map[netip.Addr]Endpoint{ip("10.88.0.1"): {Link: "flb", MTU: 1500}})
	settle(t, tb.Sides(), map[string]Side{"flb": {MAC: mac}})
	settle(t, tb.Routes(), map[netip.Prefix]Route{cidr("10.88.1.0/24"): wrapped, cidr("10.88.1.0/25"): direct("192.0.2.2")})
	settle(t, tb.Nodes(), map[netip.Addr]Node{ip("192.0.2.3"): {}})
	settle(t, tb.Endpoints(), nil)
	settle(t, tb.Sides(), nil)
	settle(t, tb.Routes(), nil)
	settle(t, tb.Nodes(), nil)
	settle(t, tb.Settings(), nil)
	// Routes go after the settings: until then packets are wrapped as they say.
	values, err := tb.settings().read(t.Context())
	mustBe(t, err)
	if v := values[0]; v.Flags != 0 || v.VNI != 88 || v.Port != [2]byte{0x12, 0xb5} || v.MAC4 != mac || v.MAC6 != mac {
		t.Errorf("deleted settings are %+v", v)
	}
	for name, f := range fills(t, tb) {
		if f.Used != 0 {
			t.Errorf("%s has %d entries left", name, f.Used)
		}
	}
}

func fills(t *testing.T, tb *tables) map[string]Fill {
	t.Helper()
	all, err := tb.Entries()
	mustBe(t, err)
	return all
}

// TestOneRowIsPutAndDeleted by itself, and deleting what is not there is no error.
func TestOneRowIsPutAndDeleted(t *testing.T) {
	r := newTableRig(t)
	r.endpoint("fla")
	tb := r.open(Sizes{})
	a, e := ip("10.88.0.1"), Endpoint{Link: "fla", MTU: 1500}
	mustBe(t, tb.Endpoints().Put(t.Context(), a, e), tb.Sides().Put(t.Context(), "fla", Side{}))
	mustBe(t, tb.Nodes().Put(t.Context(), a, Node{}), tb.Routes().Put(t.Context(), cidr("10.0.0.0/8"), Route{}))
	holds(t, tb.Endpoints(), map[netip.Addr]Endpoint{a: e})
	holds(t, tb.Sides(), map[string]Side{"fla": {}})
	holds(t, tb.Nodes(), map[netip.Addr]Node{a: {}})
	holds(t, tb.Routes(), map[netip.Prefix]Route{cidr("10.0.0.0/8"): {}})
	for range 2 {
		mustBe(t, tb.Endpoints().Delete(t.Context(), a), tb.Sides().Delete(t.Context(), "fla"))
		mustBe(t, tb.Nodes().Delete(t.Context(), a), tb.Routes().Delete(t.Context(), cidr("10.0.0.0/8")))
		mustBe(t, tb.Routes().Delete(t.Context(), cidr("10.1.0.0/16")), tb.Sides().Delete(t.Context(), "none"))
	}
	holds(t, tb.Endpoints(), nil)
	holds(t, tb.Sides(), nil)
	holds(t, tb.Routes(), nil)
}

// TestErrorsAreOfTheirRows: of many rows only those fail that can not be put, and one whose link is not there waits.
func TestErrorsAreOfTheirRows(t *testing.T) {
	r := newTableRig(t)
	r.endpoint("fla")
	r.uplink()
	tb := r.open(Sizes{})
	good := Endpoint{Link: "fla", MTU: 1500}
	failed := bulk(t, tb.Endpoints())(map[netip.Addr]Endpoint{
		ip("10.88.0.1"): good, ip("10.88.0.2"): {Link: "flx", MTU: 1500}, ip("10.88.0.3"): {Link: "fla", MTU: 70000},
		ip("::ffff:10.88.0.4"): good, ip("fe80::1%fla"): good,
	})
	if len(failed) != 4 || failed[ip("10.88.0.1")] != nil || !errors.Is(failed[ip("10.88.0.2")], reconcile.ErrWaits) || errors.Is(failed[ip("10.88.0.3")], reconcile.ErrWaits) {
		t.Errorf("endpoints: %v", failed)
	}
	holds(t, tb.Endpoints(), map[netip.Addr]Endpoint{ip("10.88.0.1"): good})
	if err := tb.Sides().Put(t.Context(), "flx", Side{}); !errors.Is(err, reconcile.ErrWaits) {
		t.Errorf("side without link: %v", err)
	}
	absent := Route{Hops: [MaxHops]Hop{direct("192.0.2.2").Hops[0], {Link: "flx", MTU: 1500, Encap: Direct, Next: ip("192.0.2.3")}}}
	wrong := bulk(t, tb.Routes())(map[netip.Prefix]Route{
		cidr("10.1.0.0/16"): direct("192.0.2.2"), cidr("10.2.0.0/16"): absent, cidr("10.3.1.0/16"): direct("192.0.2.2"),
		cidr("10.4.0.0/16"): {Hops: [MaxHops]Hop{{Link: "up0", Encap: "gre", Next: ip("192.0.2.2")}}},
	})
	if len(wrong) != 3 || wrong[cidr("10.1.0.0/16")] != nil || !errors.Is(wrong[cidr("10.2.0.0/16")], reconcile.ErrWaits) {
		t.Errorf("routes: %v", wrong)
	}
	holds(t, tb.Routes(), map[netip.Prefix]Route{cidr("10.1.0.0/16"): direct("192.0.2.2")})
	if n := len(tb.slots.owner); n != 2 {
		t.Errorf("%d slots for an endpoint and a route", n)
	}
	if err := tb.Settings().Put(t.Context(), SettingsKey, Settings{VNI: -1}); err == nil {
		t.Error("a VNI below zero was taken")
	}
}

func bulk[K, V comparable](t *testing.T, target reconcile.Target[K, V]) func(puts map[K]V) map[K]error {
	t.Helper()
	b, ok := target.(reconcile.Bulk[K, V])
	if !ok {
		t.Fatalf("%T takes rows one by one", target)
	}
	return func(puts map[K]V) map[K]error { return b.Apply(t.Context(), puts, nil) }
}

// TestRowsBeyondTheRoomWait: what is pruned later in the same pass makes room, so a full table is no failure and the next
// pass puts the rest.
func TestRowsBeyondTheRoomWait(t *testing.T) {
	r := newTableRig(t)
	r.uplink()
	tb := r.open(Sizes{Endpoints: 2, Routes: 4, Flows: 16})
	many := func(second int) map[netip.Prefix]Route {
		rows := make(map[netip.Prefix]Route)
		for i := range 4 {
			rows[cidr(fmt.Sprintf("10.%d.%d.0/24", second, i))] = direct("192.0.2.2")
		}
		return rows
	}
	table := reconcile.NewTable("route", tb.Routes())
	if r := reconcile.Climb(t.Context(), table.Rung(many(1), nil)); !r.Clean() {
		t.Fatal(r.Err())
	}
	passes := 0
	for again := true; again; passes++ {
		r := reconcile.Climb(t.Context(), table.Rung(many(2), nil))
		if len(r.Failures) > 0 || passes > 3 {
			t.Fatalf("pass %d: %v", passes, r.Err())
		}
		again = !r.Clean()
	}
	if passes < 2 {
		t.Error("there was room for all at once, which tells nothing")
	}
	holds(t, tb.Routes(), many(2))
	failed := bulk(t, tb.Nodes())(map[netip.Addr]Node{
		ip("192.0.2.1"): {}, ip("192.0.2.2"): {}, ip("192.0.2.3"): {}, ip("192.0.2.4"): {}, ip("192.0.2.5"): {}, ip("192.0.2.6"): {},
	})
	if len(failed) != 2 || fills(t, tb)["fl_nodes4"] != (Fill{4, 4}) {
		t.Errorf("nodes: %v, %v", failed, fills(t, tb)["fl_nodes4"])
	}
	for _, err := range failed {
		if !errors.Is(err, reconcile.ErrWaits) {
			t.Error(err)
		}
	}
}

// TestTenThousandRows of routes and of nodes of both families.
func TestTenThousandRows(t *testing.T) {
	const many = 10000
	r := newTableRig(t)
	r.uplink()
	tb := r.open(Sizes{Endpoints: 100, Routes: many, Flows: 1000})
	routes, nodes := make(map[netip.Prefix]Route), make(map[netip.Addr]Node)
	for i := range many {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 9), byte(i >> 1), byte(i << 7)})
		p := netip.PrefixFrom(a, 25)
		if i%2 == 1 {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1: byte(i >> 8), 2: byte(i)}), 64)
			a = p.Addr()
		}
		routes[p], nodes[a] = direct("192.0.2.2"), Node{}
	}
	timed := func(what string, do func()) {
		begun := time.Now()
		do()
		t.Logf("%s %d: %v", what, many, time.Since(begun).Round(100*time.Microsecond))
	}
	put, known := bulk(t, tb.Routes()), bulk(t, tb.Nodes())
	timed("put routes", func() { none(t, put(routes)) })
	timed("list routes", func() { equals(t, tb.Routes(), routes) })
	timed("put nodes", func() { none(t, known(nodes)) })
	timed("list nodes", func() { equals(t, tb.Nodes(), nodes) })
	seen := make(map[uint32]string)
	for of, slot := range slotsIn(t, tb) {
		if other, taken := seen[slot]; taken {
			t.Errorf("%s and %s count in slot %d", of, other, slot)
		}
		seen[slot] = of
	}
	timed("a pass with nothing to do on routes", func() {
		if r := reconcile.Climb(t.Context(), reconcile.NewTable("route", tb.Routes()).Rung(routes, nil)); r.Total() != 0 {
			t.Errorf("%d routes written", r.Total())
		}
	})
	timed("delete routes", func() { settle(t, tb.Routes(), nil) })
	timed("delete nodes", func() { settle(t, tb.Nodes(), nil) })
}

// equals is holds for very many rows.
func equals[K, V comparable](t *testing.T, target reconcile.Target[K, V], want map[K]V) {
	t.Helper()
	if have, err := target.List(t.Context()); err != nil || !maps.Equal(want, have) {
		t.Fatalf("%d rows, want %d: %v", len(have), len(want), err)
	}
}

func none[K comparable](t *testing.T, failed map[K]error) {
	t.Helper()
	for k, err := range failed {
		t.Fatalf("%v and %d others: %v", k, len(failed)-1, err)
	}
}

// TestWhatOthersWriteIsMended: rows that somebody scribbled into are listed with a fault and put anew.
func TestWhatOthersWriteIsMended(t *testing.T) {
	r := newTableRig(t)
	r.uplink()
	r.endpoint("fla")
	tb := r.open(Sizes{})
	routes := map[netip.Prefix]Route{cidr("10.1.0.0/16"): direct("192.0.2.2"), cidr("10.2.0.0/16"): direct("192.0.2.3")}
	nodes := map[netip.Addr]Node{ip("192.0.2.2"): {}}
	settings := map[string]Settings{SettingsKey: {Flags: TakesIPIP}}
	sides := map[string]Side{"fla": {}}
	settle(t, tb.Routes(), routes)
	settle(t, tb.Nodes(), nodes)
	settle(t, tb.Settings(), settings)
	settle(t, tb.Sides(), sides)
	values, err := tb.routes().read(t.Context())
	mustBe(t, err)
	v := values[cidr("10.1.0.0/16")]
	v.Slot = values[cidr("10.2.0.0/16")].Slot
	mustBe(t, tb.routes().write(t.Context(), []netip.Prefix{cidr("10.1.0.0/16")}, []routeValue{v})...)
	mustBe(t, tb.nodes().write(t.Context(), []netip.Addr{ip("192.0.2.2")}, []uint32{7})...)
	mustBe(t, tb.settings().write(t.Context(), []uint32{0}, []settingsValue{{Flags: 1, Pad: [2]byte{1}}})...)
	index, err := tb.wire.links()
	mustBe(t, err)
	home := index.named["fla"].home
	mustBe(t, tb.sides().write(t.Context(), []uint32{index.named["fla"].index}, []sideValue{{Home: home, Slot: slotsIn(t, tb)[fmt.Sprint("side ", index.named["fla"].index)], Pad: [2]byte{1}}})...)
	have, err := tb.Routes().List(t.Context())
	mustBe(t, err)
	if have[cidr("10.1.0.0/16")].Fault != FaultSlot {
		t.Errorf("two routes in one slot: %v", have)
	}
	for what, report := range map[string]*reconcile.Report{
		"routes": settle(t, tb.Routes(), routes), "nodes": settle(t, tb.Nodes(), nodes),
		"settings": settle(t, tb.Settings(), settings), "sides": settle(t, tb.Sides(), sides),
	} {
		if report.Total() != 1 {
			t.Errorf("%s: %d rows written", what, report.Total())
		}
	}
}
