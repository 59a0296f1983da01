package nettest

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// Container is a namespace that is attached to a node.
type Container struct {
	*Host
	Node      *Node
	Endpoint  string // its name for Fairlead
	IP4, IP6  netip.Addr
	HostIf    string
	addresses []netip.Addr
}

// Addresses are those of the container, IPv4 first.
func (c *Container) Addresses() []netip.Addr { return c.addresses }

// Attach makes a namespace and attaches it with the real command.
func (n *Node) Attach(name string, flags ...string) *Container {
	n.lab.t.Helper()
	c := &Container{Host: n.lab.host(name), Node: n, Endpoint: name}
	c.Reattach(flags...)
	return c
}

// Reattach attaches the namespace, again or for the first time.
func (c *Container) Reattach(flags ...string) {
	n := c.Node
	n.lab.t.Helper()
	out := n.Fairlead(append([]string{"attach", c.Endpoint, "--netns", c.Path, "-o", "json"}, flags...)...)
	var e struct {
		Addresses []netip.Addr `json:"addresses"`
		HostIf    string       `json:"host_ifname"`
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		n.lab.t.Fatalf("%s: attach %s: %v: %s", n.Name, c.Endpoint, err, out)
	}
	c.HostIf = e.HostIf
	c.hold(e.Addresses)
}

// Furnished is a namespace as a container of the node, to which others have given a link and addresses.
func (n *Node) Furnished(h *Host, name string, addresses ...netip.Addr) *Container {
	c := &Container{Host: h, Node: n, Endpoint: name}
	c.hold(addresses)
	return c
}

// hold notes the addresses.
func (c *Container) hold(all []netip.Addr) {
	c.addresses = nil
	for _, is4 := range []bool{true, false} {
		for _, a := range all {
			if a.Is4() == is4 {
				c.addresses = append(c.addresses, a)
			}
		}
	}
	for _, a := range c.addresses {
		if a.Is4() {
			c.IP4 = a
		} else {
			c.IP6 = a
		}
	}
}

// AttachAll attaches so many containers to every node, named after it: n1a, n1b.
func (l *Lab) AttachAll(each int) []*Container {
	l.t.Helper()
	var all []*Container
	for _, n := range l.Nodes {
		for i := range each {
			all = append(all, n.Attach(fmt.Sprintf("%s%c", n.Name, 'a'+i)))
		}
	}
	return all
}
