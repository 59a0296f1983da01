package cli

import "strings"

// guardProbe is the name under which the probe of the packet filter is kept.
const guardProbe = "guard"

// judgeGuard: without sets and iptables the tunnels are open to everybody who can send to this host.
func judgeGuard(f *hostFacts) []finding {
	why, tried := f.kernel.probes[guardProbe]
	switch {
	case !tried || f.config.Mode == "host-gw":
		return nil
	case f.config.Accept == "any":
		return []finding{fine("everybody may send into the tunnels: accept is \"any\" in the config")}
	case why == "":
		return []finding{fine("only nodes may send into the tunnels")}
	}
	fix := "modprobe -a ip_set_hash_ip xt_set xt_bpf xt_comment"
	switch {
	case strings.Contains(why, "apt-get install iptables"):
		fix = "apt-get install iptables"
	case strings.Contains(why, "CAP_NET_RAW"):
		fix = "sudo fairlead doctor"
	}
	return []finding{failure(fix, "strangers can not be kept out of the tunnels: %s", why)}
}
