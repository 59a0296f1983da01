package nat

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// pinned keeps ports by programs of ours that look at every bind.
type pinned struct {
	*pins
	k      *Kernel
	cookie uint64       // of the network namespace
	guards map[Port]int // sockets bound to ports whose claim is not settled
	sctp   *sockets     // has those of SCTP where this kernel lets no program look at its binds; nil: it does
}

// openPinned takes over what is pinned, or pins it. An error says why ports can not be held so.
func openPinned(ctx context.Context, k *Kernel, dir string) (*pinned, error) {
	p := &pinned{pins: newPins(dir), k: k, guards: make(map[Port]int)}
	if err := k.inside(func() (err error) { p.cookie, err = cookieHere(); return err }); err != nil {
		return nil, err
	}
	if err := p.findRoot(); err != nil {
		return nil, err
	}
	lock, err := p.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := p.adopt(); err != nil {
		if errors.Is(err, unix.EPERM) { // the library adds its guesses
			err = fmt.Errorf("eBPF is not allowed here: %w", unix.EPERM)
		}
		return nil, errors.Join(err, p.leave())
	}
	return p, nil
}

// cookieHere is what the kernel's programs know the thread's network namespace by.
func cookieHere() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("ask for the cookie of the network namespace (Linux 5.14): %w", err)
	}
	return cookie, nil
}

func (p *pinned) weak() string {
	if p.sctp != nil && p.sctp.isNeeded() {
		return p.sctp.weak()
	}
	if p.isNarrow() {
		return "only programs in this container are watched: the root of the control groups is not seen from here"
	}
	return ""
}

func (p *pinned) close() error {
	for port := range p.guards {
		p.settle([]Port{port})
	}
	var err error
	if p.sctp != nil {
		err = p.sctp.close()
	}
	return errors.Join(err, p.pins.close())
}

// leave removes the pins when nobody holds a port, and lets go of them.
func (p *pins) leave() error {
	var key heldKey
	if p.ports == nil || errors.Is(p.ports.NextKey(nil, &key), ebpf.ErrKeyNotExist) {
		return p.remove()
	}
	return p.close()
}

func (p *pinned) list(ctx context.Context) (map[Port]Fault, error) {
	have := make(map[Port]Fault)
	if p.sctp != nil {
		for port := range p.sctp.held {
			have[port] = ""
		}
	}
	if p.ports == nil {
		if !pinnedAt(p.dir) {
			return have, nil
		}
		lock, err := p.lock(ctx)
		if err != nil {
			return nil, err
		}
		defer lock.Close()
		if err := p.adopt(); err != nil {
			return nil, err
		}
	}
	kept, err := p.reserved()
	if err != nil {
		return nil, err
	}
	sound := p.sound()
	err = p.each(func(key heldKey, flags heldFlags) {
		switch {
		case flags&heldRow == 0:
		case !sound, key.Proto == unix.IPPROTO_SCTP && p.links[pinSCTP] == nil:
			have[key.port()] = faultDetached
		case !kept.has(key.numbered()):
			have[key.port()] = faultChosen
		case flags&heldTaken != 0:
			have[key.port()] = faultTaken
		default:
			have[key.port()] = ""
		}
	})
	return have, err
}

func (p *pinned) reserved() (set *numbers, err error) {
	err = p.k.inside(func() error { set, err = reserved(); return err })
	return set, err
}

func (p *pinned) take(ctx context.Context, ports []Port) (fresh []Port, failed map[Port]error) {
	failed = make(map[Port]error)
	lock, err := p.lock(ctx)
	if err != nil {
		return nil, allFailed(failed, ports, err)
	}
	defer lock.Close()
	if !p.sound() {
		if err := p.adopt(); err != nil {
			return nil, allFailed(failed, ports, err)
		}
	}
	ports, theirs := p.apart(ports)
	if len(theirs) > 0 {
		fresh, failed = p.sctp.take(ctx, theirs)
	}
	err = p.k.inside(func() error {
		marked, err := p.mark(ports)
		fresh = append(fresh, marked...)
		if err != nil {
			return err
		}
		for _, port := range ports {
			if err := p.look(port); err != nil {
				failed[port] = err
			}
		}
		return nil
	})
	return fresh, allFailed(failed, ports, err)
}

// apart tells the ports that are held by programs from those of SCTP that must be held by sockets: where the programs for
// it can not be had once, they are not asked for again.
func (p *pinned) apart(ports []Port) (mine, sctp []Port) {
	for _, port := range ports {
		if port.Proto != "sctp" {
			mine = append(mine, port)
			continue
		}
		if p.sctp == nil && p.links[pinSCTP] == nil {
			if err := p.adoptSCTP(); err != nil {
				p.sctp = newSockets(p.k, "SCTP: "+err.Error())
			}
		}
		if p.sctp == nil {
			mine = append(mine, port)
		} else {
			sctp = append(sctp, port)
		}
	}
	return mine, sctp
}

// mark holds ports, in the thread's network namespace, and tells which were not held before.
func (p *pinned) mark(ports []Port) (fresh []Port, err error) {
	kept, err := reserved()
	if err != nil {
		return nil, err
	}
	var more numbers
	for _, port := range ports {
		news, err := p.enter(port, kept.has(port.Number))
		if err != nil {
			return fresh, err
		}
		if news {
			fresh = append(fresh, port)
		}
		if !kept.has(port.Number) {
			more.add(port.Number)
		}
	}
	if more == (numbers{}) {
		return fresh, nil
	}
	return fresh, reserve(&more)
}

// enter writes a port into the map, behind what goes with it. Who reserved a number before us wants it back so; a number
// that is ours and reserved no more was taken out by somebody who now wants it so.
func (p *pinned) enter(port Port, kept bool) (fresh bool, err error) {
	was, there, err := p.read(p.number(port.Number))
	if err != nil {
		return false, err
	}
	switch {
	case !there && kept:
		err = p.write(p.number(port.Number), heldBefore)
	case !there, was&heldBefore != 0 && !kept:
		err = p.write(p.number(port.Number), 0)
	}
	if err != nil {
		return false, err
	}
	key := p.key(port)
	if _, there, err = p.read(key.whole()); err == nil && !there && key != key.whole() {
		err = p.write(key.whole(), 0)
	}
	if err != nil {
		return false, err
	}
	flags, _, err := p.read(key)
	if err != nil || flags&heldRow != 0 {
		return false, err
	}
	return true, p.write(key, flags|heldRow)
}

// look finds out, in the thread's network namespace, whether somebody has a port that is held now, and notes it. What
// passed our program before we wrote into the map finds our socket in its way, until the port is settled.
func (p *pinned) look(port Port) error {
	if _, bound := p.guards[port]; bound {
		return nil
	}
	var cookies []uint64
	fd, err := occupy(port, func(cookie uint64) error {
		cookies = append(cookies, cookie)
		return p.excused.Put(cookie, uint32(0))
	})
	for _, cookie := range cookies {
		err = errors.Join(err, p.excused.Delete(cookie))
	}
	if err == nil && fd >= 0 {
		p.guards[port] = fd
	}
	flags := heldRow
	if errors.Is(err, ErrTaken) {
		flags |= heldTaken
	}
	return errors.Join(err, p.write(p.key(port), flags))
}

func (p *pinned) settle(ports []Port) {
	for _, port := range ports {
		if fd, bound := p.guards[port]; bound {
			unix.Close(fd)
			delete(p.guards, port)
		}
	}
}

// drop lets go of ports: first the kernel may choose them again, then programs may bind them, and last what went with
// them goes. Whoever is killed in between leaves a row that does not look sound, never a number reserved for nobody.
func (p *pinned) drop(ctx context.Context, ports []Port) map[Port]error {
	failed := make(map[Port]error)
	if p.sctp != nil {
		failed = p.sctp.drop(ctx, ports)
	}
	if len(ports) == 0 || p.ports == nil && !pinnedAt(p.dir) {
		return failed
	}
	lock, err := p.lock(ctx)
	if err != nil {
		return allFailed(failed, ports, err)
	}
	defer lock.Close()
	if !p.sound() { // others may have other pins there by now, which are not ours to remove
		if err := p.adopt(); err != nil {
			return allFailed(failed, ports, err)
		}
	}
	if err := p.erase(ports); err != nil {
		return allFailed(failed, ports, err)
	}
	var key heldKey
	if errors.Is(p.ports.NextKey(nil, &key), ebpf.ErrKeyNotExist) {
		return allFailed(failed, ports, p.remove())
	}
	return failed
}

func (p *pinned) erase(ports []Port) error {
	var concerned numbers
	for _, port := range ports {
		concerned.add(port.Number)
	}
	entries := make(map[heldKey]heldFlags)
	err := p.each(func(key heldKey, flags heldFlags) {
		if concerned.has(key.numbered()) {
			entries[key] = flags
		}
	})
	if err != nil {
		return err
	}
	for _, port := range ports {
		entries[p.key(port)] &^= heldRow | heldTaken
	}
	needed := make(map[heldKey]bool) // entries that are rows, or go with one
	for key, flags := range entries {
		if flags&heldRow != 0 {
			needed[key], needed[key.whole()], needed[p.number(key.numbered())] = true, true, true
		}
	}
	var fewer numbers
	for key, flags := range entries {
		if key.Family == 0 && !needed[key] && flags&heldBefore == 0 {
			fewer.add(key.numbered())
		}
	}
	if fewer != (numbers{}) {
		if err := p.k.inside(func() error { return unreserve(&fewer) }); err != nil {
			return err
		}
	}
	return p.forget(entries, needed)
}

// forget deletes the entries that are not needed, the numbers last, and writes what is left of the others.
func (p *pinned) forget(entries map[heldKey]heldFlags, needed map[heldKey]bool) error {
	for _, numbers := range []uint8{1, 0} {
		for key, flags := range entries {
			if min(key.Family, 1) != numbers {
				continue
			}
			var err error
			switch {
			case !needed[key]:
				err = p.ports.Delete(key)
			case key.Family != 0 && key == key.whole() && flags&heldRow == 0:
				err = p.write(key, 0)
			}
			if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("let go of port: %w", err)
			}
		}
	}
	return nil
}
