package cli

import (
	"cmp"
	"path/filepath"
	"strings"
)

// natProbes are the names under which the probes of address translation are kept, by family.
func natProbes() map[int]string { return map[int]string{4: "nat4", 6: "nat6"} }

// publishes tells whether a port of this host is or will be published.
func (f *hostFacts) publishes() bool { return f.config.NAT.Published > 0 || f.daemon.status.Ports > 0 }

// judgeNAT: without it no port leads anywhere, and containers reach nothing that does not know their addresses.
func judgeNAT(f *hostFacts) []finding {
	var lost []string
	if f.publishes() {
		lost = append(lost, "published ports lead nowhere")
	}
	if f.config.NAT.Outgoing {
		lost = append(lost, "containers reach nothing outside the pools")
	}
	tried := 0
	var found []finding
	for _, family := range []int{4, 6} {
		why, known := f.kernel.probes[natProbes()[family]]
		if len(lost) == 0 || !known || family == 4 && !f.config.has4() || family == 6 && !f.config.has6() {
			continue
		}
		if tried++; why != "" {
			found = append(found, failure(natFix(why), "addresses of IPv%d can not be translated, so %s: %s", family, strings.Join(lost, " and "), why))
		}
	}
	if tried > 0 && len(found) == 0 {
		found = append(found, fine("iptables can translate addresses"))
	}
	return found
}

// natFix knows the back end of iptables by its complaint, which begins with its version.
func natFix(why string) string {
	switch {
	case strings.Contains(why, notInstalled):
		return "apt-get install iptables"
	case strings.Contains(why, "(legacy)"):
		return "modprobe -a iptable_nat ip6table_nat xt_nat xt_MASQUERADE xt_conntrack"
	}
	return "modprobe -a nft_chain_nat nft_compat xt_nat xt_MASQUERADE xt_conntrack"
}

const notInstalled = "is not installed"

// firstCookies is the first release whose programs know a network namespace, by which ports are held.
const firstCookies = "5.14"

// defaultPins is where the file system of pins is on every host.
const defaultPins = "/sys/fs/bpf"

// judgeHolds: published ports are held by eBPF programs at the root of the control groups, which are pinned so that they
// outlive the daemon. Without them the daemon holds the ports by sockets of its own.
func judgeHolds(f *hostFacts) []finding {
	const loss = "published ports are held only while the daemon runs"
	const again = " && systemctl try-restart fairlead"
	dir := cmp.Or(f.config.Paths.Pins, filepath.Join(defaultPins, "fairlead"))
	at, what := dir, dir+" is in no bpf file system"
	if dir == defaultPins || strings.HasPrefix(dir, defaultPins+"/") {
		at, what = defaultPins, "no bpf file system is at "+defaultPins+", and as a service the daemon may not mount one"
	}
	var found []finding
	say := func(fix, format string, args ...any) {
		if !f.publishes() {
			found = append(found, fine(format+": were a port published, it would be held only while the daemon runs", args...))
			return
		}
		found = append(found, warning(fix, format+": "+loss, args...))
	}
	if len(f.mounts) == 0 {
		return nil
	}
	if !f.mounts.hasRoot("cgroup2") {
		say("mkdir -p /run/cgroup2 && mount -t cgroup2 cgroup2 /run/cgroup2"+again, "no control groups of version 2 are mounted")
	}
	if f.mounts.kind(dir) != "bpf" {
		say("mkdir -p "+at+" && mount -t bpf bpf "+at+again, "%s", what)
	}
	if r := f.kernel.release; r != "" && older(r, firstCookies) {
		say("apt-get install linux-image-amd64 && reboot", "%s is older than %s", r, firstCookies)
	}
	if len(found) == 0 {
		found = append(found, fine("published ports stay held while the daemon is down"))
	}
	return found
}

// mounts are the file systems of this process, in the order in which they were mounted.
type mounts []mount

type mount struct {
	root string // what of the file system is seen
	dir  string
	kind string
}

// parseMounts reads /proc/PID/mountinfo, proc_pid_mountinfo(5).
func parseMounts(text string) mounts {
	var all mounts
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		w, kind := strings.Fields(before), strings.Fields(after)
		if len(w) < 5 || len(kind) == 0 {
			continue
		}
		all = append(all, mount{root: w[3], dir: unescaped(w[4]), kind: kind[0]})
	}
	return all
}

// unescaped puts back the characters that would end a field there.
func unescaped(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// kind is of the file system that a path is in: the innermost, and of those at one place the last.
func (ms mounts) kind(path string) string {
	var in mount
	for _, m := range ms {
		within := path == m.dir || strings.HasPrefix(path, strings.TrimSuffix(m.dir, "/")+"/")
		if within && len(m.dir) >= len(in.dir) {
			in = m
		}
	}
	return in.kind
}

// hasRoot tells whether the whole of a file system is mounted somewhere.
func (ms mounts) hasRoot(kind string) bool {
	for _, m := range ms {
		if m.kind == kind && m.root == "/" {
			return true
		}
	}
	return false
}
