package nat

import (
	"net/netip"
	"slices"
)

// choosing is the local addresses of one family of the networks that choose this, and whether any could have one. Those of
// pools where nodes are not told from strangers are left out of what is hidden: it would be hidden between nodes too.
func (in Input) choosing(choice Outgoing, family int) (all []netip.Addr, could bool) {
	blurred := func(a netip.Addr) bool {
		return choice == OutgoingHidden && slices.ContainsFunc(in.Pools, func(p Pool) bool { return p.Blurred && p.CIDR.Contains(a) })
	}
	for _, n := range realms(in.Networks, family) {
		if n.Outgoing != choice {
			continue
		}
		could = could || slices.ContainsFunc(n.subnets, func(p netip.Prefix) bool { return !blurred(p.Addr()) })
		all = append(all, slices.DeleteFunc(n.local, blurred)...)
	}
	return all, could
}

// hide has the containers of networks that want it seen by the host's address, and tells whether there are such networks.
// Its name puts the rule behind those of the pools and nodes.
func (r *Rows) hide(in Input, family int, put func(name, spec string)) bool {
	f := fence{family: family, rows: r}
	local, wanted := in.choosing(OutgoingHidden, family)
	if wanted {
		f.put(f.name(setHidden), local...)
		put("way out of networks", match(f.name(setHidden), "", "src")+"-j MASQUERADE --random-fully")
	}
	return wanted
}

// expose has the containers of networks that want it seen by their own address. Its name puts the rule before those that
// hide, and behind those for answers that must come back by this host.
func (r *Rows) expose(in Input, family int, put func(name, spec string)) {
	f := fence{family: family, rows: r}
	if local, wanted := in.choosing(OutgoingSeen, family); wanted {
		f.put(f.name(setVisible), local...)
		put("seen", match(f.name(setVisible), "", "src")+"-j RETURN")
	}
}

// internal are the local addresses at which no port of the host leads.
func (in Input) internal() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool)
	for _, n := range in.Networks {
		for _, a := range n.Endpoints {
			if n.Internal {
				all[a.Unmap()] = true
			}
		}
	}
	return all
}
