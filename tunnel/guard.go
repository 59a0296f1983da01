package tunnel

import (
	"fmt"
	"net/netip"
	"strings"
)

// The sets of outer sources. Their names end in the family of the addresses.
const (
	peerSet    = "fairlead-peers" // the nodes
	partnerSet = "fairlead-"      // and an encapsulation: the far ends of tunnels of that kind that are not ours
)

// Source is an address that outer headers may come from, in one of the sets that guards ask for. With the unspecified
// address it is the set itself.
type Source struct {
	Set string
	IP  netip.Addr
}

func (s Source) String() string { return fmt.Sprintf("%v in %s", s.IP, s.Set) }

// GuardKey names what is kept from strangers: the packets of an encapsulation over one family.
type GuardKey struct {
	Encap  Encap
	Family int // of the outer header, 4 or 6
}

func (k GuardKey) String() string { return fmt.Sprintf("%s over IPv%d", k.Encap, k.Family) }

// Guard is which encapsulated packets this host takes from its peers only.
type Guard struct {
	VNI, Port int        // of VXLAN
	Local     netip.Addr // of IPIP and GRE: packets to other addresses of this host do not get to our devices
}

func (g Guard) String() string {
	if g.Local.IsValid() {
		return fmt.Sprintf("to %v", g.Local)
	}
	return fmt.Sprintf("vxlan %d port %d", g.VNI, g.Port)
}

// Guards are those of the devices: what a device would take off the wire, its guard lets in from peers only. While a
// device is kept, so must its guard be.
//
// VXLAN is guarded at every address of this host, since its device listens at all of them. Packets with another VNI are
// left alone: they are for another device at the same port, such as those of Docker's own overlay networks.
func Guards(devices map[string]Device) map[GuardKey]Guard {
	guards := make(map[GuardKey]Guard, len(devices))
	for _, d := range devices {
		if d.Kind == VXLAN {
			guards[d.guardKey()] = Guard{VNI: d.VNI, Port: d.Port}
			continue
		}
		guards[d.guardKey()] = Guard{Local: d.Local}
	}
	return guards
}

// Sources are the sets that the guards of the devices ask for, with the peers in them, and with the far ends of such
// tunnels of the administrator's as would be cut off otherwise.
func Sources(devices map[string]Device, peers []netip.Addr, partners map[Source]struct{}) map[Source]struct{} {
	all := make(map[Source]struct{})
	for _, d := range devices {
		k := d.guardKey()
		for _, set := range k.sets() {
			all[Source{set, k.anyone()}] = struct{}{}
		}
		for _, p := range peers {
			if p = p.Unmap().WithZone(""); p.IsValid() && !p.IsUnspecified() && p.Is4() == d.Local.Is4() {
				all[Source{k.sets()[0], p}] = struct{}{}
			}
		}
	}
	for s := range partners {
		if _, asked := all[Source{s.Set, netip.IPv4Unspecified()}]; asked {
			all[s] = struct{}{}
		}
	}
	return all
}

func (d Device) guardKey() GuardKey {
	if d.Local.Is4() {
		return GuardKey{d.Kind, 4}
	}
	return GuardKey{d.Kind, 6}
}

// anyone is the unspecified address of the family.
func (k GuardKey) anyone() netip.Addr {
	if k.Family == 4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// sets are those whose members may send the packets, the peers first.
func (k GuardKey) sets() []string {
	sets := []string{fmt.Sprintf("%s%d", peerSet, k.Family)}
	if k.Encap != VXLAN {
		sets = append(sets, fmt.Sprintf("%s%s%d", partnerSet, k.Encap, k.Family))
	}
	return sets
}

// Spec tells in the words of iptables(8) which packets are a stranger's.
func (g Guard) Spec(k GuardKey) string {
	var spec string
	switch k.Encap {
	case VXLAN:
		spec = fmt.Sprintf(`-p 17 -m udp --dport %d -m bpf --bytecode "%s"`, g.Port, g.bytecode(k))
	case IPIP:
		spec = fmt.Sprintf("-d %v/%d -p 4", g.Local, g.Local.BitLen())
	case GRE:
		spec = fmt.Sprintf("-d %v/%d -p 47", g.Local, g.Local.BitLen())
	}
	for _, set := range k.sets() {
		spec += fmt.Sprintf(" -m set ! --match-set %s src", set)
	}
	return spec
}

// bytecode is the program of classic BPF that finds our VNI in a UDP packet, in the words of xt_bpf.
//
// An IPv6 packet in which UDP does not follow the header at once is taken for ours whatever its VNI: nothing that speaks
// VXLAN sends one, and a stranger must not get past with a longer chain of headers.
func (g Guard) bytecode(k GuardKey) string {
	program := []string{
		"177 0 0 0",                     // ldxb 4*([0]&0xf)  the length of the header
		"64 0 0 12",                     // ld [x+12]         behind the UDP header, the second word of VXLAN's
		"116 0 0 8",                     // rsh #8
		fmt.Sprintf("21 0 1 %d", g.VNI), // jne #VNI, miss
		"6 0 0 65535",                   // ret #65535
		"6 0 0 0",                       // miss: ret #0
	}
	if k.Family == 6 {
		program = []string{
			"48 0 0 6",                      // ldb [6]           the next header
			"21 0 3 17",                     // jne #17, hit
			"32 0 0 52",                     // ld [52]
			"116 0 0 8",                     // rsh #8
			fmt.Sprintf("21 0 1 %d", g.VNI), // jne #VNI, miss
			"6 0 0 65535",                   // hit: ret #65535
			"6 0 0 0",                       // miss: ret #0
		}
	}
	return fmt.Sprintf("%d,%s", len(program), strings.Join(program, ","))
}
