package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	offloadTime     = 2 * time.Second        // for a whole test
	offloadPatience = 200 * time.Millisecond // for one answer
	offloadSmall    = 33                     // bytes; odd, since sums go by pairs
	headers4        = 20 + 8                 // of IPv4 and UDP, in bytes
	offloadPort     = 9                      // discard, RFC 863: where somebody listens he says nothing, which proves nothing
)

// ProbeOffload finds out whether a packet reaches a peer whole when the filling in of its checksum is left to what is below
// a VXLAN device, as it is with what containers send: some kernels and network cards spoil it, and the other side drops
// the packet.
//
// It asks a UDP port of the peer's underlay address through the tunnel. A host looks at the checksum before it says that
// nobody listens there, so an answer proves that the question arrived whole. The same question with a checksum by our own
// kernel is the control: only who answers that one and not the other proves a fault. The answers come in the open. Small
// and full packets are tried, but no segmentation: each segment would want an answer of its own.
//
// Nothing is found out over IPv6 (a socket can send through a device only where a route leads), while the offload is off,
// or from a peer that keeps silent. A peer whose firewall itself says "port unreachable" passes for a sound path: inside of
// a tunnel without an outer checksum Linux lets it say so of any packet (skb_csum_unnecessary in nf_send_unreach). It takes
// 2 s at most and sends 16 packets at most, 2 when all is well.
func (k *Kernel) ProbeOffload(ctx context.Context, dev string, from, peer netip.Addr) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, offloadTime)
	defer cancel()
	from, peer = from.Unmap(), peer.Unmap()
	if !from.Is4() || !peer.Is4() {
		return VerdictUnknown, nil
	}
	v, err := k.probeOffload(ctx, dev, from, peer)
	if err != nil {
		return VerdictUnknown, fmt.Errorf("probe checksum offload of %s to %v: %w", dev, peer, err)
	}
	return v, nil
}

func (k *Kernel) probeOffload(ctx context.Context, dev string, from, peer netip.Addr) (Verdict, error) {
	l, err := k.link(ctx, dev)
	if err != nil {
		return VerdictUnknown, err
	}
	if o, err := k.readOffload(dev); err != nil || o == OffloadOff {
		return VerdictUnknown, err
	}
	small, err := k.compare(ctx, make([]byte, offloadSmall), l.index, from, peer)
	if err != nil || small != VerdictGood {
		return small, err
	}
	full, err := k.compare(ctx, make([]byte, l.mtu-headers4), l.index, from, peer)
	if err != nil {
		return VerdictUnknown, err
	}
	// What was found while somebody turned the offload off is worth nothing.
	if o, err := k.readOffload(dev); err != nil || o == OffloadOff {
		return VerdictUnknown, err
	}
	return Together(small, full), nil
}

// compare asks the same question with both kinds of checksum, in turn, until the answers are clear. Neither is always the
// one that comes right after an answer, which a peer that limits its answers would not give again so soon.
func (k *Kernel) compare(ctx context.Context, body []byte, index int, from, peer netip.Addr) (Verdict, error) {
	var both [2]*caller
	for i, by := range []Offload{OffloadOn, OffloadOff} {
		c, err := k.call(index, from, peer)
		if err != nil {
			return VerdictUnknown, err
		}
		defer c.conn.Close()
		c.sums, both[i] = by, c
	}
	for i := range 2 * offloadTries {
		turn := (i + i/2) % 2 // 0 1, 1 0, 0 1, …
		if err := both[turn].ask(ctx, body); err != nil {
			return VerdictUnknown, err
		}
		if v := judge(both[0].tally, both[1].tally); v == VerdictGood {
			return v, nil
		}
	}
	return judge(both[0].tally, both[1].tally), nil
}

// caller asks one peer through one device.
type caller struct {
	conn *net.UDPConn
	way  []byte  // control message that sends through the device
	sums Offload // who fills in the checksum
	tally
}

// call opens a caller. Its socket is not bound to the device: the answers come by another one. A packet that is sent through
// a device to which no route leads goes to the neighbour of the destination's own address there.
func (k *Kernel) call(index int, from, peer netip.Addr) (*caller, error) {
	c := &caller{way: unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(index), Spec_dst: from.As4()})}
	err := k.inside(func() (err error) {
		c.conn, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer, offloadPort)))
		return err
	})
	if err != nil {
		return nil, err
	}
	// As large as the device takes, whatever is known of the path: a packet in pieces is summed up by the kernel.
	if err := c.set(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
		return nil, errors.Join(err, c.conn.Close())
	}
	return c, nil
}

// ask sends one question and waits for the answer to it or to an earlier one, which may come as the error of sending. That
// none comes, or none any more before the end of ctx, is no error.
func (c *caller) ask(ctx context.Context, body []byte) error {
	if ctx.Err() != nil {
		return nil
	}
	err := c.send(body)
	if err == nil {
		c.asked++
		err = c.listen(ctx)
	}
	switch {
	case c.asked > 0 && arrived(err):
		c.answered++
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	default:
		return err
	}
}

func (c *caller) send(body []byte) error {
	if c.sums == OffloadOn {
		_, _, err := c.conn.WriteMsgUDPAddrPort(body, c.way, netip.AddrPort{})
		return err
	}
	// What is put together piece by piece is summed up by the kernel, whatever the device can do.
	if err := c.set(unix.IPPROTO_UDP, unix.UDP_CORK, 1); err != nil {
		return err
	}
	_, _, err := c.conn.WriteMsgUDPAddrPort(body, c.way, netip.AddrPort{})
	return errors.Join(err, c.set(unix.IPPROTO_UDP, unix.UDP_CORK, 0))
}

// listen waits for an answer; its error tells which.
func (c *caller) listen(ctx context.Context) error {
	until := time.Now().Add(offloadPatience)
	if end, set := ctx.Deadline(); set && end.Before(until) {
		until = end
	}
	if err := c.conn.SetReadDeadline(until); err != nil {
		return err
	}
	_, err := c.conn.Read(make([]byte, 1))
	return err
}

// arrived tells whether the outcome of a question proves that it arrived whole. "Prohibited" does not: a firewall says so
// without a look at the checksum.
func arrived(err error) bool { return err == nil || errors.Is(err, unix.ECONNREFUSED) }

func (c *caller) set(level, option, value int) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) })
	return errors.Join(err, failed)
}
