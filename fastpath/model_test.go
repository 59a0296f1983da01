package fastpath_test

import (
	"maps"
	"net/netip"
)

// The model says what becomes of a frame. It is written from the rules and knows nothing of the programs:
//
// From a container
//   - A frame has the hardware address and an address of the container that has the link, or is dropped: the endpoint's own,
//     or one of the same container's other links where the namespace is known. Of ARP the sender is held to the same; it may
//     have no address yet. IPv6 without an endpoint's address may be spoken to the link itself only. What comes over a link
//     that nobody has told of is the kernel's.
//   - Frames with a VLAN tag, and all that is neither IPv4, IPv6 nor ARP, are the kernel's: the hardware address is checked.
//   - The kernel's are, in this order: what has options, extension headers or a cut header; talk of the link; what no endpoint
//     and no route is the destination of; what has no more than one hop to live; flows that the kernel has translated; other
//     realms; what is too large for the way when it has been cut into segments.
//   - A route has no realm. One of its hops is taken by the flow, the same for all fragments of a pair of addresses.
//   - Whatever is taken has one hop less to live, and the count of the endpoint and of the endpoint or route has it as it came.
//
// From the wire
//   - Only frames without a tag, to this host's own hardware address.
//   - A wrapper is looked into when it is of a kind that is taken here, and for this node's address (and port). It is the
//     kernel's when it is not whole, not from a node that is known (unless all are), or has another network's number, another
//     hardware address or a content that is no packet, or when it has the other family and the kernel can not take it off.
//     One with a mark of congestion around a packet that can not bear it is the kernel's too, which drops it (RFC 6040).
//   - The packet is for an endpoint without realm and comes from a route, or is the kernel's; as are those with options, talk
//     of links, hops, sizes and flows as above.
//   - What came by IPIP and is not taken is unwrapped all the same where the kernel has no device for it, and comes in by the
//     link that is there for that purpose, if one is, with its hardware address.
//   - An endpoint gets the packet with one hop less and the wrapper's mark of congestion. The count has it without wrapper.
//
// To a container, a wire or a tunnel
//   - A packet between an endpoint and an endpoint or route is noted, with its pair of addresses, as of a flow of the kernel's,
//     when the fast path was asked for it and did not know both ends: not without such a mark, nor when its flow can not be told.
//
// Ports of the host are told of at modelPorts.
//
// Each packet is counted under one reason at most, but that there was no room for its connection comes beside. One that is left to the kernel is what it was, byte for byte.
type modelWorld struct {
	endpoints map[netip.Addr]modelEndpoint
	sides     map[uint32]modelSide
	routes    map[netip.Prefix]modelRoute
	nodes     map[netip.Addr]bool
	here      modelSettings
	flows     map[modelFlow]bool
	ports     modelPorts
}

type modelMAC [6]byte

type modelEndpoint struct {
	link, home, realm, slot uint32
	mtu                     int
	mac                     modelMAC
}

type modelSide struct {
	home, slot uint32
	mac        modelMAC
}

type modelRoute struct {
	slot uint32
	used uint32 // of the hops
	hops [8]modelHop
}

// Encapsulations, as the programs number them.
const (
	modelDirect = 1
	modelIPIP   = 2
	modelVXLAN  = 3
)

type modelHop struct {
	link             uint32
	mtu              int
	encap            uint8
	next, local, end netip.Addr // of one family
	mac              modelMAC
}

type modelSettings struct {
	takesIPIP, takesVXLAN, takesAll, lacksIPIP, crosses bool
	mapsPorts, hairpins                                 bool // as modelPorts has them
	vni                                                 uint32
	local4, local6                                      netip.Addr
	mac4, mac6                                          modelMAC
	port                                                uint16
	device                                              uint32 // by which the kernel gets what was unwrapped for it
}

// modelFlow is a flow, or with neither protocol nor ports all of a pair.
type modelFlow struct {
	near, far         netip.Addr
	nearPort, farPort uint16
	protocol          uint8
}

// modelFrame is what a program gets.
type modelFrame struct {
	bytes   []byte
	link    uint32
	mac     modelMAC // of that link
	segment int      // of what is to be cut, without headers; 0: nothing is
	mark    uint32
	tag     uint16 // VLAN tag beside the frame, 0 for none
	hash    uint32 // of the flow, which only the kernel knows
}

// Verdicts, and marks between the programs of one packet.
const (
	modelPass = -1
	modelDrop = 2
	modelSend = 7

	modelAsked = 0xf1aa
	modelFast  = 0xf1a5
	modelSeen  = 0xf1ac
)

// modelEnd is what a program makes of it.
type modelEnd struct {
	verdict int
	reasons map[string]int
	bytes   []byte
	mark    uint32
	carrier uint16 // the protocol that the kernel goes on with
	tagged  bool
	sent    modelSent
	counts  map[uint32]modelCount
	flows   map[modelFlow]bool
	conns   map[modelTuple]modelConn // all that there are then
	pieces  map[modelDatagram]modelTuple
}

// modelSent is to whom it goes.
type modelSent struct {
	peer uint32 // the host side of the pair whose inside gets it
	into uint32 // the link by which it comes in
	over uint32 // the link to the neighbour
	next netip.Addr
}

// modelCount is packets and bytes each.
type modelCount struct{ out, in, kernel, drops [2]uint64 }

// modelReasons are the reasons in the order of their numbers.
func modelReasons() []string {
	return []string{
		"fast local", "fast direct", "fast ipip", "fast vxlan", "fast from direct", "fast from ipip", "fast from vxlan",
		"fast mapped", "fast answered",
		"kernel route", "kernel flow", "kernel realm", "kernel size", "kernel ttl", "kernel form", "kernel protocol",
		"kernel tunnel", "kernel failed", "kernel full", "drop mac", "drop source", "drop arp",
	}
}

// route is the longest prefix that has the address. One without hops is the kernel's.
func (w *modelWorld) route(a netip.Addr) (found modelRoute, ok bool) {
	best := -1
	for p, r := range w.routes {
		if p.Contains(a) && p.Bits() > best {
			best, found, ok = p.Bits(), r, true
		}
	}
	return found, ok && found.used > 0
}

// isKernels tells whether the kernel has translated the packet's flow.
func (w *modelWorld) isKernels(p modelPacket, near, far netip.Addr, out bool) bool {
	return w.flows[p.flow(near, far, out)]
}

// begin is the end of a frame that is left alone.
func (w *modelWorld) begin(f modelFrame) *modelEnd {
	return &modelEnd{
		verdict: modelPass, bytes: f.bytes, mark: f.mark, carrier: carrierOf(f.bytes), tagged: f.tag != 0,
		reasons: map[string]int{}, counts: map[uint32]modelCount{}, flows: map[modelFlow]bool{},
		conns: maps.Clone(w.ports.conns), pieces: maps.Clone(w.ports.pieces),
	}
}

func (e *modelEnd) because(reason string) *modelEnd {
	e.reasons[reason]++
	return e
}

// count changes the counts of a slot, where there is such a slot.
func (e *modelEnd) count(slot uint32, length int, which func(*modelCount) *[2]uint64) {
	if slot >= modelSlots {
		return
	}
	c := e.counts[slot]
	n := which(&c)
	n[0]++
	n[1] += uint64(length)
	e.counts[slot] = c
}

// modelSlots is how many slots the table of counts has.
const modelSlots = 32

func countedOut(c *modelCount) *[2]uint64    { return &c.out }
func countedIn(c *modelCount) *[2]uint64     { return &c.in }
func countedKernel(c *modelCount) *[2]uint64 { return &c.kernel }
func countedDrops(c *modelCount) *[2]uint64  { return &c.drops }
