package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/fairlead-net/fairlead/nettest"
)

// site is two hosts, on one cable or with a router between them.
type site struct {
	routed bool
	hosts  [2]*nettest.Host
	ips    [2]netip.Addr
	dirs   [2]string // of each host's files
}

// newSite makes the hosts and their cables, as a card with the usual 1,500 bytes would give.
func newSite(t nettest.T, dir string, routed bool) site {
	t.Helper()
	s := site{routed: routed, ips: [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}}
	for i, name := range []string{"a", "b"} {
		s.hosts[i] = nettest.NewHost(t, name)
		settle(s.hosts[i])
		s.dirs[i] = filepath.Join(dir, name)
		if err := os.MkdirAll(s.dirs[i], 0o755); err != nil {
			t.Fatalf("make directory: %v", err)
		}
	}
	if !routed {
		nettest.Wire(t, s.hosts[0], "eth0", s.hosts[1], "eth0")
		for i, h := range s.hosts {
			h.Batch(fmt.Sprintf("addr add %v/24 dev eth0", s.ips[i]), fmt.Sprintf("route add default via %v", s.ips[1-i]))
		}
		return s
	}
	s.ips[1] = netip.MustParseAddr("198.51.100.2")
	router := nettest.NewHost(t, "router")
	settle(router)
	for i, h := range s.hosts {
		gateway := strings.TrimSuffix(s.ips[i].String(), fmt.Sprint(i+1)) + "254"
		nettest.Wire(t, h, "eth0", router, fmt.Sprint("eth", i))
		router.Batch(fmt.Sprintf("addr add %s/24 dev eth%d", gateway, i))
		h.Batch(fmt.Sprintf("addr add %v/24 dev eth0", s.ips[i]), "route add default via "+gateway)
	}
	router.Sysctl("net/ipv4/ip_forward", "1")
	return s
}

// settle gives a namespace what every one of a comparison has: no congestion control that looks at the clock, and ports
// of closed connections that are free at once, or they would be used up within seconds.
func settle(h *nettest.Host) {
	h.Sysctl("net/ipv4/tcp_congestion_control", wanted)
	h.Sysctl("net/ipv4/tcp_max_tw_buckets", "0")
}

// path is the way between the hosts themselves.
func (s site) path() path { return straight(s.hosts[0], s.hosts[1], s.ips[1]) }

// attempt is the T of something that may be impossible here: then it is taken down again, and the play goes on.
type attempt struct {
	nettest.T
	mu       sync.Mutex
	cleanups []func()
	failed   bool
	log      string // the first that was shown
}

// impossible unwinds an attempt.
type impossible struct{ error }

// try builds something, and returns why that is impossible.
func try(t nettest.T, build func(nettest.T) error) (why error) {
	t.Helper()
	a := &attempt{T: t}
	t.Cleanup(a.clear)
	defer func() {
		r := recover()
		if i, ours := r.(impossible); ours {
			why = i.error
		} else if r != nil {
			panic(r) // the play was interrupted
		}
		if why != nil {
			a.failed = true
			a.clear()
			why = a.explain(why)
		}
	}()
	return build(a)
}

func (a *attempt) Fatalf(format string, args ...any) {
	a.Helper()
	a.failed = true
	panic(impossible{fmt.Errorf(format, args...)})
}

// Logf keeps the first log of a daemon besides.
func (a *attempt) Logf(format string, args ...any) {
	a.Helper()
	a.mu.Lock()
	if a.log == "" {
		a.log = fmt.Sprintf(format, args...)
	}
	a.mu.Unlock()
	a.T.Logf(format, args...)
}

// explain adds what a daemon said last to the news that it has ended.
func (a *attempt) explain(why error) error {
	lines := strings.Split(strings.TrimSpace(a.log), "\n")
	if !strings.Contains(why.Error(), "has ended") || a.log == "" {
		return why
	}
	return fmt.Errorf("%w: %s", why, lines[len(lines)-1])
}

func (a *attempt) Failed() bool { return a.failed || a.T.Failed() }

func (a *attempt) Cleanup(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cleanups = append(a.cleanups, f)
}

func (a *attempt) clear() {
	for {
		a.mu.Lock()
		last := len(a.cleanups) - 1
		if last < 0 {
			a.mu.Unlock()
			return
		}
		undo := a.cleanups[last]
		a.cleanups = a.cleanups[:last]
		a.mu.Unlock()
		undo()
	}
}

// short is the first line of an error, for a table.
func short(err error) string {
	if err == nil {
		return ""
	}
	text, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
	text = regexp.MustCompile(`/\S*/`).ReplaceAllString(text, "") // what directories are called here says nothing
	const most = 200
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strings.ReplaceAll(text, "|", "/")
}

// errAbsent is of a program that this machine does not have.
var errAbsent = errors.New("not installed")

// dialOn connects from a host, whatever thread asks.
func dialOn(h *nettest.Host) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = h.Do(func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return c, err
	}
}
