package story_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// pilot makes the calls of an engine, and does in a namespace what an engine does in a container's. The engine that is
// installed makes no network without IPv4.
type pilot struct {
	n    *nettest.Node
	http *http.Client
}

func newPilot(n *nettest.Node) *pilot {
	socket := filepath.Join(n.Dir, "fairlead-driver.sock")
	n.AddDocker()
	n.WriteConfig(n.Config() + fmt.Sprintf("[docker]\nenable = true\nsocket = %q\napi = \"\"\n", socket))
	return &pilot{n, &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
}

// call ends the test unless the call is answered without an error.
func (p *pilot) call(t *testing.T, method, body string, into any) {
	t.Helper()
	nettest.Eventually(t, 10*time.Second, func() error { // until the daemon listens
		r, err := p.http.Post("http://driver/"+method, "application/json", strings.NewReader(body))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		var answer json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
			return err
		}
		var refused struct{ Err, Error string }
		if err := json.Unmarshal(answer, &refused); err != nil || refused.Err+refused.Error != "" || r.StatusCode != http.StatusOK {
			t.Fatalf("%s of %s: %d %s", method, body, r.StatusCode, answer)
		}
		return json.Unmarshal(answer, into)
	})
}

// The IDs of the network and of the endpoint that a pilot makes.
const (
	pilotNetwork  = "6666666666666666666666666666666666666666666666666666666666666666"
	pilotEndpoint = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
)

// bring makes a network of IPv6 alone and a container on it.
func (p *pilot) bring(t *testing.T, name string) *nettest.Container {
	t.Helper()
	var pool, gateway, given struct{ PoolID, Address string }
	p.call(t, "IpamDriver.RequestPool", fmt.Sprintf(`{"AddressSpace":"fairlead","Pool":%q,"V6":true}`, pool6), &pool)
	p.call(t, "IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID":%q,"Options":{"RequestAddressType":"com.docker.network.gateway"}}`, pool.PoolID), &gateway)
	p.call(t, "NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID":%q,"Options":{"com.docker.network.enable_ipv4":false,"com.docker.network.enable_ipv6":true},
		"IPv4Data":null,"IPv6Data":[{"AddressSpace":"fairlead","Pool":%q,"Gateway":%q}]}`, pilotNetwork, pool6, gateway.Address), &struct{}{})
	p.call(t, "IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID":%q,"Address":""}`, pool.PoolID), &given)
	var made struct{ Interface struct{ MacAddress string } }
	p.call(t, "NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"AddressIPv6":%q}}`,
		pilotNetwork, pilotEndpoint, given.Address), &made)
	var joined struct {
		InterfaceName        struct{ SrcName, DstPrefix string }
		Gateway, GatewayIPv6 string
		StaticRoutes         []struct {
			Destination, NextHop string
			RouteType            int
		}
	}
	p.call(t, "NetworkDriver.Join", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"SandboxKey":"/var/run/docker/netns/x"}`, pilotNetwork, pilotEndpoint), &joined)
	if joined.Gateway != "" || joined.GatewayIPv6 == "" {
		t.Errorf("gateways: %q and %q", joined.Gateway, joined.GatewayIPv6)
	}
	box := nettest.NewHost(t, name)
	p.n.IP("link set " + joined.InterfaceName.SrcName + " netns " + filepath.Base(box.Path))
	box.IP("link set " + joined.InterfaceName.SrcName + " name eth0 address " + made.Interface.MacAddress)
	box.IP("link set eth0 up")
	box.IP("-6 address add " + given.Address + " dev eth0 nodad")
	for _, r := range joined.StaticRoutes {
		if r.RouteType == 1 {
			box.IP("-6 route add " + r.Destination + " dev eth0")
		} else {
			box.IP("-6 route add " + r.Destination + " via " + r.NextHop + " dev eth0")
		}
	}
	box.IP("-6 route add default via " + joined.GatewayIPv6 + " dev eth0")
	p.call(t, "NetworkDriver.ProgramExternalConnectivity", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Options":{"com.docker.network.portmap":[
		{"Proto":6,"Port":%d,"HostIP":"","HostPort":8086,"HostPortEnd":8086}]}}`, pilotNetwork, pilotEndpoint, plainPort), &struct{}{})
	return open(p.n.Furnished(box, name, netip.MustParsePrefix(given.Address).Addr()))
}

// end does what an engine does when the container and the network go.
func (p *pilot) end(t *testing.T, a netip.Addr) {
	t.Helper()
	ref := fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q}`, pilotNetwork, pilotEndpoint)
	for _, method := range []string{"RevokeExternalConnectivity", "Leave", "DeleteEndpoint"} {
		p.call(t, "NetworkDriver."+method, ref, &struct{}{})
	}
	p.call(t, "IpamDriver.ReleaseAddress", fmt.Sprintf(`{"PoolID":%q,"Address":%q}`, pool6, a), &struct{}{})
	p.call(t, "NetworkDriver.DeleteNetwork", fmt.Sprintf(`{"NetworkID":%q}`, pilotNetwork), &struct{}{})
}

// TestANetworkOfIPv6Alone: its containers reach each other across hosts, and are reached by a port of the host.
func TestANetworkOfIPv6Alone(t *testing.T) {
	t.Parallel()
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n3"}, Pools: []string{pool4, pool6}})
	a, b := newPilot(l.Node("n1")), newPilot(l.Node("n3"))
	l.Start()
	one, two := a.bring(t, "one"), b.bring(t, "two")
	nettest.Eventually(t, 5*time.Second, func() error { return allMeet(one, two) })
	if err := answers(b.n.Host, "tcp", netip.AddrPortFrom(a.n.Address6, 8086), "one"); err != nil {
		t.Error(err)
	}
	// Once it may use its link's own address, it asks from that.
	nettest.Eventually(t, 5*time.Second, func() error {
		if own := one.IP("-6 address show dev eth0 scope link"); !strings.Contains(own, "fe80::") || strings.Contains(own, "tentative") {
			return errors.New(own)
		}
		return nil
	})
	if code, text, err := one.Fetch("http://[fe80::58:1%25eth0]:8088/"); err != nil || code != 200 || !strings.Contains(text, "FAIRLEAD_NAME=") {
		t.Errorf("metadata: %d %q, %v", code, text, err)
	}
	for p, c := range map[*pilot]*nettest.Container{a: one, b: two} {
		p.end(t, c.IP6)
		if out := p.n.Fairlead("endpoints") + p.n.Fairlead("leases") + p.n.Fairlead("ports"); strings.TrimSpace(out) != "" {
			t.Errorf("%s: left are %s", p.n.Name, out)
		}
		if out := p.n.IP("-o link show type veth"); strings.Contains(out, ": fl") {
			t.Errorf("%s: left are %s", p.n.Name, out)
		}
	}
}
