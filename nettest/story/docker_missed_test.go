package story_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// lifeMoment is when in a call of Docker's the daemon is killed.
type lifeMoment string

const (
	lifeMidst lifeMoment = "in the midst of"
	lifeAfter lifeMoment = "before the answer to"
)

// lifeCut is the death of one of two daemons in a call of Docker's to Fairlead.
type lifeCut struct {
	moment lifeMoment
	method string
	delay  time.Duration // for which the call has gone on when it is cut in its midst
}

// lifeKiller has a daemon of a host die in a call.
type lifeKiller struct {
	n      *nettest.Node
	chance *rand.Rand
	next   atomic.Pointer[lifeCut]
	cut    chan struct{} // the daemon is to die now
	dead   chan struct{} // it has, and another one was started
}

// handle lets a call through unless it is the one to be cut.
func (k *lifeKiller) handle(c *nettest.Call) (deliver bool) {
	next := k.next.Load()
	if next == nil || next.method != c.Method || !k.next.CompareAndSwap(next, nil) {
		return c.Serve() == nil
	}
	done := make(chan error, 1)
	go func() { done <- c.Serve() }()
	if next.moment == lifeAfter {
		done <- <-done
	} else {
		time.Sleep(next.delay)
	}
	k.cut <- struct{}{}
	<-k.dead
	<-done
	return false
}

// killing runs a command of Docker, in which a daemon dies and comes back. The command may fail, and must come to its end.
func (k *lifeKiller) killing(t *testing.T, die func(), c lifeCut, args ...string) {
	t.Helper()
	begun := time.Now()
	c.delay = time.Duration(k.chance.Int64N(int64(10 * time.Millisecond)))
	k.next.Store(&c)
	result := make(chan nettest.Result, 1)
	go func() { result <- k.n.TryDocker(args...) }()
	select {
	case <-k.cut:
	case r := <-result:
		t.Fatalf("docker %s never came to %s: %+v", strings.Join(args, " "), c.method, r)
	}
	die()
	k.dead <- struct{}{}
	r := <-result
	t.Logf("killed %s %s: docker %s: exit code %d after %v", c.moment, c.method, args[0], r.Code, time.Since(begun).Round(time.Millisecond))
}

// fairlead kills the host's daemon in each of Docker's calls, and where the kernel is written to also in their midst.
func (k *lifeKiller) fairlead(t *testing.T) {
	t.Helper()
	die := func() { k.n.Kill(); k.n.Start() }
	for _, c := range []lifeCut{
		{moment: lifeAfter, method: "IpamDriver.RequestAddress"},
		{moment: lifeAfter, method: "NetworkDriver.CreateEndpoint"},
		{moment: lifeMidst, method: "NetworkDriver.Join"},
		{moment: lifeAfter, method: "NetworkDriver.Join"},
		{moment: lifeMidst, method: "NetworkDriver.ProgramExternalConnectivity"},
		{moment: lifeAfter, method: "NetworkDriver.ProgramExternalConnectivity"},
		{moment: lifeAfter, method: "NetworkDriver.EndpointOperInfo"},
	} {
		k.killing(t, die, c, lifeBox()...)
		k.n.Docker("rm", "--force", "box")
	}
	for _, c := range []lifeCut{
		{moment: lifeAfter, method: "NetworkDriver.RevokeExternalConnectivity"},
		{moment: lifeAfter, method: "NetworkDriver.Leave"},
		{moment: lifeMidst, method: "NetworkDriver.DeleteEndpoint"},
		{moment: lifeAfter, method: "NetworkDriver.DeleteEndpoint"},
		{moment: lifeAfter, method: "IpamDriver.ReleaseAddress"},
	} {
		k.n.Docker(lifeBox()...)
		k.killing(t, die, c, "rm", "--force", "box")
	}
	other := []string{"network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", pool4, "other"}
	k.killing(t, die, lifeCut{moment: lifeAfter, method: "NetworkDriver.CreateNetwork"}, other...)
	k.n.Docker(other...)
	k.killing(t, die, lifeCut{moment: lifeAfter, method: "NetworkDriver.DeleteNetwork"}, "network", "rm", "other")
	r := k.n.TryDocker("network", "rm", "other") // Docker may take the first time for a success
	if left := k.n.Docker("network", "ls", "--quiet", "--filter", "name=other"); left != "" {
		t.Errorf("the network can not be removed: %s", r.Stderr)
	}
}

// docker kills the other side in its own calls.
func (k *lifeKiller) docker(t *testing.T, flags ...string) {
	t.Helper()
	die := func() { k.n.KillDocker(); k.n.LaunchDocker(flags...) }
	for _, method := range []string{"IpamDriver.RequestAddress", "NetworkDriver.CreateEndpoint", "NetworkDriver.Join"} {
		k.killing(t, die, lifeCut{moment: lifeAfter, method: method}, lifeBox()...)
		k.n.WaitDocker(time.Minute)
		k.n.TryDocker("rm", "--force", "box") // Docker may not have come as far as to know of it
	}
}

// lifeBox starts a container that may never run.
func lifeBox() []string {
	return []string{"run", "-d", "--name", "box", "--network", lifeNetwork, "-p", "8081:80", nettest.Image}
}

// What Fairlead did not hear, and what nobody heard of it, is found when it is there. Docker tries each call for 15 s: three
// hosts wait at the same time.
func TestWhatFairleadMissesIsFound(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}})
	atRemoval, atStart, inCalls := l.Node("n1"), l.Node("n2"), l.Node("n3")
	chance := rand.New(rand.NewPCG(seed, 88))
	k := &lifeKiller{n: inCalls, chance: chance, cut: make(chan struct{}), dead: make(chan struct{})}
	for _, n := range l.Nodes {
		n.AddDocker()
		n.LaunchDocker("--bridge=none", "--live-restore")
	}
	inCalls.WriteConfig(inCalls.Config() + "\n" + nettest.CallsConfig)
	inCalls.InterceptCalls(k.handle)
	l.Start()
	before := make(map[string]nettest.State)
	had := make(map[string]map[string]netip.Addr)
	var steady []*nettest.Container
	for _, n := range l.Nodes {
		n.WaitDocker(time.Minute)
		before[n.Name] = n.State()
		lifeCreate(n)
		c := lifeRun(n, "steady", "-p", "8080:80")
		steady = append(steady, c)
		had[n.Name] = map[string]netip.Addr{"steady": c.IP4}
	}
	lifeRun(atRemoval, "removed", "-p", "8081:80")
	lifeRun(atStart, "ended", "-p", "8081:80")
	calms := []func(){lifeFlow(t, steady[0], 250, steady[1], steady[2]), lifeFlow(t, steady[1], 250, steady[0])}

	atRemoval.Kill()
	removal := make(chan nettest.Result, 1)
	begun := time.Now()
	go func() { removal <- atRemoval.TryDocker("rm", "--force", "removed") }()
	atStart.Kill()
	pid := atStart.Docker("inspect", "--format", "{{.State.Pid}}", "ended")
	atStart.KillDocker()
	lifeEndProcess(t, atStart, pid)
	atStart.LaunchDocker("--bridge=none", "--live-restore")
	k.fairlead(t)
	k.docker(t, "--bridge=none", "--live-restore")
	atStart.WaitDocker(2 * time.Minute)
	if r := <-removal; r.Code != 0 {
		t.Errorf("a container can not be removed without Fairlead: %s", r.Stderr)
	}
	t.Logf("all that Docker had to ask for in vain: %v", time.Since(begun))

	atRemoval.Start()
	atStart.Start()
	for _, n := range l.Nodes {
		n.WaitConverged(30 * time.Second)
	}
	took := lifeAwaits(t, time.Minute, func() error {
		for _, n := range l.Nodes {
			if err := lifeAgrees(t, n, "steady 8080 mapped"); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("what was missed is found: %v", took)
	atStart.Docker("start", "ended")
	lifeSettles(t, atStart, had[atStart.Name], "ended 8081 mapped", "steady 8080 mapped")
	for _, calm := range calms {
		calm()
	}
	for _, n := range l.Nodes {
		if err := lifeSame(n, had[n.Name]); err != nil {
			t.Error(err)
		}
		lifeEnd(t, n, before[n.Name])
	}
}
