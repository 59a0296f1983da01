package story_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// send makes a request and returns the status and the error that the body says.
func send(t *testing.T, n *nettest.Node, method, path string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://fairlead"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := n.Client().Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	var f agent.Failure
	if err := json.Unmarshal(text, &f); err != nil {
		f.Error = string(text)
	}
	return res.StatusCode, f.Error
}

func TestBadRequestsGetClearAnswers(t *testing.T) {
	n := alone(t)
	before := n.State()
	deep := strings.Repeat(`{"labels":`, 20000)
	labels := func(count, size int) string {
		var parts []string
		for i := range count {
			parts = append(parts, fmt.Sprintf(`"k%d":"%s"`, i, strings.Repeat("v", size)))
		}
		return `{"name":"x","labels":{` + strings.Join(parts, ",") + `}}`
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/endpoints", ``, 400},
		{"POST", "/v1/endpoints", `null`, 400},
		{"POST", "/v1/endpoints", `[]`, 400},
		{"POST", "/v1/endpoints", `"name"`, 400},
		{"POST", "/v1/endpoints", `{"name":7}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","pid":"1"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","pid":-1}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","pid":99999999999999999999}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","ips":["ten"]}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","ips":["10.88.1.1","10.88.1.2"]}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","ips":[""]}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","ips":["fe80::1%eth0"]}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","unknown":1}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x"} {"name":"y"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x"`, 400},
		{"POST", "/v1/endpoints", `{"name":"../../etc"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"a/b"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"a\u0000b"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"` + strings.Repeat("n", 129) + `"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","netns":"/etc/passwd"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","netns":"../x"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","netns":"` + strings.Repeat("/x", 5000) + `"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","ifname":"a b"}`, 400},
		{"POST", "/v1/endpoints", `{"name":"x","ifname":"lo"}`, 400},
		{"POST", "/v1/endpoints", deep, 400},
		{"POST", "/v1/endpoints", labels(65, 1), 400},
		{"POST", "/v1/endpoints", labels(1, 2000), 400},
		{"POST", "/v1/endpoints", `{"name":"` + strings.Repeat("n", 2<<20) + `"}`, 413},
		{"GET", "/v1/endpoints/none", ``, 404},
		{"GET", "/v1/endpoints/%00", ``, 404},
		{"DELETE", "/v1/endpoints/none", ``, 200},
		{"DELETE", "/v1/leases/ten", ``, 400},
		{"POST", "/v1/leases", `{"owner":""}`, 400},
		{"POST", "/v1/leases", `{"owner":"o","pool":"none"}`, 404},
		{"POST", "/v1/leases", `{"owner":"o","address":"192.0.2.9"}`, 400},
		{"POST", "/v1/status", ``, 404},
		{"PATCH", "/v1/endpoints", ``, 404},
		{"GET", "/", ``, 404},
		{"GET", "/v2/status", ``, 404},
	} {
		status, text := send(t, n, c.method, c.path, strings.NewReader(c.body))
		if status != c.status || status != 200 && text == "" || len(text) > 32<<10 {
			t.Errorf("%s %s %.60s: %d %.200q, want %d", c.method, c.path, c.body, status, text, c.status)
		}
	}
	nothingLeft(t, before, n.State())
	if s := show[agent.Status](t, n, "status"); !s.Ready || s.Endpoints != 0 {
		t.Errorf("%+v", s)
	}
}

// endless is a body without an end.
type endless struct{ sent int }

func (e *endless) Read(b []byte) (int, error) {
	if e.sent == 0 {
		e.sent++
		return copy(b, `{"name":"`), nil
	}
	for i := range b {
		b[i] = 'x'
	}
	e.sent += len(b)
	return len(b), nil
}

func TestAnEndlessBodyIsCutOff(t *testing.T) {
	n := alone(t)
	body := &endless{}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://fairlead/v1/endpoints", body)
	if err != nil {
		t.Fatal(err)
	}
	// The daemon hangs up: the client sees either the answer or that its writing failed.
	if res, err := n.Client().Do(req); err == nil {
		defer res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("answered %s", res.Status)
		}
	}
	if body.sent > 64<<20 {
		t.Errorf("the daemon took %d bytes", body.sent)
	}
	n.WaitReady(time.Second)
}

func TestSlowAndManyClientsDoNotHoldOthersUp(t *testing.T) {
	n := alone(t)
	var slow []net.Conn
	for i := range 500 {
		c, err := net.Dial("unix", n.Socket())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.Close()
		slow = append(slow, c)
		// A third says nothing, a third stops in the header, a third in the body.
		words := []string{"", "POST /v1/endpoints HTTP/1.1\r\nHost: f", "POST /v1/endpoints HTTP/1.1\r\nHost: f\r\nContent-Length: 1000\r\n\r\n{"}[i%3]
		if _, err := c.Write([]byte(words)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	h := nettest.NewHost(t, "c")
	begun := time.Now()
	n.Fairlead("attach", "c", "--netns", h.Path)
	n.Fairlead("status")
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("beside slow clients an attach and a status took %v", took)
	}
	var group errgroup.Group
	for range 50 {
		group.Go(func() error {
			for range 20 {
				var s agent.Status
				if err := n.Get("status", &s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	// Whoever has begun a request and does not go on is cut off.
	for i, c := range slow {
		if i%3 == 0 {
			continue // an idle connection costs nothing, and may stay for a minute
		}
		if err := c.SetReadDeadline(begun.Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatalf("connection %d is still open after %v: %v", i, time.Since(begun), err)
		}
	}
	if open := descriptors(t, n.Pid()); open > 300 {
		t.Errorf("the daemon holds %d descriptors", open)
	}
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// clientVariable is set to a socket where this program is started again as another user's client.
const clientVariable = "STORY_CLIENT"

// asNobody runs the same requests as a user who is not root.
func asNobody(t *testing.T, n *nettest.Node, group uint32) map[string]string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	// The directory of `go test` is closed to others.
	copied := n.Dir + "/client"
	if err := os.WriteFile(copied, text, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{n.Dir + "/..", n.Dir, n.RunDir()} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), copied)
	cmd.Env = append(os.Environ(), clientVariable+"="+n.Socket())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: group}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("client: %v: %s", err, out)
	}
	return decode[map[string]string](t, string(out))
}

// client asks everything that the API has and prints the status of each answer as JSON.
func client(socket string) int {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	answers := make(map[string]string)
	for _, ask := range []string{
		"GET /v1/status", "GET /v1/endpoints", "GET /v1/peers", "GET /v1/routes", "GET /v1/leases", "GET /v1/ports",
		"POST /v1/endpoints", "DELETE /v1/endpoints/web", "POST /v1/leases", "DELETE /v1/leases/10.88.1.1",
		"POST /v1/reload", "POST /v1/drain", "POST /v1/uninstall",
	} {
		method, path, _ := strings.Cut(ask, " ")
		req, err := http.NewRequestWithContext(context.Background(), method, "http://fairlead"+path, bytes.NewReader([]byte(`{"name":"x"}`)))
		if err == nil {
			var res *http.Response
			if res, err = c.Do(req); err == nil {
				answers[ask] = res.Status[:3]
				_ = res.Body.Close()
			}
		}
		if err != nil {
			answers[ask] = err.Error()
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(answers) // the test sees that nothing came
	return 0
}

func TestOnlyRootChangesThings(t *testing.T) {
	n := alone(t)
	n.Attach("web")
	before := n.State()
	info, err := os.Stat(n.Socket())
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket has the mode %v, %v", info.Mode(), err)
	}
	for ask, answer := range asNobody(t, n, 65534) {
		if !strings.Contains(answer, "permission denied") {
			t.Errorf("nobody: %s: %s", ask, answer)
		}
	}
	// As a member of the socket's group one may look.
	if err := os.Chown(n.Socket(), -1, 4711); err != nil {
		t.Fatal(err)
	}
	for ask, answer := range asNobody(t, n, 4711) {
		want := "403"
		if strings.HasPrefix(ask, "GET ") {
			want = "200"
		}
		if answer != want {
			t.Errorf("a member: %s: %s, want %s", ask, answer, want)
		}
	}
	nothingLeft(t, before, n.State())
	if s := show[agent.Status](t, n, "status"); s.Drained || s.Endpoints != 1 {
		t.Errorf("%+v", s)
	}
}
