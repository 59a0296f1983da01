package nettest

import (
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const ourProtocol = 88 // of Fairlead's routes

// Monitor hears every change of Fairlead's routes on a host.
type Monitor struct {
	done chan struct{}

	mu      sync.Mutex
	changes []string
}

// Monitor starts to listen to the host's routes.
func (h *Host) Monitor() *Monitor {
	h.t.Helper()
	ns, err := netns.GetFromPath(h.Path)
	if err != nil {
		h.t.Fatalf("%s: open namespace: %v", h.Name, err)
	}
	defer ns.Close()
	m := &Monitor{done: make(chan struct{})}
	updates := make(chan netlink.RouteUpdate, 1024)
	stop := make(chan struct{})
	err = netlink.RouteSubscribeWithOptions(updates, stop, netlink.RouteSubscribeOptions{
		Namespace: &ns, ReceiveBufferSize: socketBuffer, ReceiveBufferForceSize: true,
		ErrorCallback: func(err error) { m.note("missed changes: " + err.Error()) },
	})
	if err != nil {
		h.t.Fatalf("%s: watch routes: %v", h.Name, err)
	}
	go m.run(updates)
	h.t.Cleanup(func() {
		close(stop)
		<-m.done
	})
	return m
}

func (m *Monitor) run(updates <-chan netlink.RouteUpdate) {
	defer close(m.done)
	for u := range updates {
		if u.Protocol != ourProtocol {
			continue
		}
		word := "new"
		if u.Type == unix.RTM_DELROUTE {
			word = "deleted"
		}
		m.note(fmt.Sprintf("%s %s", word, u.Route))
	}
}

func (m *Monitor) note(change string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes = append(m.changes, change)
}

// Changes are the changes so far, in order.
func (m *Monitor) Changes() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.changes...)
}
