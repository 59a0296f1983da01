package config

import (
	"cmp"
	"fmt"
	"slices"
)

// Change is one setting that differs between two configs.
type Change struct {
	Key     string // "log.level", "pool.default.cidr", "bgp.peer.192.0.2.2.hold_time"; "pool.blue" when it came or went
	What    string // "changed", "added", "removed"
	Old     string // before a change; of a password nothing
	New     string // after it
	Restart bool   // takes effect only when the daemon is started anew
}

// Changes are all settings that differ between two configs, sorted by key.
type Changes []Change

// Keys are the keys that differ.
func (c Changes) Keys() []string {
	keys := []string{}
	for _, one := range c {
		keys = append(keys, one.Key)
	}
	return keys
}

// Restart are those that take effect only when the daemon is started anew.
func (c Changes) Restart() Changes {
	var later Changes
	for _, one := range c {
		if one.Restart {
			later = append(later, one)
		}
	}
	return later
}

// Changed compares two configs. The file they came from is no setting.
func Changed(before, after Config) Changes {
	changes := compare("", before.settings(), after.settings())
	changes = append(changes, compareAll(poolSettings(before.Pools), poolSettings(after.Pools))...)
	changes = append(changes, compareAll(endpointSettings(before.Endpoints), endpointSettings(after.Endpoints))...)
	changes = append(changes, compareAll(peerSettings(before.BGP.Peers), peerSettings(after.BGP.Peers))...)
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Key, b.Key) })
	return changes
}

// setting is the value of one key: how it is shown, and what is compared but never shown.
type setting struct {
	shown  string
	hidden Secret
}

// compare finds what differs between two sets of the same keys.
func compare(prefix string, before, after map[string]setting) Changes {
	var changes Changes
	for name, is := range after {
		was := before[name]
		if was == is {
			continue
		}
		key := join(prefix, name)
		changes = append(changes, Change{key, "changed", was.shown, is.shown, needsRestart(key)})
	}
	return changes
}

// compareAll compares pools, endpoints or peers, by their full key.
func compareAll(before, after map[string]map[string]setting) Changes {
	var changes Changes
	for key, is := range after {
		if was, known := before[key]; known {
			changes = append(changes, compare(key, was, is)...)
		} else {
			changes = append(changes, Change{Key: key, What: "added"})
		}
	}
	for key := range before {
		if _, kept := after[key]; !kept {
			changes = append(changes, Change{Key: key, What: "removed"})
		}
	}
	return changes
}

// needsRestart says of a key that it is read once, when the daemon starts: what others know the node by, and where its
// files, sockets and listeners are.
func needsRestart(key string) bool {
	switch key {
	case "node.name", "node.address", "node.state_dir", "node.run_dir",
		"bgp.asn", "bgp.router_id", "bgp.listen", "bgp.port", "bgp.graceful_restart", "bgp.restart_time",
		"docker.enable", "docker.socket", "docker.api", "docker.timeout", "fastpath.pin_dir", "fastpath.max_endpoints", "fastpath.max_routes", "fastpath.max_flows", "fastpath.max_connections", "api.socket", "api.metrics",
		"log.format":
		return true
	}
	return false
}

// settings are the keys of the plain tables.
func (c Config) settings() map[string]setting {
	m := map[string]setting{}
	set := func(key string, value any) { m[key] = setting{shown: show(value)} }
	set("schema", c.Schema)
	set("node.name", c.Node.Name)
	set("node.address", c.Node.Address)
	set("node.mtu", c.Node.MTU)
	set("node.state_dir", c.Node.StateDir)
	set("node.run_dir", c.Node.RunDir)
	set("node.watch", c.Node.Watch)
	set("bgp.asn", c.BGP.ASN)
	set("bgp.router_id", c.BGP.RouterID)
	set("bgp.listen", c.BGP.Listen)
	set("bgp.port", c.BGP.Port)
	set("bgp.hold_time", c.BGP.HoldTime)
	set("bgp.graceful_restart", c.BGP.GracefulRestart)
	set("bgp.restart_time", c.BGP.RestartTime)
	set("bgp.max_prefixes", c.BGP.MaxPrefixes)
	set("tunnel.mode", c.Tunnel.Mode)
	set("tunnel.vni", c.Tunnel.VNI)
	set("tunnel.vxlan_port", c.Tunnel.VXLANPort)
	set("tunnel.accept", c.Tunnel.Accept)
	set("nat.backend", c.NAT.Backend)
	set("nat.port_range", c.NAT.PortRange)
	set("nat.hairpin", c.NAT.Hairpin)
	set("docker.enable", c.Docker.Enable)
	set("docker.socket", c.Docker.Socket)
	set("docker.api", c.Docker.API)
	set("docker.timeout", c.Docker.Timeout)
	set("fastpath.mode", c.Fastpath.Mode)
	set("fastpath.pin_dir", c.Fastpath.PinDir)
	set("fastpath.max_endpoints", c.Fastpath.MaxEndpoints)
	set("fastpath.max_routes", c.Fastpath.MaxRoutes)
	set("fastpath.max_flows", c.Fastpath.MaxFlows)
	set("fastpath.max_connections", c.Fastpath.MaxConnections)
	set("reconcile.interval", c.Reconcile.Interval)
	set("hooks.on_attach", c.Hooks.OnAttach)
	set("hooks.on_detach", c.Hooks.OnDetach)
	set("hooks.timeout", c.Hooks.Timeout)
	set("api.socket", c.API.Socket)
	set("api.metrics", c.API.Metrics)
	set("log.level", c.Log.Level)
	set("log.format", c.Log.Format)
	return m
}

func poolSettings(pools []Pool) map[string]map[string]setting {
	all := map[string]map[string]setting{}
	for _, p := range pools {
		all["pool."+p.Name] = map[string]setting{
			"cidr":         {shown: show(p.CIDR)},
			"block":        {shown: show(p.Block)},
			"reserve":      {shown: show(p.Reserve)},
			"nat_outgoing": {shown: show(p.NATOutgoing)},
			"reuse_delay":  {shown: show(p.ReuseDelay)},
		}
	}
	return all
}

func endpointSettings(endpoints []Endpoint) map[string]map[string]setting {
	all := map[string]map[string]setting{}
	for _, e := range endpoints {
		all["endpoint."+e.Name] = map[string]setting{"publish": {shown: show(e.Publish)}}
	}
	return all
}

func peerSettings(peers []Peer) map[string]map[string]setting {
	all := map[string]map[string]setting{}
	for _, p := range peers {
		all["bgp.peer."+p.Address.String()] = map[string]setting{
			"role":          {shown: show(p.Role)},
			"asn":           {shown: show(p.ASN)},
			"password_file": {p.PasswordFile, p.Password},
			"ttl_security":  {shown: show(p.TTLSecurity)},
			"import":        {shown: show(p.Import)},
			"export":        {shown: show(p.Export)},
			"hold_time":     {shown: show(p.HoldTime)},
		}
	}
	return all
}

// show is a value as it would stand in a file; what is not set is empty.
func show(value any) string {
	// An address, a prefix, an address with its port.
	if v, ok := value.(interface{ IsValid() bool }); ok && !v.IsValid() {
		return ""
	}
	return fmt.Sprint(value)
}

// String is the range as it stands in a file, empty for any free port.
func (r PortRange) String() string {
	if r == (PortRange{}) {
		return ""
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}
