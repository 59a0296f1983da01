package main

import (
	"errors"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// way is one driver, with two networks and a container that runs on the first of them.
type way struct {
	name, driver string
	host         *nettest.Node
	took         map[string][]time.Duration // of each round
}

func (w *way) first() string  { return w.driver + "-1" }
func (w *way) second() string { return w.driver + "-2" }
func (w *way) guest() string  { return w.driver + "-guest" }

// prepare puts up two hosts: one with both drivers, and one where Docker writes no rules.
func prepare(s *nettest.Stage) (all []*way, version string) {
	lab := nettest.NewLab(s, nettest.LabOptions{Nodes: []string{"n1", "n2"}, Binary: nettest.Binary(s, nettest.NewDir(s, ""))})
	usual, bare := lab.Node("n1"), lab.Node("n2")
	for _, n := range lab.Nodes {
		n.AddDocker()
	}
	usual.LaunchDocker(flags(usual)...)
	bare.LaunchDocker(append(flags(bare), "--iptables=false")...)
	lab.Start() // on both, so that they differ in nothing else
	for _, n := range lab.Nodes {
		n.WaitDocker(time.Minute)
	}
	all = []*way{
		{name: "Fairlead", driver: "fairlead", host: usual},
		{name: "bridge", driver: "bridge", host: usual},
		{name: "bridge without rules", driver: "bridge", host: bare},
	}
	for _, w := range all {
		w.took = make(map[string][]time.Duration)
		for _, name := range []string{w.first(), w.second()} {
			args := []string{"network", "create", "-d", w.driver}
			if w.driver == "fairlead" {
				args = append(args, "--ipam-driver", w.driver, "--subnet", "10.88.0.0/16")
			}
			w.host.Docker(append(args, name)...)
		}
		w.host.Docker("run", "-d", "--name", w.guest(), "--network", w.first(), nettest.Image)
	}
	return all, usual.Docker("version", "--format", "{{.Server.Version}}")
}

// flags has Docker keep its state where Fairlead keeps its own: what is on no disk is written faster.
func flags(n *nettest.Node) []string {
	return []string{"--data-root", filepath.Join(n.Dir, "docker")}
}

func (w *way) note(took map[string]time.Duration) {
	for name, d := range took {
		w.took[name] = append(w.took[name], d)
	}
}

// run is what a user types.
func (w *way) run() (map[string]time.Duration, error) {
	begun := time.Now()
	if r := w.host.TryDocker("run", "--rm", "--network", w.first(), nettest.Image, "true"); r.Code != 0 {
		return nil, errors.New(r.Stderr)
	}
	return map[string]time.Duration{running: time.Since(begun)}, nil
}

// connect asks the engine itself: what its command takes to start is not the network's.
func (w *way) connect() (map[string]time.Duration, error) {
	begun := time.Now()
	err := w.host.DockerAPI(http.MethodPost, "/networks/"+w.second()+"/connect", map[string]string{"Container": w.guest()}, nil)
	there := time.Now()
	if err == nil {
		err = w.host.DockerAPI(http.MethodPost, "/networks/"+w.second()+"/disconnect", map[string]string{"Container": w.guest()}, nil)
	}
	return map[string]time.Duration{connecting: there.Sub(begun), disconnecting: time.Since(there)}, err
}

// start starts many containers at once. They were made before, and are removed at once when all are there.
func (w *way) start(count int) (map[string]time.Duration, error) {
	ids := make([]string, count)
	defer func() {
		for _, id := range ids { // of a failed round
			if id != "" {
				_ = w.remove(id)
			}
		}
	}()
	for i := range ids {
		var made struct{ ID string }
		err := w.host.DockerAPI(http.MethodPost, "/containers/create", map[string]any{
			"Image": nettest.Image, "HostConfig": map[string]string{"NetworkMode": w.first()},
		}, &made)
		if err != nil {
			return nil, err
		}
		ids[i] = made.ID
	}
	begun := time.Now()
	if err := each(ids, w.startOne); err != nil {
		return nil, err
	}
	there := time.Now()
	err := each(ids, w.remove)
	clear(ids)
	return map[string]time.Duration{starting: there.Sub(begun), removing: time.Since(there)}, err
}

// startOne starts a container and waits until it answers.
func (w *way) startOne(id string) error {
	if err := w.host.DockerAPI(http.MethodPost, "/containers/"+id+"/start", nil, nil); err != nil {
		return err
	}
	var c struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress netip.Addr }
		}
	}
	if err := w.host.DockerAPI(http.MethodGet, "/containers/"+id+"/json", nil, &c); err != nil {
		return err
	}
	return ping(w.host, c.NetworkSettings.Networks[w.first()].IPAddress)
}

func (w *way) remove(id string) error {
	return w.host.DockerAPI(http.MethodDelete, "/containers/"+id+"?force=true", nil, nil)
}

// each does something with all at once.
func each(all []string, do func(string) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, one := range all {
		wg.Go(func() { errs[i] = do(one) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
