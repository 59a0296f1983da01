package agent_test

import (
	"errors"
	"net/netip"
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

func TestABlockInUseCanNotBeChanged(t *testing.T) {
	w := newWorld()
	src := &source{cfg: config("10.88.2.0/24")}
	a := startWith(t, w, config("10.88.1.0/24"), src)
	l, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Reload(t.Context()); !errors.Is(err, agent.ErrRefused) || !strings.Contains(err.Error(), "10.88.2.0/24") {
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
