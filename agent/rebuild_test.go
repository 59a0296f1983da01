package agent_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
)

// What is rebuilt of a container that another program started is enough for that program to end it, and nothing stays.
func TestAGuestIsRebuiltAndEndsLikeAnyOther(t *testing.T) {
	w := newWorld()
	ip, gateway := netip.MustParseAddr("10.88.1.9"), netip.MustParseAddr("169.254.88.1")
	row := endpoint.Row{
		Name: host1, HostIf: endpoint.HostIf(host1), IfName: endpoint.PeerIf(host1), MTU: 1400,
		IP4: ip, Gateway4: gateway, MAC: endpoint.MAC{2, 0, 0, 0, 0, 7},
	}
	if err := w.endpoints.Put(t.Context(), row.HostIf, row); err != nil {
		t.Fatal(err)
	}
	fence, member := nat.EntryKey{Name: "to 10.99.0.0/16", Family: 4}, nat.Member{Set: "fairlead-net-fenced4", IP: ip}
	if err := errors.Join(w.fence.Put(t.Context(), fence, nat.EntryOf("-d 10.99.0.0/16 -j DROP")), w.members.Put(t.Context(), member, "")); err != nil {
		t.Fatal(err)
	}
	apart := func() bool {
		_, ruled := w.fence.table[fence]
		_, held := w.members.table[member]
		return ruled && held
	}
	cfg := config("10.88.1.0/24")
	a := prepare(t, w, cfg, &source{cfg: cfg})
	want(t, "rebuild", a.Rebuild(t.Context()), nil)
	a.Pass(t.Context())
	if !apart() {
		t.Error("who is kept apart is not any more, before anybody knows its network")
	}
	if now := w.endpoints.table[row.HostIf]; now != row {
		t.Errorf("the link was\n%+v and is\n%+v", row, now)
	}
	if other, err := a.Gateway(t.Context(), 4, netip.Addr{}); err != nil || other == gateway {
		t.Errorf("the gateway of another network: %s, %v", other, err)
	} else {
		want(t, "return it", a.Return(t.Context(), other), nil)
	}
	if other := address(t, a, ""); other == ip {
		t.Errorf("%s was given twice", ip)
	} else {
		want(t, "return it", a.Return(t.Context(), other), nil)
	}
	want(t, "learn", a.Learn(t.Context(), []agent.Told{{ID: guest1, Network: apps, Container: "web"}}, nil), nil)
	guests, err := a.Guests(t.Context())
	if err != nil || len(guests) != 1 || guests[0].ID != guest1 || guests[0].Network != apps || guests[0].Addresses[0] != ip {
		t.Errorf("guests: %+v, %v", guests, err)
	}
	want(t, "create the network", a.CreateNetwork(t.Context(), network(apps, gateway.String())), nil)
	want(t, "return while it has it", a.Return(t.Context(), ip), nil)
	if leases, _ := a.Leases(); len(leases) != 1 || leases[0].Address != ip {
		t.Errorf("leases: %+v", leases)
	}
	if a.Pass(t.Context()); apart() {
		t.Error("what kept others apart stays when every network is known")
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	want(t, "dismiss", a.Dismiss(ctx, guest1), nil)
	want(t, "return", a.Return(ctx, ip), nil)
	want(t, "network rm", a.DeleteNetwork(ctx, apps), nil)
	want(t, "return the gateway", a.Return(ctx, gateway), nil)
	stop()
	<-ended
	leases, _ := a.Leases()
	if unbound, err := a.Unbound(); err != nil || len(leases)+len(unbound)+len(w.endpoints.table) > 0 {
		t.Errorf("left: %+v, %v, %v, %+v", leases, unbound, err, w.endpoints.table)
	}
}
