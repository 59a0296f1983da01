package story_test

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// fastLife is a lab whose first host publishes the port of a container, which others use.
type fastLife struct {
	*nettest.Lab
	n                    *nettest.Node
	c, near, direct, far *nettest.Container
}

// TestTheFastPathComesAndGoesUnderTraffic tells one story of what happens to its programs.
func TestTheFastPathComesAndGoesUnderTraffic(t *testing.T) {
	t.Parallel()
	f := &fastLife{Lab: lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Underlay: nettest.Only4, Pools: []string{pool4, pool6}, RPFilter: 1, HoldTime: 9 * time.Second})}
	f.n = f.Node("n1")
	before := f.n.State()
	f.Start()
	f.c = f.n.Attach("web", "--publish", "7001:7001/tcp", "--publish", "7001:7001/udp")
	f.near, f.direct, f.far = f.n.Attach("near"), f.Node("n2").Attach("direct"), f.Node("n3").Attach("far")
	f.WaitFast(fastSoon)
	meetAll(t, []*nettest.Container{f.c, f.near, f.direct, f.far})
	t.Run("switched off and on", f.checkSwitch)
	t.Run("detached by hand", f.checkDetached)
	t.Run("killed and restarted", f.checkKilled)
	t.Run("without a daemon", f.checkDead)
	t.Run("uninstalled", func(t *testing.T) { f.checkUninstalled(t, before) })
}

// talk has all talk, by every way and through the published port. A kernel without IPIP takes nothing that comes in by it while
// the programs are away: connections get over that, datagrams are probed that way where the programs stay.
func (f *fastLife) talk(away bool) *traffic {
	tr := &traffic{}
	for from, targets := range map[*nettest.Container][]netip.Addr{
		f.c:      {f.direct.IP4, f.direct.IP6, f.far.IP4, f.far.IP6},
		f.near:   {f.c.IP4, f.c.IP6, f.n.Address4},
		f.direct: {f.c.IP4, f.n.Address4},
		f.far:    {f.c.IP6, f.n.Address4},
	} {
		for _, to := range targets {
			if !away || to != f.far.IP4 {
				tr.probes = append(tr.probes, from.Probe(to, 200/nettest.Slowness()))
			}
			tr.flows = append(tr.flows, from.Flows(to, 2))
		}
	}
	return tr
}

// idle opens a connection by each way, which says nothing until its word.
func (f *fastLife) idle(t *testing.T) (lines []net.Conn) {
	t.Helper()
	for from, targets := range map[*nettest.Container][]netip.Addr{
		f.c: {f.direct.IP4, f.far.IP4, f.far.IP6}, f.near: {f.c.IP4, f.c.IP6, f.n.Address4},
		f.direct: {f.n.Address4, f.c.IP6}, f.far: {f.n.Address4},
	} {
		for _, to := range targets {
			err := from.Do(func() error {
				line, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, 7001).String(), nettest.Patience(5*time.Second))
				if err == nil {
					t.Cleanup(func() { _ = line.Close() })
					lines = append(lines, line)
				}
				return err
			})
			if err != nil {
				t.Fatalf("%s: %v", from.Name, err)
			}
		}
	}
	return lines
}

// speak: each connection still carries a word and its answer.
func speak(t *testing.T, lines []net.Conn, when string) {
	t.Helper()
	for _, line := range lines {
		const word = "still there"
		_ = line.SetDeadline(time.Now().Add(nettest.Patience(5 * time.Second))) // what fails says so below
		_, err := line.Write([]byte(word))
		answer := make([]byte, len(word))
		if err == nil {
			_, err = io.ReadFull(line, answer)
		}
		if err == nil && string(answer) != word {
			err = fmt.Errorf("the answer is %q", answer)
		}
		if err != nil {
			t.Errorf("%s, idle until now, %v to %v: %v", when, line.LocalAddr(), line.RemoteAddr(), err)
		}
	}
}

// fastFiles are the pins of the host's fast path that begin with a word.
func fastFiles(t *testing.T, n *nettest.Node, prefix string) (files []string) {
	t.Helper()
	for _, path := range pinned(t, n) {
		if strings.HasPrefix(filepath.Base(filepath.Dir(path)), "fast-") && strings.HasPrefix(filepath.Base(path), prefix) {
			files = append(files, path)
		}
	}
	return files
}

// gone is an error while something of the host's fast path is in its kernel.
func gone(t *testing.T, n *nettest.Node) error {
	t.Helper()
	if programs, files := n.Programs(), fastFiles(t, n, ""); len(programs) > 0 || len(files) > 0 {
		return fmt.Errorf("%s still has %v, %q", n.Name, programs, files)
	}
	return nil
}

// carries: of what flows at the moment something goes by each of the host's ways past the stack.
func (f *fastLife) carries(t *testing.T) {
	t.Helper()
	before := f.n.FastCounts()
	nettest.Eventually(t, 5*time.Second, func() error {
		grown := f.n.FastCounts().Since(before)
		for _, way := range []string{"fast-local", "fast-direct", "fast-ipip", "fast-vxlan", "fast-from-direct", "fast-from-ipip", "fast-from-vxlan"} {
			if grown[nettest.FastCount{Way: way}] == 0 {
				return fmt.Errorf("%s: nothing goes by %s: %v", f.n.Name, way, grown)
			}
		}
		return nil
	})
}

// checkSwitch: every host's fast path is switched off, one after the other, and on again. Then all of what was said before
// goes on.
func (f *fastLife) checkSwitch(t *testing.T) {
	tr, late := f.talk(true), f.idle(t)
	before := f.n.Programs()
	f.carries(t)
	for _, mode := range []string{"off", "on"} {
		lines := f.idle(t)
		for _, n := range f.Nodes {
			n.WriteConfig(withFastpath(t, n, mode))
			if out := n.Fairlead("reload"); !strings.Contains(out, "fastpath") {
				t.Errorf("%s: the reload says: %s", n.Name, out)
			}
			if mode == "off" {
				nettest.Eventually(t, fastSoon, func() error { return gone(t, n) })
			} else {
				n.WaitFast(fastSoon)
			}
		}
		speak(t, lines, mode)
	}
	speak(t, late, "off and on")
	if now := f.n.Programs(); !maps.Equal(now, before) {
		t.Errorf("programs were at %v, and are at %v", before, now)
	}
	f.carries(t)
	tr.end(t)
}

// checkDetached: what somebody takes from its place is missed by nobody, and comes back.
func (f *fastLife) checkDetached(t *testing.T) {
	tr, before := f.talk(true), f.n.Programs()
	links := fastFiles(t, f.n, "link-")
	if len(links) == 0 || len(before) != len(links) {
		t.Fatalf("pinned are %q, and programs are at %v", links, before)
	}
	for _, path := range links {
		if out, err := command("bpftool", "link", "detach", "pinned", path); err != nil {
			t.Fatalf("detach %s: %v: %s", path, err, out)
		}
	}
	took := nettest.Eventually(t, fastSoon, func() error {
		if now := f.n.Programs(); !maps.Equal(now, before) {
			return fmt.Errorf("programs were at %v, and are at %v", before, now)
		}
		return nil
	})
	t.Logf("back after %v", took)
	f.n.WaitFast(fastSoon)
	f.carries(t)
	tr.end(t)
}

// checkKilled: whenever a daemon is killed, the next one finds its programs and attaches none twice.
func (f *fastLife) checkKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 88))
	tr, before := f.talk(false), f.n.Programs()
	for range 10 {
		f.n.Kill()
		if now := f.n.Programs(); !maps.Equal(now, before) {
			t.Errorf("without a daemon programs are at %v, and were at %v", now, before)
		}
		pause(chance, 100*time.Millisecond)
		f.n.Start()
		pause(chance, 700*time.Millisecond)
	}
	f.n.WaitReady(20 * time.Second)
	f.n.WaitFast(fastSoon)
	f.carries(t)
	tr.end(t)
	if now := f.n.Programs(); !maps.Equal(now, before) {
		t.Errorf("programs are at %v, and were at %v", now, before)
	}
	for place, count := range before {
		if count != 1 {
			t.Errorf("%d programs are at %s", count, place)
		}
	}
}

// checkDead: what is sent while no daemon runs goes by the fast path to the packet, as the next one reads in its counts.
func (f *fastLife) checkDead(t *testing.T) {
	before := f.n.FastCounts()
	f.n.Kill()
	probes := []*nettest.Probe{f.c.Probe(f.near.IP4, 200), f.c.Probe(f.direct.IP4, 200), f.c.Probe(f.far.IP4, 200), f.c.Probe(f.far.IP6, 200)}
	time.Sleep(200 * time.Millisecond)
	sent := 0
	for _, got := range tallies(probes) {
		if got.Lost > 0 || got.Sent == 0 || len(got.Errors) > 0 {
			t.Errorf("packets lost: %v", got)
		}
		sent += int(got.Sent)
	}
	f.n.Start()
	f.n.WaitReady(20 * time.Second)
	f.n.WaitFast(fastSoon)
	grown := f.n.FastCounts().Since(before)
	for _, way := range []string{"out", "in"} {
		if got := grown[nettest.FastCount{Of: "web", Way: way}]; got != sent {
			t.Errorf("%d packets %s by the fast path, of %d", got, way, sent)
		}
	}
	if got := grown[nettest.FastCount{Of: "web", Way: "kernel"}]; got != 0 {
		t.Errorf("%d packets were left to the kernel", got)
	}
}

// checkUninstalled: nothing of it is left, and the host is as it was before its first daemon.
func (f *fastLife) checkUninstalled(t *testing.T, before nettest.State) {
	f.n.Fairlead("uninstall")
	if code := f.n.WaitExit(fastSoon); code != 0 {
		t.Errorf("the daemon ended with exit code %d", code)
	}
	if err := gone(t, f.n); err != nil {
		t.Error(err)
	}
	nothingLeft(t, before, f.n.State())
}
