package tunnel

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Partners are the far ends of tunnels of the given kinds that are not ours. The kernel gives a packet to the device that
// knows its sender before it gives it to ours, which knows nobody, so the guard must let it pass.
func (k *Kernel) Partners(ctx context.Context, of Encaps) (map[Source]struct{}, error) {
	all := make(map[Source]struct{})
	for _, e := range of.List() {
		for _, kind := range relatives(e) {
			ends, err := k.farEnds(ctx, kind)
			if err != nil {
				return nil, fmt.Errorf("read the far ends of %s links: %w", kind, err)
			}
			for _, ip := range ends {
				all[Source{GuardKey{e, 4}.sets()[1], ip}] = struct{}{}
			}
		}
	}
	return all, nil
}

// relatives are the kinds of links whose packets look like those of an encapsulation.
func relatives(e Encap) []string {
	switch e {
	case IPIP:
		return []string{"ipip"}
	case GRE:
		return []string{"gre", "gretap", "erspan"}
	default:
		return nil // VXLAN's are told apart by their VNI
	}
}

// farEnds asks for links of one kind only, so that a host with a thousand others does not send them.
func (k *Kernel) farEnds(ctx context.Context, kind string) (ends []netip.Addr, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	req.AddData(info)
	err = k.conn.dump(ctx, req, func() { ends = nil }, func(body []byte) {
		if remote := farEnd(body, kind); remote.Is4() {
			ends = append(ends, remote)
		}
	})
	return ends, err
}

// farEnd is the only other end of a link of that kind, zero when it has none or is of another kind.
func farEnd(body []byte, kind string) netip.Addr {
	var data []byte
	same := false
	for attribute, value := range attributes(body[unix.SizeofIfInfomsg:]) {
		if attribute != unix.IFLA_LINKINFO {
			continue
		}
		for attribute, value := range attributes(value) {
			switch attribute {
			case unix.IFLA_INFO_KIND:
				same = text(value) == kind
			case unix.IFLA_INFO_DATA:
				data = value
			}
		}
	}
	if !same {
		return netip.Addr{}
	}
	numbers := greAttributes()
	if kind == "ipip" {
		numbers = ipipAttributes()
	}
	return parseIPTunnel(data, numbers).remote
}
