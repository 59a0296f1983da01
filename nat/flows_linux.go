package nat

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What nl has no names for: include/uapi/linux/netfilter/nfnetlink_conntrack.h, and net/netfilter/nf_internals.h for the
// flags of a filter. Kernels before 5.8 know no filters, and tell everything.
const (
	ctaFilter     = 25
	ctaFilterOrig = 1
	filterProto   = 1 << 3
	filterPort    = 1 << 5 // of the destination
)

// flow is a connection in the kernel's tracking table.
type flow struct {
	proto uint8
	to    netip.AddrPort // where its first packet was sent
	from  netip.AddrPort // where the answers come from: the target, when the packet was translated
	name  []byte         // the attributes that name this connection and no later one like it
}

// service is what claims speak of: a protocol and a port, on whichever address.
type service struct {
	proto  uint8
	number uint16
}

// claim is a mapping that has changed.
type claim struct {
	ip        netip.Addr     // unspecified: every address of the host
	old, mine netip.AddrPort // targets; zero: there was, or is, none
}

// sieve tells the connections that have to go.
type sieve struct {
	claims map[service][]claim
	local  []localRoute // of the host; nil when no claim is for every address
}

// Forget removes connections from the kernel's tracking table: of mappings that are gone, those that go from the port to
// the old target; of mappings that were added, those to the port which do not go to its target (an old translation, or
// none). It touches no other. The rules must be changed already: each packet of a connection that is forgotten begins it
// anew. After an error some may be left, and it may be asked again.
func (k *Kernel) Forget(ctx context.Context, gone, added map[Port]netip.AddrPort) error {
	if len(gone)+len(added) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var w *wire // its own: a large table takes longer to read than others should wait
	if err := k.inside(func() (err error) { w, err = dial(); return err }); err != nil {
		return err
	}
	defer func() { _ = w.close() }()
	w.end = ctx.Done()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		s, err := k.sieve(family, gone, added)
		if err == nil && len(s.claims) > 0 {
			err = w.forget(ctx, family, s)
		}
		if err != nil {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return nil
}

// sieve is for the mappings of one family.
func (k *Kernel) sieve(family uint8, gone, added map[Port]netip.AddrPort) (sieve, error) {
	all := make(map[Port]claim)
	for p, to := range gone {
		all[p] = claim{ip: p.IP, old: to}
	}
	for p, to := range added {
		all[p] = claim{ip: p.IP, old: all[p].old, mine: to}
	}
	s := sieve{claims: make(map[service][]claim)}
	everywhere := false
	for p, c := range all {
		if p.IP.Is4() != (family == unix.AF_INET) {
			continue
		}
		proto := p.Protocol()
		if proto == 0 {
			return s, fmt.Errorf("%s: no such protocol", p)
		}
		key := service{proto, p.Number}
		s.claims[key] = append(s.claims[key], c)
		everywhere = everywhere || p.IP.IsUnspecified()
	}
	if !everywhere {
		return s, nil
	}
	err := k.inside(func() (err error) { s.local, err = localRoutes(family); return err })
	return s, err
}

// drops tells whether a connection has to go. One that goes to the target of a mapping at work is that mapping's, though
// another claim may cover it too: mappings can become narrower and wider.
func (s sieve) drops(f flow) bool {
	drop := false
	for _, c := range s.claims[service{f.proto, f.to.Port()}] {
		switch {
		case !s.covers(c, f.to.Addr()):
		case c.mine == f.from:
			return false
		case c.mine.IsValid() || c.old == f.from:
			drop = true
		}
	}
	return drop
}

func (s sieve) covers(c claim, ip netip.Addr) bool {
	return c.ip == ip || c.ip.IsUnspecified() && isLocal(s.local, ip)
}

// forget reads the table once and removes what has to go.
func (w *wire) forget(ctx context.Context, family uint8, s sieve) error {
	var drops []flow
	var err error
	for range dumpTries {
		drops = drops[:0]
		err = w.ask(s.listing(family), func(body []byte) {
			if f, ok := s.parse(body); ok && s.drops(f) {
				drops = append(drops, f)
			}
		})
		if !errors.Is(err, errTorn) { // what was read is good enough after some tries
			break
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("read the table: %w", ctx.Err())
	case errors.Is(err, unix.EINVAL): // of a subsystem that is not there
		return fmt.Errorf("read the table: this kernel does not tell its connections: modprobe nf_conntrack_netlink: %w", err)
	case err != nil && !errors.Is(err, errTorn):
		return fmt.Errorf("read the table: %w", err)
	}
	for _, f := range drops {
		err := w.ask(removal(family, f), func([]byte) {})
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil && !errors.Is(err, unix.ENOENT) { // it ended, or another one like it began
			return fmt.Errorf("remove the one to %v which goes to %v: %w", f.to, f.from, err)
		}
	}
	return nil
}

// listing asks for the connections of a family. The kernel itself leaves out the others as far as it can: with one mapping
// that is nearly all of them, and the cost is then a tenth.
func (s sieve) listing(family uint8) *nl.NetlinkRequest {
	req := connRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, family)
	var one service
	for key := range s.claims {
		switch {
		case one.proto == 0:
			one = key
		case one.proto != key.proto:
			return req
		default:
			one.number = 0
		}
	}
	flags := uint32(filterProto)
	proto := nl.NewRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{one.proto})
	if one.number != 0 {
		flags |= filterPort
		proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(one.number))
	}
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	tuple.AddChild(proto)
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(ctaFilterOrig, nl.Uint32Attr(flags))
	req.AddData(tuple)
	req.AddData(filter)
	return req
}

// removal is exact: without the name of a connection the kernel would take it for a wish to remove all.
func removal(family uint8, f flow) *nl.NetlinkRequest {
	req := connRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, family)
	req.AddRawData(f.name)
	return req
}

func connRequest(command, flags int, family uint8) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|command, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

// parse understands a row of the table, if it is to a port that a claim is about: few are.
func (s sieve) parse(body []byte) (f flow, ok bool) {
	var orig, reply, id, zone []byte // each with its header
	for rest := body; len(rest) > 0; {
		kind, value, next := attribute(rest)
		if value == nil {
			break
		}
		switch whole := rest[:len(rest)-len(next)]; kind {
		case nl.CTA_TUPLE_ORIG:
			proto, _, to := tuple(value)
			if f.proto, f.to = proto, to; s.claims[service{proto, to.Port()}] == nil {
				return f, false
			}
			orig = whole
		case nl.CTA_TUPLE_REPLY:
			_, f.from, _ = tuple(value)
			reply = whole
		case nl.CTA_ID:
			id = whole
		case nl.CTA_ZONE:
			zone = whole
		}
		rest = next
	}
	f.name = bytes.Join([][]byte{orig, zone, id}, nil)
	return f, orig != nil && reply != nil && id != nil
}

// tuple is one direction of a connection.
func tuple(b []byte) (proto uint8, src, dst netip.AddrPort) {
	var ips [2]netip.Addr
	var ports [2]uint16
	for kind, value := range attributes(b) {
		switch kind {
		case nl.CTA_TUPLE_IP:
			for kind, ip := range attributes(value) { // CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST
				ips[(kind-1)&1], _ = netip.AddrFromSlice(ip)
			}
		case nl.CTA_TUPLE_PROTO:
			for kind, v := range attributes(value) {
				switch {
				case kind == nl.CTA_PROTO_NUM && len(v) > 0:
					proto = v[0]
				case (kind == nl.CTA_PROTO_SRC_PORT || kind == nl.CTA_PROTO_DST_PORT) && len(v) > 1:
					ports[kind-nl.CTA_PROTO_SRC_PORT] = binary.BigEndian.Uint16(v)
				}
			}
		}
	}
	return proto, netip.AddrPortFrom(ips[0], ports[0]), netip.AddrPortFrom(ips[1], ports[1])
}
