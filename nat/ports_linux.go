package nat

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Ports is the table of the mappings, for both families.
//
// Packets find theirs in a tree of chains (FAIRLEAD-DNAT and others that begin with it), so that it does not matter how
// many there are. All that one Apply changes in a family is changed at once, and rules that stay keep their counters.
type Ports struct {
	keep *keeper[Port, Rule]
	owed []debt // under the lock of keep
}

// debt is what connection tracking must be told still. Rules were changed before.
type debt struct{ gone, added map[Port]netip.AddrPort }

const untracked Fault = "old connections"

// Ports is the table of the mappings. What was read of it is believed for as long as age.
//
// What comes to 127.0.0.0/8 from another host or a container is not mapped: the kernel throws it away, but only after
// it would have been given another destination (CVE-2020-8558).
func (k *Kernel) Ports(age time.Duration) *Ports {
	const jump = "-m addrtype --dst-type LOCAL -j " + dnatChain
	return &Ports{keep: newKeeper(k.hand(site{
		table: "nat", chain: dnatChain, means: tablewise, modules: "iptable_nat ip6table_nat nft_compat xt_nat xt_addrtype xt_tcpudp xt_sctp",
		hooks: []hook{{chain: "PREROUTING", jump: "! -d " + loopback + " " + jump}, {chain: "OUTPUT", jump: jump}},
	}), portForm{}, age)}
}

// Changed pokes after others have changed what the mappings depend on. The channel has capacity 1. It is silent before the
// first List.
func (p *Ports) Changed() <-chan struct{} { return p.keep.Changed() }

// List reads the mappings. One that is there and does not work, since what leads to it is not in order, has a fault, and
// so has one whose old connections are still tracked; Apply mends both. When iptables hangs, the error comes after some
// seconds (it wraps context.DeadlineExceeded), and again at once to who asks soon after.
func (p *Ports) List(ctx context.Context) (map[Port]Rule, error) {
	p.keep.mu.Lock()
	defer p.keep.mu.Unlock()
	rows, err := p.keep.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range p.owed {
		for port, to := range d.gone {
			if _, there := rows[port]; !there {
				rows[port] = Rule{To: to, Fault: untracked}
			}
		}
		for port := range d.added {
			if r, there := rows[port]; there && r.Fault == "" {
				rows[port] = Rule{To: r.To, Fault: untracked}
			}
		}
	}
	return rows, nil
}

// Put makes a mapping, and mends what leads to it.
func (p *Ports) Put(ctx context.Context, port Port, r Rule) error {
	return p.Apply(ctx, map[Port]Rule{port: r}, nil)[port]
}

// Delete removes a mapping, and with the last one all of our chains.
func (p *Ports) Delete(ctx context.Context, port Port) error {
	return p.Apply(ctx, nil, []Port{port})[port]
}

// Apply puts mappings and removes mappings, a family at a time and all of a family at once: when something of it fails,
// all of it has failed, and nothing was changed. Only where the kernel refuses a rule, such as one of a protocol that it
// does not know, each protocol is tried by itself. It mends whatever else is wrong. Connections of mappings that went or
// moved are forgotten then, and those that were there before a mapping came.
func (p *Ports) Apply(ctx context.Context, puts map[Port]Rule, deletes []Port) map[Port]error {
	p.keep.mu.Lock()
	defer p.keep.mu.Unlock()
	failed := make(map[Port]error)
	good := maps.Clone(puts)
	for port, r := range puts {
		if err := mappable(port, r); err != nil {
			failed[port] = err
			delete(good, port)
		}
	}
	before, err := p.keep.list(ctx)
	if err != nil {
		return blame(failed, err, good, deletes)
	}
	done := p.keep.apply(ctx, good, deletes)
	if slices.ContainsFunc(slices.Collect(maps.Values(done)), func(err error) bool { return errors.Is(err, errRefused) }) {
		done = p.apart(ctx, good, deletes)
	}
	p.owe(before, good, deletes, done)
	maps.Copy(failed, done)
	if len(done) == 0 {
		err = p.settle(ctx)
	}
	if err != nil {
		return blame(failed, err, good, deletes)
	}
	return failed
}

// blame is an error for all that has none yet.
func blame(failed map[Port]error, err error, puts map[Port]Rule, deletes []Port) map[Port]error {
	for _, port := range slices.AppendSeq(slices.Clone(deletes), maps.Keys(puts)) {
		if failed[port] == nil {
			failed[port] = err
		}
	}
	return failed
}

// apart changes the mappings of each protocol by themselves.
func (p *Ports) apart(ctx context.Context, puts map[Port]Rule, deletes []Port) map[Port]error {
	failed := make(map[Port]error)
	for _, proto := range transports() {
		some := maps.Clone(puts)
		maps.DeleteFunc(some, func(port Port, _ Rule) bool { return port.Proto != proto[0] })
		less := slices.DeleteFunc(slices.Clone(deletes), func(port Port) bool { return port.Proto != proto[0] })
		maps.Copy(failed, p.keep.apply(ctx, some, less))
	}
	return failed
}

// owe notes what connection tracking must be told of a change of the rules. What was cut short may have been done.
func (p *Ports) owe(before, puts map[Port]Rule, deletes []Port, failed map[Port]error) {
	d := debt{make(map[Port]netip.AddrPort), make(map[Port]netip.AddrPort)}
	for _, port := range slices.AppendSeq(slices.Clone(deletes), maps.Keys(puts)) {
		if err := failed[port]; err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			continue
		}
		for _, earlier := range p.owed {
			delete(earlier.added, port)
		}
		r := puts[port] // none of what is deleted
		if r.To.IsValid() {
			d.added[port] = r.To
		}
		if old := before[port].To; old.IsValid() && old != r.To {
			d.gone[port] = old
		}
	}
	p.spare(d)
	if len(d.gone)+len(d.added) > 0 {
		p.owed = append(p.owed, d)
	}
}

// spare adds the mappings at work that share a number with one that went: their connections may look like its own.
func (p *Ports) spare(d debt) {
	gone := make(map[spot]bool, len(d.gone))
	for port := range d.gone {
		gone[port.spot()] = true
	}
	if len(gone) == 0 {
		return
	}
	for _, s := range p.keep.seen {
		for port, r := range s.rows {
			if gone[port.spot()] {
				d.added[port] = r.To
			}
		}
	}
}

// settle has the kernel forget what is owed. Where that fails it is owed on.
func (p *Ports) settle(ctx context.Context) error {
	for len(p.owed) > 0 {
		if err := p.keep.k.Forget(ctx, p.owed[0].gone, p.owed[0].added); err != nil {
			return err
		}
		p.owed = p.owed[1:]
	}
	return nil
}
