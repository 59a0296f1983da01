package systemd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestServiceMayHoldPorts runs what holds a port in the place of the daemon, with its capabilities, system calls and file
// systems, and kills it: the port is held all the same, until it is free for a service that may not ask for eBPF.
func TestServiceMayHoldPorts(t *testing.T) {
	host, peer := nettest.NewHost(t, "host"), nettest.NewHost(t, "peer")
	nettest.Wire(t, host, "eth0", peer, "eth0")
	m := boot(t, host, "192.0.2.1/24", "192.0.2.2")
	build := exec.Command("go", "test", "-c", "-o", filepath.Join(m.etc, "fairlead/holder"), "../nat")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	check(t, build)
	m.run("mkdir", "/run/pins")
	m.run("mount", "-t", "bpf", "bpf", "/run/pins") // on a host systemd mounts /sys/fs/bpf
	holder := []string{"/etc/fairlead/holder", "-test.run=^TestHolder$"}
	for _, c := range []struct {
		name, line string
		said       string // by the service
		other      string // by another program that wants the port when the service has ended
	}{
		{"without the system call", "SystemCallFilter=~bpf", "operation not permitted", "holds,"},
		{"as it is", "", `holds, weak="only programs in this container are watched`, "port is taken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.override(t, "Type=exec", "Restart=no", "Environment=FAIRLEAD_TEST_HOLDER=/run/pins/fairlead", c.line,
				"ExecStart=", "ExecStart="+strings.ReplaceAll(strings.Join(holder, " "), "$", "$$"))
			m.run("systemctl", "restart", "fairlead")
			nettest.Eventually(t, 20*time.Second, func() error {
				if said := m.journal(); !strings.Contains(said, c.said) {
					return fmt.Errorf("the service says %s", said)
				}
				return nil
			})
			m.run("systemctl", "kill", "--signal=KILL", "fairlead")
			nettest.Eventually(t, 10*time.Second, func() error {
				if state := m.property("ActiveState"); state != "failed" {
					return fmt.Errorf("the service is %s", state)
				}
				return nil
			})
			// A unit of its own, since what the test runs is in no control group of the machine.
			out, _ := m.try(append([]string{
				"systemd-run", "--wait", "--pipe", "--quiet", "--property=RuntimeMaxSec=3", "--property=Environment=FAIRLEAD_TEST_HOLDER=/run/none",
			}, holder...)...)
			if !strings.Contains(out, c.other) {
				t.Errorf("another program that wants the port says %s, want %q", out, c.other)
			}
		})
	}
}
