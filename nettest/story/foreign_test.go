package story_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// strangers fills a host with what other programs might have put there: routes, also inside of our pools and to the
// blocks of other nodes, links whose names begin like ours, rules of our priority, a table of our number, a firewall.
func strangers(n *nettest.Node) {
	links := []string{
		"link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning",
		"link add flbr0 type bridge", "link add flab type veth peer name flba", "link add fl0123456789a type veth peer name flc",
	}
	for i := range 10 {
		links = append(links, fmt.Sprintf("link add other%d type veth peer name rehto%d", i, i), fmt.Sprintf("link set other%d up", i))
	}
	links = append(links, "link set flannel.1 up", "link set flbr0 up", "link set fl0123456789a up", "link set flc up",
		"address add 203.0.113.1/24 dev flbr0", "address add 2001:db8:f::1/64 dev flbr0 nodad")
	n.Batch(links...)
	var routes []string
	for i := range 96 {
		routes = append(routes, fmt.Sprintf("route add 10.88.200.%d dev flbr0 proto static", i),
			fmt.Sprintf("-6 route add 2001:db8:f:%x::/64 dev flbr0", i+1))
	}
	routes = append(routes,
		"route add 10.88.2.0/24 dev flbr0 metric 500", // the block of n2
		"route add 10.88.3.0/24 dev flannel.1 metric 500 proto bird",
		"route add 10.88.77.0/24 dev flbr0 proto bgp",
		"route add blackhole 10.88.1.0/24 metric 5000", // our own block
		"route add 203.0.113.200 dev flbr0 table 88",
		"-6 route add 2001:db8:88::200/120 dev flbr0 metric 500",
		"-6 route add blackhole 2001:db8:88::100/120 metric 5000",
		"-6 route add 2001:db8:f:f::/64 dev flbr0 table 88",
		"rule add from 203.0.113.0/24 lookup 99 priority 8800", "-6 rule add from 2001:db8:f::/48 lookup 99 priority 8800",
		"rule add fwmark 0x58 lookup 88 priority 90 protocol static",
		"neighbour add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
		"neighbour add 203.0.113.77 lladdr 02:00:00:00:00:78 dev flbr0 nud permanent",
		"neighbour add 10.88.3.9 lladdr 02:00:00:00:00:79 dev flannel.1 nud permanent",
	)
	n.Batch(routes...)
	n.Run("bridge", "fdb", "append", "02:00:00:00:00:79", "dev", "flannel.1", "dst", "192.0.2.9", "self", "permanent")
	firewall(n)
	n.Sysctl("net/ipv4/conf/flbr0/rp_filter", "1")
	n.Sysctl("net/ipv4/conf/other0/forwarding", "1")
	n.Sysctl("net/ipv6/conf/other0/forwarding", "1")
	n.Sysctl("net/ipv4/conf/other9/forwarding", "1")
	n.Sysctl("net/ipv6/conf/other9/forwarding", "1")
}

// firewall sets 200 rules by iptables and a table by nft.
func firewall(n *nettest.Node) {
	restore := func(command, net string) {
		var b strings.Builder
		b.WriteString("*filter\n:OTHERS - [0:0]\n-A FORWARD -j OTHERS\n")
		for i := range 99 {
			fmt.Fprintf(&b, "-A OTHERS -s %s -p tcp --dport %d -j DROP\n", net, 1000+i)
		}
		b.WriteString("COMMIT\n")
		rules := filepath.Join(n.Dir, "rules")
		if err := os.WriteFile(rules, []byte(b.String()), 0o600); err != nil {
			panic(err)
		}
		n.Run(command, rules)
	}
	restore("iptables-restore", "203.0.113.9")
	restore("ip6tables-restore", "2001:db8:f::9")
	n.Run("nft", "add table inet others; add chain inet others input { type filter hook input priority 5; }; "+
		"add rule inet others input tcp dport 4444 drop")
}

// oursIn is what Fairlead may add to a host's kernel, and what changes there because it turns forwarding on: the kernel
// then takes no redirects, and answers on every link as a router to its anycast addresses (RFC 4291 section 2.6.1).
func oursIn() (added, set *regexp.Regexp) {
	return regexp.MustCompile(`\bfl(vxlan6?|ipip|gre|[0-9a-f]{10})\b|\bproto 88\b|\bFAIRLEAD-[A-Z]+(-[a-z0-9-]+)?\b|\bfairlead-[a-z]+[46]\b|` +
			`-save: (\*(filter|nat)|:(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING) ACCEPT|COMMIT)$`),
		regexp.MustCompile(`^sysctl: net/ipv4/ip_forward|^sysctl: net/ipv[46]/conf/[^/]+/forwarding|` +
			`^sysctl: net/ipv4/conf/all/accept_redirects|` +
			`^sysctl: net/ipv4/(conf/eth0/rp_filter|ip_local_reserved_ports)|` + // for ports that are published
			`^ip -6: anycast \S+ dev \S+ table local proto kernel|^bridge fdb: 33:33:(00:00:00:02|ff:00:00:00) `)
}

// untouched holds the kernel to what it was before us: nothing gone but settings, nothing new but ours.
func untouched(t *testing.T, when string, before, now nettest.State) {
	t.Helper()
	added, set := oursIn()
	for _, line := range nettest.Diff(before, now) {
		if !set.MatchString(line[2:]) && (line[0] == '-' || !added.MatchString(line)) {
			t.Errorf("%s: %s", when, line)
		}
	}
}

func TestForeignStateIsNeverTouched(t *testing.T) {
	l := lab(t, nettest.LabOptions{Pools: []string{pool4, pool6}, RPFilter: 1})
	for i, n := range l.Nodes {
		n.WriteConfig(withBlocks(n.Config(), i+1))
	}
	n := l.Node("n1")
	strangers(n)
	before := n.State()
	l.Start()
	untouched(t, "after the start", before, n.State())

	c := n.Attach("n1a", "--publish", "8080:80")
	c.Batch("link add mine type bridge", "address add 203.0.113.99/24 dev mine", "link set mine up",
		"route add 203.0.113.128/25 via 169.254.1.1", "-6 route add 2001:db8:f::/48 via fe80::1 dev eth0", "rule add fwmark 7 lookup 7")
	c.Run("iptables", "-A", "INPUT", "-s", "203.0.113.66", "-j", "DROP")
	within := c.State()
	untouched(t, "after an attach", before, n.State())

	want := routes(n)
	n.IP("-4 route flush proto 88")
	n.IP("link del flvxlan")
	n.IP("link set " + c.HostIf + " down")
	c.IP("neighbour del 169.254.1.1 dev eth0")
	nettest.Eventually(t, 2*time.Second, func() error {
		return differ(append(want, within...), append(routes(n), c.State()...))
	})
	untouched(t, "after drift", before, n.State())

	n.WriteConfig(n.Config() + "[log]\nlevel = \"debug\"\n")
	n.WriteConfig(withBlocks(n.Config(), 1) + "[reconcile]\ninterval = \"30s\"\n")
	n.Fairlead("reload")
	untouched(t, "after a reload", before, n.State())

	n.Stop()
	if diff := differ(want, routes(n)); diff != nil {
		t.Errorf("after the stop our routes differ: %v", diff)
	}
	untouched(t, "after the stop", before, n.State())

	n.Start()
	n.WaitConverged(30 * time.Second)
	n.IP("link del other9") // what it was set to need not be put back
	before = slices.DeleteFunc(before, func(line string) bool { return strings.Contains(line, "other9") || strings.Contains(line, "rehto9") })
	n.Fairlead("uninstall")
	if code := n.WaitExit(10 * time.Second); code != 0 {
		t.Errorf("the daemon ended with exit code %d after uninstall", code)
	}
	nothingLeft(t, before, n.State())
	for _, line := range nettest.Diff(within, c.State()) {
		// What went with eth0 is no loss to the container; the rest is its own.
		if line[0] == '+' || !strings.Contains(line, "eth0") && !strings.Contains(line, "169.254.1.1") {
			t.Errorf("in the container: %s", line)
		}
	}
}

func TestUninstallWorksWithoutADaemon(t *testing.T) {
	l := lab(t, nettest.LabOptions{Pools: []string{pool4, pool6}})
	n := l.Node("n1")
	before := n.State()
	l.Start()
	c := n.Attach("n1a", "--publish", "8080:80", "--publish", "53/udp")
	n.Kill()
	n.Fairlead("uninstall", "--config", n.ConfigFile())
	nothingLeft(t, before, n.State())
	if out, err := c.Try("ip", "link", "show", "dev", "eth0"); err == nil {
		t.Errorf("the container still has a link: %s", out)
	}
	n.Fairlead("uninstall", "--config", n.ConfigFile()) // nothing to do is success
}

func nothingLeft(t *testing.T, before, now nettest.State) {
	t.Helper()
	if diff := nettest.Diff(before, now); len(diff) > 0 {
		t.Errorf("after the uninstall the kernel is not as it was before:\n%s", strings.Join(diff, "\n"))
	}
}

// withBlocks gives the host the blocks with its number.
func withBlocks(config string, number int) string {
	config = strings.Replace(config, fmt.Sprintf("cidr = %q\n", pool4), fmt.Sprintf("cidr = %q\nblock = \"10.88.%d.0/24\"\n", pool4, number), 1)
	return strings.Replace(config, fmt.Sprintf("cidr = %q\n", pool6), fmt.Sprintf("cidr = %q\nblock = \"2001:db8:88::%d00/120\"\n", pool6, number), 1)
}

// differ is an error that shows in what two lists differ.
func differ(want, got []string) error {
	slices.Sort(want)
	slices.Sort(got)
	if diff := nettest.Diff(want, got); len(diff) > 0 {
		return fmt.Errorf("differs:\n%s", strings.Join(diff, "\n"))
	}
	return nil
}
