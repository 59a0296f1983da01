package config

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// config makes typed values of all that was read, and notes what is wrong with them.
func (l *loader) config() Config {
	c := Config{
		Schema:    int(read(l.table(""), "schema", schema)),
		Node:      l.node(),
		Tunnel:    l.tunnel(),
		NAT:       l.nat(),
		Docker:    l.docker(),
		Fastpath:  l.fastpath(),
		Reconcile: Reconcile{Interval: read(l.table("reconcile"), "interval", length)},
		Hooks:     l.hooks(),
		Log:       l.log(),
	}
	c.Pools = l.pools()
	c.Endpoints = l.endpoints()
	c.BGP = l.bgp()
	c.API = l.api(c.Node.RunDir)
	c = c.WithAddress(c.Node.Address)
	l.checkPeers(c)
	l.checkMTU(c)
	return c
}

func (l *loader) table(name string) section {
	return section{loader: l, table: name}
}

func schema(v any) (int64, error) {
	if v == int64(1) {
		return 1, nil
	}
	return 0, fmt.Errorf("%v is not a schema that this release reads; allowed: 1", v)
}

func (l *loader) node() Node {
	s := l.table("node")
	n := Node{
		Name:     read(s, "name", optional(name)),
		Address:  read(s, "address", optional(hostAddress)),
		MTU:      read(s, "mtu", mtu),
		StateDir: read(s, "state_dir", path),
		RunDir:   read(s, "run_dir", path),
		Watch:    read(s, "watch", boolean),
	}
	if v := s.value("name"); v != nil && v != "" {
		return n
	}
	host, err := os.Hostname()
	if err == nil {
		n.Name, err = name(host)
	}
	if err != nil {
		l.add(s.at("name"), "node.name: the name of this host is unfit: %v; set node.name", err)
	}
	return n
}

func (l *loader) pools() []Pool {
	elements := l.elements["pool"]
	if len(elements) == 0 {
		elements = []*element{{table: "pool", at: position{file: "defaults"}}}
	}
	var pools []Pool
	for _, e := range elements {
		pools = append(pools, l.pool(section{l, "pool", e}))
	}
	l.checkPools(pools, elements)
	return pools
}

func (l *loader) pool(s section) Pool {
	p := Pool{
		Name:        read(s, "name", name),
		Block:       read(s, "block", optional(prefix)),
		Reserve:     read(s, "reserve", reserve),
		NATOutgoing: read(s, "nat_outgoing", boolean),
		ReuseDelay:  read(s, "reuse_delay", length),
	}
	switch {
	case !s.has("cidr") && p.Name == "default":
		p.CIDR = netip.MustParsePrefix(defaultPool)
	default:
		s.need("cidr", "10.89.0.0/16")
		p.CIDR = read(s, "cidr", poolPrefix)
	}
	inside(s, p, "block", p.Block)
	for _, r := range p.Reserve {
		inside(s, p, "reserve", r)
	}
	return p
}

func (l *loader) bgp() BGP {
	s := l.table("bgp")
	b := BGP{
		ASN:             read(s, "asn", asn),
		RouterID:        read(s, "router_id", optional(routerID)),
		Listen:          read(s, "listen", optional(listenAddress)),
		Port:            read(s, "port", port),
		HoldTime:        read(s, "hold_time", holdTime),
		GracefulRestart: read(s, "graceful_restart", boolean),
		RestartTime:     read(s, "restart_time", seconds(1, 4095, "RFC 4724 section 3")),
		MaxPrefixes:     int(read(s, "max_prefixes", number(1, math.MaxInt32))),
	}
	for _, e := range l.elements["bgp.peer"] {
		b.Peers = append(b.Peers, l.peer(section{l, "bgp.peer", e}, b))
	}
	return b
}

func holdTime(v any) (time.Duration, error) {
	return seconds(3, math.MaxUint16, "RFC 4271 section 4.2")(v)
}

func (l *loader) peer(s section, b BGP) Peer {
	s.need("address", "192.0.2.2")
	p := Peer{
		Address:      read(s, "address", unicast),
		Role:         Role(read(s, "role", word(string(RoleMesh), string(RoleReflector), string(RoleLeaf)))),
		ASN:          cmp.Or(read(s, "asn", asn), b.ASN),
		PasswordFile: read(s, "password_file", optional(path)),
		TTLSecurity:  read(s, "ttl_security", boolean),
		Import:       read(s, "import", words("pools")),
		Export:       read(s, "export", words("blocks")),
		HoldTime:     cmp.Or(read(s, "hold_time", holdTime), b.HoldTime),
	}
	if p.PasswordFile == "" {
		return p
	}
	secret, err := readSecret(p.PasswordFile)
	if err != nil {
		l.add(s.at("password_file"), "bgp.peer.password_file: read %s: %v", quote(p.PasswordFile), err)
	}
	p.Password = secret
	return p
}

func (l *loader) tunnel() Tunnel {
	s := l.table("tunnel")
	return Tunnel{
		Mode:      read(s, "mode", word("auto", "host-gw", "ipip", "vxlan", "gre")),
		VNI:       int(read(s, "vni", number(1, 1<<24-1))), // RFC 7348 section 5: 24 bits
		VXLANPort: read(s, "vxlan_port", port),
		Accept:    read(s, "accept", word("peers", "any")),
	}
}

func (l *loader) nat() NAT {
	s := l.table("nat")
	return NAT{
		Backend:   read(s, "backend", word("auto", "ebpf", "iptables")),
		PortRange: read(s, "port_range", optional(ports)),
		Hairpin:   read(s, "hairpin", boolean),
	}
}

func (l *loader) docker() Docker {
	s := l.table("docker")
	return Docker{
		Enable:  cmp.Or(read(s, "enable", toggle), Auto),
		Socket:  read(s, "socket", socket),
		API:     read(s, "api", optional(socket)),
		Timeout: read(s, "timeout", length),
	}
}

func (l *loader) fastpath() Fastpath {
	s := l.table("fastpath")
	return Fastpath{
		Mode:           Switch(read(s, "mode", word(string(Auto), string(On), string(Off)))),
		PinDir:         read(s, "pin_dir", path),
		MaxEndpoints:   int(read(s, "max_endpoints", number(1, 1<<20))),
		MaxRoutes:      int(read(s, "max_routes", number(1, 1<<20))),
		MaxFlows:       int(read(s, "max_flows", number(1, 1<<24))),
		MaxConnections: int(read(s, "max_connections", number(1, 1<<24))),
	}
}

func (l *loader) hooks() Hooks {
	s := l.table("hooks")
	return Hooks{
		OnAttach: read(s, "on_attach", optional(program)),
		OnDetach: read(s, "on_detach", optional(program)),
		Timeout:  read(s, "timeout", between(10*time.Millisecond, 5*time.Minute)),
	}
}

func (l *loader) api(runDir string) API {
	s := l.table("api")
	a := API{
		Socket:  read(s, "socket", optional(socket)),
		Metrics: read(s, "metrics", optional(hostPort)),
	}
	if v := s.value("socket"); v != nil && v != "" || runDir == "" {
		return a
	}
	var err error
	if a.Socket, err = socket(filepath.Join(runDir, "fairlead.sock")); err != nil {
		l.add(l.table("node").at("run_dir"), "node.run_dir: %v", err)
	}
	return a
}

func (l *loader) log() Log {
	s := l.table("log")
	return Log{
		Level:  read(s, "level", level),
		Format: read(s, "format", word("text", "json")),
	}
}
