package nettest

import (
	"cmp"
	"net/netip"
)

// EncapTo is how the host's containers are to reach those of another host over IPv4 or IPv6, by the lab's mode and by
// where the two hosts are: the word that `fairlead routes` has for it, "" when they are not to reach them.
func (n *Node) EncapTo(other *Node, is4 bool) string {
	o := n.lab.o
	outer4 := o.Underlay != Only6
	direct := n.Subnet == other.Subnet && (is4 || o.Underlay != Only4)
	switch {
	case o.Mode == "vxlan":
		return "vxlan"
	case o.Mode == "gre" && outer4: // kernel GRE has no IPv6 underlay here
		return "gre"
	case o.Mode == "ipip" && outer4 && is4: // RFC 2003 carries IPv4 in IPv4
		return "ipip"
	case o.Mode == "ipip", o.Mode == "gre", o.Mode == "host-gw" && !direct:
		return ""
	case direct:
		return "direct"
	case is4 && outer4:
		return cmp.Or(o.Across, "vxlan")
	}
	return "vxlan"
}

// WireTo is what is on the cable when the host's containers speak with those of another host: by the fast path IPIP needs no
// device.
func (n *Node) WireTo(other *Node, is4 bool) string {
	o, encap := n.lab.o, n.EncapTo(other, is4)
	if encap == "vxlan" && is4 && o.Underlay != Only6 && (o.Mode == "" || o.Mode == "auto") && o.Fastpath != "off" {
		return "ipip"
	}
	return encap
}

// remotes is the number of prefixes of other hosts that the host is to have a route to.
func (n *Node) remotes() int {
	count := 0
	for _, other := range n.lab.Nodes {
		for _, cidr := range n.lab.o.Pools {
			if other != n && n.EncapTo(other, netip.MustParsePrefix(cidr).Addr().Is4()) != "" {
				count++
			}
		}
	}
	return count
}

// SetMode changes [tunnel] mode in the config of every host. Daemons that run take it when they are told to reload.
func (l *Lab) SetMode(mode string) {
	l.t.Helper()
	l.o.Mode = mode
	l.writeConfigs()
}
