package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchRoom = 4 << 20 // bytes of the receive buffer
	quiet     = 100 * time.Millisecond
	gather    = 20 * time.Millisecond // for what comes together, as the routes of a link that comes up
)

// Pokes say that something has changed, each channel with a capacity of 1.
type Pokes struct {
	// Own is about our own objects. Soon after a change that we made it may be the echo of that.
	Own <-chan struct{}
	// Beneath is about links, addresses and routes of others, never an echo.
	Beneath <-chan struct{}
}

// Watch pokes when something in the kernel changes that can concern us, until ctx ends.
//
// What touches our own objects, links and addresses pokes at once. Foreign routes, which may change by the thousand but
// may also be the way to a peer, forwarding and rp_filter (the kernel tells of no other parameters), and events of the
// namespaces that our links lead to poke after 20 ms, and then at most every 100 ms. What we wrote ourselves does not poke, nor do neighbours that
// the kernel resolves. An overflow of the socket pokes too, since something was missed. So does a router's word that a
// packet of this host was too big. It needs CAP_NET_BROADCAST to hear other namespaces, and CAP_NET_RAW to hear routers.
func (k *Kernel) Watch(ctx context.Context) (Pokes, error) { return k.watch(ctx, watchRoom) }

func (k *Kernel) watch(ctx context.Context, room int) (Pokes, error) {
	var fd int
	err := k.inside(func() (err error) {
		fd, err = subscribe(room)
		return err
	})
	if err != nil {
		return Pokes{}, fmt.Errorf("watch the kernel: %w", err)
	}
	w := &watcher{k: k, file: os.NewFile(uintptr(fd), "netlink"), own: newBell(), beneath: newBell()}
	if err := errors.Join(w.learn(ctx), w.hearErrors(ctx)); err != nil {
		w.file.Close()
		return Pokes{}, err
	}
	k.foreign.watched(1)
	stop := context.AfterFunc(ctx, func() { w.file.Close() })
	go func() {
		defer k.foreign.watched(-1)
		defer stop()
		defer w.file.Close()
		w.run(ctx)
	}()
	return Pokes{Own: w.own.pokes, Beneath: w.beneath.pokes}, nil
}

func subscribe(room int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := join(fd, room); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func join(fd, room int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return fmt.Errorf("listen to other namespaces: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	for _, group := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return fmt.Errorf("join netlink group %d: %w", group, err)
		}
	}
	return nil
}

// urgency is how soon an event must be looked at.
type urgency int

const (
	never urgency = iota
	later         // with others that come soon
	now
)

// bell pokes, at once or for all that comes soon.
type bell struct {
	pokes   chan struct{}
	delayed *time.Timer
	next    time.Time // when the delayed poke goes off, or went off
}

func newBell() *bell {
	b := &bell{pokes: make(chan struct{}, 1)}
	b.delayed = time.AfterFunc(time.Hour, b.poke)
	b.delayed.Stop()
	return b
}

func (b *bell) poke() {
	select {
	case b.pokes <- struct{}{}:
	default:
	}
}

// ring pokes as soon as u asks for. Delayed pokes are the quiet time apart.
func (b *bell) ring(u urgency) {
	switch now := time.Now(); {
	case u == later && now.After(b.next):
		b.next = b.next.Add(quiet)
		if soon := now.Add(gather); b.next.Before(soon) {
			b.next = soon
		}
		b.delayed.Reset(time.Until(b.next))
	case u > later:
		b.poke()
	}
}

type watcher struct {
	k            *Kernel
	file         *os.File
	own, beneath *bell
	ours         map[int]bool // the indexes of our links
}

// verdict is how urgent what an event is about is.
type verdict struct{ own, beneath urgency }

func (v verdict) with(o verdict) verdict {
	return verdict{max(v.own, o.own), max(v.beneath, o.beneath)}
}

// learn reads which links are ours. It comes after the subscription, so none is missed.
func (w *watcher) learn(ctx context.Context) error {
	all, err := w.k.every(ctx)
	if err != nil {
		return err
	}
	w.ours = make(map[int]bool)
	for _, l := range all {
		if ourLink(l.name) {
			w.ours[l.index] = true
		}
	}
	return nil
}

func (w *watcher) run(ctx context.Context) {
	defer w.own.delayed.Stop()
	defer w.beneath.delayed.Stop()
	buf, control := make([]byte, bufferSize), make([]byte, 64)
	for ctx.Err() == nil {
		v, err := w.receive(buf, control)
		if err != nil {
			// An overflow, as a rule, and more will follow. Which links are ours may be among what was missed; if they can
			// not be read now, link events poke anyway.
			select {
			case <-ctx.Done():
				return
			case <-time.After(quiet):
			}
			_ = w.learn(ctx)
			w.k.foreign.missed()
			v = verdict{beneath: now}
		}
		w.own.ring(v.own)
		w.beneath.ring(v.beneath)
	}
}

// receive reads one datagram and judges what is in it.
func (w *watcher) receive(buf, control []byte) (v verdict, err error) {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return v, err
	}
	var n, oob int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, oob, _, _, failed = unix.Recvmsg(int(fd), buf, control, 0)
		return failed != unix.EAGAIN && failed != unix.EINTR
	})
	if err := errors.Join(err, failed); err != nil {
		return v, err
	}
	elsewhere := foreignNamespace(control[:oob])
	for m := range split(buf[:n]) {
		v = v.with(w.judge(m, elsewhere))
	}
	return v, nil
}

// foreignNamespace tells whether a datagram comes from another namespace: only then does it bear that one's number.
func foreignNamespace(control []byte) bool {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID {
			return true
		}
	}
	return false
}

func (w *watcher) judge(m message, elsewhere bool) verdict {
	switch m.kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if elsewhere {
			return verdict{own: later}
		}
		return w.judgeLink(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if elsewhere {
			return verdict{own: later}
		}
		return w.judgeAddress(m)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return verdict{own: w.judgeNeighbour(m, elsewhere)}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return w.judgeRoute(m, elsewhere)
	case unix.RTM_NEWNETCONF:
		if elsewhere {
			return verdict{}
		}
		return verdict{own: later} // one write to forwarding is an event for every link
	default:
		return verdict{}
	}
}

// judgeLink follows which links are ours, too.
func (w *watcher) judgeLink(m message) verdict {
	if len(m.body) < unix.SizeofIfInfomsg || m.body[0] == unix.AF_BRIDGE {
		return verdict{own: now}
	}
	l := parseLink(m.body)
	known := w.ours[l.index]
	if m.kind == unix.RTM_NEWLINK && ourLink(l.name) {
		w.ours[l.index] = true
		return verdict{own: now}
	}
	delete(w.ours, l.index)
	if known {
		return verdict{own: now}
	}
	return verdict{beneath: now}
}

func (w *watcher) judgeAddress(m message) verdict {
	if len(m.body) >= unix.SizeofIfAddrmsg && w.ours[int(binary.NativeEndian.Uint32(m.body[4:]))] {
		return verdict{own: now}
	}
	return verdict{beneath: now}
}

// judgeNeighbour takes notice of permanent entries and of entries that end. The rest is the kernel resolving addresses.
func (w *watcher) judgeNeighbour(m message, elsewhere bool) urgency {
	if len(m.body) < unix.SizeofNdMsg {
		return never
	}
	n := parseNeighbour(m.body)
	lasting := n.state&(unix.NUD_PERMANENT|unix.NUD_FAILED) != 0 || m.kind == unix.RTM_DELNEIGH
	switch {
	case !lasting:
		return never
	case elsewhere:
		return later
	case !w.ours[n.index] || m.pid == w.k.conn.pid:
		return never
	default:
		return now
	}
}

func (w *watcher) judgeRoute(m message, elsewhere bool) verdict {
	if len(m.body) < unix.SizeofRtMsg {
		return verdict{}
	}
	rule := m.kind == unix.RTM_NEWRULE || m.kind == unix.RTM_DELRULE
	cached := !rule && binary.NativeEndian.Uint32(m.body[8:])&unix.RTM_F_CLONED != 0
	switch {
	case cached:
		return verdict{}
	case elsewhere:
		return verdict{own: later}
	case m.pid == w.k.conn.pid:
		return verdict{}
	case rule || m.body[5] == Protocol:
		return verdict{own: now}
	default:
		w.k.foreign.hear(m.body)
		return verdict{beneath: later}
	}
}
