package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/nat"
)

// The states of a port.
const (
	portMapped   = "mapped"   // packets go to its endpoint
	portReserved = "reserved" // for an endpoint that is not there yet
	portResting  = "resting"  // for one that was there
)

// Ports lists every port of this host that an endpoint has, or can have, by endpoint.
func (a *Agent) Ports() []Port {
	records, _ := a.recorded() // without the store a port is shown as reserved; nobody is told less of it
	o, _, _ := a.seen()
	return showPorts(a.room.Ports.All(), tenantsOf(records), o.desired.fast)
}

// tenant is who ports of the host lead to.
type tenant struct {
	name      string // that it is kept under
	title     string
	addresses []netip.Addr
}

// tenantsOf are endpoints by the names that ports can be owned by: an endpoint's own, and what people call a guest, of
// several the oldest.
func tenantsOf(records []record) map[string]tenant {
	all := make(map[string]tenant, len(records))
	since := make(map[string]time.Time)
	for _, r := range records {
		if r.Guest.Container != "" && (since[r.title()].IsZero() || r.Created.Before(since[r.title()])) {
			all[r.title()], since[r.title()] = tenant{r.Name, r.title(), r.Addresses}, r.Created
		}
	}
	for _, r := range records {
		all[r.Name] = tenant{r.Name, r.title(), r.Addresses}
	}
	return all
}

// portsOf is those of one endpoint.
func portsOf(all []nat.Mapping, r record, fast fastpath.Rows) []Port {
	var own []nat.Mapping
	for _, m := range all {
		if m.Owner == r.Name || m.Owner == r.Guest.Container {
			own = append(own, m)
		}
	}
	return showPorts(own, tenantsOf([]record{r}), fast)
}

// portsNamed is those of an owner, who need not be there.
func (a *Agent) portsNamed(name string) []Port {
	r, found, _ := a.called(name) // without the store, as in Ports
	if !found {
		r.Name = name
	}
	o, _, _ := a.seen()
	return portsOf(a.mappingsOf(r), r, o.desired.fast)
}

// showPorts is mappings as the API tells them. A port is mapped when there is an endpoint with an address of its family.
func showPorts(all []nat.Mapping, there map[string]tenant, fast fastpath.Rows) []Port {
	ports := []Port{}
	for _, m := range all {
		to, known := there[m.Owner]
		if !known {
			to.title = m.Owner
		}
		p := Port{
			Endpoint: to.title, HostIP: m.Port.IP, HostPort: m.Port.Number, Port: m.Target, Proto: m.Port.Proto,
			Backend: string(nat.IPTables), State: portReserved,
		}
		if _, translated := fast.Ports[fastPort(m.Port)]; translated {
			p.Backend = string(nat.EBPF)
		}
		switch {
		case m.Resting():
			p.State = portResting
		case slices.ContainsFunc(to.addresses, func(a netip.Addr) bool { return a.Is4() == m.Port.IP.Is4() }):
			p.State = portMapped
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(x, y Port) int {
		return cmp.Or(strings.Compare(x.Endpoint, y.Endpoint), cmp.Compare(x.Port, y.Port), strings.Compare(x.Proto, y.Proto),
			cmp.Compare(x.HostPort, y.HostPort), x.HostIP.Compare(y.HostIP))
	})
	return ports
}

// Environment is what an application learns of the ports that it has on this host. The error wraps ErrNotFound when there
// is neither an endpoint nor a reservation of that name.
func (a *Agent) Environment(name string) ([]Variable, error) {
	_, found, err := a.called(name)
	if err == nil && !found && len(a.room.Ports.Of(name)) == 0 {
		err = fmt.Errorf("%w: no endpoint %q here, and no port is reserved for it: fairlead endpoints and fairlead ports list them", ErrNotFound, name)
	}
	if err != nil {
		return nil, err
	}
	return a.environment(name), nil
}

func (a *Agent) environment(name string) []Variable {
	return environment(a.portsNamed(name), a.hostAddresses())
}

// hostAddresses are this host's, as others know it: IPv4 first.
func (a *Agent) hostAddresses() []netip.Addr {
	o, cfg, _ := a.seen()
	u := o.in.underlay
	all := slices.DeleteFunc([]netip.Addr{cmp.Or(u.Address, cfg.Node.Address), u.Address6}, func(ip netip.Addr) bool { return !ip.IsValid() })
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// environment names a port of the endpoint once: by the lowest port of the host that leads there by the addresses that are
// told. One that is published on another address alone is told with that.
func environment(ports []Port, host []netip.Addr) []Variable {
	all := []Variable{}
	for i, ip := range host {
		name := "FAIRLEAD_HOST_IP"
		if i > 0 {
			name += "6"
		}
		all = append(all, Variable{name, ip.String()})
	}
	known := make(map[string]bool)
	tell := func(p Port, told bool) {
		v := Variable{fmt.Sprintf("FAIRLEAD_PORT_%d_%s", p.Port, strings.ToUpper(p.Proto)), strconv.Itoa(int(p.HostPort))}
		if known[v.Name] {
			return
		}
		known[v.Name] = true
		if all = append(all, v); !told {
			all = append(all, Variable{v.Name + "_IP", p.HostIP.String()})
		}
	}
	here := func(p Port) bool { return p.HostIP.IsUnspecified() || slices.Contains(host, p.HostIP) }
	for _, p := range ports {
		if here(p) {
			tell(p, true)
		}
	}
	for _, p := range ports {
		tell(p, here(p))
	}
	return all
}
