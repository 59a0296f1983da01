package nettest_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// page starts a container that shows its host's name, published at port 8080.
func page(n *nettest.Node) {
	n.Docker("run", "-d", "--name", "web", "--publish", "8080:80", nettest.Image,
		"sh", "-c", "echo "+n.Name+" > /tmp/index.html; httpd -f -h /tmp")
}

// shows is an error unless a host's published page is its own.
func shows(from, n *nettest.Node) error {
	code, text, err := from.Fetch(fmt.Sprintf("http://%s/", netip.AddrPortFrom(n.Address4, 8080)))
	if err == nil && (code != 200 || strings.TrimSpace(text) != n.Name) {
		err = fmt.Errorf("%s shows %d %q", n.Name, code, text)
	}
	return err
}

func TestEachHostHasADockerOfItsOwn(t *testing.T) {
	l := nettest.NewLab(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}})
	a, b := l.Node("n1"), l.Node("n2")
	for _, n := range l.Nodes {
		n.AddDocker()
		begun := time.Now()
		n.StartDocker("--live-restore")
		t.Logf("Docker of %s: after %v", n.Name, time.Since(begun))
		page(n)
	}
	for from, to := range map[*nettest.Node]*nettest.Node{a: b, b: a} {
		nettest.Eventually(t, 5*time.Second, func() error { return shows(from, to) })
	}
	if c := a.Box("web", "bridge"); c.IP4.String() != "172.17.0.2" {
		t.Errorf("the container's address is %s", c.IP4)
	} else if out := c.IP("-oneline address show dev eth0"); !strings.Contains(out, "172.17.0.2/16") {
		t.Errorf("inside: %s", out)
	}
	pid := a.Docker("inspect", "--format", "{{.State.Pid}}", "web")
	a.KillDocker()
	if err := a.TryDocker("ps"); err.Code == 0 {
		t.Error("Docker answers though it was killed")
	}
	a.StartDocker("--live-restore")
	if now := a.Docker("inspect", "--format", "{{.State.Pid}}", "web"); now != pid {
		t.Errorf("the container's process was %s and is %s", pid, now)
	}
	b.StopDocker()
	b.StartDocker() // which ends what runs, since it is not to live on
	if got := b.Docker("ps", "--quiet"); got != "" {
		t.Errorf("without --live-restore a container runs on: %s", got)
	}
	if out := a.Docker("ps", "--all", "--format", "{{.Names}}"); out != "web" {
		t.Errorf("containers: %q", out)
	}
}

// abandonedVariable makes the test below the victim of itself.
const abandonedVariable = "FAIRLEAD_TEST_ABANDONED"

func TestOfAKilledTestNoContainerIsLeft(t *testing.T) {
	if os.Getenv(abandonedVariable) != "" {
		n := nettest.NewLab(t, nettest.LabOptions{Nodes: []string{"n1"}}).Node("n1")
		n.AddDocker()
		n.StartDocker()
		page(n)
		fmt.Println("standing")
		select {} // until it is killed
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), abandonedVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	text := bufio.NewReader(out)
	line, err := text.ReadString('\n')
	mark := fmt.Sprintf("fairlead-lab-%d-", cmd.Process.Pid)
	groups := inGroups(t, mark)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil || line != "standing\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if groups == nil {
		t.Fatal("no container was in a control group of its lab")
	}
	nettest.Eventually(t, 10*time.Second, func() error {
		if left := inGroups(t, mark); left != nil {
			return fmt.Errorf("processes are left: %q", left)
		}
		return nil
	})
	nettest.Sweep()
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/", os.TempDir() + "/"} {
		if left, err := filepath.Glob(pattern + mark + "*"); left != nil || err != nil {
			t.Errorf("left: %q, %v", left, err)
		}
	}
}

// inGroups are the processes in the control groups of a process' labs.
func inGroups(t *testing.T, mark string) (pids []string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		files, err := filepath.Glob(pattern + mark + "*/*/cgroup.procs")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			pids = append(pids, strings.Fields(string(text))...)
		}
	}
	return pids
}
