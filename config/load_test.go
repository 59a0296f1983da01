package config_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/config"
	"github.com/fairlead-net/fairlead/nat"
)

// write makes files below a new directory and returns the path of fairlead.toml in it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeIn(t, dir, files)
	return filepath.Join(dir, "fairlead.toml")
}

func writeIn(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// load reads one good file.
func load(t *testing.T, text string, env ...string) config.Config {
	t.Helper()
	c, err := config.Load(write(t, map[string]string{"fairlead.toml": text}), env)
	if err != nil {
		t.Fatalf("load:\n%v", err)
	}
	return c
}

// problems are the lines that a bad config gives, without the directory that it happens to be in.
func problems(t *testing.T, path string, env ...string) string {
	t.Helper()
	_, err := config.Load(path, env)
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/", "")
}

func TestEmptyFileIsStandalone(t *testing.T) {
	got := load(t, "")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		File:   got.File,
		Schema: 1,
		Node:   config.Node{Name: host, StateDir: "/var/lib/fairlead", RunDir: "/run/fairlead"},
		Pools: []config.Pool{{
			Name: "default", CIDR: netip.MustParsePrefix("10.88.0.0/16"), NATOutgoing: true, ReuseDelay: 30 * time.Second,
		}},
		BGP: config.BGP{
			ASN: 64512, Port: 179, HoldTime: 9 * time.Second, GracefulRestart: true, RestartTime: 2 * time.Minute, MaxPrefixes: 10000,
		},
		Tunnel:    config.Tunnel{Mode: "auto", VNI: 88, VXLANPort: 4789, Accept: "peers"},
		NAT:       config.NAT{Backend: "auto", Hairpin: true},
		Docker:    config.Docker{Enable: config.Auto, Socket: "/run/docker/plugins/fairlead.sock", API: "/run/docker.sock", Timeout: 5 * time.Second},
		Fastpath:  config.Fastpath{Mode: config.Auto, PinDir: "/sys/fs/bpf/fairlead", MaxEndpoints: 4096, MaxRoutes: 8192, MaxFlows: 65536, MaxConnections: 131072},
		Reconcile: config.Reconcile{Interval: time.Minute},
		Hooks:     config.Hooks{Timeout: 5 * time.Second},
		API:       config.API{Socket: "/run/fairlead/fairlead.sock", Metrics: netip.MustParseAddrPort("127.0.0.1:9478")},
		Log:       config.Log{Format: "text"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(prefixes), cmp.Comparer(addrs), cmp.Comparer(addrPorts)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func prefixes(a, b netip.Prefix) bool    { return a == b }
func addrs(a, b netip.Addr) bool         { return a == b }
func addrPorts(a, b netip.AddrPort) bool { return a == b }

func TestEveryKeyIsRead(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := load(t, strings.ReplaceAll(full, "SECRET", secret))
	want := config.Config{
		File:   got.File,
		Schema: 1,
		Node: config.Node{
			Name: "node-a", Address: netip.MustParseAddr("192.0.2.1"), MTU: 1400, StateDir: "/s", RunDir: "/r", Watch: true,
		},
		Pools: []config.Pool{
			{
				Name: "blue", CIDR: netip.MustParsePrefix("10.88.0.0/17"), Block: netip.MustParsePrefix("10.88.1.0/24"),
				Reserve:    []netip.Prefix{netip.MustParsePrefix("10.88.1.1/32"), netip.MustParsePrefix("10.88.1.16/28")},
				ReuseDelay: time.Minute,
			},
			{Name: "six", CIDR: netip.MustParsePrefix("2001:db8:88::/64"), NATOutgoing: true, ReuseDelay: 30 * time.Second},
		},
		Endpoints: []config.Endpoint{
			{Name: "web", Publish: []nat.Spec{
				{HostPort: 8080, HostLast: 8080, Port: 80, Proto: "tcp"},
				{HostIP: netip.MustParseAddr("192.0.2.1"), Port: 443, Proto: "tcp"},
				{Port: 5000, Proto: "sctp"}, {Port: 5001, Proto: "sctp"},
			}},
			{Name: "dns", Publish: []nat.Spec{}},
		},
		BGP: config.BGP{
			ASN: 4200000000, RouterID: netip.MustParseAddr("192.0.2.9"), Listen: netip.IPv6Unspecified(), Port: 1179,
			HoldTime: 30 * time.Second, RestartTime: 60 * time.Second, MaxPrefixes: 5,
			Peers: []config.Peer{
				{
					Address: netip.MustParseAddr("192.0.2.2"), Role: config.RoleLeaf, ASN: 65201, PasswordFile: secret,
					Password: "open sesame", TTLSecurity: true, Import: []string{"pools"}, Export: []string{"blocks"},
					HoldTime: 3 * time.Second,
				},
				{
					Address: netip.MustParseAddr("2001:db8::2"), Role: config.RoleMesh, ASN: 4200000000,
					Import: []string{"pools"}, Export: []string{"blocks"}, HoldTime: 30 * time.Second,
				},
			},
		},
		Tunnel:    config.Tunnel{Mode: "ipip", VNI: 1, VXLANPort: 8472, Accept: "peers"},
		NAT:       config.NAT{Backend: "iptables", PortRange: config.PortRange{First: 30000, Last: 32767}},
		Docker:    config.Docker{Enable: config.Off, Socket: "/d.sock", API: "/run/other.sock", Timeout: time.Second},
		Fastpath:  config.Fastpath{Mode: config.On, PinDir: "/p", MaxEndpoints: 1, MaxRoutes: 2, MaxFlows: 3, MaxConnections: 4},
		Reconcile: config.Reconcile{Interval: 1500 * time.Millisecond},
		Hooks:     config.Hooks{OnAttach: "/bin/true", OnDetach: "/bin/false", Timeout: 500 * time.Millisecond},
		API:       config.API{Socket: "/a.sock"},
		Log:       config.Log{Level: -4, Format: "json"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(prefixes), cmp.Comparer(addrs), cmp.Comparer(addrPorts)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

const full = `
schema = 1
node = { name = "node-a", address = "192.0.2.1", mtu = 1_400, state_dir = "/s", run_dir = "/r/", watch = true }

[[pool]]
name = "blue"
cidr = "10.88.0.0/17"
block = "10.88.1.0/24"
reserve = [
  "10.88.1.1", # the printer
  "10.88.1.16/28",
]
nat_outgoing = false
reuse_delay = "1m"

[[pool]]
name = 'six'
cidr = "2001:db8:88::/64"

[[endpoint]]
name = "web"
publish = ["8080:80", "192.0.2.1::443/tcp", "5000-5001/sctp"]

[[endpoint]]
name = "dns"

[bgp]
asn = 4200000000
router_id = "192.0.2.9"
listen = "::"
port = 1179
hold_time = "30s"
graceful_restart = false
restart_time = "1m"
max_prefixes = 5

[[bgp.peer]]
address = "192.0.2.2"
role = "leaf"
asn = 65201
password_file = "SECRET"
ttl_security = true
import = ["pools"]
export = ["blocks"]
hold_time = "3s"

[[bgp.peer]]
address = "2001:db8::2"

[tunnel]
mode = "ipip"
vni = 1
vxlan_port = 8472
accept = "peers"

[nat]
backend = "iptables"
port_range = "30000-32767"
hairpin = false

[docker]
enable = false
socket = "/d.sock"
api = "/run/other.sock"
timeout = "1s"

[fastpath]
mode = "on"
pin_dir = "/p"
max_endpoints = 1
max_routes = 2
max_flows = 3
max_connections = 4

[reconcile]
interval = "1.5s"

[hooks]
on_attach = "/bin/true"
on_detach = "/bin//false"
timeout = "500ms"

[api]
socket = "/a.sock"
metrics = ""

[log]
level = "debug"
format = "json"
`
