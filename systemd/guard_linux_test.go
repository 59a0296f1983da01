package systemd_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestServiceMayRunIPTables runs what the daemon runs to keep strangers out of its tunnels, in the place of the daemon:
// with its capabilities, system calls and file systems. Without raw sockets iptables knows no sets.
func TestServiceMayRunIPTables(t *testing.T) {
	host, peer := nettest.NewHost(t, "host"), nettest.NewHost(t, "peer")
	nettest.Wire(t, host, "eth0", peer, "eth0")
	m := boot(t, host, "192.0.2.1/24", "192.0.2.2")
	m.run("ipset", "create", "fairlead-peers4", "hash:ip")
	for _, backend := range []string{"nft", "legacy"} {
		tool := "/usr/sbin/iptables-" + backend
		lines := []string{"Type=oneshot", "Restart=no", "ExecStart=", "ExecStart=/bin/true"}
		for _, args := range []string{
			"-N FAIRLEAD-TEST", `-A FAIRLEAD-TEST -p udp -m bpf --bytecode "1,6 0 0 1" -m set ! --match-set fairlead-peers4 src -j DROP`,
			"-I INPUT -j FAIRLEAD-TEST", "-S FAIRLEAD-TEST",
		} {
			lines = append(lines, fmt.Sprintf("ExecStartPre=%s --wait 5 %s", tool, args))
		}
		t.Run(backend, func(t *testing.T) {
			m.override(t, lines...)
			m.run("systemctl", "restart", "fairlead")
			if out := m.run(tool, "-S", "FAIRLEAD-TEST"); !strings.Contains(out, "fairlead-peers4") {
				t.Errorf("the chain has %s", out)
			}
			for _, args := range []string{"-D INPUT -j FAIRLEAD-TEST", "-F FAIRLEAD-TEST", "-X FAIRLEAD-TEST"} {
				m.run(append([]string{tool}, strings.Fields(args)...)...)
			}
		})
		t.Run(backend+" without raw sockets", func(t *testing.T) {
			m.override(t, append(lines, "CapabilityBoundingSet=~CAP_NET_RAW")...)
			if out, err := m.try("systemctl", "restart", "fairlead"); err == nil {
				t.Errorf("works without CAP_NET_RAW: take it from the unit: %s", out)
			}
		})
	}
}
