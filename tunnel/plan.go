package tunnel

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// Config is what the administrator says about tunnels.
type Config struct {
	Mode      Mode
	VNI, Port int
	Accept    Accept
}

// Accept is who may send into our tunnels.
type Accept string

const (
	AcceptPeers Accept = "peers" // the nodes, by the source of the outer header
	AcceptAny   Accept = "any"
)

// Underlay is this host's place in the network that carries everything.
type Underlay struct {
	Dev      string
	MTU      int
	Address  netip.Addr     // the node's address
	Address6 netip.Addr     // of the other family on the same link; zero when it has none
	Subnets  []netip.Prefix // connected to this host by links that are not ours
	Own      []netip.Addr   // this host's addresses, but for those of our links, of loopback, and of a link alone; sorted
	Uplinks  []string       // links with addresses that lead out of this host, and to no container on it
	Bare     []string       // those of them whose packets have no Ethernet header, as of a tun device
	Strict   []string       // those of them on which the reverse path filter of IPv4 is strict
	RA       []string       // links whose default route was learned from a router advertisement by the kernel
	Tunnels  Encaps         // that the kernel has, of those that the mode may choose
	Foreign  []Foreign      // routes of others inside the pools, sorted by prefix
}

// of is the underlay address of a family, zero when there is none.
func (u Underlay) of(is4 bool) netip.Addr {
	for _, a := range []netip.Addr{u.Address, u.Address6} {
		if a.IsValid() && a.Unmap().Is4() == is4 {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

// Remote is a prefix behind other nodes.
type Remote struct {
	Prefix netip.Prefix
	Ends   []End
}

// End is a next hop and what it says of itself.
type End struct {
	Addr    netip.Addr
	Accepts Encaps // the tunnels that it takes packets from
}

// Attached is an address behind one of this host's endpoint links.
type Attached struct {
	Dev string
	MAC MAC
	IP  netip.Addr
}

// Input is everything that the plan depends on.
type Input struct {
	Config   Config
	Pools    []netip.Prefix
	Blocks   []netip.Prefix // this node's own
	Underlay Underlay
	MTU      int // of containers; 0 follows the underlay
	Remotes  []Remote
	Hops     map[netip.Addr]Hop // of every next hop of the remotes, unmapped
	Attached []Attached
	Offload  map[string]Offload // what tunnel devices shall have; on where nothing is said
	Beside   Encaps             // the tunnels that a forwarder beside the kernel has without a device
}

// Path is how a remote prefix is reached, for people and for the list of routes.
type Path struct {
	Prefix netip.Prefix
	Via    []netip.Addr // the next hops in use, sorted; all that are known when none can be used
	Encap  Encap        // empty when it can not be reached
	Dev    string
	MTU    int    // of a packet from a container
	Reason string // why not, empty when it can

	// Legs are the ways out for a forwarder beside the kernel, which may have some where the kernel can not reach the prefix.
	Legs []Leg
	Slow string // why there is no leg though there is a way, else empty
}

// Rows is what the kernel shall hold, and the view of it.
type Rows struct {
	Devices    map[string]Device
	Neighbours map[NeighKey]MAC
	FDB        map[FDBKey]netip.Addr
	Routes     map[RouteKey]Route
	Rules      map[netip.Prefix]Rule
	Sysctls    map[string]string
	Paths      []Path
}

// Plan works out every row from the inputs.
func Plan(in Input) Rows {
	r := Rows{
		Devices:    make(map[string]Device),
		Neighbours: make(map[NeighKey]MAC),
		FDB:        make(map[FDBKey]netip.Addr),
		Routes:     make(map[RouteKey]Route),
		Rules:      make(map[netip.Prefix]Rule),
		Sysctls:    make(map[string]string),
	}
	r.own(in)
	r.attached(in)
	r.devices(in)
	in.Hops = in.apart()
	for _, m := range in.Remotes {
		r.remote(in, m)
	}
	r.narrow()
	r.rules(in)
	r.sysctls(in)
	slices.SortFunc(r.Paths, func(a, b Path) int { return a.Prefix.Compare(b.Prefix) })
	return r
}

// Accepts is the tunnels that this node takes packets from: those of its mode that its kernel has, or the forwarder beside
// it. It is what the other nodes are told.
func (in Input) Accepts() Encaps {
	return in.Config.Mode.Tunnels() & (in.Underlay.Tunnels | in.Beside)
}

// ContainerMTU is the largest packet that a container may send: what the underlay carries, less the header of the
// largest encapsulation that the mode may choose with the families that are in play. It does not change when peers of
// those families come and go.
func ContainerMTU(in Input) int {
	if in.MTU != 0 {
		return in.MTU
	}
	over := 0
	for _, e := range in.Accepts().List() {
		for _, vtep := range in.vteps() {
			if vtep.Is4() || e == VXLAN {
				over = max(over, overhead(e, vtep))
			}
		}
	}
	return in.Underlay.mtu() - over
}

// mtu is 1500 while nothing is known.
func (u Underlay) mtu() int { return cmp.Or(u.MTU, 1500) }

// vteps is this node's own tunnel ends that may be used: of the node's address, of the family of each pool, and of each
// next hop.
func (in Input) vteps() []netip.Addr {
	set := map[netip.Addr]bool{in.Underlay.Address.Unmap(): true}
	for _, p := range in.Pools {
		set[in.Underlay.of(p.Addr().Is4())] = true
	}
	for _, m := range in.Remotes {
		for _, end := range m.Ends {
			set[in.Underlay.of(end.Addr.Unmap().Is4())] = true
		}
	}
	delete(set, netip.Addr{})
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}

// own makes the addresses of this node's blocks that no endpoint has end here: without a route of their own they would
// follow the default route, and come back.
func (r *Rows) own(in Input) {
	for _, b := range in.Blocks {
		r.Routes[RouteKey{Main, b.Masked()}] = Route{Kind: Blackhole}
	}
}

// attached wants neighbour and route of every endpoint's address. What endpoints of IPv4 have as their gateway is this
// host also where no tunnel device has that address: the daemon answers them there.
func (r *Rows) attached(in Input) {
	for _, a := range in.Attached {
		ip := a.IP.Unmap()
		if ip.Is4() {
			r.Routes[RouteKey{Local, host(Gateway())}] = Route{Kind: Here, Hops: SortHops([]NextHop{{Dev: "lo"}})}
		}
		r.Neighbours[NeighKey{a.Dev, ip}] = a.MAC
		r.Routes[RouteKey{Main, host(ip)}] = Route{
			Kind:   Unicast,
			Hops:   SortHops([]NextHop{{Dev: a.Dev}}),
			Source: in.Underlay.of(ip.Is4()),
		}
	}
}

// devices plans every tunnel that this node accepts and its kernel has for each outer family that some next hop has,
// whether or not the tunnel is the way to it: while a host moves between subnets its peers may send through the tunnel
// before it does.
func (r *Rows) devices(in Input) {
	made := in.Accepts() & in.Underlay.Tunnels
	for _, m := range in.Remotes {
		for _, end := range m.Ends {
			local := in.Underlay.of(end.Addr.Unmap().Is4())
			if !local.IsValid() {
				continue
			}
			for _, e := range made.List() {
				if e == VXLAN || local.Is4() {
					r.Devices[deviceOf(e, local)] = in.device(e, local)
				}
			}
		}
	}
}

func (in Input) device(e Encap, local netip.Addr) Device {
	d := Device{Kind: e, Local: local, MTU: in.Underlay.mtu() - overhead(e, local)}
	if e == VXLAN {
		d.VNI, d.Port, d.MAC = in.Config.VNI, in.Config.Port, VTEPMAC(local)
		d.Offload = cmp.Or(in.Offload[deviceOf(e, local)], OffloadOn)
	}
	return d
}

// rules make what containers send to a tunnelled host use the tunnel, because what that host sends them does: both ways
// are the same, and a strict reverse path filter is content. They are for this node's blocks and not for whole pools: the
// underlay may lie in a pool, and the tunnel's own packets must not go into the tunnel.
func (r *Rows) rules(in Input) {
	var tunnelled [2]bool
	for k := range r.Routes {
		if k.Table == Table {
			tunnelled[family(k.Prefix)] = true
		}
	}
	for _, b := range in.Blocks {
		if tunnelled[family(b)] {
			r.Rules[b.Masked()] = Rule{Table: Table, Priority: Priority}
		}
	}
}

// sysctls turn forwarding on for the families that containers use, and a strict reverse path filter on our own tunnels
// into a loose one: while two hosts do not yet agree on the way between them, one sends where the other would not. The
// larger of this value and the one for all links is in force; what comes in on other links stays the administrator's.
func (r *Rows) sysctls(in Input) {
	for name := range r.Devices {
		r.Sysctls["net/ipv4/conf/"+name+"/rp_filter"] = "2"
	}
	if least := r.leastPath(); least > 0 {
		r.Sysctls["net/ipv4/route/min_pmtu"] = strconv.Itoa(least)
	}
	for _, p := range in.Pools {
		if p.Addr().Is4() {
			r.Sysctls[forwarding4] = "1"
			continue
		}
		r.Sysctls[forwarding6] = "1"
		// A forwarding host takes no router advertisements unless told so twice, and would lose its default route.
		for _, dev := range in.Underlay.RA {
			r.Sysctls["net/ipv6/conf/"+dev+acceptRA] = "2"
		}
	}
}

// leastPath is what an IPv4 path must carry at the least when IPv6 goes through a tunnel on it, 0 when none does: packets
// of IPv6 may always have 1280 bytes. The kernel's own least is 552, so that one forged ICMP message could stop all IPv6 to
// a host for ten minutes.
func (r *Rows) leastPath() (least int) {
	for k, route := range r.Routes {
		for _, h := range route.Used() {
			if d, ok := r.Devices[h.Dev]; ok && k.Prefix.Addr().Is6() && d.Local.Is4() {
				least = max(least, leastMTU6+overhead(d.Kind, d.Local))
			}
		}
	}
	return least
}

// Gateway is the gateway of every endpoint of IPv4.
func Gateway() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 1, 1}) }

const (
	forwarding4 = "net/ipv4/ip_forward"
	forwarding6 = "net/ipv6/conf/all/forwarding"
	acceptRA    = "/accept_ra"
)

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}
