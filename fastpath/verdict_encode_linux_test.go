package fastpath_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// The values of the maps, written byte for byte from layout.h, which the product's own encoding knows nothing of.

func (e modelEndpoint) encode() []byte {
	b := words(e.link, e.home, e.realm, e.slot)
	b = binary.NativeEndian.AppendUint16(b, uint16(e.mtu))
	return append(b, e.mac[:]...)
}

func (s modelSide) encode() []byte { return append(append(words(s.home, s.slot), s.mac[:]...), 0, 0) }

func (h modelHop) encode() []byte {
	b := binary.NativeEndian.AppendUint16(words(h.link), uint16(h.mtu))
	family := byte(4)
	if h.next.Is6() {
		family = 6
	}
	b = append(b, h.encap, family)
	for _, a := range []netip.Addr{h.next, h.local, h.end} {
		b = append(b, slices.Concat(a.AsSlice(), make([]byte, 16))[:16]...)
	}
	return append(append(b, h.mac[:]...), 0, 0)
}

func (r modelRoute) encode() []byte {
	b := words(r.slot, r.used)
	for _, h := range r.hops {
		b = append(b, h.encode()...)
	}
	return b
}

func (s modelSettings) encode() []byte {
	flags := uint32(0)
	for i, is := range []bool{s.takesIPIP, s.takesVXLAN, s.takesAll, s.lacksIPIP, s.crosses, s.mapsPorts, s.hairpins} {
		if is {
			flags |= 1 << i
		}
	}
	b := append(append(words(flags, s.vni), s.local4.AsSlice()...), s.local6.AsSlice()...)
	b = binary.BigEndian.AppendUint16(append(append(b, s.mac4[:]...), s.mac6[:]...), s.port)
	return append(append(b, 0, 0), words(s.device)...)
}

func (f modelFlow) encode() []byte {
	b := append(f.near.AsSlice(), f.far.AsSlice()...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, f.nearPort), f.farPort)
	return append(b, f.protocol, 0, 0, 0)
}

func decodeFlow(b []byte) modelFlow {
	n := (len(b) - 8) / 2
	near, _ := netip.AddrFromSlice(b[:n])
	far, _ := netip.AddrFromSlice(b[n : 2*n])
	rest := b[2*n:]
	return modelFlow{
		near: near, far: far, protocol: rest[4],
		nearPort: binary.BigEndian.Uint16(rest), farPort: binary.BigEndian.Uint16(rest[2:]),
	}
}

func words(all ...uint32) (b []byte) {
	for _, n := range all {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

// ofFamily is the table of an address's family.
func (r *rig) ofFamily(table string, a netip.Addr) *ebpf.Map {
	if a.Is4() {
		return r.maps[table+"4"]
	}
	return r.maps[table+"6"]
}

// set makes the maps what the world is.
func (r *rig) set(t testing.TB, w *modelWorld) {
	t.Helper()
	for _, name := range []string{"fl_endpoints4", "fl_endpoints6", "fl_sides", "fl_routes4", "fl_routes6", "fl_nodes4", "fl_nodes6", "fl_flows4", "fl_flows6", "fl_here", "fl_ports", "fl_tuples", "fl_pieces"} {
		for _, key := range keysOf(t, r.maps[name]) {
			if err := r.maps[name].Delete(key); err != nil {
				t.Fatalf("clear %s: %v", name, err)
			}
		}
	}
	put := func(m *ebpf.Map, key, value []byte) {
		t.Helper()
		if err := m.Put(key, value); err != nil {
			t.Fatalf("put %x into %s: %v", key, m, err)
		}
	}
	for a, e := range w.endpoints {
		put(r.ofFamily("fl_endpoints", a), a.AsSlice(), e.encode())
	}
	for link, s := range w.sides {
		put(r.maps["fl_sides"], words(link), s.encode())
	}
	for p, route := range w.routes {
		put(r.ofFamily("fl_routes", p.Addr()), append(words(uint32(p.Bits())), p.Addr().AsSlice()...), route.encode())
	}
	for a := range w.nodes {
		put(r.ofFamily("fl_nodes", a), a.AsSlice(), words(1))
	}
	for f := range w.flows {
		put(r.ofFamily("fl_flows", f.near), f.encode(), make([]byte, 8))
	}
	w.here.mapsPorts, w.here.hairpins = w.ports.on, w.ports.hairpins
	put(r.maps["fl_settings"], words(0), w.here.encode())
	for a := range w.ports.own {
		put(r.maps["fl_here"], append(wide(a), words(uint32(familyOf(a)))...), words(1))
	}
	for p, to := range w.ports.leads {
		key := append(binary.BigEndian.AppendUint16(wide(p.at.Addr()), p.at.Port()), p.proto, familyOf(p.at.Addr()))
		put(r.maps["fl_ports"], key, append(binary.BigEndian.AppendUint16(wide(to.Addr()), to.Port()), 0, 0))
	}
	r.connect(t, w.ports.conns)
	for d, other := range w.ports.pieces {
		put(r.maps["fl_pieces"], d.encode(), other.encode())
	}
}

// connect makes the table of connections what is given.
func (r *rig) connect(t testing.TB, conns map[modelTuple]modelConn) {
	t.Helper()
	for _, key := range keysOf(t, r.maps["fl_tuples"]) {
		if err := r.maps["fl_tuples"].Delete(key); err != nil {
			t.Fatalf("clear connections: %v", err)
		}
	}
	for k, c := range conns {
		if err := r.maps["fl_tuples"].Put(k.encode(), c.encode()); err != nil {
			t.Fatalf("put connection %v: %v", k, err)
		}
	}
}

// wide is an address of either family as a table of both has it.
func wide(a netip.Addr) []byte { return slices.Concat(a.AsSlice(), make([]byte, 16))[:16:16] }

func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return 4
	}
	return 6
}

func narrow(b []byte, family byte) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b))
}

func (k modelTuple) encode() []byte {
	b := append(wide(k.near.Addr()), wide(k.far.Addr())...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, k.near.Port()), k.far.Port())
	inside := byte(0)
	if k.inside {
		inside = 1
	}
	return append(b, k.proto, familyOf(k.near.Addr()), inside, 0)
}

func decodeTuple(b []byte) modelTuple {
	return modelTuple{
		near: netip.AddrPortFrom(narrow(b, b[37]), binary.BigEndian.Uint16(b[32:])),
		far:  netip.AddrPortFrom(narrow(b[16:], b[37]), binary.BigEndian.Uint16(b[34:])), proto: b[36], inside: b[38] != 0,
	}
}

func (c modelConn) encode() []byte {
	return append(append(c.other.encode(), words(c.link, c.state)...), make([]byte, 8)...)
}

func decodeConn(b []byte) modelConn {
	return modelConn{
		other: decodeTuple(b), link: binary.NativeEndian.Uint32(b[40:]), state: binary.NativeEndian.Uint32(b[44:]),
	}
}

func (d modelDatagram) encode() []byte {
	return slices.Concat(wide(d.from), wide(d.to), words(d.id, uint32(familyOf(d.from))))
}

func decodeDatagram(b []byte) modelDatagram {
	family := byte(binary.NativeEndian.Uint32(b[36:]))
	return modelDatagram{narrow(b, family), narrow(b[16:], family), binary.NativeEndian.Uint32(b[32:])}
}

func keysOf(t testing.TB, m *ebpf.Map) (keys [][]byte) {
	t.Helper()
	var key []byte
	var err error
	for key, err = m.NextKeyBytes(nil); key != nil && err == nil; key, err = m.NextKeyBytes(key) {
		keys = append(keys, key)
	}
	if err != nil {
		t.Fatalf("list %s: %v", m, err)
	}
	return keys
}
