package agent

import (
	"time"

	"net/netip"

	"github.com/fairlead-net/fairlead/ipam"
)

// The types of this file are what the API answers and `-o json` prints. Their field names are stable: a field may be
// added, none is renamed or taken away.

// Endpoint is a container, VM or namespace attached to this node.
type Endpoint struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	Node       string            `json:"node"`
	Network    string            `json:"network"`
	Addresses  []netip.Addr      `json:"addresses"`
	MAC        string            `json:"mac"`
	IfName     string            `json:"ifname"`
	HostIfName string            `json:"host_ifname"`
	NetNS      string            `json:"netns"`
	Labels     map[string]string `json:"labels"`
	Ports      []Port            `json:"ports"`
	Created    time.Time         `json:"created"`
}

// Port is one published port of an endpoint.
type Port struct {
	Endpoint string     `json:"endpoint"`
	HostIP   netip.Addr `json:"host_ip"`
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`
	Proto    string     `json:"proto"`
	Backend  string     `json:"backend"`
	State    string     `json:"state"` // "mapped", "reserved" (no endpoint yet), "resting" (no endpoint any more)
}

// Variable is what an application learns from its environment.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PortsRequest asks for ports of the host.
type PortsRequest struct {
	Endpoint string   `json:"endpoint"`
	Specs    []string `json:"specs"`
}

// Peer is a BGP neighbour and how its session fares.
type Peer struct {
	Address       netip.Addr `json:"address"`
	ASN           uint32     `json:"asn"`
	Role          string     `json:"role"`
	State         string     `json:"state"` // RFC 4271 section 8.2.2, lower case: "established", "active", …
	UptimeSeconds int64      `json:"uptime_seconds"`
	Received      int        `json:"received"`
	Accepted      int        `json:"accepted"`
	Advertised    int        `json:"advertised"`
	LastError     string     `json:"last_error"`
	Node          string     `json:"node,omitempty"` // the name it gave itself
}

// Route is a remote prefix and how packets get there.
type Route struct {
	Prefix    netip.Prefix `json:"prefix"`
	Via       []netip.Addr `json:"via"`
	Encap     string       `json:"encap"` // "direct", "ipip", "vxlan", "gre"; "" when the route is not used
	Dev       string       `json:"dev"`
	MTU       int          `json:"mtu"` // bytes of an inner packet
	Node      string       `json:"node"`
	Installed bool         `json:"installed"`
	Reason    string       `json:"reason"` // why it is not installed: one word
	Fast      string       `json:"fast"`   // how containers' packets get there by the fast path, as encap; "" when they do not
	Slow      string       `json:"slow"`   // why not: one word; "" when nobody wants it
}

// Event is one thing that happened to this node. Of the fields behind Revision, only those of its word are there.
type Event struct {
	Time     time.Time      `json:"time"`
	Event    string         `json:"event"` // one of EventWords
	Node     string         `json:"node"`
	Revision uint64         `json:"revision"` // that the pass knew which saw or did it
	Endpoint *Endpoint      `json:"endpoint,omitempty"`
	Peer     *Peer          `json:"peer,omitempty"`
	Route    *Route         `json:"route,omitempty"`
	Before   *Route         `json:"before,omitempty"`   // what a changed route was
	Repaired map[string]int `json:"repaired,omitempty"` // kernel objects that one pass put back, by table
	Count    int            `json:"count,omitempty"`    // events that were lost
}

// Status is the one screen a tired operator asks for.
type Status struct {
	Node          string       `json:"node"`
	Address       netip.Addr   `json:"address"`
	UUID          string       `json:"uuid"`
	Version       string       `json:"version"`
	UptimeSeconds int64        `json:"uptime_seconds"`
	Ready         bool         `json:"ready"`
	Problems      []string     `json:"problems"` // what keeps the node from being ready or well, most urgent first
	Revision      uint64       `json:"revision"`
	Peers         PeerCount    `json:"peers"`
	Routes        RouteCount   `json:"routes"`
	Endpoints     int          `json:"endpoints"`
	Pools         []PoolStatus `json:"pools"`
	Ports         int          `json:"ports"`
	Fastpath      string       `json:"fastpath"`       // "on (tcx)", "off", or "off: " and why
	FastpathBytes uint64       `json:"fastpath_bytes"` // of memory that its maps have
	Offload       string       `json:"offload"`        // what the self-test of VXLAN's checksum offload showed: "good", "bad", "unknown"
	DriftRepaired uint64       `json:"drift_repaired"` // kernel objects put back since the daemon started
	ConfigFile    string       `json:"config_file"`
	ConfigError   string       `json:"config_error"` // why the last changed file was refused; the old one is in force
	Drained       bool         `json:"drained"`
	LastPass      time.Time    `json:"last_pass"`
}

// PeerCount is how many sessions there should be and are.
type PeerCount struct {
	Configured  int `json:"configured"`
	Established int `json:"established"`
}

// RouteCount is how many remote prefixes are reached in which way.
type RouteCount struct {
	Direct  int `json:"direct"`
	IPIP    int `json:"ipip"`
	VXLAN   int `json:"vxlan"`
	GRE     int `json:"gre"`
	Skipped int `json:"skipped"`
}

// PoolStatus is a pool and this node's share of it.
type PoolStatus struct {
	Name     string       `json:"name"`
	CIDR     netip.Prefix `json:"cidr"`
	Block    string       `json:"block"` // "" while none is chosen
	Size     int          `json:"size"`  // addresses of the block
	Leased   int          `json:"leased"`
	Resting  int          `json:"resting"` // freed, and not yet handed out again
	Reserved int          `json:"reserved"`
	Held     string       `json:"held"` // why no address is handed out, "" when they are
}

// AttachRequest asks for an endpoint.
type AttachRequest struct {
	Name    string            `json:"name"`
	NetNS   string            `json:"netns"` // a path, or a name below /run/netns; empty: that name is Name
	PID     int               `json:"pid"`   // instead of NetNS: the namespace of this process
	Network string            `json:"network"`
	Pool    string            `json:"pool"` // empty: one address of each family, from the first pool of each
	IPs     []netip.Addr      `json:"ips"`  // wanted addresses, at most one of each family
	IfName  string            `json:"ifname"`
	Labels  map[string]string `json:"labels"`
	Publish []string          `json:"publish"` // SPECs
}

// LeaseRequest asks for an address without an endpoint.
type LeaseRequest struct {
	Owner   string     `json:"owner"`
	Pool    string     `json:"pool"`
	Address netip.Addr `json:"address"`
}

// Lease is an address and who holds it.
type Lease = ipam.Lease

// ReloadResult says what a reload did.
type ReloadResult struct {
	Changed  []string `json:"changed"` // config keys whose value changed, as table.key
	Revision uint64   `json:"revision"`
}

// Failure is the body of every answer that is not a success.
type Failure struct {
	Error    string   `json:"error"`
	Problems []string `json:"problems,omitempty"` // every mistake found, as file:line:col: message
}
