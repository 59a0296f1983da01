package endpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Put attaches r, or mends what is not as r says, on the host and inside. What is in order is not written again.
//
// A pair that it made and could not finish is removed. A pair whose inside is in another namespace, such as that of the
// container's former life, is made anew. Errors: ErrGone when r's namespace is not there; ErrForeign when an interface
// of somebody else has one of the two names, or another default route is in the way.
func (l *Links) Put(ctx context.Context, hostIf string, r Row) error {
	if err := l.put(ctx, hostIf, r); err != nil {
		return fmt.Errorf("attach %s to %s: %w", r.Name, r.NetNS, err)
	}
	return nil
}

func (l *Links) put(ctx context.Context, hostIf string, r Row) error {
	if err := errors.Join(ctx.Err(), r.check(hostIf)); err != nil {
		return err
	}
	defer l.turn(hostIf).Unlock()
	if r.Handed() {
		return l.with(func(w *wire) error { return l.offer(w, r) })
	}
	ns, err := r.open()
	if err != nil {
		return err
	}
	defer ns.close()
	if r.truncated() {
		l.mu.Lock()
		l.long[hostIf] = r
		l.mu.Unlock()
	}
	return l.with(func(w *wire) error { return l.place(w, r, ns) })
}

// place makes the pair, or mends the one that is there already: to try is quicker than to look first.
func (l *Links) place(w *wire, r Row, ns namespace) error {
	for range 2 {
		err := w.one(vethRequest(r, ns))
		if err == nil {
			return l.finish(w, r, ns)
		}
		if !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make veth pair: %w", err)
		}
		v, found, err := w.linkNamed(r.HostIf)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("the namespace already has an interface %s, which is %w; choose another name with --ifname",
				r.IfName, ErrForeign)
		}
		if whole, err := l.reuse(w, v, r, ns); whole || err != nil {
			return err
		}
	}
	return fmt.Errorf("interface %s appeared on the host meanwhile: %w", r.HostIf, ErrForeign)
}

// open opens the namespace of r.
func (r Row) open() (namespace, error) {
	if lives(r.NetNS, r.NSInode) {
		fd, err := unix.Open(r.NetNS, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		var st unix.Stat_t
		if err == nil && unix.Fstat(fd, &st) == nil && st.Ino == r.NSInode {
			return namespace{fd: fd, inode: st.Ino}, nil
		}
		if err == nil {
			_ = unix.Close(fd)
		}
	}
	ns, err := enterable(r.NetNS)
	if errors.Is(err, errNotNamespace) {
		err = fmt.Errorf("%w: %w", err, ErrGone)
	}
	if err != nil {
		return namespace{}, err
	}
	if ns.inode != r.NSInode {
		ns.close()
		return namespace{}, fmt.Errorf("inode %d instead of %d: %w", ns.inode, r.NSInode, ErrGone)
	}
	return ns, nil
}

// reuse mends the pair whose host side is v. It is not whole when it had to be removed: its inside is elsewhere, or has
// other addresses.
func (l *Links) reuse(w *wire, v link, r Row, ns namespace) (whole bool, err error) {
	if !v.ours() {
		return false, fmt.Errorf("interface %s (%s) on the host has a name of ours but is %w; remove it: ip link del %s",
			v.name, v.kind, ErrForeign, v.name)
	}
	if old, named := v.identity(); named && (old.IP4 != r.IP4 || old.IP6 != r.IP6) {
		return false, l.remove(w, v.index) // the old addresses go with the pair, and nothing else does
	}
	id, err := w.namespaceID(ns)
	if err != nil {
		return false, err
	}
	if id < 0 || id != v.peerNS {
		return false, l.remove(w, v.index)
	}
	err = l.fit(w, v, r, ns, survey)
	if errors.Is(err, errNotInside) {
		return false, l.remove(w, v.index)
	}
	return true, err
}

// finish completes a pair that was just made, and removes it when it can not.
func (l *Links) finish(w *wire, r Row, ns namespace) error {
	v, found, err := w.linkNamed(r.HostIf)
	if err == nil && !found {
		err = errors.New("the interface vanished while it was made")
	}
	if err != nil {
		return err
	}
	if err := l.fit(w, v, r, ns, bare); err != nil {
		return errors.Join(err, l.remove(w, v.index))
	}
	return nil
}

// fit brings both sides of a pair to what r says; look tells what is inside.
func (l *Links) fit(w *wire, v link, r Row, ns namespace, look func(*wire, link) (*interior, error)) error {
	if err := l.mendHost(w, v, r); err != nil {
		return err
	}
	err := ns.do(func() error {
		inside, err := dial(l.buffer())
		if err != nil {
			return err
		}
		defer l.hangUp(inside)
		in, err := look(inside, v)
		if err != nil {
			return err
		}
		return furnish(inside, v, r, in)
	})
	if err != nil {
		return err
	}
	_, _, err = w.linkAt(v.index)
	return err
}

// namespaceID is the number by which the host's namespace knows ns; -1 when it does not.
func (w *wire) namespaceID(ns namespace) (int, error) {
	data, err := w.ask(request(unix.RTM_GETNSID, 0, &nl.RtGenMsg{},
		nl.NewRtAttr(netlink.NETNSA_FD, nl.Uint32Attr(uint32(ns.fd)))))
	if err != nil {
		return -1, fmt.Errorf("read namespace id: %w", err)
	}
	attrs, err := nl.ParseRouteAttr(data[(&nl.RtGenMsg{}).Len():])
	if err != nil {
		return -1, fmt.Errorf("read namespace id: %w", err)
	}
	for _, a := range attrs {
		if a.Attr.Type == netlink.NETNSA_NSID {
			return number(a.Value), nil
		}
	}
	return -1, nil
}
