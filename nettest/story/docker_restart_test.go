package story_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

func TestContainersRunThroughRestartsOfFairlead(t *testing.T) {
	t.Parallel()
	n, far := lifeLab(t, true, lifeEngine(), "--live-restore")
	before := n.State()
	lifeCreate(n)
	web := lifeRun(n, "web", "-p", "8080:80")
	fixed := lifeRun(n, "fixed", "--ip", lifeFixed(t, n).String())
	had := map[string]netip.Addr{"web": web.IP4, "fixed": lifeFixed(t, n)}
	calm := lifeFlow(t, far, 1000, web, fixed)
	for _, c := range []struct {
		name  string
		end   func()
		flags []string
	}{
		{"restarted", func() { n.Stop() }, nil},
		{"killed", n.Kill, nil},
		{"killed, and its store was damaged", func() { n.Kill(); lifeDamage(t, n) }, []string{"--recover"}},
	} {
		t.Log("Fairlead is", c.name)
		c.end()
		n.Start(c.flags...)
		n.WaitConverged(30 * time.Second)
		lifeSettles(t, n, had, "web 8080 mapped")
		lifeAwaits(t, 15*time.Second, func() error { // Docker tells the network where it was forgotten
			return lifeTry(n, "run", "-d", "--name", "next", "--network", lifeNetwork, nettest.Image)
		})
		lifeAwaits(t, 5*time.Second, func() error { // names are learnt a little later
			for _, e := range show[[]agent.Endpoint](t, n, "endpoints") {
				if e.Network != lifeNetwork || len(e.ID) != 64 {
					return fmt.Errorf("%s: %+v", c.name, e)
				}
			}
			return nil
		})
		n.Docker("rm", "--force", "next")
	}
	lifeWaits(t, n)
	lifeSettles(t, n, had, "web 8080 mapped")
	calm()
	lifeEnd(t, n, before)
}

// lifeWaits holds Docker to wait for Fairlead, whose socket is held, at its own start and with whatever it is asked to do.
func lifeWaits(t *testing.T, n *nettest.Node) {
	t.Helper()
	lifeRun(n, "always", "--restart=always", "-p", "8081:80")
	lifeRun(n, "once")
	pid := n.Docker("inspect", "--format", "{{.State.Pid}}", "always")
	n.Kill()
	n.KillDocker()
	lifeEndProcess(t, n, pid)
	n.LaunchDocker("--bridge=none", "--live-restore")
	time.Sleep(time.Second)
	if n.DockerAnswers() {
		t.Error("Docker has started without Fairlead")
	}
	n.Start()
	n.WaitDocker(15 * time.Second)
	lifeAwaits(t, 10*time.Second, func() error { return lifeAgrees(t, n, "always 8081 mapped", "web 8080 mapped") })
	for _, args := range [][]string{
		{"run", "-d", "--name", "next", "--network", lifeNetwork, nettest.Image}, {"stop", "once"}, {"rm", "--force", "next", "always"},
	} {
		n.Kill()
		result := make(chan nettest.Result, 1)
		go func() { result <- n.TryDocker(args...) }()
		select {
		case r := <-result:
			t.Errorf("docker %q did not wait for Fairlead: %+v", args, r)
		case <-time.After(time.Second):
			n.Start()
			if r := <-result; r.Code != 0 {
				t.Errorf("docker %q: %s", args, r.Stderr)
			}
		}
	}
}

// lifeEndProcess kills a process of the host that Docker has told the number of.
func lifeEndProcess(t *testing.T, n *nettest.Node, pid string) {
	t.Helper()
	if out, err := command("nsenter", "--target", fmt.Sprint(n.MachinePid()), "--pid", "--mount", "kill", "-9", pid); err != nil {
		t.Fatalf("kill process %s of %s: %v: %s", pid, n.Name, err, out)
	}
}

// lifeTry runs a command of Docker, and takes away what is half there of a container called next when it fails.
func lifeTry(n *nettest.Node, args ...string) error {
	r := n.TryDocker(args...)
	if r.Code != 0 {
		n.TryDocker("rm", "--force", "next")
		return errors.New(r.Stderr)
	}
	return nil
}

// lifeDamage makes the host's store one that nobody can read.
func lifeDamage(t *testing.T, n *nettest.Node) {
	t.Helper()
	rewrite(t, n, func(b []byte) []byte {
		clear(b[live(b)/8:])
		return b
	})
}
