package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

const (
	theirVNI = 4097 // of a foreign device at our port, such as Docker's overlay has
	shots    = 40   // packets of one kind
)

// field is three hosts on one wire: the node under test, one of its peers, and a stranger.
type field struct {
	node, peer, stranger *nettest.Host
	tunnels              *tunnel.Kernel
	filter               *nat.Kernel
	chain                *nat.Chain
	devices              map[string]tunnel.Device
	ear                  *nettest.Ear // what came out of VXLAN
	raw                  atomic.Int64 // packets of the other tunnels
}

func newField(t *testing.T) *field {
	t.Helper()
	f := &field{}
	wire := nettest.NewHost(t, "wire")
	wire.IP("link add hub up type bridge")
	for i, h := range []**nettest.Host{&f.node, &f.peer, &f.stranger} {
		*h = nettest.NewHost(t, []string{"node", "peer", "stranger"}[i])
		port := fmt.Sprintf("p%d", i)
		nettest.Wire(t, *h, "eth0", wire, port)
		wire.IP("link set " + port + " master hub")
		(*h).Sysctl("net/ipv4/conf/all/rp_filter", "0")
		(*h).IP(fmt.Sprintf("addr add 192.0.2.%d/24 dev eth0", i+1))
		(*h).IP(fmt.Sprintf("-6 addr add 2001:db8:1::%d/64 dev eth0 nodad", i+1))
	}
	f.node.IP("addr add 192.0.2.200/24 dev eth0")
	f.node.IP("addr add 10.88.1.1/32 dev lo")
	f.open(t)
	f.listen(t)
	return f
}

// open makes the node's tunnel devices. What this kernel has none of is guarded all the same.
func (f *field) open(t *testing.T) {
	t.Helper()
	noError(t, f.node.Do(func() (err error) {
		if f.tunnels, err = tunnel.Open(); err == nil {
			f.filter, err = nat.Open()
		}
		return err
	}))
	t.Cleanup(func() { _ = errors.Join(f.tunnels.Close(), f.filter.Close()) })
	f.chain = f.filter.Input(time.Hour)
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")
	f.devices = map[string]tunnel.Device{
		tunnel.DeviceVXLAN:  {Kind: tunnel.VXLAN, VNI: 88, Port: 4789, Local: four, MTU: 1400, MAC: tunnel.VTEPMAC(four)},
		tunnel.DeviceVXLAN6: {Kind: tunnel.VXLAN, VNI: 88, Port: 4789, Local: six, MTU: 1400, MAC: tunnel.VTEPMAC(six)},
	}
	for name, d := range f.devices {
		noError(t, f.tunnels.Devices().Put(t.Context(), name, d))
	}
	f.devices["flipip"] = tunnel.Device{Kind: tunnel.IPIP, Local: four}
	f.devices["flgre"] = tunnel.Device{Kind: tunnel.GRE, Local: four}
	mac := tunnel.VTEPMAC(four)
	f.node.IP(fmt.Sprintf("link add theirs address %v up type vxlan id %d dstport 4789 nolearning", mac, theirVNI))
	f.node.IP(fmt.Sprintf("link add theirs6 address %v up type vxlan id %d dstport 4789 nolearning local 2001:db8:1::1", mac, theirVNI))
}

// listen counts what comes out of the node's tunnels: UDP within VXLAN, and all of protocols 4 and 47.
func (f *field) listen(t *testing.T) {
	t.Helper()
	f.ear = f.node.Hear(netip.MustParseAddrPort("10.88.1.1:9000"))
	for _, protocol := range []int{unix.IPPROTO_IPIP, unix.IPPROTO_GRE} {
		var raw *os.File
		noError(t, f.node.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
			raw = os.NewFile(uintptr(fd), "raw")
			return err
		}))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for b := make([]byte, 256); ; {
				if _, err := raw.Read(b); err != nil {
					return // closed
				}
				f.raw.Add(1)
			}
		}()
		t.Cleanup(func() {
			_ = raw.Close()
			<-done
		})
	}
}

// arrived is how many packets have come out of the tunnels so far.
func (f *field) arrived() int { return f.ear.Heard() + int(f.raw.Load()) }

// shot is a kind of packet that comes out of one of the node's tunnels.
func shot(encap, to string) nettest.Forgery {
	f := nettest.Forgery{
		Encap: encap, To: netip.MustParseAddr(to), Port: 9000,
		Src: netip.MustParseAddr("10.88.9.9"), Dst: netip.MustParseAddr("10.88.1.1"),
	}
	if f.To.Is4() {
		f.End = netip.MustParseAddr("192.0.2.1") // whichever of its addresses is used
	}
	return f
}

func withOptions(f nettest.Forgery) nettest.Forgery {
	f.Options = true
	return f
}

func forTheirs(f nettest.Forgery) nettest.Forgery {
	f.VNI, f.End = theirVNI, netip.MustParseAddr("192.0.2.1")
	return f
}

// hits fires and returns how many packets were delivered and how many dropped, when that is all of them.
func (f *field) hits(t *testing.T, from *nettest.Host, s nettest.Forgery) (delivered, dropped int) {
	t.Helper()
	arrived, before := f.arrived(), f.dropped(t)
	from.Forge(s, shots)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		delivered, dropped = f.arrived()-arrived, f.dropped(t)-before
		if delivered+dropped >= shots {
			break
		}
	}
	return delivered, dropped
}

func (f *field) dropped(t *testing.T) (n int) {
	t.Helper()
	all, err := f.filter.Input(time.Hour).Dropped(t.Context()) // what a new one tells is of now
	noError(t, err)
	for _, packets := range all {
		n += int(packets)
	}
	return n
}

// set brings the sets and the chain to what keeps strangers out, in the order of the ladder.
func (f *field) set(t *testing.T, devices map[string]tunnel.Device, partners ...tunnel.Source) {
	t.Helper()
	far := make(map[tunnel.Source]struct{})
	for _, p := range partners {
		far[p] = struct{}{}
	}
	peers := []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8:1::2")}
	members, rules := agent.Strangers(devices, peers, far)
	r := reconcile.Climb(t.Context(),
		reconcile.NewTable("source", f.filter.Sets()).Rung(members, nil), reconcile.NewTable("guard", f.chain).Rung(rules, nil))
	if !r.Clean() {
		t.Fatalf("guard: %v", r.Err())
	}
}

// TestOnlyPeersGetIn fires packets at a node from a peer and from a stranger. Before the guard is there the same packets
// of the stranger are delivered, so that it is the guard that keeps them out.
func TestOnlyPeersGetIn(t *testing.T) {
	inward := []nettest.Forgery{
		shot("vxlan", "192.0.2.1"),
		shot("vxlan", "192.0.2.200"), // the device listens at every address
		withOptions(shot("vxlan", "192.0.2.1")),
		shot("vxlan", "2001:db8:1::1"),
		withOptions(shot("vxlan", "2001:db8:1::1")),
		shot("ipip", "192.0.2.1"),
		shot("gre", "192.0.2.1"),
	}
	// Not for our devices: another VNI at our port, and a tunnel to an address that ours do not have.
	foreign := []nettest.Forgery{
		forTheirs(shot("vxlan", "192.0.2.1")), forTheirs(withOptions(shot("vxlan", "192.0.2.1"))), forTheirs(shot("vxlan", "2001:db8:1::1")),
		shot("ipip", "192.0.2.200"), shot("gre", "192.0.2.200"),
	}
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			useIPTables(t, backend)
			f := newField(t)
			expect := func(when string, from *nettest.Host, kinds []nettest.Forgery, in bool) {
				t.Helper()
				for _, s := range kinds {
					delivered, dropped := f.hits(t, from, s)
					if in && (delivered != shots || dropped != 0) || !in && (delivered != 0 || dropped != shots) {
						t.Errorf("%s, from %s, %+v: %d delivered, %d dropped of %d", when, from.Name, s, delivered, dropped, shots)
					}
				}
			}
			expect("no guard", f.stranger, append(inward, foreign...), true)
			f.set(t, f.devices)
			expect("guarded", f.stranger, inward, false)
			expect("guarded", f.stranger, foreign, true)
			expect("guarded", f.peer, append(inward, foreign...), true)
			if out := f.node.Run("iptables", "-nvL", "FAIRLEAD-INPUT"); !strings.Contains(out, "/* vxlan */") {
				t.Errorf("people see:\n%s", out)
			}
			stranger := netip.MustParseAddr("192.0.2.3")
			f.set(t, f.devices, tunnel.Source{Set: "fairlead-ipip4", IP: stranger})
			expect("partner of an ipip tunnel", f.stranger, inward[5:6], true)
			expect("partner of an ipip tunnel", f.stranger, inward[6:7], false)
			expect("partner of an ipip tunnel", f.stranger, inward[0:1], false)
			f.set(t, nil)
			expect("guard taken away", f.stranger, inward, true)
			if out, err := f.node.Try("iptables", "-S", "FAIRLEAD-INPUT"); err == nil {
				t.Errorf("left behind: %s", out)
			}
		})
	}
}

// useIPTables makes the plain names lead to a back end for the rest of the test.
func useIPTables(t *testing.T, backend string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		real, err := exec.LookPath(name + "-" + backend)
		if err != nil {
			t.Skipf("this machine has no such back end: %v", err)
		}
		real, err = filepath.EvalSymlinks(real)
		noError(t, err)
		noError(t, os.Symlink(real, filepath.Join(dir, name)))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "lock"))
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
