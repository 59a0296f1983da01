package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
)

// healthy is a host on which all is well, with the daemon running.
func healthy() *hostFacts {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return &hostFacts{
		config: configFacts{Settings: Settings{
			File:  "/etc/fairlead/fairlead.toml",
			Paths: Paths{State: "/var/lib/fairlead", Run: "/run/fairlead"},
			BGP:   Ports{BGP: 179, VXLAN: 4789, VNI: 88},
			Pools: []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16")},
			NAT:   NATSettings{Published: 1, Outgoing: true},
			Peers: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, Secrets: []string{"/etc/fairlead/bgp.key"}, Mode: "auto",
		}},
		daemon: daemonFacts{now: now, lastPass: now.Add(-time.Minute), status: agent.Status{Node: "web1", Version: "0.1.0", Ready: true}},
		kernel: kernelFacts{release: "6.1.0-18-amd64", btf: true, root: true, probes: map[string]string{
			"veth": "", "vxlan": "", "ipip": "", "nat4": "", "nat6": "",
		}},
		mounts: mounts{{"/", "/", "ext4"}, {"/", "/sys", "sysfs"}, {"/", "/sys/fs/cgroup", "cgroup2"}, {"/", "/sys/fs/bpf", "bpf"}},
		sysctls: map[string]string{
			"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/all/disable_ipv6": "0",
			"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "1",
			"net/ipv4/neigh/default/gc_thresh3": "1024", "net/ipv6/neigh/default/gc_thresh3": "1024",
			"net/ipv6/conf/eth0/accept_ra": "1",
		},
		network: networkFacts{underlay: "eth0", entries4: 5, defaults: map[string]bool{"eth0": true}, advised: map[string]bool{}, links: []linkFacts{
			{name: "eth0", kind: "device", mtu: 1500, up: true, addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
			{name: "flvxlan", kind: "vxlan", mtu: 1450, up: true, vni: 88, port: 4789},
		}},
		running: map[string]bool{},
		files: map[string]fileFacts{
			"/etc/fairlead/fairlead.toml": {exists: true, mode: 0o644},
			"/etc/fairlead/bgp.key":       {exists: true, mode: 0o600},
			"/var/lib/fairlead":           {exists: true, dir: true, mode: 0o700, free: 1 << 30},
			"/run/fairlead":               {exists: true, dir: true, mode: 0o755, free: 1 << 30},
		},
		limits: limitFacts{openFiles: 65536},
		clock:  clockFacts{now: now, known: true, synced: true},
	}
}

func TestHealthyHost(t *testing.T) {
	for _, f := range diagnose(healthy()) {
		if f.Level != levelOK || f.Fix != "" {
			t.Errorf("%+v", f)
		}
	}
}

// TestNothingKnown: facts that could not be gathered are no findings, and none makes the judges fall over.
func TestNothingKnown(t *testing.T) {
	for _, f := range diagnose(&hostFacts{}) {
		if f.Level == levelFail && f.Check != "daemon" {
			t.Errorf("%+v", f)
		}
	}
}

// TestDoctor spoils a healthy host in one way at a time: exactly the finding that is due must come.
func TestDoctor(t *testing.T) {
	v6 := func(f *hostFacts) { f.config.Pools = append(f.config.Pools, netip.MustParsePrefix("2001:db8:88::/64")) }
	stopped := func(f *hostFacts) { f.daemon.err = errNoDaemon }
	tests := []struct {
		name  string
		spoil func(*hostFacts)
		want  []string // level check: part of the message | part of the fix
	}{
		{"daemon stopped", stopped, []string{"warn daemon: not running | systemctl start fairlead"}},
		{"daemon silent", func(f *hostFacts) { f.daemon.err = errors.New("did not answer") },
			[]string{"fail daemon: did not answer | journalctl -u fairlead"}},
		{"not ready", func(f *hostFacts) {
			f.daemon.status.Ready = false
			f.daemon.status.Problems = []string{"block taken by 192.0.2.9"}
		},
			[]string{"fail daemon: block taken by 192.0.2.9 | fairlead status"}},
		{"not ready, no reason", func(f *hostFacts) { f.daemon.status.Ready = false }, []string{"fail daemon: does not say why | journalctl"}},
		{"config refused", func(f *hostFacts) { f.daemon.status.ConfigError = "a.toml:1:1: no" },
			[]string{"warn daemon: a.toml:1:1: no | fairlead check, then fairlead reload"}},
		{"stuck", func(f *hostFacts) { f.daemon.lastPass = f.daemon.now.Add(-10 * time.Minute) },
			[]string{"fail daemon: the last pass was 10m0s ago, and one is due every 1m0s | systemctl restart fairlead"}},
		{"slow by config", func(f *hostFacts) {
			f.daemon.lastPass = f.daemon.now.Add(-10 * time.Minute)
			f.config.Interval = 5 * time.Minute
		}, nil},
		{"config broken", func(f *hostFacts) { f.config.err = errors.New("a.toml:1:1: no") }, []string{"fail config: a.toml:1:1: no | fairlead check"}},
		{"config open", func(f *hostFacts) { f.files["/etc/fairlead/fairlead.toml"] = fileFacts{exists: true, mode: 0o664} },
			[]string{"fail config: written by others | chmod go-w /etc/fairlead/fairlead.toml"}},
		{"no config", func(f *hostFacts) { delete(f.files, "/etc/fairlead/fairlead.toml") }, nil},
		{"not root", func(f *hostFacts) { f.kernel.root = false }, []string{"warn privileges: not root | sudo fairlead doctor"}},
		{"ancient kernel", func(f *hostFacts) { f.kernel.release = "4.19.0-26-amd64" }, []string{
			"fail kernel: 4.19.0-26-amd64 is too old | linux-image", "warn held ports: 4.19.0-26-amd64 is older than 5.14 | linux-image",
		}},
		{"old kernel", func(f *hostFacts) { f.kernel.release = "5.4.0" }, []string{
			"warn kernel: older than any that was tested | linux-image", "warn held ports: 5.4.0 is older than 5.14 | linux-image",
		}},
		{"no vxlan", func(f *hostFacts) { f.kernel.probes["vxlan"] = "operation not supported" },
			[]string{"fail links: vxlan links can not be made (operation not supported): no host of another subnet | modprobe vxlan"}},
		{"no veth", func(f *hostFacts) { f.kernel.probes["veth"] = "operation not supported" }, []string{"fail links: no container | modprobe veth"}},
		{"no ipip", func(f *hostFacts) { f.kernel.probes["ipip"] = "no such module" }, nil},
		{"no ipip and mode ipip", func(f *hostFacts) { f.config.Mode, f.kernel.probes["ipip"] = "ipip", "no such module" },
			[]string{"fail links: no other host can be reached | modprobe ipip"}},
		{"no gre and mode gre", func(f *hostFacts) { f.config.Mode, f.kernel.probes["gre"] = "gre", "no such module" },
			[]string{"fail links: no other host can be reached | modprobe ip_gre"}},
		{"no vxlan and mode ipip", func(f *hostFacts) { f.config.Mode, f.kernel.probes["vxlan"] = "ipip", "operation not supported" }, nil},
		{"mtu with room for IPIP", func(f *hostFacts) { f.config.Mode, f.config.Node.MTU = "ipip", 1480 }, nil},
		{"address nowhere", func(f *hostFacts) { f.network.underlay = ""; f.config.Node.Address = netip.MustParseAddr("192.0.2.7") },
			[]string{"fail underlay: no link has the node's address 192.0.2.7 | ip -br address"}},
		{"no default route", func(f *hostFacts) { f.network.underlay = "" }, []string{"fail underlay: no default route | ip -br route"}},
		{"underlay down", func(f *hostFacts) { f.network.links[0].up = false }, []string{"fail underlay: eth0 is down | ip link set eth0 up"}},
		{"mtu above the underlay", func(f *hostFacts) { f.config.Node.MTU = 9000 }, []string{"fail mtu: mtu 9000 in the config is more than eth0 carries (1500) | sed"}},
		{"mtu without room", func(f *hostFacts) { f.config.Node.MTU = 1500 }, []string{"warn mtu: no room for the tunnel on eth0 (1500 less 50) | sed"}},
		{"small underlay, IPv4", func(f *hostFacts) { f.network.links[0].mtu = 1300; f.network.links[1].mtu = 1250 }, nil},
		{"small underlay, IPv6", func(f *hostFacts) { v6(f); f.network.links[0].mtu = 1300; f.network.links[1].mtu = 1250 },
			[]string{"fail mtu: leaves 1250 for containers, and IPv6 needs 1280 | ip link set eth0 mtu 1330"}},
		{"underlay shrank", func(f *hostFacts) { f.network.links[0].mtu = 1400 }, []string{"warn mtu: flvxlan has MTU 1450 | ip link set flvxlan mtu 1350"}},
		{"podman's network", func(f *hostFacts) {
			f.network.links = append(f.network.links, linkFacts{name: "cni-podman0", kind: "bridge", mtu: 1500, up: true, addresses: []netip.Prefix{netip.MustParsePrefix("10.88.0.1/16")}})
		}, []string{"fail pools: pool 10.88.0.0/16 overlaps 10.88.0.0/16 of cni-podman0 | fairlead check"}},
		{"forwarding off", func(f *hostFacts) { f.sysctls["net/ipv4/ip_forward"] = "0" }, []string{"fail forwarding: IPv4 packets are not forwarded although | sysctl -w net.ipv4.ip_forward=1"}},
		{"forwarding off before the start", func(f *hostFacts) { stopped(f); f.sysctls["net/ipv4/ip_forward"] = "0" }, []string{"warn daemon: not running | start"}},
		{"IPv6 forwarding off", func(f *hostFacts) { v6(f); f.sysctls["net/ipv6/conf/all/forwarding"] = "0" }, []string{"fail forwarding: IPv6 | net.ipv6.conf.all.forwarding=1"}},
		{"IPv6 off", func(f *hostFacts) { v6(f); f.sysctls["net/ipv6/conf/all/disable_ipv6"] = "1" }, []string{"fail ipv6: turned off | disable_ipv6=0"}},
		{"IPv6 compiled out", func(f *hostFacts) {
			v6(f)
			maps.DeleteFunc(f.sysctls, func(k, _ string) bool { return strings.Contains(k, "ipv6") })
		}, []string{"fail ipv6: without IPv6 | ipv6.disable"}},
		{"router advertisements", func(f *hostFacts) { v6(f); f.network.advised["eth0"] = true }, []string{"warn ipv6: the IPv6 default route of eth0 | net.ipv6.conf.eth0.accept_ra=2"}},
		{"rp_filter, two ways", func(f *hostFacts) { f.network.defaults["eth1"] = true }, []string{"warn rp_filter: strict on eth0, and default routes leave by 2 links | sysctl -w net.ipv4.conf.all.rp_filter=2"}},
		{"rp_filter loose", func(f *hostFacts) { f.network.defaults["eth1"] = true; f.sysctls["net/ipv4/conf/all/rp_filter"] = "2" }, nil},
		{"neighbours full", func(f *hostFacts) { f.network.entries4 = 2000 }, []string{"fail neighbours: IPv4 neighbour table is full: 2001 entries of 1024 | net.ipv4.neigh.default.gc_thresh3=8192"}},
		{"many peers", func(f *hostFacts) { f.config.Peers = make([]netip.Addr, 600) }, []string{"warn neighbours: half full: 605 entries of 1024 | gc_thresh3=4096"}},
		{"BIRD has our port", func(f *hostFacts) {
			stopped(f)
			f.sockets = []socketFacts{{proto: "tcp", local: netip.MustParseAddrPort("0.0.0.0:179"), owner: "bird (pid 812)", unit: "bird.service", pid: 812}}
		}, []string{"warn daemon: not running | start", "fail ports: tcp port 179 is held by bird (pid 812) | systemctl disable --now bird.service"}},
		{"our own port", func(f *hostFacts) {
			f.sockets = []socketFacts{{proto: "tcp", local: netip.MustParseAddrPort("192.0.2.1:179"), owner: "fairlead (pid 1)", pid: 1}}
		}, nil},
		{"another's VXLAN", func(f *hostFacts) {
			stopped(f)
			f.sockets = []socketFacts{{proto: "udp", local: netip.MustParseAddrPort("0.0.0.0:4789")}}
			f.network.links = append(f.network.links, linkFacts{name: "vx0", kind: "vxlan", vni: 88, port: 4789, mtu: 1450})
		}, []string{"warn daemon: not running | start", "fail ports: vx0 is a VXLAN device with our VNI 88 | ip link delete vx0"}},
		{"NetworkManager", func(f *hostFacts) {
			f.running["NetworkManager"] = true
			f.managers.networkManager = []string{"[main]\nplugins=keyfile\n"}
		},
			[]string{"warn networkmanager: not told | /etc/NetworkManager/conf.d/fairlead.conf"}},
		{"NetworkManager told", func(f *hostFacts) {
			f.running["NetworkManager"] = true
			f.managers.networkManager = []string{"[device-fairlead]\nmatch-device=interface-name:fl??????????,interface-name:flvxlan*\nmanaged=0\n"}
		}, nil},
		{"networkd", func(f *hostFacts) {
			f.running["systemd-network"] = true
			f.managers.networkd = []string{"[Network]\nManageForeignRoutes=no\n"}
		},
			[]string{"warn networkd: no ManageForeignRoutingPolicyRules=no | systemctl restart systemd-networkd"}},
		{"networkd told", func(f *hostFacts) {
			f.running["systemd-network"] = true
			f.managers.networkd = []string{"[Network]\nManageForeignRoutes = yes\n", "[Network]\nManageForeignRoutes=no\n ManageForeignRoutingPolicyRules=False\n"}
		}, nil},
		{"state open", func(f *hostFacts) {
			f.files["/var/lib/fairlead"] = fileFacts{exists: true, dir: true, mode: 0o755, free: 1 << 30}
		},
			[]string{"warn files: open to others (0755) | chmod 0700 /var/lib/fairlead"}},
		{"state is a file", func(f *hostFacts) { f.files["/var/lib/fairlead"] = fileFacts{exists: true, mode: 0o600, free: 1 << 30} },
			[]string{"fail files: is a file | ls -l /var/lib/fairlead"}},
		{"run dir open", func(f *hostFacts) { f.files["/run/fairlead"] = fileFacts{exists: true, dir: true, mode: 0o777} },
			[]string{"fail files: written by everybody (0777) | chmod o-w /run/fairlead"}},
		{"before the first start", func(f *hostFacts) {
			stopped(f)
			delete(f.files, "/var/lib/fairlead")
			delete(f.files, "/run/fairlead")
		}, []string{"warn daemon: not running | start"}},
		{"password open", func(f *hostFacts) { f.files["/etc/fairlead/bgp.key"] = fileFacts{exists: true, mode: 0o640} },
			[]string{"fail files: can be read by others (0640) | chmod 0600 /etc/fairlead/bgp.key"}},
		{"password missing", func(f *hostFacts) { delete(f.files, "/etc/fairlead/bgp.key") }, []string{"fail files: missing | install -m 0600"}},
		{"password of another", func(f *hostFacts) { f.files["/etc/fairlead/bgp.key"] = fileFacts{exists: true, mode: 0o600, uid: 33} },
			[]string{"warn files: belongs to user 33 | chown root"}},
		{"disk full", func(f *hostFacts) {
			f.files["/var/lib/fairlead"] = fileFacts{exists: true, dir: true, mode: 0o700, free: 1 << 20}
		},
			[]string{"fail disk: 1 MiB left | journalctl --vacuum"}},
		{"disk nearly full", func(f *hostFacts) {
			f.files["/var/lib/fairlead"] = fileFacts{exists: true, dir: true, mode: 0o700, free: 100 << 20}
		},
			[]string{"warn disk: 100 MiB left | journalctl --vacuum"}},
		{"few files", func(f *hostFacts) { f.limits.openFiles = 1024 }, []string{"warn open files: at most 1024 | LimitNOFILE"}},
		{"clock never set", func(f *hostFacts) { f.clock.now = time.Unix(0, 0).UTC() }, []string{"fail clock: shows 1970-01-01 | timedatectl"}},
		{"clock alone", func(f *hostFacts) { f.clock.synced = false }, []string{"warn clock: nothing keeps it right | timedatectl"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := healthy()
			test.spoil(f)
			var got []finding
			for _, found := range diagnose(f) {
				if found.Level != levelOK {
					got = append(got, found)
				}
			}
			if len(got) != len(test.want) {
				t.Fatalf("got %d findings, want %d: %+v", len(got), len(test.want), got)
			}
			for i, want := range test.want {
				head, rest, _ := strings.Cut(want, ": ")
				message, fix, _ := strings.Cut(rest, " | ")
				if fmt.Sprintf("%s %s", got[i].Level, got[i].Check) != head ||
					!strings.Contains(got[i].Message, message) || !strings.Contains(got[i].Fix, fix) {
					t.Errorf("got %+v\nwant %s", got[i], want)
				}
			}
		})
	}
}

func TestReport(t *testing.T) {
	found := []finding{
		{"kernel", levelOK, "6.1.0", ""},
		{"clock", levelWarn, "nothing keeps it right", "timedatectl set-ntp true"},
		{"firewall", levelFail, "iptables-save drops packets of 10.88.0.0/16 from other hosts to containers: policy of FORWARD", "iptables -I FORWARD -i fl+ -s 10.88.0.0/16 -j ACCEPT"},
	}
	want := `fail  firewall        iptables-save drops packets of
                      10.88.0.0/16 from other hosts to
                      containers: policy of FORWARD
      fix: iptables -I FORWARD -i fl+ -s 10.88.0.0/16 -j ACCEPT
warn  clock           nothing keeps it right
      fix: timedatectl set-ntp true
ok    kernel          6.1.0

1 failure, 1 warning, 1 ok
`
	if diff := cmp.Diff(want, report(found, look{width: 60})); diff != "" {
		t.Error(diff)
	}
}

func TestParseProc(t *testing.T) {
	tcp := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0 0 10 0
   1: 0100007F:00B3 0200007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 31338 1 0 100 0 0 10 0
   2: nonsense 0200007F:1234 0A 00000000:00000000 00:00000000 00000000     0        0 31338 1 0 100 0 0 10 0
`
	tcp6 := "   0: B80D0120000000000000000001000000:00B3 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1\n"
	sockets, inodes := parseSockets("tcp", tcp+tcp6)
	var got []string
	for i, s := range sockets {
		got = append(got, s.local.String()+" "+inodes[i])
	}
	if want := []string{"127.0.0.1:179 31337", "[2001:db8::1]:179 42"}; !slices.Equal(got, want) {
		t.Errorf("sockets: %q, want %q", got, want)
	}
	if !parseCapable("Name:\tx\nCapEff:\t000001ffffffffff\n") || parseCapable("CapEff:\t0000000000001000\n") || parseCapable("") {
		t.Error("capabilities")
	}
	if n := parseOpenFiles("Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n"); n != 524288 {
		t.Errorf("open files: %d", n)
	}
	if u := parseUnit("0::/system.slice/bird.service/sub\n"); u != "bird.service" {
		t.Errorf("unit: %q", u)
	}
	if u := parseUnit("0::/user.slice/user-0.slice/session-1.scope\n"); u != "" {
		t.Errorf("unit: %q", u)
	}
}
