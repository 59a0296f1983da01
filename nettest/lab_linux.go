package nettest

import (
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
	Nodes    []string      // which hosts there are; nil: n1 to n4
	Underlay Family        // of the cables between the hosts
	Pools    []string      // CIDRs that the hosts share; nil: 10.88.0.0/16
	HoldTime time.Duration // of the BGP sessions; 0: the default of Fairlead
	RPFilter int           // net.ipv4.conf.all.rp_filter of the hosts: 0 off, 1 strict, 2 loose
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
// and the same in 2001:db8:1::/64 and 2001:db8:2::/64.
type Lab struct {
	Nodes    []*Node
	Router   *Host
	Switches [2]*Host
	Dir      string
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
	l.Router = l.host("router")
	for i := range l.Switches {
		l.addSwitch(i)
	}
	l.Router.Sysctl("net/ipv4/ip_forward", "1")
	l.Router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, name := range o.Nodes {
		l.addNode(name)
	}
	for _, n := range l.Nodes {
		n.WriteConfig(n.Config())
	}
	return l
}

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

// addSwitch makes the switch of subnet i and its cable to the router.
func (l *Lab) addSwitch(i int) {
	sw := l.host(fmt.Sprintf("switch%d", i+1))
	l.Switches[i] = sw
	sw.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	sw.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	sw.IP("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
	sw.IP("link set br0 up")
	dev := fmt.Sprintf("eth%d", i)
	Wire(l.t, l.Router, dev, sw, "router")
	sw.IP("link set router master br0")
	l.address(l.Router, dev, i, 254)
}

// address gives dev the address with this host number in subnet i.
func (l *Lab) address(h *Host, dev string, i, number int) (a4, a6 netip.Addr) {
	if l.o.Underlay != Only6 {
		a4 = netip.MustParseAddr(fmt.Sprintf("%s.%d", []string{"192.0.2", "198.51.100"}[i], number))
		h.IP(fmt.Sprintf("addr add %s/24 dev %s", a4, dev))
	}
	if l.o.Underlay != Only4 {
		a6 = netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", i+1, number))
		h.IP(fmt.Sprintf("addr add %s/64 dev %s nodad", a6, dev))
	}
	return a4, a6
}

// addNode makes the host n1, n2, n3 or n4. The first two are in the first subnet.
func (l *Lab) addNode(name string) {
	number := int(name[1] - '0')
	subnet := (number - 1) / 2
	n := &Node{Host: l.host(name), Subnet: subnet, Dir: filepath.Join(l.Dir, name), lab: l}
	n.Cable(l.Switches[subnet])
	n.Address4, n.Address6 = l.address(n.Host, "eth0", subnet, number)
	n.Sysctl("net/ipv4/conf/all/rp_filter", fmt.Sprint(l.o.RPFilter))
	n.Sysctl("net/ipv4/conf/default/rp_filter", fmt.Sprint(l.o.RPFilter))
	n.DefaultRoutes()
	for _, dir := range []string{n.Dir, filepath.Join(n.Dir, "conf.d")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			l.t.Fatalf("make directory of %s: %v", name, err)
		}
	}
	l.Nodes = append(l.Nodes, n)
}

// Cable joins the host to its switch.
func (n *Node) Cable(sw *Host) {
	Wire(n.lab.t, n.Host, "eth0", sw, n.Name)
	sw.IP("link set " + n.Name + " master br0")
}

// DefaultRoutes sets what the host's own network configuration would: the default routes to the router.
func (n *Node) DefaultRoutes() {
	if n.Address4.IsValid() {
		n.IP(fmt.Sprintf("route replace default via %s.254", []string{"192.0.2", "198.51.100"}[n.Subnet]))
	}
	if n.Address6.IsValid() {
		n.IP(fmt.Sprintf("-6 route replace default via 2001:db8:%d::254", n.Subnet+1))
	}
}

// Unplug takes the host's cable out of its switch; Plug puts it back.
func (n *Node) Unplug() { n.lab.Switches[n.Subnet].IP("link set " + n.Name + " down") }

// Plug is the end of Unplug.
func (n *Node) Plug() { n.lab.Switches[n.Subnet].IP("link set " + n.Name + " up") }

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
	if n.lab.o.Underlay == Only6 {
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
	if n.lab.o.Extra != "" {
		b.WriteString("\n" + n.lab.o.Extra)
	}
	return b.String()
}
