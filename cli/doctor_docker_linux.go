package cli

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// lookAtDocker calls nobody: a call would start Docker, or the daemon.
func lookAtDocker(want DockerSettings) dockerFacts {
	d := dockerFacts{unit: parseListens(readSocketUnit()), leads: make(map[string]string), socket: lookAtPlugin(want.Socket)}
	for _, program := range []string{"dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"} {
		_, err := exec.LookPath(program)
		d.installed = d.installed || err == nil
	}
	_, err := os.Stat("/var/lib/docker/swarm/docker-state.json")
	d.swarm = err == nil
	info, err := os.Stat(want.API)
	d.api = err == nil && info.Mode()&fs.ModeSocket != 0
	for _, dir := range leadDirectories() {
		for _, file := range []string{want.name() + ".spec", want.name() + ".json"} {
			for _, path := range []string{filepath.Join(dir, file), filepath.Join(dir, want.name(), file)} {
				if text, err := os.ReadFile(path); err == nil {
					d.leads[path] = string(text)
				}
			}
		}
	}
	return d
}

// readSocketUnit reads fairlead.socket and its drop-ins, in the order in which systemd does. What is below /etc hides what
// has the same name below /run, and that what is below /usr.
func readSocketUnit() (texts []string) {
	const name = "fairlead.socket"
	found := make(map[string]string)
	for _, dir := range []string{"/lib", "/usr/lib", "/usr/local/lib", "/run", "/etc"} {
		dir = filepath.Join(dir, "systemd/system")
		files, _ := filepath.Glob(filepath.Join(dir, name+".d/*.conf"))
		for _, path := range append(files, filepath.Join(dir, name)) {
			if text, err := os.ReadFile(path); err == nil {
				found[filepath.Base(path)] = string(text)
			}
		}
	}
	unit := found[name]
	if unit == "" { // there is none, or it leads to /dev/null
		return nil
	}
	delete(found, name)
	var dropIns []string
	for file := range found {
		dropIns = append(dropIns, file)
	}
	slices.Sort(dropIns)
	texts = append(texts, unit)
	for _, file := range dropIns {
		texts = append(texts, found[file])
	}
	return texts
}

// lookAtPlugin finds out who listens on a socket.
func lookAtPlugin(socket string) pluginFacts {
	info, err := os.Stat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return pluginFacts{state: pluginAbsent}
	case err != nil:
		return pluginFacts{}
	}
	text, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return pluginFacts{}
	}
	var inodes []string
	for path, at := range parseListeners(string(text)) {
		// /var/run leads to /run, and who listens may have been told either.
		if filepath.Base(path) != filepath.Base(socket) {
			continue
		}
		if found, err := os.Stat(path); err == nil && os.SameFile(found, info) {
			inodes = append(inodes, at...)
		}
	}
	if len(inodes) == 0 {
		return pluginFacts{state: pluginStale}
	}
	return pluginFacts{state: pluginListens, holders: pluginHolders(inodes)}
}

// pluginHolders are the processes that have one of the sockets open, as far as they show.
func pluginHolders(inodes []string) map[int]string {
	holders := make(map[int]string)
	for _, pid := range processes() {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		fds, _ := os.ReadDir(filepath.Join(dir, "fd")) // one that has ended holds nothing
		if slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
			target, _ := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			inode, is := strings.CutPrefix(target, "socket:[")
			return is && slices.Contains(inodes, strings.TrimSuffix(inode, "]"))
		}) {
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			holders[pid] = strings.TrimSpace(string(name))
		}
	}
	return holders
}
