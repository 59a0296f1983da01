package nat_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// spies puts a script before iptables-nft-restore. In it DIR is a directory of its own, and REAL the real one.
func spies(t *testing.T, script string) (dir string) {
	t.Helper()
	dir = trap(t)
	real, err := exec.LookPath("iptables-nft-restore")
	must(t, err)
	text := "#!/bin/sh\n[ \"$1\" = --version ] && exec REAL \"$@\"\n" + script
	text = strings.NewReplacer("DIR", dir, "REAL", real).Replace(text)
	must(t, os.WriteFile(filepath.Join(dir, "iptables-nft-restore"), []byte(text), 0o755))
	return dir
}

// sender sends datagrams to a port from one socket, so that they are one connection to the kernel.
type sender struct{ c net.Conn }

func newSender(t *testing.T, h *nettest.Host, at netip.AddrPort) sender {
	t.Helper()
	var s sender
	must(t, h.Do(func() (err error) { s.c, err = net.Dial("udp", at.String()); return err }))
	t.Cleanup(func() { _ = s.c.Close() })
	return s
}

// listener tells the words that come.
func listener(t *testing.T, h *nettest.Host, at string) <-chan string {
	t.Helper()
	words := make(chan string, 1)
	must(t, h.Do(func() error {
		c, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 64)
			for {
				n, _, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				select {
				case words <- string(buf[:n]):
				default:
				}
			}
		}()
		t.Cleanup(func() { _ = c.Close(); <-done })
		return nil
	}))
	return words
}

// arrives sends until it is heard.
func arrives(t *testing.T, s sender, at <-chan string, word string) {
	t.Helper()
	nettest.Eventually(t, 5*time.Second, func() error {
		if _, err := s.c.Write([]byte(word)); err != nil && !strings.Contains(err.Error(), "refused") {
			return err
		}
		select {
		case got := <-at:
			if got == word {
				return nil
			}
		case <-time.After(50 * time.Millisecond):
		}
		return errors.New(word + " does not arrive")
	})
}

// TestConnectionsFollowTheirMapping: one UDP socket goes on sending while the mapping comes, moves, narrows and goes.
func TestConnectionsFollowTheirMapping(t *testing.T) {
	s := newStreet(t)
	host, old, fresh := listener(t, s.Host, "192.0.2.1:5300"), listener(t, s.box, "10.88.0.2:53"), listener(t, s.box, "10.88.0.3:53")
	s.iptables("-t nat -A POSTROUTING -s 203.0.113.7 -j MASQUERADE") // so that connections are tracked before there is a mapping
	from := newSender(t, s.client, to("192.0.2.1:5300"))
	arrives(t, from, host, "before")
	p := publish(t, s.host, map[nat.Port]nat.Rule{mapped("udp", "0.0.0.0", 5300): {To: to("10.88.0.2:53")}})
	arrives(t, from, old, "mapped")
	settle(t, p.table, map[nat.Port]nat.Rule{mapped("udp", "0.0.0.0", 5300): {To: to("10.88.0.3:53")}})
	arrives(t, from, fresh, "moved")
	tracked := s.tracked()
	settle(t, p.table, map[nat.Port]nat.Rule{mapped("udp", "192.0.2.1", 5300): {To: to("10.88.0.3:53")}})
	if !maps.Equal(tracked, s.tracked()) {
		t.Errorf("tracked %v, before %v", s.tracked(), tracked)
	}
	arrives(t, from, fresh, "narrowed")
	settle(t, p.table, noMapping())
	arrives(t, from, host, "gone")
}

// TestForgettingIsMadeUpFor: a change of the rules that was cut short when it was done leaves connections to be forgotten,
// and what they belong to has a fault until they are.
func TestForgettingIsMadeUpFor(t *testing.T) {
	s := newStreet(t)
	dir := spies(t, "REAL \"$@\" || exit\n[ -e DIR/late ] && exec sleep 60\nexit 0\n")
	old, fresh := listener(t, s.box, "10.88.0.2:53"), listener(t, s.box, "10.88.0.3:53")
	port := mapped("udp", "0.0.0.0", 5300)
	p := publish(t, s.host, map[nat.Port]nat.Rule{port: {To: to("10.88.0.2:53")}})
	from := newSender(t, s.client, to("192.0.2.1:5300"))
	arrives(t, from, old, "mapped")
	must(t, os.WriteFile(filepath.Join(dir, "late"), nil, 0o600))
	moved := nat.Rule{To: to("10.88.0.3:53")}
	ctx, cancel := context.WithTimeout(t.Context(), nettest.Patience(time.Second))
	defer cancel()
	if err := p.ports.Apply(ctx, map[nat.Port]nat.Rule{port: moved}, nil)[port]; !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "late")))
	have, err := p.ports.List(t.Context())
	must(t, err)
	if r := have[port]; r.To != moved.To || r.Fault == "" {
		t.Errorf("listed %v", have)
	}
	settle(t, p.table, map[nat.Port]nat.Rule{port: moved})
	arrives(t, from, fresh, "moved")
}

// TestProtocolThatTheKernelDoesNotKnow keeps no other from being mapped.
func TestProtocolThatTheKernelDoesNotKnow(t *testing.T) {
	use(t, "nft")
	spies(t, `all=$(cat)
case "$all" in *sctp*) echo "line 3: RULE_APPEND failed (No such file or directory): rule in chain X" >&2; exit 4;; esac
printf '%s\n' "$all" | REAL "$@"
`)
	h := newHost(t)
	ports := h.k.Ports(time.Hour)
	want := few()
	failed := ports.Apply(t.Context(), want, nil)
	bad := mapped("sctp", "192.0.2.1", 3868)
	if err := failed[bad]; len(failed) != 1 || err == nil || !strings.Contains(err.Error(), "xt_sctp") {
		t.Errorf("failed: %v", failed)
	}
	delete(want, bad)
	if r := settle(t, reconcile.NewTable("ports", h.k.Ports(0)), want); r.Total() != 0 {
		t.Errorf("wrote %v", r.Writes)
	}
}

// TestNoFileOfMappingsIsLeftOpen: all sockets go with the kernel.
func TestNoFileOfMappingsIsLeftOpen(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		open := func() int {
			entries, err := os.ReadDir("/proc/self/fd")
			must(t, err)
			return len(entries)
		}
		var before int
		for i := range 3 {
			if i == 1 {
				before = open()
			}
			var k *nat.Kernel
			must(t, h.Do(func() (err error) { k, err = nat.Open(); return err }))
			settle(t, reconcile.NewTable("ports", k.Ports(0)), few())
			settle(t, reconcile.NewTable("forward", k.Forward(0)), passing())
			if i == 0 {
				settle(t, reconcile.NewTable("ports", k.Ports(0)), noMapping())
			}
			must(t, k.Close())
		}
		if after := open(); after != before {
			t.Errorf("%d files open, were %d", after, before)
		}
	})
}
