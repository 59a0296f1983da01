package tunnel_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

// site is three hosts with a container each: a and c in one subnet, b in another, behind a router. Every reverse path
// filter is strict.
type site struct {
	router *nettest.Host
	nodes  []*node
}

// node is one host of a site, with what it would tell the others.
type node struct {
	host
	container *nettest.Host
	link      string // the host's side of the container
	own       [2]netip.Addr
	blocks    [2]netip.Prefix
	addresses [2]netip.Addr // of the container
}

// four and six say which families the underlay has.
type families struct{ four, six bool }

func newSite(t *testing.T, f families) *site {
	t.Helper()
	s := &site{router: strict(t, "router")}
	s.router.IP("link add lan type bridge")
	s.router.IP("link set lan up")
	for i, name := range []string{"a", "b", "c"} {
		s.nodes = append(s.nodes, s.join(t, i+1, name, f))
	}
	if f.four {
		s.router.IP("addr add 192.0.2.254/24 dev lan")
		s.router.IP("addr add 198.51.100.254/24 dev to-b")
	}
	if f.six {
		s.router.IP("-6 addr add 2001:db8:1::fe/64 dev lan nodad")
		s.router.IP("-6 addr add 2001:db8:2::fe/64 dev to-b nodad")
	}
	s.router.Sysctl("net/ipv4/ip_forward", "1")
	s.router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, n := range s.nodes {
		n.addContainer(t)
	}
	return s
}

func strict(t *testing.T, name string) *nettest.Host {
	h := nettest.NewHost(t, name)
	for _, scope := range []string{"all", "default"} {
		h.Sysctl("net/ipv4/conf/"+scope+"/rp_filter", "1")
		h.Sysctl("net/ipv6/conf/"+scope+"/accept_dad", "0")
	}
	return h
}

func (s *site) join(t *testing.T, i int, name string, f families) *node {
	n := &node{host: host{Host: strict(t, name), far: s.router}, link: fmt.Sprintf("fl%010x", i)}
	nettest.Wire(t, n.Host, "uplink", s.router, "to-"+name)
	subnet4, subnet6 := "192.0.2", "2001:db8:1:"
	if name == "b" {
		subnet4, subnet6 = "198.51.100", "2001:db8:2:"
	} else {
		s.router.IP("link set to-" + name + " master lan")
	}
	if f.four {
		n.own[0] = addr(fmt.Sprintf("%s.%d", subnet4, i))
		n.IP(fmt.Sprintf("addr add %v/24 dev uplink", n.own[0]))
		n.IP(fmt.Sprintf("route add default via %s.254", subnet4))
	}
	if f.six {
		n.own[1] = addr(fmt.Sprintf("%s:%d", subnet6, i))
		n.IP(fmt.Sprintf("-6 addr add %v/64 dev uplink nodad", n.own[1]))
		n.IP(fmt.Sprintf("-6 route add default via %s:fe", subnet6))
	}
	n.blocks = [2]netip.Prefix{prefix(fmt.Sprintf("10.88.%d.0/24", i)), prefix(fmt.Sprintf("2001:db8:88:%d::/64", i))}
	n.addresses = [2]netip.Addr{addr(fmt.Sprintf("10.88.%d.7", i)), addr(fmt.Sprintf("2001:db8:88:%d::7", i))}
	n.k = open(t, n.Host)
	return n
}

const hostMAC = "02:46:4c:00:00:01"

// addContainer does what the room endpoint does.
func (n *node) addContainer(t *testing.T) {
	n.container = strict(t, n.Name+"1")
	n.IP(fmt.Sprintf("link add %s address %s type veth peer name eth0 address 02:00:00:00:00:07 netns %s",
		n.link, hostMAC, filepath.Base(n.container.Path)))
	n.IP("link set " + n.link + " up")
	for _, args := range []string{
		"link set eth0 up",
		fmt.Sprintf("addr add %v/32 dev eth0", n.addresses[0]), fmt.Sprintf("-6 addr add %v/128 dev eth0 nodad", n.addresses[1]),
		"route add 169.254.1.1 dev eth0 scope link", "route add default via 169.254.1.1",
		"neigh replace 169.254.1.1 lladdr " + hostMAC + " dev eth0 nud permanent",
		"neigh replace fe80::1 lladdr " + hostMAC + " dev eth0 nud permanent",
		"-6 route add default via fe80::1 dev eth0",
	} {
		n.container.IP(args)
	}
}

// input is what the agent would read.
func (s *site) input(t *testing.T, n *node, mode tunnel.Mode) tunnel.Input {
	in := tunnel.Input{
		Config: tunnel.Config{Mode: mode, VNI: 88, Port: 4789},
		Pools:  []netip.Prefix{prefix("10.88.0.0/16"), prefix("2001:db8:88::/48")},
		Blocks: n.blocks[:],
	}
	var next []netip.Addr
	for _, m := range s.nodes {
		for i, b := range m.blocks {
			if m == n {
				in.Attached = append(in.Attached, tunnel.Attached{Dev: n.link, IP: n.addresses[i], MAC: tunnel.MAC{2, 0, 0, 0, 0, 7}})
				continue
			}
			nh := m.own[i]
			if !nh.IsValid() {
				nh = m.own[1-i]
			}
			next = append(next, nh)
			in.Remotes = append(in.Remotes, tunnel.Remote{Prefix: b, Ends: []tunnel.End{{Addr: nh}}})
		}
	}
	var err error
	in.Underlay, err = n.k.Underlay(t.Context(), netip.Addr{})
	must(t, err)
	in.Underlay.Tunnels, err = n.k.Supports(t.Context(), mode.Tunnels())
	must(t, err)
	for _, m := range in.Remotes {
		m.Ends[0].Accepts = in.Accepts() // they all run on one kernel
	}
	in.Hops, err = n.k.Hops(t.Context(), next)
	must(t, err)
	return in
}

// converge makes one pass over all rows of every node, and a second one that must find nothing to do.
func (s *site) converge(t *testing.T, mode tunnel.Mode) {
	t.Helper()
	for _, n := range s.nodes {
		n.pass(t, tunnel.Plan(s.input(t, n, mode)))
		if r := n.pass(t, tunnel.Plan(s.input(t, n, mode))); r.Total() != 0 {
			t.Errorf("%s: second pass writes %v", n.Name, r.Writes)
		}
	}
}

func (n *node) pass(t *testing.T, rows tunnel.Rows) *reconcile.Report {
	t.Helper()
	report := reconcile.Climb(t.Context(),
		rung(t, "devices", n.k.Devices(), rows.Devices),
		rung(t, "sysctls", n.k.Sysctls(rows.Sysctls), rows.Sysctls),
		rung(t, "neighbours", n.k.Neighbours(), rows.Neighbours),
		rung(t, "fdb", n.k.FDB(), rows.FDB),
		rung(t, "routes", n.k.Routes(), rows.Routes),
		rung(t, "rules", n.k.Rules(), rows.Rules),
	)
	if !report.Clean() {
		t.Fatalf("pass on %s: %v", n.Name, report.Err())
	}
	return report
}

func rung[K, V comparable](t *testing.T, name string, target reconcile.Target[K, V], want map[K]V) reconcile.Rung {
	t.Helper()
	return reconcile.NewTable(name, target).Rung(want, nil)
}

func TestSiteIsOneFlatNetwork(t *testing.T) {
	for name, c := range map[string]struct {
		families
		mode tunnel.Mode
	}{
		"auto":                   {families{true, true}, tunnel.ModeAuto},
		"vxlan":                  {families{true, true}, tunnel.ModeVXLAN},
		"auto, IPv4 underlay":    {families{true, false}, tunnel.ModeAuto},
		"auto, IPv6 underlay":    {families{false, true}, tunnel.ModeAuto},
		"vxlan, IPv6 underlay":   {families{false, true}, tunnel.ModeVXLAN},
		"vxlan on IPv4 underlay": {families{true, false}, tunnel.ModeVXLAN},
		"ipip":                   {families{true, true}, tunnel.ModeIPIP},
		"gre":                    {families{true, false}, tunnel.ModeGRE},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.families)
			s.needs(t, c.mode)
			s.converge(t, c.mode)
			s.everyoneReachesEveryone(t, c.mode)
			s.pathsAreThose(t, c.mode)
		})
	}
}

// needs skips the test where the kernel has nothing that the mode could use.
func (s *site) needs(t *testing.T, mode tunnel.Mode) {
	t.Helper()
	found, err := s.nodes[0].k.Supports(t.Context(), mode.Tunnels())
	must(t, err)
	if found == 0 {
		t.Skipf("this kernel has no %s; the same test runs in a virtual machine whose kernel has: make test-vm", mode)
	}
}

// familiesOf are the indexes of those that containers can use in the mode: IPIP carries IPv4 only.
func familiesOf(mode tunnel.Mode) []int {
	if mode == tunnel.ModeIPIP {
		return []int{0}
	}
	return []int{0, 1}
}

// end is somebody who can be asked and ask.
type end struct {
	*nettest.Host
	node *node
	ip   netip.Addr
}

// ends are all containers and hosts of the site with their addresses of one family.
func (s *site) ends(i int) (all []end) {
	for _, n := range s.nodes {
		all = append(all, end{n.container, n, n.addresses[i]})
		if n.own[i].IsValid() {
			all = append(all, end{n.Host, n, n.own[i]})
		}
	}
	return all
}

// everyoneReachesEveryone asks across all pairs, and checks that everyone is seen by the address it has.
func (s *site) everyoneReachesEveryone(t *testing.T, mode tunnel.Mode) {
	t.Helper()
	for _, i := range familiesOf(mode) {
		ends := s.ends(i)
		for _, e := range ends {
			e.Serve(e.ip)
		}
		for _, from := range ends {
			for _, to := range ends {
				if from == to {
					continue
				}
				sight, err := from.Ask(to.ip)
				if err != nil {
					t.Errorf("%v: %v", from.ip, err)
				} else if sight.Source != from.ip {
					t.Errorf("%v is seen by %v as %v", from.ip, to.ip, sight.Source)
				}
			}
		}
	}
}

// pathsAreThose looks at the wire: between hosts of one subnet no tunnel in mode auto, across the router always one.
func (s *site) pathsAreThose(t *testing.T, mode tunnel.Mode) {
	t.Helper()
	taps := []*nettest.Tap{s.nodes[0].Tap("uplink"), s.nodes[1].Tap("uplink"), s.nodes[2].Tap("uplink")}
	for _, i := range familiesOf(mode) {
		for x, from := range s.nodes {
			for y, to := range s.nodes {
				if x == y {
					continue
				}
				if _, err := from.container.Ask(to.addresses[i]); err != nil {
					t.Error(err)
				}
				if from.own[i].IsValid() {
					if _, err := from.Ask(to.addresses[i]); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
	for _, tap := range taps {
		tap.Stop()
	}
	for _, i := range familiesOf(mode) {
		for x, from := range s.nodes {
			for y, to := range s.nodes {
				if x == y {
					continue
				}
				far := from.Name == "b" || to.Name == "b"
				wrapped := far || mode != tunnel.ModeAuto || i == 1 && !from.own[1].IsValid()
				for _, ip := range []netip.Addr{from.addresses[i], from.own[i]} {
					all, tunnelled := taps[x].Between(ip, to.addresses[i])
					switch {
					case !ip.IsValid():
					case all == 0 || wrapped && tunnelled != all || !wrapped && tunnelled != 0:
						t.Errorf("%v to %v: %d packets on the wire, %d tunnelled, want tunnelled: %v", ip, to.addresses[i], all, tunnelled, wrapped)
					}
				}
			}
		}
	}
}
