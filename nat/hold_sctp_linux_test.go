package nat

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestTheProgramForSCTPRefuses has the program for SCTP look at TCP, alone, since not every kernel has SCTP sockets.
func TestTheProgramForSCTPRefuses(t *testing.T) {
	needTracing(t)
	h := nettest.NewHost(t, "a")
	var k *Kernel
	check(t, h.Do(func() (err error) { k, err = Open(); return err }))
	t.Cleanup(func() { check(t, k.Close()) })
	h.IP("addr add 2001:db8::1/128 dev lo nodad")
	p, err := openPinned(t.Context(), k, filepath.Join(nettest.MountPins(t, nettest.NewDir(t, "")), "fairlead"))
	check(t, err)
	t.Cleanup(func() { check(t, p.close()) })
	for name, l := range p.links { // so that nobody else refuses
		check(t, errors.Join(l.Unpin(), l.Close()))
		delete(p.links, name)
	}
	in, err := findLayout()
	check(t, err)
	code := streamCode{p.ports, p.excused, unix.IPPROTO_TCP, in}
	for _, hook := range []string{hookBind, hookBindx} {
		program, err := ebpf.NewProgram(code.spec(hook))
		check(t, err)
		t.Cleanup(func() { program.Close() })
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		check(t, err)
		t.Cleanup(func() { l.Close() })
	}
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	check(t, k.inside(func() error {
		_, err := p.mark([]Port{{"tcp", any4, 8000}, {"tcp", any6, 8000}, {"tcp", any4, 8001}, {"tcp", netip.MustParseAddr("127.0.0.1"), 8002}})
		return err
	}))
	listen := func(h *nettest.Host, network, at string) error {
		return h.Do(func() error {
			l, err := net.Listen(network, at)
			if err == nil {
				l.Close()
			}
			return err
		})
	}
	for _, c := range []struct {
		network, at string
		want        error
	}{
		{"tcp4", "0.0.0.0:8000", unix.EADDRINUSE}, {"tcp4", "127.0.0.1:8000", unix.EADDRINUSE},
		{"tcp6", "[::]:8000", unix.EADDRINUSE}, {"tcp", "[::]:8000", unix.EADDRINUSE}, {"tcp6", "[2001:db8::1]:8000", unix.EADDRINUSE},
		{"tcp4", "0.0.0.0:8001", unix.EADDRINUSE}, {"tcp", "[::]:8001", unix.EADDRINUSE}, {"tcp6", "[::]:8001", nil}, {"tcp6", "[::1]:8001", nil},
		{"tcp4", "127.0.0.1:8002", unix.EADDRINUSE}, {"tcp4", "0.0.0.0:8002", unix.EADDRINUSE}, {"tcp4", "127.0.0.2:8002", nil},
		{"tcp4", "0.0.0.0:8003", nil},
	} {
		if err := listen(h, c.network, c.at); !errors.Is(err, c.want) {
			t.Errorf("listen %s %s: %v, want %v", c.network, c.at, err, c.want)
		}
	}
	check(t, k.inside(func() error { return p.look(Port{"tcp", any4, 8000}) })) // it is excused
	if err := listen(nettest.NewHost(t, "b"), "tcp", "[::]:8000"); err != nil {
		t.Errorf("on another host: %v", err)
	}
}

// needTracing skips where not even a program that does nothing may say something at a hook.
func needTracing(t *testing.T) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachModifyReturn, AttachTo: hookBind, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Skipf("this kernel takes no program of this kind at all: %v", err)
	}
	check(t, program.Close())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAProgramThatCanNotBeSeenIsNamedByItsUser: the service may not look at the files of other users' programs.
func TestAProgramThatCanNotBeSeenIsNamedByItsUser(t *testing.T) {
	host := nettest.NewHost(t, "a")
	check(t, host.Do(func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:6005")
		if err != nil {
			return err
		}
		defer l.Close()
		users, err := usersOf(Port{"tcp", netip.IPv4Unspecified(), 6005})
		if err != nil {
			return err
		}
		if got, want := stranger(users), " by a program of user root: ss -anp sport = :6005 tells which"; got != want {
			t.Errorf("said %q, want %q", got, want)
		}
		return nil
	}))
}
