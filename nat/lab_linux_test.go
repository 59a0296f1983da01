package nat_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// waiting is how many of the tests that mostly wait for a timer may run at once at least.
const waiting = 8

func TestMain(m *testing.M) {
	if dir := os.Getenv(holderDir); dir != "" {
		if err := hold(dir); err != nil {
			fmt.Println(err)
		}
		return
	}
	flag.Parse()
	if runtime.GOMAXPROCS(0) < waiting {
		_ = flag.Set("test.parallel", strconv.Itoa(waiting))
	}
	goleak.VerifyTestMain(m)
}

// host is a host and the packet filter of its namespace.
type host struct {
	*nettest.Host
	k *nat.Kernel
}

func newHost(t *testing.T) host {
	t.Helper()
	h := host{Host: nettest.NewHost(t, "a")}
	h.k = open(t, h.Host)
	return h
}

func open(t *testing.T, h *nettest.Host) *nat.Kernel {
	t.Helper()
	var k *nat.Kernel
	must(t, h.Do(func() (err error) { k, err = nat.Open(); return err }))
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return k
}

// backends runs a test with each back end of iptables that this machine has, as if it were the one that the host uses.
func backends(t *testing.T, test func(t *testing.T, h host)) {
	t.Helper()
	found := 0
	for _, backend := range []string{"nft", "legacy"} {
		if _, err := exec.LookPath("iptables-" + backend); err != nil {
			t.Logf("not installed: %v", err)
			continue
		}
		found++
		t.Run(backend, func(t *testing.T) {
			use(t, backend)
			test(t, newHost(t))
		})
	}
	if found == 0 {
		t.Fatal("no back end of iptables is installed")
	}
}

// use makes the plain names lead to a back end for the rest of the test.
func use(t *testing.T, backend string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		real, err := exec.LookPath(name + "-" + backend)
		must(t, err)
		real, err = filepath.EvalSymlinks(real)
		must(t, err)
		must(t, os.Symlink(real, filepath.Join(dir, name)))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(dir, "lock")) // the host's own is nobody's business here
}

// settle brings a table to want in one pass and checks that it is then exactly that, and that a second pass has nothing to
// do. It returns what the first pass wrote and repaired.
func settle[K, V comparable](t *testing.T, table *reconcile.Table[K, V], want map[K]V) *reconcile.Report {
	t.Helper()
	r := reconcile.Climb(t.Context(), table.Rung(want, nil))
	if !r.Clean() {
		t.Fatalf("settle: %v", r.Err())
	}
	have, err := table.List(t.Context())
	must(t, err)
	if diff := cmp.Diff(want, have, addresses()); diff != "" {
		t.Fatalf("table after settling (-want +have):\n%s", diff)
	}
	if again := reconcile.Climb(t.Context(), table.Rung(want, nil)); !again.Clean() || again.Total() != 0 {
		t.Fatalf("second pass: %+v", again)
	}
	return r
}

func addresses() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}) }

// world is everything that the packet filter holds, by every tool that there is, without counters.
func (h host) world() string {
	var all strings.Builder
	for _, tool := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save", "nft list ruleset"} {
		if _, err := exec.LookPath(strings.Fields(tool)[0]); err != nil {
			continue
		}
		fmt.Fprintf(&all, "# %s\n", tool)
		for line := range strings.Lines(h.Run(strings.Fields(tool)...)) {
			// Their comments bear the time, their chains counters, and a chain for which there was a rule once stays.
			if !strings.HasPrefix(line, "#") {
				line, _, _ = strings.Cut(line, "[")
				all.WriteString(strings.TrimRight(line, " \n") + "\n")
			}
		}
	}
	return all.String()
}

func (h host) iptables(args string) string {
	return h.Run(append([]string{"iptables", "-w", "5"}, strings.Fields(args)...)...)
}

func (h host) ip6tables(args string) string {
	return h.Run(append([]string{"ip6tables", "-w", "5"}, strings.Fields(args)...)...)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
