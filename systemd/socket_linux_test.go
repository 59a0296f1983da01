package systemd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// plugin is where Docker calls.
const plugin = "/run/docker/plugins/fairlead.sock"

// TestSocketHoldsDockersCalls tells what becomes of calls while the service comes, goes, and is not there: first of those
// that the test makes, then of a real Docker's. Its parts build on each other.
func TestSocketHoldsDockersCalls(t *testing.T) {
	host, peer := nettest.NewHost(t, "host"), nettest.NewHost(t, "peer")
	nettest.Wire(t, host, "eth0", peer, "eth0")
	peer.IP("addr add 192.0.2.2/24 dev eth0")
	peer.IP("route add 10.88.0.0/16 via 192.0.2.1")
	m := boot(t, host, "192.0.2.1/24", "192.0.2.2")

	t.Run("it is there before the service, and a call waits for that", func(t *testing.T) {
		m.expect(t, "inactive", "active")
		open := m.gate(t)
		answer := m.begin(1)
		m.await(t, "fairlead", "SubState", "start-pre")
		unanswered(t, answer)
		open()
		answered(t, answer)
		m.await(t, "fairlead", "ActiveState", "active")
	})
	t.Run("it is root's alone", func(t *testing.T) {
		for path, want := range map[string]string{"/run/docker/plugins": "700 root:root directory", plugin: "600 root:root socket"} {
			if got := m.run("stat", "--format=%a %U:%G %F", path); got != want {
				t.Errorf("%s is %s, want %s", path, got, want)
			}
		}
	})
	t.Run("restarted, the service loses no call", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var callers errgroup.Group
		for range 4 {
			callers.Go(func() (err error) {
				for err == nil && ctx.Err() == nil {
					err = m.call()
				}
				return err
			})
		}
		for range 3 {
			m.run("systemctl", "restart", "fairlead")
		}
		stop()
		if err := callers.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("killed, it answers who called meanwhile", func(t *testing.T) {
		pid := m.property("MainPID")
		m.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "fairlead")
		nettest.Eventually(t, 10*time.Second, func() error {
			if m.property("MainPID") == pid {
				return errors.New("it is still there")
			}
			return nil
		})
		answered(t, m.begin(8))
		m.awaitRestart(t, 1)
	})
	t.Run("kept from starting by its config, it answers when that is mended", func(t *testing.T) {
		m.run("sh", "-c", "mkdir -p /etc/fairlead/conf.d && echo nonsense = 1 > /etc/fairlead/conf.d/bad.toml")
		if out, err := m.try("systemctl", "restart", "fairlead"); err == nil {
			t.Errorf("starts with a bad config: %s", out)
		}
		answer := m.begin(1)
		nettest.Eventually(t, 20*time.Second, func() error {
			if n := m.property("NRestarts"); n < "1" {
				return fmt.Errorf("%s restarts", n)
			}
			return nil
		})
		unanswered(t, answer)
		m.run("rm", "/etc/fairlead/conf.d/bad.toml")
		answered(t, answer)
	})
	t.Run("stopped, a call starts it again, as systemctl says", func(t *testing.T) {
		if said := m.run("systemctl", "stop", "fairlead"); !strings.Contains(said, "fairlead.socket") {
			t.Errorf("systemctl says %q", said)
		}
		if said, _ := m.doctor(t); !strings.Contains(said, "its first call starts the daemon") {
			t.Errorf("the doctor says %q", said)
		}
		m.expect(t, "inactive", "active") // who only looks does not call
		answered(t, m.begin(1))
		m.await(t, "fairlead", "ActiveState", "active")
	})
	t.Run("a daemon in the foreground leaves it where it is, and starts no other", func(t *testing.T) {
		m.run("systemctl", "stop", "fairlead")
		m.run("systemd-run", "--unit=foreground", "fairlead", "run")
		nettest.Eventually(t, 20*time.Second, func() error {
			said, _ := m.try("fairlead", "status") // its exit code tells that something is not well
			if !strings.Contains(said, "systemd holds it for fairlead.service") {
				return fmt.Errorf("it says %s", said)
			}
			return nil
		})
		m.expect(t, "inactive", "active")
		m.run("systemctl", "stop", "foreground")
		m.run("systemctl", "start", "fairlead")
	})
	t.Run("without the socket unit, it goes on to answer until it stops, and takes it up again", func(t *testing.T) {
		m.run("systemctl", "stop", "fairlead.socket")
		m.expect(t, "active", "inactive")
		answered(t, m.begin(1))
		m.run("systemctl", "restart", "fairlead")
		m.expect(t, "active", "active")
		answered(t, m.begin(1))
	})
	t.Run("stopped with the socket unit, it stays down, and the doctor knows what to do", func(t *testing.T) {
		m.run("systemctl", "stop", "fairlead.socket", "fairlead")
		if err := m.call(); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a call ends with %v", err)
		}
		m.expect(t, "inactive", "inactive")
		said, fix := m.doctor(t)
		if !strings.Contains(said, "nobody listens") {
			t.Errorf("the doctor says %q", said)
		}
		m.run("sh", "-c", fix)
		m.expect(t, "inactive", "active")
	})
	t.Run("masked, the service has a socket of its own, over the one that systemd left and its own", func(t *testing.T) {
		m.override(t, "RestartSec=50ms")
		m.run("systemctl", "mask", "--now", "fairlead.socket")
		m.run("systemctl", "start", "fairlead")
		m.expect(t, "active", "inactive")
		m.ownedBy(t, "fairlead")
		m.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "fairlead")
		m.awaitRestart(t, 1)
		m.ownedBy(t, "fairlead")
		m.run("systemctl", "unmask", "fairlead.socket")
		m.run("systemctl", "restart", "fairlead")
		m.ownedBy(t, "systemd")
		answered(t, m.begin(1))
	})
	t.Run("Docker waits for it", func(t *testing.T) { dockerWaits(t, m, peer) })
}

// call has the driver activated, by a connection of its own, as an engine does before all else.
func (m *machine) call() error {
	client := &http.Client{Timeout: nettest.Patience(time.Minute), Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return m.dial(ctx) },
	}}
	answer, err := client.Post("http://plugin/Plugin.Activate", "", nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && !strings.Contains(string(said), `["NetworkDriver","IpamDriver"]`) {
		err = fmt.Errorf("%s: %s", answer.Status, said)
	}
	return err
}

func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", "/proc/"+m.pid+"/root"+plugin)
}

// begin makes so many calls at once and does not wait for them.
func (m *machine) begin(count int) <-chan error {
	done := make(chan error, 1)
	var calls errgroup.Group
	for range count {
		calls.Go(m.call)
	}
	go func() { done <- calls.Wait() }()
	return done
}

func unanswered(t *testing.T, calls <-chan error) {
	t.Helper()
	select {
	case err := <-calls:
		t.Fatalf("a call did not wait: %v", err)
	default:
	}
}

func answered(t *testing.T, calls <-chan error) {
	t.Helper()
	if err := <-calls; err != nil {
		t.Error(err)
	}
}

// doctor is what `fairlead doctor` finds out about Docker first, and the command that it has for that.
func (m *machine) doctor(t *testing.T) (message, fix string) {
	t.Helper()
	out, _ := m.try("fairlead", "doctor", "-o", "json") // it fails when something else of this machine is not well
	var found []struct{ Check, Message, Fix string }
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range found {
		if f.Check == "docker" {
			return f.Message, f.Fix
		}
	}
	return "", ""
}

// gate keeps the service from starting until it is opened, at the latest by the end of the subtest.
func (m *machine) gate(t *testing.T) (open func()) {
	t.Helper()
	const file = "/run/gate"
	m.run("rm", "-f", file)
	m.override(t, `ExecStartPre=/bin/sh -c "until test -e `+file+`; do sleep 0.02; done"`)
	open = func() { m.run("touch", file) }
	t.Cleanup(open)
	return open
}

// expect says what the service and the socket unit have to be.
func (m *machine) expect(t *testing.T, service, socket string) {
	t.Helper()
	said, _ := m.try("systemctl", "show", "--value", "--property=ActiveState", "fairlead.service", "fairlead.socket")
	if got, want := strings.Fields(said), []string{service, socket}; !slices.Equal(got, want) {
		t.Errorf("service and socket are %q, want %q", got, want)
	}
}

// await waits until systemd says so of the unit.
func (m *machine) await(t *testing.T, unit, property, want string) {
	t.Helper()
	nettest.Eventually(t, time.Minute, func() error {
		if got := m.run("systemctl", "show", unit, "--value", "--property="+property); got != want {
			return fmt.Errorf("%s of %s is %s, want %s", property, unit, got, want)
		}
		return nil
	})
}

// ownedBy says which program listens where Docker calls: the one that made the socket.
func (m *machine) ownedBy(t *testing.T, program string) {
	t.Helper()
	nettest.Eventually(t, 10*time.Second, func() error {
		c, err := m.dial(t.Context())
		if err != nil {
			return err
		}
		defer c.Close()
		f, err := c.(*net.UnixConn).File()
		if err != nil {
			return err
		}
		defer f.Close()
		owner, err := unix.GetsockoptUcred(int(f.Fd()), syscall.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return err
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", owner.Pid))
		if got := strings.TrimSpace(string(name)); err == nil && got != program {
			return fmt.Errorf("%s listens", got)
		}
		return err
	})
}
