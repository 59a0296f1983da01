package agent_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
)

// isolate makes a network that is kept from others, with a guest that waits for its link.
func isolate(t *testing.T, a *agent.Agent) netip.Addr {
	t.Helper()
	n := network(apps, "169.254.88.1")
	n.Isolated = true
	want(t, "network", a.CreateNetwork(t.Context(), n), nil)
	ip := address(t, a, "")
	admit(t, a, guest1, ip)
	return ip
}

// TestNoLinkIsHandedOverBeforeItsNetworkIsApart: of a host that can not keep it apart a container gets no link.
func TestNoLinkIsHandedOverBeforeItsNetworkIsApart(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	refuse := func(err error) {
		w.fence.mu.Lock()
		defer w.fence.mu.Unlock()
		w.fence.refuse = func(nat.EntryKey) error { return err }
	}
	noTables := errors.New("no iptables")
	refuse(noTables)
	isolate(t, a)
	_, err := a.HandOver(t.Context(), guest1, "/sandbox")
	want(t, "without a fence", err, noTables, "keep network "+apps[:12]+" apart")
	eventually(t, "the link is gone", func() bool {
		w.endpoints.mu.Lock()
		defer w.endpoints.mu.Unlock()
		return len(w.endpoints.table) == 0
	})
	refuse(nil)
	_, err = a.HandOver(t.Context(), guest1, "/sandbox")
	want(t, "with a fence", err, nil)
	if len(w.fence.text("fence")) == 0 {
		t.Error("nothing keeps the network apart")
	}
	want(t, "dismiss", a.Dismiss(t.Context(), guest1), nil)
	want(t, "remove the network", a.DeleteNetwork(t.Context(), apps), nil)
	eventually(t, "no fence without a network", func() bool { return len(w.fence.text("fence")) == 0 })
}

// TestWhatLetAnotherThroughIsGoneBeforeTheLinkIsThere: an address is given again, and what let its last owner through a
// fence must not be there for a moment.
func TestWhatLetAnotherThroughIsGoneBeforeTheLinkIsThere(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	ip := isolate(t, a)
	stale := nat.Member{Set: "fairlead-net-may-0123456789ab-4", IP: ip}
	want(t, "leave a member behind", w.members.Put(t.Context(), stale, ""), nil)
	w.endpoints.mu.Lock()
	w.endpoints.refuse = func(string) error {
		w.members.mu.Lock()
		defer w.members.mu.Unlock()
		if _, there := w.members.table[stale]; there {
			return errors.New("it comes through the fence of another network")
		}
		return nil
	}
	w.endpoints.mu.Unlock()
	_, err := a.HandOver(t.Context(), guest1, "/sandbox")
	want(t, "hand over", err, nil)
	w.endpoints.mu.Lock()
	defer w.endpoints.mu.Unlock()
	if _, there := w.endpoints.table[endpoint.HostIf(host1)]; !there {
		t.Error("no link")
	}
}
