package fastpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/fairlead-net/fairlead/reconcile"
)

// tables are the maps as the rows that they are for the reconciler, in the network namespace of the thread that opened
// them.
type tables struct {
	*pinnedMaps
	wire wire

	mu    sync.Mutex // of what follows and of what is written
	slots *slots

	following sync.Mutex // held while somebody follows packets
}

// openTables adopts the maps of the directory, which is locked, and gives those of spec their sizes.
func openTables(dir string, spec *ebpf.CollectionSpec, sizes Sizes) (*tables, error) {
	pinned, err := adoptMaps(dir, spec, sizes)
	if err != nil {
		return nil, err
	}
	t := &tables{pinnedMaps: pinned, slots: newSlots(pinned.all["fl_counts"].MaxEntries())}
	if t.wire, err = openWire(); err != nil {
		return nil, errors.Join(err, pinned.close())
	}
	if err := errors.Join(t.unfollow(), t.learn(context.Background())); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// close lets go of everything. What is pinned stays.
func (t *tables) close() error {
	t.wire.close()
	return t.pinnedMaps.close()
}

// learn reads who counts where, so that nobody is given a slot that another has.
func (t *tables) learn(ctx context.Context) error {
	endpoints, err := t.endpoints().read(ctx)
	if err != nil {
		return err
	}
	sides, err := t.sides().read(ctx)
	if err != nil {
		return err
	}
	routes, err := t.routes().read(ctx)
	if err != nil {
		return err
	}
	t.seenSides(sides)
	t.seenEndpoints(endpoints)
	t.seenRoutes(routes)
	return nil
}

func (t *tables) seenEndpoints(have map[netip.Addr]endpointValue) (odd map[row]bool) {
	claims := make(map[row]claim, len(have))
	for a, v := range have {
		claims[row{address: a}] = claim{owner{link: v.Link}, v.Slot}
	}
	return t.slots.seen(row{address: netip.IPv4Unspecified()}.kind(), claims)
}

func (t *tables) seenSides(have map[uint32]sideValue) (odd map[row]bool) {
	claims := make(map[row]claim, len(have))
	for index, v := range have {
		claims[row{side: index}] = claim{owner{link: index}, v.Slot}
	}
	return t.slots.seen(row{side: 1}.kind(), claims)
}

func (t *tables) seenRoutes(have map[netip.Prefix]routeValue) (odd map[row]bool) {
	claims := make(map[row]claim, len(have))
	for p, v := range have {
		claims[row{prefix: p}] = claim{owner{prefix: p}, v.Slot}
	}
	return t.slots.seen(row{}.kind(), claims)
}

func (t *tables) endpoints() twin[netip.Addr, [4]byte, addressBytes, endpointValue] {
	return byAddress[endpointValue](t.all["fl_endpoints4"], t.all["fl_endpoints6"])
}

func (t *tables) nodes() twin[netip.Addr, [4]byte, addressBytes, uint32] {
	return byAddress[uint32](t.all["fl_nodes4"], t.all["fl_nodes6"])
}

func (t *tables) sides() cells[uint32, sideValue] { return cells[uint32, sideValue]{t.all["fl_sides"]} }

func (t *tables) settings() cells[uint32, settingsValue] {
	return cells[uint32, settingsValue]{t.all["fl_settings"]}
}

func (t *tables) routes() twin[netip.Prefix, prefix4, prefix6, routeValue] {
	return twin[netip.Prefix, prefix4, prefix6, routeValue]{
		four: cells[prefix4, routeValue]{t.all["fl_routes4"]}, six: cells[prefix6, routeValue]{t.all["fl_routes6"]},
		key: func(p netip.Prefix) (is4 bool, four prefix4, six prefix6) {
			if p.Addr().Is4() {
				return true, prefix4{uint32(p.Bits()), p.Addr().As4()}, six
			}
			return false, four, prefix6{uint32(p.Bits()), p.Addr().As16()}
		},
		row4: func(k prefix4) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4(k.Address), int(k.Bits)) },
		row6: func(k prefix6) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom16(k.Address), int(k.Bits)) },
	}
}

func byAddress[V any](four, six *ebpf.Map) twin[netip.Addr, [4]byte, addressBytes, V] {
	return twin[netip.Addr, [4]byte, addressBytes, V]{
		four: cells[[4]byte, V]{four}, six: cells[addressBytes, V]{six},
		key: func(a netip.Addr) (is4 bool, four [4]byte, six addressBytes) {
			if a.Is4() {
				return true, a.As4(), six
			}
			return false, four, a.As16()
		},
		row4: netip.AddrFrom4,
		row6: func(k addressBytes) netip.Addr { return netip.AddrFrom16(k) },
	}
}

// draft is what Apply has to write of a table whose rows count: some rows, and their values by their slots.
type draft[K comparable, V any] struct {
	keys   []K
	values []V
	owners []owner
	fresh  []uint32 // slots that have counted for others
}

// compose makes the values of rows, each with the slot of its owner. Rows that can not be made are in failed.
func compose[K comparable, R, V any](t *tables, puts map[K]R, failed map[K]error, owns func(K, R) (owner, error), value func(K, R, uint32) (V, error)) (d draft[K, V]) {
	for k, r := range puts {
		o, err := owns(k, r)
		if err != nil {
			failed[k] = err
			continue
		}
		slot, fresh, err := t.slots.hold(o)
		if err != nil {
			failed[k] = err
			continue
		}
		if fresh {
			d.fresh = append(d.fresh, slot)
		}
		v, err := value(k, r, slot)
		if err != nil {
			failed[k] = err
			t.slots.drop(o)
			continue
		}
		d.keys, d.values, d.owners = append(d.keys, k), append(d.values, v), append(d.owners, o)
	}
	return d
}

// commit writes a draft, after the counts of fresh slots are zero.
func (d draft[K, V]) commit(ctx context.Context, t *tables, failed map[K]error, as func(K) row, write func(context.Context, []K, []V) []error) {
	errs := make([]error, len(d.keys))
	if err := t.zero(ctx, d.fresh); err != nil {
		for i := range errs {
			errs[i] = err
		}
	} else {
		errs = write(ctx, d.keys, d.values)
	}
	for i, k := range d.keys {
		if errs[i] != nil {
			failed[k] = errs[i]
			t.slots.drop(d.owners[i])
			continue
		}
		t.slots.wrote(as(k), d.owners[i])
	}
}

// zero makes the counts of slots zero, on every processor.
func (t *tables) zero(ctx context.Context, slots []uint32) error {
	if len(slots) == 0 {
		return nil
	}
	each, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count processors: %w", err)
	}
	none := make([]Count, each*min(len(slots), together))
	for part := range slices.Chunk(slots, together) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := t.all["fl_counts"].BatchUpdate(part, none[:each*len(part)], nil); err != nil {
			return fmt.Errorf("make counts zero: %w", err)
		}
	}
	return nil
}

// erased notes what became of deletes.
func erased[K comparable](t *tables, rows []K, errs []error, failed map[K]error, as func(K) row) {
	fail(failed, rows, errs)
	for i, k := range rows {
		if errs[i] == nil {
			t.slots.forget(as(k))
		}
	}
}

// fail notes the errors of rows.
func fail[K comparable](failed map[K]error, rows []K, errs []error) {
	for i, k := range rows {
		if errs[i] != nil {
			failed[k] = errs[i]
		}
	}
}

// failAll gives each row the same error.
func failAll[K comparable, V any](puts map[K]V, deletes []K, err error) map[K]error {
	failed := make(map[K]error, len(puts)+len(deletes))
	for _, k := range slices.AppendSeq(slices.Clone(deletes), maps.Keys(puts)) {
		failed[k] = err
	}
	return failed
}

// single puts one row as one of many.
func single[K, V comparable](ctx context.Context, t reconcile.Bulk[K, V], k K, v V) error {
	return t.Apply(ctx, map[K]V{k: v}, nil)[k]
}
