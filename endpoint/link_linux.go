package endpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Places in the arrays of per-interface settings that come with a link (linux/ip.h from 1, linux/ipv6.h from 0).
const (
	conf4Forwarding = 1
	conf6AcceptRA   = 3
	conf6Disable    = 26
	conf6Force      = 59 // since Linux 6.17

	addrGenNone    = 1 // IN6_ADDR_GEN_MODE_NONE
	inetConf       = 1 // IFLA_INET_CONF
	skipStatistics = 1 << 3
	linkGroup      = 88 // tells a half-made host side of ours from a stranger's link; the same number as our routes'
)

// link is what we look at of an interface.
type link struct {
	index, peer, peerNS int // peer: index in its own namespace; peerNS: that namespace's id, -1 for none
	name, kind, alias   string
	up                  bool
	mtu, group          int
	mac                 MAC
	tuning
}

// tuning is what /proc/sys/net/ipv[46]/conf shows of an interface; -1 is a setting that is not there.
type tuning struct {
	forwarding4, acceptRA6, disable6, force6, genMode6 int32
}

// vethRequest asks for the pair: the host side up, the inside down and already in its namespace and under its name.
//
// With the inside down neither end has a carrier, so IPv6 does not yet start on the host side. The one queue in each
// direction that veth uses is asked for by number: left to itself the kernel makes one for each processor and then takes
// the others away again, and waits for a grace period of RCU each time (veth_init_queues in drivers/net/veth.c).
func vethRequest(r Row, ns namespace) *nl.NetlinkRequest {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Flags, body.Change = unix.IFF_UP, unix.IFF_UP
	mac := hostMAC()
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(r.IfName))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(r.MTU)))
	peer.AddRtAttr(unix.IFLA_ADDRESS, r.MAC[:])
	if !r.Handed() {
		peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.fd)))
	}
	peer.AddRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1))
	peer.AddRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1))
	return request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, body,
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(r.HostIf)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(r.MTU))),
		nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]),
		nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(linkGroup)),
		nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1)),
		nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1)),
		info)
}

// setLink asks for a change of the link with this index.
func setLink(index int, attrs ...*nl.RtAttr) *nl.NetlinkRequest {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index = int32(index)
	return request(unix.RTM_SETLINK, unix.NLM_F_ACK, body, attrs...)
}

// setUp asks for a link to be up, or down.
func setUp(index int, up bool) *nl.NetlinkRequest {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index, body.Change = int32(index), unix.IFF_UP
	if up {
		body.Flags = unix.IFF_UP
	}
	return request(unix.RTM_SETLINK, unix.NLM_F_ACK, body)
}

func delLink(index int) *nl.NetlinkRequest {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index = int32(index)
	return request(unix.RTM_DELLINK, unix.NLM_F_ACK, body)
}

// settings is an attribute of setLink: the interface's own net.ipv4.conf.<if>.forwarding, and no link-local address of
// the kernel's making, with none of its duplicate detection, router solicitation and multicast reports.
func settings(forwarding, quiet bool) *nl.RtAttr {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	if forwarding {
		spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil).AddRtAttr(conf4Forwarding, nl.Uint32Attr(1))
	}
	if quiet {
		spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(addrGenNone))
	}
	return spec
}

// linkNamed reads one link; found is false when there is none of that name.
func (w *wire) linkNamed(name string) (l link, found bool, err error) {
	return w.link(nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// linkAt reads one link; found is false when there is none with that index.
//
// The kernel also brings its notion of the carrier up to date before it answers, so that packets pass from then on and
// not some milliseconds later.
func (w *wire) linkAt(index int) (l link, found bool, err error) {
	body := nl.NewIfInfomsg(unix.AF_UNSPEC)
	body.Index = int32(index)
	return w.link(body)
}

func (w *wire) link(body nl.NetlinkRequestData, attrs ...*nl.RtAttr) (l link, found bool, err error) {
	attrs = append(attrs, nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
	data, err := w.ask(request(unix.RTM_GETLINK, 0, body, attrs...))
	switch {
	case errors.Is(err, unix.ENODEV):
		return link{}, false, nil
	case err != nil:
		return link{}, false, fmt.Errorf("read link: %w", err)
	}
	l, err = decodeLink(data)
	return l, err == nil, err
}

// links lists the links of a kind; "" lists all.
func (w *wire) links(kind string) ([]link, error) {
	var out []link
	var bad error
	ask := func() *nl.NetlinkRequest {
		attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics))}
		if kind != "" {
			info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
			info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
			attrs = append(attrs, info)
		}
		return request(unix.RTM_GETLINK, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC), attrs...)
	}
	err := w.dump(ask, func() { out, bad = nil, nil }, func(data []byte) {
		l, err := decodeLink(data)
		if err != nil {
			bad = err
			return
		}
		out = append(out, l)
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return out, nil
}

// decodeLink reads an ifinfomsg and its attributes. It is the inner loop of every listing.
func decodeLink(data []byte) (link, error) {
	if len(data) < unix.SizeofIfInfomsg {
		return link{}, fmt.Errorf("decode link: %d bytes are too few", len(data))
	}
	l := link{
		index: number(data[4:]), up: number(data[8:])&unix.IFF_UP != 0, peerNS: -1, tuning: tuning{-1, -1, -1, -1, -1},
	}
	for kind, v := range attributes(data[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_IFALIAS:
			l.alias = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			copy(l.mac[:], v)
		case unix.IFLA_MTU:
			l.mtu = number(v)
		case unix.IFLA_GROUP:
			l.group = number(v)
		case unix.IFLA_LINK:
			l.peer = number(v)
		case unix.IFLA_LINK_NETNSID:
			l.peerNS = number(v)
		case unix.IFLA_LINKINFO:
			l.kind = decodeKind(v)
		case unix.IFLA_AF_SPEC:
			l.decodeTuning(v)
		}
	}
	return l, nil
}

func decodeKind(info []byte) string {
	for kind, v := range attributes(info) {
		if kind == nl.IFLA_INFO_KIND {
			if string(v) == "veth\x00" {
				return "veth" // no copy of the most common one
			}
			return unix.ByteSliceToString(v)
		}
	}
	return ""
}

func (t *tuning) decodeTuning(spec []byte) {
	for family, attrs := range attributes(spec) {
		for kind, v := range attributes(attrs) {
			switch {
			case family == unix.AF_INET && kind == inetConf:
				t.forwarding4 = place(v, conf4Forwarding-1)
			case family == unix.AF_INET6 && kind == unix.IFLA_INET6_CONF:
				t.acceptRA6, t.disable6 = place(v, conf6AcceptRA), place(v, conf6Disable)
				t.force6 = place(v, conf6Force)
			case family == unix.AF_INET6 && kind == unix.IFLA_INET6_ADDR_GEN_MODE && len(v) > 0:
				t.genMode6 = int32(v[0])
			}
		}
	}
}

// attributes goes through netlink attributes without copying them.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if size < unix.SizeofRtAttr || size > len(b) || !yield(kind, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(len(b), (size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
		}
	}
}

// place is the i-th of the numbers in b, -1 when there are fewer.
func place(b []byte, i int) int32 {
	if len(b) < 4*(i+1) {
		return -1
	}
	return int32(number(b[4*i:]))
}

func number(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(b)))
}
