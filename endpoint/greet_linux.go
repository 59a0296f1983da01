package endpoint

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// newGateway gives a host side the address of the container's gateway, so that the kernel answers for it there. One of IPv4
// has the scope of the host alone: the kernel would else take it for the source of what it sends to the container. One of
// IPv6 brings the route to the link's other addresses, since a container asks its gateway from such a one. The error of one
// that is there already is EEXIST.
func newGateway(index int, a netip.Addr) *nl.NetlinkRequest {
	link := netip.PrefixFrom(a, a.BitLen())
	if a.Is6() {
		link = netip.PrefixFrom(a, 64) // RFC 4291 section 2.5.6
	}
	req := newAddr(index, link)
	req.Flags = req.Flags&^unix.NLM_F_REPLACE | unix.NLM_F_EXCL
	if a.Is4() {
		req.Data[0].(*nl.IfAddrmsg).Scope = unix.RT_SCOPE_HOST
	}
	return req
}

// greeters reads which links have which addresses, if some row asks for any, and returns what tells whether a link has all
// of a list.
func (w *wire) greeters(rows []Row) (greet func(index int, want []netip.Addr) bool, err error) {
	have := make(map[int][]netip.Addr)
	greet = func(index int, want []netip.Addr) bool {
		return !slices.ContainsFunc(want, func(a netip.Addr) bool { return !slices.Contains(have[index], a) })
	}
	if !slices.ContainsFunc(rows, func(r Row) bool { return len(r.Greets()) > 0 }) {
		return greet, nil
	}
	ask := func() *nl.NetlinkRequest {
		return request(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC))
	}
	err = w.dump(ask, func() { clear(have) }, func(data []byte) {
		if len(data) < unix.SizeofIfAddrmsg {
			return
		}
		attrs := data[unix.SizeofIfAddrmsg:]
		a := address(attrs, unix.IFA_LOCAL)
		if !a.IsValid() {
			a = address(attrs, unix.IFA_ADDRESS)
		}
		have[number(data[4:])] = append(have[number(data[4:])], a)
	})
	return greet, wrap("list addresses", err)
}
