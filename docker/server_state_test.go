package docker_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// trouble is what must never be: an address, a port or a gateway that two have, or a guest without its network.
func (h *driverHost) trouble() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	owners, ports, gateways := map[netip.Addr]string{}, map[driverPort]string{}, map[netip.Addr]string{}
	for id, g := range h.guests {
		if _, there := h.networks[g.req.Network]; !there {
			return fmt.Errorf("endpoint %s is on network %s, which is not there", id, g.req.Network)
		}
		for _, a := range g.req.Addresses {
			if owners[a] != "" || h.leases[a] != id {
				return fmt.Errorf("address %s of endpoint %s: leased for %q, also of %q", a, id, h.leases[a], owners[a])
			}
			owners[a] = id
		}
		for _, p := range g.taken {
			if p.number != 0 && ports[p] != "" {
				return fmt.Errorf("port %v is published for %s and %s", p, id, ports[p])
			}
			ports[p] = id
		}
	}
	for id, n := range h.networks {
		for _, s := range n.Subnets {
			if other := gateways[s.Gateway]; other != "" {
				return fmt.Errorf("gateway %s is of network %s and %s", s.Gateway, id, other)
			}
			gateways[s.Gateway] = id
		}
	}
	for a, owner := range h.leases {
		if owner != "" && owners[a] != owner {
			return fmt.Errorf("address %s is leased for %s, which has it not", a, owner)
		}
	}
	return nil
}

// published are the SPECs of all guests.
func (h *driverHost) published() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []string
	for _, g := range h.guests {
		all = append(all, g.specs...)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// driverLog keeps what the driver writes.
type driverLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *driverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *driverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
