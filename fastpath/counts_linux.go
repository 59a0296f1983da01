package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// Counts are what the programs have counted since the maps were made, of all processors.
type Counts struct {
	Links   map[string]Count // of the host sides of endpoints
	Routes  map[netip.Prefix]Count
	Reasons map[string]uint64 // packets, by the words of Reason
}

// Fill is how many entries a map has, and how many it has room for.
type Fill struct {
	Used, Size int
}

// Counts reads what was counted. A row that is new counts from zero.
func (t *tables) Counts(ctx context.Context) (c Counts, err error) {
	c = Counts{Links: make(map[string]Count), Routes: make(map[netip.Prefix]Count), Reasons: make(map[string]uint64)}
	links, err := t.wire.links()
	if err != nil {
		return c, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	counts, err := eachCPU[Count](ctx, t.all["fl_counts"], int(t.slots.top()))
	if err != nil {
		return c, err
	}
	for o, slot := range t.slots.slot {
		var sum Count
		for _, one := range counts[slot] {
			sum.add(one)
		}
		if o.prefix.IsValid() {
			c.Routes[o.prefix] = sum
		} else if name, found := links.name(o.link); found {
			c.Links[name] = sum
		}
	}
	reasons, err := eachCPU[uint64](ctx, t.all["fl_reasons"], len(Reasons()))
	for _, r := range Reasons() {
		for _, n := range reasons[uint32(r)] {
			c.Reasons[r.String()] += n
		}
	}
	return c, err
}

func (c *Count) add(o Count) {
	c.Out.add(o.Out)
	c.In.add(o.In)
	c.Kernel.add(o.Kernel)
	c.Drops.add(o.Drops)
}

func (t *Traffic) add(o Traffic) {
	t.Packets += o.Packets
	t.Bytes += o.Bytes
}

// eachCPU reads at least the first entries of an array of which each processor has its own.
func eachCPU[V any](ctx context.Context, m *ebpf.Map, first int) (map[uint32][]V, error) {
	each, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count processors: %w", err)
	}
	all := make(map[uint32][]V, first)
	size := min(first, together)
	keys, values := make([]uint32, size), make([]V, size*each)
	for cursor := new(ebpf.MapBatchCursor); len(all) < first; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := m.BatchLookup(cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read map %v: %w", m, err)
		}
		for i, k := range keys[:n] {
			all[k] = slices.Clone(values[i*each : (i+1)*each])
		}
		if err != nil {
			break
		}
	}
	return all, nil
}

// Memory is what the kernel accounts for all maps of the fast path, in bytes. Linux before 6.4 estimates it.
func (p *pinnedMaps) Memory() (sum uint64, err error) {
	for name, m := range p.all {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("look at map %s: %w", name, err)
		}
		n, _ := info.Memlock()
		sum += n
	}
	return sum, nil
}

// Entries is how full the maps are that can be empty, by their names.
func (p *pinnedMaps) Entries() (map[string]Fill, error) {
	fills := make(map[string]Fill)
	for name, m := range p.all {
		if isArray(m) {
			continue
		}
		n, err := used(m)
		if err != nil {
			return nil, err
		}
		fills[name] = Fill{Used: n, Size: int(m.MaxEntries())}
	}
	return fills, nil
}
