package fastpath

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// faults are those of the rows of a link and its address.
func faults(t *testing.T, tb *tables) (endpoint, side string) {
	t.Helper()
	endpoints, err := tb.Endpoints().List(t.Context())
	mustBe(t, err)
	sides, err := tb.Sides().List(t.Context())
	mustBe(t, err)
	if len(endpoints) != 1 || len(sides) != 1 {
		t.Fatalf("rows: %v, %v", endpoints, sides)
	}
	for _, e := range endpoints {
		endpoint = e.Fault
	}
	for _, s := range sides {
		side = s.Fault
	}
	return endpoint, side
}

// TestAnInsideThatMovesIsAFault: from the host into a namespace, into another, and back. The next put mends it.
func TestAnInsideThatMovesIsAFault(t *testing.T) {
	r := newTableRig(t)
	b, c := nettest.NewHost(t, "b"), nettest.NewHost(t, "c")
	r.IP("link add fla type veth peer name in0")
	tb := r.open(Sizes{})
	endpoints := map[netip.Addr]Endpoint{ip("10.88.0.1"): {Link: "fla", MTU: 1500}}
	sides := map[string]Side{"fla": {}}
	settle(t, tb.Endpoints(), endpoints)
	settle(t, tb.Sides(), sides)
	seen := map[uint32]string{homeIn(t, tb): "the host"}
	if _, zero := seen[0]; !zero {
		t.Errorf("the inside is on the host, and its home is %v", seen)
	}
	for _, move := range []struct {
		from, to *nettest.Host
		name     string
	}{{r.Host, b, "b"}, {b, c, "c"}, {c, r.Host, "the host"}} {
		move.from.IP(fmt.Sprintf("link set in0 netns %s", filepath.Base(move.to.Path)))
		if e, s := faults(t, tb); e != FaultHome || s != FaultHome {
			t.Errorf("moved to %s: %q, %q", move.name, e, s)
		}
		settle(t, tb.Endpoints(), endpoints)
		settle(t, tb.Sides(), sides)
		home := homeIn(t, tb)
		if was, there := seen[home]; there && was != move.name {
			t.Errorf("%s and %s are the same home %d", was, move.name, home)
		}
		seen[home] = move.name
	}
}

// homeIn is the home that endpoint and side have in the maps.
func homeIn(t *testing.T, tb *tables) uint32 {
	t.Helper()
	endpoints, err := tb.endpoints().read(t.Context())
	mustBe(t, err)
	sides, err := tb.sides().read(t.Context())
	mustBe(t, err)
	for _, s := range sides {
		if e := endpoints[ip("10.88.0.1")]; e.Home != s.Home {
			t.Errorf("endpoint and side have the homes %d and %d", e.Home, s.Home)
		}
		return s.Home
	}
	return 0
}

// TestALinkMadeAnewIsAFault: it has the old name and another number. What was of the old one is listed under no link's
// name, and pruned.
func TestALinkMadeAnewIsAFault(t *testing.T) {
	r := newTableRig(t)
	r.endpoint("fla")
	r.uplink()
	tb := r.open(Sizes{})
	endpoints := map[netip.Addr]Endpoint{ip("10.88.0.1"): {Link: "fla", MTU: 1500}}
	sides := map[string]Side{"fla": {}}
	routes := map[netip.Prefix]Route{cidr("10.1.0.0/16"): direct("192.0.2.2"), cidr("10.2.0.0/16"): {}}
	table := reconcile.NewTable("side", tb.Sides())
	settle(t, tb.Endpoints(), endpoints)
	settle(t, tb.Sides(), sides)
	settle(t, tb.Routes(), routes)
	before := slotsIn(t, tb)
	r.IP("link del fla")
	r.IP("link del up0")
	if e, s := faults(t, tb); e != FaultLink || s != FaultLink {
		t.Errorf("gone: %q, %q", e, s)
	}
	r.endpoint("fla")
	r.uplink()
	if e, s := faults(t, tb); e != FaultLink || s != FaultLink {
		t.Errorf("made anew: %q, %q", e, s)
	}
	have, err := tb.Routes().List(t.Context())
	mustBe(t, err)
	if have[cidr("10.1.0.0/16")].Fault != FaultLink || have[cidr("10.2.0.0/16")].Fault != "" {
		t.Errorf("routes: %v", have)
	}
	settle(t, tb.Endpoints(), endpoints)
	settle(t, tb.Routes(), routes)
	if r := reconcile.Climb(t.Context(), table.Rung(sides, nil)); !r.Clean() || r.Total() != 2 {
		t.Errorf("one side put and one pruned: %+v", r)
	}
	holds(t, tb.Sides(), sides)
	after := slotsIn(t, tb)
	if before["10.1.0.0/16"] != after["10.1.0.0/16"] || before["10.88.0.1"] == after["10.88.0.1"] {
		t.Errorf("slots before %v, after %v", before, after)
	}
}

// TestALinkThatIsRenamedIsPutUnderItsName although its number stays.
func TestALinkThatIsRenamedIsPutUnderItsName(t *testing.T) {
	r := newTableRig(t)
	r.endpoint("fla")
	tb := r.open(Sizes{})
	settle(t, tb.Sides(), map[string]Side{"fla": {}})
	settle(t, tb.Endpoints(), map[netip.Addr]Endpoint{ip("10.88.0.1"): {Link: "fla", MTU: 1500}})
	r.IP("link set fla name flb")
	holds(t, tb.Sides(), map[string]Side{"flb": {}})
	settle(t, tb.Endpoints(), map[netip.Addr]Endpoint{ip("10.88.0.1"): {Link: "flb", MTU: 1500}})
}

// TestAddressesOfALinkShareItsSlot, whichever is written first, and as long as one of them is there.
func TestAddressesOfALinkShareItsSlot(t *testing.T) {
	r := newTableRig(t)
	r.endpoint("fla")
	r.endpoint("flb")
	tb := r.open(Sizes{})
	all := map[netip.Addr]Endpoint{
		ip("10.88.0.1"): {Link: "fla", MTU: 1500}, ip("fd00:88::1"): {Link: "fla", MTU: 1500}, ip("10.88.0.2"): {Link: "flb", MTU: 1500},
	}
	settle(t, tb.Endpoints(), all)
	settle(t, tb.Sides(), map[string]Side{"flb": {}, "fla": {}})
	slots := slotsIn(t, tb)
	if slots["10.88.0.1"] != slots["fd00:88::1"] || slots["10.88.0.1"] == slots["10.88.0.2"] || len(tb.slots.owner) != 2 {
		t.Errorf("slots: %v", slots)
	}
	settle(t, tb.Endpoints(), nil)
	if len(tb.slots.owner) != 2 {
		t.Errorf("the sides have slots: %v", tb.slots.owner)
	}
	settle(t, tb.Sides(), nil)
	if len(tb.slots.owner) != 0 {
		t.Errorf("slots are left: %v", tb.slots.owner)
	}
}
