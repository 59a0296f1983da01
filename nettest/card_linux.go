package nettest

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Health is how a network card does its work.
type Health int32

const (
	Sound      Health = iota // fills in the checksums that are left to it
	Corrupting               // fills in wrong ones inside of tunnels, as some real ones do
	Overrun                  // does that in frames of more than 1,000 bytes only
	Deaf                     // lets nothing through
)

// Card is a network card between two links of a switch: that to the computer and that to the world. A veth pair carries a
// frame whose checksum is left to the hardware as it is, and whoever gets it believes it; here the checksum is filled in,
// and who gets the frame looks.
type Card struct {
	health atomic.Int32
	stop   atomic.Bool
	done   sync.WaitGroup
}

// Card puts one between two links of the host, which must have no addresses; it works until the test ends. Its health matters
// to what the computer sends.
func (h *Host) Card(computer, world string) *Card {
	h.t.Helper()
	c := &Card{}
	for _, dev := range []string{computer, world} {
		h.Sysctl("net/ipv6/conf/"+dev+"/disable_ipv6", "1")
	}
	var fds [2]int
	err := h.Do(func() (err error) {
		if fds[0], err = openPort(computer); err != nil {
			return err
		}
		if fds[1], err = openPort(world); err != nil {
			_ = unix.Close(fds[0])
		}
		return err
	})
	if err != nil {
		h.t.Fatalf("%s: put a card between %s and %s: %v", h.Name, computer, world, err)
	}
	c.done.Go(func() { c.carry(fds[0], fds[1], &c.health) })
	c.done.Go(func() { c.carry(fds[1], fds[0], new(atomic.Int32)) })
	h.t.Cleanup(func() {
		c.stop.Store(true)
		c.done.Wait()
		_ = errors.Join(unix.Close(fds[0]), unix.Close(fds[1]))
	})
	return c
}

// Set makes the card work in another way from the next frame on.
func (c *Card) Set(h Health) { c.health.Store(int32(h)) }

// openPort listens to what comes in on a link, with what the sender left to be done.
func openPort(dev string) (fd int, err error) {
	if fd, err = openTap(dev); err != nil {
		return 0, err
	}
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			_ = unix.Close(fd)
			return 0, err
		}
	}
	return fd, nil
}

// leftover is the size of a struct virtio_net_hdr, which comes before each frame: flags, kind of segmentation, header
// length, segment size, and where the sum begins and is to be put.
const leftover = 10

func (c *Card) carry(from, to int, health *atomic.Int32) {
	buf := make([]byte, leftover+64<<10)
	for !c.stop.Load() {
		n, err := unix.Read(from, buf)
		h := Health(health.Load())
		if err != nil || n < leftover || h == Deaf {
			if err != nil && !temporary(err) {
				return
			}
			continue
		}
		// What is longer than a frame is left to the next one's kernel, sums and all.
		if buf[1] == unix.VIRTIO_NET_HDR_GSO_NONE {
			h.finish(buf[:leftover], buf[leftover:n])
		}
		_, _ = unix.Write(to, buf[:n]) // a cable loses what the link can not take
	}
}

// temporary tells the errors after which a port goes on: nothing came for a while, the link was down, or what came was cut
// inside of a tunnel, for which a struct virtio_net_hdr has no words.
func temporary(err error) bool {
	var code unix.Errno
	return errors.As(err, &code) && slices.Contains([]unix.Errno{unix.EAGAIN, unix.EINTR, unix.ENETDOWN, unix.EINVAL}, code)
}

// finish does what the sender left to the hardware.
func (h Health) finish(head, frame []byte) {
	left := head[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
	start, at := int(binary.NativeEndian.Uint16(head[6:])), int(binary.NativeEndian.Uint16(head[8:]))
	clear(head)
	if !left || start+at+2 > len(frame) {
		return
	}
	sum := checksum(frame[start:])
	if inside(frame, start) && h.spoils(frame) {
		sum ^= 0x0101
	}
	if sum == 0 {
		sum = 0xffff // RFC 768: zero says that there is none
	}
	binary.BigEndian.PutUint16(frame[start+at:], sum)
}

func (h Health) spoils(frame []byte) bool {
	return h == Corrupting || h == Overrun && len(frame) > 1000
}

// inside tells whether a sum begins behind the outer headers.
func inside(frame []byte, start int) bool {
	outer := 14 + 40
	if frame[14]>>4 == 4 {
		outer = 14 + int(frame[14]&15)*4
	}
	return start > outer
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
