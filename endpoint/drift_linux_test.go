package endpoint_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nettest"
)

// Whatever was changed by hand on the host side makes the listed row differ, and Put puts it right on the same link.
func TestHostSideDrift(t *testing.T) {
	for name, disturb := range map[string]func(h *nettest.Host, link string){
		"down":          func(h *nettest.Host, link string) { h.IP("link set " + link + " down") },
		"mtu":           func(h *nettest.Host, link string) { h.IP("link set " + link + " mtu 1300") },
		"mac":           func(h *nettest.Host, link string) { h.IP("link set " + link + " address 02:00:00:00:00:09") },
		"group":         func(h *nettest.Host, link string) { h.IP("link set " + link + " group 7") },
		"alias":         func(h *nettest.Host, link string) { h.Run("ip", "link", "set", link, "alias", "my container") },
		"no alias":      func(h *nettest.Host, link string) { h.Run("ip", "link", "set", link, "alias", "") },
		"link-local":    func(h *nettest.Host, link string) { h.IP("link set " + link + " addrgenmode eui64") },
		"no forwarding": func(h *nettest.Host, link string) { h.Sysctl("net/ipv4/conf/"+link+"/forwarding", "0") },
		"no ipv6":       func(h *nettest.Host, link string) { h.Sysctl("net/ipv6/conf/"+link+"/disable_ipv6", "1") },
		"accept ra":     func(h *nettest.Host, link string) { h.Sysctl("net/ipv6/conf/"+link+"/accept_ra", "2") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.container("web")
			r := l.row("web", c, 1)
			l.put(r)
			index, picture := ifindex(l.host, r.HostIf), show(l.host, "-d link show "+r.HostIf)
			disturb(l.host, r.HostIf)
			if got, there := l.list(r); there && got == r {
				t.Errorf("List does not tell: %+v", got)
			}
			l.put(r)
			got, _ := l.list(r)
			sameRow(t, r, got)
			if again := ifindex(l.host, r.HostIf); again != index {
				t.Errorf("the link was made anew: index %s, then %s", index, again)
			}
			if diff := cmp.Diff(picture, show(l.host, "-d link show "+r.HostIf)); diff != "" {
				t.Errorf("host side (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(wantInside(r), routesInside(c)); diff != "" {
				t.Errorf("inside (-want +got):\n%s", diff)
			}
		})
	}
}

func ifindex(h *nettest.Host, link string) string {
	index, _, _ := strings.Cut(show(h, "-o link show "+link), ":")
	return index
}

// A kernel that can forward IPv6 for one interface alone is told to, and told again.
func TestForceForwarding(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	path := "/proc/sys/net/ipv6/conf/" + r.HostIf + "/force_forwarding"
	if _, err := l.host.Try("test", "-e", path); err != nil {
		return // a kernel before 6.17 has only the switch for all interfaces
	}
	for range 2 {
		if got := l.host.Run("cat", path); got != "1\n" {
			t.Errorf("force_forwarding = %q", got)
		}
		l.host.Run("sh", "-c", "echo 0 > "+path)
		if got, _ := l.list(r); got == r {
			t.Errorf("List does not tell: %+v", got)
		}
		l.put(r)
	}
}

// Whatever was changed by hand inside is seen by Inspect, and Mend puts it right on the same link.
func TestInsideDrift(t *testing.T) {
	for name, disturb := range map[string]func(c *nettest.Host){
		"ipv4 address":        func(c *nettest.Host) { c.IP("addr del 10.88.0.2/32 dev eth0") },
		"ipv6 address":        func(c *nettest.Host) { c.IP("addr del 2001:db8:88::2/128 dev eth0") },
		"all addresses":       func(c *nettest.Host) { c.IP("addr flush dev eth0") },
		"ipv4 default":        func(c *nettest.Host) { c.IP("route del default") },
		"ipv6 default":        func(c *nettest.Host) { c.IP("-6 route del default") },
		"ipv4 gateway":        func(c *nettest.Host) { c.IP("route replace default via 169.254.1.9 dev eth0 onlink") },
		"ipv6 gateway":        func(c *nettest.Host) { c.IP("-6 route replace default via fe80::9 dev eth0 onlink") },
		"way to the gateway":  func(c *nettest.Host) { c.IP("route del 169.254.1.1 dev eth0") },
		"all routes":          func(c *nettest.Host) { c.IP("route flush dev eth0"); c.IP("-6 route flush dev eth0") },
		"ipv4 neighbour":      func(c *nettest.Host) { c.IP("neigh del 169.254.1.1 dev eth0") },
		"ipv6 neighbour":      func(c *nettest.Host) { c.IP("neigh del fe80::1 dev eth0") },
		"neighbour's address": func(c *nettest.Host) { c.IP("neigh replace 169.254.1.1 lladdr 02:00:00:00:00:09 dev eth0") },
		"down":                func(c *nettest.Host) { c.IP("link set eth0 down") },
		"mtu":                 func(c *nettest.Host) { c.IP("link set eth0 mtu 1300") },
		"mtu without ipv6":    func(c *nettest.Host) { c.IP("link set eth0 mtu 600") },
		"mac":                 func(c *nettest.Host) { c.IP("link set eth0 address 02:00:00:00:00:09") },
		"name":                func(c *nettest.Host) { c.IP("link set eth0 down"); c.IP("link set eth0 name other") },
		"name, and up":        func(c *nettest.Host) { c.IP("link set eth0 name other") },
		"loopback":            func(c *nettest.Host) { c.IP("link set lo down") },
		"no ipv6":             func(c *nettest.Host) { c.Sysctl("net/ipv6/conf/eth0/disable_ipv6", "1") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.container("web")
			r := l.row("web", c, 1)
			l.put(r)
			index := ifindex(c, "eth0")
			disturb(c)
			drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r})
			if err != nil || !slices.Equal(drifted, []string{r.HostIf}) {
				t.Errorf("Inspect = %v, %v, want it named", drifted, err)
			}
			if err := l.links.Mend(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wantInside(r), routesInside(c)); diff != "" {
				t.Errorf("inside (-want +got):\n%s", diff)
			}
			if drifted, err = l.links.Inspect(t.Context(), []endpoint.Row{r}); err != nil || len(drifted) > 0 {
				t.Errorf("Inspect = %v, %v after Mend", drifted, err)
			}
			if again := ifindex(c, "eth0"); again != index {
				t.Errorf("the link was made anew: index %s, then %s", index, again)
			}
		})
	}
}

// What else is in the container stays: other addresses, routes and interfaces.
func TestMendLeavesTheContainersOwn(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	other(c)
	c.IP("addr add 192.0.2.9/24 dev other")
	c.IP("addr add 198.51.100.9/32 dev eth0")
	c.IP("route add 203.0.113.0/24 via 192.0.2.1")
	c.IP("route add default via 192.0.2.1 metric 10")
	if drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r}); err != nil || len(drifted) > 0 {
		t.Errorf("Inspect = %v, %v", drifted, err)
	}
	before := snapshot(c)
	c.IP("route del default via 169.254.1.1")
	if err := l.links.Mend(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(c)); diff != "" {
		t.Errorf("inside (-before +after):\n%s", diff)
	}
	// A default route over another interface is somebody's choice: it is reported and left alone.
	c.IP("route del default via 169.254.1.1")
	c.IP("route add default via 192.0.2.1")
	before = snapshot(c)
	if err := l.links.Mend(t.Context(), r); !errors.Is(err, endpoint.ErrForeign) {
		t.Errorf("Mend = %v, want ErrForeign", err)
	}
	if diff := cmp.Diff(before, snapshot(c)); diff != "" {
		t.Errorf("inside (-before +after):\n%s", diff)
	}
}

// A pair that somebody deleted, or whose inside somebody moved away, is made anew with everything inside.
func TestPairIsMadeAnew(t *testing.T) {
	for name, disturb := range map[string]func(l *lab, r endpoint.Row, c *nettest.Host){
		"deleted on the host": func(l *lab, r endpoint.Row, _ *nettest.Host) { l.host.IP("link del " + r.HostIf) },
		"deleted inside":      func(_ *lab, _ endpoint.Row, c *nettest.Host) { c.IP("link del eth0") },
		"moved": func(l *lab, _ endpoint.Row, c *nettest.Host) {
			c.IP("link set eth0 netns " + netnsName(l.container("x")))
		},
		"moved to the host": func(l *lab, _ endpoint.Row, c *nettest.Host) { c.IP("link set eth0 netns " + netnsName(l.host)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.container("web")
			r := l.row("web", c, 1)
			l.put(r)
			disturb(l, r, c)
			_, there := l.list(r)
			if drifted, err := l.links.Inspect(t.Context(), []endpoint.Row{r}); err != nil || there != (len(drifted) == 1) {
				t.Errorf("List: there = %v; Inspect = %v, %v", there, drifted, err)
			}
			l.put(r)
			got, _ := l.list(r)
			sameRow(t, r, got)
			if diff := cmp.Diff(wantInside(r), routesInside(c)); diff != "" {
				t.Errorf("inside (-want +got):\n%s", diff)
			}
		})
	}
}

// An endpoint that gets other addresses keeps none of the old ones.
func TestOtherAddresses(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	r.IP4, r.IP6 = l.row("web", c, 2).IP4, netip.Addr{}
	r.MAC = endpoint.ContainerMAC(r.IP4)
	l.put(r)
	got, _ := l.list(r)
	sameRow(t, r, got)
	if diff := cmp.Diff(wantInside(r), routesInside(c)); diff != "" {
		t.Errorf("inside (-want +got):\n%s", diff)
	}
}

func netnsName(h *nettest.Host) string { return strings.TrimPrefix(h.Path, "/run/netns/") }

// A container that came back under its old path has another namespace; the old one may still be there.
func TestContainerRestarted(t *testing.T) {
	for _, stays := range []bool{false, true} {
		t.Run(fmt.Sprintf("old one stays %v", stays), func(t *testing.T) {
			l := newLab(t)
			old, young := l.container("old"), l.container("young")
			r := l.row("web", old, 1)
			l.put(r)
			if stays {
				l.host.Run("ip", "netns", "attach", netnsName(old)+"-kept", fmt.Sprint(sleeper(t, old)))
				t.Cleanup(func() { _ = nettest.Remove(old.Path + "-kept") })
			}
			if err := nettest.Remove(old.Path); err != nil {
				t.Fatal(err)
			}
			l.host.Run("touch", old.Path)
			l.host.Run("mount", "--bind", young.Path, old.Path)
			if err := l.links.Put(t.Context(), r.HostIf, r); !errors.Is(err, endpoint.ErrGone) {
				t.Errorf("Put of the old life = %v, want ErrGone", err)
			}
			path, inode, err := endpoint.Resolve(old.Path, 0)
			if err != nil || path != r.NetNS || inode == r.NSInode {
				t.Fatalf("Resolve = %s, %d, %v", path, inode, err)
			}
			r.NSInode = inode
			l.put(r)
			got, _ := l.list(r)
			sameRow(t, r, got)
			if diff := cmp.Diff(wantInside(r), routesInside(young)); diff != "" {
				t.Errorf("inside (-want +got):\n%s", diff)
			}
		})
	}
}

// sleeper is the id of a process in h that lives as long as the test.
func sleeper(t *testing.T, h *nettest.Host) int {
	t.Helper()
	cmd := h.Command(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	inside := func() bool {
		_, inode, err := endpoint.Resolve("", cmd.Process.Pid)
		_, want, _ := endpoint.Resolve(h.Path, 0)
		return err == nil && inode == want
	}
	poll(t, "the process to enter "+h.Name, inside)
	return cmd.Process.Pid
}
