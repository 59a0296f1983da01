package tunnel_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/tunnel"
)

// watch starts a watch whose first pokes, from what went on before, are over.
func watch(t *testing.T, h host) tunnel.Pokes {
	t.Helper()
	ctx, _ := background(t)
	pokes, err := h.k.Watch(ctx)
	must(t, err)
	calm(pokes)
	return pokes
}

// calm waits until there has been no poke for 300 ms and returns how many there were before.
func calm(pokes tunnel.Pokes) (n int) {
	for {
		select {
		case <-pokes.Own:
			n++
		case <-pokes.Beneath:
			n++
		case <-time.After(300 * time.Millisecond):
			return n
		}
	}
}

func poked(pokes tunnel.Pokes) bool {
	select {
	case <-pokes.Own:
		return true
	case <-pokes.Beneath:
		return true
	case <-time.After(2 * time.Second):
		return false
	}
}

func TestWatchPokesOnWhatConcernsUs(t *testing.T) {
	t.Parallel()
	h := routeHost(t)
	inside := nettest.NewHost(t, "inside")
	h.IP("link add flaaaaaaaaaa type veth peer name eth0 netns " + strings.TrimPrefix(inside.Path, "/run/netns/"))
	h.IP("link set flaaaaaaaaaa up")
	inside.IP("link set eth0 up")
	inside.IP("addr add 10.88.1.9/32 dev eth0")
	pokes := watch(t, h)
	for _, hand := range []string{
		"ip link add extra type veth peer name extra-peer", "ip link set uplink mtu 1400", "ip link del extra",
		"ip addr add 192.0.2.99/24 dev uplink", "ip -6 addr add 2001:db8:1::99/64 dev uplink nodad",
		"ip route add 203.0.113.0/24 via 192.0.2.7", "ip -6 route add 2001:db8:7::/48 via 2001:db8:1::7",
		"ip route add 10.88.2.0/24 via 192.0.2.2 proto 88 metric 88", "ip route del 10.88.2.0/24 proto 88",
		"ip rule add from 10.88.0.0/16 lookup 88 priority 8800", "ip -6 rule add from 2001:db8:88::/48 lookup 88",
		"ip neigh add 198.51.100.3 lladdr 02:00:00:00:00:03 dev flvxlan nud permanent", "ip neigh del 198.51.100.3 dev flvxlan",
		"bridge fdb add 02:00:00:00:00:03 dev flvxlan dst 198.51.100.3 self permanent",
		"bridge fdb del 02:00:00:00:00:03 dev flvxlan self",
		"ip neigh add 10.88.1.9 lladdr 02:00:00:00:00:03 dev flaaaaaaaaaa nud permanent",
		"ip link del flvxlan",
	} {
		h.Run(strings.Fields(hand)...)
		if !poked(pokes) {
			t.Errorf("no poke for %s", hand)
		}
		calm(pokes)
	}
	for _, path := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/uplink/rp_filter"} {
		for _, value := range []string{"1", "0"} {
			h.Sysctl(path, value)
			if !poked(pokes) {
				t.Errorf("no poke for %s = %s", path, value)
			}
			calm(pokes)
		}
	}
	for _, hand := range []string{
		"route add 169.254.1.1 dev eth0", "route add default via 169.254.1.1", "route del default",
		"neigh add 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent", "neigh del 169.254.1.1 dev eth0",
		"addr del 10.88.1.9/32 dev eth0", "link set eth0 mtu 1300", "link set eth0 down",
	} {
		inside.IP(hand)
		if !poked(pokes) {
			t.Errorf("no poke for %s inside an endpoint's namespace", hand)
		}
		calm(pokes)
	}
}

func TestWatchIsQuiet(t *testing.T) {
	t.Parallel()
	h := routeHost(t)
	pokes := watch(t, h)
	// What we write ourselves.
	routes := make(map[tunnel.RouteKey]tunnel.Route)
	for p, r := range routeCases() {
		routes[main4(p)] = r
	}
	neighbours, _ := neighbourCases()
	settle(t, h.k.Routes(), routes)
	settle(t, h.k.Neighbours(), neighbours)
	settle(t, h.k.Rules(), map[netip.Prefix]tunnel.Rule{prefix("10.88.0.0/16"): {Table: 88, Priority: 8800}})
	if n := calm(pokes); n != 0 {
		t.Errorf("%d pokes for what we wrote ourselves", n)
	}
	// Addresses that the kernel resolves.
	batch := func(format string) {
		var b strings.Builder
		for i := range 200 {
			fmt.Fprintf(&b, format+"\n", i+2)
		}
		run(t, h, b.String())
	}
	batch("neigh replace 192.0.2.%d lladdr 02:00:00:00:00:01 dev uplink nud reachable")
	batch("neigh replace 192.0.2.%d lladdr 02:00:00:00:00:02 dev uplink nud stale")
	batch("neigh del 192.0.2.%d dev uplink")
	if n := calm(pokes); n != 0 {
		t.Errorf("%d pokes for neighbours of foreign links", n)
	}
	// Foreign routes, at a rate.
	began := time.Now()
	for range 20 {
		batch("route add 203.0.113.%d via 192.0.2.2")
		batch("route del 203.0.113.%d via 192.0.2.2")
	}
	n, most := calm(pokes), int(time.Since(began)/(100*time.Millisecond))
	if n == 0 || n > most {
		t.Errorf("%d pokes for 8,000 changes of foreign routes in %v", n, time.Since(began))
	}
}

func TestWatchSurvivesAnOverflow(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ctx, cancel := background(t)
	pokes, err := h.k.WatchWith(ctx, 1)
	must(t, err)
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "route add 10.88.%d.%d via 192.0.2.2\n", i/250, i%250+1)
	}
	run(t, h, b.String())
	if calm(pokes) == 0 {
		t.Error("no poke for an overflow")
	}
	h.IP("link set uplink mtu 1400")
	if !poked(pokes) {
		t.Error("no poke after an overflow")
	}
	cancel()
}
