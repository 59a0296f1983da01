package story_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// pool is the host's first pool as its status shows it.
func pool(t *testing.T, n *nettest.Node) agent.PoolStatus {
	t.Helper()
	return show[agent.Status](t, n, "status").Pools[0]
}

// heldBecauseOf is an error unless the node is not ready and says that the other one has its block.
func heldBecauseOf(t *testing.T, n, other *nettest.Node) error {
	t.Helper()
	s := show[agent.Status](t, n, "status")
	text := s.Pools[0].Held + "\n" + strings.Join(s.Problems, "\n")
	if s.Ready || s.Pools[0].Held == "" || !strings.Contains(text, other.Name) && !strings.Contains(text, other.Address().String()) {
		return fmt.Errorf("%s: ready %v, held %q, problems %q; want one that names %s", n.Name, s.Ready, s.Pools[0].Held, s.Problems, other.Name)
	}
	return nil
}

func TestTwoNodesWithOneConfiguredBlockStopHandingOutAndNameEachOther(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}})
	a, b, third := l.Node("n1"), l.Node("n2"), l.Node("n3")
	a.WriteConfig(withBlocks(a.Config(), 7))
	b.WriteConfig(withBlocks(b.Config(), 7))
	third.WriteConfig(withBlocks(third.Config(), 9))
	a.Start()
	third.Start()
	a.WaitReady(20 * time.Second)
	third.WaitReady(20 * time.Second)
	c, far := a.Attach("n1a"), third.Attach("n3a")
	far.Serve(far.IP4)
	b.Start()
	nettest.Eventually(t, 20*time.Second, func() error { return heldBecauseOf(t, a, b) })
	nettest.Eventually(t, 20*time.Second, func() error { return heldBecauseOf(t, b, a) })
	for n, other := range map[*nettest.Node]*nettest.Node{a: b, b: a} {
		h := nettest.NewHost(t, "late")
		if r := n.CLI("attach", "late", "--netns", h.Path); r.Code != 1 || !strings.Contains(r.Stderr, "10.88.7.0/24") {
			t.Errorf("%s still hands out while %s has its block: %d %s%s", n.Name, other.Name, r.Code, r.Stdout, r.Stderr)
		}
	}
	if got := a.CLI("status"); !strings.Contains(got.Stdout, "NOT READY") {
		t.Errorf("status: %s", got.Stdout)
	}
	if err := hasAddress(c); err != nil { // what was there stays
		t.Error(err)
	}
	b.WriteConfig(withBlocks(b.Config(), 8))
	b.Stop()
	b.Start()
	for _, n := range l.Nodes {
		n.WaitConverged(30 * time.Second)
	}
	nettest.Eventually(t, 5*time.Second, func() error { return reaches(c, far.IP4) })
}

func hasAddress(c *nettest.Container) error {
	if out := c.IP("-oneline address show dev eth0"); !strings.Contains(out, c.IP4.String()) {
		return fmt.Errorf("%s has no longer %s: %s", c.Name, c.IP4, out)
	}
	return nil
}

// clone gives b the disk that a has: the same identity, the same block, the same leases.
func clone(t *testing.T, a, b *nettest.Node) {
	t.Helper()
	if err := os.RemoveAll(b.StateDir()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(b.StateDir(), os.DirFS(a.StateDir())); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.StateDir(), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestAClonedHostWithoutLeasesPicksAnotherBlock(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}})
	a, b := l.Node("n1"), l.Node("n2")
	a.Start()
	a.WaitReady(20 * time.Second)
	a.Stop()
	clone(t, a, b)
	a.Start()
	a.WaitReady(20 * time.Second)
	mine, c := block(t, a, pool4), a.Attach("n1a")
	b.Start()
	a.WaitConverged(30 * time.Second)
	b.WaitConverged(30 * time.Second)
	if now := block(t, a, pool4); now != mine {
		t.Errorf("the node with a lease went from %s to %s", mine, now)
	}
	if other := block(t, b, pool4); other.Overlaps(mine) {
		t.Errorf("both have %s", mine)
	}
	other := b.Attach("n2a")
	other.Serve(other.IP4)
	nettest.Eventually(t, 5*time.Second, func() error { return reaches(c, other.IP4) })
}

func TestClonedHostsThatStartTogetherEndWithDifferentBlocks(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}})
	a, b := l.Node("n1"), l.Node("n2")
	a.Start()
	a.WaitReady(20 * time.Second)
	a.Stop()
	clone(t, a, b)
	l.Start()
	nettest.Eventually(t, 20*time.Second, func() error {
		x, y := pool(t, a).Block, pool(t, b).Block
		if x == y || x == "" || y == "" {
			return fmt.Errorf("n1 has %s and n2 has %s", x, y)
		}
		return nil
	})
	for _, n := range l.Nodes {
		n.WaitConverged(10 * time.Second)
	}
	x, y := pool(t, a).Block, pool(t, b).Block
	for range 50 {
		time.Sleep(20 * time.Millisecond)
		if pool(t, a).Block != x || pool(t, b).Block != y || x == y {
			t.Fatalf("n1 went from %s to %s, n2 from %s to %s", x, pool(t, a).Block, y, pool(t, b).Block)
		}
	}
	for _, n := range l.Nodes {
		t.Logf("%s chose %d times", n.Name, strings.Count(n.Log(), "block claimed"))
	}
}

func TestClonedHostsWithLeasesStopHandingOutAndNameEachOther(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}})
	a, b := l.Node("n1"), l.Node("n2")
	a.Start()
	a.WaitReady(20 * time.Second)
	if err := lend(a); err != nil {
		t.Fatal(err)
	}
	a.Stop()
	clone(t, a, b)
	a.Start()
	b.Start()
	for _, n := range l.Nodes {
		nettest.Eventually(t, 10*time.Second, func() error { return peered(n, 1) })
	}
	nettest.Eventually(t, 20*time.Second, func() error { return heldBecauseOf(t, a, b) })
	nettest.Eventually(t, 20*time.Second, func() error { return heldBecauseOf(t, b, a) })
	if x, y := pool(t, a).Block, pool(t, b).Block; x != y {
		t.Errorf("a node with leases left its block: %s and %s", x, y)
	}
}

// lend takes an address that no endpoint has.
func lend(n *nettest.Node) error {
	res, err := n.Client().Post("http://fairlead/v1/leases", "application/json", strings.NewReader(`{"owner":"somebody"}`))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("lease: %s", res.Status)
	}
	return nil
}

func TestAFullBlockSaysSo(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1"}})
	n := l.Node("n1")
	n.WriteConfig(strings.Replace(n.Config(), fmt.Sprintf("cidr = %q\n", pool4), fmt.Sprintf("cidr = %q\nblock = \"10.88.1.0/29\"\n", pool4), 1))
	n.Start()
	n.WaitReady(10 * time.Second)
	size := pool(t, n).Size - pool(t, n).Reserved
	for i := range size {
		n.Attach(fmt.Sprintf("c%d", i))
	}
	h := nettest.NewHost(t, "late")
	if r := n.CLI("attach", "late", "--netns", h.Path); r.Code != 1 || !strings.Contains(r.Stderr, "10.88.1.0/29") {
		t.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	n.Fairlead("detach", "c0") // its address rests before it is given to another
	if r := n.CLI("attach", "late", "--netns", h.Path); r.Code != 1 {
		t.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if got := pool(t, n); got.Resting != 1 || got.Leased != size-1 {
		t.Errorf("%+v", got)
	}
}
