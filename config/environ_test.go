package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/config"
)

func TestEnvironmentOverrides(t *testing.T) {
	c := load(t, "[bgp]\nasn = 1\nport = 1\n[api]\nmetrics = '127.0.0.1:1'\n",
		"FAIRLEAD_BGP_ASN=64513", "FAIRLEAD_NODE_WATCH=true", "FAIRLEAD_NODE_ADDRESS=2001:db8::1",
		"FAIRLEAD_API_METRICS=", "FAIRLEAD_RECONCILE_INTERVAL=5s", "FAIRLEAD_SCHEMA=1", "FAIRLEAD_DOCKER_ENABLE=true",
		"HOME=/root", "FAIRLEAD_PORT_80_TCP=1", "FAIRLEAD_HOST_IP=x", "FAIRLEAD_HOST_IP6=y")
	got := fmt.Sprintln(c.BGP.ASN, c.BGP.Port, c.Node.Watch, c.Node.Address, c.BGP.Listen, c.API.Metrics.IsValid(), c.Reconcile.Interval, c.Docker.Enable)
	if want := "64513 1 true 2001:db8::1 2001:db8::1 false 5s on\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestEveryKeyHasAVariable gives each variable a value that no key can have, and expects to hear of it.
func TestEveryKeyHasAVariable(t *testing.T) {
	path := write(t, map[string]string{"fairlead.toml": ""})
	for _, key := range contract() {
		if strings.HasPrefix(key, "pool.") || strings.HasPrefix(key, "endpoint.") || strings.HasPrefix(key, "bgp.peer.") {
			continue
		}
		name := config.Variable(key)
		got := problems(t, path, name+"=\a bad value")
		if !strings.HasPrefix(got, "environment:"+name+": "+key+": ") {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestWithAddress(t *testing.T) {
	c := load(t, "[[bgp.peer]]\naddress = '192.0.2.1'\n[[bgp.peer]]\naddress = '2001:db8::2'\n")
	if c.Node.Address.IsValid() || c.BGP.Listen.IsValid() || c.BGP.RouterID.IsValid() || c.CheckPeers() != nil {
		t.Fatalf("got an address from nowhere: %+v", c)
	}
	v4 := c.WithAddress(netip.MustParseAddr("192.0.2.1"))
	if v4.BGP.Listen != v4.Node.Address || v4.BGP.RouterID != v4.Node.Address {
		t.Errorf("IPv4: got %+v", v4.BGP)
	}
	want := "bgp.peer.address: 192.0.2.1 is this node's own address\n" +
		"bgp.peer.address: 2001:db8::2 is IPv6, but this node listens on 192.0.2.1 only (bgp.listen)"
	if err := v4.CheckPeers(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	v6 := c.WithAddress(netip.MustParseAddr("2001:db8::1"))
	other := c.WithAddress(netip.MustParseAddr("2001:db8::3"))
	if !v6.BGP.RouterID.Is4() || v6.BGP.RouterID == other.BGP.RouterID {
		t.Errorf("IPv6: got router ids %s and %s", v6.BGP.RouterID, other.BGP.RouterID)
	}
	if kept := v4.WithAddress(netip.MustParseAddr("192.0.2.7")); kept.Node.Address != v4.Node.Address {
		t.Errorf("an address that is set was changed to %s", kept.Node.Address)
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	p := config.Peer{Password: "sesame"}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("peer", "password", p.Password, "peer", p)
	for _, printed := range []string{fmt.Sprint(p), fmt.Sprintf("%+v", p), fmt.Sprintf("%#v", p), fmt.Sprintf("%s %q %x", p.Password, p.Password, p.Password), string(text), log.String()} {
		if strings.Contains(printed, "sesame") || strings.Contains(printed, fmt.Sprintf("%x", "sesame")) {
			t.Errorf("printed: %s", printed)
		}
	}
}
