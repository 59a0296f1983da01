package nettest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DockerVariable names a directory with the programs of another Docker engine than the installed one.
const DockerVariable = "DOCKER"

// SwitchDocker has the host's Docker be the engine whose programs are in a directory, from its next start on: "" is the
// installed one. AddDocker has chosen the one that DockerVariable names.
func (n *Node) SwitchDocker(dir string) { n.machine.engine = dir }

// Image is what the containers of a lab are made from: busybox, with every one of its commands.
const Image = "bb"

// dockerTime is how long a Docker daemon may take to start, and to end.
const dockerTime = 60 * time.Second

// StartDocker starts the host's Docker daemon and waits until it answers. Its log is shown when the test fails.
func (n *Node) StartDocker(flags ...string) {
	n.lab.t.Helper()
	n.LaunchDocker(flags...)
	n.WaitDocker(dockerTime)
}

// LaunchDocker starts the host's Docker daemon and does not wait for it.
func (n *Node) LaunchDocker(flags ...string) {
	t := n.lab.t
	t.Helper()
	log, err := os.OpenFile(n.dockerLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("open log of Docker of %s: %v", n.Name, err)
	}
	defer log.Close()
	argv := append([]string{"dockerd", "--log-level", "warn", "--cgroup-parent", "/" + n.machine.cgroup}, flags...)
	cmd := n.dockerCommand("/", argv...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := n.launch(cmd)
	if err != nil {
		t.Fatalf("start Docker of %s: %v", n.Name, err)
	}
	if n.docker == nil {
		t.Cleanup(n.showDockerLog)
	}
	n.docker = p
}

// WaitDocker waits until the host's Docker daemon answers, and returns how long that took. After the first time the image is
// there.
func (n *Node) WaitDocker(patience time.Duration) time.Duration {
	n.lab.t.Helper()
	took := Eventually(n.lab.t, patience, func() error {
		if !n.docker.running() {
			n.lab.t.Fatalf("%s: Docker has ended with exit code %d", n.Name, n.docker.cmd.ProcessState.ExitCode())
		}
		if _, err := os.Stat(n.machine.path("/run/docker.sock")); err != nil {
			return err
		}
		if r := n.TryDocker("version"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	if n.TryDocker("image", "inspect", Image).Code != 0 {
		n.importImage()
	}
	return took
}

// DockerAnswers tells whether the host's Docker daemon answers within a second.
func (n *Node) DockerAnswers() bool {
	n.lab.t.Helper()
	return n.finish(n.dockerCommand("/", "timeout", "1", "docker", "version")).Code == 0
}

// StopDocker asks the host's Docker daemon to end, and waits for it. Its containers end too unless it was started with
// --live-restore.
func (n *Node) StopDocker() {
	n.lab.t.Helper()
	_ = n.docker.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-n.docker.done:
	case <-time.After(Patience(dockerTime)):
		n.lab.t.Fatalf("%s: Docker still runs after %v", n.Name, dockerTime)
	}
}

// KillDocker ends the host's Docker daemon as `kill -9` does. Its containers run on.
func (n *Node) KillDocker() {
	_ = n.docker.cmd.Process.Kill() // it may have ended
	<-n.docker.done
}

// Docker runs Docker's command on the host, ends the test if it fails, and returns what it printed without the last line's
// end.
func (n *Node) Docker(args ...string) string {
	n.lab.t.Helper()
	r := n.TryDocker(args...)
	if r.Code != 0 {
		n.lab.t.Fatalf("%s: docker %s: exit code %d\n%s%s", n.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// TryDocker runs Docker's command on the host.
func (n *Node) TryDocker(args ...string) Result {
	n.lab.t.Helper()
	return n.finish(n.dockerCommand("/", append([]string{"docker"}, args...)...))
}

// Compose runs docker-compose on the host in a directory.
func (n *Node) Compose(dir string, args ...string) Result {
	n.lab.t.Helper()
	return n.finish(n.dockerCommand(dir, append([]string{"docker-compose"}, args...)...))
}

// Box is a running container of the host's Docker daemon, with the addresses that it has of one network.
func (n *Node) Box(name, network string) *Container {
	t := n.lab.t
	t.Helper()
	const format = "{{.NetworkSettings.SandboxKey}} {{with index .NetworkSettings.Networks %q}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
	parts := strings.Fields(n.Docker("inspect", "--format", fmt.Sprintf(format, network), name))
	if len(parts) < 2 {
		t.Fatalf("%s: container %s has no address of %s: %q", n.Name, name, network, parts)
	}
	var addresses []netip.Addr
	for _, text := range parts[1:] {
		a, err := netip.ParseAddr(text)
		if err != nil {
			t.Fatalf("%s: container %s: %v", n.Name, name, err)
		}
		addresses = append(addresses, a)
	}
	netns := n.machine.path(strings.Replace(parts[0], "/var/run/", "/run/", 1)) // the link would lead out of the machine
	c := &Container{Host: &Host{Name: name, Path: netns, t: t}, Node: n, Endpoint: name}
	c.hold(addresses)
	return c
}

// dockerCommand is a program of the engine, to be started on the host in a directory.
func (n *Node) dockerCommand(dir string, argv ...string) *exec.Cmd {
	if n.machine == nil {
		n.lab.t.Fatalf("%s: AddDocker was not called", n.Name)
	}
	path := "/usr/sbin:/usr/bin:/sbin:/bin"
	if n.machine.engine != "" {
		path = n.machine.engine + ":" + path
	}
	return n.command(append([]string{"env", "--chdir=" + dir, "PATH=" + path}, argv...)...)
}

func (n *Node) dockerLog() string { return filepath.Join(n.Dir, "docker.log") }

// showDockerLog shows the end of what the Docker daemons said if the test failed.
func (n *Node) showDockerLog() {
	if !n.lab.t.Failed() {
		return
	}
	const most = 8 << 10
	log, _ := os.ReadFile(n.dockerLog())
	n.lab.t.Logf("log of Docker of %s:\n%s", n.Name, log[max(0, len(log)-most):])
}

// imageEntry is what runs in containers first. Without it the first program of a container would have to say what it does
// when it is asked to end, and those of busybox do not.
const imageEntry = `#!/bin/sh
trap exit TERM
"$@" &
wait $!
`

// importImage makes the image.
func (n *Node) importImage() {
	t := n.lab.t
	t.Helper()
	root, err := busyboxTree()
	if err != nil {
		t.Fatalf("make image: %v", err)
	}
	cmd := n.dockerCommand("/", "docker", "import", "--change", `ENTRYPOINT ["begin"]`, "--change", `CMD ["sleep", "3600"]`,
		"--change", "EXPOSE 80", "-", Image)
	cmd.Stdin = bytes.NewReader(root)
	if r := n.finish(cmd); r.Code != 0 {
		t.Fatalf("%s: import image: %s", n.Name, r.Stderr)
	}
}

// busyboxTree is a root directory as a tar archive.
func busyboxTree() ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := exec.CommandContext(context.Background(), path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the commands of busybox: %w", err)
	}
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	err = errors.Join(
		w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}),
		pack(w, "bin/busybox", program), pack(w, "bin/begin", []byte(imageEntry)))
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
		}
	}
	err = errors.Join(err, w.Close())
	return text.Bytes(), err
}

// pack puts a program into an archive.
func pack(w *tar.Writer, name string, text []byte) error {
	err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))})
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}
