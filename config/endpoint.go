package config

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/nat"
)

// mostPorts bounds what one config may publish: a range of a few bytes is as many as a thousand ports.
const mostPorts = 1 << 16

// longestSpec is beyond what a SPEC of an IPv6 address and two ranges can have.
const longestSpec = 128

func (l *loader) endpoints() []Endpoint {
	var endpoints []Endpoint
	names := map[string]position{}
	c := claims{loader: l, asked: map[asked]position{}, held: map[nat.Port]claim{}, some: map[nat.Port]claim{}}
	for _, e := range l.elements["endpoint"] {
		s := section{l, "endpoint", e}
		one := Endpoint{Name: read(s, "name", endpointName)}
		if s.need("name", "web"); one.Name != "" {
			if at, again := names[one.Name]; again {
				l.add(s.at("name"), "endpoint.name: there is an endpoint %q already, at %s", one.Name, at)
			} else {
				names[one.Name] = s.at("name")
			}
		}
		one.Publish = c.publish(s, one.Name)
		endpoints = append(endpoints, one)
	}
	return endpoints
}

// claims are the ports that the endpoints read so far ask for.
type claims struct {
	*loader
	asked map[asked]position
	held  map[nat.Port]claim // by the address that was named, or the unspecified one of the family
	some  map[nat.Port]claim // the first on any address, by the unspecified one of the family
	ports int
}

// asked is what may be there once only.
type asked struct {
	endpoint string
	nat.Spec
}

// claim is who asked for a port, and where.
type claim struct {
	endpoint string
	at       position
}

// publish reads the SPECs of an endpoint. One that is in the way of another is noted, once for all of its ports.
func (c *claims) publish(s section, endpoint string) []nat.Spec {
	const key = "publish"
	texts, _ := s.value(key).([]string) // what is no list was said when it was read
	all := []nat.Spec{}
	for i, text := range texts {
		if c.ports > mostPorts {
			break // said, and nothing more is made of them
		}
		at := s.part(key, i)
		if len(text) > longestSpec {
			s.add(at, "endpoint.publish: %s is longer than any SPEC", quote(text))
			continue
		}
		specs, err := nat.ParseSpec(text)
		if err != nil {
			s.add(at, "endpoint.publish: %v", err)
			continue
		}
		if c.ports += len(specs); c.ports > mostPorts {
			s.add(at, "endpoint.publish: more than %d ports in all", mostPorts)
			continue
		}
		c.claim(endpoint, specs, at)
		all = append(all, specs...)
	}
	return all
}

func (c *claims) claim(endpoint string, specs []nat.Spec, at position) {
	for _, s := range specs {
		if first, again := c.asked[asked{endpoint, s}]; again {
			c.add(at, "endpoint.publish: %s is there already, at %s", s, first)
			return
		}
		c.asked[asked{endpoint, s}] = at
		if s.HostPort == 0 || s.HostPort != s.HostLast {
			continue // there is a choice
		}
		for _, p := range hostPorts(s) {
			if first, taken := c.taken(p); taken {
				c.add(at, "endpoint.publish: %s: host port %d/%s is published for endpoint %q already, at %s", s, p.Number, p.Proto, first.endpoint, first.at)
				return
			}
		}
		c.take(hostPorts(s), claim{endpoint, at})
	}
}

func (c *claims) taken(p nat.Port) (first claim, taken bool) {
	everywhere := anywhere(p)
	if p == everywhere {
		first, taken = c.some[p]
		return first, taken
	}
	if first, taken = c.held[p]; !taken {
		first, taken = c.held[everywhere]
	}
	return first, taken
}

func (c *claims) take(ports []nat.Port, by claim) {
	for _, p := range ports {
		c.held[p] = by
		if _, before := c.some[anywhere(p)]; !before {
			c.some[anywhere(p)] = by
		}
	}
}

// hostPorts are the ports of the host that a SPEC without a choice asks for: without an address, one of each family.
func hostPorts(s nat.Spec) []nat.Port {
	if s.HostIP.IsValid() {
		return []nat.Port{{Proto: s.Proto, IP: s.HostIP, Number: s.HostPort}}
	}
	return []nat.Port{
		{Proto: s.Proto, IP: netip.IPv4Unspecified(), Number: s.HostPort},
		{Proto: s.Proto, IP: netip.IPv6Unspecified(), Number: s.HostPort},
	}
}

// anywhere is the port on every address of the family.
func anywhere(p nat.Port) nat.Port {
	if p.IP.Is4() {
		p.IP = netip.IPv4Unspecified()
	} else {
		p.IP = netip.IPv6Unspecified()
	}
	return p
}
