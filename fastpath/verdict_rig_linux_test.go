package fastpath_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/fastpath"
)

// rig runs the programs on frames, in a network namespace of its own that has real devices.
type rig struct {
	calls    chan func()
	programs map[string]*ebpf.Program
	maps     map[string]*ebpf.Map
	devices  map[string]modelDevice
	counted  tally // after the last run
	crosses  bool  // the kernel takes IPv6 out of IPv4 and back: Linux 6.3
}

// modelDevice is a device that frames come from or go to.
type modelDevice struct {
	link uint32
	mac  modelMAC
}

const (
	rigFlows  = 4096 // that the tables have room for
	rigWhole  = 54   // bytes of the shortest that it takes, whatever is in it
	rigFrames = 3500 // bytes of the longest frame that a test run takes, with a margin for what is put around it
)

// newRig loads the programs and makes the devices. It skips the test where the kernel, asked, refuses to.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{
		calls:    make(chan func()),
		programs: make(map[string]*ebpf.Program),
		maps:     make(map[string]*ebpf.Map),
		devices:  make(map[string]modelDevice),
	}
	ready := make(chan error)
	go r.serve(ready)
	if err := <-ready; err != nil {
		t.Skipf("this process may not have a network namespace of its own: %v", err)
	}
	t.Cleanup(func() {
		close(r.calls)
		<-ready
	})
	r.load(t)
	r.do(func() {
		for _, pair := range [][2]string{{"c0", "i0"}, {"c1", "i1"}, {"c2", "i2"}, {"w0", "w1"}, {"x0", "x1"}} {
			if err := r.addPair(pair[0], pair[1]); err != nil {
				t.Error(err)
			}
		}
	})
	r.do(func() {
		if err := r.leadOut(); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	r.crosses = doesCross(t)
	return r
}

// site is one such as this kernel can serve.
func (r *rig) site() *site {
	s := newSite(r.devices)
	s.here.crosses = r.crosses
	return s
}

// doesCross goes by the kernel's version: a trial would take a fault of the programs for one of the kernel's.
func doesCross(t testing.TB) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("read the version of the kernel: %v", err)
	}
	return major > 6 || major == 6 && minor >= 3
}

// serve does what it is told in a namespace that goes with its thread: a locked one ends with its goroutine.
func (r *rig) serve(ready chan error) {
	runtime.LockOSThread()
	defer close(ready)
	err := unix.Unshare(unix.CLONE_NEWNET)
	ready <- err
	if err != nil {
		return
	}
	for call := range r.calls {
		call()
	}
}

// do runs a function inside the namespace.
func (r *rig) do(call func()) {
	done := make(chan struct{})
	r.calls <- func() {
		defer close(done)
		call()
	}
	<-done
}

func (r *rig) load(t testing.TB) {
	t.Helper()
	spec, err := fastpath.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["fl_counts"].MaxEntries = modelSlots
	spec.Maps["fl_flows4"].MaxEntries = rigFlows
	spec.Maps["fl_flows6"].MaxEntries = rigFlows
	spec.Maps["fl_tuples"].MaxEntries = modelRoom
	spec.Maps[seenMap] = &ebpf.MapSpec{Name: seenMap, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(binary.Size(seen{})), MaxEntries: 1}
	for _, p := range spec.Programs {
		observe(p)
	}
	loaded, err := ebpf.NewCollection(spec)
	if errors.Is(err, unix.EPERM) {
		t.Skipf("this process may not load programs: %v", err)
	}
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(loaded.Close)
	r.programs, r.maps = loaded.Programs, loaded.Maps
	if r.counted, err = r.tally(); err != nil {
		t.Fatal(err)
	}
}

// deviceMAC is the same in each process: inputs of a fuzz target are tried by several.
func deviceMAC(name string) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xf1, 0, 0, name[0], name[1]}
}

// leadOut makes the routes that the kernel has of its own, and has it forward.
func (r *rig) leadOut() error {
	for _, family := range []string{"ipv4", "ipv6"} {
		if err := os.WriteFile("/proc/sys/net/"+family+"/conf/all/forwarding", []byte("1"), 0); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
	}
	for _, name := range []string{"c0", "i0", "c1", "i1", "c2", "i2", "w0", "w1", "x0", "x1"} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	wire, err := netlink.LinkByName("w0")
	if err != nil {
		return fmt.Errorf("find w0: %w", err)
	}
	for _, out := range outward() {
		own := netlink.Addr{IPNet: &net.IPNet{IP: out.own.AsSlice(), Mask: net.CIDRMask(out.own.BitLen()-8, out.own.BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(wire, &own); err != nil {
			return fmt.Errorf("add %v: %w", out.own, err)
		}
		to := net.IPNet{IP: out.to.Addr().AsSlice(), Mask: net.CIDRMask(out.to.Bits(), out.to.Addr().BitLen())}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: wire.Attrs().Index, Dst: &to, Gw: out.via.AsSlice()}); err != nil {
			return fmt.Errorf("add route to %v: %w", out.to, err)
		}
	}
	return nil
}

func (r *rig) addPair(a, b string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = a, deviceMAC(a)
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: b, PeerHardwareAddr: deviceMAC(b)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("add pair %s: %w", a, err)
	}
	for _, name := range []string{a, b} {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		r.devices[name] = modelDevice{link: uint32(device.Index), mac: modelMAC(device.HardwareAddr)}
	}
	return nil
}
