package cli

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// where is the path of the config file, for a command that edits it.
func (c configFacts) where() string { return cmp.Or(c.File, defaultConfig) }

// flag is what a command needs to find the same config.
func (c configFacts) flag() string {
	if c.named == "" {
		return ""
	}
	return "--config " + c.named
}

func judgeDaemon(f *hostFacts) []finding {
	d := f.daemon
	switch {
	case errors.Is(d.err, errNoDaemon):
		return []finding{warning("systemctl start fairlead", "not running: nothing answers at %s", d.socket)}
	case d.err != nil:
		return []finding{failure("journalctl -u fairlead -n 50", "%v", d.err)}
	}
	var found []finding
	for _, r := range remarks(d.status) {
		fix := cmp.Or(r.cure, "fairlead status")
		if r.tone == toneBad {
			found = append(found, failure(fix, "%s", r.text))
		} else {
			found = append(found, warning(fix, "%s", r.text))
		}
	}
	if !d.status.Ready && len(found) == 0 {
		found = append(found, failure("journalctl -u fairlead -n 50", "not ready, and it does not say why"))
	}
	if late := judgeLastPass(f); late != nil {
		found = append(found, *late)
	}
	if len(found) == 0 {
		found = append(found, fine("%s answers, version %s, up %s", d.status.Node, d.status.Version, seconds(d.status.UptimeSeconds)))
	}
	return found
}

// judgeLastPass: a pass is due every interval, whatever else happens.
func judgeLastPass(f *hostFacts) *finding {
	if f.daemon.lastPass.IsZero() {
		return nil
	}
	interval := cmp.Or(f.config.Interval, time.Minute)
	if since := f.daemon.now.Sub(f.daemon.lastPass); since > 3*interval {
		late := failure("systemctl restart fairlead", "the last pass was %s ago, and one is due every %s", span(since), span(interval))
		return &late
	}
	return nil
}

func judgeConfig(f *hostFacts) []finding {
	if f.config.err != nil {
		return []finding{failure(strings.TrimSpace("fairlead check "+f.config.flag()), "%v", f.config.err)}
	}
	path := f.config.where()
	file := f.files[path]
	switch {
	case file.err != nil:
		return []finding{warning("sudo fairlead doctor", "%s: %v", path, file.err)}
	case !file.exists:
		return []finding{fine("no file, the defaults are in force; fairlead init writes one")}
	case file.mode&0o022 != 0:
		return []finding{failure("chmod go-w "+path, "%s can be written by others than its owner (%04o)", path, file.mode)}
	}
	return []finding{fine("%s", path)}
}

func judgePrivileges(f *hostFacts) []finding {
	if f.kernel.root {
		return nil
	}
	return []finding{warning("sudo fairlead doctor", "not root: links, firewall and some files could not be looked at")}
}

// Releases of the kernel: 5.2 is the first with IPv4 routes by an IPv6 next hop; older than 5.10 is seen by no test.
const (
	kernelLeast = "5.2"
	kernelKnown = "5.10"
)

func judgeKernel(f *hostFacts) []finding {
	r := f.kernel.release
	switch {
	case r == "":
		return nil
	case older(r, kernelLeast):
		return []finding{failure("apt-get install linux-image-amd64 && reboot", "%s is too old, %s is needed", r, kernelLeast)}
	case older(r, kernelKnown):
		return []finding{warning("apt-get install linux-image-amd64 && reboot", "%s is older than any that was tested (%s)", r, kernelKnown)}
	case !f.kernel.btf:
		return []finding{fine("%s, without type information (BTF): no eBPF fast path", r)}
	}
	return []finding{fine("%s, with BTF", r)}
}

// older compares the first two numbers of releases such as 6.1.0-18-amd64.
func older(a, b string) bool {
	x, y := releaseNumbers(a), releaseNumbers(b)
	return slices.Compare(x, y) < 0
}

func releaseNumbers(s string) []int {
	var ns []int
	for _, part := range strings.SplitN(s, ".", 3) {
		digits := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		if digits >= 0 {
			part = part[:digits]
		}
		n, _ := strconv.Atoi(part)
		if ns = append(ns, n); len(ns) == 2 {
			break
		}
	}
	return ns
}

// judgeProbes says which link kinds can be made, and what those that can not are missing for.
func judgeProbes(f *hostFacts) []finding {
	var found, good = []finding{}, []string{}
	for _, kind := range f.config.kinds() {
		why, tried := f.kernel.probes[kind.name]
		switch {
		case !tried:
		case why == "":
			good = append(good, kind.name)
		default:
			found = append(found, failure("modprobe "+kind.module, "%s links can not be made (%s): %s", kind.name, why, kind.loss))
		}
	}
	if len(good) > 0 {
		text := strings.Join(good, " and ") + " can be made"
		if why, tried := f.kernel.probes["ipip"]; f.config.Mode == "auto" && tried && why != "" {
			text += "; no ipip, so hosts of other subnets are reached by VXLAN"
		}
		found = append(found, fine("%s", text))
	}
	return found
}

// linkKind is a kind of link that the daemon needs, and what is lost without it.
type linkKind struct{ name, module, loss string }

// kinds are those that the mode needs.
func (c configFacts) kinds() []linkKind {
	all := []linkKind{{"veth", "veth", "no container can be attached"}}
	const nobody = "no other host can be reached"
	switch c.Mode {
	case "host-gw":
		return all
	case "ipip":
		return append(all, linkKind{"ipip", "ipip", nobody})
	case "gre":
		return append(all, linkKind{"gre", "ip_gre", nobody})
	case "vxlan":
		return append(all, linkKind{"vxlan", "vxlan", nobody})
	default:
		return append(all, linkKind{"vxlan", "vxlan", "no host of another subnet can be reached but by ipip"})
	}
}

// judgePorts: a port that the daemon holds is its own, so they are looked at only while it does not run.
func judgePorts(f *hostFacts) []finding {
	if f.daemon.up() {
		return nil
	}
	p := f.config.BGP
	var found []finding
	for _, s := range f.sockets {
		taken := s.proto == "tcp" && int(s.local.Port()) == p.BGP && overlaps(s, p) ||
			s.proto == "udp" && int(s.local.Port()) == p.VXLAN
		if !taken || s.pid == 0 && s.proto == "udp" { // a VXLAN device's socket has no process
			continue
		}
		fix, owner := "ss -lnp sport = :"+strconv.Itoa(int(s.local.Port())), cmp.Or(s.owner, "another program")
		if s.unit != "" {
			fix = "systemctl disable --now " + s.unit
		} else if s.pid != 0 {
			fix = "kill " + strconv.Itoa(s.pid)
		}
		found = append(found, failure(fix, "%s port %d is held by %s", s.proto, s.local.Port(), owner))
	}
	for _, l := range f.network.links {
		if l.kind == "vxlan" && !l.ours() && l.vni == p.VNI && l.port == p.VXLAN {
			found = append(found, failure("ip link delete "+l.name,
				"%s is a VXLAN device with our VNI %d and port %d; set another vni under [tunnel] everywhere, or remove it", l.name, l.vni, l.port))
		}
	}
	if len(found) == 0 && p.BGP != 0 {
		found = append(found, fine("%d/tcp and %d/udp are free", p.BGP, p.VXLAN))
	}
	return found
}

// overlaps tells whether a listener keeps the daemon from listening where it wants to.
func overlaps(s socketFacts, p Ports) bool {
	return s.local.Addr().IsUnspecified() || !p.Listen.IsValid() || p.Listen.IsUnspecified() ||
		s.local.Addr().Unmap() == p.Listen
}

// judgeNetworkManager: it would take the addresses and routes from our links.
func judgeNetworkManager(f *hostFacts) []finding {
	if !f.running["NetworkManager"] {
		return nil
	}
	for _, text := range f.managers.networkManager {
		unmanaged := strings.Contains(text, "managed=0") || strings.Contains(text, "unmanaged-devices")
		if unmanaged && strings.Contains(text, "interface-name:fl") {
			return []finding{fine("leaves our links alone")}
		}
	}
	return []finding{warning(`printf '[device-fairlead]\nmatch-device=interface-name:fl??????????,interface-name:flvxlan*,interface-name:flipip,interface-name:flgre\nmanaged=0\n' `+
		`> /etc/NetworkManager/conf.d/fairlead.conf && nmcli general reload`, "runs, and is not told to leave our links alone")}
}

// judgeNetworkd: since systemd 243 it deletes the routes and rules of others when it starts.
func judgeNetworkd(f *hostFacts) []finding {
	if !f.running["systemd-network"] { // comm has 15 characters
		return nil
	}
	var missing []string
	for _, key := range []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"} {
		if on(f.managers.networkd, key) {
			missing = append(missing, key)
		}
	}
	if len(missing) == 0 {
		return []finding{fine("leaves our routes and rules alone")}
	}
	return []finding{warning(`mkdir -p /etc/systemd/networkd.conf.d && printf '[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n' `+
		`> /etc/systemd/networkd.conf.d/fairlead.conf && systemctl restart systemd-networkd`,
		"runs, and deletes our routes and rules whenever it starts: no %s=no", strings.Join(missing, "=no, "))}
}

// on is a boolean of systemd that is true unless the last setting says otherwise.
func on(texts []string, key string) bool {
	value := true
	for _, text := range texts {
		for line := range strings.Lines(text) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			if strings.TrimSpace(k) == key {
				value = !slices.Contains([]string{"no", "false", "off", "0", "n", "f"}, strings.ToLower(strings.TrimSpace(v)))
			}
		}
	}
	return value
}

func judgeFiles(f *hostFacts) []finding {
	var found []finding
	state := f.files[f.config.Paths.State]
	switch {
	case f.config.Paths.State == "" || state.err != nil || !state.exists:
	case !state.dir:
		found = append(found, failure("ls -l "+f.config.Paths.State, "state directory %s is a file", f.config.Paths.State))
	case state.mode&0o077 != 0:
		found = append(found, warning("chmod 0700 "+f.config.Paths.State, "state directory %s is open to others (%04o)", f.config.Paths.State, state.mode))
	}
	if run := f.files[f.config.Paths.Run]; run.exists && !run.dir {
		found = append(found, failure("ls -l "+f.config.Paths.Run, "run directory %s is a file", f.config.Paths.Run))
	} else if run.exists && run.mode&0o002 != 0 {
		found = append(found, failure("chmod o-w "+f.config.Paths.Run, "run directory %s can be written by everybody (%04o)", f.config.Paths.Run, run.mode))
	}
	for _, path := range f.config.Secrets {
		found = append(found, judgeSecret(path, f.files[path])...)
	}
	if len(found) == 0 && state.exists {
		found = append(found, fine("%s and %d password files are closed to others", f.config.Paths.State, len(f.config.Secrets)))
	}
	return found
}

func judgeSecret(path string, s fileFacts) []finding {
	switch {
	case s.err != nil:
		return nil
	case !s.exists:
		return []finding{failure("install -m 0600 /dev/stdin "+path, "password file %s is missing", path)}
	case s.mode&0o077 != 0:
		return []finding{failure("chmod 0600 "+path, "password file %s can be read by others (%04o)", path, s.mode)}
	case s.uid != 0:
		return []finding{warning("chown root "+path, "password file %s belongs to user %d", path, s.uid)}
	}
	return nil
}

const (
	leastDisk = 16 << 20  // bytes: a commit of bbolt may double its file
	goodDisk  = 256 << 20 // bytes
	goodFiles = 4096      // open files: sessions, API calls and namespaces of a full host
)

func judgeDisk(f *hostFacts) []finding {
	state := f.files[f.config.Paths.State]
	switch free := state.free; {
	case !state.exists:
		return nil
	case free < leastDisk:
		return []finding{failure("journalctl --vacuum-size=100M", "%d MiB left below %s: no lease can be written", free>>20, f.config.Paths.State)}
	case free < goodDisk:
		return []finding{warning("journalctl --vacuum-size=100M", "%d MiB left below %s", free>>20, f.config.Paths.State)}
	}
	return []finding{fine("%d MiB left below %s", state.free>>20, f.config.Paths.State)}
}

func judgeOpenFiles(f *hostFacts) []finding {
	switch n := f.limits.openFiles; {
	case n == 0:
		return nil
	case n < goodFiles:
		return []finding{warning("systemctl edit fairlead # [Service] LimitNOFILE=65536", "at most %d, and a full host needs %d", n, goodFiles)}
	default:
		return []finding{fine("up to %d", n)}
	}
}

// leastYear is before the first release: a clock that shows less was never set.
const leastYear = 2025

func judgeClock(f *hostFacts) []finding {
	switch c := f.clock; {
	case c.now.IsZero():
		return nil
	case c.now.Year() < leastYear:
		return []finding{failure("timedatectl set-ntp true", "shows %s: the times of leases and logs are wrong", c.now.Format(time.DateOnly))}
	case c.known && !c.synced:
		return []finding{warning("timedatectl set-ntp true", "nothing keeps it right: the times of leases and logs may drift")}
	}
	return []finding{fine("%s", fmt.Sprintf("synchronised, %s", f.clock.now.UTC().Format(time.RFC3339)))}
}
