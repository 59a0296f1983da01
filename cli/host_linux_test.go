package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/cli"
	"github.com/fairlead-net/fairlead/nettest"
)

// finding is one entry of `fairlead doctor -o json`.
type finding struct{ Check, Level, Message, Fix string }

// doctor runs the command on a host and returns the findings of one check.
func doctor(t *testing.T, h *nettest.Host, dir string) (found []finding, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := h.Command(ctx, "fairlead", "doctor", "-o", "json")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "FAIRLEAD_API_SOCKET="+filepath.Join(dir, "s"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	if err := json.Unmarshal(stdout.Bytes(), &found); err != nil {
		t.Fatalf("%v: %s%s", err, stdout.String(), stderr.String())
	}
	return found, cmd.ProcessState.ExitCode()
}

func of(found []finding, check string) finding {
	i := slices.IndexFunc(found, func(f finding) bool { return f.Check == check })
	if i < 0 {
		return finding{}
	}
	return found[i]
}

// mend runs the command of a finding as it was printed.
func mend(t *testing.T, h *nettest.Host, f finding) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := h.Command(ctx, "sh", "-c", f.Fix).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", f.Fix, err, out)
	}
}

// TestDoctorOnHost spoils a real host and lets the doctor's own commands mend it.
func TestDoctorOnHost(t *testing.T) {
	h, other := nettest.NewHost(t, "sick"), nettest.NewHost(t, "router")
	nettest.Wire(t, h, "uplink", other, "port1")
	dir := t.TempDir()
	found, code := doctor(t, h, dir)
	if f := of(found, "underlay"); f.Level != "fail" || code != 1 {
		t.Errorf("no default route: exit %d, %+v", code, f)
	}
	h.IP("address add 192.0.2.1/24 dev uplink")
	h.IP("link set uplink up")
	h.IP("route add default via 192.0.2.254")

	found, code = doctor(t, h, dir)
	for _, f := range found {
		if f.Level == "fail" {
			t.Errorf("%+v", f)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d on a host that is well", code)
	}
	if f := of(found, "links"); !strings.HasPrefix(f.Message, "veth and vxlan can be made") {
		t.Errorf("probes: %+v", f)
	}
	if f := of(found, "underlay"); f.Message != "uplink, MTU 1500" {
		t.Errorf("underlay: %+v", f)
	}

	spoil := func(argv ...string) {
		t.Helper()
		if out, err := h.Command(context.Background(), argv...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	spoil("iptables", "-P", "FORWARD", "DROP") // as Docker does: the daemon's own chain will mend that
	if found, code = doctor(t, h, dir); code != 0 || !slices.ContainsFunc(found, func(f finding) bool {
		return f.Check == "firewall" && f.Level == "ok" && strings.Contains(f.Message, "FAIRLEAD-FORWARD will accept")
	}) {
		t.Errorf("with a policy of DROP: exit code %d, %+v", code, found)
	}
	if f := of(found, "nat"); f.Level != "ok" {
		t.Errorf("%+v", f)
	}
	spoil("iptables", "-A", "FORWARD", "-j", "REJECT")
	spoil("nft", "add table inet site")
	spoil("nft", "add chain inet site forward { type filter hook forward priority 0; policy drop; }")
	for _, check := range []string{"firewall", "firewall"} {
		found, code = doctor(t, h, dir)
		f := of(found, check)
		if f.Level != "fail" || code != 1 {
			t.Fatalf("%s: exit %d, %+v", check, code, f)
		}
		t.Logf("%s: %s", f.Message, f.Fix)
		mend(t, h, f)
	}
	if found, code = doctor(t, h, dir); code != 0 {
		t.Errorf("after all was mended: exit code %d, %+v", code, found)
	}
}

// TestDoctorPort: the port of BGP is held by somebody else.
func TestDoctorPort(t *testing.T) {
	h := nettest.NewHost(t, "busy")
	var l net.Listener
	if err := h.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:179"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	found, _ := doctor(t, h, t.TempDir())
	f := of(found, "ports")
	if f.Level != "fail" || !strings.Contains(f.Message, "tcp port 179 is held by cli.test (pid ") {
		t.Errorf("%+v", f)
	}
}

// TestSocketPermission: a user who may not open the socket is told how to become one who may.
func TestSocketPermission(t *testing.T) {
	dir, err := os.MkdirTemp("", "fl") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin, err := exec.LookPath("fairlead")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	socket, program := filepath.Join(dir, "s"), filepath.Join(dir, "fairlead")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, mode := range map[string]os.FileMode{dir: 0o755, socket: 0o660, program: 0o755} {
		if path == program {
			err = os.WriteFile(path, text, mode)
		} else {
			err = os.Chmod(path, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "status", "--socket", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	want := "fairlead: cannot open " + socket + ": permission denied: run this as root, or join the group that may read it: usermod -aG fairlead $USER\n"
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestTerminal prints to a real terminal: its width bounds the lines, and colour is there unless somebody says no.
func TestTerminal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"address":"192.0.2.2","node":"a-node-with-quite-a-long-name","state":"established"},
			{"address":"192.0.2.3","state":"active","last_error":"connection refused"}]`))
	})}
	go s.Serve(l) //nolint:errcheck // ends with Close
	defer s.Close()
	tests := []struct {
		name, term, noColor string
		width               uint16
		colour              bool
	}{
		{"colour", "xterm", "", 80, true},
		{"narrow", "xterm", "", 50, true},
		{"NO_COLOR", "xterm", "1", 80, false},
		{"dumb", "dumb", "", 80, false},
		{"no TERM", "", "", 80, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("TERM", test.term)
			t.Setenv("NO_COLOR", test.noColor)
			t.Setenv("COLUMNS", "")
			text := onTerminal(t, test.width, "peers", "--socket", socket)
			if got := strings.Contains(text, "\x1b["); got != test.colour {
				t.Errorf("colour %v, want %v: %q", got, test.colour, text)
			}
			if test.colour != strings.Contains(text, "\x1b[32mestablished\x1b[0m") {
				t.Errorf("established is not green: %q", text)
			}
			for line := range strings.Lines(text) {
				for _, sgr := range []string{"\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"} {
					line = strings.ReplaceAll(line, sgr, "")
				}
				if n := len([]rune(strings.TrimRight(line, "\r\n"))); n > int(test.width) {
					t.Errorf("%d columns of %d: %q", n, test.width, line)
				}
			}
		})
	}
}

// onTerminal runs a command with a terminal of that many columns as its output.
func onTerminal(t *testing.T, width uint16, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	code := cli.Execute(context.Background(), program(), args, slave, &stderr)
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	// With the other end closed, what it has written comes first and then EIO.
	text, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	return string(text)
}
