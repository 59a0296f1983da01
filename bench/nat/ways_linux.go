package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
)

// way is how ports are mapped.
type way string

const (
	direct  way = "no rules, straight to the container"
	ours    way = "Fairlead"
	perPort way = "one rule for each port"
)

// lastPort is the one that is measured: behind all others in either way.
const lastPort = 65123

// ports are so many random ones and the last, in order. More of them are the same and others.
func ports(count int) []uint16 {
	random := rand.New(rand.NewPCG(1, 2))
	all := []uint16{lastPort}
	for _, n := range random.Perm(lastPort - 1024)[:count-1] {
		all = append(all, uint16(1024+n))
	}
	slices.Sort(all)
	return all
}

// target is where a port leads to: the last to the container, the others to as many that are not there.
func target(port uint16) netip.Addr {
	if port == lastPort {
		return boxIP()
	}
	return netip.AddrFrom4([4]byte{10, 88, byte(port >> 8), byte(port)})
}

// book is what our daemon would want of the kernel for these ports.
func book(ports []uint16) nat.Rows {
	in := nat.Input{
		Pools:     []nat.Pool{{CIDR: netip.MustParsePrefix("10.88.0.0/16"), Outgoing: true}},
		Node:      []netip.Addr{hostIP()},
		Uplinks:   []string{"eth0"},
		Gateways:  []netip.Addr{netip.MustParseAddr("169.254.1.1")},
		Hairpin:   true,
		Endpoints: make(map[string][]netip.Addr),
	}
	for _, p := range ports {
		owner := fmt.Sprint("c", p)
		port := nat.Port{Proto: "tcp", IP: netip.IPv4Unspecified(), Number: p}
		in.Mappings = append(in.Mappings, nat.Mapping{Port: port, Owner: owner, Target: inside})
		in.Endpoints[owner] = []netip.Addr{target(p)}
	}
	return nat.Plan(in)
}

// kernel is our access to the rules of a site, closed with the play.
func (s site) kernel(t nettest.T) (k *nat.Kernel, err error) {
	if err = s.host.Do(func() (err error) { k, err = nat.Open(); return err }); err == nil {
		t.Cleanup(func() { _ = k.Close() })
	}
	return k, err
}

const age = time.Minute // of what was read: nobody else writes there

// put writes all our rules, those of the ports last, and tells how long these took.
func put(k *nat.Kernel, rows nat.Rows) (took time.Duration, err error) {
	ctx := context.Background()
	err = errors.Join(
		failure(k.Input(age).Apply(ctx, rows.Input, nil)),
		failure(k.Outgoing(age).Apply(ctx, rows.Outgoing, nil)),
		failure(k.Forward(age).Apply(ctx, rows.Forward, nil)))
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	err = failure(k.Ports(age).Apply(ctx, rows.Ports, nil))
	return time.Since(begun), err
}

// failure is one of the errors of an Apply.
func failure[K comparable](failed map[K]error) error {
	for k, err := range failed {
		return fmt.Errorf("%d failed, such as %v: %w", len(failed), k, err)
	}
	return nil
}

// frame is what Docker writes once, with the policy that it sets. Its bridge is our link here.
const frame = `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.88.0.0/16 ! -o fl0 -j MASQUERADE
-A DOCKER -i fl0 -j RETURN
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o fl0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o fl0 -j DOCKER
-A FORWARD -i fl0 ! -o fl0 -j ACCEPT
-A FORWARD -i fl0 -o fl0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i fl0 ! -o fl0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o fl0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
`

// rules are the three that Docker writes for a port, each with its table.
func rules(port uint16) [3][2]string {
	ip := target(port)
	return [3][2]string{
		{"nat", fmt.Sprintf("-A DOCKER ! -i fl0 -p tcp -m tcp --dport %d -j DNAT --to-destination %v:%d", port, ip, inside)},
		{"filter", fmt.Sprintf("-A DOCKER -d %v/32 ! -i fl0 -o fl0 -p tcp -m tcp --dport %d -j ACCEPT", ip, inside)},
		{"nat", fmt.Sprintf("-A POSTROUTING -s %v/32 -d %v/32 -p tcp -m tcp --dport %d -j MASQUERADE", ip, ip, inside)},
	}
}

// bulk writes the rules of ports all at once, as Docker does not.
func (s site) bulk(ports []uint16) error {
	text := map[string]*strings.Builder{"nat": {}, "filter": {}}
	for _, p := range ports {
		for _, r := range rules(p) {
			fmt.Fprintln(text[r[0]], r[1])
		}
	}
	script := fmt.Sprintf("*nat\n%sCOMMIT\n*filter\n%sCOMMIT\n", text["nat"], text["filter"])
	return s.run(script, "iptables-restore", "-w", "5", "--noflush")
}

// call writes the rules of a port as Docker does, and tells how long each took.
func (s site) call(port uint16) (took [3]time.Duration, err error) {
	for i, r := range rules(port) {
		begun := time.Now()
		if err := s.run("", append([]string{"iptables", "-w", "5", "-t", r[0]}, strings.Fields(r[1])...)...); err != nil {
			return took, err
		}
		took[i] = time.Since(begun)
	}
	return took, nil
}
