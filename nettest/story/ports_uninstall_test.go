package story_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// checkUninstall: nothing of ours is left in the kernel, and the ports are anybody's again.
func (h *harbour) checkUninstall(t *testing.T, before nettest.State, flags ...string) {
	if len(pinned(t, h.n)) == 0 {
		t.Error("nothing is pinned")
	}
	held := netip.AddrPortFrom(netip.IPv4Unspecified(), fixedPort)
	if err := h.n.Bind("tcp", held, nettest.Trick{}); err == nil {
		t.Error("before the uninstall the port is not held")
	}
	h.n.Fairlead(append([]string{"uninstall"}, flags...)...)
	if code := h.n.WaitExit(10 * time.Second); code > 0 { // -1: it was killed before
		t.Errorf("the daemon ended with exit code %d", code)
	}
	nothingLeft(t, before, h.n.State())
	for _, tool := range []string{"iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save", "nft list ruleset", "ipset list -n"} {
		if out := h.n.Run(strings.Fields(tool)...); strings.Contains(strings.ToLower(out), "fairlead") {
			t.Errorf("left in %s:\n%s", tool, out)
		}
	}
	if files := pinned(t, h.n); len(files) > 0 {
		t.Errorf("left in the pin directory: %q", files)
	}
	for _, proto := range []string{"tcp", "udp"} {
		if err := h.n.Bind(proto, held, nettest.Trick{}); err != nil {
			t.Errorf("%s/%s: %v", held, proto, err)
		}
	}
}
