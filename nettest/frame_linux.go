package nettest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// MAC is the hardware address of one of the host's links.
func (h *Host) MAC(dev string) net.HardwareAddr {
	h.t.Helper()
	var mac net.HardwareAddr
	err := h.Do(func() error {
		l, err := net.InterfaceByName(dev)
		if err == nil {
			mac = l.HardwareAddr
		}
		return err
	})
	if err != nil {
		h.t.Fatalf("%s: look at %s: %v", h.Name, dev, err)
	}
	return mac
}

// Frame is a UDP packet with its Ethernet header, made by hand.
type Frame struct {
	From, To net.HardwareAddr
	Src, Dst netip.Addr
	Port     uint16
}

// Bytes is the frame on the wire.
func (f Frame) Bytes() []byte {
	udp := make([]byte, 8, 24)
	binary.BigEndian.PutUint16(udp[0:], f.Port)
	binary.BigEndian.PutUint16(udp[2:], f.Port)
	udp = append(udp, "made by hand"...)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	pseudo := append(append(append(f.Src.AsSlice(), f.Dst.AsSlice()...), 0, unix.IPPROTO_UDP, 0, byte(len(udp))), udp...)
	binary.BigEndian.PutUint16(udp[6:], sumOf(pseudo))
	var ip []byte
	kind := []byte{0x86, 0xdd}
	if f.Src.Is4() {
		kind = []byte{8, 0}
		ip = []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	} else {
		ip = []byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}
	}
	ip = append(append(ip, f.Src.AsSlice()...), f.Dst.AsSlice()...)
	if f.Src.Is4() {
		binary.BigEndian.PutUint16(ip[10:], sumOf(ip))
	}
	return append(append(f.ethernet(kind), ip...), udp...)
}

// ARP is a question for the owner of Dst in an Ethernet frame, whose sender says to be Src at the hardware address told.
func (f Frame) ARP(told net.HardwareAddr) []byte {
	b := append(f.ethernet([]byte{8, 6}), 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, told...), f.Src.AsSlice()...)
	return append(append(b, make([]byte, 6)...), f.Dst.AsSlice()...)
}

func (f Frame) ethernet(kind []byte) []byte {
	b := make([]byte, 0, 128)
	return append(append(append(b, f.To...), f.From...), kind...)
}

// sumOf is the checksum of RFC 1071.
func sumOf(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Inject sends each frame so many times by a link of the host, in turn, whatever is in them.
func (h *Host) Inject(dev string, frames [][]byte, times int) {
	h.t.Helper()
	err := h.Do(func() error {
		link, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		defer unix.Close(fd)
		for range times {
			for _, f := range frames {
				if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
					return fmt.Errorf("send: %w", err)
				}
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatalf("%s: inject frames by %s: %v", h.Name, dev, err)
	}
}
