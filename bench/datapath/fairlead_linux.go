package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const readyTime = 20 * time.Second

// ours is how a pair of hosts runs Fairlead.
type ours struct {
	mode   string // [tunnel] mode
	encap  string // the way that this must lead to, "" for containers of one host
	routed bool
	fast   string // [fastpath] mode
	mtu    int    // [node] mtu
}

// The words of [fastpath] mode.
const (
	fastOn  = "on"
	fastOff = "off"
)

// kept is what stands around all pairs.
type kept struct {
	binary  string // the fairlead that hosts run
	tools   string // directory with programs that were built for this
	program string // this one
	dir     string // of a pair's own files
	pins    string // of everybody's eBPF objects
	gauge   *gauge
}

// build puts up the hosts with a daemon on each, and a container on each, or two on the first.
func (o ours) build(t nettest.T, k kept) (lane, error) {
	s := newSite(t, k.dir, o.routed)
	nodes := make([]*nettest.Node, len(s.hosts))
	for i, h := range s.hosts {
		nodes[i] = nettest.NewNode(h, k.binary, s.dirs[i])
		nodes[i].WriteConfig(o.text(nodes[i], s, i, k))
		nodes[i].Start()
	}
	for _, n := range nodes {
		n.WaitReady(readyTime)
	}
	at := []*nettest.Node{nodes[0], nodes[1]}
	if o.encap == "" {
		at[1] = nodes[0]
	}
	var boxes [2]*nettest.Container
	for i, n := range at {
		boxes[i] = n.Attach(fmt.Sprint("c", i))
		settle(boxes[i].Host)
	}
	if o.encap != "" {
		// In both directions: answers may not take another way.
		for i, n := range nodes {
			nettest.Eventually(t, readyTime, func() error { return o.check(n, boxes[1-i].IP4) })
		}
	}
	l := lane{path: straight(boxes[0].Host, boxes[1].Host, boxes[1].IP4), tracking: s.hosts[:]}
	err := k.reach(l.path)
	if err == nil && o.fast == fastOn {
		l.fast = nodes
		err = l.proven(t, func() error { return k.reach(l.path) })
	}
	return l, err
}

func (o ours) text(n *nettest.Node, s site, i int, k kept) string {
	return fmt.Sprintf(`[node]
address = "%v"
mtu = %d
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
[fastpath]
mode = %q
pin_dir = %q
`, s.ips[i], o.mtu, n.StateDir(), n.RunDir(), i+1, s.ips[1-i], o.mode, o.fast, filepath.Join(k.pins, "fairlead"))
}

// check holds the daemon to the way that is to be measured.
func (o ours) check(n *nettest.Node, to netip.Addr) error {
	var routes []struct {
		Prefix    netip.Prefix `json:"prefix"`
		Encap     string       `json:"encap"`
		Installed bool         `json:"installed"`
		Reason    string       `json:"reason"`
	}
	if err := n.Get("routes", &routes); err != nil {
		return err
	}
	var seen []string
	for _, r := range routes {
		if r.Prefix.Contains(to) {
			if r.Installed && r.Encap == o.encap {
				return nil
			}
			seen = append(seen, fmt.Sprintf("%v %s: %s", r.Prefix, r.Encap, r.Reason))
		}
	}
	return fmt.Errorf("no route to %v by %s: %s", to, o.encap, strings.Join(seen, "; "))
}

// reach waits until datagrams and connections come through.
func (k kept) reach(p path) error {
	if err := k.probe(p, udpRR); err != nil {
		return err
	}
	return k.reachTCP(p)
}

func (k kept) reachTCP(p path) error { return k.probe(p, connect) }

func (k kept) probe(p path, with kind) (err error) {
	quick := meter{gauge: k.gauge, program: k.program, length: 20 * time.Millisecond}
	for begun := time.Now(); time.Since(begun) < readyTime; time.Sleep(100 * time.Millisecond) {
		if _, err = quick.measure(p, with); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%v does not answer %s: %w", p.ask, p.from.Name, err)
}
