package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-net/fairlead/nettest"
)

// site is a client, a host on its cable, and a container on that:
//
//	client 192.0.2.2 ── eth0 192.0.2.1 host 10.88.0.1 fl0 ── box 10.88.0.2
type site struct {
	client, host, box *nettest.Host
	onBox, onHost     thread // who answer there
}

const (
	inside   = 80  // port of the container
	unmapped = 222 // port of a program on the host: below all that are mapped
)

func hostIP() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, 1}) }
func boxIP() netip.Addr  { return netip.AddrFrom4([4]byte{10, 88, 0, 2}) }

// newSite makes the three, with a server in the container and one on the host.
func newSite(t nettest.T) (s site, err error) {
	s.client, s.host, s.box = nettest.NewHost(t, "client"), nettest.NewHost(t, "host"), nettest.NewHost(t, "box")
	nettest.Wire(t, s.client, "eth0", s.host, "eth0")
	nettest.Wire(t, s.host, "fl0", s.box, "eth0")
	s.client.Batch("addr add 192.0.2.2/24 dev eth0", "route add 10.88.0.0/16 via 192.0.2.1")
	s.host.Batch("addr add 192.0.2.1/24 dev eth0", "addr add 10.88.0.1/16 dev fl0")
	s.box.Batch("addr add 10.88.0.2/16 dev eth0", "route add default via 10.88.0.1")
	s.host.Sysctl("net/ipv4/ip_forward", "1")
	for _, h := range []*nettest.Host{s.client, s.host, s.box} {
		// Ports of closed connections are free at once, or they would be used up within seconds.
		h.Sysctl("net/ipv4/tcp_max_tw_buckets", "0")
		h.Sysctl("net/ipv4/tcp_congestion_control", "reno") // the default may pace itself by the clock
	}
	if s.onBox, err = serve(t, s.box, netip.AddrPortFrom(boxIP(), inside)); err == nil {
		s.onHost, err = serve(t, s.host, netip.AddrPortFrom(hostIP(), unmapped))
	}
	return s, err
}

// run runs a program on the host, without a wrapper that would cost time of its own.
func (s site) run(stdin string, argv ...string) error {
	return s.host.Do(func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
		return nil
	})
}

// calm forgets all tracked connections: those of one measurement must not burden the next.
func (s site) calm() error {
	return s.host.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

// use makes the plain names lead to a back end of iptables for everything that this program starts.
func use(name, dir string) error {
	for _, tool := range []string{"iptables", "ip6tables", "iptables-restore"} {
		own, what, _ := strings.Cut(tool, "-")
		real, err := exec.LookPath(strings.TrimSuffix(own+"-"+name+"-"+what, "-"))
		if err != nil {
			return err
		}
		if real, err = filepath.EvalSymlinks(real); err != nil {
			return err
		}
		if err := os.Symlink(real, filepath.Join(dir, tool)); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Setenv("PATH", dir+":"+os.Getenv("PATH")),
		os.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "lock"))) // the host's own is nobody's business here
}
