package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestMain is also what a process of the load begins with.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == loadCommand {
		fmt.Fprintln(os.Stderr, runLoad(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestEachLoadIsCountedAndCharged(t *testing.T) {
	g, err := newGauge(t, "cycles")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := meter{gauge: g, program: program, length: 100 * time.Millisecond}
	for _, routed := range []bool{false, true} {
		s := newSite(t, nettest.NewDir(t, ""), routed)
		for _, k := range kinds() {
			t.Run(fmt.Sprintf("%s, routed %v", k, routed), func(t *testing.T) {
				received := func() (bytes int) {
					_, line, _ := strings.Cut(s.hosts[1].Run("cat", "/proc/net/dev"), "eth0:")
					if _, err := fmt.Sscan(line, &bytes); err != nil {
						t.Fatalf("read what came: %v", err)
					}
					return bytes
				}
				before := received()
				got, err := m.measure(s.path(), k)
				if err != nil {
					t.Fatal(err)
				}
				if got.rate <= 0 || got.cost <= 0 {
					t.Errorf("%s gives %+v", k, got)
				}
				// What is said to have arrived has come by the cable.
				least := map[kind]float64{stream: 1, packets: smallest + 28}[k]
				if k != stream && k != packets {
					least = 1 + 28
				}
				if came := float64(received() - before); came < got.rate*least*m.length.Seconds() {
					t.Errorf("%.0f a second, but %.0f bytes came", got.rate, came)
				}
			})
		}
	}
}

func TestALoadThatDoesNotComeThroughIsAnError(t *testing.T) {
	g, err := newGauge(t, "cycles")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, nettest.NewDir(t, ""), false)
	p := s.path()
	p.ask = netip.AddrPortFrom(p.ask.Addr(), port+1) // where nobody listens
	m := meter{gauge: g, program: program, length: 100 * time.Millisecond}
	if got, err := m.measure(p, connect); err == nil || !strings.Contains(err.Error(), unix.ECONNREFUSED.Error()) {
		t.Errorf("a refused connection gives %+v, %v", got, err)
	}
}
