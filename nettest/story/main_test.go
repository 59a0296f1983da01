// Package story_test tells what whole daemons do on a real kernel: hosts made of namespaces, real packets, real faults.
package story_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

const (
	pool4 = "10.88.0.0/16"
	pool6 = "2001:db8:88::/64"
	soon  = time.Second // in which whatever drifted must be back
)

// The environment may ask for another way through the network than the one that is chosen where nothing is said, and a
// kernel with more kinds of tunnels than VXLAN chooses another one between subnets.
const (
	modeVariable   = "TUNNEL_MODE"   // [tunnel] mode, left out when empty
	acrossVariable = "TUNNEL_ACROSS" // what mode auto takes for IPv4 between subnets; empty: vxlan
	fastVariable   = "FASTPATH"      // [fastpath] mode, auto when empty
)

// binary is the fairlead under test.
var binary string

func TestMain(m *testing.M) {
	if socket := os.Getenv(clientVariable); socket != "" {
		os.Exit(client(socket))
	}
	os.Exit(run(m))
}

// run builds the program once, unless BUILT names one.
func run(m *testing.M) int {
	if binary = os.Getenv("BUILT"); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("fairlead-lab-%d-bin-", os.Getpid())) // a name that the next run sweeps
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "fairlead")
	build := exec.Command("go", "build", "-o", binary, "github.com/fairlead-net/fairlead")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build fairlead: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// pools are those of both families, or the one that the mode carries: RFC 2003 is for IPv4 alone.
func pools() []string {
	if os.Getenv(modeVariable) == "ipip" {
		return []string{pool4}
	}
	return []string{pool4, pool6}
}

// lab makes hosts whose daemons run the program under test. Sessions notice a dead peer after 3 s unless o says else.
func lab(t *testing.T, o nettest.LabOptions) *nettest.Lab {
	t.Helper()
	o.Binary = binary
	o.Mode, o.Across = cmp.Or(o.Mode, os.Getenv(modeVariable)), cmp.Or(o.Across, os.Getenv(acrossVariable))
	o.Fastpath = cmp.Or(o.Fastpath, os.Getenv(fastVariable))
	if o.HoldTime == 0 {
		o.HoldTime = 3 * time.Second
	}
	o.HoldTime = nettest.Patience(o.HoldTime)
	return nettest.NewLab(t, o)
}

// running is a lab in which every daemon knows of every other.
func running(t *testing.T, o nettest.LabOptions) *nettest.Lab {
	t.Helper()
	l := lab(t, o)
	l.Start()
	return l
}

// show asks the host's daemon for a path of its API.
func show[T any](t *testing.T, n *nettest.Node, path string) T {
	t.Helper()
	var v T
	if err := n.Get(path, &v); err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	return v
}

// decode reads what a command printed with -o json.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// block is the part of a pool that the host hands out from.
func block(t *testing.T, n *nettest.Node, pool string) netip.Prefix {
	t.Helper()
	for _, p := range show[agent.Status](t, n, "status").Pools {
		if p.CIDR.String() == pool && p.Block != "" {
			return netip.MustParsePrefix(p.Block)
		}
	}
	t.Fatalf("%s has no block of %s", n.Name, pool)
	return netip.Prefix{}
}

// used is the number of the host's routes to other hosts that are in use, whatever the way.
func used(t *testing.T, n *nettest.Node) int {
	t.Helper()
	count := 0
	for _, r := range show[[]agent.Route](t, n, "routes") {
		if r.Installed {
			count++
		}
	}
	return count
}

// routes are Fairlead's routes in the host's kernel, as iproute2 prints them.
func routes(n *nettest.Node) []string {
	return append(lines(n.IP("-4 route show table all proto 88")), lines(n.IP("-6 route show table all proto 88"))...)
}

// lines are the lines of a text, trimmed, sorted, without empty ones.
func lines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return all
}

// hasRoute says whether one of the host's routes is to a prefix.
func hasRoute(n *nettest.Node, p netip.Prefix) bool {
	return slices.ContainsFunc(routes(n), func(r string) bool { return strings.HasPrefix(r, p.String()+" ") })
}

// without is an error while the host has a route to p; with is one while it has not.
func without(n *nettest.Node, p netip.Prefix) error {
	if hasRoute(n, p) {
		return fmt.Errorf("%s still has a route to %s", n.Name, p)
	}
	return nil
}

func with(n *nettest.Node, p netip.Prefix) error {
	if !hasRoute(n, p) {
		return fmt.Errorf("%s has no route to %s", n.Name, p)
	}
	return nil
}

// reaches is an error unless a container gets an answer and is seen with its own address.
func reaches(from *nettest.Container, to netip.Addr) error {
	own := from.IP6
	if to.Is4() {
		own = from.IP4
	}
	saw, err := from.Ask(to)
	if err == nil && saw.Source != own {
		err = fmt.Errorf("%s (%s) is seen at %s as %s", from.Name, own, to, saw.Source)
	}
	return err
}

// command runs a program of the machine.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}
