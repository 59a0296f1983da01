package endpoint_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nettest"
)

func sameRow(t *testing.T, want, got endpoint.Row) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("listed row (-want +got):\n%s", diff)
	}
}

func TestPutShowsInListAndInside(t *testing.T) {
	for name, only := range map[string]func(*endpoint.Row){
		"dual": func(*endpoint.Row) {},
		"ipv4": func(r *endpoint.Row) { r.IP6 = netip.Addr{} },
		"ipv6": func(r *endpoint.Row) { r.IP4 = netip.Addr{}; r.MAC = endpoint.ContainerMAC(r.IP6) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.container("web")
			r := l.row("web", c, 1)
			only(&r)
			l.put(r)
			got, _ := l.list(r)
			sameRow(t, r, got)
			drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r})
			if err != nil || len(drifted) != 0 {
				t.Errorf("Inspect = %v, %v", drifted, err)
			}
			if diff := cmp.Diff(wantInside(r), routesInside(c)); diff != "" {
				t.Errorf("inside (-want +got):\n%s", diff)
			}
			want := 0
			if len(r.Greets()) > 0 {
				want = 1
				l.host.IP("addr del fe80::1/64 dev " + r.HostIf)
				if drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r}); err != nil || !slices.Equal(drifted, []string{r.HostIf}) {
					t.Errorf("without the gateway's address: Inspect = %v, %v", drifted, err)
				}
				l.put(r)
			}
			out := l.host.IP("addr show dev " + r.HostIf)
			if strings.Count(out, "inet") != want || strings.Count(out, "inet6 fe80::1/64") != want {
				t.Errorf("the host side has other addresses than it should:\n%s", out)
			}
		})
	}
}

// wantInside is what a container has, and nothing beside.
func wantInside(r endpoint.Row) string {
	var b strings.Builder
	if r.IP4.IsValid() {
		fmt.Fprintf(&b, "addr %s/32\ndefault via 169.254.1.1 dev eth0 proto 88 onlink\n", r.IP4)
		fmt.Fprintf(&b, "169.254.1.1 dev eth0 proto 88 scope link\n")
		fmt.Fprintf(&b, "169.254.1.1 dev eth0 lladdr 02:46:4c:00:00:01 PERMANENT\n")
	}
	if r.IP6.IsValid() {
		fmt.Fprintf(&b, "addr %s/128\n", r.IP6)
		fmt.Fprintf(&b, "default via fe80::1 dev eth0 proto 88 metric 1024 onlink pref medium\n")
		fmt.Fprintf(&b, "fe80::1 dev eth0 lladdr 02:46:4c:00:00:01 PERMANENT\n")
	}
	return b.String()
}

func routesInside(c *nettest.Host) string {
	var b strings.Builder
	for _, family := range []string{"-4", "-6"} {
		for _, line := range strings.Split(show(c, family+" -o addr show dev eth0"), "\n") {
			if f := strings.Fields(line); len(f) > 3 && f[5] != "link" {
				fmt.Fprintf(&b, "addr %s\n", f[3])
			}
		}
		for _, args := range []string{" route show", " neigh show nud permanent"} {
			for _, line := range strings.Split(show(c, family+args), "\n") {
				if line != "" && !strings.HasPrefix(line, "fe80::/64") {
					fmt.Fprintln(&b, strings.TrimSpace(line))
				}
			}
		}
	}
	return b.String()
}

// The first packet after Put passes, in both directions and families: neither side waits for a neighbour, duplicate
// address detection or the kernel's own idea of the carrier.
func TestFirstPacketPasses(t *testing.T) {
	l := newLab(t)
	l.host.IP("link add up0 type veth peer name up1")
	l.host.IP("link set up0 up")
	l.host.IP("link set up1 up")
	l.host.IP("addr add 192.0.2.1/24 dev up0")
	l.host.IP("addr add 2001:db8:1::1/64 dev up0 nodad")
	for i := range 10 {
		c := l.container(fmt.Sprintf("c%d", i))
		r := l.row(c.Name, c, i)
		l.put(r)
		l.hostRoutes(r)
		datagram(t, c, l.host, "192.0.2.1")
		datagram(t, c, l.host, "2001:db8:1::1")
		datagram(t, l.host, c, r.IP4.String())
		datagram(t, l.host, c, r.IP6.String())
	}
}

// datagram sends one UDP datagram and waits for it.
func datagram(t *testing.T, from, to *nettest.Host, address string) {
	t.Helper()
	var in net.PacketConn
	err := to.Do(func() (err error) { in, err = net.ListenPacket("udp", net.JoinHostPort(address, "0")); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	err = from.Do(func() error {
		out, err := net.Dial("udp", in.LocalAddr().String())
		if err != nil {
			return err
		}
		defer out.Close()
		_, err = out.Write([]byte("hello"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = in.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := in.ReadFrom(make([]byte, 16)); err != nil {
		t.Errorf("%s to %s at %s: %v", from.Name, to.Name, address, err)
	}
}

func TestPutAgainWritesNothing(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	quiet := watch(t, l.host, c)
	l.put(r)
	if err := l.links.Mend(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	quiet()
}

func TestDeleteTwice(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	before := snapshot(l.host, c)
	l.put(r)
	for range 2 {
		if err := l.links.Delete(t.Context(), r.HostIf); err != nil {
			t.Fatal(err)
		}
		if got, there := l.list(r); there {
			t.Errorf("still listed: %+v", got)
		}
	}
	if diff := cmp.Diff(before, snapshot(l.host, c)); diff != "" {
		t.Errorf("what is left (-before +after):\n%s", diff)
	}
	l.put(r)
}

// snapshot is everything that ip shows of the hosts, but what counters and loopback say.
func snapshot(hosts ...*nettest.Host) string {
	var b strings.Builder
	for _, h := range hosts {
		for _, args := range []string{"-o addr show", "route show table all", "-6 route show table all", "neigh show"} {
			for _, line := range strings.Split(show(h, args), "\n") {
				if !strings.Contains(line, " lo ") {
					fmt.Fprintln(&b, line)
				}
			}
		}
	}
	return b.String()
}

// Each cause makes Put fail at another step; nothing of ours is left on the host or inside.
func TestPutRollsBack(t *testing.T) {
	for want, spoil := range map[string]func(l *lab, c *nettest.Host){
		"already has an interface eth0": func(_ *lab, c *nettest.Host) {
			c.IP("link add eth0 type veth peer name other")
		},
		"put route 169.254.1.1/32": func(_ *lab, c *nettest.Host) {
			other(c)
			c.IP("route add 169.254.1.1/32 dev other scope link")
		},
		"put route default via 169.254.1.1": func(_ *lab, c *nettest.Host) {
			other(c)
			c.IP("addr add 192.0.2.1/24 dev other")
			c.IP("route add default via 192.0.2.2")
		},
		"put route default via fe80::1": func(_ *lab, c *nettest.Host) {
			other(c)
			c.IP("addr add 2001:db8:1::1/64 dev other nodad")
			c.IP("-6 route add default via 2001:db8:1::2")
		},
	} {
		t.Run(want, func(t *testing.T) {
			l := newLab(t)
			c := l.container("web")
			spoil(l, c)
			r := l.row("web", c, 1)
			before := snapshot(l.host, c)
			err := l.links.Put(t.Context(), r.HostIf, r)
			if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, endpoint.ErrForeign) {
				t.Errorf("Put = %v, want ErrForeign and %q", err, want)
			}
			t.Log(err)
			if diff := cmp.Diff(before, snapshot(l.host, c)); diff != "" {
				t.Errorf("what is left (-before +after):\n%s", diff)
			}
		})
	}
}

// other gives h an interface that is not ours.
func other(h *nettest.Host) {
	h.IP("link add other type veth peer name other2")
	for _, link := range []string{"other", "other2"} {
		h.IP("link set " + link + " addrgenmode none")
		h.IP("link set " + link + " up")
	}
}

func TestPutEnablesIPv6WhereTheContainerHasItOff(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	for _, h := range []*nettest.Host{l.host, c} {
		h.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	}
	r := l.row("web", c, 1)
	l.put(r)
	if diff := cmp.Diff(wantInside(r), routesInside(c)); diff != "" {
		t.Errorf("inside (-want +got):\n%s", diff)
	}
	got, _ := l.list(r)
	sameRow(t, r, got)
}

func TestManyAtOnceLeakNothing(t *testing.T) {
	l := newLab(t)
	var rows []endpoint.Row
	for i := range 100 {
		c := l.container(fmt.Sprintf("c%d", i))
		rows = append(rows, l.row(c.Name, c, i))
	}
	l.put(rows[0])
	files := openFiles(t)
	each := func(do func(endpoint.Row) error) {
		work := make(chan endpoint.Row)
		var done sync.WaitGroup
		for range 8 {
			done.Go(func() {
				for r := range work {
					if err := do(r); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for _, r := range rows {
			work <- r
		}
		close(work)
		done.Wait()
	}
	each(func(r endpoint.Row) error { return l.links.Put(t.Context(), r.HostIf, r) })
	for _, r := range rows {
		got, _ := l.list(r)
		sameRow(t, r, got)
	}
	if drifted, err := l.links.Inspect(t.Context(), rows); err != nil || len(drifted) > 0 {
		t.Errorf("Inspect = %v, %v", drifted, err)
	}
	each(func(r endpoint.Row) error { return l.links.Delete(t.Context(), r.HostIf) })
	if left, err := l.links.List(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("List = %v, %v", left, err)
	}
	// A few sockets into the host's own namespace are kept for the next calls.
	poll(t, "sockets to be closed", func() bool { return openFiles(t) <= files+4 })
}

// poll waits until ok.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestNamespaceDiesWithItsContainer(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	if !endpoint.Alive(r) {
		t.Error("it counts as dead before")
	}
	if _, err := l.links.Inspect(t.Context(), []endpoint.Row{r}); err != nil {
		t.Error(err)
	}
	if err := nettest.Remove(c.Path); err != nil {
		t.Fatal(err)
	}
	poll(t, "the pair to go with the namespace", func() bool { _, there := l.list(r); return !there })
	if endpoint.Alive(r) {
		t.Error("it counts as alive after")
	}
	if err := l.links.Put(t.Context(), r.HostIf, r); !errors.Is(err, endpoint.ErrGone) {
		t.Errorf("Put = %v, want ErrGone", err)
	}
}

// A path that is removed under a running process leaves the namespace, and the address in use.
func TestNamespaceLivesOnInItsProcess(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	var held net.Listener
	if err := c.Do(func() (err error) { held, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := nettest.Remove(c.Path); err != nil {
		t.Fatal(err)
	}
	if _, there := l.list(r); !there || endpoint.Alive(r) {
		t.Errorf("the pair is there: %v, its path leads to it: %v", there, endpoint.Alive(r))
	}
}
