package fastpath

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// MaxHops is the number of next hops that one route can have.
const MaxHops = 8

// MAC is a hardware address. The zero value is none.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Encap is how a packet travels to the next hop.
type Encap string

const (
	Direct Encap = "direct" // as it is
	IPIP   Encap = "ipip"   // RFC 2003: IPv4 in IPv4
	VXLAN  Encap = "vxlan"  // RFC 7348
)

// The faults of rows, one word each. A row that is wanted has none, so that one that has is put again.
const (
	FaultLink = "no-link"    // a link with its number is gone; one of the name may be there with another
	FaultHome = "other-home" // the inside of its pair is in another namespace than it was
	FaultSlot = "other-slot" // it counts where others do, or nowhere
	FaultForm = "odd"        // something is in it that no row of ours has
	FaultPins = "not-pinned" // of the settings: maps would end with the daemon
)

// Endpoint is an address of this host's endpoints. The key is the address.
type Endpoint struct {
	Link  string // the host side of its pair
	MAC   MAC    // of the inside
	MTU   int    // of the link, in bytes
	Realm uint32 // 0, or a network that is kept apart from others
	Fault string // what is wrong with it, one word; never wanted
}

func (e Endpoint) String() string {
	s := fmt.Sprintf("dev %s mac %v mtu %d", e.Link, e.MAC, e.MTU)
	if e.Realm != 0 {
		s += fmt.Sprintf(" realm %d", e.Realm)
	}
	return faulty(s, e.Fault)
}

// Side is the host side of an endpoint's pair. The key is the link's name.
type Side struct {
	MAC   MAC    // of the inside
	Fault string // what is wrong with it, one word; never wanted
}

func (s Side) String() string { return faulty("mac "+s.MAC.String(), s.Fault) }

// Hop is one way to a prefix. The zero value is none.
type Hop struct {
	Link  string // that leads there
	MTU   int    // the largest packet from a container, in bytes
	Encap Encap
	Next  netip.Addr // on the link: the node itself, or a router
	Local netip.Addr // source of the outer header; zero without encapsulation, as are the following
	End   netip.Addr // destination of the outer header
	MAC   MAC        // destination inside of VXLAN
}

func (h Hop) String() string {
	s := fmt.Sprintf("via %v dev %s %s mtu %d", h.Next, h.Link, h.Encap, h.MTU)
	if h.End.IsValid() {
		s += fmt.Sprintf(" from %v to %v", h.Local, h.End)
	}
	if h.MAC != (MAC{}) {
		s += " mac " + h.MAC.String()
	}
	return s
}

// Route is how packets for a prefix travel. The key is the prefix. One without hops leaves them to the kernel, where a
// wider prefix would not.
type Route struct {
	Hops  [MaxHops]Hop
	Fault string // what is wrong with it, one word; never wanted
}

// Used is the hops that are set.
func (r Route) Used() []Hop {
	n := 0
	for n < MaxHops && r.Hops[n] != (Hop{}) {
		n++
	}
	return r.Hops[:n:n]
}

func (r Route) String() string {
	hops := make([]string, 0, MaxHops)
	for _, h := range r.Used() {
		hops = append(hops, h.String())
	}
	if len(hops) == 0 {
		return faulty("kernel", r.Fault)
	}
	return faulty(strings.Join(hops, ", "), r.Fault)
}

// Node is a host that may send to this one through a tunnel. The key is its address.
type Node struct {
	Fault string // what is wrong with it, one word; never wanted
}

func (n Node) String() string { return faulty("known", n.Fault) }

// SettingsKey is the key of the only row of settings.
const SettingsKey = "node"

// Settings are what the programs know of this node. Its zero value is a node of which they know nothing, which is the
// same as no row.
type Settings struct {
	Flags          Flags
	VNI, Port      int        // of VXLAN
	Local4, Local6 netip.Addr // destination of outer headers that are for this node; zero where it has none
	MAC4, MAC6     MAC        // destination inside of VXLAN, by the family of the outer header
	Device         string     // by which comes in what was unwrapped for want of a device of its own; "" = by the uplink
	Fault          string     // what is wrong with it, one word; never wanted
}

func (s Settings) String() string {
	var words []string
	for _, w := range []struct {
		name, text string
		there      bool
	}{
		{"", s.Flags.String(), s.Flags != 0},
		{"vni ", fmt.Sprint(s.VNI), s.VNI != 0},
		{"port ", fmt.Sprint(s.Port), s.Port != 0},
		{"local ", s.Local4.String(), s.Local4.IsValid()},
		{"mac ", s.MAC4.String(), s.MAC4 != MAC{}},
		{"dev ", s.Device, s.Device != ""},
		{"local ", s.Local6.String(), s.Local6.IsValid()},
		{"mac ", s.MAC6.String(), s.MAC6 != MAC{}},
	} {
		if w.there {
			words = append(words, w.name+w.text)
		}
	}
	return faulty(strings.Join(words, " "), s.Fault)
}

// Flags is a set of what a node does, as enum setting of layout.h has it.
type Flags uint32

const (
	TakesIPIP  Flags = 1 << iota
	TakesVXLAN       // with the VNI and the port of the settings
	TakesAll         // of any sender, not of the known nodes alone
	LacksIPIP        // the kernel has no device for it: what is for the host itself is unwrapped here too
	Crosses          // IPv6 may be wrapped into IPv4 and back, Linux 6.3
	MapsPorts        // connections to ports of the host go to endpoints by the table of ports
	Hairpins         // an endpoint reaches itself by such a port
)

// Has tells whether all of those are in the set.
func (f Flags) Has(all Flags) bool { return f&all == all }

func (f Flags) String() string {
	var words []string
	for i, word := range []string{"takes-ipip", "takes-vxlan", "takes-all", "lacks-ipip", "crosses", "maps-ports", "hairpins"} {
		if f.Has(1 << i) {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}

// Sizes are how many rows the maps have room for. One that is zero is as DefaultSizes has it.
type Sizes struct {
	Endpoints   int // links, and addresses of each family
	Routes      int // of both families together; and nodes of each
	Flows       int // that the kernel has translated, of each family
	Connections int // by ports of this host
}

// DefaultSizes are those of a host that nobody has told otherwise.
func DefaultSizes() Sizes {
	return Sizes{Endpoints: 4096, Routes: 8192, Flows: 65536, Connections: 131072}
}

func (s Sizes) orDefault() Sizes {
	d := DefaultSizes()
	return Sizes{
		Endpoints: cmp.Or(s.Endpoints, d.Endpoints), Routes: cmp.Or(s.Routes, d.Routes), Flows: cmp.Or(s.Flows, d.Flows),
		Connections: cmp.Or(s.Connections, d.Connections),
	}
}

func faulty(s, fault string) string {
	if fault == "" {
		return s
	}
	return s + " (" + fault + ")"
}
