package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// address reads an IPv4 or IPv6 address.
func address(v any) (netip.Addr, error) {
	s, err := line(v)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		return netip.Addr{}, fmt.Errorf("%s is a prefix; want a single address", quote(s))
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%s is not an IP address", quote(s))
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%s is an IPv4 address in IPv6 clothes; did you mean %q?", quote(s), a.Unmap())
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%s has a zone; link-local neighbours are not in this release", quote(s))
	}
	return a, nil
}

// unicast reads an address that one machine can have.
func unicast(v any) (netip.Addr, error) {
	a, err := address(v)
	if err != nil {
		return a, err
	}
	if why := special(a); why != "" {
		return netip.Addr{}, fmt.Errorf("%s is %s", a, why)
	}
	return a, nil
}

// hostAddress reads an address by which other machines know this one.
func hostAddress(v any) (netip.Addr, error) {
	a, err := unicast(v)
	if err == nil && a.IsLoopback() {
		return netip.Addr{}, fmt.Errorf("%s is a loopback address, which no other host can reach", a)
	}
	return a, err
}

// listenAddress reads an address to listen on, one of all of a family included.
func listenAddress(v any) (netip.Addr, error) {
	a, err := address(v)
	if err == nil && a.IsUnspecified() {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	return unicast(v)
}

// routerID reads a BGP identifier, which is written like an IPv4 address (RFC 6286).
func routerID(v any) (netip.Addr, error) {
	a, err := unicast(v)
	if err == nil && !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%s is IPv6; want IPv4: an identifier has 32 bits (RFC 6286)", a)
	}
	return a, err
}

// special says what an address is that is not one machine's.
func special(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "the unspecified address"
	case a.IsMulticast():
		return "a multicast address"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	}
	return ""
}

// prefix reads an address range with no bits set behind its length.
func prefix(v any) (netip.Prefix, error) {
	s, err := line(v)
	if err != nil {
		return netip.Prefix{}, err
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, prefixError(s)
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%s is an IPv4 range in IPv6 clothes; write it as IPv4", quote(s))
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind its length; did you mean %q?", quote(s), p.Masked())
	}
	return p, nil
}

func prefixError(s string) error {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf(`%s is not an address range, such as "10.88.0.0/16"`, quote(s))
	}
	if a.Is4() {
		return fmt.Errorf("%s has no length; did you mean %q?", quote(s), s+"/16")
	}
	return fmt.Errorf("%s has no length; did you mean %q?", quote(s), s+"/64")
}

// poolPrefix reads a range that containers can have addresses from.
func poolPrefix(v any) (netip.Prefix, error) {
	p, err := prefix(v)
	if err != nil {
		return p, err
	}
	if p.Bits() < 8 {
		return netip.Prefix{}, fmt.Errorf("%s is too large for a pool; allowed: /8 and longer", p)
	}
	for _, s := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/8", "fe80::/10", "ff00::/8"} {
		if taken := netip.MustParsePrefix(s); taken.Overlaps(p) {
			return netip.Prefix{}, fmt.Errorf("%s overlaps %s, which has a meaning of its own", p, taken)
		}
	}
	return p, nil
}

// reserve reads addresses and ranges.
func reserve(v any) ([]netip.Prefix, error) {
	list, ok := v.([]string)
	if !ok {
		return nil, errKind
	}
	var ranges []netip.Prefix
	var wrong []error
	for _, s := range list {
		r, err := addressOrPrefix(s)
		wrong = append(wrong, err)
		ranges = append(ranges, r)
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return ranges, nil
}

func addressOrPrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return prefix(s)
	}
	a, err := address(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// family is the word for what an address is of.
func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
