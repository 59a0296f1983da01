package tunnel

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrAddressGone says that no link of this host has the node's address.
var ErrAddressGone = errors.New("no link of this host has it")

// Underlay finds the node's address among this host's links. The zero address stands for the source of the default
// route, IPv4 first, an unspecified one for that of its family; a host that has none gets an Underlay with nothing but
// its subnets. The error is ErrAddressGone when the host does not have the address.
func (k *Kernel) Underlay(ctx context.Context, address netip.Addr) (Underlay, error) {
	address = address.Unmap()
	if !address.IsValid() || address.IsUnspecified() {
		found, err := k.defaultSource(ctx, address)
		if err != nil {
			return Underlay{}, err
		}
		address = found
	}
	owned, err := k.addresses(ctx)
	if err != nil {
		return Underlay{}, err
	}
	all := k.links()
	if !address.IsValid() {
		return Underlay{Subnets: subnets(owned, all)}, nil
	}
	at := slices.IndexFunc(owned, func(o ownAddress) bool { return o.ip == address })
	if at < 0 {
		return Underlay{}, fmt.Errorf("find %v: %w", address, ErrAddressGone)
	}
	seen := make(map[int]link)
	l, err := k.cachedLink(ctx, seen, owned[at].index)
	if err != nil {
		return Underlay{}, err
	}
	u := Underlay{Dev: l.name, MTU: l.mtu, Address: address, Subnets: subnets(owned, all), Own: outward(owned, all)}
	for _, o := range owned {
		if o.index == l.index && o.ip.Is4() != address.Is4() && o.lasting() && !u.Address6.IsValid() {
			u.Address6 = o.ip
		}
	}
	if u.Uplinks, u.Bare, err = k.uplinks(ctx, seen, owned, l.index); err != nil {
		return Underlay{}, err
	}
	if u.Strict, err = k.strict(u.Uplinks); err != nil {
		return Underlay{}, err
	}
	u.RA, err = k.advertised(ctx, all)
	return u, err
}

// strict are those of the links whose reverse path filter asks for the way back by the same link: the larger value of the
// link's and that for all is in force (Documentation/networking/ip-sysctl.rst).
func (k *Kernel) strict(links []string) (strict []string, err error) {
	const path = "net/ipv4/conf/%s/rp_filter"
	all, err := k.ReadSysctl(fmt.Sprintf(path, "all"))
	if err != nil {
		return nil, err
	}
	for _, name := range links {
		own, err := k.ReadSysctl(fmt.Sprintf(path, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if max(all, own) == "1" {
			strict = append(strict, name)
		}
	}
	return strict, nil
}

// uplinks are the link of the node's address and the others that have addresses and lead out of this host. What is behind
// a bridge or a veth is a container or virtual machine of somebody else's, whose firewall is not ours to open. The bare ones
// of them carry packets without an Ethernet header.
func (k *Kernel) uplinks(ctx context.Context, seen map[int]link, owned []ownAddress, node int) (names, bare []string, err error) {
	for _, o := range owned {
		if o.ip.IsLoopback() || o.ip.IsLinkLocalUnicast() {
			continue
		}
		l, err := k.cachedLink(ctx, seen, o.index)
		if err != nil {
			return nil, nil, err
		}
		inside := slices.Contains([]string{"bridge", "veth", "tun"}, l.kind)
		if l.index == 0 || ourLink(l.name) || o.index != node && inside {
			continue
		}
		names = append(names, l.name)
		if l.hardware != unix.ARPHRD_ETHER {
			bare = append(bare, l.name)
		}
	}
	slices.Sort(names)
	slices.Sort(bare)
	return slices.Compact(names), slices.Compact(bare), nil
}

// ownAddress is an address of this host.
type ownAddress struct {
	index  int // of the link
	ip     netip.Addr
	subnet netip.Prefix
	scope  uint8
	flags  uint32
}

// lasting tells an address that others can be told: of global scope, and not about to go or not yet there.
func (o ownAddress) lasting() bool {
	const passing = unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	if o.ip.Is6() && o.flags&unix.IFA_F_TEMPORARY != 0 {
		return false
	}
	return o.scope == unix.RT_SCOPE_UNIVERSE && o.flags&passing == 0
}

// faces tells whether others can know the address: loopback and link-local ones are on every host, and those of our links
// are for endpoints.
func (o ownAddress) faces(names links) bool {
	return !o.ip.IsLoopback() && !o.ip.IsLinkLocalUnicast() && !ourLink(names.name(o.index))
}

// subnets is what is connected by links that are not ours.
func subnets(owned []ownAddress, names links) []netip.Prefix {
	var all []netip.Prefix
	for _, o := range owned {
		if o.faces(names) {
			all = append(all, o.subnet)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// outward are the addresses by which others can speak to this host.
func outward(owned []ownAddress, names links) []netip.Addr {
	var all []netip.Addr
	for _, o := range owned {
		if o.faces(names) {
			all = append(all, o.ip)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

func (k *Kernel) addresses(ctx context.Context) ([]ownAddress, error) {
	var owned []ownAddress
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	err := k.conn.dump(ctx, req, func() { owned = nil }, func(body []byte) {
		owned = append(owned, parseAddress(body))
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	return owned, nil
}

func parseAddress(body []byte) ownAddress {
	o := ownAddress{
		index: int(binary.NativeEndian.Uint32(body[4:])),
		scope: body[3],
		flags: uint32(body[2]),
	}
	var near, far netip.Addr
	for kind, value := range attributes(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			near = address(value)
		case unix.IFA_ADDRESS:
			far = address(value)
		case unix.IFA_FLAGS:
			o.flags = uint32(number(value))
		}
	}
	// On a point-to-point link the subnet is the other end's.
	o.ip = near
	if !near.IsValid() {
		o.ip = far
	}
	o.subnet, _ = far.Prefix(int(body[1]))
	return o
}

// defaultSource is the address from which this host speaks to the world, of the family of like if that is valid; zero
// when it has no default route.
func (k *Kernel) defaultSource(ctx context.Context, like netip.Addr) (netip.Addr, error) {
	for _, far := range []netip.Addr{
		netip.AddrFrom4([4]byte{240, 0, 0, 1}), // reserved (RFC 1112): only the default route leads there
		netip.AddrFrom16([16]byte{0: 0xe0, 15: 1}),
	} {
		if like.IsValid() && like.Is4() != far.Is4() {
			continue
		}
		a, err := k.sourceTo(ctx, far)
		// When a link has lost its IPv6 address, its default route stays, with ::1 or a link-local address for a source.
		if err != nil || a.IsGlobalUnicast() {
			return a, err
		}
	}
	return netip.Addr{}, nil
}

// sourceTo is the address that packets to far would have, provided that the default route is what takes them there.
// Nothing is sent.
func (k *Kernel) sourceTo(ctx context.Context, far netip.Addr) (netip.Addr, error) {
	matched, err := k.lookup(ctx, []netip.Addr{far}, unix.RTM_F_FIB_MATCH)
	if err != nil {
		return netip.Addr{}, err
	}
	a, ok := matched[far]
	if !ok || a.kind != unix.RTN_UNICAST || a.protocol == Protocol {
		return netip.Addr{}, nil
	}
	if a.prefix.Bits() != 0 {
		// A private network that takes everything by two halves is not the way between hosts.
		return k.hiddenSource(ctx, far)
	}
	plain, err := k.lookup(ctx, []netip.Addr{far}, 0)
	return plain[far].source, err
}

// hiddenSource finds the default route by reading the main table.
func (k *Kernel) hiddenSource(ctx context.Context, far netip.Addr) (netip.Addr, error) {
	routes, err := k.defaults(ctx, familyOf(far), 0, k.links())
	if err != nil || len(routes) == 0 {
		return netip.Addr{}, err
	}
	best := slices.MinFunc(routes, func(a, b answer) int { return cmp.Compare(a.metric, b.metric) })
	if best.source.IsValid() || len(best.legs) == 0 {
		return best.source, nil
	}
	owned, err := k.addresses(ctx)
	for _, o := range owned {
		if o.index == best.legs[0].index && o.ip.Is4() == far.Is4() && o.lasting() {
			return o.ip, nil
		}
	}
	return netip.Addr{}, err
}

// defaults reads the default routes of the main table, those of one protocol unless it is 0.
func (k *Kernel) defaults(ctx context.Context, family, protocol uint8, all links) ([]answer, error) {
	var found []answer
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Table: unix.RT_TABLE_MAIN, Protocol: protocol}})
	err := k.conn.dump(ctx, req, func() { found = nil }, func(body []byte) {
		if body[1] == 0 && body[7] == unix.RTN_UNICAST {
			found = append(found, parseRoute(body, all))
		}
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("read default routes: %w", err)
	}
	return found, nil
}

// advertised lists the links on which the kernel itself takes router advertisements and has learned a default route.
func (k *Kernel) advertised(ctx context.Context, all links) ([]string, error) {
	routes, err := k.defaults(ctx, unix.AF_INET6, unix.RTPROT_RA, all)
	if err != nil {
		return nil, err
	}
	var devs []string
	for _, r := range routes {
		for _, l := range r.legs {
			value, err := k.ReadSysctl("net/ipv6/conf/" + l.Dev + acceptRA)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			if value == "1" || value == "2" {
				devs = append(devs, l.Dev)
			}
		}
	}
	slices.Sort(devs)
	return slices.Compact(devs), nil
}
