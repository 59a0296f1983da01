package systemd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// A machine is a container whose process 1 is the real systemd: it has its own mounts, processes and host name, the
// network of a test host, this machine's /usr, nothing in /etc but what the test put there, and what `make install` made.
type machine struct {
	t    *testing.T
	name string
	pid  string // of its systemd, as seen from here
	etc  string // its /etc/fairlead and /etc/systemd/network are below
}

// install runs `make install` into a new directory and returns it.
func install(t *testing.T, variables ...string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("make", append([]string{"-C", "..", "install", "DESTDIR=" + dir}, variables...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	return dir
}

// boot starts a machine on a host whose eth0 systemd-networkd gives an address and a default route.
func boot(t *testing.T, host *nettest.Host, address, gateway string) *machine {
	t.Helper()
	root := install(t)
	m := &machine{t: t, name: fmt.Sprintf("flt-%d", os.Getpid()), etc: filepath.Join(root, "etc")}
	m.write("systemd/network/eth0.network", fmt.Sprintf(
		"[Match]\nName=eth0\n[Network]\nAddress=%s\nGateway=%s\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", address, gateway))
	var console bytes.Buffer
	nspawn := exec.Command("systemd-nspawn", "--quiet", "--boot", "--console=pipe", "--register=no", "--keep-unit",
		"--directory=/", "--volatile=yes", "--machine="+m.name,
		"--network-namespace-path="+host.Path, "--capability=CAP_NET_ADMIN", "--system-call-filter=bpf @keyring", // Docker's containers have keyrings
		"--bind-ro="+root+"/usr/local:/usr/local",
		"--bind-ro=/etc/alternatives", // where the names of iptables lead
		"--bind="+m.etc+"/fairlead:/etc/fairlead", "--bind="+m.etc+"/systemd/network:/etc/systemd/network",
		"systemd.unit=basic.target")
	nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network") // /proc/sys/net, as on a host
	nspawn.Stdout, nspawn.Stderr = &console, &console
	if err := nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.pid != "" { // everything in the machine ends with its process 1
			_ = exec.Command("kill", "-KILL", m.pid).Run()
		} else {
			_ = nspawn.Process.Kill()
		}
		_ = nspawn.Wait()
		_ = os.Remove("/run/systemd/nspawn/propagate/" + m.name)
		if t.Failed() {
			t.Logf("console:\n%s", console.String())
		}
	})
	nettest.Eventually(t, time.Minute, func() error {
		out, err := exec.Command("pgrep", "-x", "-P", fmt.Sprint(nspawn.Process.Pid), "systemd").Output()
		if err != nil {
			return fmt.Errorf("no systemd in the machine: %w", err)
		}
		m.pid = strings.TrimSpace(string(out))
		_, err = m.try("systemctl", "is-active", "basic.target")
		return err
	})
	return m
}

// write puts a file below the machine's /etc.
func (m *machine) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.etc, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// command is a program run as root inside the machine, outside every unit of it.
func (m *machine) command(ctx context.Context, argv ...string) *exec.Cmd {
	enter := []string{"--target=" + m.pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--"}
	return exec.CommandContext(ctx, "nsenter", append(enter, argv...)...)
}

func (m *machine) try(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	out, err := m.command(ctx, argv...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (m *machine) run(argv ...string) string {
	m.t.Helper()
	out, err := m.try(argv...)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.journal())
	}
	return out
}

func (m *machine) journal() string {
	out, err := m.try("journalctl", "--unit=fairlead", "--no-pager", "--lines=40", "--output=cat")
	if err != nil {
		return err.Error()
	}
	return out
}

// property is what systemd knows of the service.
func (m *machine) property(name string) string {
	m.t.Helper()
	return m.run("systemctl", "show", "fairlead", "--value", "--property="+name)
}

// override lays lines over the service until the subtest ends.
func (m *machine) override(t *testing.T, lines ...string) {
	t.Helper()
	const file = "/run/systemd/system/fairlead.service.d/test.conf"
	text := "[Service]\n" + strings.Join(lines, "\n") + "\n"
	m.run("sh", "-c", `mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1" && systemctl daemon-reload`, "sh", file, text)
	t.Cleanup(func() { m.run("sh", "-c", "rm "+file+" && systemctl daemon-reload") })
}

// adopt gives a namespace that was made outside a name below the machine's /run/netns, as `ip netns add` would inside.
func (m *machine) adopt(ns *nettest.Host) {
	m.t.Helper()
	out, err := exec.Command("nsenter", "--target="+m.pid, "--mount", "--pid", "--net="+ns.Path, "--", "sh", "-c",
		`mkdir -p /run/netns && touch /run/netns/$1 && mount --bind /proc/self/ns/net /run/netns/$1`, "sh", ns.Name).CombinedOutput()
	if err != nil {
		m.t.Fatalf("name namespace %s: %v: %s", ns.Name, err, out)
	}
}

// stranger starts a process of another user in a network namespace of its own and returns its number in the machine.
func (m *machine) stranger(t *testing.T) string {
	t.Helper()
	process := m.command(t.Context(), "unshare", "--net", "--",
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sh", "-c", "echo $$ && exec sleep 600")
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Wait() })
	line := make([]byte, 32)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(line[:n]))
	t.Cleanup(func() { m.run("kill", "-KILL", pid) })
	return pid
}
