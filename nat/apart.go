package nat

import (
	"net/netip"
	"slices"
	"strings"
)

// Network is containers on all hosts that have their addresses from the same subnets.
type Network struct {
	ID        string         // its first 12 letters tell it from all others
	Subnets   []netip.Prefix // of its containers on all hosts, at most one of each family
	Endpoints []netip.Addr   // of its containers on this host
	Outgoing  Outgoing
	Isolated  bool // its containers and those of other isolated networks do not reach each other
	Internal  bool // its containers reach each other, and by way of hosts nobody else
}

// Outgoing is by which address the containers of a network are seen beyond all pools.
type Outgoing string

// The choices of a network.
const (
	OutgoingPool   Outgoing = ""    // as the pool says
	OutgoingHidden Outgoing = "on"  // by the host's
	OutgoingSeen   Outgoing = "off" // by their own
)

func (n Network) fenced() bool { return n.Isolated || n.Internal }

// realm is what one family's packet filter knows of a network.
type realm struct {
	Network
	subnets []netip.Prefix
	local   []netip.Addr
	apart   bool // from other isolated networks by its subnet alone: none of theirs overlaps it
	alone   bool // the same of all networks
}

// told is what tells the network's containers on other hosts from those of others; invalid when nothing does.
func (n realm) told(enough bool) netip.Prefix {
	if !enough || len(n.subnets) != 1 {
		return netip.Prefix{}
	}
	return n.subnets[0]
}

// ambiguous tells whether its containers on other hosts can not be told from those that must be kept from it.
func (n realm) ambiguous() bool {
	return n.Internal && !n.told(n.alone).IsValid() || n.Isolated && !n.told(n.apart).IsValid()
}

// tag is the network in the names of sets and rules, as Docker shows it to people.
func (n realm) tag() string { return n.ID[:min(len(n.ID), 12)] }

// realms are the networks that have something to do with a family.
func realms(networks []Network, family int) []realm {
	all := make([]realm, 0, len(networks))
	for _, n := range networks {
		r := realm{Network: n, apart: true, alone: true, local: ofFamily(n.Endpoints, family)}
		for _, p := range n.Subnets {
			if familyOf(p.Addr()) == family {
				r.subnets = append(r.subnets, p.Masked())
			}
		}
		for _, a := range r.local { // one that lies elsewhere is in the way of others there
			if !slices.ContainsFunc(r.subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
				r.subnets = append(r.subnets, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		if len(r.subnets) > 0 {
			all = append(all, r)
		}
	}
	return all
}

// judged are the realms with what stands between them.
func judged(networks []Network, family int) []realm {
	all := realms(networks, family)
	for i := range all {
		for j, o := range all {
			if i != j && all[i].fenced() && all[i].overlaps(o) {
				all[i].alone = false
				all[i].apart = all[i].apart && !o.Isolated
			}
		}
	}
	return all
}

func (n realm) overlaps(o realm) bool {
	return slices.ContainsFunc(n.subnets, func(p netip.Prefix) bool { return slices.ContainsFunc(o.subnets, p.Overlaps) })
}

func ofFamily(addresses []netip.Addr, family int) (all []netip.Addr) {
	for _, a := range addresses {
		if familyOf(a) == family {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// Ambiguous names the networks whose containers on other hosts can not be told from those that must be kept from them,
// since another network has addresses of the same subnet. Such a network is fenced in on its host: its containers reach
// each other there, and none of that subnet elsewhere.
func Ambiguous(networks []Network) (ids []string) {
	for _, family := range families() {
		for _, n := range judged(networks, family) {
			if n.ambiguous() && !slices.Contains(ids, n.ID) {
				ids = append(ids, n.ID)
			}
		}
	}
	return ids
}

// The sets of local addresses that rules about networks ask for. Those that let something through a fence have a stem of
// their own.
const (
	localStem  = setPrefix + "net-"
	letStem    = localStem + "may-" // before a network's tag: its own, which may speak with each other
	setFenced  = localStem + "fenced"
	setInside  = localStem + "inside" // of internal networks that are ambiguous
	setAstray  = localStem + "astray" // in the subnet of an internal network, and not of it
	setOpen    = letStem + "open"     // in the subnet of an isolated network, and fenced in by nothing
	setHidden  = localStem + "hidden" // seen by the host's address
	setVisible = localStem + "seen"   // seen by their own
)

// Local tells whether m is due to this host's endpoints and config alone: no peer can have more to tell of it.
func (m Member) Local() bool { return strings.HasPrefix(m.Set, localStem) }

// Expired are the members that are there, are not wanted any more, and would let through what a fence shall drop. Other
// members only drop more when they stay; these must go before an endpoint comes that has the address now, and so can not
// wait for the end of a pass, or for one without a failure, as it is good for all else that goes.
func Expired(have, want map[Member]Fault) (all []Member) {
	for m := range have {
		if _, wanted := want[m]; !wanted && !m.whole() && strings.HasPrefix(m.Set, letStem) {
			all = append(all, m)
		}
	}
	return all
}

// fence is what the networks of one family ask for.
type fence struct {
	family int
	realms []realm
	rows   *Rows
}

// apart keeps networks from each other. The rules follow from the networks alone, so that containers that come and go
// change nothing but members of sets; and where no network asks for a fence there is none.
//
// Sets of single addresses are enough for it. Prefixes are few, at most one of each network, and a rule compares with one
// faster than it looks into a set; exceptions within them are sets of their own.
func (r *Rows) apart(in Input) {
	for _, family := range families() {
		f := fence{family, judged(in.Networks, family), r}
		if slices.ContainsFunc(f.realms, func(n realm) bool { return n.fenced() }) {
			f.fill(in)
			f.build()
		}
	}
}

// name is that of a set of this family.
func (f fence) name(stem string) string { return stem + map[int]string{4: "4", 6: "6"}[f.family] }

// lets is the set of a network's own addresses.
func (f fence) lets(n realm) string { return f.name(letStem + n.tag() + "-") }

// put makes a set with some members, or adds them.
func (f fence) put(set string, members ...netip.Addr) {
	whole := Member{set, netip.IPv6Unspecified()}
	if f.family == 4 {
		whole.IP = netip.IPv4Unspecified()
	}
	f.rows.Members[whole] = ""
	for _, a := range members {
		f.rows.Members[Member{set, a}] = ""
	}
}

// fill puts every local address where it belongs.
func (f fence) fill(in Input) {
	for _, stem := range []string{setFenced, setInside, setAstray, setOpen} {
		f.put(f.name(stem))
	}
	fenced := make(map[netip.Addr]bool)
	var others []netip.Addr
	for _, n := range f.realms {
		if !n.fenced() {
			others = append(others, n.local...)
			continue
		}
		for _, a := range n.local {
			fenced[a] = true
		}
		f.put(f.name(setFenced), n.local...)
		if n.ambiguous() {
			f.put(f.lets(n), n.local...)
		}
		if n.Internal && !n.told(n.alone).IsValid() {
			f.put(f.name(setInside), n.local...)
		}
	}
	for _, addresses := range in.Endpoints {
		others = append(others, ofFamily(addresses, f.family)...)
	}
	for _, a := range others {
		if fenced[a] {
			continue
		}
		for _, n := range f.realms {
			if n.Isolated && slices.ContainsFunc(n.subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
				f.put(f.name(setOpen), a)
			}
			if n.Internal && n.told(n.alone).IsValid() && n.told(n.alone).Contains(a) {
				f.put(f.name(setAstray), a)
			}
		}
	}
}

// build makes the rules. Their names are their order: first what is none of their business returns, then what is between
// two containers of one network here; after that all rules drop. What they ask is where the packet's ends are, and never
// whether it answers another: a fence stands against flows that were there before it too.
func (f fence) build() {
	fenced := f.name(setFenced)
	f.rule("all others", "", match(fenced, "! ", "src")+match(fenced, "! ", "dst"), "RETURN")
	for _, n := range f.realms {
		if n.fenced() && n.ambiguous() {
			f.rule("among "+n.tag(), "", match(f.lets(n), "", "src")+match(f.lets(n), "", "dst"), "RETURN")
		}
	}
	for _, w := range ways() {
		inside := false
		for _, n := range f.realms {
			if n.Isolated {
				f.isolate(n, w)
			}
			own := n.told(n.alone)
			inside = inside || n.Internal && !own.IsValid()
			if n.Internal && own.IsValid() {
				f.rule(w.out+own.String(), w.between(own.String(), "! "+own.String()), match(fenced, "", w.here), "DROP")
				f.rule(w.out+own.String()+" to others here", w.between(own.String(), ""),
					match(fenced, "", w.here)+match(f.name(setAstray), "", w.there), "DROP")
			}
		}
		if inside {
			f.rule(w.out+"all ambiguous", "", match(f.name(setInside), "", w.here), "DROP")
		}
	}
}

// isolate keeps whoever is fenced in here from the subnets of a network, unless this is its own and no other's.
func (f fence) isolate(n realm, w way) {
	for _, p := range n.subnets {
		ends := w.between("", p.String())
		if n.told(n.apart) == p {
			ends = w.between("! "+p.String(), p.String())
		}
		f.rule(w.to+p.String(), ends, match(f.name(setFenced), "", w.here)+match(f.name(setOpen), "! ", w.there), "DROP")
	}
}

func (f fence) rule(name, ends, matches, target string) {
	f.rows.Apart[EntryKey{name, f.family}] = EntryOf(ends + matches + "-j " + target)
}

// match is the part of a rule that asks for an end in a set, or with not for one that is not in it.
func match(set, not, end string) string {
	return "-m set " + not + "--match-set " + set + " " + end + " "
}

// way is one direction of packets between a container here and the other end.
type way struct {
	here, there string // the ends in the words of sets
	to, out     string // how rules are called
}

func ways() [2]way { return [2]way{{"src", "dst", "to ", "out of "}, {"dst", "src", "from ", "into "}} }

// between is the part of a rule about the prefixes that both ends are in, or with "! " before one are not in. iptables
// prints that of the source first.
func (w way) between(here, there string) string {
	if w.here == "dst" {
		here, there = there, here
	}
	return within("-s ", here) + within("-d ", there)
}

func within(flag, prefix string) string {
	rest, not := strings.CutPrefix(prefix, "! ")
	switch {
	case prefix == "":
		return ""
	case not:
		return "! " + flag + rest + " "
	}
	return flag + prefix + " "
}
