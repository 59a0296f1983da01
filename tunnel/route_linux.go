package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// errForeign is the error of a put whose place in the kernel's table somebody else has.
var errForeign = errors.New("belongs to another program")

// Routes is the table of routes with our protocol number, of both families and in every routing table.
//
// Ours have a metric of their own, so a foreign route to the same prefix stays beside them. The kernel takes the one with
// the lower metric: foreign routes with a metric below 88, and IPv4 routes put without one, win over ours; the IPv6
// default metric 1024 does not.
type Routes struct{ k *Kernel }

// Routes is the table of routes.
func (k *Kernel) Routes() *Routes { return &Routes{k} }

// List reads our routes.
//
// One that has another metric than ours is a fault; where there is also a right one for the same key, the faulty one is
// what List shows, so that the next Put clears it away.
func (t *Routes) List(ctx context.Context) (map[RouteKey]Route, error) {
	own, err := t.read(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[RouteKey]Route, len(own))
	for _, e := range own {
		if known, ok := have[e.key]; !ok || known.Fault == "" {
			have[e.key] = e.route
		}
	}
	return have, nil
}

// Put installs r, replacing any route of ours to the same prefix.
//
// It replaces rather than deletes and adds: between the two, containers already using the prefix would lose it. A
// foreign route is never replaced.
func (t *Routes) Put(ctx context.Context, k RouteKey, r Route) error {
	return t.Apply(ctx, map[RouteKey]Route{k: r}, nil)[k]
}

// Delete removes our route k.
func (t *Routes) Delete(ctx context.Context, k RouteKey) error {
	return t.Apply(ctx, nil, []RouteKey{k})[k]
}

// Apply puts, then deletes, with few system calls, and returns what failed.
func (t *Routes) Apply(ctx context.Context, puts map[RouteKey]Route, deletes []RouteKey) map[RouteKey]error {
	failed := make(map[RouteKey]error)
	if len(puts) > 0 {
		t.put(ctx, puts, failed)
	}
	reqs := make([]*nl.NetlinkRequest, len(deletes))
	for i, k := range deletes {
		reqs[i] = deleteRoute(k, 0)
	}
	for i, err := range t.k.conn.write(ctx, reqs...) {
		if err != nil && !absent(err) {
			failed[deletes[i]] = err
		}
	}
	return failed
}

// put adds every route; those whose place is taken replace what is there, if it is ours.
//
// RTM_NEWROUTE with NLM_F_REPLACE replaces the first route of the same prefix and metric, whoever put it. So the first
// attempt is exclusive, and only what our own listing shows is replaced.
func (t *Routes) put(ctx context.Context, puts map[RouteKey]Route, failed map[RouteKey]error) {
	all := t.k.links()
	keys := make([]RouteKey, 0, len(puts))
	for k := range puts {
		keys = append(keys, k)
	}
	taken := t.send(ctx, unix.NLM_F_EXCL, keys, puts, all, failed)
	if len(taken) == 0 {
		return
	}
	own, err := t.read(ctx)
	if err != nil {
		for _, k := range taken {
			failed[k] = err
		}
		return
	}
	replace := t.clear(ctx, own, taken, failed)
	t.send(ctx, unix.NLM_F_REPLACE, replace, puts, all, failed)
}

// clear takes away our routes of the keys that have another metric, and returns the keys that are ours to replace.
func (t *Routes) clear(ctx context.Context, own []entry, taken []RouteKey, failed map[RouteKey]error) []RouteKey {
	ours := make(map[RouteKey]bool, len(own))
	odd := make(map[RouteKey]int)
	for _, e := range own {
		if e.metric == Metric {
			ours[e.key] = true
			continue
		}
		odd[e.key] = e.metric
	}
	var replace []RouteKey
	for _, k := range taken {
		if metric, ok := odd[k]; ok {
			if err := t.k.conn.write(ctx, deleteRoute(k, metric))[0]; err != nil && !absent(err) {
				failed[k] = err
			}
		}
		if !ours[k] {
			failed[k] = fmt.Errorf("the route with metric %d %w: %w", Metric, errForeign, unix.EEXIST)
			continue
		}
		replace = append(replace, k)
	}
	return replace
}

// send puts the routes of the keys and returns those whose place is taken.
func (t *Routes) send(ctx context.Context, flag int, keys []RouteKey, puts map[RouteKey]Route, all links,
	failed map[RouteKey]error,
) (taken []RouteKey) {
	var reqs []*nl.NetlinkRequest
	var sent []RouteKey
	for _, k := range keys {
		req, err := newRoute(k, puts[k], flag, all)
		if err != nil {
			failed[k] = fmt.Errorf("%v: %w", puts[k], err)
			continue
		}
		reqs, sent = append(reqs, req), append(sent, k)
	}
	for i, err := range t.k.conn.write(ctx, reqs...) {
		k := sent[i]
		switch {
		case errors.Is(err, unix.EEXIST):
			taken = append(taken, k)
		case err != nil:
			failed[k] = fmt.Errorf("%v: %w", puts[k], waits(err))
		}
	}
	return taken
}

// entry is one of our routes as the kernel has it. Several can have the same key.
type entry struct {
	key    RouteKey
	route  Route
	metric int
}

// read lists our routes. The kernel filters by protocol: foreign routes do not leave it.
func (t *Routes) read(ctx context.Context) ([]entry, error) {
	all := t.k.links()
	var entries []entry
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
		req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Protocol: Protocol}})
		before := len(entries)
		err := t.k.conn.dump(ctx, req, func() { entries = entries[:before] }, func(body []byte) {
			if a := parseRoute(body, all); a.protocol == Protocol && a.tos == 0 {
				entries = append(entries, a.entry())
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read routes: %w", err)
		}
	}
	return entries, nil
}

// absent is success for a delete: a route that is not there, in a table that may not be there either.
func absent(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
