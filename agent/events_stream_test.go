package agent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/nettest"
)

// following is a client of the stream.
type following struct {
	t     testing.TB
	body  io.ReadCloser
	lines *bufio.Scanner
}

// follow joins the readers; when it returns, the daemon has counted it.
func follow(t testing.TB, c *http.Client) *following {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://fairlead/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != "application/x-ndjson" {
		t.Fatalf("status %d, content type %q", resp.StatusCode, kind)
	}
	return &following{t: t, body: resp.Body, lines: bufio.NewScanner(resp.Body)}
}

// next is the next event; ok is false when the stream has ended.
func (f *following) next() (e agent.Event, ok bool) {
	f.t.Helper()
	if !f.lines.Scan() {
		return e, false
	}
	if err := json.Unmarshal(f.lines.Bytes(), &e); err != nil {
		f.t.Fatalf("%v: %s", err, f.lines.Text())
	}
	return e, true
}

// until is the next event of that word.
func (f *following) until(word string) agent.Event {
	f.t.Helper()
	for {
		e, ok := f.next()
		if !ok {
			f.t.Fatalf("the stream ended before %s: %v", word, f.lines.Err())
		}
		if e.Event == word {
			return e
		}
	}
}

func TestWhoFollowsIsTold(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	if err := a.Settled(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	f := follow(t, dial(t, a))
	box := nettest.NewHost(t, "box")
	web, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path, Labels: map[string]string{"tier": "<front>"}})
	if err != nil {
		t.Fatal(err)
	}
	e := f.until("endpoint-attached")
	if e.Endpoint == nil || e.Endpoint.ID != web.ID || e.Endpoint.Labels["tier"] != "<front>" || e.Node != "n1" || e.Revision == 0 {
		t.Errorf("told %+v of %+v", e, web)
	}
	if age := time.Since(e.Time); age < 0 || age > time.Minute {
		t.Errorf("it is said to have happened %v ago", age)
	}
	var fields map[string]any
	if err := json.Unmarshal(f.lines.Bytes(), &fields); err != nil || len(fields) != 5 {
		t.Errorf("more than one thing is told: %s", f.lines.Text())
	}

	w.hear(route("10.88.2.0/24", "192.0.2.2"))
	if e := f.until("route-added"); e.Route.Prefix.String() != "10.88.2.0/24" || !e.Route.Installed {
		t.Errorf("told %+v", e)
	}
	w.hear(route("10.88.2.0/24", "192.0.2.3"))
	if e := f.until("route-changed"); e.Route.Via[0].String() != "192.0.2.3" || e.Before.Via[0].String() != "192.0.2.2" {
		t.Errorf("told %+v", e)
	}
	w.routes.mu.Lock()
	clear(w.routes.table)
	w.routes.mu.Unlock()
	poke(w.rib)
	if e := f.until("repaired"); e.Repaired["route"] < 2 || len(e.Repaired) != 1 {
		t.Errorf("told %+v", e)
	}
	w.mu.Lock()
	w.peers = []bgp.PeerStatus{{Address: w.underlay.Address.Next(), State: "established", Since: time.Now()}}
	w.mu.Unlock()
	poke(w.rib)
	if e := f.until("peer-up"); e.Peer.Address != w.underlay.Address.Next() || e.Peer.State != "established" {
		t.Errorf("told %+v", e)
	}
	w.hear()
	f.until("route-removed")
	if err := a.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if e := f.until("endpoint-detached"); e.Endpoint.ID != web.ID {
		t.Errorf("told %+v", e)
	}
}

// TestASlowReaderHoldsUpNobody: passes go on while it sleeps, and when it wakes it is told how much it missed.
func TestASlowReaderHoldsUpNobody(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	if err := a.Settled(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	c := dial(t, a)
	slow := follow(t, c)
	const most = 2000
	var some []bgp.Route
	for i := range most {
		some = append(some, route(fmt.Sprintf("10.88.%d.%d/32", 2+i/250, i%250), "192.0.2.2"))
	}
	rounds := 2*agent.FeedSize/most + 2
	for i := range rounds {
		want := most * (1 - i%2)
		w.hear(some[:want]...)
		begun := time.Now()
		eventually(t, "a pass beside a reader that sleeps", func() bool { return len(a.Routes()) == want })
		t.Logf("%d routes after %v", want, time.Since(begun))
	}
	quick := follow(t, c)
	last := route("10.88.250.0/24", "192.0.2.2")
	isLast := func(e agent.Event) bool { return e.Event == "route-added" && e.Route.Prefix == last.Prefix }
	w.hear(last)
	for !isLast(quick.until("route-added")) {
	}
	seen, lost, times := 0, 0, 0
	for e, ok := slow.next(); !isLast(e); e, ok = slow.next() {
		switch {
		case !ok:
			t.Fatalf("the stream of the slow reader ended: %v", slow.lines.Err())
		case e.Event == "lost":
			times++
			lost += e.Count
			if e.Time.IsZero() || e.Node != "n1" || e.Revision == 0 {
				t.Errorf("lost is told without the rest: %+v", e)
			}
		default:
			seen++
		}
	}
	t.Logf("%d events seen, %d lost, told %d times", seen, lost, times)
	if lost == 0 || seen == 0 || seen+lost != rounds*most {
		t.Errorf("%d events seen and %d lost, want %d together", seen, lost, rounds*most)
	}
}

func TestReadersAreCountedAndBounded(t *testing.T) {
	a := start(t, newWorld(), config("10.88.1.0/24"))
	c := dial(t, a)
	var all []*following
	for range agent.MostReaders {
		all = append(all, follow(t, c))
	}
	status, body := call(t, c, "GET", "events", "")
	var f agent.Failure
	if err := json.Unmarshal([]byte(body), &f); err != nil || status != http.StatusServiceUnavailable || !strings.Contains(f.Error, "32") {
		t.Errorf("one too many: %d %s", status, body)
	}
	if status, _ := call(t, c, "GET", "status", ""); status != http.StatusOK {
		t.Errorf("other calls are answered with %d", status)
	}
	if n := metric(t, a, "fairlead_event_readers"); n != agent.MostReaders {
		t.Errorf("the metric says %v readers", n)
	}
	for _, one := range all[1:] {
		one.body.Close()
	}
	eventually(t, "their places are free", func() bool { return a.Readers() == 1 })
	again := follow(t, c)
	a.Tell(agent.Event{Event: "news"})
	for _, one := range []*following{all[0], again} {
		one.until("news")
	}
}

// metric is the sum of the series of a name that have all these labels.
func metric(t testing.TB, a *agent.Agent, name string, labels ...string) float64 {
	t.Helper()
	families, err := a.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			has := 0
			for _, l := range m.GetLabel() {
				for _, want := range labels {
					if l.GetName()+"="+l.GetValue() == want {
						has++
					}
				}
			}
			if has == len(labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestTheEndOfTheAPIEndsStreams: who reads gets what there is, and who does not read holds up nothing.
func TestTheEndOfTheAPIEndsStreams(t *testing.T) {
	a := prepare(t, newWorld(), config("10.88.1.0/24"), &source{})
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := agent.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, l) }()
	c := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) },
	}}
	stalled, f := follow(t, c), follow(t, c)
	for range agent.FeedSize / 2 {
		a.Tell(agent.Event{Event: "long", Node: strings.Repeat("n", 1000)})
		f.until("long")
	}
	a.Tell(agent.Event{Event: "last"})
	begun := time.Now()
	stop()
	f.until("last")
	if e, ok := f.next(); ok || f.lines.Err() != nil {
		t.Errorf("after the last event: %+v, %v", e, f.lines.Err())
	}
	if err := <-ended; err != nil || time.Since(begun) > 4*time.Second {
		t.Errorf("the API ended after %v: %v", time.Since(begun), err)
	}
	for _, ok := stalled.next(); ok; _, ok = stalled.next() {
	}
	if stalled.lines.Err() == nil {
		t.Error("a stream that was cut off looks complete")
	}
}

// pipes is a listener without a kernel, for a clock that jumps.
type pipes struct {
	fresh chan net.Conn
	ended chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.fresh:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error {
	close(p.ended)
	return nil
}

func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// TestAQuietStreamLastsAndAStalledOneDoesNot: the deadlines of ordinary calls do not hold for a stream on which nothing
// happens, and a client that has stopped to read loses its place.
func TestAQuietStreamLastsAndAStalledOneDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := prepare(t, newWorld(), config("10.88.1.0/24"), &source{})
		l := pipes{make(chan net.Conn), make(chan struct{})}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- a.Serve(ctx, l) }()
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			l.fresh <- theirs
			return ours, nil
		}}
		f := follow(t, &http.Client{Transport: transport})
		for range 3 {
			time.Sleep(time.Hour)
			a.Tell(agent.Event{Event: "news"})
			f.until("news")
		}
		for range 100 { // more than the client's buffers take
			a.Tell(agent.Event{Event: "news", Node: strings.Repeat("n", 1000)})
		}
		time.Sleep(agent.LineLimit - time.Second)
		synctest.Wait()
		if n := a.Readers(); n != 1 {
			t.Errorf("%d readers while there is still time", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := a.Readers(); n != 0 {
			t.Errorf("%d readers after the time was over", n)
		}
		f.body.Close()
		transport.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
