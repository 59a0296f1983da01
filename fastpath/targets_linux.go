package fastpath

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/reconcile"
)

// Endpoints is the table of the addresses of this host's endpoints.
func (t *tables) Endpoints() reconcile.Target[netip.Addr, Endpoint] { return endpointTable{t} }

// Sides is the table of the host sides of endpoints' pairs. One whose link is gone is listed under a name that no link has.
func (t *tables) Sides() reconcile.Target[string, Side] { return sideTable{t} }

// Routes is the table of the prefixes that are reached by the fast path.
func (t *tables) Routes() reconcile.Target[netip.Prefix, Route] { return routeTable{t} }

// Nodes is the table of the hosts that may send through tunnels.
func (t *tables) Nodes() reconcile.Target[netip.Addr, Node] { return nodeTable{t} }

// Settings is the table with one row, SettingsKey.
func (t *tables) Settings() reconcile.Target[string, Settings] { return settingsTable{t} }

type endpointTable struct{ *tables }

func (t endpointTable) List(ctx context.Context) (map[netip.Addr]Endpoint, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	values, err := t.endpoints().read(ctx)
	if err != nil {
		return nil, err
	}
	links, err := t.wire.links()
	if err != nil {
		return nil, err
	}
	odd := t.seenEndpoints(values)
	have := make(map[netip.Addr]Endpoint, len(values))
	for a, v := range values {
		name, found := links.name(v.Link)
		e := v.decode(name)
		switch {
		case !found:
			e.Fault = FaultLink
		case links.numbered[v.Link].home != v.Home:
			e.Fault = FaultHome
		case odd[row{address: a}]:
			e.Fault = FaultSlot
		}
		have[a] = e
	}
	return have, nil
}

func (t endpointTable) Put(ctx context.Context, a netip.Addr, e Endpoint) error {
	return single(ctx, t, a, e)
}

func (t endpointTable) Delete(ctx context.Context, a netip.Addr) error {
	return t.Apply(ctx, nil, []netip.Addr{a})[a]
}

func (t endpointTable) Apply(ctx context.Context, puts map[netip.Addr]Endpoint, deletes []netip.Addr) map[netip.Addr]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	links, err := t.wire.links()
	if err != nil {
		return failAll(puts, deletes, err)
	}
	failed := make(map[netip.Addr]error)
	as := func(a netip.Addr) row { return row{address: a} }
	compose(t.tables, puts, failed, func(a netip.Addr, e Endpoint) (owner, error) {
		if err := checkAddress(a); err != nil {
			return owner{}, err
		}
		l, err := links.find(e.Link)
		return owner{link: l.index}, err
	}, func(_ netip.Addr, e Endpoint, slot uint32) (endpointValue, error) {
		l := links.named[e.Link]
		return e.encode(l.index, l.home, slot)
	}).commit(ctx, t.tables, failed, as, t.endpoints().write)
	erased(t.tables, deletes, t.endpoints().erase(ctx, deletes), failed, as)
	return failed
}

type sideTable struct{ *tables }

func (t sideTable) List(ctx context.Context) (map[string]Side, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	values, err := t.sides().read(ctx)
	if err != nil {
		return nil, err
	}
	links, err := t.wire.links()
	if err != nil {
		return nil, err
	}
	odd := t.seenSides(values)
	have := make(map[string]Side, len(values))
	for index, v := range values {
		name, found := links.name(index)
		s := Side{MAC: v.MAC}
		switch {
		case !found:
			s.Fault = FaultLink
		case links.numbered[index].home != v.Home:
			s.Fault = FaultHome
		case odd[row{side: index}]:
			s.Fault = FaultSlot
		case v.Pad != [2]byte{}:
			s.Fault = FaultForm
		}
		have[name] = s
	}
	return have, nil
}

func (t sideTable) Put(ctx context.Context, name string, s Side) error {
	return single(ctx, t, name, s)
}

func (t sideTable) Delete(ctx context.Context, name string) error {
	return t.Apply(ctx, nil, []string{name})[name]
}

// Apply knows rows by numbers of links. One whose link went since it was listed is deleted when it is listed without it.
func (t sideTable) Apply(ctx context.Context, puts map[string]Side, deletes []string) map[string]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	links, err := t.wire.links()
	if err != nil {
		return failAll(puts, deletes, err)
	}
	failed := make(map[string]error)
	as := func(name string) row { return row{side: links.number(name)} }
	numbers := func(names []string) []uint32 {
		all := make([]uint32, len(names))
		for i, name := range names {
			all[i] = links.number(name)
		}
		return all
	}
	compose(t.tables, puts, failed, func(name string, _ Side) (owner, error) {
		l, err := links.find(name)
		return owner{link: l.index}, err
	}, func(name string, s Side, slot uint32) (sideValue, error) {
		return s.encode(links.named[name].home, slot), nil
	}).commit(ctx, t.tables, failed, as, func(ctx context.Context, names []string, values []sideValue) []error {
		return t.sides().write(ctx, numbers(names), values)
	})
	deletes = slices.DeleteFunc(slices.Clone(deletes), func(name string) bool { return links.number(name) == 0 })
	erased(t.tables, deletes, t.sides().erase(ctx, numbers(deletes)), failed, as)
	return failed
}

type routeTable struct{ *tables }

func (t routeTable) List(ctx context.Context) (map[netip.Prefix]Route, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	values, err := t.routes().read(ctx)
	if err != nil {
		return nil, err
	}
	links, err := t.wire.links()
	if err != nil {
		return nil, err
	}
	odd := t.seenRoutes(values)
	have := make(map[netip.Prefix]Route, len(values))
	for p, v := range values {
		r := v.decode(links.name)
		if r.Fault == "" && odd[row{prefix: p}] {
			r.Fault = FaultSlot
		}
		have[p] = r
	}
	return have, nil
}

func (t routeTable) Put(ctx context.Context, p netip.Prefix, r Route) error {
	return single(ctx, t, p, r)
}

func (t routeTable) Delete(ctx context.Context, p netip.Prefix) error {
	return t.Apply(ctx, nil, []netip.Prefix{p})[p]
}

func (t routeTable) Apply(ctx context.Context, puts map[netip.Prefix]Route, deletes []netip.Prefix) map[netip.Prefix]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	links, err := t.wire.links()
	if err != nil {
		return failAll(puts, deletes, err)
	}
	failed := make(map[netip.Prefix]error)
	as := func(p netip.Prefix) row { return row{prefix: p} }
	index := func(name string) (uint32, error) {
		l, err := links.find(name)
		return l.index, err
	}
	compose(t.tables, puts, failed, func(p netip.Prefix, _ Route) (owner, error) {
		return owner{prefix: p}, checkPrefix(p)
	}, func(_ netip.Prefix, r Route, slot uint32) (routeValue, error) {
		return r.encode(index, slot)
	}).commit(ctx, t.tables, failed, as, t.routes().write)
	erased(t.tables, deletes, t.routes().erase(ctx, deletes), failed, as)
	return failed
}

type nodeTable struct{ *tables }

// known is the value of each node: that it is there says all.
const known = 1

func (t nodeTable) List(ctx context.Context) (map[netip.Addr]Node, error) {
	values, err := t.nodes().read(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[netip.Addr]Node, len(values))
	for a, v := range values {
		have[a] = Node{}
		if v != known {
			have[a] = Node{Fault: FaultForm}
		}
	}
	return have, nil
}

func (t nodeTable) Put(ctx context.Context, a netip.Addr, n Node) error { return single(ctx, t, a, n) }

func (t nodeTable) Delete(ctx context.Context, a netip.Addr) error {
	return t.Apply(ctx, nil, []netip.Addr{a})[a]
}

func (t nodeTable) Apply(ctx context.Context, puts map[netip.Addr]Node, deletes []netip.Addr) map[netip.Addr]error {
	failed := make(map[netip.Addr]error)
	rows := make([]netip.Addr, 0, len(puts))
	for a := range maps.Keys(puts) {
		if err := checkAddress(a); err != nil {
			failed[a] = err
			continue
		}
		rows = append(rows, a)
	}
	fail(failed, rows, t.nodes().write(ctx, rows, slices.Repeat([]uint32{known}, len(rows))))
	fail(failed, deletes, t.nodes().erase(ctx, deletes))
	return failed
}

// settingsTable sees to the pins of all maps too.
type settingsTable struct{ *tables }

func (t settingsTable) List(ctx context.Context) (map[string]Settings, error) {
	values, err := t.settings().read(ctx)
	if err != nil {
		return nil, err
	}
	if values[0] == values[0].over() || values[0] == (settingsValue{}) {
		return map[string]Settings{}, nil
	}
	links, err := t.wire.links()
	if err != nil {
		return nil, err
	}
	device := ""
	if values[0].Device != 0 {
		device, _ = links.name(values[0].Device) // one that is gone has no name, so that the row is put again
	}
	s := values[0].decode(device)
	if s.Fault == "" && !t.arePinned() {
		s.Fault = FaultPins
	}
	return map[string]Settings{SettingsKey: s}, nil
}

func (t settingsTable) Put(ctx context.Context, _ string, s Settings) error {
	device, err := t.device(s.Device)
	if err != nil {
		return err
	}
	v, err := s.encode(device)
	if err == nil {
		err = t.repin()
	}
	if err != nil {
		return err
	}
	return t.settings().write(ctx, []uint32{0}, []settingsValue{v})[0]
}

// device is the number of a link, 0 without a name.
func (t settingsTable) device(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	links, err := t.wire.links()
	if err != nil {
		return 0, err
	}
	l, err := links.find(name)
	return l.index, err
}

// Delete leaves what wrapped packets are made of: while there are routes, programs may still be at work.
func (t settingsTable) Delete(ctx context.Context, _ string) error {
	values, err := t.settings().read(ctx)
	if err != nil {
		return err
	}
	return t.settings().write(ctx, []uint32{0}, []settingsValue{values[0].over()})[0]
}
