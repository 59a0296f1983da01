package nat_test

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
)

// bytecode finds VNI 88, as the guard of the tunnels does.
const bytecode = `"6,177 0 0 0,64 0 0 12,116 0 0 8,21 0 1 88,6 0 0 65535,6 0 0 0"`

func rules() map[nat.EntryKey]nat.Entry {
	return map[nat.EntryKey]nat.Entry{
		{Name: "vxlan", Family: 4}: nat.Drop("-p 17 -m udp --dport 4789 -m bpf --bytecode " + bytecode + " -m set ! --match-set fairlead-peers4 src"),
		{Name: "ipip", Family: 4}:  nat.Drop("-d 192.0.2.1/32 -p 4 -m set ! --match-set fairlead-peers4 src"),
		{Name: "gre", Family: 4}:   nat.Drop("-d 192.0.2.1/32 -p 47 -m set ! --match-set fairlead-peers4 src"),
		{Name: "vxlan", Family: 6}: nat.Drop("-p 17 -m udp --dport 4789 -m set ! --match-set fairlead-peers6 src"),
	}
}

// guarded is a host with a chain in order.
type guarded struct {
	host
	chain *nat.Chain
	table *reconcile.Table[nat.EntryKey, nat.Entry]
}

// guard makes the sets and the chain. What was read of it is believed for an hour: only news can say otherwise.
func guard(t *testing.T, h host) guarded {
	t.Helper()
	settle(t, reconcile.NewTable("source", h.k.Sets()), members(2))
	chain := h.k.Input(time.Hour)
	g := guarded{h, chain, reconcile.NewTable("guard", chain)}
	settle(t, g.table, rules())
	return g
}

func none() map[nat.EntryKey]nat.Entry { return map[nat.EntryKey]nat.Entry{} }

func TestChainComesBackAsItWasPut(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		h.iptables("-A INPUT -p udp --dport 4789 -j ACCEPT")
		h.iptables("-N OTHERS")
		h.ip6tables("-A INPUT -i lo -j ACCEPT")
		foreign := h.world()
		g := guard(t, h)
		first, _, _ := strings.Cut(h.iptables("-S INPUT"), "\n-A INPUT -p udp")
		if first != "-P INPUT ACCEPT\n-A INPUT -j FAIRLEAD-INPUT" {
			t.Errorf("INPUT begins with %q", first)
		}
		changed := rules()
		changed[nat.EntryKey{Name: "ipip", Family: 4}] = nat.Drop("-d 198.51.100.1/32 -p 4 -m set ! --match-set fairlead-peers4 src")
		delete(changed, nat.EntryKey{Name: "gre", Family: 4})
		if r := settle(t, g.table, changed); r.Total() != 2 {
			t.Errorf("wrote %v", r.Writes)
		}
		// A second daemon that knows nothing finds what there is, and has nothing to write.
		if r := settle(t, reconcile.NewTable("guard", h.k.Input(time.Hour)), changed); r.Total() != 0 {
			t.Errorf("wrote %v", r.Writes)
		}
		settle(t, g.table, none())
		settle(t, reconcile.NewTable("source", h.k.Sets()), map[nat.Member]nat.Fault{})
		if diff := cmp.Diff(foreign, h.world()); diff != "" {
			t.Errorf("not as before:\n%s", diff)
		}
	})
}

// TestChainIsMended: in nf_tables the change is news, and the next pass mends it; of the old back end we hear nothing, and
// a chain that is believed for no time is read in each pass.
func TestChainIsMended(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		h.iptables("-A INPUT -p udp --dport 4789 -j ACCEPT")
		g := guard(t, h)
		before := h.world()
		nf := strings.Contains(h.iptables("--version"), "nf_tables")
		if !nf {
			g.chain = h.k.Input(0)
			g.table = reconcile.NewTable("guard", g.chain)
		}
		drain(g.chain)
		hands := []string{
			"iptables -F FAIRLEAD-INPUT", "iptables -D INPUT -j FAIRLEAD-INPUT", "iptables -D FAIRLEAD-INPUT 1",
			"iptables -I FAIRLEAD-INPUT -j ACCEPT", "iptables -A FAIRLEAD-INPUT -p tcp", "ip6tables -F", "ip6tables -F INPUT",
			"iptables -R FAIRLEAD-INPUT 2 -m comment --comment ipip -j DROP",
		}
		if nf {
			hands = append(hands, "nft delete table ip6 filter",
				"nft insert rule ip filter FAIRLEAD-INPUT ip saddr {192.0.2.66,192.0.2.67} accept") // iptables prints half of it
		}
		for _, hand := range hands {
			h.Run(strings.Fields(hand)...)
			if nf && !poked(g.chain) {
				t.Errorf("no poke for %s", hand)
			}
			if r := settle(t, g.table, rules()); r.Total() == 0 {
				t.Errorf("nothing written after %s", hand)
			}
			if diff := cmp.Diff(before, unordered(before, h.world())); diff != "" {
				t.Fatalf("not as before after %s:\n%s", hand, diff)
			}
			calm(g.chain)
		}
	})
}

// unordered is the text got if it has the lines of want in another order, or in the second form of the jump, then want.
func unordered(want, got string) string {
	sorted := func(s string) []string {
		s = strings.ReplaceAll(s, "-m comment --comment first ", "")
		s = strings.ReplaceAll(s, "/* first */ ", "")
		return slices.Sorted(strings.Lines(s))
	}
	if slices.Equal(sorted(want), sorted(got)) {
		return want
	}
	return got
}

func TestFlushOfAllRulesIsMended(t *testing.T) {
	use(t, "nft")
	g := guard(t, newHost(t))
	g.iptables("-A FORWARD -p udp -j ACCEPT")
	calm(g.chain)
	g.Run("nft", "flush", "ruleset")
	if !poked(g.chain) {
		t.Fatal("no poke")
	}
	if r := settle(t, g.table, rules()); r.Repaired != len(rules()) {
		t.Errorf("repaired %d of %d", r.Repaired, len(rules()))
	}
}

func TestJumpIsFirstAgain(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		guard(t, h)
		g := guarded{h, h.k.Input(0), nil}
		g.table = reconcile.NewTable("guard", g.chain)
		settle(t, g.table, rules())
		for i, hand := range []string{
			"-I INPUT -p udp --dport 4789 -j ACCEPT", "-I INPUT -p udp --dport 4789 -j ACCEPT", "-A INPUT -j FAIRLEAD-INPUT",
			"-I INPUT -m comment --comment first -j FAIRLEAD-INPUT", "-I INPUT -p tcp",
		} {
			h.iptables(hand)
			if r := settle(t, g.table, rules()); r.Total() == 0 {
				t.Errorf("nothing written after %s", hand)
			}
			lines := strings.Split(h.iptables("-S INPUT"), "\n")
			if !strings.HasSuffix(lines[1], "-j FAIRLEAD-INPUT") || strings.Count(strings.Join(lines, "\n"), "FAIRLEAD-INPUT") != 1 {
				t.Fatalf("change %d, INPUT: %q", i, lines)
			}
		}
		// There must be an end to it.
		h.iptables("-I INPUT -p tcp")
		r := reconcile.Climb(t.Context(), g.table.Rung(rules(), nil))
		if r.Clean() || !strings.Contains(r.Err().Error(), "another program puts its rule before ours") {
			t.Errorf("report: %v", r.Err())
		}
		if n := strings.Count(h.iptables("-S INPUT"), "-p tcp"); n != 2 {
			t.Errorf("%d foreign rules", n)
		}
	})
}

// TestNewsOfOthersAreNoNews: what containers bring into the same table is none of our business, however much it is.
func TestNewsOfOthersAreNoNews(t *testing.T) {
	use(t, "nft")
	g := guard(t, newHost(t))
	calm(g.chain)
	for _, hand := range []string{
		"iptables -N DOCKER", "iptables -A FORWARD -j DOCKER", "iptables -A DOCKER -d 172.17.0.2 -j ACCEPT",
		"iptables -t nat -A PREROUTING -p tcp --dport 80 -j ACCEPT", "iptables -D FORWARD -j DOCKER",
		"nft add table inet fw", "nft add chain inet fw input", "nft add rule inet fw input accept", "nft delete table inet fw",
	} {
		g.Run(strings.Fields(hand)...)
	}
	if n := calm(g.chain); n != 0 {
		t.Errorf("%d pokes", n)
	}
}

// TestReadingIsCheap: a pass that changes nothing starts no program.
func TestReadingIsCheap(t *testing.T) {
	use(t, "nft")
	g := guard(t, newHost(t))
	t.Setenv("PATH", t.TempDir()) // iptables is gone; but for that one look nobody notices
	if _, err := exec.LookPath("iptables"); err == nil {
		t.Fatal("iptables can still be found")
	}
	have, err := g.table.List(t.Context())
	must(t, err)
	if !maps.Equal(have, rules()) {
		t.Errorf("have %v", have)
	}
}

func TestOtherBackendIsLeft(t *testing.T) {
	for _, way := range [][2]string{{"nft", "legacy"}, {"legacy", "nft"}} {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			for _, b := range way {
				if _, err := exec.LookPath("iptables-" + b); err != nil {
					t.Skipf("one back end only: %v", err)
				}
			}
			use(t, way[0])
			g := guard(t, newHost(t))
			use(t, way[1])
			// The daemon that runs learns of it when it reads next, and another one at its start.
			g.chain = g.k.Input(0)
			g.table = reconcile.NewTable("guard", g.chain)
			settle(t, g.table, rules())
			if out, err := g.Try("iptables-"+way[0], "-S", "FAIRLEAD-INPUT"); err == nil {
				t.Errorf("in %s there is still %s", way[0], out)
			}
			g.iptables("-S FAIRLEAD-INPUT")
			// Nothing wanted, and something in both: both go.
			must(t, g.chain.Put(t.Context(), nat.EntryKey{Name: "gre", Family: 6}, nat.Drop("-p 47")))
			g.Run("iptables-"+way[0], "-N", "FAIRLEAD-INPUT")
			settle(t, g.table, none())
			for _, b := range way {
				if out, err := g.Try("iptables-"+b, "-S", "FAIRLEAD-INPUT"); err == nil {
					t.Errorf("in %s there is still %s", b, out)
				}
			}
		})
	}
}

func TestRunningDaemonFollowsTheBackend(t *testing.T) {
	for _, b := range []string{"nft", "legacy"} {
		if _, err := exec.LookPath("iptables-" + b); err != nil {
			t.Skipf("one back end only: %v", err)
		}
	}
	use(t, "nft")
	h := newHost(t)
	guard(t, h)
	chain := h.k.Input(0)
	table := reconcile.NewTable("guard", chain)
	settle(t, table, rules())
	use(t, "legacy")
	settle(t, table, rules())
	if out := h.Run("iptables-legacy", "-S", "FAIRLEAD-INPUT"); !strings.Contains(out, "--comment vxlan") {
		t.Errorf("legacy has %s", out)
	}
	if out, err := h.Try("iptables-nft", "-S", "FAIRLEAD-INPUT"); err == nil {
		t.Errorf("nft still has %s", out)
	}
}

func TestHostWithoutIPTables(t *testing.T) {
	h := newHost(t)
	t.Setenv("PATH", t.TempDir())
	chain := h.k.Input(time.Hour)
	table := reconcile.NewTable("guard", chain)
	settle(t, table, none())
	must(t, chain.Delete(t.Context(), nat.EntryKey{Name: "vxlan", Family: 4}))
	r := reconcile.Climb(t.Context(), table.Rung(rules(), nil))
	if r.Clean() || !strings.Contains(r.Err().Error(), `apt-get install iptables, or set accept = "any"`) {
		t.Errorf("report: %v", r.Err())
	}
	if dropped, err := chain.Dropped(t.Context()); err != nil || len(dropped) != 0 {
		t.Errorf("dropped %v, %v", dropped, err)
	}
}

func TestRuleWaitsForItsSet(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		chain := h.k.Input(time.Hour)
		for k, r := range rules() {
			if err := chain.Put(t.Context(), k, r); !errors.Is(err, reconcile.ErrWaits) {
				t.Errorf("put %v: %v", k, err)
			}
		}
	})
}

func TestUnknownMatchIsExplained(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		err := h.k.Input(time.Hour).Put(t.Context(), nat.EntryKey{Name: "x", Family: 4}, nat.Drop(`-m bpf --bytecode "1,21 0 5 0"`)) // a jump to nowhere
		if err == nil || !strings.Contains(err.Error(), "modprobe -a xt_set xt_bpf") || strings.Contains(err.Error(), "\n") {
			t.Errorf("error: %v", err)
		}
	})
}

// TestBusyLockIsTriedAgain: who holds the lock of the old back end is waited for, but not for ever.
func TestBusyLockIsTriedAgain(t *testing.T) {
	use(t, "legacy")
	g := guard(t, newHost(t))
	lock, err := os.OpenFile(os.Getenv("XTABLES_LOCKFILE"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer lock.Close()
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	chain := g.k.Input(0)
	if _, err = chain.List(t.Context()); err == nil || !strings.Contains(err.Error(), "holds the lock") {
		t.Errorf("error: %v", err)
	}
	must(t, lock.Close())
	settle(t, reconcile.NewTable("guard", chain), rules())
}

func drain(c *nat.Chain) {
	select {
	case <-c.Changed():
	default:
	}
}

func poked(c *nat.Chain) bool {
	select {
	case <-c.Changed():
		return true
	case <-time.After(2 * time.Second):
		return false
	}
}

// calm waits until there has been no poke for 200 ms and returns how many there were before.
func calm(c *nat.Chain) (n int) {
	for {
		select {
		case <-c.Changed():
			n++
		case <-time.After(200 * time.Millisecond):
			return n
		}
	}
}

// TestNoFileIsLeftOpen: the sockets and the namespace go with the kernel.
func TestNoFileIsLeftOpen(t *testing.T) {
	use(t, "nft")
	h := newHost(t)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	var before int
	for i := range 3 {
		if i == 1 {
			before = open()
		}
		var k *nat.Kernel
		must(t, h.Do(func() (err error) { k, err = nat.Open(); return err }))
		_, err := k.Sets().List(t.Context())
		must(t, err)
		_, err = k.Input(0).List(t.Context())
		must(t, err)
		must(t, k.Close())
	}
	if after := open(); after != before {
		t.Errorf("%d files open, were %d", after, before)
	}
}
