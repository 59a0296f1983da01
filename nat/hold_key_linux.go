package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// heldKey is the key of a map of the kernel: a port of one network namespace. Two kinds of entry are there beside the
// ports that are held: one without address for a port of which single addresses are held, so that most binds are looked
// up once, and one without protocol, family and address for each number.
type heldKey struct {
	Cookie uint64   // of the namespace
	Addr   [16]byte // IPv4 in the first four; zero for every address
	Port   [2]byte  // as in a packet
	Proto  uint8
	Family uint8 // 4 or 6
	Pad    [4]byte
}

// heldFlags is what the map says of an entry.
type heldFlags uint32

const (
	heldRow    heldFlags = 1 << iota // a port that is held
	heldTaken                        // a program had it before
	heldBefore                       // of a number: it was in ip_local_reserved_ports without us
)

// key is where a port is in the map.
func (p *pinned) key(port Port) heldKey {
	key := p.number(port.Number)
	key.Proto, key.Family = port.Protocol(), family(port.IP)
	copy(key.Addr[:], port.IP.AsSlice())
	return key
}

// number is where its number is.
func (p *pinned) number(n uint16) heldKey {
	key := heldKey{Cookie: p.cookie}
	binary.BigEndian.PutUint16(key.Port[:], n)
	return key
}

func (k heldKey) whole() heldKey {
	k.Addr = [16]byte{}
	return k
}

// numbered is the number of the key.
func (k heldKey) numbered() uint16 { return binary.BigEndian.Uint16(k.Port[:]) }

func (k heldKey) port() Port {
	p := Port{Number: k.numbered(), IP: netip.AddrFrom16(k.Addr)}
	if k.Family == 4 {
		p.IP = netip.AddrFrom4([4]byte(k.Addr[:]))
	}
	switch k.Proto {
	case unix.IPPROTO_TCP:
		p.Proto = "tcp"
	case unix.IPPROTO_UDP:
		p.Proto = "udp"
	case unix.IPPROTO_SCTP:
		p.Proto = "sctp"
	}
	return p
}

// each goes through what is ours of the map.
func (p *pinned) each(visit func(heldKey, heldFlags)) error {
	const many = 4096
	keys, flags := make([]heldKey, many), make([]heldFlags, many)
	for cursor := new(ebpf.MapBatchCursor); ; {
		n, err := p.ports.BatchLookup(cursor, keys, flags, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read the ports that are held: %w", err)
		}
		for i, key := range keys[:n] {
			if key.Cookie == p.cookie {
				visit(key, flags[i])
			}
		}
		if err != nil {
			return nil
		}
	}
}

func (p *pinned) read(key heldKey) (flags heldFlags, there bool, err error) {
	err = p.ports.Lookup(key, &flags)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read whether a port is held: %w", err)
	}
	return flags, true, nil
}

func (p *pinned) write(key heldKey, flags heldFlags) error {
	if err := p.ports.Put(key, flags); err != nil {
		return fmt.Errorf("hold port: %w", err)
	}
	return nil
}
