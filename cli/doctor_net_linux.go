package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/tunnel"
)

// lookAtNetwork lists links, default routes and neighbours. address is the node's; when it is not valid, the underlay is
// the link of the default route.
func lookAtNetwork(address netip.Addr) (networkFacts, error) {
	n := networkFacts{defaults: make(map[string]bool), advised: make(map[string]bool)}
	links, err := retry(netlink.LinkList)
	if err != nil {
		return n, fmt.Errorf("list links: %w", err)
	}
	names := make(map[int]string)
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		n.links = append(n.links, lookAtLink(l))
	}
	routes, err := retry(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return n, fmt.Errorf("list routes: %w", err)
	}
	first := n.lookAtDefaults(routes, names)
	n.underlay = linkWith(n.links, address)
	if !address.IsValid() {
		n.underlay = first
	}
	n.entries4, n.entries6 = neighbours(netlink.FAMILY_V4), neighbours(netlink.FAMILY_V6)
	return n, nil
}

// retry repeats a dump that changes cut short.
func retry[T any](list func() ([]T, error)) (items []T, err error) {
	for range 5 {
		if items, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return items, err
		}
	}
	return items, err
}

func lookAtLink(l netlink.Link) linkFacts {
	at := l.Attrs()
	f := linkFacts{name: at.Name, kind: l.Type(), mtu: at.MTU, up: at.RawFlags&unix.IFF_UP != 0}
	if v, is := l.(*netlink.Vxlan); is {
		f.vni, f.port = v.VxlanId, v.Port
		if f.ours() {
			f.offload, _ = tunnel.ReadOffload(f.name) // not known of a link that has just gone
		}
	}
	addresses, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return f // the link has just gone
	}
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.IPNet != nil {
			bits, _ := a.Mask.Size()
			f.addresses = append(f.addresses, netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	return f
}

func linkWith(links []linkFacts, address netip.Addr) string {
	for _, l := range links {
		for _, a := range l.addresses {
			if a.Addr() == address {
				return l.name
			}
		}
	}
	return ""
}

// lookAtDefaults notes by which links the default routes leave, and returns that of the one with the lowest metric,
// IPv4 before IPv6.
func (n *networkFacts) lookAtDefaults(routes []netlink.Route, names map[int]string) (first string) {
	best := netlink.Route{Priority: -1}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.Type != unix.RTN_UNICAST {
			continue
		}
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex}}
		}
		for _, h := range hops {
			n.defaults[names[h.LinkIndex]] = true
			if r.Protocol == unix.RTPROT_RA {
				n.advised[names[h.LinkIndex]] = true
			}
		}
		if best.Priority < 0 || r.Family == netlink.FAMILY_V4 && best.Family != netlink.FAMILY_V4 ||
			r.Family == best.Family && r.Priority < best.Priority {
			best, first = r, names[hops[0].LinkIndex]
		}
	}
	return first
}

// neighbours counts the entries that are held against the limit of the table.
func neighbours(family int) int {
	all, err := retry(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, family) })
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range all {
		if e.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) == 0 {
			n++
		}
	}
	return n
}

// readSysctls reads what the examinations ask for; what this kernel does not have is left out.
func readSysctls(n networkFacts) map[string]string {
	paths := []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/disable_ipv6",
		"net/ipv4/conf/all/rp_filter", "net/ipv4/neigh/default/gc_thresh3", "net/ipv6/neigh/default/gc_thresh3",
		"net/ipv4/conf/" + n.underlay + "/rp_filter",
	}
	for dev := range n.advised {
		paths = append(paths, "net/ipv6/conf/"+dev+"/accept_ra")
	}
	values := make(map[string]string)
	for _, p := range paths {
		if text, err := os.ReadFile(filepath.Join("/proc/sys", p)); err == nil {
			values[p] = strings.TrimSpace(string(text))
		}
	}
	return values
}
