package endpoint

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// fitting is one thing that an endpoint needs inside its namespace.
type fitting struct {
	name string // as errors and reports of drift call it
	held bool
	put  func() *nl.NetlinkRequest
	link bool  // it is about the interface: a change of it may take the others away
	way  route // what it is about, if it is a route
}

// fittings are what r needs, in the order in which the kernel accepts them, each with whether in has it.
func fittings(r Row, in *interior) []fitting {
	self, mtu := in.self, nl.Uint32Attr(uint32(r.MTU))
	set := func(kind int, data []byte) func() *nl.NetlinkRequest {
		return func() *nl.NetlinkRequest { return setLink(self.index, nl.NewRtAttr(kind, data)) }
	}
	up := func(index int) func() *nl.NetlinkRequest {
		return func() *nl.NetlinkRequest { return setUp(index, true) }
	}
	out := []fitting{
		{name: "loopback up", held: in.lo.up, put: up(1)},
		{link: true, name: "MTU", held: self.mtu == r.MTU, put: set(unix.IFLA_MTU, mtu)},
		{link: true, name: "hardware address", held: self.mac == r.MAC, put: set(unix.IFLA_ADDRESS, r.MAC[:])},
		{link: true, name: "name " + r.IfName, held: self.name == r.IfName,
			put: set(unix.IFLA_IFNAME, nl.ZeroTerminated(r.IfName))},
	}
	if self.genMode6 >= 0 {
		out = append(out, fitting{link: true, name: "quiet IPv6", held: self.genMode6 == addrGenNone,
			put: func() *nl.NetlinkRequest { return setLink(self.index, settings(false, true)) }})
	}
	out = append(out, fitting{link: true, name: "interface up", held: self.up, put: up(self.index)})
	for _, a := range r.addrs() {
		out = append(out, in.family(a)...)
	}
	return out
}

// family is what the address a needs: itself, the gateway as a neighbour, the way to the gateway, and the way out.
func (in *interior) family(a netip.Addr) []fitting {
	gw, metric := gateway4(), 0
	if a.Is6() {
		gw, metric = Gateway6(), metric6
	}
	out := []fitting{
		{name: "address " + a.String(), held: in.addrs[a], put: in.putAddr(a)},
		{name: "neighbour " + gw.String(), held: in.neighs[gw] == hostMAC(), put: in.putNeigh(gw)},
	}
	if a.Is4() {
		out = append(out, in.way(route{dst: netip.PrefixFrom(gw, 32), dev: in.self.index}))
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if a.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return append(out, in.way(route{dst: all, via: gw, dev: in.self.index, metric: metric}))
}

// way is a route as a fitting. It replaces only a route over our own interface; one over another is somebody's choice.
func (in *interior) way(want route) fitting {
	flags := unix.NLM_F_CREATE | unix.NLM_F_EXCL
	if r, found := in.rival(want); found && r.dev == want.dev {
		flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	return fitting{name: "route " + want.String(), held: in.held(want), put: want.put(flags), way: want}
}

func (r route) String() string {
	if r.dst.Bits() == 0 {
		return "default via " + r.via.String()
	}
	return r.dst.String()
}

func (in *interior) putAddr(a netip.Addr) func() *nl.NetlinkRequest {
	return func() *nl.NetlinkRequest { return newAddr(in.self.index, netip.PrefixFrom(a, a.BitLen())) }
}

// newAddr gives a link an address, and the route to its prefix if there are other addresses in that.
func newAddr(index int, p netip.Prefix) *nl.NetlinkRequest {
	a := p.Addr()
	msg := nl.NewIfAddrmsg(family(a))
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice())}
	if a.Is6() {
		flags := uint32(unix.IFA_F_NODAD) // nobody else is on this link, so there is nothing to wait for
		if p.IsSingleIP() {
			flags |= unix.IFA_F_NOPREFIXROUTE // a route to one's own address is no use
		}
		attrs = append(attrs, nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	}
	return request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, msg, attrs...)
}

func (in *interior) putNeigh(ip netip.Addr) func() *nl.NetlinkRequest {
	return func() *nl.NetlinkRequest {
		mac := hostMAC()
		msg := &netlink.Ndmsg{Family: uint8(family(ip)), Index: uint32(in.self.index), State: unix.NUD_PERMANENT}
		return request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, msg,
			nl.NewRtAttr(unix.NDA_DST, ip.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, mac[:]))
	}
}

func (r route) put(flags int) func() *nl.NetlinkRequest {
	return func() *nl.NetlinkRequest {
		msg := nl.NewRtMsg()
		msg.Family, msg.Dst_len, msg.Protocol = uint8(family(r.dst.Addr())), uint8(r.dst.Bits()), routeProto
		attrs := []*nl.RtAttr{nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(r.dev)))}
		if r.dst.Bits() > 0 {
			attrs = append(attrs, nl.NewRtAttr(unix.RTA_DST, r.dst.Addr().AsSlice()))
		}
		if r.via.IsValid() {
			msg.Flags = unix.RTNH_F_ONLINK
			attrs = append(attrs, nl.NewRtAttr(unix.RTA_GATEWAY, r.via.AsSlice()))
		} else {
			msg.Scope = unix.RT_SCOPE_LINK
		}
		return request(unix.RTM_NEWROUTE, flags|unix.NLM_F_ACK, msg, attrs...)
	}
}

func decodeRoute(msg *nl.RtMsg, attrs []byte) route {
	r := route{via: address(attrs, unix.RTA_GATEWAY)}
	dst := address(attrs, unix.RTA_DST)
	if !dst.IsValid() {
		dst = netip.IPv4Unspecified()
		if msg.Family == unix.AF_INET6 {
			dst = netip.IPv6Unspecified()
		}
	}
	r.dst = netip.PrefixFrom(dst, int(msg.Dst_len))
	for kind, v := range attributes(attrs) {
		switch kind {
		case unix.RTA_OIF:
			r.dev = number(v)
		case unix.RTA_PRIORITY:
			r.metric = number(v)
		}
	}
	return r
}

// address is the first attribute of this kind that holds an address.
func address(attrs []byte, want uint16) netip.Addr {
	for kind, v := range attributes(attrs) {
		if ip, ok := netip.AddrFromSlice(v); ok && kind == want {
			return ip
		}
	}
	return netip.Addr{}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
