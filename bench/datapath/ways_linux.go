package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/nettest"
)

// lane is what a way is made of.
type lane struct {
	path
	tracking []*nettest.Host // where connections are tracked
	fast     []*nettest.Node // whose fast path is to carry everything
}

// build puts up a lane.
type build func(nettest.T, kept) (lane, error)

// way is one way for containers to reach each other, with what was measured on it.
type way struct {
	lane
	name    string
	routed  bool // the hosts have a router between them
	about   subject
	build   build
	missing error            // why it is not there
	taken   map[kind][]taken // one of each round
	before  carried          // when the rounds began
}

// taken is a measurement with that of the hosts right before it.
type taken struct {
	sample
	base sample
}

// subject is what a way is compared for.
type subject int

const (
	speeds subject = iota // with every load
	sizes                 // of packets, with streams
	ports                 // that are published, with connections
)

// takes tells whether a load says something of the way.
func (w *way) takes(k kind) bool {
	return w.about == speeds || w.about == sizes && k == stream || w.about == ports && k == connect
}

// shown tells whether a way was measured for the tables of a subject.
func (w *way) shown(about subject) bool { return w.about == about && w.missing == nil }

// kinds are all loads, in the order of the report.
func kinds() []kind { return []kind{stream, tcpRR, udpRR, connect, packets} }

// The ways that targets are about, by their names.
const (
	fastDirect    = "Fairlead direct, fast path"
	fastIPIP      = "Fairlead IPIP, fast path"
	fastVXLAN     = "Fairlead VXLAN, fast path"
	fastLocal     = "Fairlead on one host, fast path"
	dockerPort    = "Docker bridge, published port"
	dockerOverlay = "Docker Swarm overlay"
	flannelVXLAN  = "Flannel VXLAN"
	flannelHostGW = "Flannel host-gw"
)

// all are the ways that there are. What a machine cannot do is found out when it is tried.
func all() []*way {
	ways := []*way{
		{name: fastDirect, build: ours{mode: "host-gw", encap: "direct", fast: fastOn}.build},
		{name: "Fairlead direct, kernel", build: ours{mode: "host-gw", encap: "direct", fast: fastOff}.build},
		{name: fastIPIP, routed: true, build: ours{mode: "ipip", encap: "ipip", routed: true, fast: fastOn}.build},
		{name: "Fairlead IPIP, kernel", routed: true, build: ours{mode: "ipip", encap: "ipip", routed: true, fast: fastOff}.build},
		{name: fastVXLAN, routed: true, build: ours{mode: "vxlan", encap: "vxlan", routed: true, fast: fastOn}.build},
		{name: "Fairlead VXLAN, kernel", routed: true, build: ours{mode: "vxlan", encap: "vxlan", routed: true, fast: fastOff}.build},
		{name: fastLocal, build: ours{mode: "host-gw", fast: fastOn}.build},
		{name: "Fairlead on one host, kernel", build: ours{mode: "host-gw", fast: fastOff}.build},
		{name: dockerPort, build: published},
		{name: dockerOverlay, routed: true, build: overlay},
		{name: flannelVXLAN, routed: true, build: flannel("vxlan", true)},
		{name: flannelHostGW, build: flannel("host-gw", false)},
	}
	for _, size := range []struct {
		encap, title string
		mtu          int
	}{{"ipip", "IPIP", 1480}, {"ipip", "IPIP", 1469}, {"vxlan", "VXLAN", 1450}, {"vxlan", "VXLAN", 1439}} {
		o := ours{mode: size.encap, encap: size.encap, routed: true, fast: fastOn, mtu: size.mtu}
		ways = append(ways, &way{name: fmt.Sprintf("Fairlead %s, fast path, MTU %d", size.title, size.mtu), routed: true, about: sizes, build: o.build})
	}
	for _, backend := range []struct{ name, fast string }{{"ebpf", fastOn}, {"iptables", fastOff}} {
		for _, count := range counts() {
			ways = append(ways, &way{name: mappingName(backend.name, count), about: ports, build: mapped(count, backend.name, backend.fast)})
		}
	}
	for _, w := range ways {
		w.taken = make(map[kind][]taken)
	}
	return ways
}

// counts are how many ports are published.
func counts() []int { return []int{1, 1000, 10000} }

func mappingName(backend string, count int) string {
	return fmt.Sprintf("Fairlead port by %s, last of %d", backend, count)
}

// chosen are the ways whose names have one of the words.
func chosen(words string) []*way {
	if words == "" {
		return all()
	}
	return slices.DeleteFunc(all(), func(w *way) bool {
		return !slices.ContainsFunc(strings.Split(words, ","), func(word string) bool {
			return strings.Contains(strings.ToLower(w.name), strings.ToLower(strings.TrimSpace(word)))
		})
	})
}
