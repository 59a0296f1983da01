package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docked is a host on which Docker runs, and systemd has the daemon's socket.
func docked() *hostFacts {
	f := healthy()
	f.running["dockerd"] = true
	f.daemon.pid = 700
	f.config.Docker = DockerSettings{Enable: "auto", Socket: "/run/docker/plugins/fairlead.sock", API: "/run/docker.sock"}
	f.docker = dockerFacts{
		installed: true, api: true, unit: []string{"/run/docker/plugins/fairlead.sock"}, leads: map[string]string{},
		socket: pluginFacts{state: pluginListens, holders: map[int]string{1: "systemd", 700: "fairlead"}},
	}
	return f
}

// TestDoctorFollowsDockersCalls spoils that in one way at a time. Every finding is told.
func TestDoctorFollowsDockersCalls(t *testing.T) {
	const path = "/run/docker/plugins/fairlead.sock"
	const kept = "ok calls at " + path + ", where systemd keeps its calls | "
	stopped := func(f *hostFacts) {
		f.daemon.err, f.daemon.pid = errNoDaemon, 0
		delete(f.docker.socket.holders, 700)
	}
	asleep := func(f *hostFacts) { delete(f.running, "dockerd") }
	moved := func(f *hostFacts, to string) {
		f.config.Docker.Socket, f.docker.unit = to, []string{to}
	}
	for _, c := range []struct {
		name  string
		spoil func(*hostFacts)
		want  []string // level, part of the message | part of the fix
	}{
		{"all is well", func(*hostFacts) {}, []string{kept}},
		{"no Docker", func(f *hostFacts) {
			asleep(f)
			f.docker.installed = false
			f.docker.socket = pluginFacts{state: pluginAbsent}
		}, nil},
		{"turned off", func(f *hostFacts) { f.config.Docker.Enable = "off"; f.docker.socket = pluginFacts{state: pluginAbsent} },
			[]string{"ok no networks of ours: enable is false | "}},
		{"config broken", func(f *hostFacts) { f.config.Docker = DockerSettings{} }, nil},
		{"a socket of its own", func(f *hostFacts) { f.docker.unit = nil; delete(f.docker.socket.holders, 1) },
			[]string{"ok calls at " + path + ", where nobody keeps its calls | "}},
		{"not root", func(f *hostFacts) { f.docker.socket.holders = nil }, []string{"ok where nobody keeps | "}},
		{"not root, in a directory of root's", func(f *hostFacts) { f.docker.socket = pluginFacts{} }, nil},
		{"the file is gone", func(f *hostFacts) { f.docker.socket = pluginFacts{state: pluginAbsent} },
			[]string{"fail can not call: nobody listens at " + path + " | systemctl restart fairlead"}},
		{"nobody listens", func(f *hostFacts) { f.docker.socket = pluginFacts{state: pluginStale} },
			[]string{"fail can not call: nobody listens | systemctl restart fairlead"}},
		{"another listens", func(f *hostFacts) { f.docker.socket.holders = map[int]string{812: "calico", 900: "calico"} },
			[]string{"fail can not call: calico (pid 812) listens at " + path + " | kill 812"}},
		{"the daemon under another name", func(f *hostFacts) { f.docker.socket.holders = map[int]string{700: "fl"} }, []string{"ok nobody keeps | "}},
		{"the daemon is down", stopped, []string{"warn waits with each call for the daemon | systemctl start fairlead"}},
		{"both are down", func(f *hostFacts) { stopped(f); asleep(f) }, []string{"ok its first call starts the daemon | "}},
		{"both are down, and nobody listens", func(f *hostFacts) { stopped(f); asleep(f); f.docker.socket = pluginFacts{state: pluginStale} },
			[]string{"warn nobody listens at " + path + ": containers on networks of ours | systemctl enable --now fairlead.socket"}},
		{"the daemon is silent", func(f *hostFacts) { f.daemon.err = fmt.Errorf("did not answer") }, nil},
		{"the unit listens elsewhere", func(f *hostFacts) {
			f.docker.unit = []string{"/run/docker/plugins/fl.sock"}
			delete(f.docker.socket.holders, 1)
		}, []string{
			"warn fairlead.socket listens at /run/docker/plugins/fl.sock, and socket is " + path + " | systemctl edit fairlead.socket # [Socket] ListenStream= ListenStream=" + path,
			"ok nobody keeps | ",
		}},
		{"the unit says /var/run", func(f *hostFacts) { f.docker.unit = []string{"/var" + path} }, []string{kept}},
		{"where Docker does not look", func(f *hostFacts) { moved(f, "/run/fairlead/docker/net.sock") }, []string{
			"warn looks for drivers in /run/docker/plugins, and socket is /run/fairlead/docker/net.sock | " +
				"mkdir -p /etc/docker/plugins && echo unix:///run/fairlead/docker/net.sock > /etc/docker/plugins/net.spec",
			"ok calls at /run/fairlead/docker/net.sock | ",
		}},
		{"a name of its own, in a directory of its own", func(f *hostFacts) { moved(f, "/var/run/docker/plugins/net/net.sock") }, []string{"ok calls at | "}},
		{"led to where Docker does not look", func(f *hostFacts) {
			moved(f, "/run/fairlead/net.sock")
			f.docker.leads["/etc/docker/plugins/net.spec"] = "unix:///run/fairlead/net.sock\n"
			f.docker.leads["/usr/lib/docker/plugins/net.spec"] = "unix:///run/old.sock\n" // read after the other
		}, []string{"ok calls at | "}},
		{"led elsewhere than where it does not look", func(f *hostFacts) {
			moved(f, "/run/fairlead/net.sock")
			f.docker.leads["/etc/docker/plugins/net.spec"] = "tcp://192.0.2.7:8080\n"
		}, []string{"fail /etc/docker/plugins/net.spec leads its calls elsewhere than to /run/fairlead/net.sock | rm /etc/docker/plugins/net.spec", "ok calls at | "}},
		{"a file of an older driver", func(f *hostFacts) {
			f.docker.leads["/usr/lib/docker/plugins/fairlead.json"] = `{"Addr":"unix:///run/old.sock"}`
		},
			[]string{"warn leads its calls elsewhere whenever there is no socket | rm /usr/lib/docker/plugins/fairlead.json", kept}},
		{"a file of an older driver, and no socket", func(f *hostFacts) {
			f.docker.leads["/etc/docker/plugins/fairlead.spec"] = "unix:///run/old.sock"
			f.docker.socket = pluginFacts{state: pluginAbsent}
		}, []string{
			"fail leads its calls elsewhere, since there is no socket | rm /etc/docker/plugins/fairlead.spec",
			"fail can not call | systemctl restart fairlead",
		}},
		{"no API", func(f *hostFacts) { f.docker.api = false },
			[]string{kept, "warn names of its containers are not learnt: no socket /run/docker.sock | docker context inspect"}},
		{"no API wanted", func(f *hostFacts) { f.docker.api, f.config.Docker.API = false, "" }, []string{kept}},
		{"no API of a Docker that is down", func(f *hostFacts) { f.docker.api = false; asleep(f) }, []string{kept}},
		{"a swarm", func(f *hostFacts) { f.docker.swarm = true }, []string{kept, "ok is part of a swarm | "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := docked()
			c.spoil(f)
			got := judgeDocker(f)
			if len(got) != len(c.want) {
				t.Fatalf("got %+v\nwant %q", got, c.want)
			}
			for i, want := range c.want {
				head, fix, _ := strings.Cut(want, " | ")
				level, message, _ := strings.Cut(head, " ")
				if string(got[i].Level) != level || !strings.Contains(got[i].Message, message) || !strings.Contains(got[i].Fix, fix) || fix == "" && got[i].Fix != "" {
					t.Errorf("got %+v\nwant %s", got[i], want)
				}
			}
		})
	}
}

func TestParseListens(t *testing.T) {
	unit := "[Socket]\n# ListenStream=/no\nListenStream=/run/a.sock\nListenStream = /run/b.sock\n"
	for want, dropIn := range map[string]string{
		"/run/a.sock /run/b.sock":             "[Socket]\nSocketMode=0600\n",
		"/run/a.sock /run/b.sock /run/c.sock": "[Socket]\nListenStream=/run/c.sock",
		"/run/c.sock":                         "[Socket]\nListenStream=\nListenStream=/run/c.sock\n",
	} {
		if got := strings.Join(parseListens([]string{unit, dropIn}), " "); got != want {
			t.Errorf("%q: %s, want %s", dropIn, got, want)
		}
	}
}

func TestParseListeners(t *testing.T) {
	const text = `Num       RefCount Protocol Flags    Type St Inode Path
ffff8881: 00000002 00000000 00010000 0001 01 26688 /run/docker/plugins/fairlead.sock
ffff8882: 00000003 00000000 00000000 0001 03 26689 /run/docker/plugins/fairlead.sock
ffff8883: 00000002 00000000 00010000 0001 01 26690 @abstract
ffff8884: 00000002 00000000 00010000 0001 01 26691 /run/docker/plugins/fairlead.sock
ffff8885: 00000003 00000000 00000000 0001 03 26692
`
	got := parseListeners(text)
	for path := range got {
		slices.Sort(got[path])
	}
	want := map[string][]string{"/run/docker/plugins/fairlead.sock": {"26688", "26691"}, "@abstract": {"26690"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
