package agent

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// TraceRequest asks for the way of packets. The ends are addresses, or names of endpoints of this host.
type TraceRequest struct {
	From, To string
	Proto    string // "tcp", "udp", "sctp", "icmp"; "": any
	Port     uint16 // 0: any
}

// Trace is the way of packets through this host as the latest pass foresees it.
type Trace struct {
	From   netip.Addr `json:"from"`
	To     netip.Addr `json:"to"`
	Proto  string     `json:"proto"` // "" when none was asked for
	Port   uint16     `json:"port"`  // 0 the same
	Hops   []TraceHop `json:"hops"`
	Way    string     `json:"way"`    // a way of fairlead_fastpath_packets_total, or "dropped: " and a word
	MTU    int        `json:"mtu"`    // bytes of the largest packet; 0 when they are dropped
	Source string     `json:"source"` // whose address the destination sees: "own", "host"; "" when they are dropped
}

// TraceHop is one step of the way.
type TraceHop struct {
	Where string `json:"where"`
	What  string `json:"what"`
}

// Whose address a destination sees.
const (
	sourceOwn  = "own"
	sourceHost = "host"
)

// The ways that no counter of the fast path has.
const (
	dropNoLink    = "dropped: no-link"     // the endpoint has no link on this host now
	dropNobody    = "dropped: no-endpoint" // an address of this host's block that no endpoint has
	dropApart     = "dropped: networks-apart"
	dropHairpin   = "dropped: hairpin-off" // an endpoint's own published port, where [nat] hairpin is off
	fastIsOff     = "the fast path is off"
	kernelsOwnWay = "kernel-route"
)

// Trace foresees the way of packets. Errors wrap ErrBadRequest or ErrNotFound and say what would be right.
func (a *Agent) Trace(q TraceRequest) (Trace, error) {
	o, _, _ := a.seen()
	if o.finished.IsZero() || o.in.uninstall {
		return Trace{}, fmt.Errorf("trace: %w: nothing is set up now: fairlead status says why", ErrStopped)
	}
	var own []netip.Addr
	all, err := net.InterfaceAddrs()
	if err != nil {
		return Trace{}, fmt.Errorf("trace: ask for the addresses of this host: %w", err)
	}
	for _, ip := range all {
		if p, err := netip.ParsePrefix(ip.String()); err == nil {
			own = append(own, p.Addr().Unmap())
		}
	}
	t, err := foresee(&o, q, own)
	if err != nil {
		return Trace{}, fmt.Errorf("trace: %w", err)
	}
	return t, nil
}

// foresee is Trace on the outcome of a pass and the host's own addresses. It is pure.
func foresee(o *outcome, q TraceRequest, own []netip.Addr) (Trace, error) {
	if err := q.check(); err != nil {
		return Trace{}, err
	}
	w := &walk{o: o, d: &o.desired, in: &o.in, own: own}
	from, to, err := w.ends(q)
	if err != nil {
		return Trace{}, err
	}
	w.Trace = Trace{From: from, To: to, Proto: q.Proto, Port: q.Port, Hops: []TraceHop{}, Source: sourceOwn}
	w.from, w.to = w.party(from), w.party(to)
	if err := w.possible(); err != nil {
		return Trace{}, err
	}
	w.walk()
	if strings.HasPrefix(w.Way, "dropped") {
		w.MTU, w.Source = 0, ""
	}
	return w.Trace, nil
}

func (q TraceRequest) check() error {
	known := []string{"tcp", "udp", "sctp", "icmp"}
	switch {
	case q.Proto != "" && !slices.Contains(known, q.Proto):
		return fmt.Errorf("%w: protocol %q is none of %s: want for instance tcp/80", ErrBadRequest, q.Proto, strings.Join(known, ", "))
	case q.Port != 0 && (q.Proto == "" || q.Proto == "icmp"):
		return fmt.Errorf("%w: port %d of no protocol that has ports: want for instance tcp/%d", ErrBadRequest, q.Port, q.Port)
	}
	return nil
}

// party is one end of the way.
type party struct {
	ip   netip.Addr
	name string // of the endpoint of this host that has it, "" when none has
	link string // the host side of its pair
	mtu  int    // of that link; 0: it has none now
}

func (p party) String() string {
	if p.name == "" {
		return p.ip.String()
	}
	return p.name + " (" + p.ip.String() + ")"
}

func (w *walk) party(ip netip.Addr) party {
	for _, r := range w.in.records {
		if slices.Contains(r.Addresses, ip) {
			link := w.in.rows[r.Name].HostIf
			return party{ip: ip, name: r.title(), link: link, mtu: w.d.endpoints[link].MTU}
		}
	}
	return party{ip: ip}
}

// ends are the addresses that are meant, of one family: IPv4 where both ends are names and have it.
func (w *walk) ends(q TraceRequest) (from, to netip.Addr, err error) {
	froms, err := w.addresses(q.From)
	if err != nil {
		return from, to, fmt.Errorf("SRC: %w", err)
	}
	tos, err := w.addresses(q.To)
	if err != nil {
		return from, to, fmt.Errorf("DST: %w", err)
	}
	for _, f := range froms {
		for _, t := range tos {
			if f.Is4() == t.Is4() {
				return f, t, nil
			}
		}
	}
	return from, to, fmt.Errorf("%w: %s and %s have no addresses of one family: give both ends as IPv4 or both as IPv6", ErrBadRequest, q.From, q.To)
}

// addresses are those of an end, IPv4 first.
func (w *walk) addresses(end string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(end); err == nil {
		if ip = ip.Unmap(); ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
			return nil, fmt.Errorf("%w: %s is no address that packets are routed to: give that of an endpoint or a host", ErrBadRequest, ip)
		}
		return []netip.Addr{ip}, nil
	}
	for _, name := range []func(record) string{func(r record) string { return r.Name }, record.title} {
		for _, r := range w.in.records {
			if name(r) == end && len(r.Addresses) > 0 {
				return slices.SortedFunc(slices.Values(r.Addresses), netip.Addr.Compare), nil
			}
		}
	}
	return nil, fmt.Errorf("%w: no endpoint %q here: fairlead endpoints lists them; give the address of one of another host", ErrNotFound, end)
}

// possible finds questions that have no answer on this host.
func (w *walk) possible() error {
	block := w.blockOf(w.from.ip)
	switch {
	case w.from.ip == w.to.ip:
		return fmt.Errorf("%w: %s is both ends: its packets leave no link", ErrBadRequest, w.from)
	case w.from.name == "" && block.IsValid():
		return fmt.Errorf("%w: no endpoint has %s, which is of this host's block %s: fairlead endpoints lists them", ErrNotFound, w.from.ip, block)
	case w.isOwn(w.to.ip) && (w.Proto == "" || w.Proto == "icmp" || w.Port == 0):
		return fmt.Errorf("%w: %s is this host's own address, and packets for it end here: to follow a published port, name it: tcp/8080 (fairlead ports lists them)",
			ErrBadRequest, w.to.ip)
	case w.isOwn(w.to.ip):
		if _, _, published := w.published(); !published {
			return fmt.Errorf("%w: %s is this host's own address, and %s/%d of it leads to no endpoint: fairlead ports lists those that do",
				ErrNotFound, w.to.ip, w.Proto, w.Port)
		}
	case w.from.name == "" && w.to.name == "" && !w.isOwn(w.from.ip) && !w.blockOf(w.to.ip).IsValid():
		return fmt.Errorf("%w: neither %s nor %s is of this host: ask a host that has one of them%s", ErrBadRequest, w.from, w.to, w.whose())
	}
	return nil
}

// whose names a host that has one of the ends.
func (w *walk) whose() string {
	for _, ip := range []netip.Addr{w.from.ip, w.to.ip} {
		if p, there := longest(pathsOf(w.o.desired.routes), ip); there {
			return ": " + ip.String() + " is of " + cmp.Or(w.routeTo(p).Node, p.String())
		}
	}
	return ""
}

func (w *walk) isOwn(ip netip.Addr) bool {
	u := w.in.underlay
	return ip.IsLoopback() || ip == u.Address.Unmap() || ip == u.Address6 || slices.Contains(w.own, ip)
}

// blockOf is this host's block that an address is of, invalid when it is of none.
func (w *walk) blockOf(ip netip.Addr) netip.Prefix {
	for _, b := range w.in.blocks {
		if b.IsValid() && b.Contains(ip) {
			return b
		}
	}
	return netip.Prefix{}
}

// longest is the narrowest prefix of a table that holds an address.
func longest[V any](table map[netip.Prefix]V, ip netip.Addr) (p netip.Prefix, there bool) {
	for bits := ip.BitLen(); bits >= 0; bits-- {
		p, _ = ip.Prefix(bits)
		if _, there = table[p]; there {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// pathsOf are routes by their prefixes.
func pathsOf(routes []Route) map[netip.Prefix]Route {
	all := make(map[netip.Prefix]Route, len(routes))
	for _, r := range routes {
		all[r.Prefix] = r
	}
	return all
}

// routeTo is the route to a prefix as people see it.
func (w *walk) routeTo(p netip.Prefix) Route { return pathsOf(w.d.routes)[p] }
