package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// toolTimeout bounds each program that is asked for its rules.
const toolTimeout = 5 * time.Second

// gather looks at everything and changes nothing, but that the kernel may load the modules of the links that it tries.
func (a *app) gather(ctx context.Context) (*hostFacts, error) {
	f := &hostFacts{config: configFacts{named: a.config}}
	f.config.Settings, f.config.err = a.Settings(a.config)
	f.daemon = a.askDaemon(ctx)
	f.kernel = lookAtKernel()
	f.mounts = lookAtMounts()
	address := f.config.Node.Address
	if !address.IsValid() && f.daemon.up() {
		address = f.daemon.status.Address
	}
	var err error
	if f.network, err = lookAtNetwork(address); err != nil {
		return nil, err
	}
	f.sysctls = readSysctls(f.network)
	f.firewall = lookAtFirewalls(ctx)
	f.sockets = lookAtSockets(f.config.BGP)
	f.docker = lookAtDocker(f.config.Docker)
	f.running = runningPrograms()
	f.managers = readManagers()
	f.files = lookAtFiles(f.config)
	f.limits.openFiles = openFileLimit(f.daemon.pid)
	f.clock = lookAtClock()
	return f, nil
}

// askDaemon asks for the status and who answers.
func (a *app) askDaemon(ctx context.Context) daemonFacts {
	d := daemonFacts{now: time.Now()}
	c, err := a.client(readTimeout)
	if err != nil {
		d.err = err
		return d
	}
	d.socket = c.socket
	raw, err := c.get(ctx, "/v1/status", &d.status)
	if d.err = err; err != nil {
		return d
	}
	var more struct {
		LastPass time.Time `json:"last_pass"`
	}
	if json.Unmarshal(raw, &more) == nil {
		d.lastPass = more.LastPass
	}
	d.pid = peerOf(c.socket)
	return d
}

// peerOf is the process that listens on a socket, 0 when the kernel does not tell.
func peerOf(socket string) int {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

func lookAtKernel() kernelFacts {
	k := kernelFacts{root: capable("/proc/self/status")}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		k.release = unix.ByteSliceToString(u.Release[:])
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	k.btf = err == nil
	if k.root {
		k.probes = probeLinks()
	}
	return k
}

// probeLinks tries link kinds in a network namespace that nobody else sees and that goes when its thread has left it.
// IPIP and GRE are not tried: their modules put links of their own into every namespace.
func probeLinks() map[string]string {
	result := make(chan map[string]string)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- nil
			return
		}
		defer unix.Close(home)
		probes := probeHere()
		// A thread that can not go home stays locked, so that no other goroutine runs in the wrong namespace.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- probes
	}()
	return <-result
}

func probeHere() map[string]string {
	probes := make(map[string]string)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return probes // forbidden, as in a container: nothing is known
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return probes
	}
	defer h.Close()
	name := netlink.LinkAttrs{Name: "fldoctor"}
	for kind, l := range map[string]netlink.Link{
		"veth":  &netlink.Veth{LinkAttrs: name, PeerName: "fldoctor2"},
		"vxlan": &netlink.Vxlan{LinkAttrs: name, VxlanId: 1, Port: 4789},
	} {
		probes[kind] = ""
		if err := h.LinkAdd(l); err != nil {
			probes[kind] = err.Error()
			continue
		}
		_ = h.LinkDel(l)
	}
	for kind, module := range map[string]string{"ipip": "ipip", "gre": "ip_gre"} {
		probes[kind] = ""
		if !hasModule(module) {
			probes[kind] = "no such module"
		}
	}
	probes[guardProbe] = probeGuard()
	for family, name := range natProbes() {
		probes[name] = probeNAT(family)
	}
	return probes
}

// hasModule tells whether the kernel has a module loaded, built in or on disk.
func hasModule(name string) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	if text, err := os.ReadFile("/proc/modules"); err == nil && strings.Contains("\n"+string(text), "\n"+name+" ") {
		return true
	}
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		if text, err := os.ReadFile(filepath.Join(dir, list)); err == nil && strings.Contains(string(text), "/"+name+".ko") {
			return true
		}
	}
	_, err := os.Stat("/sys/module/" + name)
	return err == nil
}

// lookAtFirewalls asks each tool that is installed. iptables-legacy is asked only where its tables exist: asking makes
// them otherwise.
func lookAtFirewalls(ctx context.Context) []firewallFacts {
	var all []firewallFacts
	for _, t := range []struct {
		tool, legacy, tables string
		family               int
	}{
		{"iptables-save", "iptables-legacy-save", "/proc/thread-self/net/ip_tables_names", 4},
		{"ip6tables-save", "ip6tables-legacy-save", "/proc/thread-self/net/ip6_tables_names", 6},
	} {
		text, err := ask(ctx, t.tool)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		all = append(all, firewallFacts{tool: t.tool, family: t.family, rules: parseIPTables(string(text)), err: err})
		if names, _ := os.ReadFile(t.tables); len(names) == 0 {
			continue
		}
		if old, err := ask(ctx, t.legacy); err == nil && string(old) != string(text) {
			all = append(all, firewallFacts{tool: t.legacy, family: t.family, rules: parseIPTables(string(old))})
		}
	}
	text, err := ask(ctx, nftTool, "-j", "list", "ruleset")
	if errors.Is(err, exec.ErrNotFound) {
		return all
	}
	fw := firewallFacts{tool: nftTool, err: err}
	if err == nil {
		fw.rules, fw.err = parseNft(text, len(all) > 0)
	}
	return append(all, fw)
}

// ask runs a program that prints what it knows. Its output is for machines: iptables-save's format is what
// iptables-restore reads, and nft's is JSON.
func ask(ctx context.Context, tool string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	path, err := exec.LookPath(tool)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, tool)) // not in everybody's PATH
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tool, exec.ErrNotFound)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return nil, errors.New(strings.TrimSpace(string(exit.Stderr)))
	}
	return out, err
}

func lookAtFiles(c configFacts) map[string]fileFacts {
	files := make(map[string]fileFacts)
	for _, path := range append([]string{c.where(), c.Paths.State, c.Paths.Run}, c.Secrets...) {
		if path != "" {
			files[path] = lookAtFile(path)
		}
	}
	return files
}

func lookAtFile(path string) fileFacts {
	var f fileFacts
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f
	case err != nil:
		f.err = err
		return f
	}
	f.exists, f.dir, f.mode = true, info.IsDir(), uint32(info.Mode().Perm())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid = st.Uid
	}
	var s unix.Statfs_t
	if unix.Statfs(path, &s) == nil {
		f.free = s.Bavail * uint64(s.Bsize)
	}
	return f
}

func lookAtClock() clockFacts {
	c := clockFacts{now: time.Now()}
	var t unix.Timex // its zero modes ask and set nothing
	if _, err := unix.Adjtimex(&t); err == nil {
		c.known, c.synced = true, t.Status&unix.STA_UNSYNC == 0
	}
	return c
}
