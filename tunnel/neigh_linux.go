package tunnel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Neighbours is the table of permanent neighbours of our links: the tunnel devices and the host's sides of endpoints.
type Neighbours struct{ k *Kernel }

// FDB is the table of permanent forwarding entries of the tunnel devices: which VTEP has which MAC.
type FDB struct{ k *Kernel }

// Neighbours is the table of permanent neighbours.
func (k *Kernel) Neighbours() *Neighbours { return &Neighbours{k} }

// FDB is the table of forwarding entries.
func (k *Kernel) FDB() *FDB { return &FDB{k} }

// List reads the permanent neighbours of our links. What the kernel resolved by itself is not ours.
func (t *Neighbours) List(ctx context.Context) (map[NeighKey]MAC, error) {
	have := make(map[NeighKey]MAC)
	all := t.k.links()
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddData(&neighbour{})
	err := t.k.conn.dump(ctx, req, func() { clear(have) }, func(body []byte) {
		n := parseNeighbour(body)
		if n.state&unix.NUD_PERMANENT == 0 || n.family == unix.AF_BRIDGE {
			return
		}
		if dev := all.name(n.index); ourLink(dev) {
			have[NeighKey{dev, n.ip}] = n.mac
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read neighbours: %w", err)
	}
	return have, nil
}

// octetsOf is the length of link-layer addresses on one of our links: on a GRE tunnel they are IPv4 addresses.
func octetsOf(dev string) int {
	if dev == DeviceGRE {
		return 4
	}
	return len(MAC{})
}

// Put makes the neighbour permanent with that MAC.
func (t *Neighbours) Put(ctx context.Context, k NeighKey, m MAC) error {
	return t.Apply(ctx, map[NeighKey]MAC{k: m}, nil)[k]
}

// Delete removes the neighbour.
func (t *Neighbours) Delete(ctx context.Context, k NeighKey) error {
	return t.Apply(ctx, nil, []NeighKey{k})[k]
}

// Apply puts, then deletes, with few system calls, and returns what failed.
func (t *Neighbours) Apply(ctx context.Context, puts map[NeighKey]MAC, deletes []NeighKey) map[NeighKey]error {
	var edits []edit[NeighKey]
	for k, m := range puts {
		n := neighbour{family: familyOf(k.IP), state: unix.NUD_PERMANENT, ip: k.IP, mac: m, octets: octetsOf(k.Dev)}
		edits = append(edits, edit[NeighKey]{key: k, dev: k.Dev, entry: n})
	}
	for _, k := range deletes {
		n := neighbour{family: familyOf(k.IP), ip: k.IP}
		edits = append(edits, edit[NeighKey]{key: k, dev: k.Dev, entry: n, gone: true})
	}
	return write(ctx, t.k, edits)
}

// List reads the permanent entries of the tunnel devices. One with a port or VNI of its own shows no VTEP.
func (t *FDB) List(ctx context.Context) (map[FDBKey]netip.Addr, error) {
	have := make(map[FDBKey]netip.Addr)
	for _, dev := range []string{DeviceVXLAN, DeviceVXLAN6} {
		index, err := t.k.links().index(dev)
		if err != nil {
			continue // there is none
		}
		if err := t.read(ctx, dev, index, have); err != nil {
			return nil, fmt.Errorf("read forwarding entries of %s: %w", dev, err)
		}
	}
	return have, nil
}

func (t *FDB) read(ctx context.Context, dev string, index int, have map[FDBKey]netip.Addr) error {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	// In a strict request for forwarding entries this index filters by device.
	req.AddData(&neighbour{family: unix.AF_BRIDGE, index: index})
	return t.k.conn.dump(ctx, req, func() {}, func(body []byte) {
		n := parseNeighbour(body)
		if n.index == index && n.state&unix.NUD_PERMANENT != 0 {
			have[FDBKey{dev, n.mac}] = n.ip
		}
	})
}

// Put makes the VTEP the place of the MAC.
func (t *FDB) Put(ctx context.Context, k FDBKey, vtep netip.Addr) error {
	return t.Apply(ctx, map[FDBKey]netip.Addr{k: vtep}, nil)[k]
}

// Delete removes the entry.
func (t *FDB) Delete(ctx context.Context, k FDBKey) error {
	return t.Apply(ctx, nil, []FDBKey{k})[k]
}

// Apply puts, then deletes, with few system calls, and returns what failed.
func (t *FDB) Apply(ctx context.Context, puts map[FDBKey]netip.Addr, deletes []FDBKey) map[FDBKey]error {
	var edits []edit[FDBKey]
	for k, vtep := range puts {
		n := neighbour{family: unix.AF_BRIDGE, state: unix.NUD_PERMANENT, flags: unix.NTF_SELF, ip: vtep, mac: k.MAC, octets: len(k.MAC)}
		edits = append(edits, edit[FDBKey]{key: k, dev: k.Dev, entry: n})
	}
	for _, k := range deletes {
		n := neighbour{family: unix.AF_BRIDGE, flags: unix.NTF_SELF, mac: k.MAC, octets: len(k.MAC)}
		edits = append(edits, edit[FDBKey]{key: k, dev: k.Dev, entry: n, gone: true})
	}
	return write(ctx, t.k, edits)
}

// edit is one change of either table.
type edit[K comparable] struct {
	key   K
	dev   string
	entry neighbour
	gone  bool // to be removed
}

// write makes the changes and returns what failed. An entry of a link that is not there is gone already.
func write[K comparable](ctx context.Context, k *Kernel, edits []edit[K]) map[K]error {
	failed := make(map[K]error)
	all := k.links()
	var reqs []*nl.NetlinkRequest
	var sent []edit[K]
	for _, e := range edits {
		index, err := all.index(e.dev)
		if err == nil {
			e.entry.index = index
			reqs, sent = append(reqs, e.request()), append(sent, e)
		} else if !e.gone {
			failed[e.key] = err
		}
	}
	for i, err := range k.conn.write(ctx, reqs...) {
		if err != nil && !(sent[i].gone && absent(err)) {
			failed[sent[i].key] = waits(err)
		}
	}
	return failed
}

func (e edit[K]) request() *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if e.gone {
		req = nl.NewNetlinkRequest(unix.RTM_DELNEIGH, 0)
	}
	req.AddData(&e.entry)
	return req
}

// neighbour is a struct ndmsg with the attributes that we use.
type neighbour struct {
	family, flags uint8
	state         uint16
	index         int
	ip            netip.Addr
	mac           MAC
	octets        int // of mac that the link has, when it is written
}

// Len is the size of the message in bytes.
func (n *neighbour) Len() int { return len(n.Serialize()) }

// Serialize is the message as the kernel reads it.
func (n *neighbour) Serialize() []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = n.family
	binary.NativeEndian.PutUint32(b[4:], uint32(n.index))
	binary.NativeEndian.PutUint16(b[8:], n.state)
	b[10] = n.flags
	if n.ip.IsValid() {
		b = append(b, nl.NewRtAttr(unix.NDA_DST, n.ip.AsSlice()).Serialize()...)
	}
	if n.flags&unix.NTF_SELF != 0 || n.mac != (MAC{}) {
		b = append(b, nl.NewRtAttr(unix.NDA_LLADDR, n.mac[:n.octets]).Serialize()...)
	}
	return b
}

func parseNeighbour(body []byte) neighbour {
	n := neighbour{
		family: body[0],
		index:  int(binary.NativeEndian.Uint32(body[4:])),
		state:  binary.NativeEndian.Uint16(body[8:]),
		flags:  body[10],
	}
	odd := false
	for kind, value := range attributes(body[unix.SizeofNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			n.ip = address(value)
		case unix.NDA_LLADDR:
			copy(n.mac[:], value)
		case unix.NDA_PORT, unix.NDA_VNI, unix.NDA_IFINDEX:
			odd = true
		}
	}
	if odd {
		n.ip = netip.Addr{}
	}
	return n
}
