package docker_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/docker"
)

// FuzzRequest sends a request twice to a host on which containers run: whatever comes, the answer is JSON with a status that
// engines know, and nobody gets what another has.
func FuzzRequest(f *testing.F) {
	for _, e := range oldAndNew(f) {
		seen := map[string]int{}
		for _, c := range hostileRecorded(f, e) {
			if seen[c.path]++; seen[c.path] <= 2 {
				f.Add(c.path, c.body)
			}
		}
	}
	f.Add("NetworkDriver.CreateEndpoint", []byte(`{"NetworkID":"0000000000000000000000000000000000000000000000000000000000000004","EndpointID":"aaaaaaaaaaaaaaaaaaaaaaaa","Interface":{"Address":"10.88.1.200/32","AddressIPv6":"fd88::1c8/128"},"Options":{"com.docker.network.endpoint.macaddress":"AkKqu8zd"}}`))
	f.Add("NetworkDriver.Join", []byte(`{"NetworkID":"0000000000000000000000000000000000000000000000000000000000000004","EndpointID":"bbbbbbbbbbbbbbbbbbbbbbbb","SandboxKey":"/s"}`))
	f.Add("NetworkDriver.ProgramExternalConnectivity", []byte(`{"NetworkID":"0000000000000000000000000000000000000000000000000000000000000004","EndpointID":"bbbbbbbbbbbbbbbbbbbbbbbb","Options":{"com.docker.network.portmap":[{"Proto":17,"Port":53,"HostIP":"::","HostPort":5300,"HostPortEnd":5310}]}}`))
	f.Add("IpamDriver.RequestAddress", []byte(`{"PoolID":"10.88.0.0/16,10.88.1.128/25","Address":"","Options":null}`))
	f.Add("IpamDriver.ReleaseAddress", []byte(`{"PoolID":"fd88::/64","Address":"fd88::101"}`))
	f.Add("../Plugin.Activate", []byte(`{}`))
	f.Fuzz(func(t *testing.T, call string, body []byte) {
		h := fuzzHost(t)
		d := docker.New(h.host(), time.Minute, slog.New(slog.DiscardHandler))
		for range 2 {
			status, answer := fuzzAnswer(t, d, call, body)
			if !slices.Contains([]int{200, 400, 404, 413}, status) || !json.Valid(answer) || len(answer) > 16<<10 {
				t.Fatalf("%s of %s: %d %s", call, body, status, answer)
			}
			if err := h.trouble(); err != nil {
				t.Fatalf("%s of %s: %d %s: %v\n%s", call, body, status, answer, err, h)
			}
		}
	})
}

// fuzzHost has a network of both families with an endpoint that has ports, and addresses that wait for one.
func fuzzHost(t *testing.T) *driverHost {
	t.Helper()
	h := newDriverHost()
	n := agent.Network{ID: "0000000000000000000000000000000000000000000000000000000000000004"}
	var errs []error
	for _, text := range []string{"10.88.0.0/16", "fd88::/64"} {
		cidr := netip.MustParsePrefix(text)
		gateway, err := h.Gateway(t.Context(), map[bool]int{true: 4, false: 6}[cidr.Addr().Is4()], netip.Addr{})
		n.Subnets = append(n.Subnets, agent.Subnet{CIDR: cidr, Range: cidr, Gateway: gateway})
		errs = append(errs, err)
	}
	errs = append(errs, h.CreateNetwork(t.Context(), n))
	for i, text := range []string{"10.88.1.9", "10.88.1.200", "fd88::1c8"} {
		_, err := h.Address(t.Context(), agent.AddressRequest{CIDR: n.Subnets[i/2].CIDR, Address: netip.MustParseAddr(text)})
		errs = append(errs, err)
	}
	const guest = "bbbbbbbbbbbbbbbbbbbbbbbb"
	_, err := h.Admit(t.Context(), agent.GuestRequest{ID: guest, Network: n.ID, Addresses: []netip.Addr{netip.MustParseAddr("10.88.1.9")}})
	if err := errors.Join(append(errs, err, h.Expose(t.Context(), guest, []string{"8080:80/tcp"}))...); err != nil {
		t.Fatal(err)
	}
	return h
}

// fuzzAnswer is what a driver says without a socket. A path may hold what no address of a web page does.
func fuzzAnswer(t *testing.T, d *docker.Driver, call string, body []byte) (status int, answer []byte) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
	r.URL.Path = "/" + call
	w := httptest.NewRecorder()
	d.Answer(w, r)
	answer, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, answer
}
