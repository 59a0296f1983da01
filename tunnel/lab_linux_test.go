package tunnel_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var compareValues = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// host is a host with an uplink in 192.0.2.0/24 and 2001:db8:1::/64, and the kernel tables of its namespace.
type host struct {
	*nettest.Host
	k   *tunnel.Kernel
	far *nettest.Host // at the other end of the uplink
}

func newHost(t *testing.T) host {
	t.Helper()
	h := host{Host: nettest.NewHost(t, "a"), far: nettest.NewHost(t, "far")}
	// No addresses but those given, and those at once, so that the state of the kernel can be compared.
	for _, n := range []*nettest.Host{h.Host, h.far} {
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
		n.Sysctl("net/ipv6/conf/default/addr_gen_mode", "1")
	}
	nettest.Wire(t, h.Host, "uplink", h.far, "cable")
	h.IP("addr add 192.0.2.1/24 dev uplink")
	h.IP("-6 addr add 2001:db8:1::1/64 dev uplink nodad")
	eventually(t, "the IPv6 address is there and the links have settled", func() bool {
		return strings.Contains(h.IP("-6 route show table local"), "local 2001:db8:1::1") &&
			settled(h.Host, "uplink") && settled(h.far, "cable")
	})
	h.k = open(t, h.Host)
	return h
}

// settled tells that the kernel has announced the state of a link, which may be up to a second after it is up.
func settled(h *nettest.Host, dev string) bool {
	return strings.Contains(h.IP("link show "+dev), "state UP")
}

func open(t *testing.T, h *nettest.Host) *tunnel.Kernel {
	t.Helper()
	var k *tunnel.Kernel
	if err := h.Do(func() (err error) { k, err = tunnel.Open(); return err }); err != nil {
		t.Fatalf("open kernel of %s: %v", h.Name, err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("close kernel of %s: %v", h.Name, err)
		}
	})
	return k
}

// settle brings a table to want, and checks that it is then exactly that: a second diff is empty.
func settle[K, V comparable](t *testing.T, target reconcile.Target[K, V], want map[K]V) {
	t.Helper()
	apply(t, target, want)
	if diff := cmp.Diff(want, list(t, target), compareValues); diff != "" {
		t.Fatalf("table after settling (-want +have):\n%s", diff)
	}
}

func apply[K, V comparable](t *testing.T, target reconcile.Target[K, V], want map[K]V) {
	t.Helper()
	table := reconcile.NewTable("rows", target)
	if report := reconcile.Climb(t.Context(), table.Rung(want, nil)); !report.Clean() {
		t.Fatalf("settle: %v", report.Err())
	}
}

func list[K, V comparable](t *testing.T, target reconcile.Target[K, V]) map[K]V {
	t.Helper()
	have, err := target.List(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return have
}

// world is the kernel's whole routing state as iproute2 tells it, without what passes by itself.
func world(h *nettest.Host) string {
	var all []string
	for _, args := range []string{
		"-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule", "neigh show nud permanent", "-d link", "addr",
	} {
		for line := range strings.Lines("# " + args + "\n" + h.IP(args)) {
			if !strings.HasPrefix(line, "multicast ff00::/8") { // comes some time after its link
				all = append(all, line)
			}
		}
	}
	return strings.Join(all, "")
}

// run gives iproute2 many commands at once.
func run(t *testing.T, h host, lines string) {
	t.Helper()
	must(t, commands(h, lines))
}

func commands(h host, lines string) error {
	c := h.Command(context.Background(), "ip", "-batch", "-")
	c.Stdin = strings.NewReader(lines)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -batch: %w: %s", err, out)
	}
	return nil
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func hops(h ...tunnel.NextHop) [tunnel.MaxHops]tunnel.NextHop { return tunnel.SortHops(h) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in 10 s: %s", what)
}

func sysctl(t *testing.T, h *nettest.Host, path string) string {
	t.Helper()
	var b []byte
	err := h.Do(func() (err error) { b, err = os.ReadFile("/proc/sys/" + path); return err })
	if err != nil {
		t.Fatalf("read %s on %s: %v", path, h.Name, err)
	}
	return strings.TrimSpace(string(b))
}

func device(vtep string) tunnel.Device {
	a := addr(vtep)
	mtu := 1450
	if a.Is6() {
		mtu = 1430
	}
	return tunnel.Device{Kind: tunnel.VXLAN, VNI: 88, Port: 4789, Local: a, MTU: mtu, MAC: tunnel.VTEPMAC(a), Offload: tunnel.OffloadOn}
}

func withDevices(t *testing.T, h host) {
	t.Helper()
	settle(t, h.k.Devices(), map[string]tunnel.Device{
		tunnel.DeviceVXLAN: device("192.0.2.1"), tunnel.DeviceVXLAN6: device("2001:db8:1::1"),
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func background(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

func lines(format string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, i/250, i%250+1)
	}
	return all
}
