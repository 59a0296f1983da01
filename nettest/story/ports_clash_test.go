package story_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// checkClash: who asks for a port that is taken is told by whom.
func (h *harbour) checkClash(t *testing.T) {
	h.n.Attach("first", "--publish", "8080:80", "--publish", "192.0.2.1:8081:80")
	h.n.Attach("second")
	for _, spec := range []string{"8080:80", "192.0.2.1:8080:80", "127.0.0.1:8080:80", "[2001:db8:1::1]:8080:80", "8081:80"} {
		if r := h.n.CLI("publish", "second", spec); r.Code != 1 || !strings.Contains(r.Stderr, "first") {
			t.Errorf("publish %s: exit code %d: %s", spec, r.Code, r.Stderr)
		}
	}
	for _, fine := range []string{"8080:80/udp", "127.0.0.1:8081:80", "[2001:db8:1::1]:8081:80"} {
		h.n.Fairlead("publish", "second", fine)
	}
	h.checkTaken(t)
	if got := ports(t, h.n, "second"); len(got) != 4 {
		t.Errorf("%+v", got)
	}
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "first", "second")
}

// checkTaken has programs on the host that came first: this one.
func (h *harbour) checkTaken(t *testing.T) {
	t.Helper()
	own := "process " + strconv.Itoa(os.Getpid())
	for i, at := range []string{"0.0.0.0", "192.0.2.1", "127.0.0.1", "::", "2001:db8:1::1"} {
		for _, proto := range []string{"tcp", "udp"} {
			port := uint16(8500 + i)
			h.n.Offer(proto, netip.AddrPortFrom(netip.MustParseAddr(at), port), "program")
			r := h.n.CLI("publish", "second", fmt.Sprintf("%d:80/%s", port, proto))
			if r.Code != 1 || !strings.Contains(r.Stderr, own) || !strings.Contains(r.Stderr, filepath.Base(os.Args[0])) {
				t.Errorf("publish %d/%s where %s is taken by %s: exit code %d: %s", port, proto, at, own, r.Code, r.Stderr)
			}
		}
	}
}

// unpublishAll ends every mapping of a host that the config has not.
func unpublishAll(t *testing.T, n *nettest.Node) {
	t.Helper()
	for _, p := range decode[[]agent.Port](t, n.Fairlead("ports", "-o", "json")) {
		spec := fmt.Sprintf("%d:%d/%s", p.HostPort, p.Port, p.Proto)
		if !p.HostIP.IsUnspecified() {
			spec = net.JoinHostPort(p.HostIP.String(), spec)
		}
		n.CLI("unpublish", p.Endpoint, spec) // the second family's goes with the first
	}
	if err := same(t, n, nil); err != nil {
		t.Error(err)
	}
}
