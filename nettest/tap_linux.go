package nettest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Packet is what a tap tells of an IP packet: who sends to whom, and inside of which tunnel.
type Packet struct {
	Src, Dst           netip.Addr
	Encap              string     // "vxlan", "ipip" or "gre"; "" in the open
	InnerSrc, InnerDst netip.Addr // of the packet inside; invalid when there is none, or when it is not IP
}

// Ends are the addresses of the two who talk, whatever carries their packet.
func (p Packet) Ends() (src, dst netip.Addr) {
	if p.Encap != "" {
		return p.InnerSrc, p.InnerDst
	}
	return p.Src, p.Dst
}

func (p Packet) String() string {
	if p.Encap != "" {
		return fmt.Sprintf("%s %s > %s ( %s > %s )", p.Encap, p.Src, p.Dst, p.InnerSrc, p.InnerDst)
	}
	return fmt.Sprintf("%s > %s", p.Src, p.Dst)
}

// Tap listens on a link and counts its IP packets, in both directions.
type Tap struct {
	fd   int
	stop atomic.Bool
	done chan struct{}

	mu   sync.Mutex
	seen map[Packet]int
}

const vxlanPort = 4789

// Tap listens on one of the host's links.
func (h *Host) Tap(dev string) *Tap {
	h.t.Helper()
	tap := &Tap{done: make(chan struct{}), seen: make(map[Packet]int)}
	err := h.Do(func() (err error) {
		tap.fd, err = openTap(dev)
		return err
	})
	if err != nil {
		h.t.Fatalf("%s: listen on %s: %v", h.Name, dev, err)
	}
	go tap.run()
	h.t.Cleanup(func() { tap.Stop() })
	return tap
}

func openTap(dev string) (fd int, err error) {
	link, err := net.InterfaceByName(dev)
	if err != nil {
		return 0, err
	}
	protocol := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	for _, set := range []func() error{
		func() error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4*socketBuffer)
		},
		func() error {
			return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		},
		func() error { return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index}) },
	} {
		if err := set(); err != nil {
			_ = unix.Close(fd)
			return 0, err
		}
	}
	return fd, nil
}

func (tap *Tap) run() {
	defer close(tap.done)
	frame := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(tap.fd, frame, 0)
		if err == nil {
			if p, ok := parseFrame(frame[:n]); ok {
				tap.mu.Lock()
				tap.seen[p]++
				tap.mu.Unlock()
			}
			continue
		}
		// Stopped only when nothing waits any more: what was on the wire before the stop is counted.
		if tap.stop.Load() || err != unix.EAGAIN && err != unix.EINTR && err != unix.ENETDOWN {
			return
		}
	}
}

// Stop ends the listening and returns the count of each kind of packet.
func (tap *Tap) Stop() map[Packet]int {
	if !tap.stop.Swap(true) {
		<-tap.done
		_ = unix.Close(tap.fd)
	}
	return tap.seen
}

// Count is the number of packets so far for which the condition holds.
func (tap *Tap) Count(holds func(Packet) bool) int {
	tap.mu.Lock()
	defer tap.mu.Unlock()
	sum := 0
	for p, n := range tap.seen {
		if holds(p) {
			sum += n
		}
	}
	return sum
}

// Ways counts the packets so far that two ends sent each other, by the word of the tunnel that each was in.
func (tap *Tap) Ways(a, b netip.Addr) map[string]int {
	tap.mu.Lock()
	defer tap.mu.Unlock()
	ways := make(map[string]int)
	for p, n := range tap.seen {
		if src, dst := p.Ends(); src == a && dst == b || src == b && dst == a {
			ways[p.Encap] += n
		}
	}
	return ways
}

// Between is the number of packets so far that two ends sent each other, and how many of them were in a tunnel.
func (tap *Tap) Between(a, b netip.Addr) (all, tunnelled int) {
	for encap, n := range tap.Ways(a, b) {
		all += n
		if encap != "" {
			tunnelled += n
		}
	}
	return all, tunnelled
}

// parseFrame reads an Ethernet frame; ok is false when it holds no IP.
func parseFrame(frame []byte) (p Packet, ok bool) {
	if len(frame) < ethernetHeader {
		return p, false
	}
	outer, ok := parseIP(frame[ethernetHeader:])
	if !ok {
		return p, false
	}
	p.Src, p.Dst = outer.src, outer.dst
	var inside []byte
	p.Encap, inside = outer.unwrap()
	inner, _ := parseIP(inside)
	p.InnerSrc, p.InnerDst = inner.src, inner.dst
	return p, true
}

const (
	ethernetHeader = 14
	udpHeader      = 8
	vxlanHeader    = 8
	greHeader      = 4 // without checksum, key and sequence number
)

// datagram is an IP packet.
type datagram struct {
	src, dst netip.Addr
	protocol byte
	payload  []byte // empty in all fragments but the first
}

// parseIP reads an IP packet; ok is false when it is none. Of IPv6 it knows no extension headers.
func parseIP(b []byte) (d datagram, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		d.src, _ = netip.AddrFromSlice(b[12:16])
		d.dst, _ = netip.AddrFromSlice(b[16:20])
		d.protocol = b[9]
		offset := binary.BigEndian.Uint16(b[6:]) & 0x1fff
		if length := int(b[0]&15) * 4; offset == 0 && len(b) > length {
			d.payload = b[length:]
		}
		return d, true
	case len(b) >= 40 && b[0]>>4 == 6:
		d.src, _ = netip.AddrFromSlice(b[8:24])
		d.dst, _ = netip.AddrFromSlice(b[24:40])
		d.protocol, d.payload = b[6], b[40:]
		return d, true
	}
	return d, false
}

// unwrap names the tunnel that the packet is of, "" when it is of none, and gives the packet inside if that is IP.
func (d datagram) unwrap() (encap string, inside []byte) {
	switch {
	case d.protocol == unix.IPPROTO_IPIP && d.src.Is4(): // RFC 2003
		if len(d.payload) > 0 && d.payload[0]>>4 == 4 {
			inside = d.payload
		}
		return "ipip", inside
	case d.protocol == unix.IPPROTO_GRE: // RFC 2784
		return "gre", unwrapGRE(d.payload)
	case d.protocol == unix.IPPROTO_UDP && len(d.payload) >= udpHeader+vxlanHeader &&
		binary.BigEndian.Uint16(d.payload[2:]) == vxlanPort: // RFC 7348
		return "vxlan", d.payload[min(len(d.payload), udpHeader+vxlanHeader+ethernetHeader):]
	}
	return "", nil
}

// unwrapGRE gives the packet behind a header without options.
func unwrapGRE(b []byte) []byte {
	if len(b) < greHeader || b[0] != 0 || b[1] != 0 {
		return nil
	}
	switch binary.BigEndian.Uint16(b[2:]) {
	case unix.ETH_P_IP, unix.ETH_P_IPV6:
		return b[greHeader:]
	}
	return nil
}

// Print lists packets, one kind a line.
func Print(packets map[Packet]int) string {
	var lines []string
	for p, n := range packets {
		lines = append(lines, fmt.Sprintf("%6d %s", n, p))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
