package endpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// routeProto marks the routes that we put into a container, as it marks ours on the host.
const routeProto = 88

// metric6 is what the kernel makes of an IPv6 route without one (IP6_RT_PRIO_USER).
const metric6 = 1024

// interior is what is found in a namespace, as far as it concerns an endpoint.
type interior struct {
	fresh  bool // the pair was just made, and nothing but itself was looked at
	self   link // the inside of the pair
	lo     link
	addrs  map[netip.Addr]bool // single addresses on self
	neighs map[netip.Addr]MAC  // permanent ones on self
	routes []route             // of the main table
}

type route struct {
	dst         netip.Prefix
	via         netip.Addr
	dev, metric int
}

// errNotInside says that the inside of the pair is in another namespace, or gone.
var errNotInside = errors.New("the pair's inside is not there")

// survey reads the namespace in which the inside of the pair with host side v should be.
func survey(w *wire, v link) (*interior, error) {
	in := &interior{}
	links, err := w.links("")
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		switch {
		case l.index == v.peer && l.peer == v.index && l.kind == "veth":
			in.self = l
		case l.name == "lo":
			in.lo = l
		}
	}
	if in.self.index == 0 {
		return nil, errNotInside
	}
	return in, errors.Join(in.surveyAddrs(w), in.surveyNeighs(w), in.surveyRoutes(w))
}

// bare is the interior of a pair that was just made: it holds nothing yet.
func bare(w *wire, v link) (*interior, error) {
	self, found, err := w.linkAt(v.peer)
	if err == nil && !found {
		err = errNotInside
	}
	return &interior{fresh: true, self: self}, err
}

func (in *interior) surveyAddrs(w *wire) error {
	ask := func() *nl.NetlinkRequest {
		return request(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC))
	}
	reset := func() { in.addrs = map[netip.Addr]bool{} }
	err := w.dump(ask, reset, func(data []byte) {
		if len(data) < unix.SizeofIfAddrmsg || number(data[4:]) != in.self.index {
			return
		}
		attrs := data[unix.SizeofIfAddrmsg:]
		a := address(attrs, unix.IFA_LOCAL)
		if !a.IsValid() {
			a = address(attrs, unix.IFA_ADDRESS)
		}
		if a.IsValid() && int(data[1]) == a.BitLen() {
			in.addrs[a] = true
		}
	})
	return wrap("list addresses", err)
}

func (in *interior) surveyNeighs(w *wire) error {
	ask := func() *nl.NetlinkRequest {
		return request(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, &netlink.Ndmsg{})
	}
	reset := func() { in.neighs = map[netip.Addr]MAC{} }
	err := w.dump(ask, reset, func(data []byte) {
		if len(data) < unix.SizeofNdMsg || number(data[4:]) != in.self.index {
			return
		}
		if binary.NativeEndian.Uint16(data[8:])&unix.NUD_PERMANENT == 0 {
			return
		}
		attrs := data[unix.SizeofNdMsg:]
		var mac MAC
		for kind, v := range attributes(attrs) {
			if kind == unix.NDA_LLADDR {
				copy(mac[:], v)
			}
		}
		if ip := address(attrs, unix.NDA_DST); ip.IsValid() {
			in.neighs[ip] = mac
		}
	})
	return wrap("list neighbours", err)
}

func (in *interior) surveyRoutes(w *wire) error {
	ask := func() *nl.NetlinkRequest {
		return request(unix.RTM_GETROUTE, unix.NLM_F_DUMP, &nl.RtMsg{})
	}
	reset := func() { in.routes = nil }
	err := w.dump(ask, reset, func(data []byte) {
		if len(data) < unix.SizeofRtMsg {
			return
		}
		msg, attrs := nl.DeserializeRtMsg(data), data[unix.SizeofRtMsg:]
		ip := msg.Family == unix.AF_INET || msg.Family == unix.AF_INET6
		if ip && msg.Table == unix.RT_TABLE_MAIN && msg.Type == unix.RTN_UNICAST {
			in.routes = append(in.routes, decodeRoute(msg, attrs))
		}
	})
	return wrap("list routes", err)
}

// held says whether the route is there, or some route that does the same.
func (in *interior) held(want route) bool {
	for _, r := range in.routes {
		if r == want {
			return true
		}
	}
	return false
}

// rival is a route to the same destination with the same rank that is not the wanted one.
func (in *interior) rival(want route) (route, bool) {
	for _, r := range in.routes {
		if r != want && r.dst == want.dst && r.metric == want.metric {
			return r, true
		}
	}
	return route{}, false
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
