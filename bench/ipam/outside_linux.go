package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	readyTime = 30 * time.Second
	outside   = 20 // leases in a round of ways that run processes or ask one
)

// socket asks a real daemon, on a host of its own.
type socket struct {
	*nettest.API
	addresses [outside]string
}

func newSocket(t nettest.T, dir string) (*socket, error) {
	binary := nettest.Binary(t, dir)
	node := nettest.NewLab(t, nettest.LabOptions{Binary: binary, Nodes: []string{"n1"}, Dir: dir}).Node("n1")
	node.WriteConfig(fmt.Sprintf("[node]\nstate_dir = %q\nrun_dir = %q\n[[pool]]\nname = \"default\"\ncidr = \"10.88.0.0/16\"\n"+
		"block = \"10.88.0.0/22\"\nreuse_delay = \"1ms\"\n[fastpath]\nmode = \"off\"\n", node.StateDir(), node.RunDir()))
	node.Start()
	node.WaitReady(readyTime)
	s := &socket{API: nettest.NewAPI(t, node.Socket())}
	for i := range held {
		if _, err := s.lease(owner("held", i)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *socket) lease(owner string) (address string, err error) {
	var got struct{ Address string }
	err = s.Call(http.MethodPost, "leases", map[string]string{"owner": owner}, &got)
	return got.Address, err
}

func (s *socket) round(t *times) error {
	return t.inTurn(outside,
		func(i int) (err error) {
			s.addresses[i], err = s.lease(owner("caller", i))
			return err
		},
		func(i int) error {
			return s.Call(http.MethodDelete, "leases/"+s.addresses[i]+"?owner="+owner("caller", i), nil, &struct{}{})
		})
}

// cni runs the plugin as a container runtime does.
type cni struct{ config string }

const plugin = "/usr/lib/cni/host-local" // where Debian's containernetworking-plugins puts it

func newCNI(dir string) (*cni, error) {
	if _, err := os.Stat(plugin); err != nil {
		return nil, fmt.Errorf("apt-get install containernetworking-plugins: %w", err)
	}
	c := &cni{fmt.Sprintf(`{"cniVersion":"0.4.0","name":"bench","type":"ptp","ipam":{"type":"host-local","dataDir":%q,`+
		`"ranges":[[{"subnet":"10.88.0.0/22"}]]}}`, filepath.Join(dir, "cni"))}
	for i := range held {
		if err := c.run("ADD", owner("held", i)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *cni) run(command, id string) error {
	cmd := exec.Command(plugin)
	cmd.Stdin = strings.NewReader(c.config)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_NETNS=/run/netns/none",
		"CNI_IFNAME=eth0", "CNI_PATH="+filepath.Dir(plugin))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("host-local %s: %w: %s", command, err, out)
	}
	return nil
}

func (c *cni) round(t *times) error {
	return t.inTurn(outside,
		func(i int) error { return c.run("ADD", owner("caller", i)) },
		func(i int) error { return c.run("DEL", owner("caller", i)) })
}
