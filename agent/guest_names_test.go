package agent_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// moor makes a guest that a container called name has.
func moor(t *testing.T, a *agent.Agent, id, name string) {
	t.Helper()
	admit(t, a, id, address(t, a, ""))
	if _, err := a.HandOver(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	want(t, "learn", a.Learn(t.Context(), []agent.Told{{ID: id, Container: name}}, nil), nil)
}

func states(a *agent.Agent) string {
	var all []string
	for _, p := range a.Ports() {
		all = append(all, p.Endpoint+" "+p.State)
	}
	return strings.Join(all, ", ")
}

// TestPortsStayWithWhoIsStillCalledSo: a container can have two endpoints, and one can be called as what was attached.
func TestPortsStayWithWhoIsStillCalledSo(t *testing.T) {
	a := dock(t, newWorld())
	moor(t, a, guest1, "web")
	moor(t, a, guest2, "web")
	if _, err := a.Publish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"8443:80"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ id, state string }{{guest1, "web mapped"}, {guest2, "web resting"}} {
		want(t, "dismiss", a.Dismiss(t.Context(), c.id), nil)
		expect(t, "ports", states(a), c.state)
	}

	box := nettest.NewHost(t, "box")
	_, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "box", NetNS: box.Path, Publish: []string{"7000:80"}})
	want(t, "attach", err, nil)
	moor(t, a, guest1, "box")
	want(t, "dismiss", a.Dismiss(t.Context(), guest1), nil)
	expect(t, "ports", states(a), "box mapped, web resting")
}

func TestNothingIsAttachedUnderTheNameOfAContainer(t *testing.T) {
	a, box := dock(t, newWorld()), nettest.NewHost(t, "box")
	moor(t, a, guest1, "web")
	_, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
	want(t, "attach", err, agent.ErrConflict, "container of Docker")
	want(t, "dismiss", a.Dismiss(t.Context(), guest1), nil)
	_, _, err = a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
	want(t, "attach when it is gone", err, nil)
}

// TestAnAddressThatWasGivenBackMeanwhile: two containers ask for one address, and the one that gives it up tells last.
func TestAnAddressThatWasGivenBackMeanwhile(t *testing.T) {
	a := dock(t, newWorld())
	ip := address(t, a, "10.88.1.7")
	want(t, "return", a.Return(t.Context(), ip), nil)
	admit(t, a, guest1, ip)
	if leases, _ := a.Leases(); len(leases) != 1 || leases[0].Address != ip {
		t.Errorf("leases: %+v", leases)
	}
	_, err := a.Admit(t.Context(), agent.GuestRequest{ID: guest2, Network: apps, Addresses: []netip.Addr{address(t, a, ""), address(t, a, "")}})
	want(t, "two of one family", err, agent.ErrBadRequest, "one or two families")
}

func TestAnUninstallReleasesWhatGuestsHave(t *testing.T) {
	w := newWorld()
	a := dock(t, w)
	moor(t, a, guest1, "web")
	if _, err := a.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leases, _ := a.Leases(); len(leases) != 0 {
		t.Errorf("leases: %+v", leases)
	}
}

func TestAContainerInTheWayIsCalledByItsName(t *testing.T) {
	cfg := config("10.88.1.0/24")
	src := &source{cfg: cfg}
	a := startWith(t, newWorld(), cfg, src)
	gateway, err := a.Gateway(t.Context(), 4, netip.Addr{})
	want(t, "gateway", err, nil)
	want(t, "network", a.CreateNetwork(t.Context(), network(apps, gateway.String())), nil)
	moor(t, a, guest1, "web")
	src.mu.Lock()
	src.cfg = config("10.88.2.0/24")
	src.mu.Unlock()
	_, err = a.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "in use by web, a container of Docker") {
		t.Errorf("reload: %v", err)
	}
}

// TestWhatWasLearntIsToldAtOnce: nobody is told a new name of a container with the old one of its network, whether or not a
// pass has come by meanwhile.
func TestWhatWasLearntIsToldAtOnce(t *testing.T) {
	a := dock(t, newWorld())
	moor(t, a, guest1, "web")
	for i := range 50 {
		name, title := fmt.Sprint("web", i), fmt.Sprint("shop", i)
		want(t, "learn", a.Learn(t.Context(), []agent.Told{{ID: guest1, Container: name}}, map[string]string{apps: title}), nil)
		all, err := a.Endpoints()
		want(t, "endpoints", err, nil)
		if len(all) != 1 || all[0].Name != name || all[0].Network != title {
			t.Fatalf("%s on %s is told as %+v", name, title, all)
		}
	}
}
