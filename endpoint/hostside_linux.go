package endpoint

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rows are what the host sides among links say about their endpoints, by host interface. An alias that was there at the
// latest listing is not read anew.
func (l *Links) rows(links []link) map[string]Row {
	l.mu.Lock()
	defer l.mu.Unlock()
	told, rows := make(map[string]Row, len(links)), make(map[string]Row, len(links))
	for _, v := range links {
		r, known := l.told[v.alias]
		if !known || r.HostIf != v.name {
			r, known = v.identity()
		}
		switch {
		case known:
			told[v.alias], rows[v.name] = r, l.row(v, r)
		case v.marked():
			rows[v.name] = Row{HostIf: v.name}
		}
	}
	l.told = told
	return rows
}

// row is r, read from the alias of v, with what else v shows.
func (l *Links) row(v link, r Row) Row {
	if full, ok := l.long[v.name]; ok && full.alias() == v.alias {
		r = full
	}
	r.HostIf, r.MTU = v.name, 0
	if v.inOrder(r) {
		r.MTU = v.mtu
	}
	return r
}

// identity reads the alias; named is false when it is not about this link.
func (v link) identity() (r Row, named bool) {
	if v.kind != "veth" || !hostIfShaped(v.name) {
		return Row{}, false
	}
	r, err := parseAlias(v.alias)
	r.HostIf = v.name
	return r, err == nil && r.names(v.name)
}

// marked says whether a link shows what a host side has from the moment it is made, before it has an alias.
func (v link) marked() bool {
	return v.kind == "veth" && hostIfShaped(v.name) && v.group == linkGroup && v.mac == hostMAC()
}

// ours says whether a link is a host side of ours, whole or half made.
func (v link) ours() bool {
	_, named := v.identity()
	return named || v.marked()
}

// inOrder says whether a host side is as Put leaves it, but for alias and MTU.
func (v link) inOrder(r Row) bool {
	return v.up && v.marked() && !v.mute() && !v.loud() && len(v.conf6(r)) == 0
}

// mute says whether packets that come from the container would not be forwarded.
func (v link) mute() bool { return v.forwarding4 != 1 }

// loud says whether the kernel would give the interface a link-local address, and talk about it.
func (v link) loud() bool { return v.genMode6 >= 0 && v.genMode6 != addrGenNone }

// conf6 are the IPv6 settings of a host side that should be otherwise.
//
// A container that could send router advertisements would reroute its host (CVE-2020-10749), whatever its own family.
func (v link) conf6(r Row) map[string]string {
	var want map[string]string
	set := func(key, value string) {
		if want == nil {
			want = map[string]string{}
		}
		want[key] = value
	}
	if v.acceptRA6 > 0 {
		set("accept_ra", "0")
	}
	if r.IP6.IsValid() && v.disable6 > 0 {
		set("disable_ipv6", "0")
	}
	if r.IP6.IsValid() && v.force6 == 0 {
		set("force_forwarding", "1")
	}
	return want
}

// mendHost puts right what differs on a host side.
func (l *Links) mendHost(w *wire, v link, r Row) error {
	mac := hostMAC()
	var attrs []*nl.RtAttr
	if alias := r.alias(); v.alias != alias {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
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
	if v.mute() || v.loud() {
		attrs = append(attrs, settings(v.mute(), v.loud()))
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
	if err := l.mendConf6(v, r); err != nil {
		return err
	}
	for _, gateway := range r.Greets() {
		if err := w.one(newGateway(v.index, gateway)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("give host interface %s the gateway's address: %w", r.HostIf, err)
		}
	}
	return nil
}

func (l *Links) mendConf6(v link, r Row) error {
	want := v.conf6(r)
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
