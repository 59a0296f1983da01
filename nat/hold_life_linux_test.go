package nat_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
)

const holderDir = "FAIRLEAD_TEST_HOLDER" // tells the holder where to pin

// hold is what another process does: it claims 8000/tcp, says why that is weak, and waits for its end.
func hold(dir string) error {
	k, err := nat.Open()
	if err != nil {
		return err
	}
	holds := k.Holds(dir)
	if err := holds.Claim(context.Background(), port("0.0.0.0:8000", "tcp"), port("[::]:8000", "tcp")); err != nil {
		return err
	}
	fmt.Printf("holds, weak=%q\n", holds.Weak())
	time.Sleep(time.Minute)
	return nil
}

// killedHolder has another process claim 8000/tcp on the host, and kills it.
func killedHolder(t *testing.T, h host, dir string) (said string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), "nsenter", "--net="+h.Path, "--", os.Args[0])
	child.Env = append(os.Environ(), holderDir+"="+dir)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	said, err = bufio.NewReader(out).ReadString('\n')
	_ = child.Process.Kill()
	_ = child.Wait()
	must(t, err)
	return said
}

func TestPortsAreHeldWhileNoDaemonRuns(t *testing.T) {
	h, dir := newHost(t), pinFS(t)
	if said := killedHolder(t, h, dir); said != "holds, weak=\"\"\n" {
		t.Fatalf("the holder says %q", said)
	}
	for _, at := range []string{"0.0.0.0:8000", "127.0.0.1:8000", "[::]:8000", "[::1]:8000"} {
		theft{at, "tcp", 0, map[int]int{unix.SO_REUSEADDR: 1, unix.SO_REUSEPORT: 1}}.refused(t, h)
	}
	theft{"0.0.0.0:8000", "udp", 0, nil}.allowed(t, h)
	holds := h.holds(t, dir)
	have, err := holds.List(t.Context())
	must(t, err)
	want := map[nat.Port]nat.Fault{port("0.0.0.0:8000", "tcp"): "", port("[::]:8000", "tcp"): ""}
	if diff := cmp.Diff(want, have, addresses()); diff != "" {
		t.Errorf("taken over (-want +have):\n%s", diff)
	}
	strong(t, holds)
	must(t, holds.Claim(t.Context(), port("0.0.0.0:8000", "tcp"))) // nobody but us has it
	holds.Settle(port("0.0.0.0:8000", "tcp"))
	settle(t, reconcile.NewTable("port", holds), map[nat.Port]nat.Fault{})
	theft{"0.0.0.0:8000", "tcp", 0, nil}.allowed(t, h)
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pins are left: %v", err)
	}
}

// TestTheKernelDoesNotChooseAPortThatIsHeld leaves the kernel ten ports to choose from, five of them held, and has it
// choose until there is no other.
func TestTheKernelDoesNotChooseAPortThatIsHeld(t *testing.T) {
	h := newHost(t)
	h.Run("sh", "-c", "echo 40000 40009 >/proc/sys/net/ipv4/ip_local_port_range")
	holds := h.holds(t, pinFS(t))
	for n := 40000; n < 40010; n += 2 {
		for _, proto := range []string{"tcp", "udp"} {
			must(t, holds.Claim(t.Context(), port(fmt.Sprintf("0.0.0.0:%d", n), proto), port(fmt.Sprintf("[::]:%d", n), proto)))
			holds.Settle(port(fmt.Sprintf("0.0.0.0:%d", n), proto), port(fmt.Sprintf("[::]:%d", n), proto))
		}
	}
	strong(t, holds)
	var l net.Listener
	must(t, h.Do(func() (err error) { l, err = net.Listen("tcp4", "127.0.0.1:80"); return err }))
	t.Cleanup(func() { l.Close() })
	for name, open := range map[string]func() (c interface{ Close() error }, at net.Addr, err error){
		"listen": func() (interface{ Close() error }, net.Addr, error) {
			l, err := net.Listen("tcp", ":0")
			if err != nil {
				return nil, nil, err
			}
			return l, l.Addr(), nil
		},
		"connect": func() (interface{ Close() error }, net.Addr, error) {
			c, err := net.Dial("tcp4", "127.0.0.1:80")
			if err != nil {
				return nil, nil, err
			}
			must(t, c.(*net.TCPConn).SetLinger(0)) // nothing of it is left
			return c, c.LocalAddr(), nil
		},
		"udp": func() (interface{ Close() error }, net.Addr, error) {
			c, err := net.ListenPacket("udp", ":0")
			if err != nil {
				return nil, nil, err
			}
			return c, c.LocalAddr(), nil
		},
		"udp connect": func() (interface{ Close() error }, net.Addr, error) {
			c, err := net.Dial("udp6", "[::1]:80")
			if err != nil {
				return nil, nil, err
			}
			return c, c.LocalAddr(), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			chosen := 0
			for ; chosen < 20; chosen++ {
				var at net.Addr
				err := h.Do(func() error {
					c, a, err := open()
					if err == nil {
						at = a
						t.Cleanup(func() { c.Close() })
					}
					return err
				})
				if err != nil {
					break
				}
				if n := netip.MustParseAddrPort(at.String()).Port(); n < 40000 || n > 40009 || n%2 == 0 {
					t.Errorf("the kernel chose %d", n)
				}
			}
			if chosen != 5 {
				t.Errorf("the kernel chose %d ports of 5", chosen)
			}
		})
	}
}

// TestOneOfManyClaimsWins has sixteen callers claim ports that overlap, with a model of who may have what.
func TestOneOfManyClaimsWins(t *testing.T) {
	h := newHost(t)
	h.IP("addr add 192.0.2.1/32 dev lo")
	h.IP("addr add 192.0.2.2/32 dev lo")
	holds := h.holds(t, pinFS(t))
	must(t, holds.Put(t.Context(), port("[::]:9000", "udp"), "")) // so that the programs stay
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	owned := map[nat.Port]int{}
	won, lost := 0, 0
	var all sync.WaitGroup
	for caller := range 16 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(caller)))
			for range 25 {
				n := 8000 + random.IntN(12)
				ip := []string{"0.0.0.0", "192.0.2.1", "192.0.2.2", "[::]"}[random.IntN(4)]
				ports := []nat.Port{port(fmt.Sprintf("%s:%d", ip, n), "tcp"), port(fmt.Sprintf("%s:%d", ip, n+1), "tcp")}
				err := holds.Claim(t.Context(), ports...)
				mu.Lock()
				switch {
				case errors.Is(err, nat.ErrTaken):
					lost++
				case err != nil:
					t.Errorf("claim %v: %v", ports, err)
				default:
					won++
					for _, p := range ports {
						for o, by := range owned {
							if p.Overlaps(o) {
								t.Errorf("%d has %s, and %d has %s", caller, p, by, o)
							}
						}
						owned[p] = caller
					}
				}
				mu.Unlock()
				if err != nil {
					continue
				}
				mu.Lock()
				for _, p := range ports {
					delete(owned, p)
				}
				holds.Settle(ports...)
				for _, p := range ports {
					if err := holds.Delete(t.Context(), p); err != nil {
						t.Error(err)
					}
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Logf("%d claims won, %d lost", won, lost)
	if won == 0 || lost == 0 {
		t.Error("nobody was in anybody's way")
	}
	have, err := holds.List(t.Context())
	must(t, err)
	if len(have) != 1 {
		t.Errorf("left: %v", have)
	}
}

func reservedPorts(h host) string {
	return strings.TrimSpace(h.Run("cat", "/proc/sys/net/ipv4/ip_local_reserved_ports"))
}

func (h host) reserve(list string) {
	h.Run("sh", "-c", "echo '"+list+"' >/proc/sys/net/ipv4/ip_local_reserved_ports")
}

func TestPortsThatOthersReservedStayReserved(t *testing.T) {
	h := newHost(t)
	h.reserve("100,8000-8001")
	table := reconcile.NewTable("port", h.holds(t, pinFS(t)))
	want := map[nat.Port]nat.Fault{}
	for _, n := range []int{8001, 8002, 8003} {
		want[port(fmt.Sprintf("0.0.0.0:%d", n), "tcp")] = ""
		want[port(fmt.Sprintf("[::]:%d", n), "tcp")] = ""
		want[port(fmt.Sprintf("0.0.0.0:%d", n), "udp")] = ""
	}
	settle(t, table, want)
	if got := reservedPorts(h); got != "100,8000-8003" {
		t.Errorf("reserved: %s", got)
	}
	delete(want, port("0.0.0.0:8002", "tcp"))
	delete(want, port("[::]:8003", "tcp"))
	delete(want, port("0.0.0.0:8003", "tcp"))
	delete(want, port("0.0.0.0:8003", "udp"))
	settle(t, table, want)
	if got := reservedPorts(h); got != "100,8000-8002" {
		t.Errorf("reserved, after some have gone: %s", got)
	}
	h.reserve("200") // the administrator changes the list, and knows nothing of ours
	if r := settle(t, table, want); r.Repaired != len(want) {
		t.Errorf("%d of %d repaired", r.Repaired, len(want))
	}
	if got := reservedPorts(h); got != "200,8001-8002" {
		t.Errorf("reserved, after a repair: %s", got)
	}
	settle(t, table, map[nat.Port]nat.Fault{})
	if got := reservedPorts(h); got != "200" {
		t.Errorf("reserved, after all have gone: %s", got)
	}
}

// TestALongListIsReservedInParts holds more ports than the kernel takes with one write.
func TestALongListIsReservedInParts(t *testing.T) {
	h := newHost(t)
	h.reserve("7")
	table := reconcile.NewTable("port", h.holds(t, pinFS(t)))
	want := map[nat.Port]nat.Fault{}
	for n := 20001; n < 21400; n += 2 {
		want[port(fmt.Sprintf("0.0.0.0:%d", n), "udp")] = ""
	}
	settle(t, table, want)
	if got := len(strings.Split(reservedPorts(h), ",")); got != 701 {
		t.Errorf("%d are reserved", got)
	}
	delete(want, port("0.0.0.0:20001", "udp"))
	settle(t, table, want)
	if got := reservedPorts(h); len(strings.Split(got, ",")) != 700 || !strings.HasPrefix(got, "7,20003,") || !strings.HasSuffix(got, ",21399") {
		t.Errorf("reserved, after one has gone: %s", got)
	}
	settle(t, table, map[nat.Port]nat.Fault{})
	if got := reservedPorts(h); got != "7" {
		t.Errorf("reserved, after all have gone: %s", got)
	}
}

// TestNobodyHasAPortWhenItIsClaimed has thieves bind a port all the time while it is claimed and let go: none may have it,
// for however short a time, between a claim's success and the end of the hold.
func TestNobodyHasAPortWhenItIsClaimed(t *testing.T) {
	h := newHost(t)
	holds := h.holds(t, pinFS(t))
	must(t, holds.Put(t.Context(), port("[::]:9000", "udp"), "")) // so that the programs stay
	var held, over atomic.Bool
	var attempts, refused, thefts atomic.Int64
	var thieves sync.WaitGroup
	for i := range 4 {
		proto := []string{"tcp", "udp"}[i%2]
		thieves.Go(func() {
			_ = h.Do(func() error {
				for !over.Load() {
					attempts.Add(1)
					if !bindBriefly(proto, 8000, &held, &thefts) {
						refused.Add(1)
					}
				}
				return nil
			})
		})
	}
	ports := []nat.Port{port("0.0.0.0:8000", "tcp"), port("0.0.0.0:8000", "udp")}
	won, lost := 0, 0
	for end := time.Now().Add(time.Second / 2); time.Now().Before(end); {
		err := holds.Claim(t.Context(), ports...)
		if errors.Is(err, nat.ErrTaken) {
			lost++
			continue
		}
		if err != nil {
			t.Error(err)
			break
		}
		held.Store(true)
		won++
		holds.Settle(ports...)
		time.Sleep(time.Millisecond)
		held.Store(false)
		for _, p := range ports {
			if err := holds.Delete(t.Context(), p); err != nil {
				t.Error(err)
			}
		}
	}
	over.Store(true)
	thieves.Wait()
	t.Logf("%d claims won, %d lost, %d of %d attempts refused", won, lost, refused.Load(), attempts.Load())
	if n := thefts.Load(); n > 0 {
		t.Errorf("%d thefts", n)
	}
	if won == 0 || refused.Load() == 0 || refused.Load() == attempts.Load() {
		t.Error("nobody was in anybody's way")
	}
}

// bindBriefly binds a port of the thread's namespace if it can, and counts it as a theft if the port is held meanwhile.
func bindBriefly(proto string, number int, held *atomic.Bool, thefts *atomic.Int64) bool {
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[proto]
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if unix.Bind(fd, &unix.SockaddrInet4{Port: number}) != nil {
		return false
	}
	for range 50 {
		if held.Load() {
			thefts.Add(1)
			break
		}
	}
	return true
}

// TestWhatWasClaimedSinceIsNotLetGo: who has listed the ports may know less than the store does by the time he deletes.
func TestWhatWasClaimedSinceIsNotLetGo(t *testing.T) {
	h, dir := newHost(t), pinFS(t)
	holds := h.holds(t, dir)
	p := port("0.0.0.0:8000", "tcp")
	must(t, holds.Put(t.Context(), p, ""))
	have, err := holds.List(t.Context())
	must(t, err)
	must(t, holds.Claim(t.Context(), p)) // by the next who has it
	holds.Settle(p)
	for p := range have {
		must(t, holds.Delete(t.Context(), p))
	}
	theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, h)
	must(t, holds.Claim(t.Context(), port("0.0.0.0:8001", "tcp")))
	holds.Release(port("0.0.0.0:8001", "tcp"))
	theft{"0.0.0.0:8001", "tcp", 0, nil}.allowed(t, h)
	have, err = holds.List(t.Context())
	must(t, err)
	if len(have) != 1 {
		t.Errorf("have %v", have)
	}
	must(t, holds.Delete(t.Context(), p))
	theft{"0.0.0.0:8000", "tcp", 0, nil}.allowed(t, h)
}
