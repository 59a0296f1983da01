package nettest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// callTime is how long one question to a service may take.
const callTime = time.Second

// Answer is what a service on a port says: its name, and where the question came from.
type Answer struct {
	Name   string
	Source netip.AddrPort
}

// Offer answers at a port of the host until the test ends. The protocol is "tcp", "udp" or "sctp".
func (h *Host) Offer(proto string, at netip.AddrPort, name string) {
	h.t.Helper()
	if proto == "udp" {
		c := h.listenUDP(at.Addr(), at.Port())
		h.t.Cleanup(func() { _ = c.Close() })
		go answerUDP(c, func(_ []byte, from netip.AddrPort) []byte { return greeting(name, from) })
		return
	}
	var l net.Listener
	if err := h.Do(func() (err error) {
		if l, err = listenStream(proto, at); err == nil {
			h.t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}); err != nil {
		h.t.Fatalf("%s: listen at %s/%s: %v", h.Name, at, proto, err)
	}
	go greet(l, name)
}

func listenStream(proto string, at netip.AddrPort) (net.Listener, error) {
	if proto == "sctp" {
		return listenSCTP(at)
	}
	return net.Listen(proto, at.String())
}

func greeting(name string, from netip.AddrPort) []byte {
	return []byte(name + " " + netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String())
}

// greet greets whoever connects.
func greet(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		from, ok := c.RemoteAddr().(*net.TCPAddr) // of SCTP too: the addresses look the same
		if ok {
			_, _ = c.Write(greeting(name, from.AddrPort())) // the caller finds out what is missing
		}
		_ = c.Close()
	}
}

// Call asks the service at a port, once.
func (h *Host) Call(proto string, to netip.AddrPort) (Answer, error) {
	return h.call(proto, 0, to, callTime)
}

// CallFrom asks from a port of the host.
func (h *Host) CallFrom(proto string, from uint16, to netip.AddrPort) (Answer, error) {
	return h.call(proto, from, to, callTime)
}

// CallSoon asks with little patience: less than TCP has, which sends again after a second what was lost.
func (h *Host) CallSoon(proto string, to netip.AddrPort) (Answer, error) {
	return h.call(proto, 0, to, callTime/10)
}

func (h *Host) call(proto string, from uint16, to netip.AddrPort, patience time.Duration) (a Answer, err error) {
	deadline := time.Now().Add(Patience(patience))
	var c net.Conn
	err = h.Do(func() (err error) {
		c, err = dial(proto, from, to, deadline)
		return err
	})
	if err != nil {
		return a, fmt.Errorf("%s to %s/%s: %w", h.Name, to, proto, err)
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return a, err
	}
	if a, err = converse(c, proto); err != nil {
		return a, fmt.Errorf("%s to %s/%s: %w", h.Name, to, proto, err)
	}
	return a, nil
}

func dial(proto string, from uint16, to netip.AddrPort, deadline time.Time) (net.Conn, error) {
	d := net.Dialer{Deadline: deadline}
	switch proto {
	case "sctp":
		return dialSCTP(to, time.Until(deadline))
	case "udp":
		d.LocalAddr = &net.UDPAddr{Port: int(from)}
	default:
		d.LocalAddr = &net.TCPAddr{Port: int(from)}
	}
	return d.Dial(proto, to.String())
}

// converse takes the greeting. Who connects gets it without a word.
func converse(c net.Conn, proto string) (a Answer, err error) {
	text := make([]byte, 256)
	n := 0
	if proto == "udp" {
		if _, err = c.Write([]byte("who am I")); err == nil {
			n, err = c.Read(text)
		}
	} else {
		n, err = io.ReadFull(c, text)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
	}
	if err != nil {
		return a, err
	}
	name, source, _ := strings.Cut(string(text[:n]), " ")
	a.Name = name
	a.Source, err = netip.ParseAddrPort(source)
	return a, err
}

// Send sends so many datagrams to a port and does not care for answers.
func (h *Host) Send(to netip.AddrPort, count int) error {
	return h.Do(func() error {
		c, err := net.Dial("udp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		for range count {
			if _, err := c.Write([]byte("knock")); err != nil && !refusedBefore(err) {
				return err
			}
		}
		return nil
	})
}

// Echo sends back the datagrams that come to a port of the host, of whatever size, until the test ends.
func (h *Host) Echo(at netip.AddrPort) {
	h.t.Helper()
	c := h.listenUDP(at.Addr(), at.Port())
	h.t.Cleanup(func() { _ = c.Close() })
	go answerUDP(c, func(body []byte, _ netip.AddrPort) []byte { return body })
}

// Large sends a datagram of a size to a port that Echo made, which comes back as it was. It tries three times: of one that
// is cut, a part may wait too long for a neighbour to be found.
func (h *Host) Large(to netip.AddrPort, size int) error {
	var c net.Conn
	if err := h.Do(func() (err error) {
		c, err = net.Dial("udp", to.String())
		return err
	}); err != nil {
		return err
	}
	defer c.Close()
	var last error
	for round := range 3 {
		message := fill(make([]byte, size), round, 0)
		if last = exchangeDatagram(c, message); last == nil {
			return nil
		}
	}
	return fmt.Errorf("%s to %s: a datagram of %d bytes: %w", h.Name, to, size, last)
}

func exchangeDatagram(c net.Conn, message []byte) error {
	if err := c.SetDeadline(time.Now().Add(Patience(callTime))); err != nil {
		return err
	}
	if _, err := c.Write(message); err != nil {
		return err
	}
	answer := make([]byte, len(message)+1)
	n, err := c.Read(answer)
	if err == nil && !bytes.Equal(answer[:n], message) {
		err = errors.New("the answer differs from the message")
	}
	return err
}

// refusedBefore tells that an earlier datagram was answered by an ICMP error, which says nothing of this one.
func refusedBefore(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED)
}
