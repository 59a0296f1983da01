package cli

import (
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/tunnel"
)

// hostFacts is what the doctor found out about this host. A part that could not be found out has its zero value.
type hostFacts struct {
	config   configFacts
	daemon   daemonFacts
	kernel   kernelFacts
	mounts   mounts
	sysctls  map[string]string // below /proc/sys, such as net/ipv4/ip_forward
	network  networkFacts
	firewall []firewallFacts
	sockets  []socketFacts
	docker   dockerFacts
	running  map[string]bool // names of processes, as in /proc/PID/comm
	managers managerFacts
	files    map[string]fileFacts
	limits   limitFacts
	clock    clockFacts
}

// configFacts is the config and whether it could be read.
type configFacts struct {
	Settings
	named string // by --config
	err   error
}

func (c configFacts) has4() bool { return hasFamily(c.Pools, netip.Addr.Is4) }
func (c configFacts) has6() bool { return hasFamily(c.Pools, netip.Addr.Is6) }

func hasFamily(ps []netip.Prefix, is func(netip.Addr) bool) bool {
	for _, p := range ps {
		if is(p.Addr()) {
			return true
		}
	}
	return false
}

// daemonFacts is what the running daemon says of itself.
type daemonFacts struct {
	socket   string
	err      error // why it did not answer; errNoDaemon when none is there
	status   agent.Status
	lastPass time.Time
	now      time.Time
	pid      int // 0: not known
}

func (d daemonFacts) up() bool { return d.err == nil }

// kernelFacts is the kernel and what this process may do with it.
type kernelFacts struct {
	release string
	btf     bool              // type information, which eBPF programs need
	root    bool              // CAP_NET_ADMIN and CAP_SYS_ADMIN are effective
	probes  map[string]string // what was tried, such as a kind of link, to why it could not be made, "" when it could
}

// networkFacts are the links of this network namespace.
type networkFacts struct {
	links    []linkFacts
	underlay string          // name of the link that the node's address is on, "" when none has it
	defaults map[string]bool // links that a default route leaves by
	advised  map[string]bool // links whose default route came by router advertisement
	entries4 int             // of the IPv4 neighbour table, those that never expire left out
	entries6 int             // of the IPv6 neighbour table, likewise
}

func (n networkFacts) link(name string) (linkFacts, bool) {
	for _, l := range n.links {
		if l.name == name {
			return l, true
		}
	}
	return linkFacts{}, false
}

// linkFacts is one link.
type linkFacts struct {
	name, kind string
	mtu        int // bytes
	up         bool
	addresses  []netip.Prefix
	vni, port  int            // of a VXLAN device
	offload    tunnel.Offload // of a VXLAN device of ours; "" when it is not known
}

// firewallFacts is one rule set as the tool that owns it prints it.
type firewallFacts struct {
	tool   string // such as iptables-save
	family int    // 4, 6, or 0 for both
	rules  ruleset
	err    error
}

// socketFacts is a socket that something listens on.
type socketFacts struct {
	proto string // "tcp", "udp"
	local netip.AddrPort
	owner string // program and pid, "" when not known
	unit  string // its systemd unit, "" when not known
	pid   int
}

// managerFacts are the configs of other programs that manage links and routes, in the order in which they are read.
type managerFacts struct {
	networkManager []string
	networkd       []string
}

// fileFacts is a file or directory that the daemon needs.
type fileFacts struct {
	exists bool
	dir    bool
	mode   uint32 // permission bits
	uid    uint32
	free   uint64 // bytes left on its file system
	err    error  // why it could not be looked at
}

// limitFacts are limits of the daemon where it runs, else of this process.
type limitFacts struct {
	openFiles uint64 // hard limit, 0: not known
}

// clockFacts is the time of day and whether something keeps it.
type clockFacts struct {
	now    time.Time
	known  bool // the kernel told about synchronised
	synced bool
}
