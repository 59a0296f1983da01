package nat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// tries is how many ports are drawn before all are gone through one by one.
const tries = 32

// Plan finds a port of the host for every spec, and holds it. A mapping that the owner has already and that fits is kept
// with its port. Of the owner's others, those that an earlier attach asked for end with an order to attach; the rest go on
// as they are, and wait no more. Errors wrap ErrTaken, ErrNoPort or ErrSpec. The draft must be ended.
func (b *Book) Plan(ctx context.Context, o Order) (*Draft, error) {
	p := plan{Draft: b.draft(), order: o, own: b.Of(o.Owner), used: make(map[Port]bool)}
	if err := p.run(ctx); err != nil {
		p.End(err)
		return nil, err
	}
	p.puts = slices.DeleteFunc(p.puts, b.same)
	return p.Draft, nil
}

// plan is a draft that is being made for an order.
type plan struct {
	*Draft
	order Order
	own   []Mapping     // of the owner, as the book has them
	used  map[Port]bool // what the draft gives already
}

func (p *plan) run(ctx context.Context) error {
	wishes := make([]wish, 0, len(p.order.Specs))
	for i, s := range p.order.Specs {
		if slices.Contains(p.order.Specs[:i], s) {
			continue // said twice, it is still one port
		}
		w, err := p.order.wish(s)
		if err != nil {
			return err
		}
		wishes = append(wishes, w)
	}
	// Those that name a port choose first, then those that name some: what is left fits those that take any.
	slices.SortStableFunc(wishes, func(x, y wish) int { return cmp.Compare(x.choice(), y.choice()) })
	for _, w := range wishes {
		if err := p.grant(ctx, w); err != nil {
			return err
		}
	}
	p.rest()
	return nil
}

// wish is what a spec means for the families of the order.
func (o Order) wish(s Spec) (wish, error) {
	w := wish{Spec: s}
	if s.HostIP.IsValid() {
		family := 6
		if s.HostIP.Is4() {
			family = 4
		}
		switch {
		case !slices.Contains(o.Families, family):
			return w, fmt.Errorf("%w: %s: %s has no IPv%d address for packets to %s", ErrSpec, s, o.Owner, family, s.HostIP)
		case s.HostIP.IsLinkLocalUnicast():
			return w, fmt.Errorf("%w: %s: %s is a link-local address, which is no host's own alone: publish on another", ErrSpec, s, s.HostIP)
		case s.HostIP == netip.IPv6Loopback():
			return w, fmt.Errorf("%w: %s: the kernel routes nothing from ::1 to a container: publish on 127.0.0.1 or an address of the host", ErrSpec, s)
		}
		w.ports = []Port{{Proto: s.Proto, IP: s.HostIP}}
		return w, nil
	}
	for _, family := range o.Families {
		w.ports = append(w.ports, Port{Proto: s.Proto, IP: every(family)})
	}
	return w, nil
}

// grant finds the port of one wish.
func (p *plan) grant(ctx context.Context, w wish) error {
	for _, m := range p.own {
		if w.fits(m) && !p.used[m.Port] {
			if done, err := p.take(ctx, w, m.Port.Number); done || !errors.Is(err, ErrTaken) {
				return err
			}
		}
	}
	if w.HostPort != 0 {
		return p.grantNamed(ctx, w)
	}
	return p.grantAny(ctx, w)
}

// grantNamed takes the first that can be had of the ports that the wish names.
func (p *plan) grantNamed(ctx context.Context, w wish) error {
	var first error
	for n := int(w.HostPort); n <= int(w.HostLast); n++ {
		done, err := p.take(ctx, w, uint16(n))
		if done {
			return nil
		}
		if err != nil && !errors.Is(err, ErrTaken) {
			return err
		}
		if first == nil {
			first = err
		}
	}
	if w.HostPort != w.HostLast {
		return fmt.Errorf("%w of %d-%d/%s: %w", ErrNoPort, w.HostPort, w.HostLast, w.Proto, first)
	}
	return first
}

// grantAny draws a port, or takes any that is free, or at the last one whose endpoint has been gone for longest.
func (p *plan) grantAny(ctx context.Context, w wish) error {
	r := p.order.Random
	if r.Last == 0 {
		return fmt.Errorf("%w: it is not known from where to pick one", ErrNoPort)
	}
	size := int(r.Last) - int(r.First) + 1
	start := p.b.draw(size)
	for i := range tries + size {
		n := r.First + uint16((start+max(0, i-tries))%size)
		if i < tries {
			n = r.First + uint16(p.b.draw(size))
		}
		if slices.ContainsFunc(p.order.Avoid, func(a Range) bool { return a.has(n) }) || p.known(w.at(n)) {
			continue
		}
		done, err := p.take(ctx, w, n)
		if done {
			return nil
		}
		if err != nil && !errors.Is(err, ErrTaken) {
			return err
		}
	}
	for _, n := range p.rested(w) {
		if done, err := p.take(ctx, w, n); done || err != nil && !errors.Is(err, ErrTaken) {
			return err
		}
	}
	return fmt.Errorf("%w: all of %d-%d/%s are in use", ErrNoPort, r.First, r.Last, w.Proto)
}

// rested are the numbers of random's range whose endpoints are gone, longest first.
func (p *plan) rested(w wish) (numbers []uint16) {
	all := slices.DeleteFunc(p.b.All(), func(m Mapping) bool {
		return !m.Resting() || m.Port.Proto != w.Proto || !p.order.Random.has(m.Port.Number)
	})
	slices.SortStableFunc(all, func(x, y Mapping) int { return x.Rests.Compare(y.Rests) })
	for _, m := range all {
		numbers = append(numbers, m.Port.Number)
	}
	return numbers
}

// known tells whether the book has something for these ports, or the draft.
func (p *plan) known(ports []Port) bool {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	return slices.ContainsFunc(ports, func(port Port) bool { return p.used[port] || len(p.b.near[port.spot()]) > 0 })
}

// take makes a number the owner's, in all families of the wish or in none. The error wraps ErrTaken and says whose it is.
func (p *plan) take(ctx context.Context, w wish, number uint16) (done bool, err error) {
	ports := w.at(number)
	fresh, drops, err := p.reserve(w, ports)
	if err == nil && len(fresh) > 0 {
		err = p.b.holds.Claim(ctx, fresh...)
	}
	if err != nil {
		return false, err
	}
	p.claimed = append(p.claimed, fresh...)
	p.drops = append(p.drops, drops...)
	for _, port := range ports {
		p.used[port] = true
		p.puts = append(p.puts, p.mapping(port, w.Port))
	}
	return true, nil
}

// mapping is what the owner is to have at a port. What an attach or the config finds as another asked for it stays theirs.
func (p *plan) mapping(port Port, target uint16) Mapping {
	m := Mapping{Port: port, Owner: p.order.Owner, Target: target, Origin: p.order.Origin}
	i := slices.IndexFunc(p.own, func(m Mapping) bool { return m.Port == port })
	if i >= 0 && p.own[i].Target == target && (p.order.Origin == OriginAttach || p.own[i].Origin == OriginConfig) {
		m.Origin = p.own[i].Origin
	}
	return m
}

// reserve keeps other drafts from the ports. Of those that must go for it, the drops, some may be others' that rest.
func (p *plan) reserve(w wish, ports []Port) (fresh, drops []Port, err error) {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	for _, port := range ports {
		if port.Proto == "tcp" && port.Number == MetadataPort && port.IP.IsUnspecified() {
			return nil, nil, fmt.Errorf("%w: %s: containers ask for their metadata there: publish it on one address of the host", ErrTaken, port)
		}
		if err := p.contested(port); err != nil {
			return nil, nil, err
		}
		if _, have := p.b.kept[port]; !have {
			fresh = append(fresh, port)
		}
		for _, other := range p.b.near[port.spot()] {
			m := p.b.kept[other]
			switch {
			case !other.Overlaps(port):
			case other == port && m.Owner == p.order.Owner && m.Target == w.Port:
			case !p.yields(m):
				return nil, nil, &HeldError{m}
			case other != port:
				drops = append(drops, other)
			}
		}
	}
	for _, port := range slices.Concat(ports, drops) {
		p.markLocked(port, p.order.Owner)
	}
	return fresh, drops, nil
}

// contested tells whether a draft has something that packets to the port could be for: this one or another.
func (p *plan) contested(port Port) error {
	for other := range p.used {
		if other.Overlaps(port) {
			return fmt.Errorf("%w: %s and %s are asked for together", ErrTaken, other, port)
		}
	}
	for other, owner := range p.b.busy {
		if other.Overlaps(port) && !slices.Contains(p.marked, other) {
			return fmt.Errorf("%w: %s is being given to %s at this moment", ErrTaken, other, owner)
		}
	}
	return nil
}

// yields tells whether a mapping gives way to the order.
func (p *plan) yields(m Mapping) bool {
	if m.Owner == p.order.Owner {
		return m.Origin == OriginAttach && p.order.Origin == OriginAttach
	}
	return m.Resting()
}

// HeldError says that a port is published for another owner. It is an ErrTaken.
type HeldError struct{ Mapping }

func (e *HeldError) Error() string {
	text := fmt.Sprintf("%v: %s is published for port %d of %s", ErrTaken, e.Port, e.Target, e.Owner)
	if e.Origin == OriginConfig {
		return text + " by the config"
	}
	return fmt.Sprintf("%s: fairlead unpublish %s %d:%d/%s gives it free", text, e.Owner, e.Port.Number, e.Target, e.Port.Proto)
}

func (e *HeldError) Unwrap() error { return ErrTaken }

// rest settles what the owner has and an order to attach did not name.
func (p *plan) rest() {
	for _, m := range p.own {
		switch {
		case p.order.Origin != OriginAttach || p.used[m.Port] || !p.mark(m):
		case m.Origin == OriginAttach:
			p.drops = append(p.drops, m.Port)
		case m.Resting():
			m.Rests = time.Time{}
			p.puts = append(p.puts, m)
		}
	}
}

// Configure makes the config's mappings those of the orders: what it had besides ends. A port that can not be had is told,
// and is no reason not to give the others: whether the draft is good enough is for the caller to say, who must end it.
func (b *Book) Configure(ctx context.Context, orders []Order) (*Draft, error) {
	d, used := b.draft(), make(map[Port]bool)
	var errs []error
	for _, o := range orders {
		o.Origin = OriginConfig
		specs := slices.Clone(o.Specs)
		slices.SortStableFunc(specs, func(x, y Spec) int { return cmp.Compare(x.choice(), y.choice()) })
		for i, s := range specs {
			if o.Specs = []Spec{s}; slices.Contains(specs[:i], s) {
				continue
			}
			p := plan{Draft: d, order: o, own: b.Of(o.Owner), used: used}
			errs = append(errs, p.run(ctx))
		}
	}
	for _, m := range b.All() {
		if m.Origin == OriginConfig && !used[m.Port] && d.mark(m) {
			d.drops = append(d.drops, m.Port)
		}
	}
	d.puts = slices.DeleteFunc(d.puts, b.same)
	return d, errors.Join(errs...)
}

// same tells whether the book has exactly that already.
func (b *Book) same(m Mapping) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept[m.Port] == m
}
