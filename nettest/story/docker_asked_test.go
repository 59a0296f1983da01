package story_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// TestDockerGetsWhatItAsksFor tells what a user may ask for on one host, what he is told when he can not have it, and how
// he and others find it.
func TestDockerGetsWhatItAsksFor(t *testing.T) {
	t.Parallel()
	y := newYard(t, "n1", "n2")
	t.Run("addresses", y.checkAddresses)
	t.Run("networks that can not be", y.checkRefusals)
	t.Run("options", y.checkOptions)
	t.Run("ports", y.checkPorts)
	t.Run("ports that wait for a name", y.checkPortsWait)
	t.Run("names", y.checkNames)
	t.Run("no names", y.checkNoNames)
	t.Run("the example", y.checkExample)
	t.Run("and nothing is left of it", y.checkNothingIsLeft)
}

// checkAddresses: addresses are as asked for if this host can give them.
func (y *yard) checkAddresses(t *testing.T) {
	a, b := y.Nodes[0], y.Nodes[1]
	create(a, "few", "--subnet", pool4, "--ip-range", "10.88.1.64/30", "--aux-address", "kept=10.88.1.65", "--aux-address", "farkept=10.88.9.9")
	peer := b.Attach("peer")
	c := inhabit(a, "fixed", "apps", "--ip", "10.88.1.77", "--ip6", "2001:db8:88::177", "--mac-address", "02:11:22:33:44:55")
	if want := "[10.88.1.77 2001:db8:88::177]"; fmt.Sprint(c.Addresses()) != want {
		t.Errorf("addresses %v, want %s", c.Addresses(), want)
	}
	if out := c.IP("link show dev eth0"); !strings.Contains(out, "02:11:22:33:44:55") {
		t.Errorf("link: %s", out)
	}
	if e := show[agent.Endpoint](t, a, "endpoints/"+endpointOf(t, c)); e.MAC != "02:11:22:33:44:55" {
		t.Errorf("endpoint: %+v", e)
	}
	for _, ip := range c.Addresses() {
		if saw, err := peer.Ask(ip); err != nil || !slices.Contains(peer.Addresses(), saw.Source) {
			t.Errorf("from %s: seen as %s, %v", peer.Addresses(), saw.Source, err)
		}
	}
	a.Docker("restart", "fixed") // what was asked for stays
	if now := a.Box("fixed", "apps"); !slices.Equal(now.Addresses(), c.Addresses()) {
		t.Errorf("after a restart: %v", now.Addresses())
	}
	endpointOf(t, c) // by which it is told to others
	for _, bad := range []struct{ flags, words []string }{
		{[]string{"--ip", "10.88.1.77"}, []string{"10.88.1.77 is the address of fixed"}},
		{[]string{"--ip", "10.88.2.9"}, []string{"10.88.2.9", "not in this node's block", "10.88.1.0/24"}},
		{[]string{"--ip6", "2001:db8:88::9999"}, []string{"2001:db8:88::9999", "not in this node's block", "2001:db8:88::100/120"}},
		{[]string{"--mac-address", "01:00:5e:00:00:01"}, []string{"01:00:5e:00:00:01", "groups"}},
	} {
		refuses(t, a, slices.Concat([]string{"run", "-d", "--network", "apps"}, bad.flags, []string{nettest.Image}), bad.words...)
	}
	var got []string
	for range 3 {
		id := a.Docker("run", "-d", "--network", "few", nettest.Image)
		got = append(got, a.Box(id[:12], "few").IP4.String())
	}
	slices.Sort(got)
	if want := "[10.88.1.64 10.88.1.66 10.88.1.67]"; fmt.Sprint(got) != want {
		t.Errorf("of the range: %s, want %s", got, want)
	}
	refuses(t, a, []string{"run", "-d", "--network", "few", nettest.Image}, "no address is free", "10.88.1.64/30")
	vacate(t, a, "few")
	b.Fairlead("detach", "peer")
}

// checkRefusals: what can not be is said in words that tell what to do instead, and at once.
func (y *yard) checkRefusals(t *testing.T) {
	const (
		right  = "docker network create -d fairlead --ipam-driver fairlead --subnet 10.88.0.0/16"
		right6 = "--ipv6"
	)
	ours := []string{"--ipam-driver", "fairlead", "--subnet", pool4}
	for _, bad := range []struct{ flags, words []string }{
		{nil, []string{right}},
		{[]string{"--subnet", pool4}, []string{"IPAM driver", right}},
		{ours[:2], []string{"no IPv4 subnet", right}},
		{slices.Concat(ours, []string{"--ipv6"}), []string{"no IPv6 subnet", right6, pool6}},
		{[]string{"--ipam-driver", "fairlead", "--subnet", "10.66.0.0/16"}, []string{"10.66.0.0/16", "[[pool]]", pool4, "default", pool6, otherPool}},
		{[]string{"--ipam-driver", "fairlead", "--subnet", "10.88.0.0/15"}, []string{"10.88.0.0/15", "[[pool]]"}},
		{slices.Concat(ours, []string{"--gateway", "10.88.0.1"}), []string{"10.88.0.1 is not link-local", "leave --gateway out"}},
		{slices.Concat(ours, []string{"-o", "fairlead.x=1"}), []string{"fairlead.x is unknown", "fairlead.pool, fairlead.mtu, fairlead.nat, fairlead.isolate"}},
		{slices.Concat(ours, []string{"-o", "fairlead.pool=blue"}), []string{"blue", "default, v6, " + otherName}},
		{slices.Concat(ours, []string{"-o", "fairlead.pool=" + otherName}), []string{otherName, pool4 + " is of default"}},
		{slices.Concat(ours, []string{"-o", "fairlead.nat=maybe"}), []string{"fairlead.nat=maybe", "on or off"}},
		{slices.Concat(ours, []string{"-o", "fairlead.isolate="}), []string{"fairlead.isolate=", "on or off"}},
		{slices.Concat(ours, []string{"-o", "fairlead.mtu=9000"}), []string{"MTU 9000", "at most"}},
		{slices.Concat(ours, []string{"--ipam-opt", "fairlead.pool=default"}), []string{"use -o instead of --ipam-opt"}},
		{slices.Concat(ours, []string{"--scope", "swarm"}), []string{"swarm"}},
	} {
		refuses(t, y.n, slices.Concat([]string{"network", "create", "-d", "fairlead"}, bad.flags, []string{"never"}), bad.words...)
	}
	if out := y.n.Docker("network", "ls", "-q", "--filter", "name=never"); out != "" {
		t.Errorf("there is a network: %s", out)
	}
}

// checkOptions: those of a network are seen in its containers. A gateway may be chosen by those who ask Docker's API; its
// command takes none outside of the subnet.
func (y *yard) checkOptions(t *testing.T) {
	create(y.n, "small", "--subnet", pool4, "-o", "fairlead.mtu=1400", "-o", "fairlead.pool=default", "-o", "com.example=1")
	create(y.n, "smaller", "--subnet", otherPool, "-o", "com.docker.network.driver.mtu=1300", "-o", "fairlead.pool=v6, "+otherName)
	const asked = `{"Name":"%s","Driver":"fairlead","IPAM":{"Driver":"fairlead","Config":[{"Subnet":"10.88.0.0/16","Gateway":"169.254.77.1"}]}}`
	ask := func(name string) error {
		return y.n.DockerAPI("POST", "/networks/create", json.RawMessage(fmt.Sprintf(asked, name)), nil)
	}
	if err := ask("by"); err != nil {
		t.Errorf("a gateway that is link-local: %v", err)
	}
	if err := ask("again"); err == nil || !strings.Contains(err.Error(), "169.254.77.1 is that of network") {
		t.Errorf("the same gateway again: %v", err)
	}
	for name, want := range map[string]string{"small": "mtu 1400", "smaller": "mtu 1300", "by": "default via 169.254.77.1"} {
		if out := y.n.Docker("run", "--rm", "--network", name, nettest.Image, "sh", "-c", "ip link show dev eth0; ip route"); !strings.Contains(out, want) {
			t.Errorf("%s: no %q in %s", name, want, out)
		}
	}
	vacate(t, y.n, "small", "smaller", "by")
}

// checkNoNames: where Docker's events are not listened to, all works but for the names.
func (y *yard) checkNoNames(t *testing.T) {
	b := y.Nodes[1]
	c := inhabit(b, "web", "apps", "--publish", "8080:80")
	if err := answers(y.stranger, "tcp", netip.AddrPortFrom(b.Address4, 8080), "web"); err != nil {
		t.Error(err)
	}
	all := show[[]agent.Endpoint](t, b, "endpoints")
	if len(all) != 1 || !strings.HasPrefix(all[0].Name, "docker-") || !strings.HasPrefix(all[0].ID, strings.TrimPrefix(all[0].Name, "docker-")) ||
		len(all[0].Labels) != 0 || !slices.Equal(all[0].Addresses, c.Addresses()) {
		t.Fatalf("endpoints: %+v", all)
	}
	if out := b.Fairlead("env", all[0].Name); !strings.Contains(out, "FAIRLEAD_PORT_80_TCP=8080") {
		t.Errorf("env: %s", out)
	}
	remove(b, "web")
}
