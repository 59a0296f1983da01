package bgp_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/nettest"
)

// A speaker of these tests is a process of its own, in a network namespace of its own, since GoBGP can be ended only
// with its process. It is this test binary, called with speakerFlag and commanded by lines of JSON.

const (
	speakerFlag = "FAIRLEAD_TEST_SPEAKER"
	debugFlag   = "FAIRLEAD_TEST_DEBUG" // set by hand, to see what GoBGP says when a test fails
)

func TestMain(m *testing.M) {
	if config := os.Getenv(speakerFlag); config != "" {
		os.Exit(speak(config, os.Stdin, os.Stdout))
	}
	flag.Parse()
	if runtime.GOMAXPROCS(0) < waiting {
		_ = flag.Set("test.parallel", strconv.Itoa(waiting))
	}
	os.Exit(m.Run())
}

// waiting is how many tests at least may run at once: most of them wait for a timer most of the time.
const waiting = 4

// command is a line to a speaker.
type command struct {
	Announce *[]bgp.Announcement
	SetPeers *bgp.Config
	Close    bool
}

// event is a line from a speaker.
type event struct {
	At       time.Time
	Reply    bool // it answers a command
	Error    string
	Routes   []bgp.Route
	Complete bool
	Peers    []bgp.PeerStatus
}

func speak(config string, in io.Reader, out io.Writer) int {
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	tell := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		e.At = time.Now()
		_ = enc.Encode(e)
	}
	level := slog.LevelInfo
	if os.Getenv(debugFlag) != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	var cfg bgp.Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		tell(event{Error: err.Error()})
		return 1
	}
	s, err := bgp.Start(cfg, log)
	if err != nil {
		tell(event{Error: err.Error()})
		return 1
	}
	tell(event{})
	go func() {
		for range s.Changed() {
			routes, complete := s.Routes()
			tell(event{Routes: routes, Complete: complete, Peers: s.Peers()})
		}
	}()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			tell(event{Reply: true, Error: err.Error()})
			continue
		}
		switch {
		case c.Announce != nil:
			err = s.Announce(*c.Announce)
		case c.SetPeers != nil:
			err = s.SetPeers(*c.SetPeers)
		case c.Close:
			err = s.Close()
		default:
			err = nil
		}
		e := event{Reply: true, Peers: s.Peers()}
		e.Routes, e.Complete = s.Routes()
		if err != nil {
			e.Error = err.Error()
		}
		tell(e)
		if c.Close {
			return 0
		}
	}
	return 0
}

// speaker is the test's end of such a process.
type speaker struct {
	t       testing.TB
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies chan event
	logs    *logs

	mu   sync.Mutex
	seen []event // what was so at every poke, in order
}

// logs is what a speaker logged.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// launch starts a speaker on the host; it is killed at the end of the test.
func launch(t testing.TB, h *nettest.Host, cfg bgp.Config, env ...string) (*speaker, error) {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &speaker{t: t, name: h.Name, replies: make(chan event, 1), logs: new(logs)}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = h.Command(t.Context(), exe)
	s.cmd.Env = append(append(os.Environ(), env...), speakerFlag+"="+string(text))
	s.cmd.Stderr = s.logs
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make(chan event, 1)
	go s.read(out, first)
	t.Cleanup(func() {
		s.kill()
		if ourRace(s.logs.String()) {
			t.Errorf("%s has a data race", s.name)
		}
		if t.Failed() {
			t.Logf("%s logged:\n%s", s.name, s.logs)
		}
	})
	e := <-first
	if e.Error != "" {
		return nil, fmt.Errorf("%s", e.Error)
	}
	return s, nil
}

func start(t testing.TB, h *nettest.Host, cfg bgp.Config, announce ...bgp.Announcement) *speaker {
	t.Helper()
	s, err := launch(t, h, cfg)
	if err != nil {
		t.Fatalf("start %s: %v", h.Name, err)
	}
	s.announce(announce...)
	return s
}

func (s *speaker) read(out io.Reader, first chan<- event) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<24)
	started := false
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			e.Error = err.Error() + ": " + lines.Text()
		}
		switch {
		case !started:
			started = true
			first <- e
		case e.Reply:
			s.replies <- e
		default:
			s.mu.Lock()
			s.seen = append(s.seen, e)
			s.mu.Unlock()
		}
	}
	if !started {
		first <- event{Error: "the speaker ended: " + s.logs.String()}
	}
	close(s.replies)
}

func (s *speaker) do(c command) event {
	s.t.Helper()
	line, err := json.Marshal(c)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		s.t.Fatalf("command %s: %v", s.name, err)
	}
	e, ok := <-s.replies
	if !ok {
		s.t.Fatalf("%s ended", s.name)
	}
	return e
}

func (s *speaker) announce(all ...bgp.Announcement) {
	s.t.Helper()
	all = append([]bgp.Announcement{}, all...) // not null in JSON
	if e := s.do(command{Announce: &all}); e.Error != "" {
		s.t.Fatalf("%s announces: %s", s.name, e.Error)
	}
}

func (s *speaker) setPeers(cfg bgp.Config) {
	s.t.Helper()
	if e := s.do(command{SetPeers: &cfg}); e.Error != "" {
		s.t.Fatalf("%s sets its peers: %s", s.name, e.Error)
	}
}

func (s *speaker) now() event { s.t.Helper(); return s.do(command{}) }

// peer is the session with the peer as it is now.
func (s *speaker) peer(a string) bgp.PeerStatus {
	s.t.Helper()
	e := s.now()
	i := slices.IndexFunc(e.Peers, func(p bgp.PeerStatus) bool { return p.Address == addr(a) })
	if i < 0 {
		s.t.Fatalf("%s has no peer %s", s.name, a)
	}
	return e.Peers[i]
}

// kill ends the speaker as kill -9 does and waits until it is gone.
func (s *speaker) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	_ = s.cmd.Wait()
}

// until waits for the condition and returns how long that took.
func (s *speaker) until(what string, limit time.Duration, ok func(event) bool) time.Duration {
	s.t.Helper()
	began := time.Now()
	for {
		e := s.now()
		if ok(e) {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			s.t.Fatalf("%s: %s: not within %v\nroutes %v\npeers %+v", s.name, what, limit, e.Routes, e.Peers)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// mark is a moment in what a speaker saw.
type mark struct {
	events int
	routes string
}

func (s *speaker) mark() mark {
	s.t.Helper()
	routes := fmt.Sprint(s.now().Routes)
	s.mu.Lock()
	defer s.mu.Unlock()
	return mark{len(s.seen), routes}
}

// poked waits until the condition was true at a poke since the mark.
func (s *speaker) poked(what string, since mark, ok func(event) bool) {
	s.t.Helper()
	s.until("is poked, "+what, 6*time.Second, func(event) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.seen[since.events:], ok)
	})
}

// changes are the sets of routes that the speaker told of since the mark and that differ from those it had then.
func (s *speaker) changes(since mark) [][]bgp.Route {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all [][]bgp.Route
	for _, e := range s.seen[since.events:] {
		if fmt.Sprint(e.Routes) != since.routes {
			all = append(all, e.Routes)
		}
	}
	return all
}

func has(routes []bgp.Route, prefix string, hops ...string) bool {
	for _, r := range routes {
		if r.Prefix == netip.MustParsePrefix(prefix) {
			return fmt.Sprint(r.NextHops) == fmt.Sprint(hops)
		}
	}
	return len(hops) == 0
}

func up(n int) func(event) bool {
	return func(e event) bool {
		left := n
		for _, p := range e.Peers {
			if p.State == "established" && p.EndOfRIB {
				left--
			}
		}
		return left <= 0
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func ann(prefix, hop string) bgp.Announcement {
	return bgp.Announcement{Prefix: netip.MustParsePrefix(prefix), NextHop: addr(hop)}
}

func accepting(e bgp.Encaps, prefix, hop string) bgp.Announcement {
	a := ann(prefix, hop)
	a.Encaps = e
	return a
}

// ourRace tells whether the race detector caught code of ours. GoBGP v3.37 reads a peer's capabilities for its API while
// its state machine writes them; both ends of that race are its own, and no lock of ours could end it.
func ourRace(log string) bool {
	ended := false // the next line is where one of the two accesses is
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if ended && !strings.HasPrefix(line, "github.com/osrg/gobgp/") {
			return true
		}
		access := strings.Contains(line, " at 0x") && strings.Contains(line, " by ")
		ended = access && (strings.HasPrefix(line, "Write") || strings.HasPrefix(line, "Read") || strings.HasPrefix(line, "Previous"))
	}
	return false
}
