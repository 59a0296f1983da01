package tunnel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Numbers that mark what is ours in the kernel.
const (
	Protocol = 88   // of our routes and rules
	Metric   = 88   // of our routes: none of ours ever has the key of a foreign one
	Main     = 254  // the table of the prefixes
	Local    = 255  // the table of this host's own addresses
	Table    = 88   // the table of the tunnelled hosts, for packets from our blocks
	Priority = 8800 // of the rules that lead there
)

// MaxHops is the number of next hops that one route can have.
const MaxHops = 8

// Device is a tunnel device. The key is its name.
type Device struct {
	Kind      Encap
	VNI, Port int        // of VXLAN
	Local     netip.Addr // source of the outer header
	MTU       int
	MAC       MAC     // of VXLAN
	Offload   Offload // of VXLAN
	Fault     string  // what else is wrong with it, one word; never wanted
}

func (d Device) String() string {
	s := fmt.Sprintf("%s local %v mtu %d", d.Kind, d.Local, d.MTU)
	if d.Kind == VXLAN {
		s = fmt.Sprintf("vxlan %d port %d local %v mtu %d mac %v", d.VNI, d.Port, d.Local, d.MTU, d.MAC)
	}
	if d.Offload == OffloadOff {
		s += " checksum offload off"
	}
	return joined(s, d.Fault)
}

// NeighKey names a permanent neighbour of one of our links. The value is its link-layer address: on a GRE device the four
// bytes of the tunnel end, with two zero bytes behind.
type NeighKey struct {
	Dev string
	IP  netip.Addr
}

func (k NeighKey) String() string { return fmt.Sprintf("%v dev %s", k.IP, k.Dev) }

// FDBKey names a forwarding entry of a tunnel device. The value is the VTEP that has the MAC.
type FDBKey struct {
	Dev string
	MAC MAC
}

func (k FDBKey) String() string { return fmt.Sprintf("%v dev %s", k.MAC, k.Dev) }

// RouteKey names a route of ours.
type RouteKey struct {
	Table  int
	Prefix netip.Prefix
}

func (k RouteKey) String() string {
	if k.Table == Main {
		return k.Prefix.String()
	}
	return fmt.Sprintf("%v table %d", k.Prefix, k.Table)
}

// Kind is what a route does with a packet.
type Kind string

const (
	Unicast   Kind = "unicast"
	Blackhole Kind = "blackhole"
	Here      Kind = "local" // to this host itself, though no link of it has the address
)

// NextHop is one way out. The zero value is none.
type NextHop struct {
	Via    netip.Addr // zero: the destination is on the link itself
	Dev    string
	OnLink bool // the gateway is taken to be on the link though no route says so
}

func (h NextHop) String() string {
	s := "dev " + h.Dev
	if h.Via.IsValid() {
		s = fmt.Sprintf("via %v %s", h.Via, s)
	}
	if h.OnLink {
		s += " onlink"
	}
	return s
}

// Route is what the kernel does with packets for a prefix.
type Route struct {
	Kind   Kind
	Hops   [MaxHops]NextHop // as SortHops leaves them
	Source netip.Addr       // of packets that this host itself sends; zero leaves it to the kernel
	MTU    int              // bytes; 0 is the link's
	Fault  string           // what else is wrong with it; never wanted
}

// String reads like the line of `ip route` after the prefix.
func (r Route) String() string {
	var parts []string
	if r.Kind != Unicast {
		parts = append(parts, string(r.Kind))
	}
	for _, h := range r.Used() {
		parts = append(parts, h.String())
	}
	if r.Source.IsValid() {
		parts = append(parts, "src "+r.Source.String())
	}
	if r.MTU != 0 {
		parts = append(parts, fmt.Sprintf("mtu %d", r.MTU))
	}
	return joined(strings.Join(parts, " "), r.Fault)
}

// Used is the next hops that are set.
func (r Route) Used() []NextHop {
	n := 0
	for n < MaxHops && r.Hops[n] != (NextHop{}) {
		n++
	}
	return slices.Clone(r.Hops[:n])
}

// SortHops puts next hops into the order that a Route has them in, without duplicates. Those beyond MaxHops are dropped.
func SortHops(hops []NextHop) (sorted [MaxHops]NextHop) {
	hops = slices.Clone(hops)
	slices.SortFunc(hops, func(a, b NextHop) int {
		return cmp.Or(a.Via.Compare(b.Via), cmp.Compare(a.Dev, b.Dev), cmp.Compare(order(a.OnLink), order(b.OnLink)))
	})
	copy(sorted[:], slices.Compact(hops))
	return sorted
}

// Rule sends packets from a prefix through a table. The prefix is the key.
type Rule struct {
	Table, Priority int
	Fault           string // what else is wrong with it; never wanted
}

func (r Rule) String() string {
	return joined(fmt.Sprintf("lookup %d priority %d", r.Table, r.Priority), r.Fault)
}

func order(onLink bool) int {
	if onLink {
		return 1
	}
	return 0
}

func joined(s, fault string) string {
	if fault == "" {
		return s
	}
	return s + " (" + fault + ")"
}
