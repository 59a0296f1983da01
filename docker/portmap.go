package docker

import (
	"fmt"
	"net/netip"
	"slices"
)

// portBinding is one published port as engines send it.
type portBinding struct {
	Proto                 int // number of IP
	Port                  uint16
	HostIP                netip.Addr // zero: every address of the host
	HostPort, HostPortEnd uint16     // 0: any free one
}

func (b portBinding) check() error {
	switch {
	case b.protocol() == "":
		return fmt.Errorf("protocol %d can not be published: there are tcp (6), udp (17), sctp (132)", b.Proto)
	case b.Port == 0:
		return fmt.Errorf("a port of the container is missing beside host port %d", b.HostPort)
	case b.HostPortEnd != 0 && b.HostPortEnd < b.HostPort, b.HostPort == 0 && b.HostPortEnd != 0:
		return fmt.Errorf("host ports %d-%d are no range", b.HostPort, b.HostPortEnd)
	case b.HostIP.Zone() != "":
		return fmt.Errorf("host address %s has a zone", b.HostIP)
	}
	return nil
}

func (b portBinding) protocol() string {
	switch b.Proto {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return ""
}

// spec is the binding in the words of the command line.
func (b portBinding) spec() string {
	text, ports := "", ""
	switch a := b.HostIP.Unmap(); {
	case a.Is4():
		text = a.String() + ":"
	case a.Is6():
		text = "[" + a.String() + "]:"
	}
	switch {
	case b.HostPort == 0 && text != "":
		ports = ":"
	case b.HostPort == 0:
	case b.HostPortEnd <= b.HostPort:
		ports = fmt.Sprintf("%d:", b.HostPort)
	default:
		ports = fmt.Sprintf("%d-%d:", b.HostPort, b.HostPortEnd)
	}
	return fmt.Sprintf("%s%s%d/%s", text, ports, b.Port, b.protocol())
}

// twin is the same binding for the other family, where b is for every address of the host of one.
func (b portBinding) twin() portBinding {
	if b.HostIP.Is4() {
		b.HostIP = netip.IPv6Unspecified()
	} else {
		b.HostIP = netip.IPv4Unspecified()
	}
	return b
}

// portSpecs are what to publish for an endpoint with addresses. 0.0.0.0 and :: side by side are one binding, so that a free
// port that is picked is the same for both. Where the endpoint has no address of the family, one of them alone is no reason
// for its container not to start, as it is none with Docker's own networks: it is left out.
func portSpecs(bindings []portBinding, addresses []netip.Addr) (specs []string, left []portBinding) {
	for _, b := range bindings {
		b.HostIP = b.HostIP.Unmap()
		sameFamily := func(a netip.Addr) bool { return a.Is4() == b.HostIP.Is4() }
		switch {
		case !b.HostIP.IsUnspecified():
		case slices.Contains(bindings, b.twin()):
			b.HostIP = netip.Addr{}
		case !slices.ContainsFunc(addresses, sameFamily):
			left = append(left, b)
			continue
		}
		specs = append(specs, b.spec())
	}
	slices.Sort(specs)
	return slices.Compact(specs), left
}
