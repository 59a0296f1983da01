package docker

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// TestEngineAsleep looks at hosts on which systemd holds Docker's socket, or does not, while Docker runs, or does not.
func TestEngineAsleep(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "run", "docker.sock")
	if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink("run", filepath.Join(dir, "var-run")); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name    string
		holders []int  // processes that have the socket
		process string // that runs as 42
		told    string // to systemd
		asked   string
		want    bool
	}{
		{"docker stopped", []int{1}, "bash", socket, socket, true},
		{"docker runs", []int{1, 42}, "dockerd", socket, socket, false},
		{"docker runs, wrapped", []int{1, 42}, ".dockerd-wrappe", socket, socket, false},
		{"docker ends", []int{1}, "dockerd", socket, socket, true},
		{"docker has gone, and a client has the socket", []int{1, 42}, "bash", socket, socket, true},
		{"no systemd", []int{42}, "dockerd", socket, socket, false},
		{"nobody of this container", nil, "tini", socket, socket, false},
		{"by another path", []int{1}, "bash", filepath.Join(dir, "var-run", "docker.sock"), socket, true},
		{"by another path in the config", []int{1}, "bash", socket, filepath.Join(dir, "var-run", "docker.sock"), true},
		{"another socket", []int{1}, "bash", filepath.Join(dir, "docker.sock"), socket, false},
		{"no socket", []int{1}, "bash", socket, filepath.Join(dir, "docker.sock"), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(filepath.Join(proc, name)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"+
				"0000000000000000: 00000003 00000000 00000000 0001 03 4710 "+c.told+"\n"+
				"0000000000000000: 00000002 00000000 00010000 0001 01 4711 "+c.told+"\n"+
				"0000000000000000: 00000002 00000000 00010000 0001 01 4712\n")
			write("1/comm", "systemd\n")
			write("42/comm", c.process+"\n")
			for pid, targets := range map[int][]string{1: {"/dev/null"}, 42: {"/dev/null", "socket:[4710]"}} {
				if slices.Contains(c.holders, pid) {
					targets = append(targets, "socket:[4711]")
				}
				fds := filepath.Join(proc, fmt.Sprint(pid), "fd")
				if err := os.MkdirAll(fds, 0o700); err != nil {
					t.Fatal(err)
				}
				for fd, target := range targets {
					if err := os.Symlink(target, filepath.Join(fds, fmt.Sprint(fd))); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := engineAsleep(proc, c.asked); got != c.want {
				t.Errorf("asleep %t, want %t", got, c.want)
			}
		})
	}
}

// TestEngineListening finds a socket of this process in the kernel's own table.
func TestEngineListening(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var s syscall.Stat_t
	if err := raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &s) }); err != nil {
		t.Fatal(err)
	}
	if want, got := fmt.Sprintf("socket:[%d]", s.Ino), engineListening("/proc", socket); len(got) != 1 || !got[want] {
		t.Errorf("listening %v, want %s", got, want)
	}
	if engineAsleep("/proc", socket) {
		t.Error("nothing but this process has the socket, and it counts as systemd's")
	}
}
