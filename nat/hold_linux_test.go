package nat_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// pinFS is a directory for pins in a file system of the test's own.
func pinFS(t *testing.T) string {
	t.Helper()
	return filepath.Join(nettest.MountPins(t, nettest.NewDir(t, "")), "fairlead")
}

// holds opens the table of a host's ports; strong is what it must be where this kernel allows it, which it does.
func (h host) holds(t *testing.T, dir string) *nat.Holds {
	t.Helper()
	holds := h.k.Holds(dir)
	t.Cleanup(func() {
		if err := holds.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return holds
}

func strong(t *testing.T, holds *nat.Holds) {
	t.Helper()
	if why := holds.Weak(); why != "" {
		t.Fatalf("the ports are held by the daemon: %s", why)
	}
}

// port reads 8080/tcp at an address.
func port(at, proto string) nat.Port {
	a := netip.MustParseAddrPort(at)
	return nat.Port{Proto: proto, IP: a.Addr(), Number: a.Port()}
}

// theft is an attempt to bind a port.
type theft struct {
	at    string // [::]:80
	proto string
	only  int         // IPV6_V6ONLY
	more  map[int]int // other options of the socket
}

func (a theft) String() string {
	return fmt.Sprintf("%s/%s v6only=%d %v", a.at, a.proto, a.only, a.more)
}

// try binds it on a host, listens where that is said, and gives the socket.
func (a theft) try(h host) (fd int, err error) {
	at := netip.MustParseAddrPort(a.at)
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
	if at.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	number := 0
	switch a.proto {
	case "udp":
		kind = unix.SOCK_DGRAM
	case "sctp":
		number = unix.IPPROTO_SCTP
	case "mptcp":
		number = unix.IPPROTO_MPTCP
	case "udplite":
		kind, number = unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE
	}
	err = h.Do(func() (err error) {
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, number); err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		for option, value := range a.more {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, value); err != nil {
				return fmt.Errorf("option %d: %w", option, err)
			}
		}
		if family == unix.AF_INET6 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, a.only); err != nil {
				return fmt.Errorf("v6only: %w", err)
			}
		}
		return unix.Bind(fd, to)
	})
	return fd, err
}

// kept is what a program has that the kernel tells of: before Linux 6.8 it is silent about TCP sockets that do not listen.
func (a theft) kept(t *testing.T, h host) (fd int) {
	t.Helper()
	fd, err := a.try(h)
	must(t, err)
	if a.proto == "tcp" {
		must(t, unix.Listen(fd, 1))
	}
	return fd
}

// refused wants the attempt to fail because the port is in use.
func (a theft) refused(t *testing.T, h host) {
	t.Helper()
	fd, err := a.try(h)
	unix.Close(fd)
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("bind %s: %v, want %v", a, err, unix.EADDRINUSE)
	}
}

func (a theft) allowed(t *testing.T, h host) {
	t.Helper()
	fd, err := a.try(h)
	unix.Close(fd)
	if err != nil {
		t.Errorf("bind %s: %v", a, err)
	}
}

func TestNobodyBindsAPortThatIsHeld(t *testing.T) {
	h, dir := newHost(t), pinFS(t)
	h.IP("addr add 192.0.2.1/32 dev lo")
	h.IP("addr add 192.0.2.2/32 dev lo")
	h.IP("addr add 2001:db8::1/128 dev lo nodad")
	holds := h.holds(t, dir)
	must(t, holds.Claim(t.Context(),
		port("0.0.0.0:8000", "tcp"), port("[::]:8000", "tcp"), // everything
		port("0.0.0.0:8001", "tcp"), port("[::]:8002", "tcp"), // one family
		port("192.0.2.1:8003", "tcp"), port("[2001:db8::1]:8004", "tcp"), // one address
		port("0.0.0.0:8000", "udp"), port("[::]:8000", "udp"), port("192.0.2.1:8003", "udp"),
	))
	strong(t, holds)
	settled := false
	check := func(t *testing.T) {
		both := map[int]int{unix.SO_REUSEADDR: 1, unix.SO_REUSEPORT: 1}
		for _, proto := range []string{"tcp", "udp", "mptcp"} {
			for _, at := range []string{"0.0.0.0:8000", "192.0.2.1:8000", "127.0.0.1:8000", "[::]:8000", "[2001:db8::1]:8000", "[::ffff:192.0.2.1]:8000", "[::ffff:0.0.0.0]:8000", "192.0.2.1:8003", "0.0.0.0:8003", "[::]:8003", "[::ffff:192.0.2.1]:8003"} {
				for _, more := range []map[int]int{nil, both} {
					theft{at, proto, 0, more}.refused(t, h)
				}
			}
			theft{"[::]:8000", proto, 1, both}.refused(t, h)
			theft{"192.0.2.2:8003", proto, 0, nil}.allowed(t, h)
			theft{"[::]:8003", proto, 1, nil}.allowed(t, h)
			theft{"[2001:db8::1]:8003", proto, 0, nil}.allowed(t, h)
			theft{"0.0.0.0:8010", proto, 0, nil}.allowed(t, h)
		}
		for _, proto := range []string{"tcp", "mptcp"} {
			theft{"0.0.0.0:8001", proto, 0, nil}.refused(t, h)
			theft{"[::]:8001", proto, 0, nil}.refused(t, h)
			theft{"[::]:8001", proto, 1, nil}.allowed(t, h)
			theft{"[::1]:8001", proto, 0, nil}.allowed(t, h)
			theft{"[::]:8002", proto, 0, nil}.refused(t, h)
			theft{"[::]:8002", proto, 1, nil}.refused(t, h)
			theft{"[::1]:8002", proto, 0, nil}.refused(t, h)
			theft{"0.0.0.0:8002", proto, 0, nil}.allowed(t, h)
			theft{"[::ffff:0.0.0.0]:8002", proto, 0, nil}.allowed(t, h)
			theft{"[2001:db8::1]:8004", proto, 0, nil}.refused(t, h)
			theft{"[::]:8004", proto, 1, nil}.refused(t, h)
			theft{"[::1]:8004", proto, 0, nil}.allowed(t, h)
			theft{"0.0.0.0:8004", proto, 0, nil}.allowed(t, h)
		}
		theft{"0.0.0.0:8001", "udp", 0, nil}.allowed(t, h) // another protocol
		theft{"0.0.0.0:8000", "udplite", 0, nil}.allowed(t, h)
		if !settled {
			return
		}
		other := newHost(t)
		theft{"0.0.0.0:8000", "tcp", 0, nil}.allowed(t, other)
		theft{"[::]:8000", "udp", 0, nil}.allowed(t, other)
	}
	t.Run("claimed", check)
	have, err := holds.List(t.Context())
	must(t, err)
	if len(have) != 0 {
		t.Errorf("claimed ports are listed: %v", have)
	}
	must(t, holds.Delete(t.Context(), port("0.0.0.0:8000", "tcp"))) // a pass that does not know of them
	holds.Settle(
		port("0.0.0.0:8000", "tcp"), port("[::]:8000", "tcp"), port("0.0.0.0:8001", "tcp"), port("[::]:8002", "tcp"),
		port("192.0.2.1:8003", "tcp"), port("[2001:db8::1]:8004", "tcp"),
		port("0.0.0.0:8000", "udp"), port("[::]:8000", "udp"), port("192.0.2.1:8003", "udp"),
	)
	settled = true
	t.Run("settled", check)
	table := reconcile.NewTable("port", holds)
	r := reconcile.Climb(t.Context(), table.Rung(map[nat.Port]nat.Fault{port("0.0.0.0:8001", "tcp"): ""}, nil))
	if !r.Clean() || r.Total() != 8 {
		t.Errorf("pass: %+v", r)
	}
	theft{"0.0.0.0:8001", "tcp", 0, nil}.refused(t, h)
	for _, proto := range []string{"tcp", "udp"} {
		for _, at := range []string{"0.0.0.0:8000", "[::]:8000", "[::]:8002", "192.0.2.1:8003", "[::]:8004"} {
			theft{at, proto, 0, nil}.allowed(t, h)
		}
	}
	settle(t, table, map[nat.Port]nat.Fault{})
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pins are left: %v", err)
	}
	if got := strings.TrimSpace(h.Run("cat", "/proc/sys/net/ipv4/ip_local_reserved_ports")); got != "" {
		t.Errorf("still reserved: %s", got)
	}
}

func TestClaimNamesWhoHasAPort(t *testing.T) {
	h, dir := newHost(t), pinFS(t)
	holds := h.holds(t, dir)
	me := fmt.Sprintf("(process %d)", os.Getpid())
	for _, a := range []theft{
		{"0.0.0.0:8080", "tcp", 0, nil}, {"127.0.0.1:8081", "udp", 0, nil}, {"[::]:8082", "tcp", 0, nil},
		{"[::ffff:127.0.0.1]:8083", "udp", 0, nil}, {"0.0.0.0:8084", "tcp", 0, map[int]int{unix.SO_REUSEADDR: 1, unix.SO_REUSEPORT: 1}},
	} {
		fd := a.kept(t, h)
		want := nat.Port{Proto: a.proto, IP: netip.IPv4Unspecified(), Number: netip.MustParseAddrPort(a.at).Port()}
		beside := port("0.0.0.0:8090", "tcp")
		err := holds.Claim(t.Context(), beside, want)
		if !errors.Is(err, nat.ErrTaken) || !strings.Contains(err.Error(), fmt.Sprintf("%d/%s is in use by ", want.Number, want.Proto)) || !strings.Contains(err.Error(), me) {
			t.Errorf("claim of what %s has: %v", a, err)
		}
		theft{"0.0.0.0:8090", "tcp", 0, nil}.allowed(t, h) // all or none
		unix.Close(fd)
		must(t, holds.Claim(t.Context(), want))
		holds.Settle(want)
		must(t, holds.Delete(t.Context(), want))
	}
	err := holds.Claim(t.Context(), port("192.0.2.9:80", "tcp"))
	if err == nil || errors.Is(err, nat.ErrTaken) || err.Error() != "192.0.2.9 is no address of this host" {
		t.Errorf("claim of a foreign address: %v", err)
	}
	must(t, holds.Put(t.Context(), port("192.0.2.9:80", "tcp"), ""))
	h.IP("addr add 192.0.2.9/32 dev lo")
	theft{"192.0.2.9:80", "tcp", 0, nil}.refused(t, h)
}

// TestTheRestOfAConnectionIsNoUser claims the port of a server that has ended: what is left of its connections is there
// for a minute.
func TestTheRestOfAConnectionIsNoUser(t *testing.T) {
	h := newHost(t)
	holds := h.holds(t, pinFS(t))
	var l net.Listener
	must(t, h.Do(func() (err error) { l, err = net.Listen("tcp4", "127.0.0.1:8080"); return err }))
	must(t, h.Do(func() error {
		c, err := net.Dial("tcp4", "127.0.0.1:8080")
		if err != nil {
			return err
		}
		s, err := l.Accept()
		if err != nil {
			return err
		}
		return errors.Join(s.Close(), c.Close()) // the server's end goes first, and waits
	}))
	must(t, l.Close())
	if out := h.Run("ss", "-tan"); !strings.Contains(out, "TIME-WAIT") {
		t.Fatalf("nothing is left, so this shows nothing: %s", out)
	}
	must(t, holds.Claim(t.Context(), port("0.0.0.0:8080", "tcp")))
}

// TestNobodyBindsAPortOfSCTPThatIsHeld needs a kernel with SCTP; the program itself is shown to TCP on others.
func TestNobodyBindsAPortOfSCTPThatIsHeld(t *testing.T) {
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP); err != nil {
		t.Skipf("this kernel has no SCTP sockets: %v", err)
	} else {
		unix.Close(fd)
	}
	h, dir := newHost(t), pinFS(t)
	h.IP("addr add 192.0.2.1/32 dev lo")
	first := h.k.Holds(dir)
	ports := []nat.Port{port("0.0.0.0:8000", "sctp"), port("[::]:8000", "sctp"), port("0.0.0.0:8001", "sctp"), port("192.0.2.1:8002", "sctp"), port("0.0.0.0:8003", "tcp")}
	must(t, first.Claim(t.Context(), ports...))
	strong(t, first)
	must(t, first.Close()) // nobody is there to hold them
	for _, at := range []string{"0.0.0.0:8000", "127.0.0.1:8000", "[::]:8000", "[::1]:8000", "[::ffff:127.0.0.1]:8000", "0.0.0.0:8001", "[::]:8001", "192.0.2.1:8002", "0.0.0.0:8002"} {
		theft{at, "sctp", 0, nil}.refused(t, h)
		theft{at, "sctp", 0, map[int]int{unix.SO_REUSEADDR: 1}}.refused(t, h)
	}
	for _, at := range []string{"127.0.0.1:8002", "0.0.0.0:8003", "0.0.0.0:8004"} {
		theft{at, "sctp", 0, nil}.allowed(t, h)
	}
	theft{"[::]:8001", "sctp", 1, nil}.allowed(t, h)
	theft{"0.0.0.0:8000", "sctp", 0, nil}.allowed(t, newHost(t))
	for at, want := range map[string]error{"127.0.0.1:8000": unix.EADDRINUSE, "127.0.0.1:8004": nil} {
		if err := bindx(h, netip.MustParseAddrPort(at)); !errors.Is(err, want) {
			t.Errorf("sctp_bindx %s: %v, want %v", at, err, want)
		}
	}
	fd, err := theft{"0.0.0.0:8005", "sctp", 0, nil}.try(h)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Listen(fd, 1))
	holds := h.holds(t, dir)
	if err := holds.Claim(t.Context(), port("0.0.0.0:8005", "sctp")); !errors.Is(err, nat.ErrTaken) || !strings.Contains(err.Error(), "8005/sctp is in use by ") {
		t.Errorf("claim of a taken port: %v", err)
	}
	table := reconcile.NewTable("port", holds)
	want := map[nat.Port]nat.Fault{}
	for _, p := range ports {
		want[p] = ""
	}
	if r := settle(t, table, want); r.Total() != 0 {
		t.Errorf("taken over with %d writes", r.Total())
	}
	settle(t, table, map[nat.Port]nat.Fault{})
	theft{"0.0.0.0:8000", "sctp", 0, nil}.allowed(t, h)
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pins are left: %v", err)
	}
}

// bindx binds one address by sctp_bindx(3).
func bindx(h host, at netip.AddrPort) error {
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		sockaddr := make([]byte, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(sockaddr, unix.AF_INET)
		binary.BigEndian.PutUint16(sockaddr[2:], at.Port())
		copy(sockaddr[4:], at.Addr().AsSlice())
		const bindxAdd = 100 // SCTP_SOCKOPT_BINDX_ADD
		return unix.SetsockoptString(fd, unix.IPPROTO_SCTP, bindxAdd, string(sockaddr))
	})
}
