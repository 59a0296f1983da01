package nat

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Connection is one by a port of this host that others than the kernel have carried.
type Connection struct {
	From, To netip.AddrPort // as whoever asked sees it
	As, Into netip.AddrPort // the same two as the endpoint sees them
	Proto    uint8          // of TCP or UDP, as in the IP header
}

// Attributes and values of include/uapi/linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	ctaNATSource      = 6
	ctaNATDestination = 13
	ctaNATMin4        = 1
	ctaNATProto       = 3
	ctaNATMin6        = 4
	ctaNATPortMin     = 1
	ctaNATPortMax     = 2
	ctaIPSource4      = 1
	ctaIPSource6      = 3

	adoptedStatus = 1<<1 | 1<<2 | 1<<3     // IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
	established   = 3                      // TCP_CONNTRACK_ESTABLISHED
	liberal       = uint16(1<<3 | 1<<3<<8) // IP_CT_TCP_FLAG_BE_LIBERAL, and that it is to be set: nobody knows the windows
)

// Adopt puts connections into the kernel's tracking table, so that it goes on with their translation. Those that it has
// already are left alone, and so are those that it does not want. A kernel that tracks nothing translates nothing.
func (k *Kernel) Adopt(ctx context.Context, all []Connection) error {
	if len(all) == 0 {
		return nil
	}
	var w *wire
	if err := k.inside(func() (err error) { w, err = dial(); return err }); err != nil {
		return err
	}
	defer func() { _ = w.close() }()
	w.end = ctx.Done()
	for _, c := range all {
		err := w.ask(adoption(c), func([]byte) {})
		if ctx.Err() != nil {
			return fmt.Errorf("hand over connections: %w", ctx.Err())
		}
		var refused unix.Errno
		if err != nil && !errors.As(err, &refused) {
			return fmt.Errorf("hand over connection from %v to %v: %w", c.From, c.To, err)
		}
	}
	return nil
}

// adoption asks for a connection as it was before its translation, and for that.
func adoption(c Connection) *nl.NetlinkRequest {
	family := uint8(unix.AF_INET)
	if c.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	req := connRequest(nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, family)
	req.AddData(endsOf(nl.CTA_TUPLE_ORIG, c.From, c.To, c.Proto))
	req.AddData(endsOf(nl.CTA_TUPLE_REPLY, c.To, c.From, c.Proto))
	req.AddData(nl.NewRtAttr(nl.CTA_STATUS, nl.BEUint32Attr(adoptedStatus)))
	req.AddData(nl.NewRtAttr(nl.CTA_TIMEOUT, nl.BEUint32Attr(adoptedSeconds(c.Proto))))
	if c.Proto == unix.IPPROTO_TCP {
		info := nl.NewRtAttr(nl.CTA_PROTOINFO|unix.NLA_F_NESTED, nil)
		tcp := nl.NewRtAttr(nl.CTA_PROTOINFO_TCP|unix.NLA_F_NESTED, nil)
		tcp.AddRtAttr(nl.CTA_PROTOINFO_TCP_STATE, []byte{established})
		for _, side := range []int{nl.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, nl.CTA_PROTOINFO_TCP_FLAGS_REPLY} {
			tcp.AddRtAttr(side, nl.Uint16Attr(liberal))
		}
		info.AddChild(tcp)
		req.AddData(info)
	}
	req.AddData(natOf(ctaNATDestination, c.Into))
	if c.As != c.From {
		req.AddData(natOf(ctaNATSource, c.As))
	}
	return req
}

// adoptedSeconds is how long the kernel keeps a connection that is silent: net/netfilter/nf_conntrack_proto_tcp.c and _udp.c.
func adoptedSeconds(proto uint8) uint32 {
	if proto == unix.IPPROTO_TCP {
		return 5 * 24 * 60 * 60
	}
	return 2 * 60
}

func endsOf(kind int, from, to netip.AddrPort, number uint8) *nl.RtAttr {
	source := ctaIPSource4
	if from.Addr().Is6() {
		source = ctaIPSource6
	}
	ip := nl.NewRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(source, from.Addr().AsSlice())
	ip.AddRtAttr(source+1, to.Addr().AsSlice())
	proto := nl.NewRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{number})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(from.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(to.Port()))
	tuple := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	tuple.AddChild(ip)
	tuple.AddChild(proto)
	return tuple
}

func natOf(kind int, to netip.AddrPort) *nl.RtAttr {
	address := ctaNATMin4
	if to.Addr().Is6() {
		address = ctaNATMin6
	}
	nat := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	nat.AddRtAttr(address, to.Addr().AsSlice())
	proto := nl.NewRtAttr(ctaNATProto|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(ctaNATPortMin, nl.BEUint16Attr(to.Port()))
	proto.AddRtAttr(ctaNATPortMax, nl.BEUint16Attr(to.Port()))
	nat.AddChild(proto)
	return nat
}
