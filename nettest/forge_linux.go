package nettest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/tunnel"
)

// Forgery is a packet in a tunnel's packet as a node of the lab would send it, made by hand: inside is UDP over IPv4.
type Forgery struct {
	Encap    string     // "vxlan", "ipip" or "gre"
	To       netip.Addr // of the outer header
	End      netip.Addr // whose device a VXLAN packet is for; zero: To
	VNI      int        // 0: 88
	Options  bool       // the outer header has options: in IPv6 a header of its own
	Src, Dst netip.Addr // of the inner header, IPv4
	Port     uint16     // of the inner packet
}

const ourVNI = 88

// Forge sends a packet so many times, with the address of this host as the source of the outer header.
func (h *Host) Forge(f Forgery, count int) {
	h.t.Helper()
	if err := h.Do(func() error { return f.send(count) }); err != nil {
		h.t.Fatalf("%s: forge %+v: %v", h.Name, f, err)
	}
}

func (f Forgery) send(count int) error {
	kind, protocol, packet := unix.SOCK_RAW, 0, f.inner()
	switch f.Encap {
	case "vxlan":
		kind, packet = unix.SOCK_DGRAM, append(f.vxlan(), packet...)
	case "ipip":
		protocol = unix.IPPROTO_IPIP
	case "gre":
		protocol, packet = unix.IPPROTO_GRE, append([]byte{0, 0, 8, 0}, packet...)
	default:
		return fmt.Errorf("no such tunnel: %q", f.Encap)
	}
	fd, err := unix.Socket(f.domain(), kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	if f.Options {
		if err := f.setOptions(fd); err != nil {
			return fmt.Errorf("set options: %w", err)
		}
	}
	for range count {
		if err := unix.Sendto(fd, packet, 0, f.target()); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

func (f Forgery) domain() int {
	if f.To.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (f Forgery) target() unix.Sockaddr {
	port := 0
	if f.Encap == "vxlan" {
		port = vxlanPort
	}
	if f.To.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: f.To.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: f.To.As16()}
}

// setOptions puts padding between the header and what it carries.
func (f Forgery) setOptions(fd int) error {
	if f.To.Is4() {
		return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x01")
	}
	return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
}

// vxlan is the header of RFC 7348 and the Ethernet header behind it.
func (f Forgery) vxlan() []byte {
	vni, end := f.VNI, f.End
	if vni == 0 {
		vni = ourVNI
	}
	if !end.IsValid() {
		end = f.To
	}
	mac := tunnel.VTEPMAC(end)
	b := []byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
	b = append(b, mac[:]...)
	return append(b, 2, 0, 0, 0, 0, 9, 8, 0)
}

func (f Forgery) inner() []byte {
	const text = "from within"
	udp := make([]byte, 8, 8+len(text)) // no checksum
	binary.BigEndian.PutUint16(udp[0:], f.Port)
	binary.BigEndian.PutUint16(udp[2:], f.Port)
	binary.BigEndian.PutUint16(udp[4:], uint16(cap(udp)))
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+cap(udp)))
	ip = append(append(ip, f.Src.AsSlice()...), f.Dst.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	return append(append(ip, udp...), text...)
}

// Ear counts the UDP packets that come to an address of a host.
type Ear struct{ heard atomic.Int64 }

// Heard is how many have come so far.
func (e *Ear) Heard() int { return int(e.heard.Load()) }

// Hear listens until the test ends.
func (h *Host) Hear(to netip.AddrPort) *Ear {
	h.t.Helper()
	socket := h.listenUDP(to.Addr(), to.Port())
	e, done := new(Ear), make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 64); ; {
			if _, _, err := socket.ReadFromUDPAddrPort(b); err != nil {
				return // closed
			}
			e.heard.Add(1)
		}
	}()
	h.t.Cleanup(func() {
		_ = socket.Close()
		<-done
	})
	return e
}
