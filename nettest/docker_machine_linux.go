package nettest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// machine is what a host has beside its network to have a Docker daemon like no other host's: mounts and processes.
//
// Its first process ends with the test, however that ends, and the kernel ends all others with it: daemons, shims and
// containers. With the last of them go its mounts, and all that is below them.
type machine struct {
	first  *process
	cgroup string   // below which its containers are
	engine string   // directory with the programs of its Docker, "" for the installed one
	held   *os.File // the socket of Docker's calls, nil unless it is held for Fairlead
}

// machineScript is what the first process does. /run is the machine's own, since the paths of Docker's sockets can not be
// chosen, but for the names of network namespaces, which are made later too, and iptables' lock.
const machineScript = `set -e
mount --make-rslave /
mount -t tmpfs run "$1"
mkdir "$1/netns"
mount --rbind /run/netns "$1/netns"
touch /run/xtables.lock "$1/xtables.lock"
mount --bind /run/xtables.lock "$1/xtables.lock"
mount --rbind "$1" /run
for dir in /etc/docker /var/lib/docker; do
  mkdir -p $dir
  mount -t tmpfs own $dir
done
mount -t proc proc /proc
echo ready
exec tini -- sleep infinity >/dev/null 2>&1
`

// AddDocker gives the host what a Docker daemon of its own needs, before anything is started on it. Then Fairlead is a
// driver of that one.
func (n *Node) AddDocker() {
	t := n.lab.t
	t.Helper()
	run := filepath.Join(n.Dir, "run-of-docker")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatalf("make directory of %s: %v", n.Name, err)
	}
	m := &machine{cgroup: fmt.Sprintf("%s%d-%d-%s", labDir, os.Getpid(), serial.Add(1), n.Name), engine: os.Getenv(DockerVariable)}
	cmd := exec.Command("sh", "-c", machineScript, "machine", run)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatalf("start machine of %s: %v", n.Name, err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	m.first, err = n.launch(cmd)
	_ = in.Close() // its other end is the machine's
	if err != nil {
		t.Fatalf("start machine of %s: %v", n.Name, err)
	}
	t.Cleanup(func() {
		if err := m.end(); err != nil {
			t.Logf("end machine of %s: %v", n.Name, err)
		}
	})
	said, _ := bufio.NewReader(out).ReadString('\n') // what it said is all that matters
	if said != "ready\n" {
		t.Fatalf("start machine of %s: %s", n.Name, said)
	}
	n.machine = m
}

// end ends all processes of the machine, and takes what they leave.
func (m *machine) end() error {
	_ = m.first.cmd.Process.Kill() // it may have ended
	<-m.first.done
	var errs []error
	for _, root := range cgroupRoots() {
		errs = append(errs, removeCgroup(filepath.Join(root, m.cgroup)))
	}
	return errors.Join(errs...)
}

// path is where something of the machine's own is for the others.
func (m *machine) path(p string) string {
	return fmt.Sprintf("/proc/%d/root%s", m.first.cmd.Process.Pid, p)
}

// MachinePid is the first process of the host's own, in whose namespaces its containers have the numbers that Docker tells.
func (n *Node) MachinePid() int { return n.machine.first.cmd.Process.Pid }

// mounts is the file that stands for the machine's mounts.
func (m *machine) mounts() string { return fmt.Sprintf("/proc/%d/ns/mnt", m.first.cmd.Process.Pid) }

// start starts a program as one of the machine's processes; without a machine, as one of everybody's. The caller's thread
// is locked, and of no other use after that where there is a machine: its children are processes of the machine from now on.
func (m *machine) start(cmd *exec.Cmd) error {
	if m == nil {
		return cmd.Start()
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", m.first.cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace of processes: %w", err)
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("enter namespace of processes: %w", err)
	}
	cmd.SysProcAttr = nil // it ends with the machine; its parent is none that it could see
	return cmd.Start()
}

// cgroupRoots are where the hierarchies of control groups are mounted: one, or one of each kind.
func cgroupRoots() []string {
	const top = "/sys/fs/cgroup"
	roots := []string{top}
	entries, err := os.ReadDir(top)
	if err != nil {
		return nil // then no container runs here
	}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(top, e.Name(), "cgroup.procs")); err == nil {
			roots = append(roots, filepath.Join(top, e.Name()))
		}
	}
	return roots
}

// removeCgroup removes a control group with those below it. Absent is success.
func removeCgroup(path string) error {
	var groups []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, p := range slices.Backward(groups) {
		err = errors.Join(err, unix.Rmdir(p)) // os.Remove would try to unlink it as well
	}
	return err
}
