package tunnel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const attrNextHopID = 30 // RTA_NH_ID

// newRoute is the request that puts a route.
func newRoute(k RouteKey, r Route, flag int, all links) (*nl.NetlinkRequest, error) {
	m := routeMessage(k)
	switch r.Kind {
	case Unicast:
		m.Type = unix.RTN_UNICAST
	case Blackhole:
		m.Type = unix.RTN_BLACKHOLE
	case Here:
		m.Type, m.Scope = unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	default:
		return nil, fmt.Errorf("kind %q: %w", r.Kind, unix.EINVAL)
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|flag)
	req.AddData(m)
	addDestination(req, k)
	req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(Metric)))
	if r.Source.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, r.Source.AsSlice()))
	}
	if r.MTU != 0 {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(uint32(r.MTU)))
		if lock := lockOf(k.Prefix); lock != 0 {
			metrics.AddRtAttr(unix.RTAX_LOCK, nl.Uint32Attr(lock))
		}
		req.AddData(metrics)
	}
	if err := addHops(req, m, k.Prefix, r.Used(), all); err != nil {
		return nil, err
	}
	return req, nil
}

// lockOf is which metrics of a route are locked. Linux forwards IPv6 by a route's MTU only if it is (include/net/ip6_route.h,
// ip6_dst_mtu_maybe_forward); for IPv4 it would forbid this host to find out by itself what the path beyond carries.
func lockOf(p netip.Prefix) uint32 {
	if p.Addr().Is4() {
		return 0
	}
	return 1 << unix.RTAX_MTU
}

// deleteRoute is the request that removes our route of the key and metric; metric 0 is any.
func deleteRoute(k RouteKey, metric int) *nl.NetlinkRequest {
	m := routeMessage(k)
	m.Scope = unix.RT_SCOPE_NOWHERE // any
	req := nl.NewNetlinkRequest(unix.RTM_DELROUTE, 0)
	req.AddData(m)
	addDestination(req, k)
	if metric != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(metric))))
	}
	return req
}

func routeMessage(k RouteKey) *nl.RtMsg {
	return &nl.RtMsg{RtMsg: unix.RtMsg{
		Family:   familyOf(k.Prefix.Addr()),
		Dst_len:  uint8(k.Prefix.Bits()),
		Protocol: Protocol,
	}}
}

func addDestination(req *nl.NetlinkRequest, k RouteKey) {
	req.AddData(nl.NewRtAttr(unix.RTA_DST, k.Prefix.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(uint32(k.Table))))
}

func addHops(req *nl.NetlinkRequest, m *nl.RtMsg, p netip.Prefix, hops []NextHop, all links) error {
	var paths []byte
	for _, h := range hops {
		index, err := all.index(h.Dev)
		if err != nil {
			return err
		}
		flags := uint8(0)
		if h.OnLink {
			flags = unix.RTNH_F_ONLINK
		}
		if len(hops) > 1 {
			paths = append(paths, nextHop(p, h, index, flags)...)
			continue
		}
		m.Flags |= uint32(flags)
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
		if h.Via.IsValid() {
			req.AddData(via(p, h.Via))
			continue
		}
		if m.Type == unix.RTN_UNICAST {
			m.Scope = unix.RT_SCOPE_LINK
		}
	}
	if len(hops) > 1 {
		req.AddData(nl.NewRtAttr(unix.RTA_MULTIPATH, paths))
	}
	return nil
}

// nextHop is one struct rtnexthop with its gateway.
func nextHop(p netip.Prefix, h NextHop, index int, flags uint8) []byte {
	b := make([]byte, unix.SizeofRtNexthop)
	if h.Via.IsValid() {
		b = append(b, via(p, h.Via).Serialize()...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	b[2] = flags
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// via is the gateway: in RTA_VIA with its family where that is not the prefix's.
func via(p netip.Prefix, gateway netip.Addr) *nl.RtAttr {
	if p.Addr().Is4() == gateway.Is4() {
		return nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice())
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(familyOf(gateway)))
	return nl.NewRtAttr(unix.RTA_VIA, append(b, gateway.AsSlice()...))
}

// answer is a route as the kernel tells it, ours or not.
type answer struct {
	protocol, kind, tos uint8
	table, metric, mtu  int
	learned             int // what the path carries, in bytes; 0: nothing is known of it
	prefix              netip.Prefix
	source              netip.Addr
	legs                []leg
	lock                uint32 // bits of the metrics that are locked
	object              bool   // the next hops are those of a nexthop object
	odd                 string
}

// leg is one next hop of an answer.
type leg struct {
	NextHop
	index int // of the link
	dead  bool
}

func parseRoute(body []byte, all links) answer {
	a := answer{tos: body[3], table: int(body[4]), protocol: body[5], kind: body[7]}
	flags := binary.NativeEndian.Uint32(body[8:])
	dst := netip.IPv6Unspecified()
	if body[0] == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	var only NextHop
	index := 0
	for kind, value := range attributes(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			dst = address(value)
		case unix.RTA_TABLE:
			a.table = number(value)
		case unix.RTA_PRIORITY:
			a.metric = number(value)
		case unix.RTA_PREFSRC:
			a.source = address(value)
		case unix.RTA_METRICS:
			a.parseMetrics(value)
		case unix.RTA_OIF:
			index = number(value)
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			only.Via = gatewayOf(kind, value)
		case unix.RTA_MULTIPATH:
			a.parseHops(value, all)
		case attrNextHopID:
			a.object, a.odd = true, "nexthop object"
		case unix.RTA_ENCAP_TYPE:
			a.odd = "encapsulated"
		}
	}
	a.prefix = netip.PrefixFrom(dst, int(body[1]))
	if index != 0 {
		a.add(only, index, uint8(flags), all)
	}
	return a
}

func (a *answer) parseMetrics(b []byte) {
	for kind, value := range attributes(b) {
		switch kind {
		case unix.RTAX_MTU:
			a.mtu = number(value)
		case unix.RTAX_LOCK:
			a.lock = uint32(number(value))
		default:
			a.odd = "metrics"
		}
	}
}

func (a *answer) parseHops(b []byte, all links) {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			return
		}
		var h NextHop
		for kind, value := range attributes(b[unix.SizeofRtNexthop:size]) {
			switch kind {
			case unix.RTA_GATEWAY, unix.RTA_VIA:
				h.Via = gatewayOf(kind, value)
			case unix.RTA_ENCAP_TYPE:
				a.odd = "encapsulated"
			}
		}
		if b[3] != 0 {
			a.odd = "weights"
		}
		a.add(h, int(binary.NativeEndian.Uint32(b[4:])), b[2], all)
		b = b[min(align(size), len(b)):]
	}
}

func (a *answer) add(h NextHop, index int, flags uint8, all links) {
	h.Dev = all.name(index)
	h.OnLink = flags&unix.RTNH_F_ONLINK != 0
	a.legs = append(a.legs, leg{NextHop: h, index: index, dead: flags&unix.RTNH_F_DEAD != 0})
}

func gatewayOf(kind uint16, b []byte) netip.Addr {
	if kind == unix.RTA_VIA && len(b) > 2 {
		b = b[2:]
	}
	return address(b)
}

// entry is the answer as a row of ours.
func (a answer) entry() entry {
	hops := make([]NextHop, len(a.legs))
	for i, l := range a.legs {
		hops[i] = l.NextHop
	}
	e := entry{
		key:    RouteKey{Table: a.table, Prefix: a.prefix},
		metric: a.metric,
		route:  Route{Kind: Unicast, Hops: SortHops(hops), Source: a.source, MTU: a.mtu, Fault: a.odd},
	}
	switch {
	case a.kind == unix.RTN_BLACKHOLE:
		// IPv6 tells the loopback device as the way into the black hole.
		e.route.Kind, e.route.Hops = Blackhole, [MaxHops]NextHop{}
	case a.kind == unix.RTN_LOCAL && a.table == Local:
		e.route.Kind = Here
	case a.kind != unix.RTN_UNICAST:
		e.route.Fault = fmt.Sprintf("type %d", a.kind)
	}
	switch {
	case a.metric != Metric:
		e.route.Fault = fmt.Sprintf("metric %d", a.metric)
	case len(hops) > MaxHops:
		e.route.Fault = fmt.Sprintf("%d next hops", len(hops))
	case a.mtu != 0 && a.lock != lockOf(a.prefix) || a.mtu == 0 && a.lock != 0:
		e.route.Fault = "locked"
		if a.lock == 0 {
			e.route.Fault = "unlocked"
		}
	}
	return e
}
