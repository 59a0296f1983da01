package nettest

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// LieAboutPath sends a node the word of a router that its VXLAN packet to a peer was too big, RFC 1191. The node can not
// tell that there is no such router.
func (h *Host) LieAboutPath(node, peer netip.Addr, mtu int) {
	h.t.Helper()
	quoted := []byte{0x45, 0, 1500 >> 8, 1500 & 0xff, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}
	quoted = append(append(quoted, node.AsSlice()...), peer.AsSlice()...)
	binary.BigEndian.PutUint16(quoted[10:], checksum(quoted))
	quoted = append(quoted, 0xc0, 0, 4789>>8, 4789&0xff, 1480>>8, 1480&0xff, 0, 0) // UDP
	quoted = append(quoted, 8, 0, 0, 0, 0, 0, ourVNI, 0)                           // VXLAN
	message := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted...)
	binary.BigEndian.PutUint16(message[2:], checksum(message))
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, message, 0, &unix.SockaddrInet4{Addr: node.As4()})
	})
	if err != nil {
		h.t.Fatalf("%s: send ICMP to %v: %v", h.Name, node, err)
	}
}
