package cli

import (
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/tunnel"
)

const least6 = 1280 // RFC 8200 section 5: no link that carries IPv6 has a smaller MTU

// overhead is what the largest tunnel that the mode may choose adds to a packet, in bytes.
func (c configFacts) overhead() int {
	switch c.Mode {
	case "host-gw":
		return 0
	case "ipip": // RFC 2003: one more IPv4 header
		return 20
	case "gre": // RFC 2784: 4 more
		return 24
	}
	// VXLAN, RFC 7348 section 5: outer IP header, UDP, VXLAN and inner Ethernet header.
	if c.Node.Address.Is6() {
		return 70
	}
	return 50
}

func (l linkFacts) ours() bool {
	return l.kind == "veth" && strings.HasPrefix(l.name, "fl") || tunnel.IsDevice(l.name)
}

func judgeUnderlay(f *hostFacts) []finding {
	want := f.config.Node.Address
	l, found := f.network.link(f.network.underlay)
	switch {
	case len(f.network.links) == 0:
		return nil
	case !found && want.IsValid():
		return []finding{failure("ip -br address show", "no link has the node's address %s; is [node] address right?", want)}
	case !found:
		return []finding{failure("ip -br route show default",
			"no default route, so this node's address is not known: set [node] address")}
	case !l.up:
		return []finding{failure("ip link set "+l.name+" up", "%s is down", l.name)}
	}
	return []finding{fine("%s, MTU %d", l.name, l.mtu)}
}

func judgeMTU(f *hostFacts) []finding {
	under, known := f.network.link(f.network.underlay)
	if !known {
		return nil
	}
	over := f.config.overhead()
	room, set := under.mtu-over, f.config.Node.MTU
	where := f.config.where()
	var found []finding
	switch {
	case set > under.mtu:
		found = append(found, failure("sed -i '/^ *mtu *=/d' "+where+" && fairlead reload",
			"mtu %d in the config is more than %s carries (%d): large packets are lost", set, under.name, under.mtu))
	case set > room:
		found = append(found, warning("sed -i '/^ *mtu *=/d' "+where+" && fairlead reload",
			"mtu %d in the config leaves no room for the tunnel on %s (%d less %d): large packets to other subnets are lost",
			set, under.name, under.mtu, over))
	case f.config.has6() && room < least6:
		found = append(found, failure(fmt.Sprintf("ip link set %s mtu %d", under.name, least6+over),
			"MTU %d of %s leaves %d for containers, and IPv6 needs %d", under.mtu, under.name, room, least6))
	}
	for _, l := range f.network.links {
		if l.ours() && l.mtu > under.mtu {
			found = append(found, warning(fmt.Sprintf("ip link set %s mtu %d", l.name, room),
				"%s has MTU %d, more than the %d of %s: large packets are lost", l.name, l.mtu, under.mtu, under.name))
		}
	}
	if len(found) == 0 {
		found = append(found, fine("containers get up to %d of %d bytes of %s", room, under.mtu, under.name))
	}
	return found
}

// judgePools looks for other networks of this host inside our ranges; Podman's default network is ours too.
func judgePools(f *hostFacts) []finding {
	var found []finding
	for _, pool := range f.config.Pools {
		for _, l := range f.network.links {
			if l.ours() {
				continue
			}
			for _, a := range l.addresses {
				if a.Masked().Overlaps(pool) {
					found = append(found, failure("fairlead check # after another cidr under [[pool]] in "+f.config.where(),
						"pool %s overlaps %s of %s: packets would go to the wrong one", pool, a.Masked(), l.name))
				}
			}
		}
	}
	if len(found) == 0 && len(f.config.Pools) > 0 {
		return []finding{fine("%s, and no link of this host overlaps", joinedPrefixes(f.config.Pools))}
	}
	return found
}

func joinedPrefixes(ps []netip.Prefix) string {
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

// judgeForwarding: the daemon turns forwarding on itself, so "off" is grave only while it runs.
func judgeForwarding(f *hostFacts) []finding {
	var found []finding
	judge := func(wanted bool, path, what string) {
		value, known := f.sysctls[path]
		if !wanted || !known {
			return
		}
		fix := "sysctl -w " + strings.ReplaceAll(path, "/", ".") + "=1"
		switch {
		case value != "0":
			found = append(found, fine("%s packets are forwarded", what))
		case f.daemon.up():
			found = append(found, failure(fix, "%s packets are not forwarded although the daemon runs: something turns it off", what))
		default:
			found = append(found, fine("%s packets are not forwarded; the daemon turns that on when it starts", what))
		}
	}
	judge(f.config.has4(), "net/ipv4/ip_forward", "IPv4")
	judge(f.config.has6(), "net/ipv6/conf/all/forwarding", "IPv6")
	return found
}

func judgeIPv6(f *hostFacts) []finding {
	if !f.config.has6() {
		return nil
	}
	var found []finding
	if f.sysctls["net/ipv6/conf/all/disable_ipv6"] == "1" {
		found = append(found, failure("sysctl -w net.ipv6.conf.all.disable_ipv6=0", "IPv6 is turned off, and a pool is IPv6"))
	} else if _, known := f.sysctls["net/ipv6/conf/all/forwarding"]; !known && len(f.sysctls) > 0 {
		found = append(found, failure("sed -i 's/ipv6.disable=1//' /etc/default/grub && update-grub && reboot",
			"the kernel runs without IPv6, and a pool is IPv6"))
	}
	// A host that forwards takes no router advertisements unless accept_ra is 2: its default route would time out.
	for dev := range f.network.advised {
		path := "net/ipv6/conf/" + dev + "/accept_ra"
		if f.sysctls["net/ipv6/conf/all/forwarding"] == "1" && f.sysctls[path] == "1" {
			found = append(found, warning("sysctl -w "+strings.ReplaceAll(path, "/", ".")+"=2",
				"the IPv6 default route of %s comes from a router advertisement, and a forwarding host ignores the next one", dev))
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Message < found[j].Message })
	return found
}

// judgeRPFilter: the kernel uses the stricter of "all" and the link's own. Strict suits our symmetric paths, but not a
// host whose peers answer over another link.
func judgeRPFilter(f *hostFacts) []finding {
	all, known := f.sysctls["net/ipv4/conf/all/rp_filter"]
	if !known || !f.config.has4() || f.network.underlay == "" {
		return nil
	}
	own := f.sysctls["net/ipv4/conf/"+f.network.underlay+"/rp_filter"]
	effective := max(number(all), number(own))
	if effective == 1 && len(f.network.defaults) > 1 {
		return []finding{warning("sysctl -w net.ipv4.conf.all.rp_filter=2",
			"strict on %s, and default routes leave by %d links: what returns by the other one is dropped",
			f.network.underlay, len(f.network.defaults))}
	}
	word := map[int]string{0: "off", 1: "strict", 2: "loose"}[effective]
	return []finding{fine("%s on %s", word, f.network.underlay)}
}

// number is 0 for what is none.
func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// judgeNeighbours compares the limit of the neighbour tables with what is there and what the peers will add.
func judgeNeighbours(f *hostFacts) []finding {
	var found []finding
	judge := func(wanted bool, path, what string, entries int) {
		limit := number(f.sysctls[path])
		if !wanted || limit == 0 {
			return
		}
		need := entries + len(f.config.Peers)
		fix := fmt.Sprintf("sysctl -w %s=%d", strings.ReplaceAll(path, "/", "."), max(4096, roundUp(4*need)))
		switch {
		case need >= limit:
			found = append(found, failure(fix, "%s table is full: %d entries of %d", what, need, limit))
		case 2*need >= limit:
			found = append(found, warning(fix, "%s table is half full: %d entries of %d", what, need, limit))
		default:
			found = append(found, fine("%s table: %d entries of %d", what, need, limit))
		}
	}
	judge(f.config.has4(), "net/ipv4/neigh/default/gc_thresh3", "IPv4 neighbour", f.network.entries4)
	judge(f.config.has6(), "net/ipv6/neigh/default/gc_thresh3", "IPv6 neighbour", f.network.entries6)
	return found
}

// roundUp is the next power of two.
func roundUp(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}
