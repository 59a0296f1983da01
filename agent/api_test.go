package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/fairlead-net/fairlead/agent"
)

// dial serves the agent's API on a socket of the test's own and returns a client for it.
func dial(t testing.TB, a *agent.Agent) *http.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s", "api.sock")
	l, err := agent.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, l) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &http.Client{Transport: transport}
}

func call(t testing.TB, c *http.Client, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://fairlead/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAPIRefusesWhatItDoesNotUnderstand(t *testing.T) {
	c := dial(t, start(t, newWorld(), config("10.88.1.0/24")))
	for _, q := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "endpoints", ``, 400, "body"},
		{"POST", "endpoints", `{"name":`, 400, "body"},
		{"POST", "endpoints", `{"name":"a"}{"name":"b"}`, 400, "follows"},
		{"POST", "endpoints", `{"nmae":"a"}`, 400, "nmae"},
		{"POST", "endpoints", `{"name":7}`, 400, "name"},
		{"POST", "endpoints", `{"name":"a","ips":["10.88.1.300"]}`, 400, "10.88.1.300"},
		{"POST", "endpoints", `{"name":"` + strings.Repeat("a", 2<<20) + `"}`, 413, "too large"},
		{"POST", "leases", `{"owner":"a b"}`, 400, "owner"},
		{"POST", "leases", `{"owner":"a","pool":"blue"}`, 404, "blue"},
		{"DELETE", "leases/ten", ``, 400, "ten"},
		{"GET", "endpoints/none", ``, 404, "none"},
		{"GET", "nothing", ``, 404, "nothing"},
		{"PUT", "endpoints", `{}`, 404, "PUT"},
	} {
		status, body := call(t, c, q.method, q.path, q.body)
		var f agent.Failure
		if err := json.Unmarshal([]byte(body), &f); err != nil || status != q.status || !strings.Contains(f.Error, q.says) {
			t.Errorf("%s %s %.40q: %d %s", q.method, q.path, q.body, status, body)
		}
	}
}

func TestReloadShowsEveryMistakeAndKeepsTheOldConfig(t *testing.T) {
	w := newWorld()
	src := &source{err: errors.New("f.toml:1:2: one\nf.toml:3:4: two")}
	a := startWith(t, w, config("10.88.1.0/24"), src)
	c := dial(t, a)
	status, body := call(t, c, "POST", "reload", "")
	var f agent.Failure
	if err := json.Unmarshal([]byte(body), &f); err != nil || status != 422 || len(f.Problems) != 2 || f.Problems[1] != "f.toml:3:4: two" {
		t.Fatalf("%d %s", status, body)
	}
	if got := a.Status().ConfigError; !strings.Contains(got, "f.toml:3:4: two") {
		t.Fatalf("status says %q", got)
	}
	src.mu.Lock()
	src.err, src.cfg = nil, config("10.88.2.0/24")
	src.mu.Unlock()
	if status, body = call(t, c, "POST", "reload", ""); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if s := a.Status(); s.ConfigError != "" || s.Pools[0].Block != "10.88.2.0/24" || !strings.Contains(w.text(), "announce 10.88.2.0/24") {
		t.Fatalf("%+v\n%s", s, w.text())
	}
}

func TestASocketThatAnswersIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	first, err := agent.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Listen(path); err == nil || !strings.Contains(err.Error(), "another fairlead") {
		t.Fatalf("second listen: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	second, err := agent.Listen(path) // what a killed daemon left is replaced
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestMetricsFollowPrometheusConventions(t *testing.T) {
	w := newWorld()
	w.hear(route("10.88.2.0/24", "192.0.2.2"))
	a := start(t, w, config("10.88.1.0/24"))
	eventually(t, "ready", func() bool { return a.Status().Ready })
	ctx, stop := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.ServeMetrics(ctx, l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(page)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", err, problems)
	}
	for _, line := range []string{
		`fairlead_routes{encap="direct"} 1`, `fairlead_ready 1`, `fairlead_pool_addresses{pool="default",state="total"} 256`,
		`fairlead_build_info{`, `fairlead_reconcile_passes_total{result="clean"}`, `fairlead_reconcile_writes_total{table="route"} 2`,
	} {
		if !bytes.Contains(page, []byte(line)) {
			t.Errorf("no %s in\n%s", line, page)
		}
	}
}

// FuzzAPI sends hostile bodies to everything that takes one: the answer is JSON, never a crash, and nothing is leased
// by a request that failed.
func FuzzAPI(f *testing.F) {
	a := start(f, newWorld(), config("10.88.1.0/24"))
	for _, path := range []string{"endpoints", "leases"} {
		for _, body := range []string{`{}`, `{"name":"a","netns":"/proc/self/ns/net"}`, `{"owner":"a","address":"10.88.1.9"}`, `[[[[`, "\x00", `{"pid":-1}`, `{"name":"a","labels":{"k":"v"},"ips":["::1"]}`} {
			f.Add(path, body)
		}
	}
	h := a.Handler()
	f.Fuzz(func(t *testing.T, path, body string) {
		path = []string{"endpoints", "leases"}[len(path)%2]
		req := httptest.NewRequest("POST", "/v1/"+path, strings.NewReader(body))
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, agent.AsRoot(req))
		if !json.Valid(rec.Body.Bytes()) {
			t.Fatalf("%d %q", rec.Code, rec.Body)
		}
		if rec.Code == http.StatusInternalServerError {
			t.Fatalf("%q: %s", body, rec.Body)
		}
	})
}
