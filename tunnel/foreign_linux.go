package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// foreignAge is for how long a reading of foreign routes is good while no event says otherwise. The kernel tells of every
// route that comes, but not of all that go with a link: they count for that long.
const foreignAge = 30 * time.Second

// Foreign finds the routes of others inside the pools, in the main table and among this host's own addresses, sorted.
//
// The kernel has no way to ask for the routes inside a prefix, and a host may have a hundred thousand others. So they are
// read anew only when Watch has heard of one inside the pools, or may have missed it, and every 30 s; without a Watch each
// time.
func (k *Kernel) Foreign(ctx context.Context, pools []netip.Prefix) ([]Foreign, error) {
	k.foreign.reading.Lock()
	defer k.foreign.reading.Unlock()
	if k.foreign.good(pools) {
		return slices.Clone(k.foreign.found), nil
	}
	k.foreign.expect(pools) // what is heard from here on may not be in what is read
	found, err := k.readForeign(ctx, pools)
	if err != nil {
		k.foreign.missed()
		return nil, err
	}
	k.foreign.found = found
	return slices.Clone(found), nil
}

func (k *Kernel) readForeign(ctx context.Context, pools []netip.Prefix) ([]Foreign, error) {
	var found []Foreign
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if !slices.ContainsFunc(pools, func(p netip.Prefix) bool { return familyOf(p.Addr()) == family }) {
			continue
		}
		for _, table := range []uint8{unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL} {
			req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
			req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family, Table: table}})
			before := len(found)
			err := k.conn.dump(ctx, req, func() { found = found[:before] }, func(body []byte) {
				if f := parseForeign(body); within(pools, f.Prefix) {
					found = append(found, f)
				}
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("read foreign routes: %w", err)
			}
		}
	}
	return SortForeign(found), nil
}

// parseForeign reads no more than it must. A route of ours, a default route and one that the kernel only remembers give the
// zero value.
func parseForeign(body []byte) (f Foreign) {
	if len(body) < unix.SizeofRtMsg || body[1] == 0 || body[5] == Protocol ||
		binary.NativeEndian.Uint32(body[8:])&unix.RTM_F_CLONED != 0 {
		return f
	}
	for kind, value := range attributes(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			f.Prefix = netip.PrefixFrom(address(value), int(body[1]))
		case unix.RTA_PRIORITY:
			f.Metric = number(value)
		}
	}
	if body[4] == unix.RT_TABLE_LOCAL {
		f.Metric = 0
	}
	return f
}

// within tells whether p lies in one of the pools.
func within(pools []netip.Prefix, p netip.Prefix) bool {
	for _, pool := range pools {
		if pool.Bits() <= p.Bits() && pool.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// foreign is what is known of others' routes.
type foreign struct {
	reading sync.Mutex // held while the kernel is asked
	found   []Foreign  // under reading

	mu       sync.Mutex
	pools    []netip.Prefix // under mu, as are the following: what found is for
	at       time.Time      // since when it is good; zero: it is not
	watchers int            // that would hear of a change
}

func (f *foreign) good(pools []netip.Prefix) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.watchers > 0 && !f.at.IsZero() && time.Since(f.at) < foreignAge && slices.Equal(f.pools, pools)
}

func (f *foreign) expect(pools []netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools, f.at = slices.Clone(pools), time.Now()
}

// hear takes notice of a route that came or went.
func (f *foreign) hear(body []byte) {
	route := parseForeign(body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if within(f.pools, route.Prefix) {
		f.at = time.Time{}
	}
}

// missed is for when there may have been events that nobody heard.
func (f *foreign) missed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = time.Time{}
}

// watched counts those who will hear, or no longer.
func (f *foreign) watched(by int) {
	f.missed()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers += by
}
