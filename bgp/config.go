package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"
)

// Role is what a neighbour is to us.
type Role string

const (
	Mesh      Role = "mesh"      // another node
	Reflector Role = "reflector" // a router that passes the nodes' routes on
	Leaf      Role = "leaf"      // a router of the fabric
)

const (
	defaultPort        = 179
	defaultHoldTime    = 9 * time.Second
	defaultRestartTime = 120 * time.Second
	minHoldTime        = 3 * time.Second     // RFC 4271 section 4.2
	maxHoldTime        = 65535 * time.Second // 16 bits of the OPEN message
	maxRestartTime     = 4095 * time.Second  // 12 bits of the capability: RFC 4724 section 3
)

// Config is this node's part of the BGP network.
type Config struct {
	ASN             uint32
	RouterID        netip.Addr    // an IPv6 address stands for 32 bits derived from it; zero = Listen
	Listen          netip.Addr    // the one address that we listen on and that our sessions come from
	Port            uint16        // 0 = 179
	HoldTime        time.Duration // whole seconds, at least 3; 0 = 9 s
	GracefulRestart bool          // ask the peers to keep our routes while we restart
	RestartTime     time.Duration // how long they keep them, at most 4095 s; 0 = 120 s
	MaxPrefixes     int           // per peer and address family; 0 = no limit
	Peers           []PeerConfig
	Warm            bool // our routes are still in the kernel: tell the peers that we forwarded all along
}

// PeerConfig is one neighbour. It is comparable: a session is made anew exactly when its PeerConfig changes.
type PeerConfig struct {
	Address     netip.Addr
	Port        uint16 // 0 = Config.Port
	Role        Role   // "" = mesh
	ASN         uint32 // 0 = Config.ASN
	Password    string // TCP MD5 signature, RFC 2385; "" = none
	TTLSecurity bool   // RFC 5082: only from a directly connected neighbour
	HoldTime    time.Duration
	MaxPrefixes int // 0 = Config.MaxPrefixes
}

// filled is the config with every default written out.
func (c Config) filled() Config {
	if !c.RouterID.IsValid() {
		c.RouterID = c.Listen
	}
	c.RouterID = routerID(c.RouterID)
	c.Port = cmp.Or(c.Port, defaultPort)
	c.HoldTime = cmp.Or(c.HoldTime, defaultHoldTime)
	c.RestartTime = cmp.Or(c.RestartTime, defaultRestartTime)
	peers := make([]PeerConfig, len(c.Peers))
	for i, p := range c.Peers {
		p.Port = cmp.Or(p.Port, c.Port)
		p.Role = cmp.Or(p.Role, Mesh)
		p.ASN = cmp.Or(p.ASN, c.ASN)
		p.HoldTime = cmp.Or(p.HoldTime, c.HoldTime)
		p.MaxPrefixes = cmp.Or(p.MaxPrefixes, c.MaxPrefixes)
		peers[i] = p
	}
	c.Peers = peers
	return c
}

// routerID is the 32-bit identifier that BGP still wants on a node that has only IPv6 addresses (RFC 6286 section 2.1).
func routerID(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if !a.Is6() {
		return a
	}
	h := fnv.New32a()
	b := a.As16()
	_, _ = h.Write(b[:])
	sum := h.Sum32()
	return netip.AddrFrom4([4]byte{byte(sum>>24) | 1, byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// check reports everything that is wrong with a filled config.
func (c Config) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ASN == 0 {
		wrong("asn is 0")
	}
	if !c.Listen.IsValid() {
		wrong("no listen address")
	}
	if !c.RouterID.IsValid() || c.RouterID.IsUnspecified() {
		wrong("router id %v identifies nobody", c.RouterID)
	}
	if c.RestartTime < time.Second || c.RestartTime > maxRestartTime || c.RestartTime%time.Second != 0 {
		wrong("restart time %v is not in whole seconds between 1s and %v", c.RestartTime, maxRestartTime)
	}
	if c.MaxPrefixes < 0 {
		wrong("max prefixes %d is negative", c.MaxPrefixes)
	}
	if err := checkHoldTime(c.HoldTime); err != nil {
		errs = append(errs, err)
	}
	seen := make(map[netip.Addr]bool)
	for _, p := range c.Peers {
		if err := c.checkPeer(p); err != nil {
			wrong("peer %v: %w", p.Address, err)
		}
		if seen[p.Address] {
			wrong("peer %v is there twice", p.Address)
		}
		seen[p.Address] = true
	}
	return errors.Join(errs...)
}

func (c Config) checkPeer(p PeerConfig) error {
	switch {
	case !p.Address.IsValid() || p.Address.IsUnspecified() || p.Address.IsMulticast() || p.Address.Is4In6():
		return errors.New("not the address of a neighbour")
	case p.Address == c.Listen:
		return errors.New("this is our own address")
	case p.Role != Mesh && p.Role != Reflector && p.Role != Leaf:
		return fmt.Errorf("role %q is none of mesh, reflector, leaf", p.Role)
	case p.Role == Mesh && p.ASN != c.ASN:
		return fmt.Errorf("a mesh peer is in our own AS %d, not in %d", c.ASN, p.ASN)
	case len(p.Password) > maxPassword:
		return fmt.Errorf("password is longer than %d bytes", maxPassword)
	case p.MaxPrefixes < 0:
		return fmt.Errorf("max prefixes %d is negative", p.MaxPrefixes)
	}
	return checkHoldTime(p.HoldTime)
}

// maxPassword is the kernel's TCP_MD5SIG_MAXKEYLEN.
const maxPassword = 80

func checkHoldTime(d time.Duration) error {
	if d < minHoldTime || d > maxHoldTime || d%time.Second != 0 {
		return fmt.Errorf("hold time %v is not in whole seconds between %v and %v", d, minHoldTime, maxHoldTime)
	}
	return nil
}
