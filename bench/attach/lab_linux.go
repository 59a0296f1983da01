package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// lab is what nettest needs to know of its surroundings, outside a test.
type lab struct{ undo []func() }

func (l *lab) Helper()             {}
func (l *lab) Name() string        { return "bench-attach" }
func (l *lab) Logf(string, ...any) {}
func (l *lab) Failed() bool        { return false }
func (l *lab) Cleanup(f func())    { l.undo = append(l.undo, f) }

// Fatalf gives up; measure turns it into an error.
func (l *lab) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (l *lab) end() {
	for _, f := range slices.Backward(l.undo) {
		f()
	}
}

// site is a host with an uplink, and its containers.
type site struct {
	host       *nettest.Host
	containers []*nettest.Host
}

func newSite(l *lab, name string, containers int) site {
	s := site{host: nettest.NewHost(l, name)}
	s.host.IP("link add eth0 type veth peer name uplink")
	s.host.IP("link set uplink up")
	s.host.IP("link set eth0 up")
	s.host.IP("addr add 192.0.2.1/24 dev eth0")
	s.host.IP("route add default via 192.0.2.254")
	s.host.Sysctl("net/ipv4/ip_forward", "1")
	for i := range containers {
		s.containers = append(s.containers, nettest.NewHost(l, fmt.Sprintf("%s%d", name, i)))
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
	client http.Client
}

const (
	readyTime   = 30 * time.Second
	requestTime = 30 * time.Second
)

func newAPI(l *lab, bin, dir string, containers int) (*api, error) {
	a := &api{site: newSite(l, "api", containers)}
	socket, file := filepath.Join(dir, "run", "fairlead.sock"), filepath.Join(dir, "fairlead.toml")
	text := fmt.Sprintf(`[node]
name = "node"
state_dir = %q
run_dir = %q
[[pool]]
name = "default"
cidr = "10.88.0.0/16"
block = "10.88.0.0/22"
[docker]
enable = false
[api]
metrics = ""
`, filepath.Join(dir, "state"), filepath.Join(dir, "run"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	a.client = http.Client{Timeout: requestTime, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	var log bytes.Buffer
	cmd := a.host.Command(context.Background(), bin, "run", "--config", file)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	for deadline := time.Now().Add(readyTime); ; time.Sleep(20 * time.Millisecond) {
		var status struct{ Ready bool }
		if err := a.call(http.MethodGet, "/v1/status", nil, &status); err == nil && status.Ready {
			return a, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.New("the daemon does not get ready: " + log.String())
		}
	}
}

func (a *api) call(method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://fairlead"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return json.Unmarshal(answer, into)
}

func (a *api) attach(i int) error {
	return a.call(http.MethodPost, "/v1/endpoints",
		map[string]string{"name": fmt.Sprintf("c%d", i), "netns": a.containers[i].Path}, &struct{}{})
}

func (a *api) detach(i int) error {
	return a.call(http.MethodDelete, fmt.Sprintf("/v1/endpoints/c%d", i), nil, &struct{}{})
}

// commands does what the daemon does to the kernel, by one ip command for each step.
type commands struct{ site }

func newCommands(l *lab, containers int) commands { return commands{newSite(l, "ip", containers)} }

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

func newPlugins(l *lab, dir string, containers int) plugins {
	config := fmt.Sprintf(`{"cniVersion":"0.4.0","name":"bench","type":"ptp","ipMasq":false,"mtu":1500,"ipam":{`+
		`"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.88.0.0/22"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`,
		filepath.Join(dir, "cni"))
	return plugins{site: newSite(l, "cni", containers), config: config}
}

func (p plugins) attach(i int) error { return p.call("ADD", i) }
func (p plugins) detach(i int) error { return p.call("DEL", i) }

func (p plugins) call(command string, i int) error {
	return p.run(p.config, []string{
		"CNI_COMMAND=" + command, fmt.Sprintf("CNI_CONTAINERID=c%d", i), "CNI_NETNS=" + p.containers[i].Path,
		"CNI_IFNAME=eth0", "CNI_PATH=" + pluginDir,
	}, filepath.Join(pluginDir, "ptp"))
}
