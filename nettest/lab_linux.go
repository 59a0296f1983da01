package nettest

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Family is a choice of IP versions.
type Family int

const (
	Dual Family = iota
	Only4
	Only6
)

// LabOptions says how a lab differs from the usual one.
type LabOptions struct {
	Binary   string        // the fairlead that the hosts run
	Nodes    []string      // which hosts there are; nil: n1 to n4; n5 and n6 are in a third subnet
	Underlay Family        // of the cables between the hosts
	Pools    []string      // CIDRs that the hosts share; nil: 10.88.0.0/16
	HoldTime time.Duration // of the BGP sessions; 0: the default of Fairlead
	RPFilter int           // net.ipv4.conf.all.rp_filter of the hosts: 0 off, 1 strict, 2 loose
	Mode     string        // [tunnel] mode; "": left out, which is auto
	Across   string        // the tunnel that mode auto takes for IPv4 between subnets; "": vxlan
	Fastpath string        // [fastpath] mode; "": auto
	Extra    string        // TOML that ends every config file
	Kept     string        // the lab outlives the program, with namespaces named so and a dash; "" for tests
	Dir      string        // where its files are; "": a new one, which goes with the test
}

const labDir = "fairlead-lab-" // with the process id and a random number behind, below os.TempDir

// Lab is hosts in two subnets, each with a switch, and a router between them:
//
//	n1 192.0.2.1 ─┐                                      ┌─ n3 198.51.100.3
//	              ├─ switch ── .254 router .254 ── switch ─┤
//	n2 192.0.2.2 ─┘                                      └─ n4 198.51.100.4
//
// and the same in 2001:db8:1::/64 and 2001:db8:2::/64. With n5 or n6 there is a third subnet, and a second router that
// has .253 in the second subnet and .254 in the third:
//
//	n1 n2 192.0.2.0/24 ── router ── n3 n4 198.51.100.0/24 ── router2 ── n5 n6 203.0.113.0/24
type Lab struct {
	Nodes    []*Node
	Router   *Host // the first of Routers
	Routers  []*Host
	Switches []*Host // of each subnet
	Dir      string
	pins     string // where the hosts' daemons pin what outlives them; one for all, as on hosts that share a kernel
	t        T
	o        LabOptions
}

// NewLab makes the hosts and their cables; no daemon runs yet.
func NewLab(t T, o LabOptions) *Lab {
	t.Helper()
	if len(o.Nodes) == 0 {
		o.Nodes = []string{"n1", "n2", "n3", "n4"}
	}
	if len(o.Pools) == 0 {
		o.Pools = []string{"10.88.0.0/16"}
	}
	l := &Lab{t: t, o: o, Dir: o.Dir}
	if l.Dir == "" {
		l.Dir = NewDir(t, "")
	}
	l.pins = filepath.Join(MountPins(t, l.Dir), "fairlead")
	l.addNetworks(max(2, 1+subnetOf(slices.Max(o.Nodes))))
	for _, name := range o.Nodes {
		l.addNode(name)
	}
	l.writeConfigs()
	return l
}

func (l *Lab) writeConfigs() {
	for _, n := range l.Nodes {
		n.WriteConfig(n.Config())
	}
}

// numberOf is the last part of a host's addresses, subnetOf the subnet that it begins in: n3 is 3, in the second one.
func numberOf(name string) int { return int(name[1] - '0') }

func subnetOf(name string) int { return (numberOf(name) - 1) / 2 }

// NewDir makes a directory below parent, or where temporary files are; it goes with the test.
//
// Not t.TempDir: with the name of a test in it the path of a unix socket is soon too long.
func NewDir(t T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("%s%d-", labDir, os.Getpid()))
	if err != nil {
		t.Fatalf("make directory of lab: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (l *Lab) host(name string) *Host {
	l.t.Helper()
	var h *Host
	if l.o.Kept != "" {
		h = newHost(l.t, name, l.o.Kept+"-"+name)
	} else {
		h = NewHost(l.t, name)
	}
	// Without duplicate detection: for a second after a link comes up it would hold back what the host wants to send.
	h.Sysctl("net/ipv6/conf/all/accept_dad", "0")
	h.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	return h
}

// addNetworks makes the subnets and the routers between them.
func (l *Lab) addNetworks(count int) {
	l.t.Helper()
	for i := range count {
		l.addSwitch(fmt.Sprintf("switch%d", i+1))
	}
	for i := range count - 1 {
		l.addRouter(i)
	}
	l.Router = l.Routers[0]
	if count > 2 {
		l.static(l.Routers[0], 2, 1, 253)
		l.static(l.Routers[1], 0, 1, 254)
	}
}

func (l *Lab) addSwitch(name string) {
	l.t.Helper()
	sw := l.host(name)
	l.Switches = append(l.Switches, sw)
	sw.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	sw.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	sw.IP("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
	sw.IP("link set br0 up")
}

// addRouter makes the router between subnet i and the next one: router, then router2. It has .254, except where another
// router has that already.
func (l *Lab) addRouter(i int) {
	l.t.Helper()
	name := "router"
	if i > 0 {
		name = fmt.Sprintf("router%d", i+1)
	}
	r := l.host(name)
	l.Routers = append(l.Routers, r)
	for side, number := range []int{254 - i, 254} {
		dev := fmt.Sprintf("eth%d", side)
		l.connect(r, dev, i+side, name)
		l.address(r, dev, i+side, number)
	}
	r.Sysctl("net/ipv4/ip_forward", "1")
	r.Sysctl("net/ipv6/conf/all/forwarding", "1")
}

// connect joins a host's new link to the switch of subnet i.
func (l *Lab) connect(h *Host, dev string, i int, port string) {
	l.t.Helper()
	Wire(l.t, h, dev, l.Switches[i], port)
	l.Switches[i].IP("link set " + port + " master br0")
}

// number4 and number6 are the addresses of a host in subnet i.
func number4(i, number int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("%s.%d", []string{"192.0.2", "198.51.100", "203.0.113"}[i], number))
}

func number6(i, number int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", i+1, number))
}

// static is a route to subnet to by way of a router in subnet i.
func (l *Lab) static(h *Host, to, i, router int) {
	l.t.Helper()
	if l.o.Underlay != Only6 {
		h.IP(fmt.Sprintf("route replace %s/24 via %s", number4(to, 0), number4(i, router)))
	}
	if l.o.Underlay != Only4 {
		h.IP(fmt.Sprintf("-6 route replace %s/64 via %s", number6(to, 0), number6(i, router)))
	}
}

// address gives dev the address with this host number in subnet i.
func (l *Lab) address(h *Host, dev string, i, number int) (a4, a6 netip.Addr) {
	l.t.Helper()
	if l.o.Underlay != Only6 {
		a4 = number4(i, number)
		h.IP(fmt.Sprintf("addr add %s/24 dev %s", a4, dev))
	}
	if l.o.Underlay != Only4 {
		a6 = number6(i, number)
		h.IP(fmt.Sprintf("addr add %s/64 dev %s nodad", a6, dev))
	}
	return a4, a6
}

// addNode makes a host, with its cable and its addresses.
func (l *Lab) addNode(name string) {
	l.t.Helper()
	n := &Node{Host: l.host(name), Subnet: subnetOf(name), Dir: filepath.Join(l.Dir, name), lab: l}
	l.connect(n.Host, "eth0", n.Subnet, name)
	n.Sysctl("net/ipv4/conf/all/rp_filter", fmt.Sprint(l.o.RPFilter))
	n.Sysctl("net/ipv4/conf/default/rp_filter", fmt.Sprint(l.o.RPFilter))
	n.Address4, n.Address6 = l.address(n.Host, "eth0", n.Subnet, numberOf(name))
	n.DefaultRoutes()
	for _, dir := range []string{n.Dir, filepath.Join(n.Dir, "conf.d")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			l.t.Fatalf("make directory of %s: %v", name, err)
		}
	}
	l.Nodes = append(l.Nodes, n)
}

// DefaultRoutes sets what the host's own network configuration would: the default routes to the router, and between two
// routers also the way to the subnet behind the second.
func (n *Node) DefaultRoutes() {
	n.lab.t.Helper()
	if n.Address4.IsValid() {
		n.IP(fmt.Sprintf("route replace default via %s", number4(n.Subnet, 254)))
	}
	if n.Address6.IsValid() {
		n.IP(fmt.Sprintf("-6 route replace default via %s", number6(n.Subnet, 254)))
	}
	if n.Subnet == 1 && len(n.lab.Routers) > 1 {
		n.lab.static(n.Host, 2, 1, 253)
	}
}

// Node returns the host of that name.
func (l *Lab) Node(name string) *Node {
	i := slices.IndexFunc(l.Nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		l.t.Fatalf("the lab has no host %s", name)
	}
	return l.Nodes[i]
}

// Start starts every daemon and waits until all know of all.
func (l *Lab) Start() {
	l.t.Helper()
	for _, n := range l.Nodes {
		n.Start()
	}
	for _, n := range l.Nodes {
		n.WaitConverged(30 * time.Second)
	}
}

// Config is the text of a config file of fewer than 15 lines.
func (n *Node) Config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[node]\nstate_dir = %q\nrun_dir = %q\n", n.StateDir(), n.RunDir())
	fmt.Fprintf(&b, "\n[fastpath]\nmode = %q\npin_dir = %q\n", cmp.Or(n.lab.o.Fastpath, "auto"), n.lab.pins)
	for i, cidr := range n.lab.o.Pools {
		b.WriteString("\n[[pool]]\n")
		if i > 0 {
			fmt.Fprintf(&b, "name = %q\n", map[bool]string{true: "v6", false: fmt.Sprint("pool", i+1)}[strings.Contains(cidr, ":")])
		}
		fmt.Fprintf(&b, "cidr = %q\n", cidr)
	}
	b.WriteString("\n[bgp]\n")
	if n.lab.o.HoldTime > 0 {
		fmt.Fprintf(&b, "hold_time = %q\n", n.lab.o.HoldTime)
	}
	if n.lab.o.Underlay == Only6 { // any number will do that no other host has
		fmt.Fprintf(&b, "router_id = \"203.0.113.%s\"\n", n.Name[1:])
	}
	var peers []string
	for _, p := range n.lab.Nodes {
		if p != n {
			peers = append(peers, fmt.Sprintf("{ address = %q }", p.Address()))
		}
	}
	if len(peers) > 0 {
		fmt.Fprintf(&b, "peer = [%s]\n", strings.Join(peers, ", "))
	}
	if n.lab.o.Mode != "" {
		fmt.Fprintf(&b, "\n[tunnel]\nmode = %q\n", n.lab.o.Mode)
	}
	if n.lab.o.Extra != "" {
		b.WriteString("\n" + n.lab.o.Extra)
	}
	return b.String()
}
