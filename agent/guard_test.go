package agent_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nettest"
)

func TestAPrefixAsWideAsThePoolIsNeitherARivalNorARoute(t *testing.T) {
	w := newWorld()
	a := start(t, w, config(""))
	eventually(t, "a block", func() bool { return a.Status().Ready })
	mine := a.Status().Pools[0].Block
	w.hear(route("10.88.0.0/16", "192.0.2.2"))
	eventually(t, "the summary is heard", func() bool { return len(a.Routes()) == 1 })
	if r := a.Routes()[0]; r.Installed || r.Reason != "whole-pool" {
		t.Errorf("%+v", r)
	}
	if s := a.Status(); !s.Ready || s.Pools[0].Block != mine || s.Pools[0].Held != "" {
		t.Errorf("%+v", s)
	}
}

func TestTheAddressOfAnEndpointGoesWithTheEndpointOnly(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	box := nettest.NewHost(t, "box")
	e, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ReleaseAddress(t.Context(), "web", e.Addresses[0]); !errors.Is(err, agent.ErrConflict) {
		t.Errorf("release of an endpoint's address: %v", err)
	}
	if _, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "web"}); !errors.Is(err, agent.ErrConflict) {
		t.Errorf("lease in an endpoint's name: %v", err)
	}
	l, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ReleaseAddress(t.Context(), "vm", l.Address); err != nil {
		t.Error(err)
	}
}

func TestOneSpoiltEndpointDoesNotMakeItsHostUnready(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	box := nettest.NewHost(t, "box")
	if _, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path}); err != nil {
		t.Fatal(err)
	}
	hostIf := endpoint.HostIf("web")
	w.endpoints.mu.Lock()
	w.endpoints.refuse = func(string) error { return errors.New("the container has spoilt it") }
	delete(w.endpoints.table, hostIf)
	w.endpoints.mu.Unlock()
	poke(w.news)
	eventually(t, "the problem is named", func() bool {
		return strings.Contains(strings.Join(a.Status().Problems, "\n"), "spoilt")
	})
	if !a.Status().Ready {
		t.Error("the node is not ready")
	}
	if _, err := a.Reload(t.Context()); err != nil {
		t.Errorf("reload: %v", err)
	}
}

func TestAReloadStrandsNoAddressInUse(t *testing.T) {
	elsewhere, narrow, renamed := config(""), config(""), config("")
	elsewhere.Pools[0].CIDR = netip.MustParsePrefix("10.89.0.0/16")
	narrow.Pools[0].CIDR = netip.MustParsePrefix("10.88.128.0/17")
	renamed.Pools[0].Name = "other"
	for name, next := range map[string]agent.Config{
		"another block": config("10.88.2.0/24"), "no block": config(""), "another pool": elsewhere,
		"a smaller pool": narrow, "another name": renamed,
	} {
		t.Run(name, func(t *testing.T) {
			w, src := newWorld(), &source{cfg: next}
			a := startWith(t, w, config("10.88.1.0/24"), src)
			l, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Reload(t.Context()); !errors.Is(err, agent.ErrRefused) || !strings.Contains(err.Error(), "10.88.1.1 is in use by vm") {
				t.Errorf("reload: %v", err)
			}
			if got := a.Status().Pools[0].Block; got != "10.88.1.0/24" {
				t.Errorf("block is %s", got)
			}
			if err := a.ReleaseAddress(t.Context(), "vm", l.Address); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAddressesOutsideOfEveryBlockAreNamed: a restart takes any config, and what it strands is in use all the same.
func TestAddressesOutsideOfEveryBlockAreNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.db")
	db := reopen(t, path)
	before := prepareOn(t, db, newWorld(), config("10.88.1.0/24"), nil)
	if _, err := before.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm"}); err != nil {
		t.Fatal(err)
	}
	after := prepareOn(t, db, newWorld(), config("10.88.2.0/24"), nil)
	if said := strings.Join(after.Status().Problems, "\n"); !strings.Contains(said, "such as 10.88.1.1 of vm") {
		t.Errorf("problems: %s", said)
	}
}

func TestNoAddressIsOnTwoEndpoints(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	l, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "web"})
	if err != nil {
		t.Fatal(err)
	}
	box := nettest.NewHost(t, "box")
	e, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
	if err != nil || e.Addresses[0] != l.Address {
		t.Fatalf("%v %v", e.Addresses, err)
	}
	if err := a.ReleaseAddress(t.Context(), "web", l.Address); !errors.Is(err, agent.ErrConflict) {
		t.Errorf("release of an address that an endpoint took over: %v", err)
	}
	if err := a.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := a.ReleaseAddress(t.Context(), "web", l.Address); err != nil {
		t.Errorf("release after the detach: %v", err)
	}
}

// TestParametersThatCanNotBeRememberedAreLeftAlone: written over, their old values would be lost for good.
func TestParametersThatCanNotBeRememberedAreLeftAlone(t *testing.T) {
	w := newWorld()
	w.mute = errors.New("input/output error")
	a := start(t, w, config("10.88.1.0/24"))
	eventually(t, "the fault is named", func() bool {
		return strings.Contains(strings.Join(a.Status().Problems, "\n"), "input/output error")
	})
	if text := w.sysctls.text("sysctl"); len(text) > 0 {
		t.Errorf("written all the same: %v", text)
	}
	w.mu.Lock()
	w.mute = nil
	w.mu.Unlock()
	poke(w.news)
	eventually(t, "they are set", func() bool { return len(w.sysctls.text("sysctl")) > 0 && a.Status().Ready })
	if _, err := a.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(w.sysctls.text("sysctl"), "\n"); text != "sysctl net/ipv4/ip_forward -> 0" {
		t.Errorf("after the uninstall: %s", text)
	}
}

func TestANewStoreIsRebuiltBeforeEndpointsAreCutOff(t *testing.T) {
	w := newWorld()
	row := endpoint.Row{
		Name: "web", HostIf: endpoint.HostIf("web"), NetNS: "/run/netns/web", IfName: "eth0", NSInode: 7, MTU: 1450,
		IP4: netip.MustParseAddr("10.88.1.9"), MAC: endpoint.ContainerMAC(netip.MustParseAddr("10.88.1.9")),
	}
	if err := w.endpoints.Put(t.Context(), row.HostIf, row); err != nil {
		t.Fatal(err)
	}
	a := prepare(t, w, config("10.88.1.0/24"), &source{})
	if needed, err := a.NeedsRebuild(t.Context()); err != nil || !needed {
		t.Fatalf("not needed: %v", err)
	}
	if err := a.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if needed, err := a.NeedsRebuild(t.Context()); err != nil || needed {
		t.Fatalf("still needed: %v, %v", needed, err)
	}
	if err := a.Rebuild(t.Context()); err != nil {
		t.Fatalf("a second rebuild: %v", err)
	}
	all, err := a.Endpoints()
	if err != nil || len(all) != 1 || all[0].Addresses[0] != row.IP4 || a.Status().Pools[0].Leased != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
}
