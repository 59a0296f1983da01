package config_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/config"
)

// contract is the table of design.md: scripts and files are written against these names.
func contract() []string {
	keys := []string{
		"schema",
		"node.name", "node.address", "node.mtu", "node.state_dir", "node.run_dir", "node.watch",
		"pool.name", "pool.cidr", "pool.block", "pool.reserve", "pool.nat_outgoing", "pool.reuse_delay",
		"endpoint.name", "endpoint.publish",
		"bgp.asn", "bgp.router_id", "bgp.listen", "bgp.port", "bgp.hold_time", "bgp.graceful_restart", "bgp.restart_time",
		"bgp.max_prefixes",
		"bgp.peer.address", "bgp.peer.role", "bgp.peer.asn", "bgp.peer.password_file", "bgp.peer.ttl_security",
		"bgp.peer.import", "bgp.peer.export", "bgp.peer.hold_time",
		"tunnel.mode", "tunnel.vni", "tunnel.vxlan_port", "tunnel.accept",
		"nat.backend", "nat.port_range", "nat.hairpin",
		"docker.enable", "docker.socket", "docker.api", "docker.timeout",
		"fastpath.mode", "fastpath.pin_dir", "fastpath.max_endpoints", "fastpath.max_routes", "fastpath.max_flows",
		"fastpath.max_connections",
		"reconcile.interval",
		"hooks.on_attach", "hooks.on_detach", "hooks.timeout",
		"api.socket", "api.metrics",
		"log.level", "log.format",
	}
	slices.Sort(keys)
	return keys
}

func TestKeysAreTheContract(t *testing.T) {
	keys := config.Keys()
	slices.Sort(keys)
	if diff := cmp.Diff(contract(), keys); diff != "" {
		t.Errorf("contract -, document +:\n%s", diff)
	}
}

func TestDefaultsAreOfTheirKind(t *testing.T) {
	// Their default is found on the host, follows from another key, or is nothing at all.
	found := []string{
		"node.name", "node.address", "pool.cidr", "pool.block", "endpoint.name", "bgp.router_id", "bgp.listen", "bgp.peer.address",
		"bgp.peer.asn", "bgp.peer.password_file", "bgp.peer.hold_time", "nat.port_range", "docker.enable", "api.socket",
	}
	for _, key := range contract() {
		value, typed, ok := config.Default(key)
		if ok == slices.Contains(found, key) {
			t.Errorf("%s: has a default: %t", key, ok)
		}
		if ok && !typed {
			t.Errorf("%s: default %#v is of another kind", key, value)
		}
	}
}

func TestSuggest(t *testing.T) {
	words := []string{"address", "asn", "export", "hold_time", "import", "password_file", "role", "ttl_security"}
	for word, want := range map[string]string{
		"adress": "address", "addr": "address", "asm": "asn", "ans": "asn", "Hold-Time": "hold_time", "holdtmie": "hold_time",
		"password": "password_file", "ttl": "ttl_security", "roles": "role", "colour": "", "x": "", "": "",
	} {
		if got := config.Suggest(word, words...); got != want {
			t.Errorf("suggest %q: got %q, want %q", word, got, want)
		}
	}
}
