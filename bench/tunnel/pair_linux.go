package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const readyTime = 30 * time.Second

// way is one way for containers to reach each other.
type way struct{ name, mode, encap string }

// ways are all of them. Which a kernel has is up to it.
func ways() []way {
	return []way{
		{"direct", "auto", "direct"},
		{"direct, no tunnels", "host-gw", "direct"}, // containers have the whole MTU then
		{"ipip", "ipip", "ipip"},
		{"gre", "gre", "gre"},
		{"vxlan", "vxlan", "vxlan"},
	}
}

// pair is two hosts on one cable that run Fairlead in a mode, with a container each.
type pair struct {
	way
	hosts      ends
	containers ends
}

func newPair(t nettest.T, binary, dir string, w way) (pair, error) {
	p := pair{way: w}
	var nodes [2]*nettest.Node
	var containers [2]*nettest.Container
	hosts := [2]*nettest.Host{nettest.NewHost(t, "a"), nettest.NewHost(t, "b")}
	nettest.Wire(t, hosts[0], "eth0", hosts[1], "eth0")
	for i, h := range hosts {
		h.IP(fmt.Sprintf("addr add %v/24 dev eth0", hostIP(i)))
		nodes[i] = nettest.NewNode(h, binary, filepath.Join(dir, h.Name))
		nodes[i].WriteConfig(text(nodes[i], i, w.mode))
		nodes[i].Start()
	}
	for i, n := range nodes {
		n.WaitReady(readyTime)
		containers[i] = n.Attach(fmt.Sprintf("c%d", i))
	}
	nettest.Eventually(t, readyTime, func() error { return p.check(nodes[0], containers[1].IP4) })
	containers[1].Serve(containers[1].IP4)
	if _, err := containers[0].Ask(containers[1].IP4); err != nil {
		return p, err
	}
	p.hosts = ends{hosts[0], hosts[1], hostIP(0), hostIP(1)}
	p.containers = ends{containers[0].Host, containers[1].Host, containers[0].IP4, containers[1].IP4}
	return p, nil
}

// cable gives both directions of the cable a rate, "" for none. The burst holds several of the largest packets that TCP
// hands down, so that none is cut up before its time.
func (p pair) cable(rate string) {
	for _, h := range []*nettest.Host{p.hosts.near, p.hosts.far} {
		if rate == "" {
			_, _ = h.Try("tc", "qdisc", "del", "dev", "eth0", "root") // there may be none
			continue
		}
		h.Run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "1mb", "latency", "10ms")
	}
}

func hostIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}) }

func text(n *nettest.Node, i int, mode string) string {
	return fmt.Sprintf(`[node]
address = "%v"
state_dir = %q
run_dir = %q
[[pool]]
cidr = "10.88.0.0/16"
block = "10.88.%d.0/24"
[bgp]
hold_time = "90s" # the loads leave the daemons little of the processors
peer = [{ address = "%v" }]
[tunnel]
mode = %q
[fastpath] # bench/datapath compares it with what is measured here
mode = "off"
[api]
metrics = ""
`, hostIP(i), n.StateDir(), n.RunDir(), i+1, hostIP(1-i), mode)
}

// check holds the daemon to the path that is to be measured.
func (p pair) check(n *nettest.Node, to netip.Addr) error {
	var routes []struct {
		Prefix    netip.Prefix `json:"prefix"`
		Encap     string       `json:"encap"`
		Installed bool         `json:"installed"`
	}
	if err := n.Get("routes", &routes); err != nil {
		return err
	}
	for _, r := range routes {
		if r.Prefix.Contains(to) && r.Installed && r.Encap == p.encap {
			return nil
		}
	}
	return fmt.Errorf("no route to %v by %s: %+v", to, p.encap, routes)
}
