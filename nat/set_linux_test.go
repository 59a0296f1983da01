package nat_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
)

const peers4, peers6 = "fairlead-peers4", "fairlead-peers6"

// members are the rows of both sets with n addresses in each.
func members(n int) map[nat.Member]nat.Fault {
	all := map[nat.Member]nat.Fault{
		{Set: peers4, IP: netip.IPv4Unspecified()}: "", {Set: peers6, IP: netip.IPv6Unspecified()}: "",
	}
	for i := range n {
		all[nat.Member{Set: peers4, IP: addr(fmt.Sprintf("192.0.%d.%d", i/250, i%250+1))}] = ""
		all[nat.Member{Set: peers6, IP: addr(fmt.Sprintf("2001:db8::%x", i+1))}] = ""
	}
	return all
}

// ipset is what the other tool sees: the addresses in a set of the namespace, in order.
func (h host) ipset(name string) []string {
	_, list, _ := strings.Cut(h.Run("ipset", "list", name), "Members:\n")
	all := strings.Fields(list)
	slices.Sort(all)
	return all
}

func TestSetsComeBackAsTheyWerePut(t *testing.T) {
	h := newHost(t)
	h.Run("ipset", "create", "others", "hash:ip")
	h.Run("ipset", "add", "others", "203.0.113.9")
	table := reconcile.NewTable("source", h.k.Sets())
	for _, n := range []int{0, 3, 1000, 2, 0} {
		settle(t, table, members(n))
		if got := h.ipset(peers4); len(got) != n {
			t.Fatalf("%d members wanted, ipset shows %d", n, len(got))
		}
	}
	settle(t, table, members(2))
	if got := fmt.Sprint(h.ipset(peers4), h.ipset(peers6)); got != "[192.0.0.1 192.0.0.2] [2001:db8::1 2001:db8::2]" {
		t.Errorf("ipset shows %s", got)
	}
	for _, hand := range []string{
		"flush fairlead-peers4", "del fairlead-peers6 2001:db8::1", "add fairlead-peers4 203.0.113.66", "destroy fairlead-peers6",
	} {
		h.Run(append([]string{"ipset"}, strings.Fields(hand)...)...)
		if r := settle(t, table, members(2)); r.Total() == 0 {
			t.Errorf("nothing mended after %s", hand)
		}
	}
	settle(t, table, map[nat.Member]nat.Fault{})
	if got := strings.Fields(h.Run("ipset", "list", "-n")); !slices.Equal(got, []string{"others"}) {
		t.Errorf("left behind: %v", got)
	}
	if got := h.ipset("others"); !slices.Equal(got, []string{"203.0.113.9"}) {
		t.Errorf("a foreign set has %v", got)
	}
}

func TestSetOfAnotherKindIsMadeAnew(t *testing.T) {
	h := newHost(t)
	h.Run("ipset", "create", peers4, "hash:net")
	h.Run("ipset", "create", peers6, "hash:ip", "family", "inet")
	table := reconcile.NewTable("source", h.k.Sets())
	settle(t, table, members(2))
	// While a rule asks for it, it can not be replaced, and the error says so.
	settle(t, table, map[nat.Member]nat.Fault{})
	h.Run("ipset", "create", peers4, "hash:net")
	h.iptables("-A INPUT -m set --match-set fairlead-peers4 src")
	r := reconcile.Climb(t.Context(), table.Rung(members(1), nil))
	if r.Clean() || !strings.Contains(r.Err().Error(), "a rule of the firewall still asks for the set") {
		t.Errorf("report: %v", r.Err())
	}
	h.iptables("-F INPUT")
	settle(t, table, members(1))
}

func TestASetInUseIsNotRemoved(t *testing.T) {
	h := newHost(t)
	table := reconcile.NewTable("source", h.k.Sets())
	settle(t, table, members(1))
	h.iptables("-A INPUT -m set --match-set fairlead-peers4 src")
	err := h.k.Sets().Delete(t.Context(), nat.Member{Set: peers4, IP: netip.IPv4Unspecified()})
	if err == nil || !strings.Contains(err.Error(), "still asks for the set") {
		t.Errorf("error: %v", err)
	}
}

func TestEachMemberLearnsItsOwnError(t *testing.T) {
	h := newHost(t)
	sets := h.k.Sets()
	all := members(300)
	wrong := nat.Member{Set: peers4, IP: addr("2001:db8::77")}
	all[wrong] = ""
	all[nat.Member{Set: "others", IP: addr("192.0.2.1")}] = ""
	failed := sets.Apply(t.Context(), all, nil)
	if len(failed) != 2 || failed[wrong] == nil {
		t.Errorf("failed: %v", failed)
	}
	if n := len(h.ipset(peers4)); n != 300 {
		t.Errorf("%d of 300 members", n)
	}
	for m := range all {
		must(t, ignore(sets.Delete(t.Context(), m), failed[m]))
		must(t, ignore(sets.Delete(t.Context(), m), failed[m])) // absent is success
	}
}

func ignore(err, expected error) error {
	if expected != nil {
		return nil
	}
	return err
}
