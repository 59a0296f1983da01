package endpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Links are the endpoints' veth pairs, seen from the host's network namespace: the one that NewLinks was called in.
//
// It is safe for use by several goroutines; calls for one key wait for each other. It holds no container's namespace.
type Links struct {
	home  namespace
	mu    sync.Mutex
	idle  []*wire        // into home
	long  map[string]Row // what did not fit into an alias, by host interface
	turns [64]sync.Mutex // one call at a time for each host interface
	tails sync.WaitGroup // deletions that the kernel has not finished
	slots chan struct{}  // one for each of them
}

const (
	keptWires = 4
	maxTails  = 16
)

// NewLinks opens the host's side, in the network namespace of the calling thread.
func NewLinks() (*Links, error) {
	home, err := enterable(ownNetNS)
	if err != nil {
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	w, err := dial()
	if err != nil {
		home.close()
		return nil, err
	}
	return &Links{home: home, idle: []*wire{w}, long: map[string]Row{}, slots: make(chan struct{}, maxTails)}, nil
}

// Close gives back sockets and files, after the kernel has finished what it was asked. What was attached stays so.
func (l *Links) Close() error {
	l.tails.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.idle {
		w.close()
	}
	l.idle = nil
	l.home.close()
	return nil
}

// with runs fn with a wire into the host's namespace. A deletion waits long in the kernel, so calls do not share one.
func (l *Links) with(fn func(w *wire) error) error {
	w := l.take()
	if w == nil {
		err := l.home.do(func() (err error) { w, err = dial(); return err })
		if err != nil {
			return err
		}
	}
	err := fn(w)
	l.give(w, errors.Is(err, errWire))
	return err
}

func (l *Links) take() *wire {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.idle) == 0 {
		return nil
	}
	w := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	return w
}

func (l *Links) give(w *wire, broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if broken || len(l.idle) >= keptWires {
		w.close()
		return
	}
	l.idle = append(l.idle, w)
}

// turn waits until no other call works on hostIf; the caller unlocks.
func (l *Links) turn(hostIf string) *sync.Mutex {
	var n uint
	for _, b := range []byte(hostIf) {
		n = n*31 + uint(b)
	}
	m := &l.turns[n%uint(len(l.turns))]
	m.Lock()
	return m
}

// List reports the pairs by what their host sides show: everything but MTU comes from the alias.
//
// A host side that is down, or whose hardware address or settings were changed, has MTU 0. One whose alias is gone but
// that still shows our mark (link group and hardware address) is a row with nothing but HostIf: Put mends it, Delete
// removes it. A link that only has a name like ours is not listed.
func (l *Links) List(ctx context.Context) (map[string]Row, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rows := map[string]Row{}
	err := l.with(func(w *wire) error {
		veths, err := w.links("veth")
		if err != nil {
			return err
		}
		for _, v := range veths {
			if r, ok := l.row(v); ok {
				rows[v.name] = r
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	return rows, nil
}

// row is what a host side says about its endpoint.
func (l *Links) row(v link) (Row, bool) {
	if !ours(v) {
		return Row{}, false
	}
	r, err := parseAlias(v.alias)
	if err != nil || !r.names(v.name) {
		return Row{HostIf: v.name}, true
	}
	l.mu.Lock()
	if full, ok := l.long[v.name]; ok && full.alias() == v.alias {
		r = full
	}
	l.mu.Unlock()
	r.HostIf, r.MTU = v.name, 0
	if inOrder(v, r) {
		r.MTU = v.mtu
	}
	return r, true
}

// ours says whether a link is a host side of ours, whole or half made.
func ours(v link) bool {
	if v.kind != "veth" || !hostIfShaped(v.name) {
		return false
	}
	if r, err := parseAlias(v.alias); err == nil && r.names(v.name) {
		return true
	}
	return v.group == linkGroup && v.mac == hostMAC()
}

// inOrder says whether a host side is as Put leaves it, but for alias and MTU.
func inOrder(v link, r Row) bool {
	return v.up && v.mac == hostMAC() && v.group == linkGroup &&
		setting(v.conf4, conf4Forwarding, 0) == 1 && len(conf6Wanted(v, r)) == 0 &&
		(len(v.conf6) == 0 || v.genMode == addrGenNone)
}

// conf6Wanted are the IPv6 settings of a host side that are not as they should be.
//
// A container that could send router advertisements would reroute its host (CVE-2020-10749), whatever its own family.
func conf6Wanted(v link, r Row) map[string]string {
	want := map[string]string{}
	if setting(v.conf6, conf6AcceptRA, 0) != 0 {
		want["accept_ra"] = "0"
	}
	if r.IP6.IsValid() && setting(v.conf6, conf6Disable, 0) != 0 {
		want["disable_ipv6"] = "0"
	}
	if r.IP6.IsValid() && setting(v.conf6, conf6Force, 1) == 0 {
		want["force_forwarding"] = "1"
	}
	return want
}

// mendHost puts right what differs on a host side.
func (l *Links) mendHost(w *wire, v link, r Row) error {
	mac := hostMAC()
	var attrs []*nl.RtAttr
	if v.alias != r.alias() {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(r.alias())))
	}
	if v.mtu != r.MTU {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(r.MTU))))
	}
	if v.mac != mac {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, mac[:]))
	}
	if v.group != linkGroup {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(linkGroup)))
	}
	forward := setting(v.conf4, conf4Forwarding, 0) != 1
	quiet := len(v.conf6) > 0 && v.genMode != addrGenNone
	if forward || quiet {
		attrs = append(attrs, settings(forward, quiet))
	}
	var reqs []*nl.NetlinkRequest
	if len(attrs) > 0 {
		reqs = append(reqs, setLink(v.index, attrs...))
	}
	if !v.up {
		reqs = append(reqs, setUp(v.index, true))
	}
	results, err := w.apply(reqs...)
	if err := errors.Join(append(results, err)...); err != nil {
		return fmt.Errorf("set host interface %s: %w", r.HostIf, err)
	}
	return l.mendConf6(v, r)
}

func (l *Links) mendConf6(v link, r Row) error {
	want := conf6Wanted(v, r)
	if len(want) == 0 {
		return nil
	}
	return l.home.do(func() error {
		for key, value := range want {
			if err := writeConf6(r.HostIf, key, value); err != nil {
				return err
			}
		}
		return nil
	})
}
