package story_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// checkConfigured: a port that the config fixes is there with the container of that name, and goes with the line.
func (h *harbour) checkConfigured(t *testing.T) {
	config := withBlocks(h.n.Config(), 1)
	h.n.WriteConfig(config + "\n[[endpoint]]\nname = \"web\"\npublish = [\"8443:80\", \"8444:80/udp\"]\n")
	h.n.Fairlead("reload")
	if r := h.n.CLI("publish", "other", "8443:80"); r.Code != 1 {
		t.Errorf("a port of the config is given to another: %s", r.Stdout)
	}
	if h.n.Bind("tcp", netip.MustParseAddrPort("0.0.0.0:8443"), nettest.Trick{}) == nil {
		t.Error("a port of the config can be bound")
	}
	c := h.n.Attach("web")
	offer(c, plainPort, "tcp", "udp")
	for _, a := range addressesOf(h.n) {
		for proto, port := range map[string]uint16{"tcp": 8443, "udp": 8444} {
			if err := answers(h.stranger, proto, netip.AddrPortFrom(a, port), "web"); err != nil {
				t.Error(err)
			}
		}
	}
	if r := h.n.CLI("unpublish", "web", "8443:80"); r.Code != 1 || !strings.Contains(r.Stderr, "config") {
		t.Errorf("unpublish of a port of the config: exit code %d: %s", r.Code, r.Stderr)
	}
	h.n.WriteConfig(config)
	h.n.Fairlead("reload")
	if err := silent(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, 8443)); err != nil {
		t.Error(err)
	}
	if err := same(t, h.n, nil); err != nil {
		t.Error(err)
	}
	h.n.Fairlead("detach", "web")
}

// checkReboot: the kernel has nothing any more, the containers are new, and a program has come first to one of the ports.
func (h *harbour) checkReboot(t *testing.T) {
	flags := []string{"--publish", "8080:80", "--publish", "8081:80/udp", "--publish", "80"}
	c := h.n.Attach("web", flags...)
	want := rows(t, h.n)
	h.n.Kill()
	h.forget(t, c)
	thief := h.squat(t, netip.MustParseAddrPort("0.0.0.0:8080"))
	h.n.Start()
	h.n.WaitReady(10 * time.Second)
	named := func() error {
		s := show[agent.Status](t, h.n, "status")
		if said := strings.Join(s.Problems, "\n"); !strings.Contains(said, "8080") || !strings.Contains(said, "process "+strconv.Itoa(os.Getpid())) {
			return fmt.Errorf("problems: %q", s.Problems)
		}
		return nil
	}
	nettest.Eventually(t, 5*time.Second, named)
	c = h.n.Attach("web", flags...)
	offer(c, plainPort, "tcp", "udp")
	if err := same(t, h.n, want); err != nil {
		t.Errorf("after the reboot: %v", err)
	}
	random := hostPort(t, h.n, "web", "udp", plainPort)
	if random != 8081 {
		t.Errorf("the port is %d", random)
	}
	for _, a := range addressesOf(h.n) {
		for _, port := range []uint16{8080, 8081} {
			proto := map[uint16]string{8080: "tcp", 8081: "udp"}[port]
			if err := answers(h.stranger, proto, netip.AddrPortFrom(a, port), "web"); err != nil {
				t.Errorf("after the reboot: %v", err)
			}
		}
	}
	if err := named(); err != nil {
		t.Error(err)
	}
	_ = thief.Close()
	nettest.Eventually(t, 90*time.Second, func() error {
		if s := show[agent.Status](t, h.n, "status"); len(s.Problems) > 0 {
			return fmt.Errorf("the program is gone; problems: %q", s.Problems)
		}
		return nil
	})
	if h.n.Bind("tcp", netip.MustParseAddrPort("0.0.0.0:8080"), nettest.Trick{}) == nil {
		t.Error("the port is not held again")
	}
}

// forget takes from the kernel of the host what does not outlive a reboot, and the container with it.
func (h *harbour) forget(t *testing.T, c *nettest.Container) {
	t.Helper()
	if err := nettest.Remove(c.Path); err != nil {
		t.Fatal(err)
	}
	for _, file := range pinned(t, h.n) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	h.n.Run("nft", "flush", "ruleset")
	h.n.Run("ipset", "destroy")
	h.n.Sysctl("net/ipv4/ip_local_reserved_ports", "\n")
	h.n.Batch("route flush proto 88 table all", "rule flush protocol 88", "-6 route flush proto 88 table all", "-6 rule flush protocol 88")
	for line := range strings.Lines(h.n.IP("-brief link show")) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		if strings.HasPrefix(name, "fl") {
			_, _ = h.n.Try("ip", "link", "del", name) // the other end of a pair may have gone with the container
		}
	}
}

// squat is a program that listens on the host.
func (h *harbour) squat(t *testing.T, at netip.AddrPort) (l net.Listener) {
	t.Helper()
	if err := h.n.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	}); err != nil {
		t.Fatalf("after the reboot: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
