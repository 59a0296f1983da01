package nettest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Node is a host of the lab that runs Fairlead.
type Node struct {
	*Host
	Address4, Address6 netip.Addr // of eth0; invalid without that family
	Subnet             int        // 0, 1 or 2
	Dir                string     // holds its config, state, socket and log
	lab                *Lab
	daemon             *process
	machine            *machine // nil without Docker
	docker             *process
}

// process is a daemon that was started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Binary is the fairlead that BUILT names, or else one that is built now, in dir.
func Binary(t T, dir string) string {
	t.Helper()
	if built := os.Getenv("BUILT"); built != "" {
		return built
	}
	binary := filepath.Join(dir, "fairlead")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/fairlead-net/fairlead").CombinedOutput(); err != nil {
		t.Fatalf("build fairlead: %v: %s", err, out)
	}
	return binary
}

// NewNode makes a node of a host that is in no lab; its config is still to be written.
func NewNode(h *Host, binary, dir string) *Node {
	n := &Node{Host: h, Dir: dir, lab: &Lab{Dir: dir, t: h.t, o: LabOptions{Binary: binary}}}
	n.lab.Nodes = []*Node{n}
	return n
}

// Address is what the other hosts know the host by.
func (n *Node) Address() netip.Addr {
	if n.Address4.IsValid() {
		return n.Address4
	}
	return n.Address6
}

// StateDir is [node] state_dir.
func (n *Node) StateDir() string { return filepath.Join(n.Dir, "state") }

// RunDir is [node] run_dir.
func (n *Node) RunDir() string { return filepath.Join(n.Dir, "run") }

// Socket is where the daemon's API answers.
func (n *Node) Socket() string { return filepath.Join(n.RunDir(), "fairlead.sock") }

// ConfigFile is the path of the config file.
func (n *Node) ConfigFile() string { return filepath.Join(n.Dir, "fairlead.toml") }

// LogFile holds what every daemon of the host said.
func (n *Node) LogFile() string { return filepath.Join(n.Dir, "log") }

// WriteConfig replaces the config file as editors do: written beside it, and renamed.
func (n *Node) WriteConfig(text string) {
	n.lab.t.Helper()
	if err := os.WriteFile(n.ConfigFile()+".new", []byte(text), 0o644); err != nil {
		n.lab.t.Fatalf("write config of %s: %v", n.Name, err)
	}
	if err := os.Rename(n.ConfigFile()+".new", n.ConfigFile()); err != nil {
		n.lab.t.Fatalf("replace config of %s: %v", n.Name, err)
	}
}

// Start starts the daemon. Its log is shown when the test fails.
func (n *Node) Start(flags ...string) {
	n.lab.t.Helper()
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.lab.t.Fatalf("open log of %s: %v", n.Name, err)
	}
	defer log.Close()
	cmd := n.command(n.machine.taking(append([]string{n.lab.o.Binary, "run", "--config", n.ConfigFile()}, flags...))...)
	n.machine.hand(cmd)
	cmd.Stdout, cmd.Stderr = log, log
	if n.lab.o.Kept == "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no daemon outlives a test that is killed
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	p, err := n.launch(cmd)
	if err != nil {
		n.lab.t.Fatalf("start daemon of %s: %v", n.Name, err)
	}
	first := n.daemon == nil
	n.daemon = p
	if first {
		n.lab.t.Cleanup(n.cleanUp)
	}
	if n.lab.o.Kept != "" {
		n.note(cmd.Process.Pid)
	}
}

// launch starts a program that command made, from a thread that lives as long: with the thread of its parent a program
// ends that is told to end with its parent.
func (n *Node) launch(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		runtime.LockOSThread()
		err := n.machine.start(cmd)
		started <- err
		if err == nil {
			_ = cmd.Wait() // the exit code is in cmd.ProcessState
		}
		if n.machine == nil {
			runtime.UnlockOSThread()
		}
	}()
	return p, <-started
}

// command is a program to be started on the host by launch. The caller's own settings are not for it. Only where the host
// has Docker to itself, Fairlead is its driver.
func (n *Node) command(argv ...string) *exec.Cmd {
	cmd := n.Command(context.Background(), argv...)
	cmd.Dir = n.Dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "FAIRLEAD_") })
	if n.machine == nil {
		cmd.Env = append(cmd.Env, "FAIRLEAD_DOCKER_ENABLE=false")
		return cmd
	}
	cmd.Args = slices.Insert(cmd.Args, 1, "--mount="+n.machine.mounts()) // the directory is then /
	return cmd
}

// note keeps the process id for who takes a kept lab down.
func (n *Node) note(pid int) {
	if err := os.WriteFile(filepath.Join(n.Dir, "pid"), fmt.Appendln(nil, pid), 0o644); err != nil {
		n.lab.t.Fatalf("note process of %s: %v", n.Name, err)
	}
}

// cleanUp ends the daemon and shows its log if the test failed.
func (n *Node) cleanUp() {
	n.Signal(syscall.SIGKILL)
	<-n.daemon.done
	if !n.lab.t.Failed() {
		return
	}
	const most = 16 << 10
	log, _ := os.ReadFile(n.LogFile())
	if len(log) > most {
		log = append([]byte("…\n"), log[len(log)-most:]...)
	}
	n.lab.t.Logf("log of %s:\n%s", n.Name, log)
}

// Signal sends a signal to the daemon if it still runs.
func (n *Node) Signal(s syscall.Signal) {
	if n.Running() {
		_ = n.daemon.cmd.Process.Signal(s) // it may end at this moment
	}
}

// Running tells whether a daemon was started and has not ended.
func (n *Node) Running() bool {
	return n.daemon.running()
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Pid is the process id of the latest daemon.
func (n *Node) Pid() int { return n.daemon.cmd.Process.Pid }

// Kill ends the daemon as `kill -9` does.
func (n *Node) Kill() {
	n.Signal(syscall.SIGKILL)
	<-n.daemon.done
}

// Stop asks the daemon to end and returns its exit code.
func (n *Node) Stop() int {
	n.lab.t.Helper()
	n.Signal(syscall.SIGTERM)
	return n.WaitExit(15 * time.Second)
}

// WaitExit waits for the daemon to end by itself and returns its exit code.
func (n *Node) WaitExit(patience time.Duration) int {
	n.lab.t.Helper()
	select {
	case <-n.daemon.done:
	case <-time.After(Patience(patience)):
		n.lab.t.Fatalf("%s: the daemon still runs after %v", n.Name, patience)
	}
	return n.daemon.cmd.ProcessState.ExitCode()
}

// Log is what all daemons of the host have said.
func (n *Node) Log() string {
	text, err := os.ReadFile(n.LogFile())
	if err != nil && !os.IsNotExist(err) {
		n.lab.t.Fatalf("read log of %s: %v", n.Name, err)
	}
	return string(text)
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// CLI runs the fairlead command against the host's daemon: by its socket, unless the arguments name its config.
func (n *Node) CLI(args ...string) Result {
	n.lab.t.Helper()
	if !slices.Contains(args, "--config") {
		args = append([]string{"--socket", n.Socket()}, args...)
	}
	return n.finish(n.command(append([]string{n.lab.o.Binary}, args...)...))
}

// finish runs a program that command made.
func (n *Node) finish(cmd *exec.Cmd) Result {
	n.lab.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := n.launch(cmd)
	if err != nil {
		n.lab.t.Fatalf("%s: start %s: %v", n.Name, strings.Join(cmd.Args, " "), err)
	}
	<-p.done
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// Fairlead runs the command, ends the test if it fails, and returns what it printed.
func (n *Node) Fairlead(args ...string) string {
	n.lab.t.Helper()
	r := n.CLI(args...)
	if r.Code != 0 {
		n.lab.t.Fatalf("%s: fairlead %s: exit code %d\n%s%s", n.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}
