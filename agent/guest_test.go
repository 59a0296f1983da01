package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
)

func (in *insides) Loose(ctx context.Context, hostIfs []string) (map[string]bool, error) {
	return beneath{in.world}.Loose(ctx, hostIfs)
}

// Loose tells of links that are not there: in this world no inside ever comes back.
func (b beneath) Loose(ctx context.Context, hostIfs []string) (map[string]bool, error) {
	have, err := b.endpoints.List(ctx)
	loose := make(map[string]bool)
	for _, hostIf := range hostIfs {
		_, there := have[hostIf]
		loose[hostIf] = !there
	}
	return loose, err
}

const (
	apps   = "a1b2c3d4e5f60718293a4b5c6d7e8f90"
	guest1 = "1111222233334444aaaabbbbccccdddd"
	guest2 = "2222333344445555aaaabbbbccccdddd"
	host1  = "docker-1111222233334444"
)

func network(id, gateway string) agent.Network {
	cidr := netip.MustParsePrefix("10.88.0.0/16")
	return agent.Network{ID: id, Subnets: []agent.Subnet{{CIDR: cidr, Range: cidr, Gateway: netip.MustParseAddr(gateway)}}}
}

// dock is an agent with the network apps.
func dock(t *testing.T, w *world) *agent.Agent {
	t.Helper()
	a := start(t, w, config("10.88.1.0/24"))
	gateway, err := a.Gateway(t.Context(), 4, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.CreateNetwork(t.Context(), network(apps, gateway.String())); err != nil {
		t.Fatal(err)
	}
	return a
}

func address(t *testing.T, a *agent.Agent, want string) netip.Addr {
	t.Helper()
	req := agent.AddressRequest{CIDR: netip.MustParsePrefix("10.88.0.0/16"), Range: netip.MustParsePrefix("10.88.0.0/16")}
	if want != "" {
		req.Address = netip.MustParseAddr(want)
	}
	ip, err := a.Address(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return ip
}

func admit(t *testing.T, a *agent.Agent, id string, ip netip.Addr) agent.Endpoint {
	t.Helper()
	e, err := a.Admit(t.Context(), agent.GuestRequest{ID: id, Network: apps, Addresses: []netip.Addr{ip}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// want checks what error a call gave: nil, or one that wraps it and says all words.
func want(t *testing.T, what string, got, wanted error, words ...string) {
	t.Helper()
	if !errors.Is(got, wanted) {
		t.Errorf("%s: %v, want %v", what, got, wanted)
		return
	}
	for _, word := range words {
		if !strings.Contains(got.Error(), word) {
			t.Errorf("%s: %v does not say %q", what, got, word)
		}
	}
}

func TestAGuestFromAdmissionToDismissal(t *testing.T) {
	w := newWorld()
	a := dock(t, w)
	ip := address(t, a, "")
	e := admit(t, a, guest1, ip)
	if again := admit(t, a, guest1, ip); fmt.Sprint(again) != fmt.Sprint(e) {
		t.Errorf("admitted twice: %+v, %+v", e, again)
	}
	if _, there := w.endpoints.table[endpoint.HostIf(host1)]; there {
		t.Error("it has a link before it is handed over")
	}
	h, err := a.HandOver(t.Context(), guest1, "/var/run/docker/netns/abc")
	if err != nil {
		t.Fatal(err)
	}
	if h.IfName != endpoint.PeerIf(host1) || w.endpoints.table[endpoint.HostIf(host1)].MTU != 1450 || h.Network.ID != apps {
		t.Errorf("handed over: %+v", h)
	}
	row := w.endpoints.table[endpoint.HostIf(host1)]
	if !row.Handed() || row.IP4 != ip || row.Gateway4 != h.Network.Subnets[0].Gateway || row.MAC.String() != e.MAC {
		t.Errorf("link: %+v", row)
	}
	if text := w.text(); !strings.Contains(text, "route "+ip.String()+"/32 -> dev "+row.HostIf) {
		t.Errorf("no route to %s:\n%s", ip, text)
	}
	for range 2 {
		want(t, "expose", a.Expose(t.Context(), guest1, []string{"8080:80", "53/udp"}), nil)
	}
	if ports := a.Ports(); len(ports) != 2 || ports[0].Endpoint != host1 || ports[0].State != "mapped" {
		t.Errorf("ports: %+v", ports)
	}
	want(t, "a port that is taken", a.Expose(t.Context(), guest1, []string{"8080:80", "8080:81"}), nat.ErrTaken, "8080")
	for range 2 {
		want(t, "retract", a.Retract(t.Context(), guest1), nil)
	}
	if ports := a.Ports(); len(ports) != 0 {
		t.Errorf("ports after all: %+v", ports)
	}
	want(t, "return while it has it", a.Return(t.Context(), ip), nil)
	if leases, _ := a.Leases(); len(leases) != 1 || leases[0].Owner != host1 {
		t.Errorf("leases: %+v", leases)
	}
	want(t, "detach", a.Detach(t.Context(), host1), agent.ErrConflict, "docker")
	want(t, "network rm", a.DeleteNetwork(t.Context(), apps), agent.ErrConflict, host1)
	for range 2 {
		want(t, "dismiss", a.Dismiss(t.Context(), guest1), nil)
		want(t, "return", a.Return(t.Context(), ip), nil)
	}
	if _, there := w.endpoints.table[endpoint.HostIf(host1)]; there || strings.Contains(w.text(), ip.String()) {
		t.Errorf("left behind:\n%s", w.text())
	}
	for range 2 {
		want(t, "network rm", a.DeleteNetwork(t.Context(), apps), nil)
		want(t, "gateway", a.Return(t.Context(), h.Network.Subnets[0].Gateway), nil)
	}
	if leases, _ := a.Leases(); len(leases) != 0 {
		t.Errorf("leases after all: %+v", leases)
	}
	if unbound, err := a.Unbound(); err != nil || len(unbound) != 0 {
		t.Errorf("unbound after all: %v, %v", unbound, err)
	}
}

func TestAnAddressHasOneGuest(t *testing.T) {
	a := dock(t, newWorld())
	ip := address(t, a, "10.88.1.7")
	address(t, a, "10.88.1.7") // leased, and nobody has it
	admit(t, a, guest1, ip)
	address(t, a, "10.88.1.7") // as Docker asks again when it starts
	_, err := a.Admit(t.Context(), agent.GuestRequest{ID: guest2, Network: apps, Addresses: []netip.Addr{ip}})
	want(t, "a second guest", err, agent.ErrConflict, "10.88.1.7", host1)
	want(t, "what Docker does then", a.Return(t.Context(), ip), nil)
	if leases, _ := a.Leases(); len(leases) != 1 {
		t.Errorf("leases: %+v", leases)
	}
	foreign := address(t, a, "10.88.9.9") // in another host's block
	_, err = a.Admit(t.Context(), agent.GuestRequest{ID: guest2, Network: apps, Addresses: []netip.Addr{foreign}})
	want(t, "a foreign address", err, ipam.ErrForeign, "10.88.9.9", "10.88.1.0/24")
	want(t, "give it back", a.Return(t.Context(), foreign), nil)
	_, err = a.Address(t.Context(), agent.AddressRequest{CIDR: netip.MustParsePrefix("10.90.0.0/16")})
	want(t, "no pool", err, agent.ErrBadRequest, "10.88.0.0/16")
}

// A link that was handed over and is gone went with its container: it is not made again, and nothing is given to others
// before Docker says so.
func TestAGuestsLinkIsNotMadeAgain(t *testing.T) {
	w := newWorld()
	a := dock(t, w)
	ip := address(t, a, "")
	admit(t, a, guest1, ip)
	if _, err := a.HandOver(t.Context(), guest1, "/sandbox"); err != nil {
		t.Fatal(err)
	}
	_ = w.endpoints.Delete(t.Context(), endpoint.HostIf(host1))
	w.news <- struct{}{}
	eventually(t, "the problem is told", func() bool {
		return strings.Contains(strings.Join(a.Status().Problems, "\n"), "docker restart "+host1)
	})
	if _, there := w.endpoints.table[endpoint.HostIf(host1)]; there {
		t.Error("the link was made again")
	}
	guests, err := a.Guests(t.Context())
	if err != nil || len(guests) != 1 || !guests[0].Loose || guests[0].Addresses[0] != ip {
		t.Errorf("guests: %+v, %v", guests, err)
	}
	want(t, "detach", a.Detach(t.Context(), host1), nil)
	if leases, _ := a.Leases(); len(leases) != 0 {
		t.Errorf("leases: %+v", leases)
	}
}

func TestNetworksAreToldApart(t *testing.T) {
	a := dock(t, newWorld())
	all, err := a.Networks()
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if err := a.Settled(t.Context(), 1); err != nil { // only then it knows what containers can have
		t.Fatal(err)
	}
	same := all[0]
	want(t, "the same again", a.CreateNetwork(t.Context(), same), nil)
	same.MTU = 1400
	want(t, "otherwise", a.CreateNetwork(t.Context(), same), agent.ErrConflict)
	other := strings.Repeat("f", 64)
	want(t, "its gateway", a.CreateNetwork(t.Context(), network(other, all[0].Subnets[0].Gateway.String())), agent.ErrConflict, apps[:12])
	big := network(other, "169.254.88.77")
	big.MTU = 9000
	want(t, "a large MTU", a.CreateNetwork(t.Context(), big), agent.ErrBadRequest, "1450")
	want(t, "a public gateway", a.CreateNetwork(t.Context(), network(other, "10.88.0.1")), agent.ErrBadRequest, "link-local")
	next, err := a.Gateway(t.Context(), 4, netip.Addr{})
	if err != nil || next == all[0].Subnets[0].Gateway {
		t.Errorf("next gateway: %s, %v", next, err)
	}
	want(t, "learn", a.Learn(t.Context(), nil, map[string]string{apps: "apps", other: "x"}), nil)
	if all, _ := a.Networks(); all[0].Name != "apps" {
		t.Errorf("learnt: %+v", all)
	}
}

// What is published under a container's name leads to the container of that name, and waits for the next one.
func TestPortsOfAContainersName(t *testing.T) {
	w := newWorld()
	a := dock(t, w)
	if _, err := a.Reserve(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"8080:80"}}); err != nil {
		t.Fatal(err)
	}
	state := func(want string) {
		t.Helper()
		if ports := a.Ports(); len(ports) != 1 || ports[0].Endpoint != "web" || ports[0].State != want {
			t.Errorf("ports: %+v, want %s", ports, want)
		}
	}
	state("reserved")
	for _, id := range []string{guest1, guest2} {
		ip := address(t, a, "")
		admit(t, a, id, ip)
		if _, err := a.HandOver(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
		told := []agent.Told{{ID: id, Container: "web", Labels: map[string]string{"docker.image": "bb"}}}
		for range 2 {
			want(t, "learn", a.Learn(t.Context(), told, nil), nil)
		}
		state("mapped")
		eventually(t, "packets are led to "+ip.String(), func() bool {
			return strings.Contains(w.text(), "to "+ip.String()+":80")
		})
		e, err := a.Endpoints()
		if err != nil || len(e) != 1 || e[0].Name != "web" || e[0].Labels["docker.image"] != "bb" || len(e[0].Ports) != 1 {
			t.Errorf("endpoints: %+v, %v", e, err)
		}
		if _, err := a.Publish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"8081:81"}}); err != nil {
			t.Error(err)
		}
		if _, err := a.Unpublish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"8081:81"}}); err != nil {
			t.Error(err)
		}
		want(t, "dismiss", a.Dismiss(t.Context(), id), nil)
		state("resting")
	}
}
