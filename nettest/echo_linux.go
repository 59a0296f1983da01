package nettest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The services that Serve offers.
const (
	portEcho   = 7001 // UDP and TCP: sends back what it gets
	portMirror = 7002 // UDP: says which address it was asked from
)

const socketBuffer = 8 << 20 // bytes: a test that the machine lets wait must not count that as loss

// Serve answers probes on one address of the host until the test ends.
func (h *Host) Serve(ip netip.Addr) {
	h.t.Helper()
	echo, mirror := h.listenUDP(ip, portEcho), h.listenUDP(ip, portMirror)
	var tcp net.Listener
	if err := h.Do(func() (err error) {
		tcp, err = net.Listen("tcp", netip.AddrPortFrom(ip, portEcho).String())
		return err
	}); err != nil {
		h.t.Fatalf("%s: listen: %v", h.Name, err)
	}
	h.t.Cleanup(func() {
		_ = echo.Close()
		_ = mirror.Close()
		_ = tcp.Close()
	})
	go answerUDP(echo, func(body []byte, _ netip.AddrPort) []byte { return body })
	go answerUDP(mirror, func(_ []byte, from netip.AddrPort) []byte { return []byte(from.Addr().Unmap().String()) })
	go answerTCP(tcp)
}

func (h *Host) listenUDP(ip netip.Addr, port uint16) *net.UDPConn {
	h.t.Helper()
	var c *net.UDPConn
	err := h.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
		return err
	})
	if err == nil {
		err = enlarge(c)
	}
	if err != nil {
		h.t.Fatalf("%s: listen: %v", h.Name, err)
	}
	return c
}

// enlarge gives a socket room for seconds of a probe, beyond what net.core.rmem_max allows.
func enlarge(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer))
	})
	return errors.Join(err, set)
}

// answerUDP answers until the socket is closed. An ICMP error about an earlier answer is no reason to stop.
func answerUDP(c *net.UDPConn, answer func(body []byte, from netip.AddrPort) []byte) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(answer(buf[:n], from), from) // the prober counts what is missing
		}
	}
}

func answerTCP(l net.Listener) {
	var open sync.WaitGroup
	defer open.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		open.Go(func() {
			_, _ = io.Copy(c, c) // the prober counts what is missing
			_ = c.Close()
		})
	}
}

// Sight is what another side saw of a caller.
type Sight struct {
	Source netip.Addr    // where the question came from
	RTT    time.Duration // until the answer was there
}

// Ask sends one datagram to a served address and returns what was seen there. It asks again for a second (see Patience) before it
// gives up: the first packet of all may wait for a neighbour to be resolved.
func (h *Host) Ask(to netip.Addr) (Sight, error) {
	var c *net.UDPConn
	if err := h.Do(func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, portMirror)))
		return err
	}); err != nil {
		return Sight{}, fmt.Errorf("%s to %s: %w", h.Name, to, err)
	}
	defer c.Close()
	var last error
	for range 5 {
		s, err := ask(c)
		if err == nil {
			return s, nil
		}
		last = err
	}
	return Sight{}, fmt.Errorf("%s to %s: %w", h.Name, to, last)
}

func ask(c *net.UDPConn) (Sight, error) {
	begun := time.Now()
	if _, err := c.Write([]byte("who am I")); err != nil {
		time.Sleep(20 * time.Millisecond) // an ICMP error came at once: leave the next try a chance
		return Sight{}, err
	}
	if err := c.SetReadDeadline(begun.Add(Patience(200 * time.Millisecond))); err != nil {
		return Sight{}, err
	}
	var buf [64]byte
	n, err := c.Read(buf[:])
	took := time.Since(begun)
	if err != nil {
		return Sight{}, err
	}
	source, err := netip.ParseAddr(string(buf[:n]))
	return Sight{Source: source, RTT: took}, err
}

// sequence is the payload of a probe: its number and when it was sent.
func sequence(buf []byte, n uint64, since time.Duration) {
	binary.BigEndian.PutUint64(buf, n)
	binary.BigEndian.PutUint64(buf[8:], uint64(since))
}

func readSequence(buf []byte) (n uint64, since time.Duration) {
	return binary.BigEndian.Uint64(buf), time.Duration(binary.BigEndian.Uint64(buf[8:]))
}
