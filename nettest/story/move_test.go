package story_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// manager is the service manager that a daemon speaks to, sd_notify(3).
type manager struct {
	mu    sync.Mutex
	words []string // other than that the daemon is alive
}

// manage stands in for the service manager of the daemons that are started from now on. It listens at all times, since a
// daemon that is not listened to waits.
func manage(t *testing.T, dir string) *manager {
	t.Helper()
	path := filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m, done := &manager{}, make(chan struct{})
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	t.Setenv("NOTIFY_SOCKET", path)
	go func() {
		defer close(done)
		for buf := make([]byte, 4096); ; {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			m.hear(string(buf[:n]))
		}
	}()
	return m
}

func (m *manager) hear(word string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if word != "WATCHDOG=1" {
		m.words = append(m.words, word)
	}
}

// told is what the daemons have said so far.
func (m *manager) told() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.words)
}

// pair attaches two containers to a host and has one probe the other, in both families.
func pair(n *nettest.Node) []*nettest.Probe {
	a, b := n.Attach(n.Name+"a"), n.Attach(n.Name+"b")
	var probes []*nettest.Probe
	for _, address := range b.Addresses() {
		b.Serve(address)
		probes = append(probes, a.Probe(address, 1000))
	}
	return probes
}

// tallies stops probes, all at once: each waits a second for what is late.
func tallies(probes []*nettest.Probe) []nettest.Tally {
	all := make([]nettest.Tally, len(probes))
	var stopping sync.WaitGroup
	for i, p := range probes {
		stopping.Go(func() { all[i] = p.Stop() })
	}
	stopping.Wait()
	return all
}

// brief is an error unless a probe's longest gap is no longer than that.
func brief(got nettest.Tally, most time.Duration) error {
	if gap := got.LongestGap(); gap.For > most || got.Sent < 500 {
		return fmt.Errorf("%v; silent for %v, and %v is allowed", got, gap, most)
	}
	return nil
}

// at is an error unless the daemon is ready at the address.
func at(n *nettest.Node, address netip.Addr) error {
	var s agent.Status
	if err := n.Get("status", &s); err != nil {
		return err
	}
	if s.Address != address || !s.Ready {
		return fmt.Errorf("%s is at %v, ready %v, not at %v: %q", n.Name, s.Address, s.Ready, address, s.Problems)
	}
	return nil
}

// A container that talks to its neighbour on the same host hardly notices that the host gets another address.
const blink = 250 * time.Millisecond

func TestADaemonFollowsItsHostToAnotherAddress(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}, HoldTime: 9 * time.Second})
	n := l.Node("n1")
	for _, other := range others(l, n) {
		other.Start()
	}
	boss := manage(t, n.Dir)
	n.Start()
	for _, node := range l.Nodes {
		node.WaitConverged(20 * time.Second)
	}
	here, far := pair(n), l.Node("n3").Attach("n3a")
	for _, a := range far.Addresses() {
		far.Serve(a)
	}
	if words := boss.told(); !slices.Equal(words, []string{"READY=1"}) {
		t.Errorf("the service manager was told %q", words)
	}
	before, pid, open := hostAddresses(n), n.Pid(), descriptors(t, n.Pid())
	n.Renumber(41)
	for _, other := range others(l, n) {
		other.WriteConfig(other.Config())
		other.Fairlead("reload")
	}
	took := nettest.Eventually(t, 5*time.Second, func() error { return at(n, n.Address4) })
	t.Logf("the daemon is at its new address after %v", took)
	for _, node := range l.Nodes {
		node.WaitConverged(10 * time.Second)
		nettest.Eventually(t, 5*time.Second, func() error { return forgotten(node, before) })
	}
	for dev, local := range map[string]netip.Addr{"flvxlan": n.Address4, "flvxlan6": n.Address6} {
		if text := n.IP("-details link show dev " + dev); !strings.Contains(text, " local "+local.String()+" ") {
			t.Errorf("%s: %s", dev, text)
		}
	}
	c := n.Attach("n1c")
	for _, a := range far.Addresses() {
		nettest.Eventually(t, 2*time.Second, func() error { return reaches(c, a) })
	}
	for _, got := range tallies(here) {
		if err := brief(got, blink); err != nil {
			t.Error(err)
		}
	}
	if words := boss.told(); !slices.Equal(words, []string{"READY=1", "READY=1"}) {
		t.Errorf("the service manager was told %q: the service has not ended, it is ready again", words)
	}
	if now := descriptors(t, pid); !n.Running() || n.Pid() != pid || now > open+3 {
		t.Errorf("process %d, running %v, has %d descriptors; it was %d with %d", n.Pid(), n.Running(), now, pid, open)
	}
	line := fmt.Sprintf("old=%s new=%s", before[0], n.Address4)
	if count := strings.Count(n.Log(), line); count != 1 {
		t.Errorf("%d lines with %q in its log", count, line)
	}
}

func TestAConfiguredAddressThatVanishesIsAFaultAndNoMove(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}, Pools: []string{pool4, pool6}, HoldTime: 9 * time.Second})
	n, was := l.Node("n1"), l.Node("n1").Address4
	n.WriteConfig(strings.Replace(n.Config(), "[node]\n", fmt.Sprintf("[node]\naddress = %q\n", was), 1))
	l.Start()
	here, log := pair(n), n.Log()
	n.Renumber(41)
	nettest.Eventually(t, 5*time.Second, func() error {
		s := show[agent.Status](t, n, "status")
		if s.Ready || len(s.Problems) == 0 || !strings.Contains(s.Problems[0], was.String()) {
			return fmt.Errorf("ready %v, problems %q", s.Ready, s.Problems)
		}
		return nil
	})
	time.Sleep(2500 * time.Millisecond) // in which a daemon that may move would have
	if said := strings.TrimPrefix(n.Log(), log); strings.Contains(said, "anew") || strings.Contains(said, "fairlead runs") {
		t.Errorf("the daemon says: %s", said)
	}
	n.Renumber(1)
	nettest.Eventually(t, 5*time.Second, func() error { return at(n, was) })
	for _, got := range tallies(here) {
		if err := brief(got, blink); err != nil {
			t.Error(err)
		}
	}
	for _, node := range l.Nodes {
		node.WaitConverged(20 * time.Second)
	}
}

// adrift is an error unless the daemon says that the address is gone, what the host would use, and what to do.
func adrift(n *nettest.Node, address, instead netip.Addr) error {
	var s agent.Status
	if err := n.Get("status", &s); err != nil {
		return err
	}
	text := strings.Join(s.Problems, "\n")
	for _, words := range []string{address.String(), "was on eth0", instead.String() + " on eth1", "set [node] address and restart"} {
		if !strings.Contains(text, words) {
			return fmt.Errorf("%s does not say %q: %q", n.Name, words, text)
		}
	}
	return nil
}

// between probes the containers of a host from one of another, in both families, and back.
func between(a, b *nettest.Container) error {
	for _, c := range [][2]*nettest.Container{{a, b}, {b, a}} {
		for _, to := range c[1].Addresses() {
			if err := reaches(c[0], to); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestAHostWithASecondUplinkWaitsForTheAddressOfTheFirst(t *testing.T) {
	l := running(t, nettest.LabOptions{
		Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}, RPFilter: 2,
	}) // with a hold time so short that no session outlives a loss
	n, was, uplink := l.Node("n1"), l.Node("n1").Address4, netip.MustParseAddr("198.51.100.1")
	n.AddUplink(1)
	n.DefaultByUplink(1)
	all := []*nettest.Container{n.Attach("n1c"), l.Node("n2").Attach("n2a"), l.Node("n3").Attach("n3a")}
	for _, c := range all {
		for _, a := range c.Addresses() {
			c.Serve(a)
		}
	}
	back := func(what string) {
		t.Helper()
		took := nettest.Eventually(t, 5*time.Second, func() error { return at(n, was) })
		for _, node := range l.Nodes {
			took += node.WaitConverged(10 * time.Second)
		}
		for _, far := range all[1:] {
			took += nettest.Eventually(t, 5*time.Second, func() error { return between(all[0], far) })
		}
		t.Logf("%s: all is back after %v", what, took)
	}
	here, log := pair(n), n.Log()
	back("a second uplink")
	mac := ""
	for _, loss := range []struct {
		what       string
		lose, mend func()
	}{
		{"the address", n.Unaddress, func() {}},
		{"the link", func() { mac = n.Unlink() }, func() { n.Link(mac) }},
	} {
		loss.lose()
		nettest.Eventually(t, 5*time.Second, func() error { return adrift(n, was, uplink) })
		time.Sleep(3 * time.Second) // in which a daemon that follows to any link would have
		if err := adrift(n, was, uplink); err != nil {
			t.Fatal(err)
		}
		loss.mend()
		n.Renumber(1)
		back(loss.what + " was gone for three seconds")
	}
	for _, got := range tallies(here) {
		if err := brief(got, blink); err != nil {
			t.Error(err)
		}
	}
	if said := strings.TrimPrefix(n.Log(), log); strings.Contains(said, "anew") || strings.Contains(said, "fairlead runs") {
		t.Errorf("the daemon says: %s", said)
	}

	n.Unaddress() // and a new address of the first link is followed, though the other one's is there before it
	nettest.Eventually(t, 5*time.Second, func() error { return adrift(n, was, uplink) })
	n.Renumber(41)
	for _, other := range others(l, n) {
		other.WriteConfig(other.Config())
		other.Fairlead("reload")
	}
	was = n.Address4
	back("the first link has a new address")
}

// encaps is an error unless the host says that it reaches the other one's blocks in these two ways, over IPv4 and IPv6.
func encaps(t *testing.T, n, other *nettest.Node, want4, want6 string) error {
	t.Helper()
	var all []agent.Route
	if err := n.Get("routes", &all); err != nil {
		return err
	}
	found := 0
	for _, r := range all {
		want := want6
		if r.Prefix.Addr().Is4() {
			want = want4
		}
		if r.Node != other.Name {
			continue
		}
		found++
		if r.Encap != want || !r.Installed {
			return fmt.Errorf("%s reaches %s of %s by %q, want %q: %+v", n.Name, r.Prefix, other.Name, r.Encap, want, r)
		}
	}
	if found != 2 {
		return fmt.Errorf("%s has %d routes to %s", n.Name, found, other.Name)
	}
	return nil
}

func TestTheChoiceFollowsTheUnderlayWithoutAWordOfBGP(t *testing.T) {
	l := running(t, nettest.LabOptions{
		Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}, HoldTime: 9 * time.Second, RPFilter: 2, Mode: "auto",
	})
	n, near, far := l.Node("n1"), l.Node("n2"), l.Node("n3")
	across := n.EncapTo(far, true)
	c, peers := n.Attach("n1a"), []*nettest.Container{near.Attach("n2a"), far.Attach("n3a")}
	var probes []*nettest.Probe
	for _, peer := range peers {
		for _, a := range peer.Addresses() {
			peer.Serve(a)
			nettest.Eventually(t, 5*time.Second, func() error { return reaches(c, a) })
			probes = append(probes, c.Probe(a, 1000))
		}
	}
	talks := func() []string {
		return append(sessions(n, near.Address().String()), sessions(n, far.Address().String())...)
	}
	before := talks()
	wait := func(what string, other *nettest.Node, want4, want6 string) {
		t.Helper()
		took := nettest.Eventually(t, soon, func() error { return encaps(t, n, other, want4, want6) })
		t.Logf("%s: followed after %v", what, took)
	}
	wait("at first", near, "direct", "direct")
	wait("at first", far, across, "vxlan")

	n.AddUplink(1)
	wait("a second uplink", far, "direct", "direct")
	for _, a := range peers[1].Addresses() {
		if out := n.IP("route get " + a.String()); !strings.Contains(out, "dev eth1") {
			t.Errorf("with a second uplink: %s", out)
		}
	}
	n.CutUplink()
	wait("the second uplink is gone", far, across, "vxlan")

	n.Batch("route add 192.0.2.254 dev eth0", "route add 192.0.2.2 via 192.0.2.254", "route del 192.0.2.0/24 dev eth0",
		"-6 route add 2001:db8:1::254 dev eth0", "-6 route add 2001:db8:1::2 via 2001:db8:1::254", "-6 route del 2001:db8:1::/64 dev eth0")
	wait("host routes by the router", near, across, "vxlan")
	n.Batch("route add 192.0.2.0/24 dev eth0 scope link src 192.0.2.1", "route del 192.0.2.2", "route del 192.0.2.254",
		"-6 route add 2001:db8:1::/64 dev eth0", "-6 route del 2001:db8:1::2", "-6 route del 2001:db8:1::254")
	wait("the subnet's route again", near, "direct", "direct")
	time.Sleep(soon) // what is late shows now

	if after := talks(); len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("the sessions were %q and are %q", before, after)
	}
	for _, got := range tallies(probes) {
		if err := brief(got, soon); err != nil {
			t.Error(err)
		}
	}
}
