package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func capable(path string) bool {
	text, err := os.ReadFile(path)
	return err == nil && parseCapable(string(text))
}

func openFileLimit(pid int) uint64 {
	who := "self"
	if pid > 0 {
		who = strconv.Itoa(pid)
	}
	text, _ := os.ReadFile(filepath.Join("/proc", who, "limits"))
	return parseOpenFiles(string(text))
}

// lookAtSockets finds who listens on the ports that the daemon wants.
func lookAtSockets(p Ports) []socketFacts {
	var all []socketFacts
	owners := map[string]int(nil)
	for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
		proto, port := file[:3], p.BGP
		if proto == "udp" {
			port = p.VXLAN
		}
		text, _ := os.ReadFile(filepath.Join("/proc/thread-self/net", file))
		sockets, inodes := parseSockets(proto, string(text))
		for i, s := range sockets {
			if int(s.local.Port()) != port {
				continue
			}
			if owners == nil {
				owners = socketOwners()
			}
			if s.pid = owners[inodes[i]]; s.pid > 0 {
				dir := filepath.Join("/proc", strconv.Itoa(s.pid))
				name, _ := os.ReadFile(filepath.Join(dir, "comm"))
				s.owner = fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(name)), s.pid)
				group, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
				s.unit = parseUnit(string(group))
			}
			all = append(all, s)
		}
	}
	return all
}

// socketOwners maps inodes of sockets to processes.
func socketOwners() map[string]int {
	owners := make(map[string]int)
	for _, pid := range processes() {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // ended, or another user's
		}
		for _, fd := range fds {
			target, _ := os.Readlink(filepath.Join(dir, fd.Name()))
			if inode, is := strings.CutPrefix(target, "socket:["); is {
				owners[strings.TrimSuffix(inode, "]")] = pid
			}
		}
	}
	return owners
}

func processes() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func runningPrograms() map[string]bool {
	running := make(map[string]bool)
	for _, pid := range processes() {
		if name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm")); err == nil {
			running[strings.TrimSpace(string(name))] = true
		}
	}
	return running
}

// readManagers reads configs in the order in which their programs do: the main file, then drop-ins by file name, of
// which one in /etc hides one of the same name in /run, and that one in /usr/lib.
func readManagers() managerFacts {
	return managerFacts{
		networkManager: readConfigs("/etc/NetworkManager/NetworkManager.conf", "NetworkManager/conf.d"),
		networkd:       readConfigs("/etc/systemd/networkd.conf", "systemd/networkd.conf.d"),
	}
}

func readConfigs(main, dropIns string) []string {
	paths := make(map[string]string)
	for _, root := range []string{"/usr/lib", "/run", "/etc"} {
		files, _ := filepath.Glob(filepath.Join(root, dropIns, "*.conf"))
		for _, path := range files {
			paths[filepath.Base(path)] = path
		}
	}
	names := make([]string, 0, len(paths))
	for name := range paths {
		names = append(names, name)
	}
	slices.Sort(names)
	order := []string{main}
	for _, name := range names {
		order = append(order, paths[name])
	}
	var texts []string
	for _, path := range order {
		if text, err := os.ReadFile(path); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}
