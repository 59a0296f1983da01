package nat_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
)

// TestHookThatCanNotBePrinted: with one rule in INPUT that only nft can write, iptables prints none of INPUT any more.
func TestHookThatCanNotBePrinted(t *testing.T) {
	use(t, "nft")
	h := newHost(t)
	h.iptables("-P INPUT ACCEPT")
	h.ip6tables("-P INPUT ACCEPT")
	h.Run("nft", "add rule ip filter INPUT ct state vmap { established : accept }")
	foreign := h.hooks()
	g := guard(t, h)
	inOrder := h.hooks()
	if strings.Count(inOrder, "jump FAIRLEAD-INPUT") != 2 {
		t.Fatalf("not entered:\n%s", inOrder)
	}
	calm(g.chain)
	for _, hand := range []string{
		"iptables -F FAIRLEAD-INPUT", "iptables -D INPUT -j FAIRLEAD-INPUT", "iptables -A FAIRLEAD-INPUT -p tcp", "ip6tables -F INPUT",
	} {
		h.Run(strings.Fields(hand)...)
		if !poked(g.chain) {
			t.Errorf("no poke for %s", hand)
		}
		if r := settle(t, g.table, rules()); r.Total() == 0 {
			t.Errorf("nothing written after %s", hand)
		}
		if diff := cmp.Diff(inOrder, h.hooks()); diff != "" {
			t.Fatalf("not as before after %s:\n%s", hand, diff)
		}
		calm(g.chain)
	}
	// However often and in whichever form it is entered: that is in order, and all of it goes in the end.
	h.iptables("-A INPUT -m comment --comment first -j FAIRLEAD-INPUT")
	h.iptables("-D INPUT -j FAIRLEAD-INPUT")
	for _, hand := range []string{"-A INPUT -m comment --comment first -j FAIRLEAD-INPUT", "-A INPUT -j FAIRLEAD-INPUT", "-A INPUT -j FAIRLEAD-INPUT"} {
		if r := settle(t, g.table, rules()); r.Total() != 0 {
			t.Errorf("wrote %v before %s", r.Writes, hand)
		}
		h.iptables(hand)
	}
	settle(t, g.table, none())
	settle(t, reconcile.NewTable("source", h.k.Sets()), map[nat.Member]nat.Fault{})
	if diff := cmp.Diff(foreign, h.hooks()); diff != "" {
		t.Errorf("not as before:\n%s", diff)
	}
}

// TestChainThatCanNotBePrinted: such a rule in our own chain goes, and ours are there all the time.
func TestChainThatCanNotBePrinted(t *testing.T) {
	use(t, "nft")
	h := newHost(t)
	h.iptables("-P INPUT ACCEPT")
	h.ip6tables("-P INPUT ACCEPT")
	foreign := h.hooks()
	g := guard(t, h)
	inOrder := h.hooks()
	calm(g.chain)
	spoil := func(chain string) {
		h.Run("nft", "insert rule ip filter "+chain+" ct state vmap { established : accept }")
		if !poked(g.chain) {
			t.Errorf("no poke for a rule in %s", chain)
		}
	}
	spoil("FAIRLEAD-INPUT")
	if r := settle(t, g.table, rules()); r.Total() == 0 {
		t.Error("nothing written")
	}
	if diff := cmp.Diff(slices.Sorted(strings.Lines(inOrder)), slices.Sorted(strings.Lines(h.hooks()))); diff != "" {
		t.Fatalf("not as before:\n%s", diff)
	}
	calm(g.chain)
	spoil("FAIRLEAD-INPUT")
	settle(t, g.table, none())
	settle(t, reconcile.NewTable("source", h.k.Sets()), map[nat.Member]nat.Fault{})
	if diff := cmp.Diff(foreign, h.hooks()); diff != "" {
		t.Errorf("not as before:\n%s", diff)
	}
}

// hooks is what nft shows of all tables, without counters.
func (h host) hooks() string {
	return regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAllString(h.Run("nft", "list", "ruleset"), "")
}
