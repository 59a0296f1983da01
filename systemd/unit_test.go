package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// exposure is what `systemd-analyze security` (systemd 252) says of the service: 0 is sealed, 10 is open. What is left
// is root, CAP_SYS_ADMIN, CAP_NET_ADMIN and the host's network, which are the job; the unit's comments say why.
const exposure = 3.2

func TestSystemdAcceptsTheUnit(t *testing.T) {
	text := read(t, "fairlead.service")
	if out, err := verify(t, text); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	broken := strings.Replace(text, "Restart=on-failure", "Restart=on-failur", 1)
	if out, _ := verify(t, broken); !strings.Contains(out, "restart specifier") {
		t.Errorf("systemd-analyze verify finds nothing in a broken unit: %q", out)
	}
	socket := filepath.Join(filepath.Dir(write(t, text)), "fairlead.socket")
	check := func() string {
		out, _ := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=one", socket).CombinedOutput()
		return string(out)
	}
	if out := check(); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	if err := os.WriteFile(socket, []byte(strings.Replace(read(t, "fairlead.socket"), "0600", "0999", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := check(); !strings.Contains(out, "0999") {
		t.Errorf("systemd-analyze verify finds nothing in a broken socket: %q", out)
	}
}

func TestServiceIsNoMoreExposedThanItsJobAsks(t *testing.T) {
	file := write(t, read(t, "fairlead.service"))
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", file).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	found := regexp.MustCompile(`Overall exposure level for fairlead.service: ([0-9.]+)`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("no score in:\n%s", out)
	}
	score, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("exposure %.1f of 10", score)
	if score > exposure {
		t.Errorf("exposure %.1f, was %.1f:\n%s", score, exposure, out)
	}
}

func TestUnitKeepsItsPromises(t *testing.T) {
	unit := settings(read(t, "fairlead.service"))
	for key, want := range map[string][]string{
		"Type":                     {"notify"},
		"NotifyAccess":             {"main"},
		"WatchdogSec":              {"30s"},
		"Restart":                  {"on-failure"},
		"KillMode":                 {"mixed"},
		"ExecStart":                {"/usr/local/bin/fairlead run"},
		"ExecReload":               {"/usr/local/bin/fairlead reload"},
		"RuntimeDirectoryPreserve": {"yes"},
		"StateDirectoryMode":       {"0700"},
		// A dependency that fails or restarts must not take the network with it, nor the other way round.
		"Requires": nil, "Requisite": nil, "BindsTo": nil, "PartOf": nil, "Upholds": nil, "RequiredBy": nil,
		// They would hide the namespaces and files that the daemon works on.
		"ProtectKernelTunables": nil, "MountFlags": nil, "ProcSubset": nil,
		// Nothing of ours may go when the service stops.
		"ExecStop": nil, "ExecStopPost": nil,
	} {
		if got := unit[key]; !slices.Equal(got, want) {
			t.Errorf("%s=%q, want %q", key, got, want)
		}
	}
	if before := strings.Join(unit["Before"], " "); !strings.Contains(before, "docker.service") {
		t.Errorf("Before=%s lacks docker.service", before)
	}
	socket := settings(read(t, "fairlead.socket"))
	for key, want := range map[string][]string{
		"ListenStream":       {"/run/docker/plugins/fairlead.sock"},
		"SocketMode":         {"0600"},
		"FileDescriptorName": {"docker"},
		"Before":             {"docker.service"},
		"WantedBy":           {"sockets.target docker.service"},
		// Docker must not need it, nor it Docker.
		"Requires": nil, "BindsTo": nil, "PartOf": nil, "RequiredBy": nil, "After": nil, "Wants": nil,
	} {
		if got := socket[key]; !slices.Equal(got, want) {
			t.Errorf("fairlead.socket: %s=%q, want %q", key, got, want)
		}
	}
	for key, want := range map[string][]string{"Sockets": {"fairlead.socket"}, "Also": {"fairlead.socket"}} {
		if got := unit[key]; !slices.Equal(got, want) {
			t.Errorf("%s=%q, want %q", key, got, want)
		}
	}
}

func TestDropInsNameOurLinksAndNoOthers(t *testing.T) {
	link := settings(read(t, "10-fairlead.link"))["OriginalName"]
	network := settings(read(t, "10-fairlead.network"))["Name"]
	if !slices.Equal(link, network) {
		t.Errorf("the .link is about %v, the .network about %v", link, network)
	}
	manager := settings(read(t, "NetworkManager-fairlead.conf"))["match-device"]
	for globs, separator := range map[string]string{
		strings.Join(network, ""): " ",
		strings.ReplaceAll(strings.Join(manager, ""), "interface-name:", ""): ",",
	} {
		for name, want := range map[string]bool{
			"fl0123456789": true, "flabcdefabcd": true, "flvxlan": true, "flvxlan6": true, "flipip": true, "flgre": true,
			"flannel.1": false, "eth0": false, "docker0": false, "vethfl01234": false, "fl0": false,
		} {
			got := slices.ContainsFunc(strings.Split(globs, separator), func(glob string) bool {
				ok, err := filepath.Match(glob, name)
				return err == nil && ok
			})
			if got != want {
				t.Errorf("%s matched by %q: %t, want %t", name, globs, got, want)
			}
		}
	}
}

// verify runs `systemd-analyze verify` on a unit and returns what it complains about.
func verify(t *testing.T, text string) (string, error) {
	t.Helper()
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", write(t, text)).CombinedOutput()
	return string(out), err
}

// write puts the unit where systemd can check it, beside its socket: the binary that it names is made to exist.
func write(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "fairlead")
	if err := os.WriteFile(binary, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "fairlead.service")
	text = strings.ReplaceAll(text, "/usr/local/bin/fairlead", binary)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fairlead.socket"), []byte(read(t, "fairlead.socket")), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// settings are the key=value lines of a unit or drop-in, whatever their section.
func settings(text string) map[string][]string {
	found := map[string][]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(line, "#") {
			found[key] = append(found[key], value)
		}
	}
	return found
}
