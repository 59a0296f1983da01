package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const readyTime = 30 * time.Second

// site is a host with an uplink, and its containers.
type site struct {
	host       *nettest.Host
	containers []*nettest.Host
}

func newSite(t nettest.T, name string, containers int) site {
	s := site{host: nettest.NewHost(t, name)}
	s.host.IP("link add eth0 type veth peer name uplink")
	s.host.IP("link set uplink up")
	s.host.IP("link set eth0 up")
	s.host.IP("addr add 192.0.2.1/24 dev eth0")
	s.host.IP("route add default via 192.0.2.254")
	s.host.Sysctl("net/ipv4/ip_forward", "1")
	for i := range containers {
		s.containers = append(s.containers, nettest.NewHost(t, fmt.Sprintf("%s%d", name, i)))
	}
	return s
}

// run runs a program on the host, without a wrapper that would cost time of its own.
func (s site) run(stdin string, env []string, argv ...string) error {
	return s.host.Do(func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
		return nil
	})
}

// api is the way through a daemon's socket.
type api struct {
	site
	*nettest.API
}

func newAPI(t nettest.T, binary, dir string, containers int) api {
	s := newSite(t, "api", containers)
	node := nettest.NewNode(s.host, binary, dir)
	node.WriteConfig(fmt.Sprintf(`[node]
name = "node"
state_dir = %q
run_dir = %q
[[pool]]
name = "default"
cidr = "10.88.0.0/16"
block = "10.88.0.0/22"
[docker]
enable = false
[fastpath]
pin_dir = %q
[api]
metrics = ""
`, node.StateDir(), node.RunDir(), filepath.Join(nettest.MountPins(t, dir), "fairlead")))
	node.Start()
	node.WaitReady(readyTime)
	return api{site: s, API: nettest.NewAPI(t, node.Socket())}
}

func (a api) attach(i int) error {
	return a.Call(http.MethodPost, "endpoints",
		map[string]string{"name": fmt.Sprintf("c%d", i), "netns": a.containers[i].Path}, &struct{}{})
}

func (a api) detach(i int) error {
	return a.Call(http.MethodDelete, fmt.Sprintf("endpoints/c%d", i), nil, &struct{}{})
}

// commands does what the daemon does to the kernel, by one ip command for each step.
type commands struct{ site }

func newCommands(t nettest.T, containers int) commands { return commands{newSite(t, "ip", containers)} }

func (c commands) attach(i int) error {
	const inner, outer = "02:58:0a:58:00:01", "02:46:4c:00:00:01"
	ns, dev := filepath.Base(c.containers[i].Path), fmt.Sprintf("ve%d", i)
	ip := fmt.Sprintf("10.88.%d.%d", i/250, i%250+1)
	steps := []string{
		"ip link add " + dev + " mtu 1500 address " + outer + " group 88 type veth peer name eth0 address " + inner + " netns " + ns,
		"ip link set " + dev + " alias container-" + dev,
		"ip link set " + dev + " addrgenmode none",
		"sysctl -qw net.ipv4.conf." + dev + ".forwarding=1",
		"sysctl -qw net.ipv6.conf." + dev + ".accept_ra=0",
		"ip link set " + dev + " up",
		"ip -n " + ns + " link set lo up",
		"ip -n " + ns + " link set eth0 addrgenmode none",
		"ip -n " + ns + " link set eth0 up",
		"ip -n " + ns + " addr add " + ip + "/32 dev eth0",
		"ip -n " + ns + " neigh add 169.254.1.1 lladdr " + outer + " dev eth0 nud permanent",
		"ip -n " + ns + " route add 169.254.1.1 dev eth0 scope link proto 88",
		"ip -n " + ns + " route add default via 169.254.1.1 dev eth0 onlink proto 88",
		"ip neigh add " + ip + " lladdr " + inner + " dev " + dev + " nud permanent",
		"ip route add " + ip + " dev " + dev + " proto 88 scope link src 192.0.2.1",
	}
	for _, s := range steps {
		if err := c.run("", nil, strings.Fields(s)...); err != nil {
			return err
		}
	}
	return nil
}

func (c commands) detach(i int) error {
	return c.run("", nil, "ip", "link", "del", fmt.Sprintf("ve%d", i))
}

// plugins is CNI as a container runtime calls it.
type plugins struct {
	site
	config string
}

const pluginDir = "/usr/lib/cni" // where Debian's containernetworking-plugins puts them

func newPlugins(t nettest.T, dir string, containers int) plugins {
	config := fmt.Sprintf(`{"cniVersion":"0.4.0","name":"bench","type":"ptp","ipMasq":false,"mtu":1500,"ipam":{`+
		`"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.88.0.0/22"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		filepath.Join(dir, "cni"))
	return plugins{site: newSite(t, "cni", containers), config: config}
}

func (p plugins) attach(i int) error { return p.call("ADD", i) }
func (p plugins) detach(i int) error { return p.call("DEL", i) }

func (p plugins) call(command string, i int) error {
	return p.run(p.config, []string{
		"CNI_COMMAND=" + command, fmt.Sprintf("CNI_CONTAINERID=c%d", i), "CNI_NETNS=" + p.containers[i].Path,
		"CNI_IFNAME=eth0", "CNI_PATH=" + pluginDir,
	}, filepath.Join(pluginDir, "ptp"))
}
