package systemd_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestServiceOnARealSystemd tells a service's life. Its parts build on each other.
func TestServiceOnARealSystemd(t *testing.T) {
	host, peer := nettest.NewHost(t, "host"), nettest.NewHost(t, "peer")
	nettest.Wire(t, host, "eth0", peer, "eth0")
	peer.IP("addr add 192.0.2.2/24 dev eth0")
	peer.IP("route add 10.88.0.0/16 via 192.0.2.1")
	m := boot(t, host, "192.0.2.1/24", "192.0.2.2")
	web := nettest.NewHost(t, "web")
	var address netip.Addr

	t.Run("is ready when it has started", func(t *testing.T) {
		m.run("systemctl", "start", "fairlead")
		var status struct{ Ready bool }
		if err := json.Unmarshal([]byte(m.run("fairlead", "status", "-o", "json")), &status); err != nil || !status.Ready {
			t.Errorf("status after systemctl start: %+v, %v", status, err)
		}
	})
	t.Run("keeps its files to itself", func(t *testing.T) {
		for path, want := range map[string]string{
			"/var/lib/fairlead":           "700 root:root directory",
			"/run/fairlead":               "755 root:root directory",
			"/run/fairlead/fairlead.sock": "660 root:fairlead socket",
		} {
			if got := m.run("stat", "--format=%a %U:%G %F", path); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
	})
	t.Run("reaches a namespace that was mounted after it started", func(t *testing.T) {
		m.adopt(web)
		m.run("fairlead", "attach", "web")
		address = addressOf(t, m, "web")
		web.Serve(address)
		if _, err := peer.Ask(address); err != nil {
			t.Error(err)
		}
	})
	t.Run("reaches the namespace of another user's process", func(t *testing.T) {
		m.run("fairlead", "attach", "job", "--pid", m.stranger(t))
		m.run("fairlead", "detach", "job")
	})
	t.Run("runs hooks, in its own narrow world", func(t *testing.T) { runsHooks(t, m) })
	t.Run("a refused config fails the reload and changes nothing", func(t *testing.T) {
		m.run("systemctl", "reload", "fairlead")
		good := m.run("cat", "/etc/fairlead/fairlead.toml")
		m.write("fairlead/fairlead.toml", good+"\nnonsense = 1\n")
		if out, err := m.try("systemctl", "reload", "fairlead"); err == nil {
			t.Errorf("reload of a bad file succeeds: %s", out)
		}
		m.write("fairlead/fairlead.toml", good)
		m.run("systemctl", "reload", "fairlead")
		if got := m.property("NRestarts"); got != "0" {
			t.Errorf("%s restarts by reloads", got)
		}
	})
	t.Run("killed, it comes back and no packet is lost", func(t *testing.T) {
		probe := peer.Probe(address, 1000)
		m.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "fairlead")
		m.awaitRestart(t, 1)
		lossless(t, probe)
	})
	t.Run("stuck, it is restarted by the watchdog and no packet is lost", func(t *testing.T) {
		m.override(t, "WatchdogSec=2s", "TimeoutAbortSec=1s")
		m.run("systemctl", "restart", "fairlead")
		m.awaitMeals(t, 5)
		if got := m.property("NRestarts"); got != "0" {
			t.Fatalf("%s restarts of a daemon that feeds its watchdog", got)
		}
		probe := peer.Probe(address, 1000)
		m.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", "fairlead")
		m.awaitRestart(t, 1)
		lossless(t, probe)
	})
	t.Run("stopped, it leaves traffic and its directory", func(t *testing.T) {
		probe := peer.Probe(address, 1000)
		m.run("systemctl", "stop", "fairlead")
		if got := m.property("Result"); got != "success" {
			t.Errorf("result of the stop: %s", got)
		}
		m.run("test", "-d", "/run/fairlead")
		lossless(t, probe)
	})
	t.Run("systemd-networkd leaves what is ours", func(t *testing.T) {
		networkdLeavesOurs(t, m)
	})
	t.Run("started again, it takes up what it left", func(t *testing.T) {
		m.run("systemctl", "start", "fairlead")
		probe := peer.Probe(address, 1000)
		m.run("systemctl", "restart", "fairlead")
		lossless(t, probe)
		if got := addressOf(t, m, "web"); got != address {
			t.Errorf("web has %s, had %s", got, address)
		}
	})
	t.Run("needs each of its capabilities", func(t *testing.T) {
		all := strings.Fields(strings.Join(settings(read(t, "fairlead.service"))["CapabilityBoundingSet"], " "))
		for _, capability := range all {
			if capability == "CAP_NET_RAW" {
				continue // needed by iptables, which runs when there are peers: TestServiceMayRunIPTables
			}
			t.Run(capability, func(t *testing.T) { needs(t, m, capability) })
		}
	})
}

// runsHooks has a hook try what docs/operations.md says that it can and can not do.
func runsHooks(t *testing.T, m *machine) {
	m.write("fairlead/hook", "#!/bin/sh\nexec >/run/fairlead/hook.new 2>&1\n"+`
grep -q '"endpoint-attached".*"hooked"' && echo event
try() { what=$1; shift; if "$@"; then echo "can $what"; else echo "can not $what"; fi; }
try state touch /var/lib/fairlead/hook
try etc touch /etc/hook.log
try usr touch /usr/hook
try mount mount -t tmpfs none /run/fairlead
try user setpriv --reuid=65534 --regid=65534 --clear-groups true
try network ip -brief link show eth0
mv /run/fairlead/hook.new /run/fairlead/hook.log
`)
	m.write("fairlead/conf.d/hooks.toml", "[hooks]\non_attach = \"/etc/fairlead/hook\"\n")
	if out, err := m.try("systemctl", "reload", "fairlead"); err == nil {
		t.Errorf("a hook that can not be run is taken: %s", out)
	}
	m.run("chmod", "755", "/etc/fairlead/hook")
	m.run("systemctl", "reload", "fairlead")
	m.run("ip", "netns", "add", "hooked")
	m.run("fairlead", "attach", "hooked")
	said := ""
	nettest.Eventually(t, 10*time.Second, func() (err error) {
		said, err = m.try("cat", "/run/fairlead/hook.log")
		return err
	})
	t.Log(said)
	for _, want := range []string{
		"event", "can state", "can not etc", "can not usr", "can not mount", "can not user", "can network",
	} {
		if !slices.Contains(strings.Split(said, "\n"), want) {
			t.Errorf("the hook does not say %q", want)
		}
	}
	m.run("rm", "/etc/fairlead/conf.d/hooks.toml")
	m.run("systemctl", "reload", "fairlead")
	m.run("fairlead", "detach", "hooked")
	m.run("ip", "netns", "delete", "hooked")
}

// networkdLeavesOurs lets systemd-networkd configure the host's link anew while Fairlead is stopped and can mend nothing.
func networkdLeavesOurs(t *testing.T, m *machine) {
	ours := func() []string {
		m.run("systemctl", "restart", "systemd-networkd")
		m.run("networkctl", "reconfigure", "eth0")
		nettest.Eventually(t, 10*time.Second, func() error {
			_, err := m.try("/lib/systemd/systemd-networkd-wait-online", "--interface=eth0", "--timeout=1")
			return err
		})
		return append(strings.Split(m.run("ip", "route", "show", "proto", "88"), "\n"),
			m.run("ip", "rule", "show", "priority", "8800"))
	}
	m.run("ip", "rule", "add", "from", "10.88.0.0/16", "lookup", "88", "priority", "8800", "protocol", "88")
	with := ours()
	const mask = "/etc/systemd/networkd.conf.d/fairlead.conf"
	m.run("sh", "-c", `mkdir -p "$(dirname "$1")" && ln -s /dev/null "$1"`, "sh", mask)
	without := ours()
	m.run("rm", mask)
	if !slices.ContainsFunc(with, func(s string) bool { return strings.Contains(s, "blackhole 10.88.") }) || with[len(with)-1] == "" {
		t.Errorf("systemd-networkd took ours away: left %q", with)
	}
	if slices.Equal(with, without) {
		t.Errorf("without the drop-in the same is left, so this test shows nothing: %q", without)
	}
}

// needs shows that without the capability the service does not start, or can not attach.
func needs(t *testing.T, m *machine, capability string) {
	m.override(t, "CapabilityBoundingSet=~"+capability)
	t.Cleanup(func() {
		m.run("systemctl", "stop", "fairlead")
		_, _ = m.try("ip", "netns", "delete", "extra")
	})
	pid := m.stranger(t)
	m.run("ip", "netns", "add", "extra")
	for _, step := range [][]string{
		{"systemctl", "restart", "fairlead"},
		{"fairlead", "attach", "extra"},
		{"fairlead", "attach", "job", "--pid", pid},
		{"fairlead", "detach", "extra"},
		{"fairlead", "detach", "job"},
	} {
		if _, err := m.try(step...); err != nil {
			t.Logf("as it should: %v", err)
			return
		}
	}
	t.Errorf("everything works without %s: take it from the unit", capability)
}

// awaitRestart waits until systemd has started the service again, so many times since it was started by hand.
func (m *machine) awaitRestart(t *testing.T, times int) {
	t.Helper()
	nettest.Eventually(t, time.Minute, func() error {
		restarts, state := m.property("NRestarts"), m.property("ActiveState")
		if restarts != fmt.Sprint(times) || state != "active" {
			return fmt.Errorf("%s restarts, %s", restarts, state)
		}
		return nil
	})
}

// awaitMeals waits until the watchdog has been fed so many times.
func (m *machine) awaitMeals(t *testing.T, times int) {
	t.Helper()
	seen := map[string]bool{}
	nettest.Eventually(t, time.Minute, func() error {
		seen[m.property("WatchdogTimestampMonotonic")] = true
		if len(seen) < times {
			return fmt.Errorf("fed %d times", len(seen))
		}
		return nil
	})
}

func lossless(t *testing.T, probe *nettest.Probe) {
	t.Helper()
	tally := probe.Stop()
	t.Log(tally)
	if tally.Lost > 0 || tally.Sent == 0 || len(tally.Errors) > 0 {
		t.Errorf("want nothing lost")
	}
}

func addressOf(t *testing.T, m *machine, endpoint string) netip.Addr {
	t.Helper()
	var all []struct {
		Name      string
		Addresses []netip.Addr
	}
	if err := json.Unmarshal([]byte(m.run("fairlead", "endpoints", "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Name == endpoint && len(e.Addresses) > 0 {
			return e.Addresses[0]
		}
	}
	t.Fatalf("no endpoint %s with an address in %v", endpoint, all)
	return netip.Addr{}
}
