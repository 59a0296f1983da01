package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// withDocker gives each host of a site a Docker daemon of its own.
func withDocker(t nettest.T, k kept, s site) (nodes [2]*nettest.Node, err error) {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil {
		return nodes, fmt.Errorf("docker.io: %w", errAbsent)
	}
	for i, h := range s.hosts {
		nodes[i] = nettest.NewNode(h, k.binary, s.dirs[i])
		nodes[i].AddDocker()
		nodes[i].LaunchDocker()
	}
	for _, n := range nodes {
		n.WaitDocker(time.Minute)
	}
	return nodes, nil
}

// published is Docker's bridge: a container asks for the published port of one on another host.
func published(t nettest.T, k kept) (lane, error) {
	s := newSite(t, k.dir, false)
	nodes, err := withDocker(t, k, s)
	if err != nil {
		return lane{}, err
	}
	nodes[0].Docker("run", "-d", "--name", "c0", nettest.Image)
	nodes[1].Docker("run", "-d", "--name", "c1", "-p", fmt.Sprintf("%d:%d/tcp", port, port), "-p", fmt.Sprintf("%d:%d/udp", port, port), nettest.Image)
	from, to := nodes[0].Box("c0", "bridge"), nodes[1].Box("c1", "bridge")
	settle(from.Host)
	settle(to.Host)
	p := path{from: from.Host, to: to.Host, ask: netip.AddrPortFrom(s.ips[1], port), at: netip.AddrPortFrom(to.IP4, port)}
	return lane{path: p, tracking: s.hosts[:]}, k.reach(p)
}

// overlay is the network of a Docker Swarm of two real daemons.
func overlay(t nettest.T, k kept) (lane, error) {
	s := newSite(t, k.dir, true)
	nodes, err := withDocker(t, k, s)
	if err != nil {
		return lane{}, err
	}
	nodes[0].Docker("swarm", "init", "--advertise-addr", s.ips[0].String())
	token := nodes[0].Docker("swarm", "join-token", "-q", "worker")
	nodes[1].Docker("swarm", "join", "--advertise-addr", s.ips[1].String(), "--token", token, s.ips[0].String()+":2377")
	nodes[0].Docker("network", "create", "-d", "overlay", "--attachable", "ov")
	var boxes [2]*nettest.Container
	for i, n := range nodes {
		name := fmt.Sprint("c", i)
		n.Docker("run", "-d", "--name", name, "--network", "ov", nettest.Image)
		boxes[i] = n.Box(name, "ov")
		settle(boxes[i].Host)
	}
	p := straight(boxes[0].Host, boxes[1].Host, boxes[1].IP4)
	return lane{path: p, tracking: s.hosts[:]}, k.reach(p)
}

// flannel is a pair of hosts with a flanneld each, by one of its backends, and a container behind a bridge on each, as the
// plugins of CNI make them.
func flannel(backend string, routed bool) build {
	return func(t nettest.T, k kept) (lane, error) {
		program := filepath.Join(k.tools, "flannel")
		if _, err := os.Stat(program); err != nil {
			return lane{}, fmt.Errorf("flannel: %w", errAbsent)
		}
		s := newSite(t, k.dir, routed)
		if err := startEtcd(t, s, backend); err != nil {
			return lane{}, err
		}
		var boxes [2]*nettest.Host
		var ips [2]netip.Addr
		for i, h := range s.hosts {
			file := filepath.Join(s.dirs[i], "subnet.env")
			run(t, h, s.dirs[i], "flanneld", program, "-etcd-endpoints=http://"+s.ips[0].String()+":2379", "-iface=eth0",
				"-public-ip="+s.ips[i].String(), "-subnet-file="+file, "-healthz-port=0")
			nettest.Eventually(t, readyTime, func() error { _, err := os.Stat(file); return err })
			env, err := os.ReadFile(file)
			if err != nil {
				return lane{}, err
			}
			if boxes[i], ips[i], err = bridged(t, h, string(env)); err != nil {
				return lane{}, err
			}
		}
		p := straight(boxes[0], boxes[1], ips[1])
		return lane{path: p, tracking: s.hosts[:]}, k.reach(p)
	}
}

// startEtcd starts the store of a site's flannelds on its first host, with their network in it.
func startEtcd(t nettest.T, s site, backend string) error {
	if _, err := exec.LookPath("etcd"); err != nil {
		return fmt.Errorf("etcd-server: %w", errAbsent)
	}
	url := "http://" + s.ips[0].String() + ":2379"
	run(t, s.hosts[0], s.dirs[0], "etcd", "etcd", "--data-dir", filepath.Join(s.dirs[0], "etcd.data"), "--listen-client-urls", url,
		"--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error")
	network := fmt.Sprintf(`{"Network": "10.99.0.0/16", "Backend": {"Type": %q}}`, backend)
	body, err := json.Marshal(map[string][]byte{"key": []byte("/coreos.com/network/config"), "value": []byte(network)})
	if err != nil {
		return err
	}
	nettest.Eventually(t, readyTime, func() error { return s.post(url+"/v3/kv/put", body) })
	return nil
}

// post sends from the first host.
func (s site) post(url string, body []byte) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialOn(s.hosts[0])}}
	answer, err := client.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// bridged makes a container behind a bridge of the host that has the subnet which flanneld was given.
func bridged(t nettest.T, h *nettest.Host, env string) (*nettest.Host, netip.Addr, error) {
	var subnet netip.Prefix
	var mtu string
	var err error
	for line := range strings.Lines(env) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "FLANNEL_SUBNET":
			subnet, err = netip.ParsePrefix(value)
		case "FLANNEL_MTU":
			mtu = value
		}
	}
	if err != nil || !subnet.IsValid() || mtu == "" {
		return nil, netip.Addr{}, fmt.Errorf("flanneld says %q: %w", env, err)
	}
	box := nettest.NewHost(t, "box")
	settle(box)
	ip := subnet.Addr().Next()
	h.Batch("link add cni0 mtu "+mtu+" type bridge", fmt.Sprintf("addr add %v dev cni0", subnet), "link set cni0 up")
	nettest.Wire(t, box, "eth0", h, "veth0")
	h.Batch("link set veth0 mtu "+mtu, "link set veth0 master cni0")
	box.Batch("link set eth0 mtu "+mtu, fmt.Sprintf("addr add %v/%d dev eth0", ip, subnet.Bits()), fmt.Sprintf("route add default via %v", subnet.Addr()))
	h.Sysctl("net/ipv4/ip_forward", "1")
	return box, ip, nil
}

// run starts a daemon on a host that ends with the attempt; what it said is shown when that fails.
func run(t nettest.T, h *nettest.Host, dir, name string, argv ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatalf("make log: %v", err)
	}
	defer log.Close()
	cmd := h.Command(context.Background(), argv...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := h.Do(cmd.Start); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("log of %s of %s:\n%s", name, h.Name, text[max(0, len(text)-4096):])
		}
	})
}
