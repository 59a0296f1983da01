// Demo shows Fairlead's main job on real packets: hosts made of network namespaces, a real daemon on each.
//
// KEEP=1 leaves everything standing; --down takes it down again.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	keptName = "fldemo"             // of the namespaces of a lab that is left standing
	keptDir  = "/run/fairlead-demo" // of its files
)

func main() {
	keep := os.Getenv("KEEP")
	os.Exit(run(os.Args[1:], keep != "" && keep != "0"))
}

func run(args []string, keep bool) int {
	p := newPaper(os.Stdout)
	switch {
	case os.Geteuid() != 0:
		fmt.Fprintln(os.Stderr, "demo: network namespaces need root: sudo make demo")
		return 1
	case len(args) == 1 && args[0] == "--down":
		return report(takeDown())
	case len(args) != 0:
		fmt.Fprintln(os.Stderr, "usage: go run ./nettest/demo [--down]      KEEP=1 leaves the lab standing")
		return 2
	}
	if err := takeDown(); keep && err != nil {
		return report(err)
	}
	return report(nettest.OnStage("demo", func(s *nettest.Stage) error { return play(s, p, keep) }))
}

func report(err error) int {
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 1
	}
	return 0
}

// play is the demonstration from the first cable to the last figure.
func play(s *nettest.Stage, p *paper, keep bool) error {
	begun := time.Now()
	p.title("Fairlead: containers on several hosts reach each other")
	o := nettest.LabOptions{Pools: []string{"10.88.0.0/16", "2001:db8:88::/64"}, RPFilter: 1}
	if keep {
		o.Kept, o.Dir = keptName, keptDir
		if err := os.MkdirAll(keptDir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		s.Cleanup(func() { _ = os.RemoveAll(keptDir) })
	} else {
		o.Dir = nettest.NewDir(s, "")
	}
	o.Binary = nettest.Binary(s, o.Dir)
	built := time.Now()
	if filepath.Dir(o.Binary) == o.Dir {
		p.done("fairlead built, %.1f s", built.Sub(begun).Seconds())
	}
	l := nettest.NewLab(s, o)
	p.picture(l)
	showConfig(s, p, l.Nodes[0])
	l.Start()
	containers := l.AttachAll(2)
	for _, n := range l.Nodes {
		settle(n)
	}
	p.done("%d daemons know of each other, %d containers are attached, %.1f s", len(l.Nodes), len(containers), time.Since(built).Seconds())

	p.command("n1", "fairlead status")
	p.quote(l.Nodes[0].Fairlead("status"))
	p.command("n1", "fairlead routes")
	p.quote(l.Nodes[0].Fairlead("routes"))
	reach(p, l, containers)
	kill(p, l, containers)
	switch {
	case p.faults > 0:
		return fmt.Errorf("%d things are not as they should be", p.faults)
	case keep:
		p.kept(l, containers, o.Binary)
		s.Keep()
	default:
		p.done("all is as it should be; taking it down (%.0f s in all)", time.Since(begun).Seconds())
	}
	return nil
}

// settle waits for the programs of a host that has a fast path: until they are there, packets go one way and then another.
func settle(n *nettest.Node) {
	var s struct {
		Fastpath string `json:"fastpath"`
	}
	if err := n.Get("status", &s); err == nil && strings.HasPrefix(s.Fastpath, "on ") {
		n.WaitFast(10 * time.Second)
	}
}

func showConfig(s *nettest.Stage, p *paper, n *nettest.Node) {
	text, err := os.ReadFile(n.ConfigFile())
	if err != nil {
		s.Fatalf("read config: %v", err)
	}
	p.command("n1", "cat fairlead.toml")
	p.quote(string(text))
}

// takeDown ends the daemons of a lab that was left standing and removes its namespaces and files.
func takeDown() error {
	var errs []error
	pids, err := filepath.Glob(filepath.Join(keptDir, "*", "pid"))
	errs = append(errs, err)
	for _, file := range pids {
		errs = append(errs, end(file))
	}
	namespaces, err := filepath.Glob("/run/netns/" + keptName + "-*")
	errs = append(errs, err)
	for _, path := range namespaces {
		errs = append(errs, nettest.Remove(path))
	}
	return errors.Join(append(errs, nettest.RemoveDir(keptDir))...)
}

// end kills the process whose id is in the file, if it still is the program of the lab.
func end(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read process id: %w", err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return fmt.Errorf("read process id from %s: %w", file, err)
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(args), keptDir+"/") {
		return nil // it has ended, and the number is perhaps another's
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}
