// Package config reads Fairlead's TOML files and environment into typed values, or says everything that is wrong there.
//
// A file goes through three gates: the parser of go-toml gives every key its position and this package names each
// mistake; go-toml's strict decoder must then agree that nothing unknown or of another type is left; viper lays the
// defaults, the files and the environment over each other; and each setting is turned into a value of its own type.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/nat"
)

// DefaultPath is the file that is read when none is named. It may be absent: the defaults are then the config.
const DefaultPath = "/etc/fairlead/fairlead.toml"

// Config is all settings of one host, validated and complete but for what only a running host knows: see WithAddress.
type Config struct {
	File      string // the main file, empty when there is none
	Schema    int
	Node      Node
	Pools     []Pool
	Endpoints []Endpoint
	BGP       BGP
	Tunnel    Tunnel
	NAT       NAT
	Docker    Docker
	Fastpath  Fastpath
	Reconcile Reconcile
	Hooks     Hooks
	API       API
	Log       Log
}

// Node is this host as the others see it.
type Node struct {
	Name     string
	Address  netip.Addr // of the underlay; invalid: the source address of the default route
	MTU      int        // of container links in bytes; 0: what the underlay leaves
	StateDir string
	RunDir   string
	Watch    bool // apply the file whenever it is written
}

// Pool is an address range that all nodes share.
type Pool struct {
	Name        string
	CIDR        netip.Prefix
	Block       netip.Prefix // the part this node hands out from; invalid: one is picked
	Reserve     []netip.Prefix
	NATOutgoing bool
	ReuseDelay  time.Duration
}

// Endpoint is what the file fixes of a container, VM or namespace, whether it is there or not.
type Endpoint struct {
	Name    string
	Publish []nat.Spec // in the order of the file
}

// BGP is this node's speaker.
type BGP struct {
	ASN             uint32
	RouterID        netip.Addr // IPv4; invalid until the node's address is known
	Listen          netip.Addr // invalid until the node's address is known
	Port            uint16
	HoldTime        time.Duration // whole seconds
	GracefulRestart bool
	RestartTime     time.Duration // whole seconds
	MaxPrefixes     int           // accepted from one peer
	Peers           []Peer        // in the order of the files
}

// Role is what a BGP neighbour is to this node.
type Role string

const (
	RoleMesh      Role = "mesh"      // another node
	RoleReflector Role = "reflector" // a route reflector, RFC 4456
	RoleLeaf      Role = "leaf"      // a router of the fabric
)

// Peer is a BGP neighbour.
type Peer struct {
	Address      netip.Addr
	Role         Role
	ASN          uint32
	PasswordFile string
	Password     Secret // what PasswordFile held when it was read
	TTLSecurity  bool   // RFC 5082
	Import       []string
	Export       []string
	HoldTime     time.Duration // whole seconds
}

// Tunnel is how packets reach nodes that share no link with this one.
type Tunnel struct {
	Mode      string // "auto", "host-gw", "ipip", "vxlan", "gre"
	VNI       int
	VXLANPort uint16
	Accept    string // whose encapsulated packets are taken: "peers", "any"
}

// NAT is how ports are published.
type NAT struct {
	Backend   string    // "auto", "ebpf", "iptables"
	PortRange PortRange // of ports picked at random
	Hairpin   bool
}

// PortRange is First to Last, both included. The zero value is any free port.
type PortRange struct{ First, Last uint16 }

// Docker is the network plugin.
type Docker struct {
	Enable  Switch        // Auto: where Docker is present
	Socket  string        // path of the socket that Docker calls; it knows the driver by the file's name
	API     string        // path of Docker's own socket, where names and labels are learnt; "" = nowhere
	Timeout time.Duration // of one answer to Docker
}

// Switch is a choice that may be left to the program.
type Switch string

const (
	Auto Switch = "auto" // on where it makes sense
	On   Switch = "on"
	Off  Switch = "off"
)

// Fastpath is the eBPF fast path.
type Fastpath struct {
	Mode           Switch // On: the daemon does not start without it
	PinDir         string
	MaxEndpoints   int // links, and addresses of each family; those beyond stay with the kernel, as do routes
	MaxRoutes      int
	MaxFlows       int // that the kernel has translated, of each family
	MaxConnections int // by ports of this host
}

// Reconcile is how drift is repaired.
type Reconcile struct {
	Interval time.Duration // of the pass that nothing asked for
}

// Hooks are programs that the daemon runs as root when something has happened.
type Hooks struct {
	OnAttach, OnDetach string // paths, "" = none
	Timeout            time.Duration
}

// API is where the daemon answers.
type API struct {
	Socket  string         // path of the unix socket
	Metrics netip.AddrPort // invalid: off
}

// Log is what the daemon says of itself.
type Log struct {
	Level  slog.Level
	Format string // "text", "json"
}

// Secret is a password. It prints as a row of stars however it is printed; string(s) is the password itself.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "******"
}

// GoString keeps a secret out of %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText keeps a secret out of JSON, YAML and TOML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue keeps a secret out of the log.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
