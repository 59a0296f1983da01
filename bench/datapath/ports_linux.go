package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/fairlead-net/fairlead/nettest"
)

// firstPort is the lowest of those that are published; the kernel hands out others by itself.
const firstPort = 20000

// mapped is a host that publishes so many ports of a container; another host asks for the last of them.
func mapped(count int, backend, fast string) build {
	return func(t nettest.T, k kept) (lane, error) {
		s := newSite(t, k.dir, false)
		n := nettest.NewNode(s.hosts[1], k.binary, s.dirs[1])
		specs := make([]string, count)
		for i := range specs {
			specs[i] = fmt.Sprintf("%d:%d", firstPort+i, port)
		}
		publish, err := json.Marshal(specs)
		if err != nil {
			return lane{}, err
		}
		n.WriteConfig(fmt.Sprintf(`[node]
address = "%v"
state_dir = %q
run_dir = %q
[[pool]]
cidr = "10.88.0.0/16"
block = "10.88.2.0/24"
[nat]
backend = %q
[fastpath]
mode = %q
pin_dir = %q
[[endpoint]]
name = "c1"
publish = %s
`, s.ips[1], n.StateDir(), n.RunDir(), backend, fast, filepath.Join(k.pins, "fairlead"), publish))
		n.Start()
		n.WaitReady(readyTime)
		box := n.Attach("c1")
		settle(box.Host)
		last := netip.AddrPortFrom(s.ips[1], uint16(firstPort+count-1))
		l := lane{path: path{from: s.hosts[0], to: box.Host, ask: last, at: netip.AddrPortFrom(box.IP4, port)}, tracking: s.hosts[1:]}
		nettest.Eventually(t, readyTime, func() error { return programmed(n, last.Port(), backend) })
		if err := k.reachTCP(l.path); err != nil || fast != fastOn {
			return l, err
		}
		l.fast = []*nettest.Node{n}
		return l, l.proven(t, func() error { return k.reachTCP(l.path) })
	}
}

// programmed holds the daemon to the way by which the port is to be mapped.
func programmed(n *nettest.Node, port uint16, backend string) error {
	var ports []struct {
		HostPort uint16 `json:"host_port"`
		Backend  string `json:"backend"`
	}
	if err := n.Get("ports", &ports); err != nil {
		return err
	}
	for _, p := range ports {
		if p.HostPort == port {
			if strings.HasPrefix(p.Backend, backend) {
				return nil
			}
			return fmt.Errorf("port %d is mapped by %q, not by %s", port, p.Backend, backend)
		}
	}
	return fmt.Errorf("port %d is not mapped", port)
}
