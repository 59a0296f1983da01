// Package nat maps ports of the host to ports of endpoints, and keeps our rules and sets in the host's packet filter.
package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ErrSpec is a SPEC that can not be understood; it is wrapped with what is wrong and what would be right.
var ErrSpec = errors.New("bad port mapping")

// Spec is one published port as a user asks for it: [hostIP:][hostPort:]port[/proto], Docker's form.
type Spec struct {
	HostIP   netip.Addr // zero: every address of the host
	HostPort uint16     // the first that may be taken; 0: any free one
	HostLast uint16     // the last that may be taken; the same as HostPort when there is no choice
	Port     uint16     // of the endpoint
	Proto    string     // "tcp", "udp", "sctp"
}

// choice is how much a SPEC leaves open.
func (s Spec) choice() int {
	if s.HostPort == 0 {
		return 1 << 16
	}
	return int(s.HostLast - s.HostPort)
}

// String is the SPEC in its longest form.
func (s Spec) String() string {
	text := ""
	if s.HostIP.IsValid() {
		text = netip.AddrPortFrom(s.HostIP, 0).String()
		text = text[:len(text)-1] // with the brackets of IPv6, less the port
	}
	switch {
	case s.HostPort != 0 && s.HostPort == s.HostLast:
		text += fmt.Sprintf("%d:", s.HostPort)
	case s.HostPort != 0:
		text += fmt.Sprintf("%d-%d:", s.HostPort, s.HostLast)
	case text != "":
		text += ":"
	}
	return fmt.Sprintf("%s%d/%s", text, s.Port, s.Proto)
}

// ParseSpec reads a SPEC. A range of endpoint ports gives one Spec for each; a range of host ports beside one endpoint
// port leaves the choice among them. Errors wrap ErrSpec.
func ParseSpec(text string) ([]Spec, error) {
	fail := func(format string, args ...any) ([]Spec, error) {
		return nil, fmt.Errorf("%w %q: %s: want [hostIP:][hostPort:]port[/proto], for instance 8080:80/tcp", ErrSpec, text, fmt.Sprintf(format, args...))
	}
	rest, proto, named := strings.Cut(text, "/")
	if !named {
		proto = "tcp"
	}
	if proto != "tcp" && proto != "udp" && proto != "sctp" {
		return fail("protocol %q is none of tcp, udp, sctp", proto)
	}
	ip, rest, err := cutHost(rest)
	if err != nil {
		return fail("%v", err)
	}
	hostText, portText, hasHost := strings.Cut(rest, ":")
	if !hasHost {
		hostText, portText = "", rest
	}
	port, last, err := ports(portText)
	if err != nil {
		return fail("port %v", err)
	}
	var host, hostLast uint16
	if hostText != "" {
		if host, hostLast, err = ports(hostText); err != nil {
			return fail("host port %v", err)
		}
	}
	many := last - port
	if host != 0 && many > 0 && hostLast-host != many {
		return fail("%d host ports for %d ports", int(hostLast-host)+1, int(many)+1)
	}
	var all []Spec
	for i := range int(many) + 1 {
		s := Spec{HostIP: ip, HostPort: host, HostLast: hostLast, Port: port + uint16(i), Proto: proto}
		if host != 0 && many > 0 {
			s.HostPort, s.HostLast = host+uint16(i), host+uint16(i)
		}
		all = append(all, s)
	}
	return all, nil
}

// cutHost takes the host address off the front. An IPv6 address stands in brackets, as its colons would be read as ours.
func cutHost(text string) (ip netip.Addr, rest string, err error) {
	host := ""
	switch {
	case strings.HasPrefix(text, "["):
		inside, after, closed := strings.Cut(text[1:], "]")
		if !closed || !strings.HasPrefix(after, ":") {
			return ip, "", errors.New("'[' without ']:'")
		}
		host, rest = inside, after[1:]
	case strings.Count(text, ":") == 2:
		host, rest, _ = strings.Cut(text, ":")
	case strings.Count(text, ":") > 2:
		return ip, "", errors.New("too many colons: an IPv6 address goes in brackets")
	default:
		return ip, text, nil
	}
	if ip, err = netip.ParseAddr(host); err != nil {
		return ip, "", fmt.Errorf("host address %q is not an IP address", host)
	}
	if ip.Zone() != "" || ip.Is4In6() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return ip, "", fmt.Errorf("host address %q can not be a host's own", host)
	}
	return ip, rest, nil
}

// most is how many ports one range may name.
const most = 1024

// ports reads a port or a range of ports.
func ports(text string) (first, last uint16, err error) {
	a, b, ranged := strings.Cut(text, "-")
	if first, err = port(a); err != nil {
		return 0, 0, err
	}
	if !ranged {
		return first, first, nil
	}
	if last, err = port(b); err != nil {
		return 0, 0, err
	}
	if last < first || last-first >= most {
		return 0, 0, fmt.Errorf("%q is not a range of 1 to %d ports", text, most)
	}
	return first, last, nil
}

func port(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '+' {
		return 0, fmt.Errorf("%q is not a number from 1 to 65535", text)
	}
	return uint16(n), nil
}
