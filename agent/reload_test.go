package agent_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/ipam"
)

// file is a config file that was changed: it says so until what it holds is in force.
type file struct {
	cfg     agent.Config
	adopted bool
}

func (f *file) Reload() (agent.Config, []string, error) {
	if f.adopted {
		return f.cfg, nil, nil
	}
	return f.cfg, []string{"bgp.peer", "node.name", "pool"}, nil
}

func (f *file) Adopted() { f.adopted = true }

func (w *world) peersInForce() bgp.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

// TestPeersThatCanNotBeSetLeaveTheOldConfigInForce: all of it, until the same file is reloaded with better luck.
func TestPeersThatCanNotBeSetLeaveTheOldConfigInForce(t *testing.T) {
	w := newWorld()
	byValue := cmpopts.EquateComparable(netip.Addr{})
	peers := func(last string) bgp.Config {
		return bgp.Config{ASN: 64512, Peers: []bgp.PeerConfig{{Address: netip.MustParseAddr(last)}}}
	}
	old, next := config("10.88.1.0/24"), config("10.88.1.0/24")
	old.BGP, next.BGP = peers("192.0.2.2"), peers("192.0.2.3")
	next.Node.Name = "n2"
	next.Pools = append(next.Pools, ipam.Pool{
		Name: "second", CIDR: netip.MustParsePrefix("10.99.0.0/16"), Block: netip.MustParsePrefix("10.99.1.0/24"),
	})
	src := &file{cfg: next}
	a := startWith(t, w, old, src)
	if err := a.Settled(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	before := w.text()
	second := agent.LeaseRequest{Owner: "vm", Pool: "second"}

	refuse := func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stubborn = err
	}
	noMore := errors.New("no more sessions")
	refuse(noMore)
	for range 2 {
		if _, err := a.Reload(t.Context()); !errors.Is(err, agent.ErrRefused) || !errors.Is(err, noMore) {
			t.Fatalf("reload: %v", err)
		}
		s := a.Status()
		if !strings.Contains(s.ConfigError, noMore.Error()) || !strings.Contains(strings.Join(s.Problems, "\n"), noMore.Error()) {
			t.Errorf("the status does not name the cause: %q, %q", s.ConfigError, s.Problems)
		}
		if s.Node != "n1" || len(s.Pools) != 1 || s.Pools[0].Block != "10.88.1.0/24" || !s.Ready || src.adopted {
			t.Errorf("the new config is in force: %+v", s)
		}
		if diff := cmp.Diff(old.BGP, w.peersInForce(), byValue); diff != "" {
			t.Error(diff)
		}
		if _, err := a.LeaseAddress(t.Context(), second); !errors.Is(err, ipam.ErrNoPool) {
			t.Errorf("lease of the new pool: %v", err)
		}
		if _, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm", Pool: "default"}); err != nil {
			t.Errorf("lease of the old pool: %v", err)
		}
		w.hear()
		eventually(t, "another pass", func() bool { return a.Status().LastPass.After(s.LastPass) })
		if diff := cmp.Diff(before, w.text()); diff != "" {
			t.Error(diff)
		}
	}

	refuse(nil)
	done, err := a.Reload(t.Context())
	if err != nil || len(done.Changed) != 3 || !src.adopted {
		t.Errorf("reload with better luck: %+v, %v", done, err)
	}
	if s := a.Status(); s.ConfigError != "" || len(s.Problems) != 0 || s.Node != "n2" || len(s.Pools) != 2 {
		t.Errorf("the new config is not in force: %+v", s)
	}
	if diff := cmp.Diff(next.BGP, w.peersInForce(), byValue); diff != "" {
		t.Error(diff)
	}
	if _, err := a.LeaseAddress(t.Context(), second); err != nil {
		t.Errorf("lease of the new pool: %v", err)
	}
	if !strings.Contains(w.text(), "announce 10.99.1.0/24 via") {
		t.Errorf("the new block is not announced:\n%s", w.text())
	}
}
