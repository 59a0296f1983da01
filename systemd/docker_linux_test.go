package systemd_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// dockerScript makes a machine of nothing fit for Docker: it asks nobody for names, writes no rules, and its containers are
// in control groups of their own, below those that all of this computer's are in.
const dockerScript = `set -e
groupadd --system docker
rm -f /etc/resolv.conf
echo 127.0.0.1 localhost >/etc/hosts
echo hosts: files >/etc/nsswitch.conf
for dir in $(findmnt --noheadings --types cgroup --output TARGET); do
  mount --options remount,bind,rw "$dir"
done
mkdir -p /etc/docker /root/image/bin
cat >/etc/docker/daemon.json <<END
{"storage-driver":"vfs","bridge":"none","iptables":false,"ip6tables":false,"cgroup-parent":"/$1"}
END
cp /usr/bin/busybox /root/image/bin
`

// dockerWaits has Docker start before the service, with a network and a container of it that has to come back.
func dockerWaits(t *testing.T, m *machine, peer *nettest.Host) {
	t.Cleanup(func() { m.endDocker(t) })
	m.run("sh", "-c", dockerScript, "sh", m.name)
	m.run("systemctl", "start", "docker")
	m.run("sh", "-c", "tar -C /root/image -c . | docker import - bb")
	m.run("docker", "network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", "10.88.0.0/16", "apps")
	m.run("docker", "run", "-d", "--restart=always", "--stop-signal=KILL", "--name=web", "--network=apps", "bb", "/bin/busybox", "sleep", "600")
	m.reaches(t, peer)

	t.Run("started by hand, it starts the service by its calls", func(t *testing.T) {
		m.run("systemctl", "stop", "docker.socket", "docker", "fairlead")
		open := m.gate(t)
		m.run("systemctl", "start", "--no-block", "docker")
		m.await(t, "fairlead", "SubState", "start-pre")
		m.await(t, "docker", "ActiveState", "activating")
		if said, _ := m.doctor(t); !strings.Contains(said, "waits with each call") {
			t.Errorf("the doctor says %q", said)
		}
		open()
		m.await(t, "docker", "ActiveState", "active")
		m.reaches(t, peer)
	})
	t.Run("started with the service, as at boot, it comes after it", func(t *testing.T) {
		m.run("systemctl", "stop", "docker.socket", "docker", "fairlead")
		open := m.gate(t)
		m.run("systemctl", "start", "--no-block", "docker", "fairlead")
		m.await(t, "fairlead", "SubState", "start-pre")
		m.await(t, "docker", "ActiveState", "inactive")
		open()
		m.await(t, "docker", "ActiveState", "active")
		m.reaches(t, peer)
	})
	t.Run("without the service, it starts all the same, and its container comes when that does", func(t *testing.T) {
		m.run("systemctl", "stop", "docker.socket", "docker", "fairlead.socket", "fairlead")
		m.run("systemctl", "start", "docker")
		m.reaches(t, peer)
		if said, _ := m.doctor(t); !strings.Contains(said, "systemd keeps its calls") {
			t.Errorf("the doctor says %q", said)
		}
	})
}

// reaches waits until the container is there, with an address that another host reaches.
func (m *machine) reaches(t *testing.T, peer *nettest.Host) {
	t.Helper()
	nettest.Eventually(t, time.Minute, func() error {
		out, err := m.try("docker", "inspect", "--format", "{{.State.Running}} {{.NetworkSettings.Networks.apps.IPAddress}}", "web")
		if err != nil {
			return err
		}
		running, text, _ := strings.Cut(out, " ")
		address, err := netip.ParseAddr(text)
		if err != nil || running != "true" {
			return fmt.Errorf("web: %s", out)
		}
		_, err = peer.Try("ping", "-c", "1", "-W", "1", address.String())
		return err
	})
}

// endDocker ends Docker with its containers, since their control groups outlive the machine.
func (m *machine) endDocker(t *testing.T) {
	_, stopped := m.try("systemctl", "stop", "docker.socket", "docker", "containerd")
	if t.Failed() {
		said, _ := m.try("journalctl", "--unit=docker", "--no-pager", "--lines=40", "--output=cat")
		t.Logf("Docker says:\n%s", said)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + m.name)
	if err != nil || stopped != nil {
		t.Errorf("stop Docker: %v", errors.Join(stopped, err))
	}
	for _, group := range append(groups, "/sys/fs/cgroup/"+m.name) {
		nettest.Eventually(t, 10*time.Second, func() error { return removeGroups(group) })
	}
}

// removeGroups removes a control group with those below it, which are empty. Absent is success.
func removeGroups(top string) error {
	var all []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, path := range slices.Backward(all) {
		err = errors.Join(err, unix.Rmdir(path)) // os.Remove would try to unlink it as well
	}
	return err
}
