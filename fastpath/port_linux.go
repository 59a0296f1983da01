package fastpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
)

// Ports is the table of this host's ports.
func (t *tables) Ports() reconcile.Target[Port, Mapping] { return portTable{t} }

// Own is the table of this host's addresses.
func (t *tables) Own() reconcile.Target[netip.Addr, Own] { return ownTable{t} }

func (t *tables) ports() cells[portKey, targetValue] {
	return cells[portKey, targetValue]{t.all["fl_ports"]}
}

func (t *tables) own() cells[hostKey, uint32] { return cells[hostKey, uint32]{t.all["fl_here"]} }

func (t *tables) tuples() cells[tuple, connectionValue] {
	return cells[tuple, connectionValue]{t.all["fl_tuples"]}
}

type portTable struct{ *tables }

func (t portTable) List(ctx context.Context) (map[Port]Mapping, error) {
	values, err := t.ports().read(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[Port]Mapping, len(values))
	for k, v := range values {
		have[k.decode()] = v.decode(k.Family)
	}
	return have, nil
}

func (t portTable) Put(ctx context.Context, p Port, m Mapping) error { return single(ctx, t, p, m) }

func (t portTable) Delete(ctx context.Context, p Port) error {
	return t.Apply(ctx, nil, []Port{p})[p]
}

func (t portTable) Apply(ctx context.Context, puts map[Port]Mapping, deletes []Port) map[Port]error {
	failed := make(map[Port]error)
	var rows []Port
	var values []targetValue
	for p, m := range puts {
		if err := checkMapping(p, m); err != nil {
			failed[p] = err
			continue
		}
		rows, values = append(rows, p), append(values, m.encode())
	}
	fail(failed, rows, t.ports().write(ctx, encoded(rows), values))
	fail(failed, deletes, t.ports().erase(ctx, encoded(deletes)))
	return failed
}

func encoded(rows []Port) []portKey {
	keys := make([]portKey, len(rows))
	for i, p := range rows {
		keys[i] = p.encode()
	}
	return keys
}

type ownTable struct{ *tables }

func (t ownTable) List(ctx context.Context) (map[netip.Addr]Own, error) {
	values, err := t.own().read(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[netip.Addr]Own, len(values))
	for k, v := range values {
		o := Own{}
		if v != known {
			o.Fault = FaultForm
		}
		have[k.Address.of(uint8(k.Family))] = o
	}
	return have, nil
}

func (t ownTable) Put(ctx context.Context, a netip.Addr, o Own) error { return single(ctx, t, a, o) }

func (t ownTable) Delete(ctx context.Context, a netip.Addr) error {
	return t.Apply(ctx, nil, []netip.Addr{a})[a]
}

func (t ownTable) Apply(ctx context.Context, puts map[netip.Addr]Own, deletes []netip.Addr) map[netip.Addr]error {
	failed := make(map[netip.Addr]error)
	rows := slices.Collect(maps.Keys(puts))
	fail(failed, rows, t.own().write(ctx, hostKeys(rows), slices.Repeat([]uint32{known}, len(rows))))
	fail(failed, deletes, t.own().erase(ctx, hostKeys(deletes)))
	return failed
}

func hostKeys(rows []netip.Addr) []hostKey {
	keys := make([]hostKey, len(rows))
	for i, a := range rows {
		b, family := bytesOf(a)
		keys[i] = hostKey{b, uint32(family)}
	}
	return keys
}

// Expire takes out the connections by ports that are over, or whose port leads elsewhere or nowhere now. It returns how many
// there are still. A packet that comes meanwhile begins its connection anew.
func (k *Kernel) Expire(ctx context.Context) (left int, err error) {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return 0, nil
	}
	now, err := sinceBoot()
	if err != nil {
		return 0, err
	}
	return w.tables.expire(ctx, now)
}

// Connection is one by a port of this host, in use. From is who has asked To of this host, and As and Into are the same two as
// the endpoint sees them.
type Connection struct {
	From, To netip.AddrPort
	As, Into netip.AddrPort
	Proto    uint8 // as in the IP header
}

// Connections lists those by ports that are open on both sides.
func (k *Kernel) Connections(ctx context.Context) (open []Connection, err error) {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return nil, nil
	}
	all, err := w.tables.tuples().read(ctx)
	if err != nil {
		return nil, err
	}
	for in, v := range all {
		out := v.Other
		state := v.State | all[out].State
		if in.Inside == 0 || v.State == 0 || state&seenRST != 0 || v.State&all[out].State&seenFIN != 0 {
			continue
		}
		open = append(open, Connection{
			From: out.far(), To: out.near(), As: in.far(), Into: in.near(), Proto: in.Protocol,
		})
	}
	return open, nil
}

// sinceBoot is what the programs take for the time.
func sinceBoot() (time.Duration, error) {
	var st unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &st); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return time.Duration(st.Nano()), nil
}

func (t *tables) expire(ctx context.Context, now time.Duration) (left int, err error) {
	all, err := t.tuples().read(ctx)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	ports, err := t.ports().read(ctx)
	if err != nil {
		return 0, err
	}
	left = len(all)
	for k, v := range all {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if k.Inside != 0 && all[v.Other] != (connectionValue{}) || !isOver(all, ports, k, v, now) {
			continue // an inside goes with its outside
		}
		n, err := t.remove(k, v, all[v.Other])
		if err != nil {
			return 0, fmt.Errorf("take out a connection: %w", err)
		}
		left -= n
	}
	return (left + 1) / 2, nil
}

// remove takes out both sides of a connection unless one has changed: whoever asks may just have begun another by the same ports.
// It returns how many entries are gone.
func (t *tables) remove(k tuple, v, other connectionValue) (n int, err error) {
	for key, was := range map[tuple]connectionValue{k: v, v.Other: other} {
		var is connectionValue
		err := t.all["fl_tuples"].Lookup(&key, &is)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, err
		}
		if is != was {
			return 0, nil
		}
	}
	for _, key := range []tuple{v.Other, k} { // without an inside the outside is begun anew
		switch err := t.all["fl_tuples"].Delete(&key); {
		case err == nil:
			n++
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return n, err
		}
	}
	return n, nil
}

// isOver decides by both sides of a connection, so that both go at once. One side alone is what an interrupted begin has left.
func isOver(all map[tuple]connectionValue, ports map[portKey]targetValue, k tuple, v connectionValue, now time.Duration) bool {
	outside, inside, from, to := k, v.Other, v, all[v.Other]
	if k.Inside != 0 {
		outside, inside, from, to = v.Other, k, all[v.Other], v
	}
	idle := now - time.Duration(max(from.Seen, to.Seen))
	if from == (connectionValue{}) || to == (connectionValue{}) {
		return idle > time.Second
	}
	return idle > lasts(k.Protocol, from.State, to.State) || !leads(ports, outside, inside)
}

// leads tells whether the port that a connection came by leads to where it went.
func leads(ports map[portKey]targetValue, outside, inside tuple) bool {
	key := portKey{Address: outside.Near, Port: outside.NearPort, Protocol: outside.Protocol, Family: outside.Family}
	v, found := ports[key]
	if !found {
		key.Address = addressBytes{}
		v, found = ports[key]
	}
	return found && v.To == inside.Near && v.Port == inside.NearPort
}
