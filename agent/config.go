package agent

import (
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Config is what the agent is told; main makes it out of the file.
type Config struct {
	File      string // where it came from, "" without a file
	Node      Node
	Pools     []ipam.Pool
	BGP       bgp.Config
	Tunnel    tunnel.Config
	Interval  time.Duration // of the pass that repairs silent drift
	Socket    string        // path of the API's unix socket
	Metrics   string        // host:port, "" = off
	Hooks     Hooks
	NAT       NAT
	Fast      FastMode // "" is off
	FastSizes fastpath.Sizes
}

// NAT is how ports are published, and who leaves under this host's address.
type NAT struct {
	Backend   nat.Backend    // what sends packets for ports to endpoints; "" is nat.Auto
	Random    nat.Range      // of ports that nobody named; zero: all that an ordinary program may bind
	Hairpin   bool           // an endpoint reaches itself by a port of the host
	Hidden    []netip.Prefix // pools whose addresses are not seen beyond the pools
	Published []Published    // by the config
}

// Published is the ports that the config fixes for an endpoint.
type Published struct {
	Endpoint string
	Specs    []nat.Spec
}

// Hooks are programs that are run when something has happened. Each gets the event as a line of JSON.
type Hooks struct {
	OnAttach, OnDetach string        // absolute paths, "" = none
	Timeout            time.Duration // after which one that still runs is killed
}

// Node is this host as the others see it.
type Node struct {
	Name    string
	Address netip.Addr // underlay; invalid on a host without a default route, which then has no peers
	Follow  bool       // the config leaves the address to the host: when the host has another one, Run ends with ErrMoved
	MTU     int        // of container links in bytes, 0 = underlay less overhead
}

// Source gives the config anew each time it is asked.
type Source interface {
	// Reload reads and validates. It returns the keys whose values changed since the last success. An error lists every
	// mistake, one a line, and means that nothing changed.
	Reload() (Config, []string, error)
	// Adopted says that what the latest Reload returned is in force: it is what the next one compares with.
	Adopted()
}
