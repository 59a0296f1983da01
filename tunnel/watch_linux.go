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
)

// Watch pokes when something in the kernel changes that can concern us, until ctx ends. The channel has capacity 1.
//
// What touches our own objects, links and addresses pokes at once. Foreign routes, which may change by the thousand but
// may also be the way to a peer, forwarding and rp_filter (the kernel tells of no other parameters), and events of the
// namespaces that our links lead to poke at most every 100 ms. What we wrote ourselves does not poke, nor do neighbours that
// the kernel resolves. An overflow of the socket pokes too, since something was missed. So does a router's word that a
// packet of this host was too big. It needs CAP_NET_BROADCAST to hear other namespaces, and CAP_NET_RAW to hear routers.
func (k *Kernel) Watch(ctx context.Context) (<-chan struct{}, error) {
	return k.watch(ctx, watchRoom)
}

func (k *Kernel) watch(ctx context.Context, room int) (<-chan struct{}, error) {
	var fd int
	err := k.inside(func() (err error) {
		fd, err = subscribe(room)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch the kernel: %w", err)
	}
	w := &watcher{k: k, file: os.NewFile(uintptr(fd), "netlink"), pokes: make(chan struct{}, 1)}
	if err := errors.Join(w.learn(ctx), w.hearErrors(ctx)); err != nil {
		w.file.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { w.file.Close() })
	go func() {
		defer stop()
		defer w.file.Close()
		w.run(ctx)
	}()
	return w.pokes, nil
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
	later         // with others, after the quiet time
	now
)

type watcher struct {
	k       *Kernel
	file    *os.File
	pokes   chan struct{}
	ours    map[int]bool // the indexes of our links
	delayed *time.Timer
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
	w.delayed = time.AfterFunc(time.Hour, w.poke)
	w.delayed.Stop()
	defer w.delayed.Stop()
	armed := time.Time{} // when the delayed poke goes off
	buf, control := make([]byte, bufferSize), make([]byte, 64)
	for ctx.Err() == nil {
		u, err := w.receive(buf, control)
		if err != nil {
			// An overflow, as a rule, and more will follow. Which links are ours may be among what was missed; if they can
			// not be read now, link events poke anyway.
			select {
			case <-ctx.Done():
				return
			case <-time.After(quiet):
			}
			_ = w.learn(ctx)
			u = now
		}
		switch {
		case u == now:
			w.poke()
		case u == later && time.Now().After(armed):
			armed = time.Now().Add(quiet)
			w.delayed.Reset(quiet)
		}
	}
}

func (w *watcher) poke() {
	select {
	case w.pokes <- struct{}{}:
	default:
	}
}

// receive reads one datagram and judges what is in it.
func (w *watcher) receive(buf, control []byte) (u urgency, err error) {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return never, err
	}
	var n, oob int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, oob, _, _, failed = unix.Recvmsg(int(fd), buf, control, 0)
		return failed != unix.EAGAIN && failed != unix.EINTR
	})
	if err := errors.Join(err, failed); err != nil {
		return never, err
	}
	elsewhere := foreignNamespace(control[:oob])
	for m := range split(buf[:n]) {
		u = max(u, w.judge(m, elsewhere))
	}
	return u, nil
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

func (w *watcher) judge(m message, elsewhere bool) urgency {
	switch m.kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if elsewhere {
			return later
		}
		w.track(m)
		return now
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if elsewhere {
			return later
		}
		return now
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return w.judgeNeighbour(m, elsewhere)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return w.judgeRoute(m, elsewhere)
	case unix.RTM_NEWNETCONF:
		if elsewhere {
			return never
		}
		return later // one write to forwarding is an event for every link
	default:
		return never
	}
}

// track follows which links are ours.
func (w *watcher) track(m message) {
	if len(m.body) < unix.SizeofIfInfomsg || m.body[0] == unix.AF_BRIDGE {
		return
	}
	l := parseLink(m.body)
	if m.kind == unix.RTM_NEWLINK && ourLink(l.name) {
		w.ours[l.index] = true
		return
	}
	delete(w.ours, l.index)
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

func (w *watcher) judgeRoute(m message, elsewhere bool) urgency {
	if len(m.body) < unix.SizeofRtMsg {
		return never
	}
	rule := m.kind == unix.RTM_NEWRULE || m.kind == unix.RTM_DELRULE
	cached := !rule && binary.NativeEndian.Uint32(m.body[8:])&unix.RTM_F_CLONED != 0
	switch {
	case cached:
		return never
	case elsewhere:
		return later
	case m.pid == w.k.conn.pid:
		return never
	case rule || m.body[5] == Protocol:
		return now
	default:
		return later
	}
}
