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
	VXLAN              bool
	InnerSrc, InnerDst netip.Addr // of the packet inside; invalid when it is not IP, or not VXLAN
}

// ends are the addresses that matter to the two who talk.
func (p Packet) ends() (src, dst netip.Addr) {
	if p.VXLAN {
		return p.InnerSrc, p.InnerDst
	}
	return p.Src, p.Dst
}

func (p Packet) String() string {
	if p.VXLAN {
		return fmt.Sprintf("vxlan %s > %s ( %s > %s )", p.Src, p.Dst, p.InnerSrc, p.InnerDst)
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

// Between is the number of packets so far that two ends sent each other, and how many of them were in a tunnel.
func (tap *Tap) Between(a, b netip.Addr) (all, tunnelled int) {
	talk := func(p Packet) bool {
		src, dst := p.ends()
		return src == a && dst == b || src == b && dst == a
	}
	return tap.Count(talk), tap.Count(func(p Packet) bool { return p.VXLAN && talk(p) })
}

// parseFrame reads an Ethernet frame; ok is false when it holds no IP.
func parseFrame(frame []byte) (p Packet, ok bool) {
	if len(frame) < 14 {
		return p, false
	}
	var payload []byte
	if p.Src, p.Dst, payload, ok = parseIP(frame[14:]); !ok || len(payload) < 16 {
		return p, ok
	}
	if binary.BigEndian.Uint16(payload[2:]) != vxlanPort { // destination port of UDP
		return p, true
	}
	p.VXLAN = true
	if len(payload) >= 8+8+14 {
		p.InnerSrc, p.InnerDst, _, _ = parseIP(payload[8+8+14:])
	}
	return p, true
}

// parseIP reads an IP packet. The payload is that of UDP only, and empty otherwise.
func parseIP(b []byte) (src, dst netip.Addr, udp []byte, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		src, _ = netip.AddrFromSlice(b[12:16])
		dst, _ = netip.AddrFromSlice(b[16:20])
		if length := int(b[0]&15) * 4; b[9] == unix.IPPROTO_UDP && len(b) > length {
			udp = b[length:]
		}
		return src, dst, udp, true
	case len(b) >= 40 && b[0]>>4 == 6:
		src, _ = netip.AddrFromSlice(b[8:24])
		dst, _ = netip.AddrFromSlice(b[24:40])
		if b[6] == unix.IPPROTO_UDP {
			udp = b[40:]
		}
		return src, dst, udp, true
	}
	return src, dst, nil, false
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
