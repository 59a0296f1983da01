package story_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// drift is one thing of ours that somebody takes away or changes by hand.
type drift struct {
	what string
	harm func()
	view func() []string // what shows that it is back
	back time.Duration   // in which it must be
}

// object is a line of a kernel table and the command that deletes it.
type object struct{ line, del string }

func TestWhateverIsDeletedByHandComesBack(t *testing.T) {
	l := running(t, nettest.LabOptions{Pools: pools(), RPFilter: 1, HoldTime: 9 * time.Second})
	n := l.Node("n1")
	c, near, far := n.Attach("n1a"), l.Node("n2").Attach("n2a"), l.Node("n3").Attach("n3a")
	for _, other := range []*nettest.Container{near, far} {
		for _, a := range other.Addresses() {
			other.Serve(a)
		}
	}
	var all []drift
	checkTunnels(t, l, n)
	for _, gather := range []func(*nettest.Node) []drift{routeDrift, neighbourDrift, ruleDrift, deviceDrift, sysctlDrift} {
		found := gather(n)
		if len(found) == 0 {
			t.Fatal("a table of ours is empty")
		}
		all = append(all, found...)
	}
	all = append(all, fdbDrift(n)...)
	all = append(all, endpointDrift(c)...)
	all = append(all, insideDrift(c)...)
	before, longest := n.State(), time.Duration(0)
	for _, d := range all {
		longest = max(longest, suffer(t, n, d))
	}
	t.Logf("%d kinds of drift, the longest lasted %v", len(all), longest)
	nettest.Eventually(t, soon, func() error {
		if diff := nettest.Diff(before, n.State()); len(diff) > 0 {
			return fmt.Errorf("the kernel differs:\n%s", strings.Join(diff, "\n"))
		}
		return nil
	})
	for _, other := range []*nettest.Container{near, far} {
		for _, a := range other.Addresses() {
			if err := reaches(c, a); err != nil {
				t.Error(err)
			}
		}
	}
}

// suffer does the harm and waits until it is mended.
func suffer(t *testing.T, n *nettest.Node, d drift) time.Duration {
	t.Helper()
	repaired := func() uint64 { return show[agent.Status](t, n, "status").DriftRepaired }
	want, count := d.view(), repaired()
	begun := time.Now()
	d.harm()
	for {
		got := d.view()
		// That the daemon counted it shows that something was gone at all.
		if slices.Equal(want, got) && repaired() > count {
			return time.Since(begun)
		}
		if time.Since(begun) > nettest.Patience(d.back) {
			t.Errorf("%s: not back within %v, drift counted %d to %d; want\n%s\ngot\n%s", d.what, d.back, count, repaired(),
				strings.Join(want, "\n"), strings.Join(got, "\n"))
			nettest.Eventually(t, 10*time.Second, func() error {
				if slices.Equal(want, d.view()) {
					return nil
				}
				return fmt.Errorf("%s: never back", d.what)
			})
			return time.Since(begun)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// deletions makes a drift of each object.
func deletions(n *nettest.Node, kind string, view func() []string, objects []object) []drift {
	var all []drift
	for _, o := range objects {
		all = append(all, drift{
			what: kind + " " + o.line, view: view, back: soon,
			harm: func() { n.Run(strings.Fields(o.del)...) },
		})
	}
	return all
}

func routeDrift(n *nettest.Node) []drift {
	var objects []object
	for _, family := range []string{"-4", "-6"} {
		for _, line := range lines(n.IP(family + " route show table all proto 88")) {
			args := strings.ReplaceAll(strings.ReplaceAll(line, "error -22", ""), "pref medium", "")
			objects = append(objects, object{line, "ip " + family + " route del " + args + " proto 88"})
		}
	}
	return deletions(n, "route", func() []string { return routes(n) }, objects)
}

func neighbourDrift(n *nettest.Node) []drift {
	view := func() []string { return lines(n.IP("neighbour show nud permanent")) }
	var objects []object
	for _, line := range view() {
		f := strings.Fields(line) // 10.88.1.2 dev fl0123456789 lladdr 02:… PERMANENT
		objects = append(objects, object{line, "ip neighbour del " + strings.Join(f[:3], " ")})
	}
	return deletions(n, "neighbour", view, objects)
}

// tunnels are the tunnel devices of the host.
func tunnels(n *nettest.Node) []string {
	var found []string
	for _, line := range lines(n.IP("-oneline link show")) {
		f := strings.Fields(line) // 7: flipip@NONE: <NOARP,UP,LOWER_UP> …
		dev, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
		if slices.Contains([]string{"flvxlan", "flvxlan6", "flipip", "flgre"}, dev) {
			found = append(found, dev)
		}
	}
	return found
}

// checkTunnels looks whether the host has the tunnels that the ways to the others need: no tunnel, no drift of it.
func checkTunnels(t *testing.T, l *nettest.Lab, n *nettest.Node) {
	t.Helper()
	have := tunnels(n)
	for _, other := range others(l, n) {
		for _, pool := range pools() {
			encap := n.EncapTo(other, pool == pool4)
			dev := "fl" + encap
			if encap == "vxlan" && pool == pool6 {
				dev = "flvxlan6" // by the family of the outer header, which is the prefix's where the hosts have it
			}
			switch {
			case encap == "direct":
			case !slices.Contains(have, dev):
				t.Fatalf("there is no %s, which leads to %s", dev, other.Name)
			case encap == "vxlan" && len(forwarding(n, dev)) == 0:
				t.Fatalf("%s has no forwarding entry", dev)
			}
		}
	}
}

// forwarding is the forwarding entries of a tunnel device, which VXLAN has and no other tunnel.
func forwarding(n *nettest.Node, dev string) []string {
	if !strings.HasPrefix(dev, "flvxlan") {
		return nil
	}
	return lines(n.Run("bridge", "fdb", "show", "dev", dev))
}

func fdbDrift(n *nettest.Node) []drift {
	var all []drift
	for _, dev := range tunnels(n) {
		view := func() []string { return forwarding(n, dev) }
		var objects []object
		for _, line := range view() {
			f := strings.Fields(line) // 02:46:… dst 198.51.100.3 self permanent
			objects = append(objects, object{line, fmt.Sprintf("bridge fdb del %s dev %s %s self", f[0], dev, strings.Join(f[1:3], " "))})
		}
		all = append(all, deletions(n, "fdb entry", view, objects)...)
	}
	return all
}

func ruleDrift(n *nettest.Node) []drift {
	var all []drift
	for _, family := range []string{"-4", "-6"} {
		view := func() []string { return lines(n.IP(family + " rule show")) }
		for _, line := range view() {
			if strings.HasPrefix(line, "8800:") {
				all = append(all, deletions(n, "rule", view, []object{{line, "ip " + family + " rule del priority 8800"}})...)
			}
		}
	}
	return all
}

func sysctlDrift(n *nettest.Node) []drift {
	var all []drift
	for i := range pools() {
		path := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}[i]
		all = append(all, drift{
			what: "sysctl " + path, back: soon,
			view: func() []string { return lines(n.Run("cat", "/proc/sys/"+path)) },
			harm: func() { n.Sysctl(path, "0") },
		})
	}
	return all
}

func deviceDrift(n *nettest.Node) []drift {
	var all []drift
	for _, dev := range tunnels(n) {
		view := func() []string {
			text, err := n.Try("ip", "-details", "-oneline", "link", "show", "dev", dev)
			if err != nil {
				return nil
			}
			_, text, _ = strings.Cut(text, ":") // without the index
			return append(append(lines(text), routes(n)...), forwarding(n, dev)...)
		}
		harms := []string{"link del " + dev, "link set " + dev + " down", "link set " + dev + " mtu 1300"}
		if strings.HasPrefix(dev, "flvxlan") { // the others have no Ethernet address
			harms = append(harms, "link set "+dev+" address 02:00:00:00:00:99")
		}
		for _, harm := range harms {
			all = append(all, drift{what: "device: " + harm, view: view, back: 2 * time.Second, harm: func() { n.IP(harm) }})
		}
	}
	return all
}

// endpointDrift is what can happen to a container's link on the host's side.
func endpointDrift(c *nettest.Container) []drift {
	view := func() []string {
		out, err := c.Node.Try("ip", "-details", "-oneline", "link", "show", "dev", c.HostIf)
		if err != nil {
			return nil
		}
		_, out, _ = strings.Cut(out, "<") // without index and peer's index
		return append(append(lines(out), routes(c.Node)...), inside(c)...)
	}
	var all []drift
	for _, harm := range []string{"link del " + c.HostIf, "link set " + c.HostIf + " down", "link set " + c.HostIf + " mtu 1300",
		"link set " + c.HostIf + " address 02:00:00:00:00:99", "link set " + c.HostIf + " alias stranger"} {
		all = append(all, drift{what: "endpoint: " + harm, view: view, back: 2 * time.Second, harm: func() { c.Node.IP(harm) }})
	}
	return all
}

// inside is what a container sees of its network, without what differs each time its link is made.
func inside(c *nettest.Container) []string {
	var all []string
	for _, args := range []string{"-oneline link show dev eth0", "-oneline address show dev eth0", "-4 route show", "-6 route show",
		"neighbour show nud permanent"} {
		out, err := c.Try(append([]string{"ip"}, strings.Fields(args)...)...)
		if err != nil {
			return nil
		}
		for _, line := range lines(out) {
			if _, rest, found := strings.Cut(line, "eth0@"); found {
				_, line, _ = strings.Cut(rest, ":")
			} else if _, rest, found := strings.Cut(line, ": eth0"); found {
				line = rest
			}
			all = append(all, args+": "+line)
		}
	}
	return all
}

// insideDrift is what can happen in a container's own namespace.
func insideDrift(c *nettest.Container) []drift {
	harms := []string{
		"address del " + c.IP4.String() + "/32 dev eth0", "-4 route del default", "-4 route del 169.254.1.1 dev eth0",
		"neighbour del 169.254.1.1 dev eth0", "link set eth0 mtu 1300", "link set eth0 down", "link del eth0",
	}
	if c.IP6.IsValid() {
		harms = append(harms, "-6 address del "+c.IP6.String()+"/128 dev eth0", "-6 route del default", "neighbour del fe80::1 dev eth0")
	}
	var all []drift
	for _, harm := range harms {
		d := drift{what: "inside: " + harm, view: func() []string { return inside(c) }, back: soon, harm: func() { c.IP(harm) }}
		if strings.HasPrefix(harm, "link") {
			d.back = 2 * time.Second
		}
		all = append(all, d)
	}
	return all
}

func TestTheUnderlaysLinkMayGoDownAndUp(t *testing.T) {
	l := running(t, nettest.LabOptions{Pools: []string{pool4, pool6}, HoldTime: 9 * time.Second})
	n := l.Node("n1")
	c, near, far := n.Attach("n1a"), l.Node("n2").Attach("n2a"), l.Node("n3").Attach("n3a")
	for _, other := range []*nettest.Container{near, far} {
		other.Serve(other.IP4)
		other.Serve(other.IP6)
	}
	want := routes(n)
	for range 3 {
		n.Down()
		nettest.Eventually(t, soon, func() error {
			if text := n.IP("-4 route show"); strings.Contains(text, "dev eth0") {
				return fmt.Errorf("routes over a link that is down: %s", text)
			}
			return nil
		})
		n.Up()
		took := nettest.Eventually(t, soon, func() error {
			if got := routes(n); !slices.Equal(got, want) {
				return fmt.Errorf("routes:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			return nil
		})
		t.Logf("back after %v", took)
	}
	for _, other := range []*nettest.Container{near, far} {
		for _, a := range other.Addresses() {
			if err := reaches(c, a); err != nil {
				t.Error(err)
			}
		}
	}
}
