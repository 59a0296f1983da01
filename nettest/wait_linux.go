package nettest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// slownessVariable says how many times slower than a usual machine this one is, as one is that is emulated.
const slownessVariable = "SLOWNESS"

// Slowness is how many times slower than a usual machine this one is said to be; 1 when nothing is said.
func Slowness() int {
	if times, err := strconv.Atoi(os.Getenv(slownessVariable)); err == nil && times > 1 {
		return times
	}
	return 1
}

// Patience is how long to wait here for what takes so long at the most on a usual machine.
func Patience(usual time.Duration) time.Duration { return usual * time.Duration(Slowness()) }

// Eventually polls until the condition holds and returns how long it took. It ends the test with what the condition said
// last when it still does not hold after the given time.
func Eventually(t T, patience time.Duration, holds func() error) time.Duration {
	t.Helper()
	patience = Patience(patience)
	begun := time.Now()
	for {
		err := holds()
		took := time.Since(begun)
		if err == nil {
			return took
		}
		if took > patience {
			t.Fatalf("not within %v: %v", patience, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// outlook is the part of a node's status that tells whether it knows of all others.
type outlook struct {
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems"`
	Peers    struct {
		Configured  int `json:"configured"`
		Established int `json:"established"`
	} `json:"peers"`
	Routes map[string]int `json:"routes"` // by the way there, and "skipped"
}

// installed is the number of routes in use, whatever the way.
func (o outlook) installed() int {
	sum := 0
	for way, count := range o.Routes {
		if way != "skipped" {
			sum += count
		}
	}
	return sum
}

// WaitReady waits until the daemon says that it is ready.
func (n *Node) WaitReady(patience time.Duration) time.Duration {
	n.lab.t.Helper()
	return Eventually(n.lab.t, patience, func() error { return n.ready(nil) })
}

// WaitConverged waits until the daemon is ready, all its sessions are up, and it has a way to every other node's block,
// but for those to which the lab's mode allows none.
func (n *Node) WaitConverged(patience time.Duration) time.Duration {
	n.lab.t.Helper()
	return Eventually(n.lab.t, patience, func() error {
		return n.ready(func(o outlook) bool {
			return o.Peers.Established == len(n.lab.Nodes)-1 && o.installed() == n.remotes()
		})
	})
}

func (n *Node) ready(more func(outlook) bool) error {
	if n.daemon != nil && !n.Running() {
		n.lab.t.Fatalf("%s: the daemon has ended with exit code %d", n.Name, n.daemon.cmd.ProcessState.ExitCode())
	}
	var o outlook
	if err := n.Get("status", &o); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	if !o.Ready || more != nil && !more(o) {
		return fmt.Errorf("%s: ready %v, %d of %d peers, %d of %d routes; %s", n.Name, o.Ready,
			o.Peers.Established, o.Peers.Configured, o.installed(), n.remotes(), strings.Join(o.Problems, "; "))
	}
	return nil
}
