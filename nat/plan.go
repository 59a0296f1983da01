package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// links are the names of our links and of nobody else's, in the words of iptables.
const links = "fl+"

// MetadataPort is where the daemon tells containers about themselves, on their gateway.
const MetadataPort = 8088

// Input is everything that the plan of a host's address translation depends on.
type Input struct {
	Pools     []Pool
	Node      []netip.Addr // this host's addresses, at most one of each family
	Nodes     []netip.Addr // of the other nodes: they know the way back to containers
	Uplinks   []string     // links that lead out of this host
	Gateways  []netip.Addr // of endpoints, at most one of each family: where they ask for their metadata
	Hairpin   bool         // an endpoint reaches itself by a port of this host
	Mappings  []Mapping
	Endpoints map[string][]netip.Addr // their addresses, by name: those that are there
	Networks  []Network
}

// Pool is an address range of containers.
type Pool struct {
	CIDR     netip.Prefix
	Outgoing bool // beyond all pools its addresses are not known, and are hidden behind the host's
	Blurred  bool // its nodes can not be told from strangers, so that whoever hides would hide from them too
}

// Rows is what the kernel shall hold.
type Rows struct {
	Holds    map[Port]Fault
	Ports    map[Port]Rule
	Members  map[Member]Fault
	Outgoing map[EntryKey]Entry // of FAIRLEAD-SNAT
	Forward  map[EntryKey]Entry // of FAIRLEAD-FORWARD
	Input    map[EntryKey]Entry // of FAIRLEAD-INPUT
	Apart    map[EntryKey]Entry // of FAIRLEAD-APART
	Loopback []string           // endpoints to which programs on the host come by 127.0.0.1, sorted
}

// NewRows is no row at all.
func NewRows() Rows {
	return Rows{
		Holds: make(map[Port]Fault), Ports: make(map[Port]Rule), Members: make(map[Member]Fault),
		Outgoing: make(map[EntryKey]Entry), Forward: make(map[EntryKey]Entry), Input: make(map[EntryKey]Entry),
		Apart: make(map[EntryKey]Entry),
	}
}

// Plan works out every row from the inputs.
func Plan(in Input) Rows {
	r := NewRows()
	r.ports(in)
	r.outgoing(in)
	r.forward(in)
	r.input(in)
	r.apart(in)
	return r
}

func (r *Rows) ports(in Input) {
	local, internal := make(map[string]bool), in.internal()
	for _, m := range in.Mappings {
		r.Holds[m.Port] = ""
		i := slices.IndexFunc(in.Endpoints[m.Owner], func(a netip.Addr) bool { return a.Is4() == m.Port.IP.Is4() })
		if i < 0 || internal[in.Endpoints[m.Owner][i].Unmap()] {
			continue
		}
		r.Ports[m.Port] = Rule{To: netip.AddrPortFrom(in.Endpoints[m.Owner][i], m.Target)}
		if m.Port.IP.Is4() && (m.Port.IP.IsUnspecified() || m.Port.IP.IsLoopback()) && !local[m.Owner] {
			local[m.Owner] = true
			r.Loopback = append(r.Loopback, m.Owner)
		}
	}
	slices.Sort(r.Loopback)
}

// nodeSet is the set of the other nodes.
func nodeSet(family int) string { return fmt.Sprintf("%snodes%d", setPrefix, family) }

// outgoing is who is seen by which address. The names of the entries are their order: a packet takes the first that fits.
func (r *Rows) outgoing(in Input) {
	for _, family := range in.families() {
		put := func(name, spec string) { r.Outgoing[EntryKey{name, family}] = EntryOf(spec) }
		as := "MASQUERADE"
		if node := in.node(family); node.IsValid() {
			as = "SNAT --to-source " + node.String()
		}
		if in.Hairpin && len(r.Ports) > 0 {
			// Its own address as the source of what comes in would be thrown away as forged.
			put("hairpin", fmt.Sprintf("-o %s -m bpf --bytecode %q -j %s", links, toItself(family), as))
		}
		if family == 4 && len(r.Loopback) > 0 {
			put("local", fmt.Sprintf("-s 127.0.0.0/8 -o %s -j %s", links, as))
		}
		hidden := r.hide(in, family, put)
		for _, p := range in.Pools {
			if familyOf(p.CIDR.Addr()) == family && p.Outgoing {
				put("way out "+p.CIDR.String(), fmt.Sprintf("-s %s -j MASQUERADE --random-fully", p.CIDR))
				hidden = true
			}
		}
		if !hidden {
			continue
		}
		r.expose(in, family, put)
		for _, p := range in.Pools {
			if familyOf(p.CIDR.Addr()) == family {
				put("to "+p.CIDR.String(), fmt.Sprintf("-d %s -j RETURN", p.CIDR))
			}
		}
		for _, a := range in.Nodes {
			if m := (Member{nodeSet(family), a.Unmap()}); familyOf(a) == family {
				r.Members[m.set()], r.Members[m] = "", ""
				put("to nodes", fmt.Sprintf("-m set --match-set %s dst -j RETURN", m.Set))
			}
		}
	}
}

// forward lets our packets through a policy of DROP, which Docker sets: between our links, and between them and the links
// that lead out of the host. What is behind other links has rules of its own.
func (r *Rows) forward(in Input) {
	for _, family := range in.families() {
		put := func(name, spec string) { r.Forward[EntryKey{name, family}] = EntryOf(spec) }
		put("within", fmt.Sprintf("-i %s -o %s -j ACCEPT", links, links))
		for _, dev := range in.Uplinks {
			put("from "+dev, fmt.Sprintf("-i %s -o %s -j ACCEPT", dev, links))
			put("to "+dev, fmt.Sprintf("-i %s -o %s -j ACCEPT", links, dev))
		}
	}
}

// input keeps containers from what listens on 127.0.0.0/8, which the kernel does by itself except on links that take
// packets to these addresses; there answers to the host's programs come in, and nothing else may (CVE-2020-8558). And it
// lets them ask for their metadata where the host's firewall drops what it does not know.
func (r *Rows) input(in Input) {
	for _, a := range in.Gateways {
		if a.Is4() { // a link that once took such packets goes on to
			r.Input[LoopbackGuard()] = Drop("-d 127.0.0.0/8 -i " + links + " -m conntrack ! --ctstate RELATED,ESTABLISHED")
		}
		// Networks have gateways of their own, all of them link-local.
		local := netip.PrefixFrom(a, map[bool]int{true: 16, false: 64}[a.Is4()]).Masked()
		spec := fmt.Sprintf("-d %s -i %s -p tcp -m tcp --dport %d -j ACCEPT", local, links, MetadataPort)
		r.Input[EntryKey{"metadata", familyOf(a)}] = EntryOf(spec)
	}
}

// LoopbackGuard is the entry of FAIRLEAD-INPUT without which no link may take packets to 127.0.0.0/8.
func LoopbackGuard() EntryKey { return EntryKey{"loopback", 4} }

// families are those of the pools.
func (in Input) families() (all []int) {
	for _, family := range families() {
		if slices.ContainsFunc(in.Pools, func(p Pool) bool { return familyOf(p.CIDR.Addr()) == family }) {
			all = append(all, family)
		}
	}
	return all
}

// node is this host's address of a family, invalid when it has none.
func (in Input) node(family int) netip.Addr {
	for _, a := range in.Node {
		if a.IsValid() && familyOf(a) == family {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

func familyOf(a netip.Addr) int {
	if a.Unmap().Is4() {
		return 4
	}
	return 6
}

// toItself is a program of the classic BPF that takes packets whose source is their destination, in the form of iptables.
// Packets come to it with their IP header first.
func toItself(family int) string {
	const (
		load    = "32 0 0 %d" // BPF_LD|BPF_W|BPF_ABS, linux/bpf_common.h
		keep    = "7 0 0 0"   // BPF_MISC|BPF_TAX
		compare = "29 0 %d 0" // BPF_JMP|BPF_JEQ|BPF_X: over so many when they differ
		take    = "6 0 0 1"   // BPF_RET
		leave   = "6 0 0 0"
	)
	source, destination, words := 12, 16, 1 // RFC 791 section 3.1
	if family == 6 {
		source, destination, words = 8, 24, 4 // RFC 8200 section 3
	}
	var code []string
	for i := range words {
		rest := 4 * (words - i - 1)
		code = append(code, fmt.Sprintf(load, source+4*i), keep, fmt.Sprintf(load, destination+4*i), fmt.Sprintf(compare, rest+1))
	}
	code = append(code, take, leave)
	return fmt.Sprintf("%d,%s", len(code), strings.Join(code, ","))
}
