package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Hops asks the kernel how it would send to each next hop. The keys of the result are the unmapped addresses.
//
// A next hop that has no way, that is this host itself, or that only a route of ours leads to, is not reachable: ours
// must not prove themselves. The kernel is also asked what the path carries, as far as it was told by "fragmentation needed"
// (RFC 1191) and "packet too big" (RFC 8201); it forgets that after ten minutes. It believes such a word also of a next hop
// on the link, and then refuses what is larger, so that it counts whoever said it.
func (k *Kernel) Hops(ctx context.Context, next []netip.Addr) (map[netip.Addr]Hop, error) {
	next = unmapped(next)
	answers, err := k.lookup(ctx, next, unix.RTM_F_FIB_MATCH)
	if err != nil {
		return nil, err
	}
	// Where the kernel keeps next hops as objects it may tell their number alone: the plain lookup tells the way, and it
	// alone tells what was learned of the path.
	resolved, err := k.lookup(ctx, next, 0)
	if err != nil {
		return nil, err
	}
	return k.judge(ctx, next, answers, resolved)
}

func (k *Kernel) judge(ctx context.Context, next []netip.Addr, answers, resolved map[netip.Addr]answer) (map[netip.Addr]Hop, error) {
	hops := make(map[netip.Addr]Hop, len(next))
	seen := make(map[int]link)
	for _, nh := range next {
		a, found := answers[nh]
		if r, ok := resolved[nh]; ok {
			if r.mtu != a.mtu {
				a.learned = r.mtu
			}
			if len(a.legs) == 0 {
				a.legs = r.legs
			}
		}
		a.legs = slices.DeleteFunc(a.legs, func(l leg) bool { return l.dead })
		if !found || a.protocol == Protocol || a.kind != unix.RTN_UNICAST || len(a.legs) == 0 {
			hops[nh] = Hop{}
			continue
		}
		l, err := k.cachedLink(ctx, seen, a.legs[0].index)
		if err != nil {
			return nil, err
		}
		hops[nh] = a.hop(nh, l)
	}
	return hops, nil
}

// hop is the answer as a verdict. Nobody's way leads over our own links, and a link that went away while we asked leads
// nowhere.
func (a answer) hop(nh netip.Addr, l link) Hop {
	if l.index == 0 || ourLink(l.name) {
		return Hop{}
	}
	via := a.legs[0].Via
	if !via.IsValid() {
		via = nh
	}
	return Hop{Reachable: true, OnLink: !a.routed(), Dev: l.name, MTU: lesser(l.mtu, a.mtu), PathMTU: a.learned, Via: via}
}

// routed tells whether a router is on the way.
func (a answer) routed() bool {
	return slices.ContainsFunc(a.legs, func(l leg) bool { return l.Via.IsValid() })
}

// lookup asks for the way to each address, over one socket. Addresses that have none are left out.
func (k *Kernel) lookup(ctx context.Context, addrs []netip.Addr, flags uint32) (map[netip.Addr]answer, error) {
	reqs := make([]*nl.NetlinkRequest, len(addrs))
	for i, a := range addrs {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(a), Dst_len: uint8(a.BitLen()), Flags: flags}})
		req.AddData(nl.NewRtAttr(unix.RTA_DST, a.AsSlice()))
		reqs[i] = req
	}
	answers := make(map[netip.Addr]answer, len(addrs))
	errs := k.conn.do(ctx, reqs, func(i int, body []byte) { answers[addrs[i]] = parseRoute(body, links{}) })
	for i, err := range errs {
		if err != nil {
			delete(answers, addrs[i])
		}
		if err != nil && !wayless(err) {
			return nil, fmt.Errorf("look up way to %v: %w", addrs[i], err)
		}
	}
	return answers, nil
}

// wayless tells the errors of a lookup that mean that there is no way: none at all, unreachable, prohibited, a black hole,
// or an address that the kernel does not take for one.
func wayless(err error) bool {
	for _, e := range []unix.Errno{
		unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.ENETDOWN, unix.EAGAIN,
		unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.ENODEV, unix.ENOENT, unix.ESRCH, unix.EADDRNOTAVAIL,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// cachedLink reads a link by its index, once. A link that is gone is the zero value.
func (k *Kernel) cachedLink(ctx context.Context, seen map[int]link, index int) (link, error) {
	if l, ok := seen[index]; ok {
		return l, nil
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	var l link
	err := k.conn.one(ctx, req, func(body []byte) { l = parseLink(body) })
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return link{}, fmt.Errorf("read link %d: %w", index, err)
	}
	seen[index] = l
	return l, nil
}
