package cli

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// dockerFacts is Docker on this host, and its way to the daemon.
type dockerFacts struct {
	installed bool
	swarm     bool              // it is part of one
	api       bool              // there is a socket where it is asked for names
	unit      []string          // where fairlead.socket listens; empty without that unit, and where it is masked
	leads     map[string]string // files that lead it to a driver of our name, and what they say
	socket    pluginFacts
}

// pluginFacts is what is at [docker] socket.
type pluginFacts struct {
	state   pluginState
	holders map[int]string // programs that have it open, by process; empty: not known
}

type pluginState string

const (
	pluginUnknown pluginState = ""
	pluginAbsent  pluginState = "absent"
	pluginStale   pluginState = "stale" // a file that nobody listens on
	pluginListens pluginState = "listens"
)

// pluginDirectory is where Docker looks for the sockets of drivers. Where it finds none, it reads files in leadDirectories.
const pluginDirectory = "/run/docker/plugins"

func leadDirectories() []string { return []string{"/etc/docker/plugins", "/usr/lib/docker/plugins"} }

// judgeDocker follows a call from Docker to the daemon.
func judgeDocker(f *hostFacts) []finding {
	want := f.config.Docker
	switch {
	case !f.docker.installed && !f.running["dockerd"], want.Socket == "":
		return nil
	case want.Enable == "off":
		return []finding{fine("has no networks of ours: enable is false under [docker] in the config")}
	}
	found := slices.Concat(judgeDockerPath(f), judgeDockerUnit(f), judgeDockerSocket(f), judgeDockerNames(f))
	if f.docker.swarm {
		found = append(found, fine("is part of a swarm: its containers can join networks of ours, its services can not"))
	}
	return found
}

// name is what Docker knows the driver by.
func (s DockerSettings) name() string {
	return strings.TrimSuffix(filepath.Base(s.Socket), filepath.Ext(s.Socket))
}

// judgeDockerPath: Docker finds a driver by a socket in one directory, or by a file that leads to the socket.
func judgeDockerPath(f *hostFacts) []finding {
	socket, name := f.config.Docker.Socket, f.config.Docker.name()
	dir := strings.TrimPrefix(filepath.Dir(socket), "/var")
	direct := filepath.Ext(socket) == ".sock" && (dir == pluginDirectory || dir == pluginDirectory+"/"+name)
	var found []finding
	led := false
	for _, file := range slices.Sorted(maps.Keys(f.docker.leads)) {
		switch led = led || strings.Contains(f.docker.leads[file], socket); {
		case led:
		case direct && f.docker.socket.state == pluginAbsent:
			found = append(found, failure("rm "+file, "%s leads its calls elsewhere, since there is no socket %s", file, socket))
		case direct:
			found = append(found, warning("rm "+file, "%s leads its calls elsewhere whenever there is no socket %s", file, socket))
		default:
			found = append(found, failure("rm "+file, "%s leads its calls elsewhere than to %s", file, socket))
		}
	}
	if !direct && !led && len(found) == 0 {
		file := filepath.Join(leadDirectories()[0], name+".spec")
		found = append(found, warning("mkdir -p "+filepath.Dir(file)+" && echo unix://"+socket+" > "+file,
			"looks for drivers in %s, and socket is %s under [docker] in the config", pluginDirectory, socket))
	}
	return found
}

// judgeDockerUnit: systemd keeps calls for the daemon only where the daemon expects them.
func judgeDockerUnit(f *hostFacts) []finding {
	socket, unit := f.config.Docker.Socket, f.docker.unit
	same := func(path string) bool { return strings.TrimPrefix(path, "/var") == strings.TrimPrefix(socket, "/var") }
	if len(unit) == 0 || slices.ContainsFunc(unit, same) {
		return nil
	}
	return []finding{warning(`systemctl edit fairlead.socket # [Socket] ListenStream= ListenStream=`+socket,
		"fairlead.socket listens at %s, and socket is %s under [docker] in the config: calls are refused there, and not kept here",
		strings.Join(unit, " and "), socket)}
}

// judgeDockerSocket: somebody has to take the calls. A Docker that finds nobody tries for 15 s each, and then starts its
// containers without their network, or not at all.
func judgeDockerSocket(f *hostFacts) []finding {
	path, s := f.config.Docker.Socket, f.docker.socket
	down := errors.Is(f.daemon.err, errNoDaemon)
	switch {
	case s.state == pluginUnknown || !down && !f.daemon.up():
		return nil
	case s.state == pluginListens:
		return f.judgeDockerHolder(path, s.holders, down)
	case down:
		return []finding{warning("systemctl enable --now fairlead.socket",
			"nobody listens at %s: containers on networks of ours do not start when it does", path)}
	}
	return []finding{failure("systemctl restart fairlead", "can not call: nobody listens at %s", path)}
}

// judgeDockerHolder judges who listens.
func (f *hostFacts) judgeDockerHolder(path string, holders map[int]string, down bool) []finding {
	kept, ours := holders[1] == "systemd", false
	pids := slices.Sorted(maps.Keys(holders))
	for _, pid := range pids {
		ours = ours || pid == f.daemon.pid || holders[pid] == "fairlead"
	}
	switch {
	case len(holders) > 0 && !kept && !ours:
		return []finding{failure("kill "+strconv.Itoa(pids[0]), "can not call: %s (pid %d) listens at %s", holders[pids[0]], pids[0], path)}
	case kept && down && f.running["dockerd"]:
		return []finding{warning("systemctl start fairlead", "waits with each call for the daemon, which does not run")}
	case kept && down:
		return []finding{fine("its first call starts the daemon: systemd listens at %s", path)}
	case kept:
		return []finding{fine("calls at %s, where systemd keeps its calls while the daemon is down", path)}
	}
	return []finding{fine("calls at %s, where nobody keeps its calls while the daemon is down", path)}
}

// judgeDockerNames: Docker tells a driver no names, so it is asked for them.
func judgeDockerNames(f *hostFacts) []finding {
	api := f.config.Docker.API
	if api == "" || f.docker.api || !f.running["dockerd"] {
		return nil
	}
	return []finding{warning("docker context inspect --format '{{.Endpoints.docker.Host}}'",
		"names of its containers are not learnt: no socket %s; set api under [docker] in the config", api)}
}

// parseListens are the paths of the sockets of a unit, whose texts are in the order in which systemd reads them.
func parseListens(texts []string) []string {
	var paths []string
	for _, text := range texts {
		for line := range strings.Lines(text) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch value = strings.TrimSpace(value); {
			case strings.TrimSpace(key) != "ListenStream":
			case value == "":
				paths = nil
			default:
				paths = append(paths, value)
			}
		}
	}
	return paths
}

// parseListeners reads /proc/net/unix, proc_pid_net(5): the inodes of what listens, by path.
func parseListeners(text string) map[string][]string {
	const listens = "00010000" // __SO_ACCEPTCON, include/uapi/linux/net.h
	inodes := make(map[string][]string)
	for line := range strings.Lines(text) {
		if w := strings.Fields(line); len(w) == 8 && w[3] == listens {
			inodes[w[7]] = append(inodes[w[7]], w[6])
		}
	}
	return inodes
}
