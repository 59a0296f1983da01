package nat

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// portForm has the rules of mappings in chains that are split by protocol and by port, so that a packet meets few of
// them however many there are. A rule never moves to another chain: where it is depends on its port alone.
//
//	FAIRLEAD-DNAT ── -t (tcp) ── -t16384-32767 ── -t16384-20479 ── … ── -t16416-16447 ── the rules of these 32 ports
//
// A packet goes from chain to chain by goto: when no rule is for it, it is through at once.
//
// With 4 ways at most places and 32 ports at the end, one of 10,000 mappings is found after 18 checks on the average when
// their ports are random, after 30 when they are in a row, and after 59 at most. Twice as many ports at the end would be
// more checks; half as many would be twice as many chains, which take iptables longer to write than rules.
type portForm struct{}

const (
	dnatChain = "FAIRLEAD-DNAT"
	depth     = 5 // blocks within blocks
)

// levels are the sizes of the blocks of ports that have a chain each, from the top.
func levels() [depth]int { return [depth]int{1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 5} }

// transports are the protocols that can be mapped, with the number that stands in a rule, in the order in which packets are asked.
func transports() [3][2]string { return [3][2]string{{"tcp", "6"}, {"udp", "17"}, {"sctp", "132"}} }

// ranked is the place of a protocol, -1 of one that can not be mapped.
func ranked(proto string) int {
	for i, p := range transports() {
		if p[0] == proto {
			return i
		}
	}
	return -1
}

// mappable tells what is wrong with a mapping that no rule can be made of.
func mappable(p Port, r Rule) error {
	switch {
	case ranked(p.Proto) < 0:
		return fmt.Errorf("protocol %q can not be mapped", p.Proto)
	case !p.IP.IsValid() || p.IP.Is4In6() || p.IP.Zone() != "" || p.Number == 0:
		return fmt.Errorf("%s is no port of a host", p)
	case r.To.Addr().Is4() != p.IP.Is4() || !r.To.IsValid() || r.To.Addr().Zone() != "" || r.To.Port() == 0:
		return fmt.Errorf("%s can not go %s", p, r)
	}
	return nil
}

// top is the chain of a protocol.
func top(proto string) string { return dnatChain + "-" + proto[:1] }

// block is the chain of a block of ports, which begins at first.
func block(proto string, first, size int) string {
	return top(proto) + strconv.Itoa(first) + "-" + strconv.Itoa(first+size-1)
}

func (portForm) family(p Port) int {
	if p.IP.Is4() {
		return 4
	}
	return 6
}

func (portForm) path(p Port) []string {
	all := []string{dnatChain, top(p.Proto)}
	for _, size := range levels() {
		all = append(all, block(p.Proto, int(p.Number)/size*size, size))
	}
	return all
}

func (portForm) chains(rows map[Port]Rule) map[string][]string {
	ports := slices.SortedFunc(maps.Keys(rows), byPlace)
	all := map[string][]string{dnatChain: nil}
	proto := ""
	var in [depth]struct {
		block int // of each level that the port before was in, counted from 1
		chain string
	}
	for _, p := range ports {
		if p.Proto != proto {
			proto = p.Proto
			clear(in[:])
			all[dnatChain] = append(all[dnatChain], "-p "+transports()[ranked(proto)][1]+" -g "+top(proto))
		}
		from := top(proto)
		for i, size := range levels() {
			if n := int(p.Number) / size; in[i].block != n+1 {
				in[i].block, in[i].chain = n+1, block(proto, n*size, size)
				all[from] = append(all[from], toBlock(proto, n*size, size, in[i].chain))
			}
			from = in[i].chain
		}
		all[from] = append(all[from], p.line(rows[p]))
	}
	return all
}

// byPlace is the order of mappings in the chains. A packet asks for its own address before it asks for any.
func byPlace(a, b Port) int {
	if c := cmp.Or(cmp.Compare(ranked(a.Proto), ranked(b.Proto)), cmp.Compare(a.Number, b.Number)); c != 0 {
		return c
	}
	if a.IP.IsUnspecified() != b.IP.IsUnspecified() {
		if a.IP.IsUnspecified() {
			return 1
		}
		return -1
	}
	return a.IP.Compare(b.IP)
}

// toBlock is the rule that leads to the chain of a block.
func toBlock(proto string, first, size int, to string) string {
	return "-p " + transports()[ranked(proto)][1] + " -m " + proto + " --dport " +
		strconv.Itoa(first) + ":" + strconv.Itoa(first+size-1) + " -g " + to
}

// line is the rule of a mapping.
func (p Port) line(r Rule) string {
	host := ""
	if !p.IP.IsUnspecified() {
		host = "-d " + netip.PrefixFrom(p.IP, p.IP.BitLen()).String() + " "
	}
	return host + "-p " + transports()[ranked(p.Proto)][1] + " -m " + p.Proto + " --dport " +
		strconv.Itoa(int(p.Number)) + " -j DNAT --to-destination " + r.To.String()
}

func (portForm) row(text string, family int) (p Port, r Rule, canon string, ours bool) {
	f := strings.Fields(text)
	p.IP = every(family)
	if len(f) == 12 && f[0] == "-d" {
		host, err := netip.ParsePrefix(f[1])
		if err != nil || !host.IsSingleIP() || host.Addr().Is4() != (family == 4) || host.Addr().IsUnspecified() {
			return p, r, "", false
		}
		p.IP, f = host.Addr(), f[2:]
	}
	if len(f) != 10 {
		return p, r, "", false
	}
	number, err := port(f[5])
	p.Proto, p.Number = f[3], number
	if err != nil || ranked(p.Proto) < 0 {
		return p, r, "", false
	}
	r.To, err = netip.ParseAddrPort(f[9])
	if err != nil || mappable(p, r) != nil {
		return p, r, "", false
	}
	canon = p.line(r)
	c := strings.Fields(canon)
	return p, r, canon, slices.Equal(f[:9], c[len(c)-10:len(c)-1])
}

func (portForm) faulty(r Rule, fault Fault) Rule { return Rule{To: r.To, Fault: fault} }

func (portForm) leftover(family int) (Port, Rule) {
	return Port{Proto: leftover, IP: every(family)}, Rule{Fault: leftover}
}
