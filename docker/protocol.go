package docker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// gatewayLabel is the type of address that is asked for as a network's gateway.
const gatewayLabel = "com.docker.network.gateway"

type gatewayQuery struct{ Options networkOptions }

func (gatewayQuery) check() error { return nil }

type networkOrder struct {
	NetworkID          string
	Options            networkOptions
	IPv4Data, IPv6Data []poolData
}

func (q networkOrder) check() error {
	if slices.ContainsFunc(q.subnets(), func(p netip.Prefix) bool { return !p.IsValid() }) {
		return errors.New("a subnet without Pool")
	}
	return checkID("NetworkID", q.NetworkID)
}

func (q networkOrder) subnets() (all []netip.Prefix) {
	for _, p := range slices.Concat(q.IPv4Data, q.IPv6Data) {
		all = append(all, p.Pool)
	}
	return all
}

// networkOptions are what the user asked for. Generic holds what follows -o.
type networkOptions struct {
	IPv6     bool              `json:"com.docker.network.enable_ipv6"`
	Internal bool              `json:"com.docker.network.internal"`
	Generic  map[string]string `json:"com.docker.network.generic"`
}

// poolData is what an IPAM driver, perhaps not ours, answered for a network. Of a range, and of addresses that the user keeps
// from containers, the IPAM driver has heard before.
type poolData struct {
	AddressSpace string
	Pool         netip.Prefix
	Gateway      netip.Prefix
}

type networkRef struct{ NetworkID string }

func (q networkRef) check() error { return checkID("NetworkID", q.NetworkID) }

type endpointOrder struct {
	NetworkID, EndpointID string
	Interface             endpointInterface
	Options               map[string]any
}

// endpointInterface has empty fields for what is not decided.
type endpointInterface struct {
	Address, AddressIPv6 netip.Prefix
	MacAddress           string
}

func (q endpointOrder) check() error { return checkIDs(q.NetworkID, q.EndpointID) }

type endpointRef struct{ NetworkID, EndpointID string }

func (q endpointRef) check() error { return checkIDs(q.NetworkID, q.EndpointID) }

type joinOrder struct{ NetworkID, EndpointID, SandboxKey string }

func (q joinOrder) check() error { return checkIDs(q.NetworkID, q.EndpointID) }

type portOrder struct {
	NetworkID, EndpointID string
	Options               struct {
		Map []portBinding `json:"com.docker.network.portmap"`
	}
}

func (q portOrder) check() error {
	for _, b := range q.Options.Map {
		if err := b.check(); err != nil {
			return err
		}
	}
	return checkIDs(q.NetworkID, q.EndpointID)
}

type nodeNotice struct{ DiscoveryType int }

func (nodeNotice) check() error { return nil }

type poolOrder struct {
	AddressSpace  string
	Pool, SubPool netip.Prefix
	Options       map[string]string
	V6            bool
}

func (poolOrder) check() error { return nil }

type poolRef struct{ PoolID poolID }

func (q poolRef) check() error { return q.PoolID.check() }

type addressOrder struct {
	PoolID  poolID
	Address netip.Addr
	Options map[string]string
}

func (q addressOrder) check() error { return q.PoolID.check() }

type addressRef struct {
	PoolID  poolID
	Address netip.Addr
}

func (q addressRef) check() error {
	if !q.Address.IsValid() {
		return errors.New("no Address is named")
	}
	return q.PoolID.check()
}

// poolID is a network's subnet and the part of it that addresses are picked from, as text: it says everything, so that
// there is nothing to remember of a pool.
type poolID struct{ subnet, span netip.Prefix }

func (p poolID) check() error {
	if !p.subnet.IsValid() {
		return errors.New("no PoolID is named")
	}
	return nil
}

// MarshalText is "10.88.0.0/16", or "10.88.0.0/16,10.88.4.0/24" when there is a range.
func (p poolID) MarshalText() ([]byte, error) {
	if p.span.IsValid() && p.span != p.subnet {
		return []byte(p.subnet.String() + "," + p.span.String()), nil
	}
	return []byte(p.subnet.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (p *poolID) UnmarshalText(text []byte) error {
	subnet, span, ranged := strings.Cut(string(text), ",")
	if !ranged {
		span = subnet
	}
	var err error
	if p.subnet, err = netip.ParsePrefix(subnet); err == nil {
		p.span, err = netip.ParsePrefix(span)
	}
	if err != nil || p.subnet != p.subnet.Masked() || !within(p.span, p.subnet) {
		return fmt.Errorf("PoolID %q is none of this driver's", text)
	}
	return nil
}

// within tells whether inner is a part of outer, or all of it.
func within(inner, outer netip.Prefix) bool {
	return inner.IsValid() && inner == inner.Masked() && inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// checkID accepts what engines make: 64 hex digits, or 25 letters and digits where there is a swarm.
func checkID(field, id string) error {
	letters := strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	switch {
	case id == "":
		return fmt.Errorf("%s is missing", field)
	case len(id) < 16 || len(id) > 128 || letters != "":
		return fmt.Errorf("%s %q is no ID: 16 to 128 letters and digits", field, abridge(id))
	}
	return nil
}

func checkIDs(network, endpoint string) error {
	if err := checkID("NetworkID", network); err != nil {
		return err
	}
	return checkID("EndpointID", endpoint)
}

// hardwareAddress checks that a NIC can have it.
func hardwareAddress(text string) (string, error) {
	mac, err := net.ParseMAC(text)
	switch {
	case err != nil || len(mac) != 6:
		return "", fmt.Errorf("%w: MAC address %q is not of six bytes, such as 02:42:ac:11:00:02", errMalformed, text)
	case mac[0]&1 != 0:
		return "", fmt.Errorf("MAC address %s is for groups: clear the lowest bit of its first byte", mac)
	}
	return mac.String(), nil
}
