// Package endpoint joins a container's network namespace to its host by a veth pair, without a bridge.
//
// The container holds its address alone (/32, /128) and sends everything to 169.254.1.1 and fe80::1, which no link need
// have: permanent neighbours give them the host side's hardware address. What an endpoint is can be read from the kernel:
// the host side's name is a hash of the endpoint's name, and its alias carries the rest.
package endpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Errors that a caller can act upon.
var (
	// ErrGone says that the namespace is not there any more, or is another one under the same path.
	ErrGone = errors.New("the namespace is gone")
	// ErrForeign says that something of somebody else stands where ours should be; it was left alone.
	ErrForeign = errors.New("not Fairlead's")
)

// gateway4 and Gateway6 are the same in every container.
func gateway4() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 1, 1}) }

// Gateway6 is the gateway of endpoints of IPv6. The host side of one that has no IPv4 has this address, so that it can ask
// this host there what others ask by their gateway of IPv4.
func Gateway6() netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1}) }

// Greets is the addresses that the host side has: none but the gateway's where the container has IPv6 alone, and the
// gateways of a pair that is handed over, which no permanent neighbour stands for.
func (r Row) Greets() []netip.Addr {
	switch {
	case r.Handed():
		return slices.DeleteFunc([]netip.Addr{r.Gateway4, r.Gateway6}, func(a netip.Addr) bool { return !a.IsValid() })
	case r.IP6.IsValid() && !r.IP4.IsValid():
		return []netip.Addr{Gateway6()}
	}
	return nil
}

// MAC is an Ethernet hardware address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// hostMAC is the address of the host side of every pair: a container sees its gateway there, and nothing else sees it.
func hostMAC() MAC { return MAC{0x02, 0x46, 0x4c, 0x00, 0x00, 0x01} }

// Row is an endpoint as the kernel should show it. It is comparable; HostIf is its key.
type Row struct {
	Name     string     // the endpoint's
	HostIf   string     // HostIf(Name)
	NetNS    string     // path of the namespace's file; "" of a pair that is handed over
	IfName   string     // the interface inside
	NSInode  uint64     // inode of the namespace's file: a restarted container has another one under the same path
	MAC      MAC        // of the interface inside
	IP4      netip.Addr // zero: none
	IP6      netip.Addr // zero: none
	Gateway4 netip.Addr // link-local, of a pair that is handed over and has IP4; else zero
	Gateway6 netip.Addr // the same of IP6
	MTU      int        // bytes, of both sides; 0 in a listed row whose host side is down or was tampered with
}

// Handed tells whether another program puts the inside into a container, and gives it name, addresses and routes there. It
// finds the inside on the host, under the name PeerIf(r.Name).
func (r Row) Handed() bool { return r.NetNS == "" }

// HostIf is the name of the host side of the endpoint called name.
func HostIf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "fl" + hex.EncodeToString(sum[:5])
}

// PeerIf is the name of the inside of a pair that is handed over, while it is on the host.
func PeerIf(name string) string { return HostIf(name) + "c" }

// ContainerMAC is the hardware address of the interface that holds a: locally administered, and the same each time, so
// that a neighbour entry about it is never stale.
func ContainerMAC(a netip.Addr) MAC {
	if a.Is4() || a.Is4In6() {
		b := a.Unmap().As4()
		return MAC{0x02, 0x58, b[0], b[1], b[2], b[3]}
	}
	b := a.As16()
	sum := sha256.Sum256(b[:])
	return MAC{0x06, 0x58, sum[0], sum[1], sum[2], sum[3]}
}

// addrs are the addresses the endpoint has, IPv4 first.
func (r Row) addrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{r.IP4, r.IP6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// check refuses a row that can not be put, before the kernel is touched.
func (r Row) check(hostIf string) error {
	switch {
	case r.Name == "" || hostIf != r.HostIf || r.HostIf != HostIf(r.Name):
		return fmt.Errorf("host interface %q does not belong to endpoint %q", hostIf, r.Name)
	case r.Handed():
		return r.checkHanded()
	case !strings.HasPrefix(r.NetNS, "/"):
		return fmt.Errorf("namespace %q: not an absolute path", r.NetNS)
	case !plainIfName(r.IfName):
		return fmt.Errorf("interface name %q: want 1 to 15 letters, digits, '_', '-' or '.', and not lo, all or default",
			r.IfName)
	}
	return r.checkAddresses()
}

func (r Row) checkHanded() error {
	fits := func(gateway, ip netip.Addr) bool {
		return gateway.IsValid() == ip.IsValid() && (!gateway.IsValid() || gateway.Is4() == ip.Is4() && gateway.IsLinkLocalUnicast())
	}
	switch {
	case r.IfName != PeerIf(r.Name) || r.NSInode != 0:
		return fmt.Errorf("interface name %q: the inside of a pair that is handed over is %s", r.IfName, PeerIf(r.Name))
	case !fits(r.Gateway4, r.IP4) || !fits(r.Gateway6, r.IP6):
		return fmt.Errorf("gateways %s and %s: want a link-local address for each address", r.Gateway4, r.Gateway6)
	}
	return r.checkAddresses()
}

func (r Row) checkAddresses() error {
	switch {
	case r.IP4.IsValid() && !r.IP4.Is4():
		return fmt.Errorf("address %s: not an IPv4 address", r.IP4)
	case r.IP6.IsValid() && (!r.IP6.Is6() || r.IP6.Is4In6() || r.IP6.Zone() != ""):
		return fmt.Errorf("address %s: not an IPv6 address", r.IP6)
	case len(r.addrs()) == 0:
		return errors.New("no address")
	case r.MAC == MAC{} || r.MAC[0]&1 != 0:
		return fmt.Errorf("hardware address %s: not one that an interface can have", r.MAC)
	}
	return r.checkMTU()
}

func (r Row) checkMTU() error {
	least := 68 // RFC 791
	if r.IP6.IsValid() {
		least = 1280 // RFC 8200 section 5
	}
	if r.MTU < least || r.MTU > 65535 {
		return fmt.Errorf("MTU %d: want %d to 65535 bytes", r.MTU, least)
	}
	return nil
}

// namedNetNS is where `ip netns add` keeps its namespaces.
const namedNetNS = "/run/netns"

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

// plainIfName says whether s can be the name of an interface of ours inside; it becomes part of a path below /proc/sys,
// where "all" and "default" mean other things.
func plainIfName(s string) bool {
	if s == "" || len(s) > 15 || s[0] == '.' || s == "lo" || s == "all" || s == "default" {
		return false
	}
	return strings.IndexFunc(s, outside(letters+digits+"_-.")) < 0
}

// hostIfShaped says whether s looks like the name of a host side.
func hostIfShaped(s string) bool {
	return len(s) == 12 && strings.HasPrefix(s, "fl") && strings.IndexFunc(s[2:], outside(digits+"abcdef")) < 0
}

func outside(set string) func(rune) bool {
	return func(r rune) bool { return !strings.ContainsRune(set, r) }
}
