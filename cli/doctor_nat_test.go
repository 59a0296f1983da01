package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
)

// told puts findings into one line each: level: message | fix.
func told(found []finding) string {
	var lines []string
	for _, f := range found {
		lines = append(lines, strings.TrimSuffix(string(f.Level)+": "+f.Message+" | "+f.Fix, " | "))
	}
	return strings.Join(lines, "\n")
}

func TestDoctorTellsWhetherAddressesAreTranslated(t *testing.T) {
	const old = `iptables v1.8.9 (legacy): can't initialize iptables table nat: Table does not exist`
	const both = "published ports lead nowhere and containers reach nothing outside the pools: "
	const nft = "modprobe -a nft_chain_nat nft_compat xt_nat xt_MASQUERADE xt_conntrack"
	v6 := func(f *hostFacts) { f.config.Pools = append(f.config.Pools, netip.MustParsePrefix("2001:db8:88::/64")) }
	for name, c := range map[string]struct {
		spoil func(*hostFacts)
		want  string
	}{
		"well":           {func(*hostFacts) {}, "ok: iptables can translate addresses"},
		"not tried":      {func(f *hostFacts) { f.kernel.probes = nil }, ""},
		"of no use":      {func(f *hostFacts) { f.config.NAT = NATSettings{}; f.kernel.probes["nat4"] = old }, ""},
		"no pool of it":  {func(f *hostFacts) { f.kernel.probes["nat6"] = old }, "ok: iptables can translate addresses"},
		"not there":      {func(f *hostFacts) { f.kernel.probes["nat4"] = "iptables is not installed" }, "fail: addresses of IPv4 can not be translated, so " + both + "iptables is not installed | apt-get install iptables"},
		"no old modules": {func(f *hostFacts) { f.kernel.probes["nat4"] = old }, "fail: addresses of IPv4 can not be translated, so " + both + old + " | modprobe -a iptable_nat ip6table_nat xt_nat xt_MASQUERADE xt_conntrack"},
		"no new modules": {func(f *hostFacts) { v6(f); f.kernel.probes["nat6"] = "ip6tables v1.8.9 (nf_tables): no" }, "fail: addresses of IPv6 can not be translated, so " + both + "ip6tables v1.8.9 (nf_tables): no | " + nft},
		"ports only": {func(f *hostFacts) {
			f.config.NAT = NATSettings{}
			f.daemon.status = agent.Status{Ports: 1}
			f.kernel.probes["nat4"] = "no"
		}, "fail: addresses of IPv4 can not be translated, so published ports lead nowhere: no | " + nft},
		"way out only": {func(f *hostFacts) { f.config.NAT.Published = 0; f.kernel.probes["nat4"] = "no" },
			"fail: addresses of IPv4 can not be translated, so containers reach nothing outside the pools: no | " + nft},
	} {
		f := healthy()
		c.spoil(f)
		if got := told(judgeNAT(f)); got != c.want {
			t.Errorf("%s: got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestDoctorTellsWhetherPortsStayHeld(t *testing.T) {
	const group = "mkdir -p /run/cgroup2 && mount -t cgroup2 cgroup2 /run/cgroup2 && systemctl try-restart fairlead"
	const loss = ": published ports are held only while the daemon runs | "
	for name, c := range map[string]struct {
		spoil func(*hostFacts)
		want  string
	}{
		"well":      {func(*hostFacts) {}, "ok: published ports stay held while the daemon is down"},
		"not known": {func(f *hostFacts) { f.mounts = nil }, ""},
		"old control groups": {func(f *hostFacts) { f.mounts[2].kind = "cgroup" },
			"warn: no control groups of version 2 are mounted" + loss + group},
		"a part of the control groups": {func(f *hostFacts) { f.mounts[2].root = "/system.slice" },
			"warn: no control groups of version 2 are mounted" + loss + group},
		"none of the daemon's use": {func(f *hostFacts) { f.mounts[2].kind, f.config.NAT.Published = "cgroup", 0 },
			"ok: no control groups of version 2 are mounted: were a port published, it would be held only while the daemon runs"},
		"no pins": {func(f *hostFacts) { f.mounts = f.mounts[:3] },
			"warn: no bpf file system is at /sys/fs/bpf, and as a service the daemon may not mount one" + loss + "mkdir -p /sys/fs/bpf && mount -t bpf bpf /sys/fs/bpf && systemctl try-restart fairlead"},
		"hidden pins": {func(f *hostFacts) { f.mounts = append(f.mounts, mount{"/", "/sys/fs/bpf", "tmpfs"}) },
			"warn: no bpf file system is at /sys/fs/bpf, and as a service the daemon may not mount one" + loss + "mkdir -p /sys/fs/bpf && mount -t bpf bpf /sys/fs/bpf && systemctl try-restart fairlead"},
		"pins elsewhere": {func(f *hostFacts) { f.config.Paths.Pins = "/srv/pins" },
			"warn: /srv/pins is in no bpf file system" + loss + "mkdir -p /srv/pins && mount -t bpf bpf /srv/pins && systemctl try-restart fairlead"},
		"pins elsewhere, mounted": {func(f *hostFacts) {
			f.config.Paths.Pins = "/srv/pins/a"
			f.mounts = append(f.mounts, mount{"/", "/srv/pins", "bpf"}, mount{"/", "/srv/pins/ab", "ext4"})
		}, "ok: published ports stay held while the daemon is down"},
		"old kernel": {func(f *hostFacts) { f.kernel.release = "5.10.0-30-amd64" },
			"warn: 5.10.0-30-amd64 is older than 5.14" + loss + "apt-get install linux-image-amd64 && reboot"},
	} {
		f := healthy()
		c.spoil(f)
		if got := told(judgeHolds(f)); got != c.want {
			t.Errorf("%s: got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestParseMounts(t *testing.T) {
	ms := parseMounts(`22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
29 22 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
30 22 0:27 /../.. /mnt/a\040b rw master:1 propagate_from:2 - cgroup2 none rw

31 short
`)
	want := mounts{{"/", "/sys", "sysfs"}, {"/", "/sys/fs/cgroup/unified", "cgroup2"}, {"/../..", "/mnt/a b", "cgroup2"}}
	if len(ms) != len(want) {
		t.Fatalf("got %q", ms)
	}
	for i := range want {
		if ms[i] != want[i] {
			t.Errorf("got %q, want %q", ms[i], want[i])
		}
	}
	if k := ms.kind("/sys/fs/bpf"); k != "sysfs" {
		t.Errorf("a directory in /sys is on %q", k)
	}
}

// TestStrictPolicy: what Docker does to FORWARD is no fault where our own chain accepts what is ours, and is one where a
// rule before it does not.
func TestStrictPolicy(t *testing.T) {
	const head = "*filter\n:FORWARD DROP [0:0]\n:FAIRLEAD-FORWARD - [0:0]\n"
	const ours = "-A FORWARD -j FAIRLEAD-FORWARD\n-A FAIRLEAD-FORWARD -i fl+ -o fl+ -j ACCEPT\n" +
		"-A FAIRLEAD-FORWARD -i eth0 -o fl+ -j ACCEPT\n-A FAIRLEAD-FORWARD -i fl+ -o eth0 -j ACCEPT\n"
	const reject = "-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n"
	const policy = "ok: FORWARD of iptables-save drops what no rule accepts, as Docker has it: "
	const none = "ok: 1 rule set, none drops what containers send or get"
	const fix = " | iptables -I FORWARD -i fl+ -s 10.88.0.0/16 -j ACCEPT; iptables -I FORWARD -o fl+ -d 10.88.0.0/16 -j ACCEPT"
	const drops = "fail: iptables-save drops packets of 10.88.0.0/16 from other hosts to containers: "
	for name, c := range map[string]struct {
		rules string
		tool  string
		up    bool
		want  string
	}{
		"ours at work":         {head + ours, "iptables-save", true, none + "\n" + policy + "our chain FAIRLEAD-FORWARD accepts what containers send and get"},
		"before the start":     {head, "iptables-save", false, none + "\n" + policy + "the daemon's chain FAIRLEAD-FORWARD will accept what containers send and get"},
		"ours is missing":      {head, "iptables-save", true, drops + "policy of FORWARD" + fix},
		"a rule before ours":   {head + reject + ours, "iptables-save", true, drops + strings.TrimSpace(reject) + ", which comes before our chain FAIRLEAD-FORWARD" + fix},
		"a rule behind ours":   {head + ours + reject, "iptables-save", true, none + "\n" + policy + "our chain FAIRLEAD-FORWARD accepts what containers send and get"},
		"a rule before start":  {head + reject, "iptables-save", false, drops + strings.TrimSpace(reject) + fix},
		"another back end":     {head, "iptables-legacy-save", false, strings.ReplaceAll(drops+"policy of FORWARD"+fix, "iptables", "iptables-legacy")},
		"no policy":            {strings.Replace(head, "DROP", "ACCEPT", 1), "iptables-save", true, none},
		"a rule for one way":   {head + "-A FORWARD -o eth0 -j DROP\n", "iptables-save", false, "fail: iptables-save drops packets of 10.88.0.0/16 from containers to other hosts: -A FORWARD -o eth0 -j DROP" + fix},
		"ours in another form": {head + "-A FORWARD -i lo -g FAIRLEAD-FORWARD\n", "iptables-save", true, drops + "policy of FORWARD" + fix},
	} {
		f := healthy()
		if !c.up {
			f.daemon.err = errNoDaemon
		}
		f.firewall = []firewallFacts{{tool: c.tool, family: 4, rules: parseIPTables(c.rules)}}
		if got := told(judgeFirewall(f)); got != c.want {
			t.Errorf("%s: got %s\nwant %s", name, got, c.want)
		}
	}
}
