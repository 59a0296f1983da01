package story_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// The ports that most containers of these stories have, and the port of the host that leads to the first; the other one's
// is any.
const (
	plainPort = 80
	otherPort = 81
	fixedPort = 8080
)

// harbour is a lab in which ports are published, with a host on the first cable that is no node.
type harbour struct {
	*nettest.Lab
	n                    *nettest.Node // whose ports are published
	stranger             *nettest.Host
	stranger4, stranger6 netip.Addr
}

// newHarbour starts the daemons of a lab whose first host is to publish ports.
func newHarbour(t *testing.T, o nettest.LabOptions) *harbour {
	t.Helper()
	h := emptyHarbour(t, o)
	h.Start()
	return h
}

// emptyHarbour is one in which no daemon has run yet.
func emptyHarbour(t *testing.T, o nettest.LabOptions) *harbour {
	t.Helper()
	o.Pools = []string{pool4, pool6}
	h := &harbour{
		Lab: lab(t, o), stranger4: netip.MustParseAddr("192.0.2.66"), stranger6: netip.MustParseAddr("2001:db8:1::66"),
	}
	h.n = h.Nodes[0]
	h.stranger = strangerAt(t, h.Lab, h.stranger4, h.stranger6)
	for i, n := range h.Nodes {
		n.WriteConfig(withBlocks(n.Config(), i+1))
	}
	return h
}

// strangerAt joins a host that is no node to the first switch.
func strangerAt(t *testing.T, l *nettest.Lab, ip4, ip6 netip.Addr) *nettest.Host {
	t.Helper()
	h := nettest.NewHost(t, "stranger")
	nettest.Wire(t, h, "eth0", l.Switches[0], "stranger")
	l.Switches[0].IP("link set stranger master br0")
	h.Batch("addr add "+ip4.String()+"/24 dev eth0", "-6 addr add "+ip6.String()+"/64 dev eth0 nodad")
	return h
}

// pinDir is [fastpath] pin_dir of a host.
func pinDir(t *testing.T, n *nettest.Node) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^pin_dir = "(.+)"$`).FindStringSubmatch(n.Config())
	if found == nil {
		t.Fatalf("%s has no pin_dir of its own", n.Name)
	}
	return found[1]
}

// pinned are the files below the directory where the host's daemon keeps what outlives it in the kernel.
func pinned(t *testing.T, n *nettest.Node) (files []string) {
	t.Helper()
	var own uint64
	if err := n.Do(func() (err error) { own, err = cookie(); return err }); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(pinDir(t, n), func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			files = append(files, path)
		case strings.HasPrefix(d.Name(), "fast-") && d.Name() != fmt.Sprintf("fast-%x", own):
			return filepath.SkipDir // another host's fast path
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return files
}

// cookie is what the kernel's programs know the thread's network namespace by.
func cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// addressesOf are a host's own addresses that its ports are asked by.
func addressesOf(n *nettest.Node) []netip.Addr { return []netip.Addr{n.Address4, n.Address6} }

// offer has a container answer with its name at a port, by each of the protocols.
func offer(c *nettest.Container, port uint16, protos ...string) {
	for _, a := range c.Addresses() {
		for _, proto := range protos {
			c.Offer(proto, netip.AddrPortFrom(a, port), c.Endpoint)
		}
	}
}

// ports are the published ports of an endpoint.
func ports(t *testing.T, n *nettest.Node, name string) []agent.Port {
	t.Helper()
	all := show[[]agent.Port](t, n, "ports")
	return slices.DeleteFunc(all, func(p agent.Port) bool { return p.Endpoint != name })
}

// hostPort is the one port of the host that leads to a port of an endpoint, the same in both families.
func hostPort(t *testing.T, n *nettest.Node, name, proto string, port uint16) uint16 {
	t.Helper()
	var found []uint16
	for _, p := range ports(t, n, name) {
		if p.Proto == proto && p.Port == port {
			found = append(found, p.HostPort)
		}
	}
	if found = slices.Compact(found); len(found) != 1 {
		t.Fatalf("port %d/%s of %s is published at %v", port, proto, name, found)
	}
	return found[0]
}

// answers is an error unless the service behind a port says the wanted name.
func answers(from *nettest.Host, proto string, to netip.AddrPort, name string) error {
	got, err := from.Call(proto, to)
	if err == nil && got.Name != name {
		err = fmt.Errorf("%s to %s/%s: answered by %q, not %q", from.Name, to, proto, got.Name, name)
	}
	return err
}

// silent is an error if somebody answers at a port.
func silent(from *nettest.Host, proto string, to netip.AddrPort) error {
	if got, err := from.Call(proto, to); err == nil {
		return fmt.Errorf("%s to %s/%s: answered by %q", from.Name, to, proto, got.Name)
	}
	return nil
}

// backends runs a test with each back end of iptables that this machine has, as the one that its hosts use.
func backends(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	found := 0
	for _, backend := range []string{"nft", "legacy"} {
		if _, err := exec.LookPath("iptables-" + backend); err != nil {
			t.Logf("not installed: %v", err)
			continue
		}
		found++
		t.Run(backend, func(t *testing.T) {
			dir := nettest.NewDir(t, "")
			for _, name := range []string{"iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"} {
				lead(t, dir, name, backend)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			t.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "lock")) // the host's own is nobody's business here
			test(t)
		})
	}
	if found == 0 {
		t.Fatal("no back end of iptables is installed")
	}
}

// lead makes a plain name of iptables lead to a back end, as update-alternatives does.
func lead(t *testing.T, dir, name, backend string) {
	t.Helper()
	tool, verb, found := strings.Cut(name, "-")
	if found {
		verb = "-" + verb
	}
	real, err := exec.LookPath(tool + "-" + backend + verb)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err == nil {
		err = os.Symlink(real, filepath.Join(dir, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}
