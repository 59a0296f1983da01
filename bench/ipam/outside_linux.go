package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	readyTime = 30 * time.Second
	outside   = 20 // leases in a round of ways that run processes or ask one
)

// lab is what nettest needs to know of its surroundings, outside a test.
type lab struct{ undo []func() }

func (l *lab) Helper()             {}
func (l *lab) Name() string        { return "bench-ipam" }
func (l *lab) Logf(string, ...any) {}
func (l *lab) Failed() bool        { return false }
func (l *lab) Cleanup(f func())    { l.undo = append(l.undo, f) }

// Fatalf gives up; measure turns it into an error.
func (l *lab) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (l *lab) end() {
	for _, f := range slices.Backward(l.undo) {
		f()
	}
}

// socket asks a real daemon, on a host of its own, over one connection, and waits on it without net/http's goroutines:
// what a client costs is not the daemon's.
type socket struct {
	conn      net.Conn
	answers   *bufio.Reader
	addresses [outside]string
}

func newSocket(l *lab, dir string) (*socket, error) {
	bin, err := binary(dir)
	if err != nil {
		return nil, err
	}
	node := nettest.NewLab(l, nettest.LabOptions{Binary: bin, Nodes: []string{"n1"}, Dir: dir}).Node("n1")
	node.WriteConfig(fmt.Sprintf("[node]\nstate_dir = %q\nrun_dir = %q\n[[pool]]\nname = \"default\"\ncidr = \"10.88.0.0/16\"\n"+
		"block = \"10.88.0.0/22\"\nreuse_delay = \"1ms\"\n", node.StateDir(), node.RunDir()))
	node.Start()
	node.WaitReady(readyTime)
	conn, err := net.Dial("unix", node.Socket())
	if err != nil {
		return nil, err
	}
	l.Cleanup(func() { _ = conn.Close() })
	s := &socket{conn: conn, answers: bufio.NewReader(conn)}
	for i := range held {
		if _, err := s.lease(owner("held", i)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// binary is the daemon to measure: the one that make has built, or a new one.
func binary(dir string) (string, error) {
	if bin := os.Getenv("BUILT"); bin != "" {
		return bin, nil
	}
	bin := filepath.Join(dir, "fairlead")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build fairlead: %w: %s", err, out)
	}
	return bin, nil
}

func (s *socket) lease(owner string) (address string, err error) {
	var got struct{ Address string }
	err = s.call(http.MethodPost, "/v1/leases", map[string]string{"owner": owner}, &got)
	return got.Address, err
}

func (s *socket) call(method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://fairlead"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := req.Write(s.conn); err != nil {
		return err
	}
	res, err := http.ReadResponse(s.answers, req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, answer)
	}
	return json.Unmarshal(answer, into)
}

func (s *socket) round(t *times) error {
	return t.inTurn(outside,
		func(i int) (err error) {
			s.addresses[i], err = s.lease(owner("caller", i))
			return err
		},
		func(i int) error {
			return s.call(http.MethodDelete, "/v1/leases/"+s.addresses[i]+"?owner="+owner("caller", i), nil, &struct{}{})
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
