package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// way is how one place reaches another.
type way struct {
	path string // "local", "direct", the word of a tunnel, "" when there is no answer
	rtt  time.Duration
}

// place is a host or a container.
type place struct {
	*nettest.Host
	contained bool // it is a container, and no host
	title     string
	node      *nettest.Node
	addresses []netip.Addr
}

// reach asks from every place to every other where there is a container at one end, and shows a matrix.
func reach(p *paper, l *nettest.Lab, containers []*nettest.Container) {
	taps := make(map[*nettest.Node]*nettest.Tap)
	var places []place
	for _, c := range containers {
		places = append(places, place{c.Host, true, c.Endpoint, c.Node, c.Addresses()})
	}
	for _, n := range l.Nodes {
		taps[n] = n.Tap("eth0")
		places = append(places, place{n.Host, false, n.Name, n, []netip.Addr{n.Address4, n.Address6}})
	}
	for _, to := range places {
		for _, a := range to.addresses {
			to.Serve(a)
		}
	}
	plan := agreed(p, l.Nodes[0])
	p.section("Who reaches whom, by which path, and the round trip")
	m := matrix{paper: p, nodes: l.Nodes, ways: make(map[string]map[*nettest.Node][]way)}
	asked, answered := 0, 0
	for f, from := range places {
		m.ways[from.title] = make(map[*nettest.Node][]way)
		for t, to := range places {
			if f == t || f >= len(containers) && t >= len(containers) {
				continue
			}
			for i, target := range to.addresses {
				w, err := try(from, to, from.addresses[i], target, taps[from.node], plan)
				asked++
				if err != nil {
					p.fault(err)
				} else {
					answered++
				}
				if i == 0 && t < len(containers) {
					m.ways[from.title][to.node] = append(m.ways[from.title][to.node], w)
				}
			}
		}
	}
	m.print(places)
	p.line("")
	p.done("%d of %d questions answered: IPv4 and IPv6, between containers, and between hosts and containers both ways;", answered, asked)
	p.line("  each was seen with its own address: no NAT. The paths are what was seen on the cables.")
}

// across is the ways that the daemons say lead to the other subnet, by family: true is IPv4.
type across struct {
	kernel map[bool]string
	fast   map[bool]string // between containers, past the kernel's; "" when it is the kernel's
}

// agreed asks the daemon of the first host for its ways to the third.
func agreed(p *paper, n *nettest.Node) across {
	var routes []struct {
		Prefix netip.Prefix `json:"prefix"`
		Encap  string       `json:"encap"`
		Fast   string       `json:"fast"`
		Node   string       `json:"node"`
	}
	if err := n.Get("routes", &routes); err != nil {
		p.fault(err)
	}
	plan := across{kernel: make(map[bool]string), fast: make(map[bool]string)}
	for _, r := range routes {
		if r.Node == "n3" {
			plan.kernel[r.Prefix.Addr().Is4()], plan.fast[r.Prefix.Addr().Is4()] = r.Encap, r.Fast
		}
	}
	return plan
}

// between is the way from a container of one subnet to one of the other.
func (a across) between(is4 bool) string { return cmp.Or(a.fast[is4], a.kernel[is4]) }

// path is the one that there should be.
func (a across) path(from, to place, target netip.Addr) string {
	switch {
	case from.node == to.node:
		return "local"
	case from.node.Subnet == to.node.Subnet:
		return "direct"
	case from.contained && to.contained:
		return a.between(target.Is4())
	}
	return a.kernel[target.Is4()]
}

// try asks three times, and says what the cable of the asking host showed.
func try(from, to place, own, target netip.Addr, tap *nettest.Tap, plan across) (way, error) {
	before := tap.Ways(own, target)
	var w way
	for range 3 {
		saw, err := from.Ask(target)
		if err != nil {
			return way{}, err
		}
		if saw.Source != own {
			return way{}, fmt.Errorf("%s has %s and is seen by %s as %s", from.title, own, to.title, saw.Source)
		}
		if w.rtt == 0 || saw.RTT < w.rtt {
			w.rtt = saw.RTT
		}
	}
	want, packets := plan.path(from, to, target), 6
	if from.node == to.node {
		packets = 0
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		var count int
		if w.path, count = since(before, tap.Ways(own, target)); count >= packets || time.Now().After(end) {
			break
		}
	}
	if w.path != want {
		return w, fmt.Errorf("%s reaches %s by the path %s, not %s", from.title, to.title, w.path, want)
	}
	return w, nil
}

// since is what a cable has seen between two looks: the path in one word, and the number of packets.
func since(before, now map[string]int) (path string, count int) {
	path = "local"
	for encap, n := range now {
		n -= before[encap]
		switch {
		case n == 0:
			continue
		case count > 0:
			path = "mixed"
		default:
			path = cmp.Or(encap, "direct")
		}
		count += n
	}
	return path, count
}

// matrix is from where, by row, to where, by column.
type matrix struct {
	*paper
	nodes []*nettest.Node
	ways  map[string]map[*nettest.Node][]way
}

const cellWidth = 17

func (m matrix) print(places []place) {
	var head strings.Builder
	fmt.Fprintf(&head, "  %-6s", "")
	for _, n := range m.nodes {
		fmt.Fprintf(&head, "%-*s", cellWidth, fmt.Sprintf("to %sa, %sb", n.Name, n.Name))
	}
	m.line("%s", m.paint(dim, strings.TrimRight(head.String(), " ")))
	for _, from := range places {
		row := fmt.Sprintf("  %s", m.paint(bold, fmt.Sprintf("%-6s", from.title)))
		for _, n := range m.nodes {
			row += m.cell(m.ways[from.title][n])
		}
		m.line("%s", strings.TrimRight(row, " "))
	}
}

// cell is the path and the longer round trip of the two.
func (m matrix) cell(ways []way) string {
	var w way
	for i, v := range ways {
		if i == 0 || v.path != ways[0].path || v.rtt > w.rtt {
			w = v
		}
	}
	if w.path == "" {
		return m.paint(red, fmt.Sprintf("%-*s", cellWidth, "no answer"))
	}
	colour, known := map[string]tone{"local": dim, "direct": green, "mixed": red}[w.path]
	if !known {
		colour = blue // a tunnel
	}
	return m.paint(colour, fmt.Sprintf("%-7s", w.path)) + fmt.Sprintf("%-*s", cellWidth-7, fmt.Sprintf("%.2f ms", w.rtt.Seconds()*1000))
}

// kill ends a daemon under traffic, starts it again, and counts.
func kill(p *paper, l *nettest.Lab, containers []*nettest.Container) {
	victim, from := l.Nodes[0], containers[0]
	p.section("kill -9 of %s's daemon under UDP probes, 1000 a second, there and back", victim.Name)
	probes := make(map[string]*nettest.Probe)
	tunnel := agreed(p, victim).between(true)
	targets := map[string]*nettest.Container{"direct": containers[2], tunnel: containers[4]}
	for path, to := range targets {
		probes[path] = from.Probe(to.IP4, 1000)
	}
	time.Sleep(time.Second) // of traffic before
	pid, gone := victim.Pid(), time.Now()
	victim.Kill()
	p.line("  %s", p.paint(dim, fmt.Sprintf("kill -9 %d", pid)))
	time.Sleep(2 * time.Second) // of traffic without a daemon
	victim.Start()
	took := victim.WaitConverged(30 * time.Second)
	p.line("  %s", p.paint(dim, fmt.Sprintf("started again after %.1f s, ready %.1f s later", time.Since(gone).Seconds()-took.Seconds(), took.Seconds())))
	time.Sleep(time.Second) // of traffic after
	p.line("")
	lost := uint64(0)
	for _, path := range []string{"direct", tunnel} {
		got := probes[path].Stop()
		lost += got.Lost
		count := p.paint(green, fmt.Sprintf("%d lost", got.Lost))
		if got.Lost > 0 || len(got.Errors) > 0 {
			count = p.paint(red, fmt.Sprintf("%d lost", got.Lost))
			p.fault(got)
		}
		p.line("  %s to %s  %-7s %6d sent  %6d answered  %s", from.Endpoint, targets[path].Endpoint, path, got.Sent, got.Sent-got.Lost, count)
	}
	p.line("")
	if lost == 0 {
		p.done("packets flow on without the daemon, and its return disturbs nothing")
	}
}
