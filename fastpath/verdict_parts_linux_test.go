package fastpath_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/fastpath"
)

// TestHeadersInParts sends frames over real links whose headers are not in one piece of memory, such as come from network
// cards, and which no test run makes: programs read only what they had put together.
func TestHeadersInParts(t *testing.T) {
	r, s := newLive(t, 9000)
	for _, form := range []string{siteIPv4, siteIPv6} {
		for _, protocol := range []uint8{protocolTCP, protocolUDP, 0} {
			for _, c := range s.liveCases(form, protocol) {
				r.wantLong(t, c, make([]byte, 10))
			}
		}
	}
}

// TestSegmentsToBeCut sends TCP that is to be cut into segments, which is measured by these. To wrap it the kernel must be
// told what it is, which a test run can not. Nor does any socket make such with a wrapper.
func TestSegmentsToBeCut(t *testing.T) {
	r, s := newLive(t, 1500)
	for _, form := range []string{siteIPv4, siteIPv6} {
		for _, c := range s.liveCases(form, protocolTCP) {
			if c.reason == "fast from ipip" || c.reason == "fast from vxlan" {
				continue
			}
			kind, network := byte(1), 20 // VIRTIO_NET_HDR_GSO_TCPV4
			if form == siteIPv6 {
				kind, network = 4, 40
			}
			at := len(c.frame) - 20 // of TCP's header, after which nothing is yet
			for segment, reason := range map[int]string{c.room - network - 20: c.reason, c.room - network - 19: "kernel size"} {
				c := c
				c.reason = reason
				header := []byte{1, kind} // VIRTIO_NET_HDR_F_NEEDS_CSUM
				for _, n := range []int{at + 20, segment, at, 16} {
					header = binary.NativeEndian.AppendUint16(header, uint16(n))
				}
				r.wantLong(t, c, header)
			}
		}
	}
}

// live is a frame that is sent over a device, and the size of the largest packet that is taken.
type live struct {
	device string
	frame  []byte
	reason string
	room   int
}

// newLive is a rig whose programs are at work on links, for endpoints and ways of some size.
func newLive(t *testing.T, mtu int) (*rig, *site) {
	t.Helper()
	r := newRig(t)
	s := r.site()
	for a, e := range s.endpoints {
		e.mtu = mtu
		s.endpoints[a] = e
	}
	for p, route := range s.routes {
		for i := range route.hops {
			route.hops[i].mtu = mtu
		}
		s.routes[p] = route
	}
	r.set(t, s.modelWorld)
	r.attach(t, "fl_from_wire", "w0") // which gets what is written to w1
	r.attach(t, "fl_from_container", "c0")
	return r, s
}

// liveCases are the ways that a packet can come and go.
func (s *site) liveCases(form string, protocol uint8) (all []live) {
	in := talk{from: address(map[string]string{siteIPv4: "8.1.0.%d", siteIPv6: "fd00:1::%d"}[form], 9), to: address(form, 1), protocol: protocol}
	room := s.endpoints[in.to].mtu
	for way, reason := range []string{"fast from direct", "fast from ipip", "fast from vxlan", "fast from vxlan"} {
		family := []string{form, siteIPv4, siteIPv4, siteIPv6}[way] // of the wrapper
		if family == form || way > 1 && s.here.crosses {
			all = append(all, live{"w1", s.in(in, way).bytes, reason, room})
		}
	}
	for n, reason := range []string{"fast direct", "fast ipip", "fast vxlan", "fast vxlan"} {
		to := address(map[string]string{siteIPv4: fmt.Sprintf("8.%d.0.%%d", n+1), siteIPv6: fmt.Sprintf("fd00:%d::%%d", n+1)}[form], 9)
		if n != 1 || form == siteIPv4 {
			all = append(all, live{"i0", s.out(talk{from: in.to, to: to, protocol: protocol}).bytes, reason, room})
		}
	}
	return all
}

// attach puts a program as it was built at the ingress of a device, and takes both ends of the pair up.
func (r *rig) attach(t *testing.T, program, device string) {
	t.Helper()
	spec, err := fastpath.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	shared := maps.Clone(r.maps)
	delete(shared, seenMap)
	for name, m := range shared {
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(loaded.Close)
	r.do(func() {
		here := int(r.devices[device].link)
		at := netlink.QdiscAttrs{LinkIndex: here, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}
		err = netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: at, QdiscType: "clsact"})
		if err == nil {
			err = netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{
					LinkIndex: here, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
				},
				Fd: loaded.Programs[program].FD(), Name: program, DirectAction: true,
			})
		}
		for _, d := range []string{device, map[string]string{"w0": "w1", "c0": "i0"}[device]} {
			one := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(r.devices[d].link)}}
			if err == nil {
				err = netlink.LinkSetMTU(one, 9000)
			}
			if err == nil {
				err = netlink.LinkSetUp(one)
			}
		}
	})
	if err != nil {
		t.Fatalf("attach %s to %s: %v", program, device, err)
	}
}

// wantLong sends a frame, made long, of which the kernel has the headers that a struct virtio_net_hdr tells of in the first
// piece, or when it tells of none that of Ethernet.
func (r *rig) wantLong(t *testing.T, c live, virtual []byte) {
	t.Helper()
	const long = 6000 // more than a page: shorter ones are in one piece
	before, err := r.tally()
	if err != nil {
		t.Fatal(err)
	}
	b := slices.Concat(virtual, c.frame, make([]byte, long-len(c.frame)))
	r.do(func() { err = write(int(r.devices[c.device].link), b) })
	if err != nil {
		t.Fatalf("send %x over %s: %v", c.frame, c.device, err)
	}
	var have map[string]int
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		now, err := r.tally()
		if err != nil {
			t.Fatal(err)
		}
		if have, _ = now.since(before); have[c.reason] > 0 {
			return
		}
	}
	t.Errorf("%x over %s with %x became %v, want %s", c.frame, c.device, virtual, have, c.reason)
}

// write sends a frame, before which is a struct virtio_net_hdr, over a device.
func write(device int, b []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const vnetHeader = 15 // PACKET_VNET_HDR of linux/if_packet.h
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, vnetHeader, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: device}); err != nil {
		return err
	}
	_, err = unix.Write(fd, b)
	return err
}
