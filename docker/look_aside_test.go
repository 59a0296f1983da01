package docker

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/ipam"
)

// aside is the shop, whose network apps keeps addresses from containers.
func aside(t *testing.T, addresses ...string) *lookWorld {
	w := shop(t)
	w.keeps(0, addresses...)
	return w
}

// keeps has one of Docker's networks keep addresses from containers.
func (w *lookWorld) keeps(network int, addresses ...string) {
	kept := make(map[string]engineAddress)
	for i, a := range lookAddresses(addresses...) {
		kept[string(rune('a'+i))] = engineAddress{a}
	}
	w.docker.networks[network].IPAM.Config[0].AuxiliaryAddresses = kept
}

// TestLookAside leases what the user keeps from containers whenever nobody has it, and no more.
func TestLookAside(t *testing.T) {
	w := aside(t, "10.88.1.9")
	w.pass(0)
	w.holds("when it was lost", shopLines("lease 10.88.1.9")...)
	w.pass(60)
	want := []agent.AddressRequest{{
		CIDR: netip.MustParsePrefix("10.88.0.0/16"), Range: netip.MustParsePrefix("10.88.0.0/16"), Address: netip.MustParseAddr("10.88.1.9"),
	}}
	if diff := cmp.Diff(want, w.host.asked, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("leased in a minute (-want +got)\n%s", diff)
	}

	w.guest("e2", "a1", false, "10.88.1.9") // docker run --ip
	w.docker.change(func() {
		w.docker.containers = append(w.docker.containers, dockerContainer("db", "a1", "e2", "10.88.1.9"))
	})
	w.pass(30)
	w.holds("with a container that has it", shopLines(`guest e200 [10.88.1.9] "db"`, "lease 10.88.1.9")...)
	if len(w.host.asked) != 1 {
		t.Errorf("a container's address is asked for: %v", w.host.asked)
	}
	delete(w.host.guests, lookID("e2"))
	delete(w.host.leases, netip.MustParseAddr("10.88.1.9"))
	w.docker.change(func() { w.docker.containers = w.docker.containers[:1] })
	w.pass(0)
	w.holds("after the container's end", shopLines("lease 10.88.1.9")...)

	w.docker.change(func() { w.docker.networks[0].IPAM.Config[0].AuxiliaryAddresses = nil })
	w.pass(30)
	w.holds("when nobody keeps it any more", shopLines()...)
	if text := w.log.String(); strings.Contains(text, "level=WARN") {
		t.Errorf("log\n%s", text)
	}
}

// TestLookAsideShared removes one of two networks that keep the same address from containers, and then the other.
func TestLookAsideShared(t *testing.T) {
	w := aside(t, "10.88.1.9")
	w.network("a2", "10.88.0.0/16", "169.254.88.2")
	w.docker.networks = append(w.docker.networks, dockerNetwork("a2", "more", "10.88.0.0/16"))
	w.keeps(1, "10.88.1.9")
	w.pass(0)
	if len(w.host.asked) != 1 {
		t.Errorf("one address is asked for %d times in a look", len(w.host.asked))
	}
	delete(w.host.networks, lookID("a2"))
	delete(w.host.gateways, netip.MustParseAddr("169.254.88.2"))
	delete(w.host.leases, netip.MustParseAddr("10.88.1.9"))
	w.docker.change(func() { w.docker.networks = w.docker.networks[:1] })
	w.pass(60)
	w.holds("with one network", shopLines("lease 10.88.1.9")...)
}

// TestLookAsideForeign keeps addresses that are other hosts', or none of the network's: they cost a call for each look at most.
func TestLookAsideForeign(t *testing.T) {
	w := aside(t, "10.88.200.1", "169.254.3.4", "fd00:78::9")
	w.pass(0)
	if next, err := w.looker.look(t.Context(), w.now); err != nil || next != lookEvery {
		t.Errorf("the next look is in %s: %v", next, err)
	}
	w.holds("after two looks", shopLines()...)
	if len(w.host.asked) != 2 {
		t.Errorf("asked for in two looks: %v", w.host.asked)
	}
	n := dockerNetwork("a2", "else", "10.88.0.0/16")
	n.IPAM.Driver = "default"
	w.docker.change(func() { w.docker.networks[0] = n })
	w.keeps(0, "10.88.1.9")
	w.host.asked = nil
	w.pass(0)
	if len(w.host.asked) != 0 {
		t.Errorf("asked for, and its network has another address driver: %v", w.host.asked)
	}
}

// TestLookAsideFails has the daemon refuse: what keeps everybody from an address is quiet, what may end is tried again soon.
func TestLookAsideFails(t *testing.T) {
	cases := []struct {
		err   error
		soon  bool
		calls int // of two addresses in one look
		warns int
	}{
		{ipam.ErrTaken, false, 2, 0}, {ipam.ErrReserved, false, 2, 0}, {ipam.ErrResting, true, 2, 0},
		{ipam.ErrNoBlock, true, 1, 0}, {ipam.ErrHeld, true, 1, 0}, {errors.New("the disk is full"), true, 2, 2},
	}
	for _, c := range cases {
		t.Run(c.err.Error(), func(t *testing.T) {
			w := aside(t, "10.88.1.8", "10.88.1.9")
			w.host.scarce = c.err
			w.pass(0)
			if len(w.host.asked) != c.calls {
				t.Errorf("%d calls, want %d", len(w.host.asked), c.calls)
			}
			next, err := w.looker.look(context.WithoutCancel(t.Context()), w.now)
			if err != nil || (next == lookAgain) != c.soon {
				t.Errorf("the next look is in %s: %v", next, err)
			}
			if n := strings.Count(w.log.String(), "level=WARN"); n != c.warns {
				t.Errorf("%d warnings, want %d\n%s", n, c.warns, w.log)
			}
			w.host.scarce = nil
			w.pass(0)
			w.holds("when it goes again", shopLines("lease 10.88.1.8", "lease 10.88.1.9")...)
		})
	}
}
