package endpoint_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a host and its Links.
type lab struct {
	t     testing.TB
	host  *nettest.Host
	links *endpoint.Links
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, host: nettest.NewHost(t, "host")}
	err := l.host.Do(func() (err error) { l.links, err = endpoint.NewLinks(); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.links.Close() })
	return l
}

// container makes an empty namespace.
func (l *lab) container(name string) *nettest.Host {
	l.t.Helper()
	c := nettest.NewHost(l.t, name)
	c.IP("link set lo down")
	return c
}

// row is a dual-stack endpoint in c.
func (l *lab) row(name string, c *nettest.Host, n int) endpoint.Row {
	l.t.Helper()
	path, inode, err := endpoint.Resolve(c.Path, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	ip4 := netip.MustParseAddr(fmt.Sprintf("10.88.%d.%d", n/250, n%250+1))
	return endpoint.Row{
		Name: name, HostIf: endpoint.HostIf(name), NetNS: path, IfName: "eth0", NSInode: inode,
		MAC: endpoint.ContainerMAC(ip4), IP4: ip4, IP6: netip.MustParseAddr(fmt.Sprintf("2001:db8:88::%x", n+1)),
		MTU: 1400,
	}
}

func (l *lab) put(r endpoint.Row) {
	l.t.Helper()
	if err := l.links.Put(l.t.Context(), r.HostIf, r); err != nil {
		l.t.Fatal(err)
	}
}

// list is what Links.List says of r.
func (l *lab) list(r endpoint.Row) (endpoint.Row, bool) {
	l.t.Helper()
	rows, err := l.links.List(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	got, ok := rows[r.HostIf]
	return got, ok
}

// hostRoutes plays the rows of the tunnel room: the host's routes and neighbours for r.
func (l *lab) hostRoutes(r endpoint.Row) {
	l.host.Sysctl("net/ipv4/ip_forward", "1")
	l.host.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, a := range []netip.Addr{r.IP4, r.IP6} {
		if a.IsValid() {
			l.host.IP(fmt.Sprintf("route replace %s dev %s proto 88", a, r.HostIf))
			l.host.IP(fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", a, r.MAC, r.HostIf))
		}
	}
}

// show is what ip shows on h. It also complains about each namespace that others are just making or removing.
func show(h *nettest.Host, args string) string {
	var b strings.Builder
	for line := range strings.Lines(h.IP(args)) {
		if !strings.HasPrefix(line, "Error: Peer netns") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
